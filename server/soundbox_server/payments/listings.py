"""The list of payments, for its door and for exports."""

from typing import Any

from sqlalchemy import select

from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.fields import Id, Moment
from soundbox_server.paging import Listing, Page, Rows, between
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.models import Payment
from soundbox_server.payments.state import PaymentState


class TransactionFilters(Page):
    status: PaymentState | None = None
    merchant_id: Id | None = None
    outlet_id: Id | None = None
    terminal_id: Id | None = None
    device_id: Id | None = None
    request_id: Id | None = None
    order_code: Id | None = None
    method: PaymentMethod | None = None
    late: bool | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select(asked: TransactionFilters) -> Rows:
    query = select(Payment)
    for column, value in (
        (Payment.state, asked.status), (Payment.merchant_id, asked.merchant_id), (Payment.outlet_id, asked.outlet_id),
        (Payment.terminal_id, asked.terminal_id), (Payment.device_id, asked.device_id),
        (Payment.request_id, asked.request_id), (Payment.order_code, asked.order_code),
        (Payment.method, asked.method),
    ):  # fmt: skip
        if value is not None:
            query = query.where(column == str(value))
    if asked.late is not None:
        query = query.where(Payment.late.is_(asked.late))
    return between(
        query, at=Payment.created_at_ms, id_=Payment.id, prefix="txn",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


def transaction_view(payment: Payment) -> dict[str, Any]:
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
        "fee_amount": payment.fee_amount,
        "net_amount": None if payment.fee_amount is None else payment.amount - payment.fee_amount,
        "fee_bps": payment.fee_bps,
        "fee_version": payment.fee_version,
        "issuer": payment.issuer,
        "created_at": rfc3339(payment.created_at_ms),
        "expires_at": rfc3339(payment.expires_at_ms),
        "paid_at": rfc3339_or_none(payment.paid_at_ms),
        "captured_at": rfc3339_or_none(payment.captured_at_ms),
        "trace_id": payment.trace_id,
    }


COLUMNS = (
    "id", "created_at", "merchant_id", "outlet_id", "terminal_id", "device_id", "request_id", "order_code", "method",
    "qr_mode", "amount", "currency", "status", "late", "review_reason", "fee_amount", "net_amount", "fee_bps",
    "fee_version", "issuer", "paid_at", "captured_at", "trace_id",
)  # fmt: skip
TRANSACTIONS = Listing(
    asked=TransactionFilters, key=(Payment.id,), select=_select, show=transaction_view, columns=COLUMNS
)
