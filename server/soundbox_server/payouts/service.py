"""Merchants' money on its way to their banks. Stored first, then the bank is asked, then its answer is stored, each
step durable before the next: a crash or a lost answer leaves a payout that is resumed by query, and nothing is sent
twice.

Order of locks, the same in every process: the settlement, then its payout. A settlement has one payout at most that may
have been paid, which is a key of the table.
"""

from dataclasses import dataclass

from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.clock import jakarta_day
from soundbox_server.db import Row, Statements
from soundbox_server.errors import (
    Conflict,
    IllegalTransition,
    MerchantPayoutNotConfigured,
    NotFound,
    SettlementNotEligible,
    SoundboxError,
)
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.payouts.rails import IsOpen, choose, next_opening_ms
from soundbox_server.payouts.state import PENDING, PayoutMode, PayoutState, require
from soundbox_server.providers.banks import Bank, TransferRequest, TransferStatus
from soundbox_server.providers.base import ProviderRefused, ProviderUnknown, ProviderUnreachable
from soundbox_server.settlements.state import SettlementState, require_settlement
from soundbox_server.webhooks.service import HEARD, Event, tell

LEASE_MS = 30_000  # how long one process may take to get the bank's answer
ASK_AFTER_S = (2, 5, 15, 60, 300, 900, 3_600)  # after each question without an end; the last one repeats
STUCK_AFTER = len(ASK_AFTER_S)  # questions, and somebody should look into it
WITHOUT_ACCOUNT_MS = 3_600_000  # until it is looked whether there is one by now

_PENDING = ", ".join(f"'{state}'" for state in PENDING)
_PAYABLE = (SettlementState.CALCULATED, SettlementState.FAILED)


# Beginning


_WAITING = """
SELECT s.id FROM settlement s JOIN merchant m ON m.id = s.merchant_id
WHERE s.state = 'calculated' AND s.settles_on <= $1 AND s.id > $3
  AND (s.payout_mode = 'manual' OR ($4 AND m.settlement_account_reference IS NOT NULL AND m.status = 'approved'))
ORDER BY s.id LIMIT $2 {lock}
"""


async def begin_due(tx: Statements, *, bank: str | None, after: str = "", now_ms: int, limit: int) -> list[str]:
    """Settlements whose day has come get their payouts; returns their ids, in order. Those of merchants whom nobody
    can pay wait: without an account, or without a bank. So does the money of whoever was suspended since."""
    rows = await tx.fetch(
        _WAITING.format(lock=tx.lock("s", skip=True)), jakarta_day(now_ms), limit, after, bank is not None
    )
    for row in rows:
        settlement = await lock_settlement(tx, row["id"])
        if settlement["state"] == SettlementState.CALCULATED:
            await _begin(tx, settlement, settlement["payout_mode"], bank=bank, by=None, now_ms=now_ms)
    return [row["id"] for row in rows]


async def say_who_cannot_be_paid(tx: Statements, *, now_ms: int) -> None:
    """Merchants whose money waits because nobody has said where it should go; an alert each, until somebody has."""
    rows = await tx.fetch(
        "SELECT s.merchant_id, sum(s.net_amount) AS amount FROM settlement s JOIN merchant m ON m.id = s.merchant_id "
        "WHERE s.state = 'calculated' AND s.settles_on <= $1 AND s.payout_mode = 'merchant_direct' "
        "AND m.settlement_account_reference IS NULL GROUP BY s.merchant_id ORDER BY s.merchant_id",
        jakarta_day(now_ms),
    )
    standing = await tx.fetch(
        "SELECT subject_id FROM alert WHERE kind = 'payout.not_configured' AND subject_kind = 'merchant' "
        "AND state <> 'resolved'"
    )
    known, unpaid = {row["subject_id"] for row in standing}, {row["merchant_id"]: int(row["amount"]) for row in rows}
    for merchant_id in sorted(unpaid.keys() - known):
        await raise_alert(
            tx, *_not_configured(merchant_id), severity=Severity.WARNING, facts={"amount": unpaid[merchant_id]},
            now_ms=now_ms,
        )  # fmt: skip
    for merchant_id in sorted(known - unpaid.keys()):
        await clear(tx, *_not_configured(merchant_id), now_ms=now_ms)


def _not_configured(merchant_id: str) -> tuple[str, tuple[str, str]]:
    return "payout.not_configured", ("merchant", merchant_id)


async def retry(tx: Statements, settlement_id: str, *, bank: str | None, by: str, now_ms: int) -> str:
    """Pay out a settlement whose payout failed or came back, or was never begun; returns the new payout's id.

    Raises NotFound, SettlementNotEligible without anything to pay, IllegalTransition for what is paid or may be just
    now, and MerchantPayoutNotConfigured.
    """
    settlement = await lock_settlement(tx, settlement_id)
    _require_payable(settlement)
    return await _begin(tx, settlement, settlement["mode_now"], bank=bank, by=by, now_ms=now_ms)


def _require_payable(settlement: Row) -> None:
    if settlement["net_amount"] == 0:
        raise SettlementNotEligible("This settlement has nothing to be paid out.", state=settlement["state"])
    if settlement["state"] not in _PAYABLE:
        raise IllegalTransition("This settlement is paid, or may be just now.", state=settlement["state"])


async def ask_now(tx: Statements, settlement_id: str, *, now_ms: int) -> bool:
    """Whether a payout of this settlement may have been sent and nobody knows its end; its bank is asked next."""
    rows = await tx.fetch(
        "UPDATE payout SET ask_at_ms = $2 WHERE settlement_id = $1 AND state IN ('submitted', 'unknown') "
        "AND ask_at_ms > $2 RETURNING id",
        settlement_id, now_ms,
    )  # fmt: skip
    return bool(rows)


_INSERT = """
INSERT INTO payout (id, settlement_id, merchant_id, number, mode, bank, reference, amount, account_reference,
                    account_type, state, requested_by, asks, ask_at_ms, lease_until_ms, created_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'created', $11, 0, $12, 0, $13)
"""


async def _begin(tx: Statements, settlement: Row, mode: str, *, bank: str | None, by: str | None, now_ms: int) -> str:
    by_hand = mode == PayoutMode.MANUAL
    if not by_hand and (bank is None or settlement["settlement_account_reference"] is None):
        what = "No bank is set up for payouts." if bank is None else "This merchant has no account to be paid to."
        raise MerchantPayoutNotConfigured(what, merchant_id=settlement["merchant_id"])
    before = await tx.fetch("SELECT count(*) AS n FROM payout WHERE settlement_id = $1", settlement["id"])
    payout_id = new_id("pyt")
    await tx.execute(
        _INSERT,
        payout_id, settlement["id"], settlement["merchant_id"], before[0]["n"] + 1, mode, None if by_hand else bank,
        new_id("pay"), settlement["net_amount"], settlement["settlement_account_reference"],
        settlement["settlement_account_type"], by, None if by_hand else now_ms, now_ms,
    )  # fmt: skip
    await _move(tx, settlement["id"], settlement["state"], SettlementState.PAYING, now_ms=now_ms)
    return payout_id


async def lock_settlement(tx: Statements, settlement_id: str) -> Row:
    """Raises NotFound."""
    rows = await tx.fetch(
        "SELECT s.id, s.merchant_id, s.state, s.net_amount, s.payout_mode, m.payout_mode AS mode_now, "
        "m.settlement_account_reference, m.settlement_account_type "
        "FROM settlement s JOIN merchant m ON m.id = s.merchant_id WHERE s.id = $1 " + tx.lock("s"),
        settlement_id,
    )
    if not rows:
        raise NotFound("No such settlement.", settlement_id=settlement_id)
    return rows[0]


async def _move(tx: Statements, settlement_id: str, state: str, wanted: SettlementState, *, now_ms: int) -> None:
    await tx.execute(
        "UPDATE settlement SET state = $2, changed_at_ms = $3 WHERE id = $1",
        settlement_id, require_settlement(state, wanted).value, now_ms,
    )  # fmt: skip


# Asking the bank


@dataclass(frozen=True, kw_only=True)
class Due:
    """A payout whose bank is to be asked, by whoever claimed it."""

    id: str
    settlement_id: str
    bank: str
    request: TransferRequest
    resumed: bool  # somebody may have asked before: query, do not send
    asks: int


_CLAIM = f"""
SELECT p.id, p.settlement_id, p.bank, p.reference, p.amount, p.state, p.rail, p.asks, p.account_reference,
       p.account_type, m.legal_name, m.settlement_account_reference AS account_now,
       m.settlement_account_type AS type_now
FROM payout p JOIN merchant m ON m.id = p.merchant_id
WHERE p.ask_at_ms <= $1 AND p.lease_until_ms <= $1 AND p.state IN ({_PENDING}) AND p.mode = 'merchant_direct'
  AND (p.state <> 'created' OR m.status = 'approved')
ORDER BY p.ask_at_ms, p.id LIMIT $2
"""


async def claim_due(tx: Statements, *, is_open: IsOpen, now_ms: int, limit: int) -> list[Due]:
    """Payouts that no process is asking a bank about right now. From this commit on they may have been sent.

    One that was never sent goes to the account that the merchant has now: a change of account has taken effect only
    after its hold, and what it was before is not paid any more. While no rail carries it, it waits for one, and while
    the merchant is suspended, for whoever lifts that.
    """
    rows = await tx.fetch(f"{_CLAIM} {tx.lock('p', skip=True)}", now_ms, limit)
    claimed = []
    for row in rows:
        fresh = row["state"] == PayoutState.CREATED
        account, kind = ("account_now", "type_now") if fresh else ("account_reference", "account_type")
        rail = choose(row["amount"], at_ms=now_ms, is_open=is_open)
        if fresh and (rail is None or row[account] is None):
            opens_ms = next_opening_ms(row["amount"], at_ms=now_ms, is_open=is_open)
            wait_ms = opens_ms if rail is None else now_ms + WITHOUT_ACCOUNT_MS
            await tx.execute("UPDATE payout SET ask_at_ms = $2 WHERE id = $1", row["id"], wait_ms)
            continue
        sent_by = rail.value if rail is not None else row["rail"]
        await tx.execute(
            "UPDATE payout SET state = CASE WHEN state = 'created' THEN 'submitted' ELSE state END, rail = $2, "
            "account_reference = $3, account_type = $4, submitted_at_ms = coalesce(submitted_at_ms, $5), "
            "lease_until_ms = $6, asks = asks + 1 WHERE id = $1",
            row["id"], sent_by, row[account], row[kind], now_ms, now_ms + LEASE_MS,
        )  # fmt: skip
        request = TransferRequest(
            reference=row["reference"],
            amount_idr=row["amount"],
            account=row[account],
            account_type=row[kind],
            beneficiary=row["legal_name"],
            rail=sent_by,
        )
        claimed.append(
            Due(
                id=row["id"],
                settlement_id=row["settlement_id"],
                bank=row["bank"],
                request=request,
                resumed=not fresh,
                asks=row["asks"] + 1,
            )
        )
    return claimed


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the bank said of a payout, or why nobody knows. `later`: it was never heard."""

    due: Due
    status: TransferStatus | None = None
    error: SoundboxError | None = None
    later: bool = False
    unknown: bool = False


async def ask_bank(bank: Bank | None, due: Due) -> Asked:
    """One question to the bank, outside any transaction. What may have been sent is queried, and sent again only where
    the bank never heard of it."""
    if bank is None or bank.name != due.bank:
        gone = ProviderRefused("This bank is not set up any more.", bank=due.bank)
        return Asked(due=due, error=gone, unknown=due.resumed, later=not due.resumed)
    try:
        if due.resumed:
            status = await _query(bank, due)
            if status.state != "not_found":
                return Asked(due=due, status=status)
        return Asked(due=due, status=await bank.create(due.request))
    except ProviderUnreachable as error:
        return Asked(due=due, error=error, later=True)
    except ProviderUnknown as error:
        return Asked(due=due, error=error, unknown=True)
    except SoundboxError as error:
        return Asked(due=due, error=error)


async def _query(bank: Bank, due: Due) -> TransferStatus:
    """Only "not found" says that nothing was sent: a refusal to answer leaves it open."""
    try:
        return await bank.query(due.request.reference)
    except ProviderUnreachable:
        raise
    except ProviderRefused as error:
        raise ProviderUnknown("The bank did not say where this payout stands.") from error


async def record_answer(tx: Statements, asked: Asked, *, now_ms: int) -> None:
    """Store what the bank said. A callback may have been faster: then nothing changes."""
    settlement = await lock_settlement(tx, asked.due.settlement_id)
    payout = await lock_payout(tx, asked.due.id)
    if PayoutState(payout["state"]) not in PENDING:
        return
    state = asked.status.state if asked.status else None
    if state in ("succeeded", "reversed"):
        await succeed(tx, settlement, payout, answer=asked.status, now_ms=now_ms)
    if state == "reversed":
        settlement, payout = await lock_settlement(tx, settlement["id"]), await lock_payout(tx, payout["id"])
        await reverse(tx, settlement, payout, now_ms=now_ms)
    elif state in ("failed", "not_found") or (asked.error and not asked.later and not asked.unknown):
        code = asked.error.code if asked.error else "PAYOUT_FAILED"
        await fail(tx, settlement, payout, code=code, now_ms=now_ms)
    elif state != "succeeded":
        await _ask_again(tx, asked, payout, now_ms=now_ms)


async def _ask_again(tx: Statements, asked: Asked, payout: Row, *, now_ms: int) -> None:
    pause_s = ASK_AFTER_S[min(asked.due.asks, len(ASK_AFTER_S)) - 1]
    wanted = require(payout["state"], PayoutState.UNKNOWN if asked.unknown else PayoutState.SUBMITTED)
    await tx.execute(
        "UPDATE payout SET state = $2, error_code = $3, ask_at_ms = $4, lease_until_ms = 0, "
        "bank_payout_id = coalesce($5, bank_payout_id) WHERE id = $1",
        payout["id"], wanted.value, asked.error.code if asked.error else None, now_ms + pause_s * 1_000,
        asked.status.bank_payout_id if asked.status else None,
    )  # fmt: skip
    if asked.due.asks == STUCK_AFTER:
        await alert(tx, "payout.stuck", payout, {"state": wanted.value}, severity=Severity.WARNING, now_ms=now_ms)


# What became of it; the settlement and the payout are locked


async def lock_payout(tx: Statements, payout_id: str) -> Row:
    """Raises NotFound."""
    rows = await tx.fetch(_PAYOUT + "WHERE id = $1 " + tx.lock("payout"), payout_id)
    if not rows:
        raise NotFound("No such payout.", payout_id=payout_id)
    return rows[0]


_PAYOUT = "SELECT id, settlement_id, merchant_id, number, mode, bank, reference, amount, state FROM payout "


async def succeed(
    tx: Statements, settlement: Row, payout: Row, *, answer: TransferStatus | None = None, now_ms: int
) -> None:
    """The money reached the merchant: book it, and the settlement is paid."""
    state = require(payout["state"], PayoutState.SUCCEEDED)
    await tx.execute(
        "UPDATE payout SET state = $2, finished_at_ms = $3, ask_at_ms = NULL, error_code = NULL, "
        "bank_payout_id = coalesce($4, bank_payout_id), raw_response = coalesce($5, raw_response) WHERE id = $1",
        payout["id"], state.value, now_ms, answer.bank_payout_id if answer else None, answer.body if answer else None,
    )  # fmt: skip
    await ledger.post(tx, [await _journal(tx, payout)], now_ms=now_ms)
    if settlement["state"] == SettlementState.FAILED:  # the bank had said no
        await _move(tx, settlement["id"], settlement["state"], SettlementState.PAYING, now_ms=now_ms)
    await _move(tx, settlement["id"], SettlementState.PAYING, SettlementState.PAID, now_ms=now_ms)
    for kind in ("payout.failed", "payout.stuck"):
        await clear(tx, kind, ("settlement", settlement["id"]), now_ms=now_ms)
    await _tell(tx, "settlement.paid", payout, SettlementState.PAID, now_ms=now_ms)


async def _journal(tx: Statements, payout: Row) -> ledger.Journal:
    rows = await tx.fetch(
        "SELECT provider, net_amount FROM settlement_share WHERE settlement_id = $1 ORDER BY provider",
        payout["settlement_id"],
    )
    shares = {str(row["provider"]): int(row["net_amount"]) for row in rows}
    by_hand = payout["mode"] == PayoutMode.MANUAL
    return ledger.payout(payout["settlement_id"], shares, payout_id=payout["id"], by_hand=by_hand)


async def fail(tx: Statements, settlement: Row, payout: Row, *, code: str, now_ms: int) -> None:
    """The bank will not pay: the money stays in clearing until somebody tries again."""
    state = require(payout["state"], PayoutState.FAILED)
    await tx.execute(
        "UPDATE payout SET state = $2, error_code = $3, finished_at_ms = $4, ask_at_ms = NULL WHERE id = $1",
        payout["id"], state.value, code, now_ms,
    )  # fmt: skip
    await _move(tx, settlement["id"], settlement["state"], SettlementState.FAILED, now_ms=now_ms)
    await clear(tx, "payout.stuck", ("settlement", settlement["id"]), now_ms=now_ms)
    await alert(tx, "payout.failed", payout, {"code": code}, severity=Severity.WARNING, now_ms=now_ms)
    await _tell(tx, "payout.failed", payout, SettlementState.FAILED, code=code, now_ms=now_ms)


async def reverse(tx: Statements, settlement: Row, payout: Row, *, now_ms: int) -> None:
    """The money came back after it was paid: it is in clearing again, and somebody has to find out why."""
    state = require(payout["state"], PayoutState.REVERSED)
    await tx.execute(
        "UPDATE payout SET state = $2, reversed_at_ms = $3, ask_at_ms = NULL WHERE id = $1",
        payout["id"], state.value, now_ms,
    )  # fmt: skip
    back = ledger.payout_reversal(await _journal(tx, payout), payout_id=payout["id"])
    await ledger.post(tx, [back], now_ms=now_ms)
    await _move(tx, settlement["id"], settlement["state"], SettlementState.FAILED, now_ms=now_ms)
    await alert(tx, "payout.failed", payout, {"code": "REVERSED"}, severity=Severity.CRITICAL, now_ms=now_ms)
    await _tell(tx, "payout.failed", payout, SettlementState.FAILED, code="REVERSED", now_ms=now_ms)


async def _tell(
    tx: Statements, kind: str, payout: Row, state: SettlementState, *, code: str | None = None, now_ms: int
) -> None:
    """Let the merchant's own programs hear of it (webhooks/)."""
    rows = await tx.fetch(
        f"SELECT m.organisation_id FROM merchant m WHERE m.id = $1 AND {HEARD}", payout["merchant_id"]
    )
    if not rows:
        return
    data: dict[str, object] = {
        "settlement_id": payout["settlement_id"],
        "merchant_id": payout["merchant_id"],
        "net_amount": payout["amount"],
        "status": state.value,
        "payout_id": payout["id"],
        "payout_mode": payout["mode"],
        "code": code,
    }
    event = Event(
        type=kind,
        organisation_id=rows[0]["organisation_id"],
        merchant_id=payout["merchant_id"],
        at_ms=now_ms,
        data=data,
    )
    await tell(tx, [event])


async def alert(
    tx: Statements, kind: str, payout: Row, facts: dict[str, object], *, severity: Severity, now_ms: int
) -> None:
    about = {"payout_id": payout["id"], "merchant_id": payout["merchant_id"], "amount": payout["amount"]}
    subject = ("settlement", payout["settlement_id"])
    await raise_alert(tx, kind, subject, severity=severity, facts=about | facts, now_ms=now_ms)


# By hand


async def mark_paid(tx: Statements, settlement_id: str, *, reference: str, reason: str, by: str, now_ms: int) -> str:
    """Somebody paid this settlement outside of here; returns its payout's id. Raises NotFound, SettlementNotEligible
    without anything to pay, IllegalTransition for what is paid, Conflict for one that a bank pays."""
    settlement = await lock_settlement(tx, settlement_id)
    if settlement["state"] in _PAYABLE:
        await _begin(tx, settlement, PayoutMode.MANUAL, bank=None, by=by, now_ms=now_ms)
        settlement = await lock_settlement(tx, settlement_id)
    if settlement["state"] != SettlementState.PAYING:
        _require_payable(settlement)
    rows = await tx.fetch(_PAYOUT + f"WHERE settlement_id = $1 AND state IN ({_PENDING})", settlement_id)
    payout = await lock_payout(tx, rows[0]["id"])
    if payout["mode"] != PayoutMode.MANUAL:
        raise Conflict("A bank is paying this settlement: it would be paid twice.", payout_id=payout["id"])
    await tx.execute(
        "UPDATE payout SET paid_reference = $2, note = $3, marked_by = $4, account_reference = $5, account_type = $6 "
        "WHERE id = $1",
        payout["id"], reference, reason, by, settlement["settlement_account_reference"],
        settlement["settlement_account_type"],
    )  # fmt: skip
    await succeed(tx, settlement, payout, now_ms=now_ms)
    return str(payout["id"])


async def mark_returned(tx: Statements, payout_id: str, *, reason: str, by: str, now_ms: int) -> None:
    """What somebody paid by hand came back. Raises NotFound, IllegalTransition, Conflict for one that a bank paid: the
    bank tells that itself."""
    found = await tx.fetch(_PAYOUT + "WHERE id = $1", payout_id)
    if not found:
        raise NotFound("No such payout.", payout_id=payout_id)
    settlement = await lock_settlement(tx, found[0]["settlement_id"])
    payout = await lock_payout(tx, payout_id)
    if payout["mode"] != PayoutMode.MANUAL:
        raise Conflict("A bank paid this, and says itself when it comes back.", payout_id=payout_id)
    await reverse(tx, settlement, payout, now_ms=now_ms)
    await tx.execute("UPDATE payout SET note = $2, marked_by = $3 WHERE id = $1", payout_id, reason, by)
