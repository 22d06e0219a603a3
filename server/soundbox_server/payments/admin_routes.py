"""What operators see of payments: the list, and one payment with its log and every hop of its announcements."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock, db
from soundbox_server.announcements.service import Announced, queue_payment_announcement
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.errors import Conflict, TransactionNotFound
from soundbox_server.http import Reader, envelope, request_id
from soundbox_server.ledger.models import Journal, Posting
from soundbox_server.merchants.models import Merchant
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.outbox.views import notification
from soundbox_server.paging import Cursor, Limit, decode_cursor, next_cursor
from soundbox_server.payments.models import Payment, PaymentAttempt, PaymentEvent, ProviderEvent
from soundbox_server.payments.state import PaymentState

router = APIRouter(tags=["operators"])


@router.get("/admin/transactions")
async def list_transactions(
    request: Request,
    session: Reader,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: PaymentState | None = None,
    merchant_id: Annotated[str | None, Query(max_length=64)] = None,
    device_id: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Payments, newest first."""
    query = select(Payment).order_by(Payment.id.desc()).limit(limit)
    if after := decode_cursor(cursor):
        query = query.where(Payment.id < after)
    if status:
        query = query.where(Payment.state == status.value)
    if merchant_id:
        query = query.where(Payment.merchant_id == merchant_id)
    if device_id:
        query = query.where(Payment.device_id == device_id)
    payments = (await session.scalars(query)).all()
    told = await _announcements(session, [payment.id for payment in payments])
    rows = [_summary(payment) | {"announcements": told.get(payment.id, [])} for payment in payments]
    return envelope(request, rows, next_cursor=next_cursor([payment.id for payment in payments], limit))


@router.get("/admin/transactions/{transaction_id}")
async def get_transaction(request: Request, transaction_id: str, session: Reader) -> Response:
    """One payment: its attempts, what providers said, its postings, its log, and each announcement's hops."""
    payment = await _payment(session, transaction_id)
    told = await _announcements(session, [payment.id])
    attempts = await session.scalars(select(PaymentAttempt).where(PaymentAttempt.payment_id == payment.id))
    reports = await session.scalars(
        select(ProviderEvent).where(ProviderEvent.payment_id == payment.id).order_by(ProviderEvent.id)
    )
    steps = await session.scalars(
        select(PaymentEvent).where(PaymentEvent.payment_id == payment.id).order_by(PaymentEvent.id)
    )
    postings = await session.execute(
        select(Journal.kind, Posting).join(Posting, Posting.journal_id == Journal.id)
        .where(Journal.payment_id == payment.id).order_by(Posting.journal_id, Posting.position)
    )  # fmt: skip
    return envelope(
        request,
        _summary(payment)
        | {
            "attempts": [_attempt(attempt) for attempt in attempts],
            "reports": [_report(report) for report in reports],
            "postings": [_posting(kind, posting) for kind, posting in postings],
            "timeline": [_step(step) for step in steps],
            "announcements": told.get(payment.id, []),
        },
    )


@router.post("/admin/transactions/{transaction_id}/retry-notification", status_code=202)
async def retry_notification(request: Request, transaction_id: str) -> Response:
    """Say a paid payment again: a new announcement with its own id, number and life, spoken as a replay."""
    async with db.transaction(request.app.state.database) as session:
        payment = await _payment(session, transaction_id)
        if payment.state != PaymentState.PAID or payment.paid_at_ms is None:
            raise Conflict("Only a paid transaction is announced.", status=payment.state)
        merchant = await session.get_one(Merchant, payment.merchant_id)
        first = await session.execute(
            select(OutboxMessage.recipient_id, OutboxMessage.id)
            .where(OutboxMessage.subject_id == payment.id, OutboxMessage.kind == "payment_success")
            .where(OutboxMessage.original_id.is_(None)).order_by(OutboxMessage.id)
        )  # fmt: skip
        originals = {row.recipient_id: row.id for row in first}
        tx = await db.statements(session)
        announced = Announced(
            payment_id=payment.id,
            terminal_id=payment.terminal_id,
            merchant_name=merchant.brand_name,
            amount=payment.amount,
            paid_at_ms=payment.paid_at_ms,
            trace_id=request_id(request),
            original_id=min(originals.values()),
            originals=originals,
        )
        await queue_payment_announcement(tx, [announced], telling=request.app.state.telling, now_ms=clock.now_ms())
    request.app.state.publisher.publish(tx.queued)
    async with db.reading(request.app.state.database) as session:
        told = await _announcements(session, [transaction_id])
    return envelope(request, {"transaction_id": transaction_id, "announcements": told[transaction_id]}, status=202)


async def _payment(session: AsyncSession, transaction_id: str) -> Payment:
    payment = await session.get(Payment, transaction_id)
    if payment is None:
        raise TransactionNotFound("No such transaction.", transaction_id=transaction_id)
    return payment


def _summary(payment: Payment) -> dict[str, Any]:
    return {
        "id": payment.id,
        "merchant_id": payment.merchant_id,
        "outlet_id": payment.outlet_id,
        "terminal_id": payment.terminal_id,
        "device_id": payment.device_id,
        "request_id": payment.request_id,
        "qr_mode": payment.qr_mode,
        "initiation_mode": payment.request_door,
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


def _attempt(attempt: PaymentAttempt) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "provider": attempt.provider,
        "reference": attempt.reference,
        "provider_reference": attempt.provider_reference,
        "status": attempt.state,
        "error_code": attempt.error_code,
        "created_at": rfc3339(attempt.created_at_ms),
        "answered_at": rfc3339_or_none(attempt.answered_at_ms),
    }


def _report(report: ProviderEvent) -> dict[str, Any]:
    return {
        "id": report.id,
        "provider": report.provider,
        "event_id": report.event_key,
        "outcome": report.outcome,
        "reason": report.reason,
        "request_id": report.request_id,
        "received_at": rfc3339(report.received_at_ms),
    }


def _posting(kind: str, posting: Posting) -> dict[str, Any]:
    return {
        "journal_id": posting.journal_id,
        "kind": kind,
        "source": posting.source,
        "destination": posting.destination,
        "amount": posting.amount,
        "unit": posting.unit,
    }


def _step(step: PaymentEvent) -> dict[str, Any]:
    return {
        "at": rfc3339(step.at_ms),
        "event": step.kind,
        "status": step.state,
        "source": step.source,
        "detail": step.detail,
    }


async def _announcements(session: AsyncSession, payment_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    rows = await session.scalars(
        select(OutboxMessage)
        .where(OutboxMessage.subject_id.in_(payment_ids), OutboxMessage.kind == "payment_success")
        .order_by(OutboxMessage.id)
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row.subject_id), []).append(notification(row))
    return found
