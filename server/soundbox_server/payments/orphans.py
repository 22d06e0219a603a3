"""Money and news that came before anybody knew whose they are: matched when a payment with that reference appears, or
when an operator says which one it is. What was kept apart is booked then, and announced unless it is too late to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from soundbox_server.announcements.service import Telling
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.ledger import service as ledger
from soundbox_server.payments import adjustments, suspense
from soundbox_server.payments.reports import read_kept
from soundbox_server.payments.service import Received, take_found
from soundbox_server.payments.state import Outcome


@dataclass(frozen=True, kw_only=True)
class Match:
    """An orphan and the payment that it belongs to."""

    event_id: str
    payment_id: str


_MATCHED = """
SELECT e.id AS event_id, a.payment_id FROM provider_event e
JOIN payment_attempt a ON a.provider = e.provider AND a.{column} = e.reference
WHERE e.outcome = 'orphan' ORDER BY e.received_at_ms, e.id LIMIT $1
"""


async def matches(tx: Statements, *, limit: int) -> list[Match]:
    """Orphans whose payment is there by now, the oldest first."""
    rows = await tx.fetch(_MATCHED.format(column="reference"), limit)
    rows = [*rows, *await tx.fetch(_MATCHED.format(column="provider_reference"), limit)]
    return [Match(event_id=row["event_id"], payment_id=row["payment_id"]) for row in rows]


async def match(
    tx: Statements, found: Sequence[Match], *, telling: Telling, late_report_ms: int, now_ms: int
) -> list[Outcome]:
    """Take these reports as if they had come just now; their money is there already. What somebody else matched
    meanwhile is left as it is."""
    outcomes = []
    for one in sorted(found, key=lambda one: (one.payment_id, one.event_id)):
        await tx.fetch("SELECT id FROM payment WHERE id = $1 " + tx.lock("payment"), one.payment_id)
        event = await _lock_event(tx, one.event_id)
        if event["outcome"] == Outcome.ORPHAN:
            outcomes.append(
                await _take(tx, event, one.payment_id, telling=telling, late_report_ms=late_report_ms, now_ms=now_ms)
            )
    return outcomes


async def assign(
    tx: Statements, event_id: str, *, payment_id: str, telling: Telling, late_report_ms: int, now_ms: int
) -> Outcome:
    """An operator says which payment an orphan belongs to. Raises NotFound, or Conflict for what is no orphan or came
    from a provider that this payment was never charged at."""
    rows = await tx.fetch(
        "SELECT a.provider FROM payment p LEFT JOIN payment_attempt a ON a.payment_id = p.id WHERE p.id = $1 "
        + tx.lock("p"),
        payment_id,
    )
    if not rows:
        raise NotFound("No such transaction.", transaction_id=payment_id)
    event = await lock_orphan(tx, event_id)
    if event["provider"] not in {row["provider"] for row in rows}:
        raise Conflict("This transaction was never charged at that provider.", provider=event["provider"])
    return await _take(tx, event, payment_id, telling=telling, late_report_ms=late_report_ms, now_ms=now_ms)


async def reject(tx: Statements, event_id: str, *, now_ms: int) -> None:
    """It belongs to nobody: the provider was wrong, or took it back. Raises NotFound or Conflict."""
    event = await lock_orphan(tx, event_id)
    if amount := await suspense.brought_by(tx, event_id):
        journal = ledger.release(
            payment_id=None, provider_event_id=event_id, provider=event["provider"], amount=amount, key=event_id
        )
        await ledger.post(tx, [journal], now_ms=now_ms)
    await tx.execute("UPDATE provider_event SET outcome = 'ignored', reason = 'rejected' WHERE id = $1", event_id)


async def lock_orphan(tx: Statements, event_id: str) -> Row:
    """Raises NotFound, or Conflict for what is no orphan any more."""
    event = await _lock_event(tx, event_id)
    if event["outcome"] != Outcome.ORPHAN:
        raise Conflict("This report is no orphan.", outcome=event["outcome"])
    return event


async def _lock_event(tx: Statements, event_id: str) -> Row:
    rows = await tx.fetch(
        "SELECT id, provider, outcome, body, report, reference, request_id, received_at_ms FROM provider_event "
        "WHERE id = $1 " + tx.lock("provider_event"),
        event_id,
    )
    if not rows:
        raise NotFound("No such report.", report_id=event_id)
    return rows[0]


async def _take(
    tx: Statements, event: Row, payment_id: str, *, telling: Telling, late_report_ms: int, now_ms: int
) -> Outcome:
    if event["report"] is None:
        raise Conflict("This report was stored before its particulars were kept: reject it, or refund by hand.")
    kept = read_kept(event["report"])
    # Its money is the payment's from here on, whatever is decided about it.
    await tx.execute("UPDATE provider_event SET payment_id = $2 WHERE id = $1", event["id"], payment_id)
    if kept.payment is not None:
        received = Received(report=kept.payment, request_id=event["request_id"], received_at_ms=event["received_at_ms"])
        outcome, reason = await take_found(
            tx, received, event_id=event["id"], payment_id=payment_id, telling=telling, late_report_ms=late_report_ms,
            now_ms=now_ms,
        )  # fmt: skip
    else:
        assert kept.adjustment is not None
        outcome, reason = await adjustments.apply(tx, kept.adjustment, payment_id, event_id=event["id"], now_ms=now_ms)
    await tx.execute(
        "UPDATE provider_event SET outcome = $2, reason = $3 WHERE id = $1", event["id"], outcome.value, reason
    )
    return outcome
