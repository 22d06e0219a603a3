"""Taking providers' word that money went back, or is argued about. It seldom comes, so it is taken one by one, and is
plain rather than quick; the locks and their order are those of `service.py`.

Nothing is ever said by a box about it: what it announced was true when it said so.
"""

import dataclasses
from collections.abc import Sequence

from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.payments import suspense
from soundbox_server.payments.asking import ask_now
from soundbox_server.payments.locked import charged_by, lock_payment
from soundbox_server.payments.refunds import (
    borne_by_merchant,
    fail_refund,
    fits,
    more_than_paid,
    refund_by_reference,
    take_done,
    take_unasked,
    warn_of_promised,
)
from soundbox_server.payments.reports import kept_report
from soundbox_server.payments.service import Taken
from soundbox_server.payments.state import (
    OPEN,
    PENDING,
    REFUNDS,
    TRANSITIONS,
    Outcome,
    PaymentState,
    RefundState,
    require,
)
from soundbox_server.payments.timeline import step
from soundbox_server.providers.base import AdjustmentReport
from soundbox_server.revenue import service as revenue

_TAKEN_BACK = ("reversed", "denied")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReceivedAdjustment:
    """A verified report with the request that brought it."""

    report: AdjustmentReport
    request_id: str
    received_at_ms: int


Judged = tuple[Outcome, str | None]


async def take_adjustments(tx: Statements, received: Sequence[ReceivedAdjustment], *, now_ms: int) -> list[Taken]:
    """One outcome per report, in their order. A report seen before gets its stored outcome and changes nothing."""
    payments = {id(one): await _payment_of(tx, one.report) for one in received}
    await _lock_in_order(tx, {found for found in payments.values() if found is not None})
    return [await _take(tx, one, payments[id(one)], now_ms=now_ms) for one in received]


async def _payment_of(tx: Statements, report: AdjustmentReport) -> str | None:
    """Whose attempt it is never changes, so that no lock is needed to see it."""
    for column, value in (
        ("reference", report.partner_reference), ("provider_reference", report.provider_transaction_id),
    ):  # fmt: skip
        if value is None:
            continue
        rows = await tx.fetch(
            f"SELECT payment_id FROM payment_attempt WHERE provider = $1 AND {column} = $2", report.provider, value
        )
        if rows:
            return str(rows[0]["payment_id"])
    return None


async def _lock_in_order(tx: Statements, payment_ids: set[str]) -> None:
    if payment_ids:
        await tx.fetch(
            f"SELECT id FROM payment WHERE id {tx.among(1)} ORDER BY id {tx.lock('payment')}", sorted(payment_ids)
        )


_INSERT_EVENT = """
INSERT INTO provider_event (id, provider, event_key, body_sha256, body, outcome, reason, payment_id, reference,
                            request_id, received_at_ms, report)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (provider, event_key, body_sha256) DO NOTHING RETURNING id
"""


async def _take(tx: Statements, received: ReceivedAdjustment, payment_id: str | None, *, now_ms: int) -> Taken:
    report, event_id = received.report, new_id("evt")
    found = Outcome.IGNORED if payment_id else Outcome.ORPHAN
    stands = await tx.fetch(
        _INSERT_EVENT, event_id, report.provider, report.event_id, report.body_sha256, report.body, found.value,
        None if payment_id else "reference_unknown", payment_id, reference_of(report), received.request_id,
        received.received_at_ms, None if payment_id else kept_report(report),
    )  # fmt: skip
    if not stands:
        return await _seen(tx, report)
    if payment_id is None:
        return Taken(outcome=found, payment_id=None)
    outcome, reason = await apply(tx, report, payment_id, event_id=event_id, now_ms=now_ms)
    await tx.execute(
        "UPDATE provider_event SET outcome = $2, reason = $3 WHERE id = $1", event_id, outcome.value, reason
    )
    return Taken(outcome=outcome, payment_id=payment_id)


def reference_of(report: AdjustmentReport) -> str:
    """What the report calls the payment."""
    return report.partner_reference or report.provider_transaction_id or ""


async def _seen(tx: Statements, report: AdjustmentReport) -> Taken:
    rows = await tx.fetch(
        "SELECT outcome, payment_id FROM provider_event WHERE provider = $1 AND event_key = $2 AND body_sha256 = $3",
        report.provider,
        report.event_id,
        report.body_sha256,
    )
    return Taken(outcome=Outcome(rows[0]["outcome"]), payment_id=rows[0]["payment_id"])


async def apply(tx: Statements, report: AdjustmentReport, payment_id: str, *, event_id: str, now_ms: int) -> Judged:
    """What this report does to its payment: the outcome and why."""
    payment = await lock_payment(tx, payment_id)
    outcome, reason = await _judge(tx, payment, report, event_id=event_id, now_ms=now_ms)
    if outcome is not Outcome.APPLIED:
        await step(
            tx, payment_id, f"report.{outcome}", await _state(tx, payment_id), source=report.provider, detail=reason,
            now_ms=now_ms,
        )  # fmt: skip
    return outcome, reason


async def _state(tx: Statements, payment_id: str) -> str:
    rows = await tx.fetch("SELECT state FROM payment WHERE id = $1", payment_id)
    return str(rows[0]["state"])


async def _judge(tx: Statements, payment: Row, report: AdjustmentReport, *, event_id: str, now_ms: int) -> Judged:
    if not report.confirmed:
        await ask_now(tx, payment["id"], now_ms=now_ms)
        return Outcome.IGNORED, "to_be_confirmed_by_query"
    if report.currency != "IDR":
        return await _to_be_looked_at(tx, payment, report, "currency_mismatch", now_ms=now_ms)
    if report.kind in ("refund_pending", "refund_failed"):
        return await _refund_news(tx, payment, report, now_ms=now_ms)
    if report.kind == "refunded":
        wanted = await refund_by_reference(tx, payment["id"], report.refund_reference or report.event_id)
        if wanted is not None:
            return await _refunded(tx, payment, wanted, report, now_ms=now_ms)
    if (besides := await _came_besides(tx, payment, report)) is not None:
        return await _take_besides(tx, payment, report, besides, now_ms=now_ms)
    if payment["state"] != PaymentState.NEEDS_REVIEW and await _is_of_another_charge(tx, payment, report):
        return await _about_another_charge(tx, payment, report, now_ms=now_ms)
    if report.kind in _TAKEN_BACK:
        return await _take_back(tx, payment, report, event_id=event_id, now_ms=now_ms)
    if report.kind == "disputed":
        return await _dispute(tx, payment, report, now_ms=now_ms)
    return await _refunded_unasked(tx, payment, report, now_ms=now_ms)


async def _came_besides(tx: Statements, payment: Row, report: AdjustmentReport) -> int | None:
    """How much this provider brought besides what was captured, where that is what goes away: its money came twice, and
    the sum is that of what is kept apart. What the merchant has stays."""
    if payment["paid_at_ms"] is None or report.kind == "disputed":
        return None
    kept = (await suspense.held(tx, payment["id"])).get(report.provider, 0)
    return kept if kept and _amount(payment, report) in (None, kept) else None


async def _take_besides(tx: Statements, payment: Row, report: AdjustmentReport, amount: int, *, now_ms: int) -> Judged:
    if await pending_from_suspense(tx, payment["id"]):
        return await _to_be_looked_at(tx, payment, report, f"{report.kind}_while_refunding", now_ms=now_ms)
    if report.kind == "refunded":
        await take_unasked(
            tx, payment, amount=amount, named=report.refund_reference or report.event_id, source=report.provider,
            from_suspense=True, now_ms=now_ms,
        )  # fmt: skip
    else:
        await _release_taken_back(tx, payment, report, amount, state=PaymentState(payment["state"]), now_ms=now_ms)
    return Outcome.APPLIED, None


async def _is_of_another_charge(tx: Statements, payment: Row, report: AdjustmentReport) -> bool:
    """Whether it speaks of a charge that is not its payment's: one that was given up, or whose money came twice. What
    names no charge at all was given to this payment by a person."""
    if payment["current_attempt_id"] is None:
        return False
    rows = await tx.fetch(
        "SELECT id FROM payment_attempt WHERE payment_id = $1 AND provider = $2 "
        "AND (reference = $3 OR provider_reference = $4)",
        payment["id"], report.provider, report.partner_reference, report.provider_transaction_id,
    )  # fmt: skip
    return bool(rows) and payment["current_attempt_id"] not in {row["id"] for row in rows}


async def _about_another_charge(tx: Statements, payment: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    """Nothing of it was captured, and nothing is kept apart: it moves no money of ours, and ends nothing."""
    if report.kind == "denied":
        return Outcome.IGNORED, "attempt_superseded"
    reason = f"{report.kind}_of_another_charge"
    await _alert(tx, payment, f"payment.{report.kind}", {"reason": reason, "provider": report.provider}, now_ms=now_ms)
    return Outcome.NEEDS_REVIEW, reason


async def _to_be_looked_at(
    tx: Statements, payment: Row, report: AdjustmentReport, reason: str, *, now_ms: int
) -> Judged:
    """It fits nothing we know. No money is booked; where the payment is unpaid, none will be without an operator."""
    if PaymentState.NEEDS_REVIEW in TRANSITIONS[PaymentState(payment["state"])]:
        await tx.execute(
            "UPDATE payment SET state = 'needs_review', review_reason = coalesce(review_reason, $2) WHERE id = $1",
            payment["id"],
            reason,
        )
    await _alert(tx, payment, f"payment.{report.kind}", {"reason": reason}, now_ms=now_ms)
    return Outcome.NEEDS_REVIEW, reason


async def _take_back(tx: Statements, payment: Row, report: AdjustmentReport, *, event_id: str, now_ms: int) -> Judged:
    state = PaymentState(payment["state"])
    if state in OPEN:
        if report.kind == "denied":
            return await _deny(tx, payment, report, now_ms=now_ms)
        return await _to_be_looked_at(tx, payment, report, "reversed_before_paid", now_ms=now_ms)
    if state is PaymentState.NEEDS_REVIEW:
        return await _take_back_from_suspense(tx, payment, report, now_ms=now_ms)
    if PaymentState.REVERSED not in TRANSITIONS[state]:
        return Outcome.IGNORED, f"already_{state}"
    left = payment["paid_amount"] - payment["refunded_amount"]
    if report.amount_idr not in (None, left, payment["paid_amount"]):  # a part of it, or more than there is
        return await _to_be_looked_at(tx, payment, report, f"{report.kind}_amount_mismatch", now_ms=now_ms)
    await reverse(tx, payment, event_id=event_id, source=report.provider, now_ms=now_ms)
    await _alert(tx, payment, "payment.reversed", {"provider": report.provider}, now_ms=now_ms)
    return Outcome.APPLIED, None


async def _deny(tx: Statements, payment: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    await tx.execute("UPDATE payment SET state = 'failed' WHERE id = $1", payment["id"])
    await tx.execute(
        "UPDATE payment_attempt SET state = 'failed' WHERE payment_id = $1 AND state NOT IN ('succeeded', 'expired')",
        payment["id"],
    )
    await step(tx, payment["id"], "payment.failed", PaymentState.FAILED, source=report.provider, now_ms=now_ms)
    return Outcome.APPLIED, None


async def _take_back_from_suspense(tx: Statements, payment: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    """What it brought goes; whatever another provider brought is still for an operator."""
    kept = await suspense.held(tx, payment["id"])
    if report.provider not in kept or len(kept) > 1 or report.amount_idr not in (None, kept[report.provider]):
        return await _to_be_looked_at(tx, payment, report, f"{report.kind}_in_review", now_ms=now_ms)
    if await pending_from_suspense(tx, payment["id"]):
        return await _to_be_looked_at(tx, payment, report, f"{report.kind}_while_refunding", now_ms=now_ms)
    amount = kept[report.provider]
    await _release_taken_back(tx, payment, report, amount, state=PaymentState.FAILED, now_ms=now_ms)
    return Outcome.APPLIED, None


async def _release_taken_back(
    tx: Statements, payment: Row, report: AdjustmentReport, amount: int, *, state: PaymentState, now_ms: int
) -> None:
    key = f"reversal:{payment['id']}:{report.event_id}"
    await suspense.release(tx, payment["id"], provider=report.provider, amount=amount, key=key, now_ms=now_ms)
    await tx.execute(
        "UPDATE payment SET state = $2, review_reason = $3, resolution = 'rejected' WHERE id = $1",
        payment["id"],
        state.value,
        payment["review_reason"] if await suspense.held(tx, payment["id"]) else None,
    )
    await step(
        tx, payment["id"], "payment.taken_back", state, source=report.provider, detail=report.kind, now_ms=now_ms
    )


async def pending_from_suspense(tx: Statements, payment_id: str) -> bool:
    """Whether money that was kept apart is on its way back."""
    rows = await tx.fetch(
        "SELECT id FROM refund WHERE payment_id = $1 AND from_suspense AND state NOT IN ('done', 'failed')", payment_id
    )
    return bool(rows)


async def reverse(tx: Statements, payment: Row, *, event_id: str | None, source: str, now_ms: int) -> None:
    """The bank took the money of a paid payment back: every posting of its capture is booked the other way round, less
    what refunds took back already. Refunds that were only wished for are not sent any more."""
    state = require(payment["state"], PaymentState.REVERSED)
    rows = await tx.fetch(
        "SELECT coalesce(sum(fee_returned), 0) AS fee, max(finished_at_ms) AS last FROM refund "
        "WHERE payment_id = $1 AND state = 'done'",
        payment["id"],
    )
    now_ms = max(now_ms, rows[0]["last"] or 0)  # the clock was read before the lock was ours
    fee_returned, refunded = int(rows[0]["fee"]), payment["refunded_amount"]
    journal = ledger.reversal(
        await borne_by_merchant(tx, payment),
        payment_id=payment["id"],
        provider_event_id=event_id,
        refunded=refunded,
        fee_returned=fee_returned,
    )
    await ledger.post(tx, [journal], now_ms=now_ms)
    await tx.execute(
        "UPDATE payment SET state = $2, reversed_at_ms = $3 WHERE id = $1", payment["id"], state.value, now_ms
    )
    await warn_of_promised(tx, payment, state, now_ms=now_ms)
    await tx.execute(
        "UPDATE refund SET state = 'failed', error_code = 'PAYMENT_REVERSED', finished_at_ms = $2, ask_at_ms = NULL "
        "WHERE payment_id = $1 AND state = 'requested' AND NOT from_suspense",
        payment["id"],
        now_ms,
    )
    attempt = await charged_by(tx, payment["id"])
    earned = revenue.Entry(
        at_ms=now_ms,
        terminal_id=payment["terminal_id"],
        provider=attempt["provider"] if attempt else revenue.without_provider(payment["method"]),
        merchant_id=payment["merchant_id"],
        reversals=1,
        reversed_amount=payment["paid_amount"] - refunded,
        fee_returned=payment["fee_amount"] - fee_returned,
    )
    await revenue.add(tx, [earned])
    await step(tx, payment["id"], "payment.reversed", state, source=source, now_ms=now_ms)


async def _dispute(tx: Statements, payment: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    state = PaymentState(payment["state"])
    if state is PaymentState.DISPUTED:
        return Outcome.DUPLICATE, None
    if PaymentState.DISPUTED not in TRANSITIONS[state]:
        if payment["paid_at_ms"] is not None:
            return Outcome.IGNORED, f"already_{state}"
        return await _to_be_looked_at(tx, payment, report, "disputed_before_paid", now_ms=now_ms)
    await tx.execute("UPDATE payment SET state = 'disputed' WHERE id = $1", payment["id"])
    await step(tx, payment["id"], "payment.disputed", PaymentState.DISPUTED, source=report.provider, now_ms=now_ms)
    await _alert(tx, payment, "payment.disputed", {"provider": report.provider}, now_ms=now_ms)
    return Outcome.APPLIED, None


async def _refunded(tx: Statements, payment: Row, refund: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    if refund["state"] == RefundState.DONE:
        return Outcome.DUPLICATE, None
    if report.amount_idr not in (None, refund["amount"]):
        await more_than_paid(tx, payment, report.amount_idr or 0, now_ms=now_ms)
        return Outcome.NEEDS_REVIEW, "refund_amount_mismatch"
    if not await fits(tx, payment, refund):
        await more_than_paid(tx, payment, refund["amount"], now_ms=now_ms)
        return Outcome.NEEDS_REVIEW, "refunded_more_than_paid"
    await take_done(tx, payment, refund, source=report.provider, now_ms=now_ms)
    return Outcome.APPLIED, None


async def _refunded_unasked(tx: Statements, payment: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    if payment["paid_at_ms"] is None:
        return await _refunded_from_suspense(tx, payment, report, now_ms=now_ms)
    left = payment["paid_amount"] - payment["refunded_amount"]
    amount = _amount(payment, report)
    if amount is None:
        await ask_now(tx, payment["id"], now_ms=now_ms)
        return Outcome.IGNORED, "amount_unknown"
    if amount <= 0:
        return Outcome.DUPLICATE, None
    if amount > left:
        await more_than_paid(tx, payment, amount, now_ms=now_ms)
        return Outcome.NEEDS_REVIEW, "refunded_more_than_paid"
    await take_unasked(
        tx, payment, amount=amount, named=report.refund_reference or report.event_id, source=report.provider,
        from_suspense=False, now_ms=now_ms,
    )  # fmt: skip
    return Outcome.APPLIED, None


def _amount(payment: Row, report: AdjustmentReport) -> int | None:
    """What this report moves; where it only tells a total, what that is more than we know of."""
    if report.amount_idr is not None:
        return report.amount_idr
    return None if report.total_idr is None else report.total_idr - int(payment["refunded_amount"])


async def _refunded_from_suspense(tx: Statements, payment: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    """The provider gave back by itself what we keep apart, if the sums agree; else an operator finds out."""
    kept = (await suspense.held(tx, payment["id"])).get(report.provider, 0)
    if not kept or _amount(payment, report) not in (None, kept) or await pending_from_suspense(tx, payment["id"]):
        return await _to_be_looked_at(tx, payment, report, "refunded_before_paid", now_ms=now_ms)
    await take_unasked(
        tx, payment, amount=kept, named=report.refund_reference or report.event_id, source=report.provider,
        from_suspense=True, now_ms=now_ms,
    )  # fmt: skip
    return Outcome.APPLIED, None


async def _refund_news(tx: Statements, payment: Row, report: AdjustmentReport, *, now_ms: int) -> Judged:
    """A refund is on its way, or will not come about."""
    refund = await refund_by_reference(tx, payment["id"], report.refund_reference)
    if refund is None:
        return Outcome.IGNORED, "no_such_refund"
    if report.kind == "refund_pending":
        return Outcome.IGNORED, "pending_says_nothing"
    if RefundState(refund["state"]) not in PENDING or RefundState.FAILED not in REFUNDS[RefundState(refund["state"])]:
        return Outcome.IGNORED, f"refund_{refund['state']}"
    await fail_refund(tx, payment, refund, code="REFUSED_BY_PROVIDER", source=report.provider, now_ms=now_ms)
    return Outcome.APPLIED, None


async def _alert(tx: Statements, payment: Row, kind: str, facts: dict[str, object], *, now_ms: int) -> None:
    await raise_alert(
        tx, kind, ("transaction", payment["id"]), severity=Severity.CRITICAL,
        facts={"merchant_id": payment["merchant_id"], "amount": payment["paid_amount"] or payment["amount"], **facts},
        now_ms=now_ms,
    )  # fmt: skip
