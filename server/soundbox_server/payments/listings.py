"""The list of payments, for its door and for exports."""

from typing import Annotated

from pydantic import Field
from sqlalchemy import select

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.fields import Id, Moment, OrderCode
from soundbox_server.paging import Listing, Page, Rows, between, matching
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.models import Payment, PaymentAttempt
from soundbox_server.payments.state import PaymentState


class TransactionFilters(Page):
    status: PaymentState | None = None
    merchant_id: Id | None = None
    outlet_id: Id | None = None
    terminal_id: Id | None = None
    device_id: Id | None = None
    request_id: Id | None = None
    order_code: OrderCode | None = None
    method: PaymentMethod | None = None
    reference: Id | None = Field(None, description="ours at the provider, of any attempt")
    late: bool | None = None
    in_review: bool | None = Field(None, description="whether an operator is to decide about money that is kept apart")
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select(asked: TransactionFilters) -> Rows:
    query = matching(
        select(Payment),
        (Payment.state, asked.status), (Payment.merchant_id, asked.merchant_id), (Payment.outlet_id, asked.outlet_id),
        (Payment.terminal_id, asked.terminal_id), (Payment.device_id, asked.device_id),
        (Payment.request_id, asked.request_id), (Payment.order_code, asked.order_code),
        (Payment.method, asked.method),
    )  # fmt: skip
    if asked.late is not None:
        query = query.where(Payment.late.is_(asked.late))
    if asked.reference is not None:
        tried = select(PaymentAttempt.payment_id).where(PaymentAttempt.reference == asked.reference)
        query = query.where(Payment.id.in_(tried))
    if asked.in_review is not None:
        waits = Payment.review_reason.is_not(None)
        query = query.where(waits if asked.in_review else ~waits)
    return between(
        query, at=Payment.created_at_ms, id_=Payment.id, prefix="txn",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


class TransactionView(TypedDict):
    id: str
    merchant_id: str
    outlet_id: str
    terminal_id: str
    device_id: str | None
    request_id: str | None
    order_code: str | None
    description: str | None
    method: Annotated[str, among(PaymentMethod)]
    qr_mode: str
    initiation_mode: str
    amount: int
    currency: str
    status: Annotated[str, among(PaymentState)]
    late: bool
    review_reason: str | None
    resolution: str | None
    paid_amount: int | None
    refunded_amount: int
    fee_amount: int | None
    net_amount: int | None
    fee_bps: int | None
    fee_version: str | None
    fee_rounding: str | None
    issuer: str | None
    created_at: Time
    expires_at: Time
    paid_at: Time | None
    captured_at: Time | None
    reversed_at: Time | None
    trace_id: str | None


def transaction_view(payment: Payment) -> TransactionView:
    return {
        "id": payment.id,
        "merchant_id": payment.merchant_id,
        "outlet_id": payment.outlet_id,
        "terminal_id": payment.terminal_id,
        "device_id": payment.device_id,
        "request_id": payment.request_id,
        "order_code": payment.order_code,
        "description": payment.description,
        "method": payment.method,
        "qr_mode": payment.qr_mode,
        "initiation_mode": payment.source,
        "amount": payment.amount,
        "currency": payment.currency,
        "status": payment.state,
        "late": payment.late,
        "review_reason": payment.review_reason,
        "resolution": payment.resolution,
        "paid_amount": payment.paid_amount,
        "refunded_amount": payment.refunded_amount,
        "fee_amount": payment.fee_amount,
        "net_amount": _net(payment),
        "fee_bps": payment.fee_bps,
        "fee_version": payment.fee_version,
        "fee_rounding": payment.fee_rounding,
        "issuer": payment.issuer,
        "created_at": rfc3339(payment.created_at_ms),
        "expires_at": rfc3339(payment.expires_at_ms),
        "paid_at": rfc3339_or_none(payment.paid_at_ms),
        "captured_at": rfc3339_or_none(payment.captured_at_ms),
        "reversed_at": rfc3339_or_none(payment.reversed_at_ms),
        "trace_id": payment.trace_id,
    }


def _net(payment: Payment) -> int | None:
    """What its capture was worth to the merchant; what went back since is `refunded_amount`."""
    if payment.paid_amount is None or payment.fee_amount is None:
        return None
    return payment.paid_amount - payment.fee_amount


COLUMNS = (
    "id", "created_at", "merchant_id", "outlet_id", "terminal_id", "device_id", "request_id", "order_code", "method",
    "qr_mode", "amount", "currency", "status", "late", "review_reason", "resolution", "paid_amount", "refunded_amount",
    "fee_amount", "net_amount", "fee_bps", "fee_version", "fee_rounding", "issuer", "paid_at", "captured_at",
    "reversed_at", "trace_id",
)  # fmt: skip
TRANSACTIONS = Listing(
    asked=TransactionFilters, key=(Payment.id,), select=_select, show=transaction_view, columns=COLUMNS
)
