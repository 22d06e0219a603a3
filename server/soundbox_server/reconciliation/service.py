"""Statements against our books: imported whole or not at all, matched in a few statements of SQL, and what is left over
listed until somebody settles it.

A line belongs to a payment by the reference that we chose, or by the provider's own; of a QR that hangs at a terminal
and is paid again and again, by the QR's name with the payment's retrieval reference.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import BinaryIO

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.clock import DAY_MS, jakarta_day, jakarta_ms
from soundbox_server.db import KEY_STAYS, Statements, statements
from soundbox_server.errors import NotFound
from soundbox_server.ids import lowest_id, new_id
from soundbox_server.reconciliation.models import Difference, ProviderStatement, StatementMapping
from soundbox_server.reconciliation.reading import Columns, Line, read
from soundbox_server.reconciliation.state import DifferenceState, Settlement, require

AT_ONCE = 2_000  # lines in one statement
# A payment's capture is booked at most so long before the time that its provider says it was paid at.
_BOOKED_EARLY_MS = DAY_MS
_REFUND_MAY_TAKE_MS = 30 * DAY_MS


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that lies ready, and which days in Jakarta it is about, both included."""

    provider: str
    day_from: str
    day_to: str
    file_name: str | None
    sha256: str
    size_bytes: int


async def save_mapping(session: AsyncSession, provider: str, columns: Columns, *, by: str, now_ms: int) -> None:
    """From now on this provider's statements are read so."""
    tx = await statements(session)
    await tx.execute(
        "INSERT INTO statement_mapping (provider, columns, updated_by, updated_at_ms) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (provider) DO UPDATE SET columns = excluded.columns, updated_by = excluded.updated_by, "
        "updated_at_ms = excluded.updated_at_ms",
        provider, orjson.dumps(asdict(columns)).decode(), by, now_ms,
    )  # fmt: skip


async def columns_of(session: AsyncSession, provider: str) -> Columns:
    """Raises NotFound where nobody has said how this provider's statements are to be read."""
    found = await session.get(StatementMapping, provider)
    if found is None:
        raise NotFound("Say first which columns this provider's statements have.", provider=provider)
    return Columns(**orjson.loads(found.columns))


async def import_statement(
    session: AsyncSession, upload: Upload, file: BinaryIO, columns: Columns, *, by: str, now_ms: int
) -> tuple[ProviderStatement, bool]:
    """The statement, and whether it is new: the same file again changes nothing. The file was checked before."""
    tx = await statements(session)
    statement_id = new_id("sta")
    stands = await tx.fetch(
        "INSERT INTO provider_statement (id, provider, day_from, day_to, file_name, sha256, size_bytes, columns, "
        "payments, paid_amount, fee_amount, refunds, refunded_amount, matched, imported_by, imported_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, NULL, 0, 0, 0, $9, $10) "
        "ON CONFLICT (provider, sha256) DO NOTHING RETURNING id",
        statement_id, upload.provider, upload.day_from, upload.day_to, upload.file_name, upload.sha256,
        upload.size_bytes, orjson.dumps(asdict(columns)).decode(), by, now_ms,
    )  # fmt: skip
    if not stands:
        known = await tx.fetch(
            "SELECT id FROM provider_statement WHERE provider = $1 AND sha256 = $2", upload.provider, upload.sha256
        )
        return await session.get_one(ProviderStatement, known[0]["id"]), False
    lines = (one for one in read(file, columns) if isinstance(one, Line))
    while part := list(islice(lines, AT_ONCE)):
        await _store(tx, statement_id, part)
    await _match(tx, statement_id, upload.provider)
    await _compare(tx, statement_id, upload, now_ms=now_ms)
    await _miss(tx, statement_id, upload, columns, now_ms=now_ms)
    await _sum_up(tx, statement_id)
    await _alert(tx, statement_id, upload, now_ms=now_ms)
    return await session.get_one(ProviderStatement, statement_id), True


async def _store(tx: Statements, statement_id: str, lines: Sequence[Line]) -> None:
    await tx.many(
        "INSERT INTO provider_statement_line (statement_id, line, kind, reference, provider_reference, rrn, amount, "
        "fee, at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (
                statement_id, one.line, one.kind.value, one.reference, one.provider_reference, one.rrn, one.amount,
                one.fee, one.at_ms,
            )
            for one in lines
        ],
    )  # fmt: skip


_FIND_PAYMENT = """
UPDATE provider_statement_line SET payment_id =
  (SELECT a.payment_id FROM payment_attempt a WHERE a.provider = $2 AND a.{named} LIMIT 1)
WHERE statement_id = $1 AND kind = 'payment' AND payment_id IS NULL
"""
_FIND_REFUND = """
UPDATE provider_statement_line SET refund_id =
  (SELECT r.id FROM refund r WHERE r.provider = $2 AND r.{named} LIMIT 1)
WHERE statement_id = $1 AND kind = 'refund' AND refund_id IS NULL
"""


async def _match(tx: Statements, statement_id: str, provider: str) -> None:
    """Whose each line is, by the surest name first."""
    line = "provider_statement_line"
    for named in (
        f"reference = {line}.reference",
        f"reference = {line}.reference || ':rrn:' || {line}.rrn",
        f"provider_reference = {line}.provider_reference",
    ):
        await tx.execute(_FIND_PAYMENT.format(named=named), statement_id, provider)
    for named in (f"reference = {line}.reference", f"provider_refund_id = {line}.provider_reference"):
        await tx.execute(_FIND_REFUND.format(named=named), statement_id, provider)


# Each line with what it is to us; the first reason that holds is the one that is told.
_PAYMENT_LINES = """
SELECT l.line, coalesce(l.reference, l.provider_reference) AS reference, l.at_ms, l.payment_id, NULL AS refund_id,
       p.paid_amount AS our_amount, l.amount AS their_amount,
       CASE
         WHEN l.payment_id IS NULL THEN 'reference_unknown'
         WHEN row_number() OVER (PARTITION BY l.payment_id ORDER BY l.line) > 1 THEN 'twice_in_statement'
         WHEN p.paid_at_ms IS NULL AND p.state IN ('needs_review', 'refunded') THEN 'kept_apart'
         WHEN p.paid_at_ms IS NULL THEN 'not_paid'
         WHEN NOT EXISTS (SELECT 1 FROM payment_attempt a WHERE a.payment_id = p.id AND a.provider = $2
                          AND a.state = 'succeeded') THEN 'paid_elsewhere'
         WHEN l.amount <> p.paid_amount THEN 'amount'
         WHEN l.fee <> p.fee_amount THEN 'fee'
       END AS reason,
       l.fee, p.fee_amount
FROM provider_statement_line l LEFT JOIN payment p ON p.id = l.payment_id
WHERE l.statement_id = $1 AND l.kind = 'payment'
"""
_REFUND_LINES = """
SELECT l.line, coalesce(l.reference, l.provider_reference) AS reference, l.at_ms, r.payment_id, l.refund_id,
       r.amount AS our_amount, l.amount AS their_amount,
       CASE
         WHEN l.refund_id IS NULL THEN 'reference_unknown'
         WHEN row_number() OVER (PARTITION BY l.refund_id ORDER BY l.line) > 1 THEN 'twice_in_statement'
         WHEN r.state <> 'done' THEN 'not_done'
         WHEN l.amount <> r.amount THEN 'amount'
       END AS reason,
       NULL AS fee, NULL AS fee_amount
FROM provider_statement_line l LEFT JOIN refund r ON r.id = l.refund_id
WHERE l.statement_id = $1 AND l.kind = 'refund'
"""
_EXTRA = ("reference_unknown", "twice_in_statement")

_INSERT = """
INSERT INTO reconciliation_difference (id, statement_id, provider, day, kind, reason, line, reference, payment_id,
                                       refund_id, our_amount, their_amount, state, created_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'open', $13)
"""


async def _compare(tx: Statements, statement_id: str, upload: Upload, *, now_ms: int) -> None:
    """List what the statement says and we do not, or not so."""
    for lines, asked in ((_PAYMENT_LINES, [statement_id, upload.provider]), (_REFUND_LINES, [statement_id])):
        rows = await tx.fetch(f"SELECT * FROM ({lines}) l WHERE reason IS NOT NULL ORDER BY line", *asked)
        await tx.many(
            _INSERT,
            [
                (
                    new_id("dif"), statement_id, upload.provider, _day(row["at_ms"], upload),
                    "extra" if row["reason"] in _EXTRA else "different", row["reason"], row["line"], row["reference"],
                    row["payment_id"], row["refund_id"],
                    row["fee_amount"] if row["reason"] == "fee" else row["our_amount"],
                    row["fee"] if row["reason"] == "fee" else row["their_amount"], now_ms,
                )
                for row in rows
            ],
        )  # fmt: skip


def _day(at_ms: int | None, upload: Upload) -> str:
    """The day in Jakarta that a line is counted on: its own, within the statement's."""
    if at_ms is None:
        return upload.day_to
    return min(max(jakarta_day(at_ms), upload.day_from), upload.day_to)


# What we booked in these days, and no statement of anybody has told so far. Captures are found by their journals' ids,
# which sort by birth.
_MISSED_PAYMENTS = """
SELECT p.id AS payment_id, NULL AS refund_id, a.reference, p.paid_amount AS amount, p.paid_at_ms AS at_ms
FROM journal j
JOIN payment p ON p.id = j.payment_id
JOIN payment_attempt a ON a.payment_id = p.id AND a.provider = $1 AND a.state = 'succeeded'
WHERE j.kind = 'capture' AND j.id >= $4 AND p.paid_at_ms >= $2 AND p.paid_at_ms < $3
  AND NOT EXISTS (SELECT 1 FROM provider_statement_line l WHERE l.payment_id = p.id)
ORDER BY p.id
"""
_MISSED_REFUNDS = """
SELECT r.payment_id, r.id AS refund_id, r.reference, r.amount, r.finished_at_ms AS at_ms
FROM refund r
WHERE r.provider = $1 AND r.state = 'done' AND r.id >= $4 AND r.finished_at_ms >= $2 AND r.finished_at_ms < $3
  AND NOT EXISTS (SELECT 1 FROM provider_statement_line l WHERE l.refund_id = r.id)
ORDER BY r.id
"""


async def _miss(tx: Statements, statement_id: str, upload: Upload, columns: Columns, *, now_ms: int) -> None:
    """List what we booked and the statement lacks; what an earlier statement lacked and this one has is cleared."""
    for of in ("payment", "refund"):
        await tx.execute(
            "UPDATE reconciliation_difference SET state = 'cleared', ended_at_ms = $2 "
            f"WHERE state = 'open' AND kind = 'missing' AND {of}_id IN "
            f"(SELECT l.{of}_id FROM provider_statement_line l WHERE l.statement_id = $1 AND l.kind = '{of}')",
            statement_id, now_ms,
        )  # fmt: skip
    from_ms, to_ms = jakarta_ms(upload.day_from), jakarta_ms(upload.day_to) + DAY_MS
    born = lowest_id("jrn", from_ms - _BOOKED_EARLY_MS)
    missed = list(await tx.fetch(_MISSED_PAYMENTS, upload.provider, from_ms, to_ms, born))
    if columns.refunds:  # a statement that never tells of refunds misses none
        born = lowest_id("rfd", from_ms - _REFUND_MAY_TAKE_MS)
        missed += await tx.fetch(_MISSED_REFUNDS, upload.provider, from_ms, to_ms, born)
    await tx.many(
        _INSERT + " ON CONFLICT DO NOTHING",  # another statement of these days missed it already
        [
            (
                new_id("dif"), statement_id, upload.provider, _day(row["at_ms"], upload), "missing",
                "not_in_statement", None, row["reference"], row["payment_id"], row["refund_id"], row["amount"], None,
                now_ms,
            )
            for row in missed
        ],
    )  # fmt: skip


async def _sum_up(tx: Statements, statement_id: str) -> None:
    await tx.execute(
        """
UPDATE provider_statement SET payments = s.payments, paid_amount = s.paid, fee_amount = s.fee, refunds = s.refunds,
       refunded_amount = s.refunded, matched = s.matched
FROM (SELECT coalesce(sum(CASE WHEN kind = 'payment' THEN 1 ELSE 0 END), 0) AS payments,
             coalesce(sum(CASE WHEN kind = 'payment' THEN amount ELSE 0 END), 0) AS paid,
             sum(CASE WHEN kind = 'payment' THEN fee END) AS fee,
             coalesce(sum(CASE WHEN kind = 'refund' THEN 1 ELSE 0 END), 0) AS refunds,
             coalesce(sum(CASE WHEN kind = 'refund' THEN amount ELSE 0 END), 0) AS refunded,
             count(*) - (SELECT count(DISTINCT line) FROM reconciliation_difference WHERE statement_id = $1) AS matched
      FROM provider_statement_line WHERE statement_id = $1) s
WHERE provider_statement.id = $1
""",
        statement_id,
    )


async def _alert(tx: Statements, statement_id: str, upload: Upload, *, now_ms: int) -> None:
    rows = await tx.fetch(
        "SELECT kind, count(*) AS n FROM reconciliation_difference WHERE statement_id = $1 AND state = 'open' "
        "GROUP BY kind ORDER BY kind",
        statement_id,
    )
    if rows:
        facts = {row["kind"]: int(row["n"]) for row in rows} | {"provider": upload.provider, "day_to": upload.day_to}
        await raise_alert(
            tx, *_about(statement_id), severity=Severity.WARNING, facts=facts, now_ms=now_ms,
        )  # fmt: skip


def _about(statement_id: str) -> tuple[str, tuple[str, str]]:
    return "reconciliation.differences", ("statement", statement_id)


async def settle(
    session: AsyncSession, difference_id: str, settlement: Settlement, *, note: str, by: str, now_ms: int
) -> Difference:
    """An operator knows why, and says so. Raises NotFound, or IllegalTransition for what is over."""
    difference = await session.get(Difference, difference_id, with_for_update=KEY_STAYS)
    if difference is None:
        raise NotFound("No such difference.", difference_id=difference_id)
    difference.state = require(difference.state, DifferenceState.SETTLED)
    difference.settlement, difference.note, difference.settled_by = settlement.value, note, by
    difference.ended_at_ms = now_ms
    left = await (await statements(session)).fetch(
        "SELECT id FROM reconciliation_difference WHERE statement_id = $1 AND state = 'open' LIMIT 1",
        difference.statement_id,
    )
    if not left:
        await clear(await statements(session), *_about(difference.statement_id), now_ms=now_ms)
    return difference
