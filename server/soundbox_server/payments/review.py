"""What an operator decides about money that was kept apart, and about disputes.

accept   the money is the merchant's: it is booked, and announced unless it is too late to say
refund   it goes back to whoever sent it, through the provider
reject   it is not there: the provider was wrong, took it back, or gave it back in another way
"""

from collections.abc import Mapping
from typing import Literal

from soundbox_server.announcements.service import Announced, Telling, queue_payment_announcement
from soundbox_server.clock import jakarta_day
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, FeeRuleMissing, IllegalTransition
from soundbox_server.fees.service import terms_of
from soundbox_server.fees.terms import FREE, ROUNDING, Payee, Rate, fee
from soundbox_server.ledger import service as ledger
from soundbox_server.payments import suspense
from soundbox_server.payments.adjustments import pending_from_suspense, reverse
from soundbox_server.payments.charging import promised_of
from soundbox_server.payments.locked import lock_payment
from soundbox_server.payments.refunds import NewRefund, insert_refunds, require_able
from soundbox_server.payments.reports import read_kept
from soundbox_server.payments.service import paid_at
from soundbox_server.payments.state import PaymentState, require
from soundbox_server.payments.timeline import step
from soundbox_server.providers.base import Capabilities, PaymentReport
from soundbox_server.revenue import service as revenue

Action = Literal["accept", "refund", "reject"]


async def resolve(
    tx: Statements,
    payment_id: str,
    *,
    action: Action,
    reason: str,
    by: str | None,
    able: Mapping[str, Capabilities],
    telling: Telling,
    late_report_ms: int,
    now_ms: int,
) -> None:
    """Carry out what was decided. Raises Conflict where there is nothing to decide, or where it cannot be done."""
    payment = await lock_payment(tx, payment_id)
    if payment["state"] == PaymentState.DISPUTED:
        await _settle_dispute(tx, payment, action, reason=reason, by=by, now_ms=now_ms)
        return
    if payment["review_reason"] is None:
        raise Conflict("There is nothing to decide about this transaction.", state=payment["state"])
    if await pending_from_suspense(tx, payment_id):
        raise Conflict("Its money is on its way back already.")
    kept = await suspense.held(tx, payment_id)
    if action == "accept":
        await _accept(
            tx, payment, kept, reason=reason, by=by, telling=telling, late_report_ms=late_report_ms, now_ms=now_ms
        )
    elif action == "refund":
        await _refund(tx, payment, kept, reason=reason, by=by, able=able, now_ms=now_ms)
    else:
        await _reject(tx, payment, kept, reason=reason, by=by, now_ms=now_ms)


async def _settle_dispute(
    tx: Statements, payment: Row, action: Action, *, reason: str, by: str | None, now_ms: int
) -> None:
    """Won: it is what it was before. Lost: the bank took it back."""
    if action == "refund":
        raise Conflict("What the bank is judging is not refunded beside it.")
    if action == "reject":
        await reverse(tx, payment, event_id=None, source=by or "system", now_ms=now_ms)
        return
    before = PaymentState.PARTIALLY_REFUNDED if payment["refunded_amount"] else PaymentState.PAID
    state = require(payment["state"], before)
    await tx.execute("UPDATE payment SET state = $2 WHERE id = $1", payment["id"], state.value)
    await step(tx, payment["id"], "payment.dispute_won", state, source=by or "system", detail=reason, now_ms=now_ms)


def _only(kept: Mapping[str, int]) -> tuple[str, int]:
    if not kept:
        raise Conflict("No money is kept apart for this transaction.")
    if len(kept) > 1:
        raise Conflict("Money came from several providers: refund or reject it.", providers=sorted(kept))
    return next(iter(kept.items()))


async def _accept(
    tx: Statements,
    payment: Row,
    kept: Mapping[str, int],
    *,
    reason: str,
    by: str | None,
    telling: Telling,
    late_report_ms: int,
    now_ms: int,
) -> None:
    if payment["paid_at_ms"] is not None:
        raise IllegalTransition("It is paid: what came besides can be refunded or rejected.", state=payment["state"])
    if payment["qr_mode"] == "transfer":
        raise Conflict("A QRIS transfer is no sale: refund or reject it.")
    state = require(payment["state"], PaymentState.PAID)
    if payment["merchant_status"] != "approved":
        raise Conflict("This merchant is not approved to take payments.", status=payment["merchant_status"])
    provider, held = _only(kept)
    report = await _last_report(tx, payment["id"])
    gross = _one_transfer(held, payment["amount"], report)
    at_ms = now_ms if report is None else paid_at(report, now_ms)[0]
    rate = await _rate(tx, payment, gross=gross, at_ms=at_ms)
    cost = fee(gross, rate.bps)
    await suspense.release(
        tx, payment["id"], provider=provider, amount=gross, key=f"accepted:{payment['id']}", now_ms=now_ms
    )
    journal = ledger.capture(
        payment_id=payment["id"],
        provider_event_id=None,
        provider=provider,
        merchant_id=payment["merchant_id"],
        gross=gross,
        fee=cost,
        credit=payment["credit_account"],
    )
    journals = [journal]
    if payment["promised"] is not None and gross >= payment["amount"]:  # who paid less was promised nothing
        journals.append(ledger.promised(promised_of(payment["promised"]), payment_id=payment["id"]))
    await ledger.post(tx, journals, now_ms=now_ms)
    await tx.execute(
        "UPDATE payment SET state = $2, review_reason = $3, resolution = 'accepted', paid_amount = $4, "
        "fee_amount = $5, fee_bps = $6, fee_version = $7, fee_rounding = $8, paid_at_ms = $9, captured_at_ms = $10, "
        "rrn = coalesce($11, rrn), issuer = coalesce($12, issuer) WHERE id = $1",
        payment["id"], state.value, "paid_twice" if held > gross else None, gross, cost, rate.bps, rate.version,
        ROUNDING, at_ms, now_ms, report.rrn if report else None, report.issuer if report else None,
    )  # fmt: skip
    await _mark_attempt(tx, payment["id"], provider)
    await step(tx, payment["id"], "payment.accepted", state, source=by or "system", detail=reason, now_ms=now_ms)
    announced = Announced(
        payment_id=payment["id"],
        terminal_id=payment["terminal_id"],
        merchant_name=payment["brand_name"],
        amount=gross,
        paid_at_ms=at_ms,
        trace_id=payment["trace_id"],
        too_late_to_say=now_ms - at_ms > late_report_ms,
        policy=payment["announcement_policy"],
    )
    await queue_payment_announcement(tx, [announced], telling=telling, now_ms=now_ms)
    earned = revenue.Entry(
        at_ms=at_ms,
        terminal_id=payment["terminal_id"],
        provider=provider,
        merchant_id=payment["merchant_id"],
        payments=1,
        gross_amount=gross,
        fee_amount=cost,
        wallet_amount=0 if payment["credit_account"] is None else gross,
    )
    await revenue.add(tx, [earned])


def _one_transfer(held: int, asked: int, report: PaymentReport | None) -> int:
    """What is taken for a sale where more is kept than was asked for: what came last, if that is less. Money that came
    twice, or was told twice, is no larger sale; what is left stays apart, and is decided about by itself."""
    if held <= asked or report is None or report.currency != "IDR" or not 0 < report.amount_idr < held:
        return held
    return report.amount_idr


async def _rate(tx: Statements, payment: Row, *, gross: int, at_ms: int) -> Rate:
    """What it costs, by the day it was paid on. Raises FeeRuleMissing."""
    if payment["credit_account"] is not None:
        return FREE
    terms = await terms_of(tx, [payment["version_id"]])
    payee = Payee(payment["merchant_id"], payment["fee_category"], payment["criteria"])
    rate = terms[payment["version_id"]].rate(payee, day=jakarta_day(at_ms), amount=gross)
    if rate is None:
        raise FeeRuleMissing("No fee rule applies to this payment.", transaction_id=payment["id"])
    return rate


async def _last_report(tx: Statements, payment_id: str) -> PaymentReport | None:
    """What the provider said of the money that came last."""
    rows = await tx.fetch(
        "SELECT e.report FROM provider_event e JOIN journal j ON j.provider_event_id = e.id AND j.kind = 'suspense' "
        "WHERE e.payment_id = $1 AND e.report IS NOT NULL ORDER BY e.received_at_ms DESC, e.id DESC LIMIT 1",
        payment_id,
    )
    return read_kept(rows[0]["report"]).payment if rows else None


async def _mark_attempt(tx: Statements, payment_id: str, provider: str) -> None:
    """The charge that brought the money is its payment's from now on: what comes by another one came twice."""
    attempt = await _kept_by(tx, payment_id, provider)
    if attempt is None:
        return
    await tx.execute("UPDATE payment_attempt SET state = 'succeeded' WHERE id = $1", attempt["id"])
    await tx.execute(
        "UPDATE payment SET current_attempt_id = $2, method = coalesce($3, method) "
        "WHERE id = $1 AND current_attempt_id IS NOT NULL",
        payment_id, attempt["id"], attempt["method"],
    )  # fmt: skip


async def _kept_by(tx: Statements, payment_id: str, provider: str) -> Row | None:
    """The charge under which the money came that is kept apart, or else this provider's last one."""
    rows = await tx.fetch(
        "SELECT a.id, a.method, a.provider FROM payment_attempt a LEFT JOIN provider_event e "
        "ON e.payment_id = a.payment_id AND e.provider = a.provider AND e.reference = a.reference AND EXISTS ("
        "SELECT 1 FROM journal j WHERE j.provider_event_id = e.id AND j.kind = 'suspense') "
        "WHERE a.payment_id = $1 AND a.provider = $2 "
        "ORDER BY coalesce(e.received_at_ms, 0) DESC, a.number DESC LIMIT 1",
        payment_id,
        provider,
    )
    return rows[0] if rows else None


async def _refund(
    tx: Statements,
    payment: Row,
    kept: Mapping[str, int],
    *,
    reason: str,
    by: str | None,
    able: Mapping[str, Capabilities],
    now_ms: int,
) -> None:
    """Back through the provider; until it is done, or where it fails, the transaction stays in the queue."""
    provider, amount = _only(kept)
    attempt = await _kept_by(tx, payment["id"], provider)
    if attempt is None:
        raise Conflict("The provider does not know this money by a charge of ours.", provider=provider)
    require_able(able, provider, partial=amount < payment["amount"])
    new = NewRefund(
        payment_id=payment["id"],
        attempt_id=attempt["id"],
        provider=provider,
        origin="review",
        amount=amount,
        reason=reason,
        requested_by=by,
        from_suspense=True,
    )
    await insert_refunds(tx, [new], now_ms=now_ms)
    await step(
        tx, payment["id"], "refund.requested", payment["state"], source=by or "system", detail=reason, now_ms=now_ms
    )


async def _reject(
    tx: Statements, payment: Row, kept: Mapping[str, int], *, reason: str, by: str | None, now_ms: int
) -> None:
    rows = await tx.fetch(
        "SELECT count(*) AS n FROM payment_event WHERE payment_id = $1 AND kind = 'payment.rejected'", payment["id"]
    )
    decided = rows[0]["n"]
    for provider, amount in kept.items():
        key = f"rejected:{payment['id']}:{decided}"
        await suspense.release(tx, payment["id"], provider=provider, amount=amount, key=key, now_ms=now_ms)
    state = PaymentState(payment["state"])
    if state is PaymentState.NEEDS_REVIEW:
        state = require(state, PaymentState.FAILED)
    await tx.execute(
        "UPDATE payment SET state = $2, review_reason = NULL, resolution = 'rejected' WHERE id = $1",
        payment["id"],
        state.value,
    )
    await step(tx, payment["id"], "payment.rejected", state, source=by or "system", detail=reason, now_ms=now_ms)
