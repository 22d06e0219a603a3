"""Settling: what each merchant gets for a window of a business day, found with a few statements over whole ranges.

A run goes through the journals in the order of their ids, some at a time, and writes down how far it came in the same
transaction: it may be killed anywhere and started by many at once. All of them take turns, and each looks after its
turn has come. What belongs to a merchant is told by the ledger: a journal that moved what the merchant is owed becomes
an item of one batch. So cash is left out, and money that is kept apart until an operator decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soundbox_server import failpoints
from soundbox_server.db import Row, Statements
from soundbox_server.errors import MerchantPayoutNotConfigured, NotFound, SettlementNotEligible
from soundbox_server.ids import lowest_id, new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.settlements.shares import Share, Sums, shared_out
from soundbox_server.settlements.state import RunState, SettlementState, require_run, require_settlement
from soundbox_server.settlements.windows import Occurrence

# Journals a transaction. SQLite has one writer, whom callbacks wait for; PostgreSQL's rows are in nobody's way.
TOGETHER = {"sqlite": 10_000, "postgresql": 250_000}
BATCHES = 500  # calculated in one transaction
# A journal may be committed somewhat after it was booked, and clocks differ: so far back the next run looks again.
SLACK_MS = 15 * 60_000
_MOVES = "('capture', 'refund', 'reversal')"  # journals that move what a merchant is owed
_TURN = 7_265_105  # PostgreSQL's advisory lock


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A window of a fee profile that is to be settled; `by` is None for the clock."""

    fee_profile_id: str
    window: Occurrence
    by: str | None = None

    @property
    def run(self) -> str:
        return f"{self.fee_profile_id}/{self.window.day}/{self.window.name}"

    @property
    def key(self) -> tuple[str, str, str]:
        return self.fee_profile_id, self.window.day, self.window.name


@dataclass(frozen=True)
class _Piece:
    """Journals after one id and up to another, as far as they are these merchants'."""

    after: str
    to: str
    members: str  # SQL about pay.merchant_id and $6
    member: str

    @property
    def args(self) -> tuple[str, str]:
        return self.after, self.to


_OF_RUN = "EXISTS (SELECT 1 FROM settlement_progress g WHERE g.merchant_id = pay.merchant_id AND g.run = $6)"
_OF_MERCHANT = "pay.merchant_id = $6"
# An account to be paid at is needed only where we pay.
ELIGIBLE = (
    "m.status = 'approved' AND (m.payout_mode = 'manual' OR m.settlement_account_reference IS NOT NULL) "
    "AND m.fee_profile_id = $1"
)


async def take_turn(tx: Statements) -> None:
    """Settling waits for settling, until the commit. SQLite has one writer anyway."""
    if tx.dialect == "postgresql":
        await tx.execute(f"SELECT pg_advisory_xact_lock({_TURN})")


async def begin(tx: Statements, wanted: Wanted, *, now_ms: int) -> None:
    """Write down that this window is being settled, and for whom; if it is already, nothing changes."""
    await take_turn(tx)
    if await _run(tx, wanted) is not None:
        return
    start = await _start(tx, ELIGIBLE, wanted.fee_profile_id, now_ms=now_ms)
    await tx.execute(
        "INSERT INTO settlement_run (fee_profile_id, day, window_name, closes_at_ms, state, cursor, started_by, "
        "started_at_ms) VALUES ($1, $2, $3, $4, 'collecting', $5, $6, $7)",
        *wanted.key, wanted.window.closes_at_ms, start, wanted.by, now_ms,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO settlement_progress (merchant_id, settled_to, run) "
        f"SELECT m.id, CAST($2 AS VARCHAR), CAST($3 AS VARCHAR) FROM merchant m WHERE {ELIGIBLE} "
        "ON CONFLICT (merchant_id) DO UPDATE SET run = excluded.run",
        wanted.fee_profile_id, start, wanted.run,
    )  # fmt: skip


async def _start(tx: Statements, whom: str, of: str, *, now_ms: int) -> str:
    """After which journal something of these merchants may be unsettled."""
    rows = await tx.fetch(
        "SELECT min(g.settled_to) AS settled_to, min(CASE WHEN g.merchant_id IS NULL THEN m.created_at_ms END) AS new "
        f"FROM merchant m LEFT JOIN settlement_progress g ON g.merchant_id = m.id WHERE {whom}",
        of,
    )
    settled_to, new_ms = rows[0]["settled_to"], rows[0]["new"]
    if settled_to is None and new_ms is None:  # nobody is to be settled
        return lowest_id("jrn", now_ms)
    bounds = (settled_to, None if new_ms is None else lowest_id("jrn", new_ms - SLACK_MS))
    return min(bound for bound in bounds if bound is not None)


async def _run(tx: Statements, wanted: Wanted) -> Row | None:
    rows = await tx.fetch(
        "SELECT state, cursor, settled_to FROM settlement_run "
        "WHERE fee_profile_id = $1 AND day = $2 AND window_name = $3",
        *wanted.key,
    )
    return rows[0] if rows else None


async def advance(tx: Statements, wanted: Wanted, *, now_ms: int) -> bool:
    """Do the next piece of a run that was begun, or all of a small one; whether all of it is done."""
    await take_turn(tx)
    run = await _run(tx, wanted)
    if run is None:
        raise NotFound("This window is not being settled.", window=wanted.run)
    if run["state"] == RunState.DONE:
        return True
    if run["state"] == RunState.COLLECTING and not await _collect_some(tx, wanted, run, now_ms=now_ms):
        return False
    return await _calculate_some(tx, wanted, now_ms=now_ms)


async def _collect_some(tx: Statements, wanted: Wanted, run: Row, *, now_ms: int) -> bool:
    """Whether there is nothing more to collect."""
    together = TOGETHER[tx.dialect]
    rows = await tx.fetch(
        "SELECT count(*) AS many, max(id) AS last, "
        f"min(CASE WHEN booked_at_ms >= $3 AND kind IN {_MOVES} THEN id END) AS recent "
        "FROM (SELECT id, kind, booked_at_ms FROM journal WHERE id > $1 ORDER BY id LIMIT $2) piece",
        run["cursor"], together, wanted.window.closes_at_ms - SLACK_MS,
    )  # fmt: skip
    found, settled_to = rows[0], run["settled_to"]
    if settled_to is None and found["recent"] is not None:
        settled_to = await _last_before(tx, found["recent"]) or run["cursor"]
    if found["many"]:
        piece = _Piece(run["cursor"], found["last"], _OF_RUN, wanted.run)
        await _collect(tx, wanted, piece, now_ms=now_ms)
    state = RunState.COLLECTING
    if found["many"] < together:  # what comes now belongs to later windows, or is late and waits for the next one
        state = require_run(state, RunState.CALCULATING)
        settled_to = settled_to or found["last"] or run["cursor"]
    await tx.execute(
        "UPDATE settlement_run SET cursor = $4, settled_to = $5, state = $6 "
        "WHERE fee_profile_id = $1 AND day = $2 AND window_name = $3",
        *wanted.key, found["last"] or run["cursor"], settled_to, state.value,
    )  # fmt: skip
    failpoints.reached("settlement.collected")
    return state is RunState.CALCULATING


async def _last_before(tx: Statements, journal_id: str) -> str | None:
    rows = await tx.fetch("SELECT max(id) AS id FROM journal WHERE id < $1", journal_id)
    return None if rows[0]["id"] is None else str(rows[0]["id"])


_AT_MS = "CASE WHEN j.kind = 'capture' THEN pay.paid_at_ms ELSE j.booked_at_ms END"
_OURS = f"j.id > $1 AND j.id <= $2 AND j.kind IN {_MOVES} AND {_AT_MS} < $3"
# CROSS JOIN: SQLite keeps this order, from the range on; from a merchant on it would look at all its payments ever.
_MERCHANTS = """
SELECT DISTINCT m.id, m.payout_mode FROM journal j CROSS JOIN payment pay CROSS JOIN merchant m
WHERE {ours} AND pay.id = j.payment_id AND pay.method NOT IN ('cash', 'wallet') AND m.id = pay.merchant_id AND {members}
AND NOT EXISTS (
  SELECT 1 FROM settlement s WHERE s.merchant_id = pay.merchant_id AND s.day = $4 AND s.window_name = $5)
ORDER BY 1
"""
# A journal's first posting is the money, its second the fee; both again name the range, so that nobody reads all.
_MOVED = """
SELECT {columns}
FROM journal j CROSS JOIN posting money CROSS JOIN payment pay CROSS JOIN {other}
LEFT JOIN posting fee ON fee.journal_id = j.id AND fee.position = 1
  AND fee.journal_id > $1 AND fee.journal_id <= $2
  AND 'merchant_payable:' || pay.merchant_id IN (fee.source, fee.destination)
WHERE {ours} AND money.journal_id = j.id AND money.position = 0
  AND money.journal_id > $1 AND money.journal_id <= $2 AND pay.id = j.payment_id
  AND 'merchant_payable:' || pay.merchant_id =
    CASE WHEN j.kind = 'capture' THEN money.destination ELSE money.source END
"""
_PROVIDER = "substr(CASE WHEN j.kind = 'capture' THEN money.source ELSE money.destination END, 21)"
_GROSS = "CASE WHEN j.kind = 'capture' THEN money.amount ELSE -money.amount END"
_FEE = "coalesce(CASE WHEN j.kind = 'capture' THEN fee.amount ELSE -fee.amount END, 0)"
_KIND = "CASE WHEN j.kind = 'capture' THEN 'payment' ELSE j.kind END"
_COLUMNS = f"s.id, j.id, pay.id, {_KIND}, {_PROVIDER}, {_GROSS}, {_FEE}, {_AT_MS}"
_ITEMS = f"""
INSERT INTO settlement_item (settlement_id, journal_id, payment_id, kind, provider, gross_amount, fee_amount, at_ms)
{_MOVED.format(columns=_COLUMNS, other="settlement s", ours=_OURS)}
AND s.merchant_id = pay.merchant_id AND s.day = $4 AND s.window_name = $5 AND s.state = 'open' AND {{members}}
ORDER BY s.id, j.id
ON CONFLICT (journal_id) DO NOTHING
"""


async def _collect(tx: Statements, wanted: Wanted, piece: _Piece, *, now_ms: int) -> None:
    """What moved in this range becomes items of its merchants' batches, unless it is in one. A batch that is calculated
    takes no more: what is late waits for the next window."""
    window = wanted.window
    args = (*piece.args, window.closes_at_ms, window.day, window.name, piece.member)
    merchants = await tx.fetch(_MERCHANTS.format(ours=_OURS, members=piece.members), *args)
    await tx.many(
        "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, "
        "settles_on, state, payout_mode, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'open', $9, $10)",
        [
            (
                new_id("stl"), row["id"], wanted.fee_profile_id, window.day, window.name, window.opens_at_ms,
                window.closes_at_ms, window.settles_on, row["payout_mode"], now_ms,
            )
            for row in merchants
        ],
    )  # fmt: skip
    await tx.execute(_ITEMS.format(members=piece.members), *args)


async def _calculate_some(tx: Statements, wanted: Wanted, *, now_ms: int) -> bool:
    """Whether there is nothing more to calculate."""
    rows = await tx.fetch(
        "SELECT id, merchant_id FROM settlement WHERE fee_profile_id = $1 AND day = $2 AND window_name = $3 "
        f"AND state = 'open' ORDER BY id LIMIT $4 {tx.lock('settlement')}",
        *wanted.key, BATCHES,
    )  # fmt: skip
    await _calculate(tx, {row["id"]: row["merchant_id"] for row in rows}, now_ms=now_ms)
    failpoints.reached("settlement.calculated")
    if len(rows) < BATCHES:
        await _finish(tx, wanted, now_ms=now_ms)
    return len(rows) < BATCHES


async def _finish(tx: Statements, wanted: Wanted, *, now_ms: int) -> None:
    done = require_run(RunState.CALCULATING, RunState.DONE)
    (run,) = await tx.fetch(
        "UPDATE settlement_run SET state = $4, finished_at_ms = $5 "
        "WHERE fee_profile_id = $1 AND day = $2 AND window_name = $3 RETURNING settled_to",
        *wanted.key, done.value, now_ms,
    )  # fmt: skip
    # Only who was there for all of it: a merchant that was approved meanwhile has pieces that nobody looked at.
    await tx.execute(
        "UPDATE settlement_progress SET settled_to = $1 WHERE run = $2 AND settled_to < $1",
        run["settled_to"],
        wanted.run,
    )


_SUMS = """
SELECT settlement_id, provider,
       CAST(sum(CASE WHEN kind = 'payment' THEN 1 ELSE 0 END) AS BIGINT) AS payments,
       CAST(sum(CASE WHEN kind = 'payment' THEN 0 ELSE 1 END) AS BIGINT) AS adjustments,
       CAST(sum(CASE WHEN kind = 'payment' THEN gross_amount ELSE 0 END) AS BIGINT) AS gross_amount,
       CAST(sum(CASE WHEN kind = 'payment' THEN fee_amount ELSE 0 END) AS BIGINT) AS fee_amount,
       CAST(sum(CASE WHEN kind = 'payment' THEN 0 ELSE gross_amount - fee_amount END) AS BIGINT) AS adjustment_amount
FROM settlement_item WHERE settlement_id {among} GROUP BY 1, 2
"""
_CARRIED = """
SELECT merchant_id, provider, CAST(sum(carried_out) AS BIGINT) AS carried FROM settlement_share
WHERE merchant_id {among} AND carried_out <> 0 AND carried_to IS NULL GROUP BY 1, 2
"""


async def _calculate(tx: Statements, batches: Mapping[str, str], *, now_ms: int) -> None:
    """Sum these open batches up, merchants by batch, and book what is paid out. One without items goes."""
    sums = await _sums(tx, sorted(batches))
    carried = await carried_of(tx, sorted(batches.values()))
    if empty := sorted(batches.keys() - sums.keys()):
        await tx.execute(f"DELETE FROM settlement WHERE id {tx.among(1)}", empty)
    shares = {batch: shared_out(found, carried.get(batches[batch], {})) for batch, found in sorted(sums.items())}
    await tx.many(_TAKE_UP, [(batches[batch], batch) for batch in shares])
    await tx.many(_INSERT_SHARE, [(batch, batches[batch], *row) for batch in shares for row in _rows(shares[batch])])
    totals = {batch: total(found) for batch, found in shares.items()}
    await tx.many(_UPDATE_SETTLEMENT, [_calculated(batch, totals[batch], now_ms) for batch in totals], locked=True)
    paid_out = {batch: whole.net_amount for batch, whole in totals.items() if whole.net_amount}
    journals = [
        ledger.settlement(settlement_id=batch, merchant_id=batches[batch], net=net) for batch, net in paid_out.items()
    ]
    await ledger.post(tx, journals, now_ms=now_ms)


async def _sums(tx: Statements, batches: Sequence[str]) -> dict[str, dict[str, Sums]]:
    """By batch and provider."""
    found: dict[str, dict[str, Sums]] = {}
    for row in await tx.fetch(_SUMS.format(among=tx.among(1)), batches):
        found.setdefault(row["settlement_id"], {})[row["provider"]] = sums_of(row)
    return found


def sums_of(row: Row) -> Sums:
    return Sums(
        payments=row["payments"],
        adjustments=row["adjustments"],
        gross_amount=row["gross_amount"],
        fee_amount=row["fee_amount"],
        adjustment_amount=row["adjustment_amount"],
    )


async def carried_of(tx: Statements, merchant_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """What earlier batches could not take from a merchant's money, or took from another provider's: by merchant and
    provider."""
    found: dict[str, dict[str, int]] = {}
    for row in await tx.fetch(_CARRIED.format(among=tx.among(1)), merchant_ids):
        found.setdefault(row["merchant_id"], {})[row["provider"]] = row["carried"]
    return found


_TAKE_UP = """
UPDATE settlement_share SET carried_to = $2 WHERE merchant_id = $1 AND carried_out <> 0 AND carried_to IS NULL
"""
_INSERT_SHARE = """
INSERT INTO settlement_share (settlement_id, merchant_id, provider, payments, adjustments, gross_amount, fee_amount,
                              adjustment_amount, carried_in, carried_out, net_amount)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
_UPDATE_SETTLEMENT = """
UPDATE settlement SET state = $2, payments = $3, adjustments = $4, gross_amount = $5, fee_amount = $6,
                      adjustment_amount = $7, carried_in = $8, carried_out = $9, net_amount = $10,
                      calculated_at_ms = $11, changed_at_ms = $11
WHERE id = $1
"""


def _rows(shares: Mapping[str, Share]) -> list[tuple[object, ...]]:
    return [(provider, *share.row()) for provider, share in sorted(shares.items())]


def total(shares: Mapping[str, Share]) -> Share:
    return sum(shares.values(), Share.nothing())


def _calculated(batch: str, whole: Share, now_ms: int) -> tuple[object, ...]:
    wanted = SettlementState.CALCULATED if whole.net_amount else SettlementState.CARRIED
    return batch, require_settlement(SettlementState.OPEN, wanted).value, *whole.row(), now_ms


async def settle_merchant(tx: Statements, wanted: Wanted, merchant_id: str, *, now_ms: int) -> None:
    """One merchant's batch of a window, in one transaction. A batch that is there stays as it is.

    Raises NotFound, SettlementNotEligible for a merchant that is not approved, MerchantPayoutNotConfigured where nobody
    would know where to pay.
    """
    await take_turn(tx)
    await require_eligible(tx, merchant_id)
    start = await _start(tx, "m.id = $1", merchant_id, now_ms=now_ms)
    rows = await tx.fetch("SELECT max(id) AS last FROM journal")
    if rows[0]["last"] is not None:
        piece = _Piece(start, rows[0]["last"], _OF_MERCHANT, merchant_id)
        await _collect(tx, wanted, piece, now_ms=now_ms)
    rows = await tx.fetch(
        "SELECT id FROM settlement WHERE merchant_id = $1 AND day = $2 AND window_name = $3 AND state = 'open' "
        + tx.lock("settlement"),
        merchant_id, wanted.window.day, wanted.window.name,
    )  # fmt: skip
    await _calculate(tx, {row["id"]: merchant_id for row in rows}, now_ms=now_ms)


async def require_eligible(tx: Statements, merchant_id: str) -> str:
    """Its fee profile. Raises NotFound, SettlementNotEligible or MerchantPayoutNotConfigured."""
    rows = await tx.fetch(
        "SELECT status, payout_mode, settlement_account_reference, fee_profile_id FROM merchant WHERE id = $1",
        merchant_id,
    )
    if not rows:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    merchant = rows[0]
    if merchant["status"] != "approved":
        raise SettlementNotEligible("Only an approved merchant is settled.", status=merchant["status"])
    if merchant["payout_mode"] != "manual" and merchant["settlement_account_reference"] is None:
        raise MerchantPayoutNotConfigured("This merchant has no account to be paid at.", merchant_id=merchant_id)
    return str(merchant["fee_profile_id"])


async def preview(tx: Statements, wanted: Wanted, *, merchant_id: str | None, now_ms: int) -> dict[str, Share]:
    """What each merchant's batch of this window would be if it were settled now; those that have one are left out."""
    whom, of = ("m.id = $1", merchant_id) if merchant_id else (ELIGIBLE, wanted.fee_profile_id)
    start = await _start(tx, whom, of, now_ms=now_ms)
    rows = await tx.fetch("SELECT max(id) AS last FROM journal")
    window = wanted.window
    members = whom.replace("$1", "$6")
    found = await tx.fetch(
        _PREVIEW.format(members=members),
        start, rows[0]["last"] or start, window.closes_at_ms, window.day, window.name, of,
    )  # fmt: skip
    sums: dict[str, dict[str, Sums]] = {}
    for row in found:
        sums.setdefault(row["merchant_id"], {})[row["provider"]] = sums_of(row)
    carried = await carried_of(tx, sorted(sums))
    return {merchant: total(shared_out(found, carried.get(merchant, {}))) for merchant, found in sums.items()}


_SEEN = _MOVED.format(
    columns=f"m.id AS merchant_id, {_KIND} AS kind, {_PROVIDER} AS provider, {_GROSS} AS gross_amount, "
    f"{_FEE} AS fee_amount",
    other="merchant m",
    ours=_OURS,
)
_PREVIEW = _SUMS.replace("settlement_id", "merchant_id", 1).replace(
    "FROM settlement_item WHERE settlement_id {among}",
    f"""FROM ({_SEEN} AND m.id = pay.merchant_id AND {{members}}
AND NOT EXISTS (SELECT 1 FROM settlement_item i WHERE i.journal_id = j.id)
AND NOT EXISTS (SELECT 1 FROM settlement s
  WHERE s.merchant_id = pay.merchant_id AND s.day = $4 AND s.window_name = $5 AND s.state <> 'open')) seen""",
)
