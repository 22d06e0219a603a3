"""Taking a bank's word for what became of a payout: once for each report, in whatever order they come."""

from collections.abc import Awaitable, Callable

from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.payouts import service
from soundbox_server.payouts.state import LIVE, EventOutcome, PayoutState
from soundbox_server.providers.base import PayoutReport

Taken = tuple[EventOutcome, str | None]  # and the payout's id; None for an orphan
Judged = tuple[EventOutcome, str | None]  # and why
Elsewhere = Callable[..., Awaitable[Judged | None]]  # (tx, report, *, now_ms): of transfers that are no payouts
_LIVE = ", ".join(f"'{state}'" for state in LIVE)
_SENT = (PayoutState.SUBMITTED, PayoutState.UNKNOWN)

_INSERT = """
INSERT INTO payout_event (id, bank, event_key, body_sha256, body, outcome, reason, payout_id, reference, request_id,
                          received_at_ms)
VALUES ($1, $2, $3, $4, $5, 'orphan', 'reference_unknown', NULL, $6, $7, $8)
ON CONFLICT (bank, event_key, body_sha256) DO NOTHING RETURNING id
"""


async def take(
    tx: Statements, report: PayoutReport, *, request_id: str, now_ms: int, elsewhere: Elsewhere | None = None
) -> Taken:
    """Store the report and do what it says. One that was stored before changes nothing, and gets its old outcome.
    `elsewhere` is asked about transfers that are no payouts."""
    payout = await _locked(tx, report)
    event_id = new_id("pye")
    stands = await tx.fetch(
        _INSERT, event_id, report.provider, report.event_id, report.body_sha256, report.body, report.payout_reference,
        request_id, now_ms,
    )  # fmt: skip
    if not stands:
        return await _seen(tx, report)
    if payout is None and elsewhere and (judged := await elsewhere(tx, report, now_ms=now_ms)):
        outcome, reason = judged
        await tx.execute(
            "UPDATE payout_event SET outcome = $2, reason = $3 WHERE id = $1", event_id, outcome.value, reason
        )
        return outcome, None
    if payout is None:
        await _unknown(tx, report, now_ms=now_ms)
        return EventOutcome.ORPHAN, None
    outcome, reason = await _judge(tx, payout, report, now_ms=now_ms)
    await tx.execute(
        "UPDATE payout_event SET outcome = $2, reason = $3, payout_id = $4 WHERE id = $1",
        event_id, outcome.value, reason, payout["id"],
    )  # fmt: skip
    return outcome, str(payout["id"])


async def _locked(tx: Statements, report: PayoutReport) -> Row | None:
    """Its settlement first. Which payout has a reference never changes, so no lock is needed to see it."""
    found = await tx.fetch(
        "SELECT id, settlement_id FROM payout WHERE reference = $1 AND bank = $2",
        report.payout_reference,
        report.provider,
    )
    if not found:
        return None
    await service.lock_settlement(tx, found[0]["settlement_id"])
    return await service.lock_payout(tx, found[0]["id"])


async def _seen(tx: Statements, report: PayoutReport) -> Taken:
    rows = await tx.fetch(
        "SELECT outcome, payout_id FROM payout_event WHERE bank = $1 AND event_key = $2 AND body_sha256 = $3",
        report.provider,
        report.event_id,
        report.body_sha256,
    )
    return EventOutcome(rows[0]["outcome"]), rows[0]["payout_id"]


async def _unknown(tx: Statements, report: PayoutReport, *, now_ms: int) -> None:
    await raise_alert(
        tx, "payout.orphan", ("bank", report.provider), severity=Severity.WARNING,
        facts={"reference": report.payout_reference, "status": report.state, "amount": report.amount_idr},
        now_ms=now_ms,
    )  # fmt: skip


async def _judge(tx: Statements, payout: Row, report: PayoutReport, *, now_ms: int) -> Judged:
    state = PayoutState(payout["state"])
    if report.state == "pending":
        return EventOutcome.IGNORED, "pending_says_nothing"
    if report.currency != "IDR" or report.amount_idr != payout["amount"]:
        return await _to_be_looked_at(tx, payout, report, "amount_mismatch", now_ms=now_ms)
    if state is PayoutState.CREATED:
        return await _to_be_looked_at(tx, payout, report, "never_sent", now_ms=now_ms)
    if report.state == state.value:
        return EventOutcome.DUPLICATE, None
    if report.state == "failed":
        return await _failed(tx, payout, state, report, now_ms=now_ms)
    if state is PayoutState.REVERSED:
        return EventOutcome.IGNORED, "already_reversed"
    return await _paid(tx, payout, state, report, now_ms=now_ms)


async def _failed(tx: Statements, payout: Row, state: PayoutState, report: PayoutReport, *, now_ms: int) -> Judged:
    if state not in _SENT:  # what was paid is never unpaid, except by a reversal
        return await _to_be_looked_at(tx, payout, report, f"already_{state}", now_ms=now_ms)
    settlement = await service.lock_settlement(tx, payout["settlement_id"])
    await service.fail(tx, settlement, payout, code="PAYOUT_FAILED", now_ms=now_ms)
    return EventOutcome.APPLIED, None


async def _paid(tx: Statements, payout: Row, state: PayoutState, report: PayoutReport, *, now_ms: int) -> Judged:
    """Succeeded, or reversed after it had: that report may come first."""
    if state is PayoutState.FAILED and await _another_lives(tx, payout):
        return await _to_be_looked_at(tx, payout, report, "paid_twice", now_ms=now_ms)
    if state is not PayoutState.SUCCEEDED:
        settlement = await service.lock_settlement(tx, payout["settlement_id"])
        await service.succeed(tx, settlement, payout, now_ms=now_ms)
    if report.state == "reversed":
        settlement = await service.lock_settlement(tx, payout["settlement_id"])
        await service.reverse(tx, settlement, await service.lock_payout(tx, payout["id"]), now_ms=now_ms)
    await tx.execute(
        "UPDATE payout SET bank_payout_id = coalesce(bank_payout_id, $2) WHERE id = $1",
        payout["id"],
        report.provider_payout_id,
    )
    return EventOutcome.APPLIED, None


async def _another_lives(tx: Statements, payout: Row) -> bool:
    """Whether the settlement was paid, or is being paid, by another payout since this one failed."""
    rows = await tx.fetch(
        f"SELECT id FROM payout WHERE settlement_id = $1 AND id <> $2 AND state IN ({_LIVE})",
        payout["settlement_id"],
        payout["id"],
    )
    return bool(rows)


async def _to_be_looked_at(tx: Statements, payout: Row, report: PayoutReport, reason: str, *, now_ms: int) -> Judged:
    """It fits nothing we know: nothing is booked, and somebody has to find out."""
    facts = {"reason": reason, "status": report.state, "told_amount": report.amount_idr}
    await service.alert(tx, "payout.contradicted", payout, facts, severity=Severity.CRITICAL, now_ms=now_ms)
    return EventOutcome.NEEDS_REVIEW, reason
