"""What operators see of payments: the list, and one payment with its log and every hop of its announcements."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.announcements.service import Announced, Telling, queue_payment_announcement
from soundbox_server.answers import Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, TransactionNotFound
from soundbox_server.fields import Id
from soundbox_server.http import Reader, envelope, problems, request_id
from soundbox_server.ledger.models import Journal, Posting
from soundbox_server.merchants.models import Merchant
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.outbox.views import NotificationView, notification
from soundbox_server.paging import page
from soundbox_server.payments.listings import TRANSACTIONS, TransactionFilters, TransactionView, transaction_view
from soundbox_server.payments.models import Payment, PaymentAttempt, PaymentEvent, ProviderEvent, Refund
from soundbox_server.payments.review_routes import RefundView, SaidOfMoneyView, refund_view, said_of_money
from soundbox_server.payments.state import AttemptState, Outcome, PaymentState

router = APIRouter(tags=["operators"])


class AttemptView(TypedDict):
    id: str
    provider: str
    reference: str
    provider_reference: str | None
    status: Annotated[str, among(AttemptState)]
    error_code: str | None
    created_at: Time
    answered_at: Time | None


class ReportView(TypedDict):
    id: str
    provider: str
    event_id: str
    outcome: Annotated[str, among(Outcome)]
    reason: str | None
    said: SaidOfMoneyView | None
    request_id: str | None
    received_at: Time


class PostingView(TypedDict):
    journal_id: str
    kind: str
    source: str
    destination: str
    amount: int
    unit: str


class StepView(TypedDict):
    at: Time
    event: str
    status: Annotated[str, among(PaymentState)]
    source: str
    detail: str | None


class ListedTransactionView(TransactionView):
    announcements: list[NotificationView]


class WholeTransactionView(ListedTransactionView):
    attempts: list[AttemptView]
    reports: list[ReportView]
    postings: list[PostingView]
    refunds: list[RefundView]
    timeline: list[StepView]


class SaidAgainView(TypedDict):
    transaction_id: str
    announcements: list[NotificationView]


@router.get("/admin/transactions", responses=pages(ListedTransactionView))
async def list_transactions(
    request: Request, session: Reader, asked: Annotated[TransactionFilters, Query()]
) -> Response:
    """Payments, newest first, each with what became of its announcements."""

    async def announcements(rows: Sequence[Any]) -> list[dict[str, Any]]:
        told = await _announcements(session, [row[0].id for row in rows])
        return [{"announcements": told.get(row[0].id, [])} for row in rows]

    return await page(request, session, TRANSACTIONS, asked, beside=announcements)


@router.get(
    "/admin/transactions/{transaction_id}", responses=answers(WholeTransactionView) | problems(TransactionNotFound)
)
async def get_transaction(request: Request, transaction_id: Id, session: Reader) -> Response:
    """One payment: its attempts, what providers said, its postings and refunds, its log, and each announcement's
    hops."""
    payment = await _payment(session, transaction_id)
    told = await _announcements(session, [payment.id])
    attempts = await session.scalars(select(PaymentAttempt).where(PaymentAttempt.payment_id == payment.id))
    reports = await session.scalars(
        select(ProviderEvent).where(ProviderEvent.payment_id == payment.id).order_by(ProviderEvent.id)
    )
    steps = await session.scalars(
        select(PaymentEvent).where(PaymentEvent.payment_id == payment.id).order_by(PaymentEvent.id)
    )
    refunds = await session.scalars(select(Refund).where(Refund.payment_id == payment.id).order_by(Refund.id))
    postings = await session.execute(
        select(Journal.kind, Posting).join(Posting, Posting.journal_id == Journal.id)
        .where(Journal.payment_id == payment.id).order_by(Posting.journal_id, Posting.position)
    )  # fmt: skip
    return envelope(
        request,
        transaction_view(payment)
        | {
            "attempts": [_attempt(attempt) for attempt in attempts],
            "reports": [_report(report) for report in reports],
            "postings": [_posting(kind, posting) for kind, posting in postings],
            "refunds": [refund_view(refund) for refund in refunds],
            "timeline": [_step(step) for step in steps],
            "announcements": told.get(payment.id, []),
        },
    )


@router.post(
    "/admin/transactions/{transaction_id}/retry-notification", status_code=202,
    responses=answers(SaidAgainView, status=202) | problems(TransactionNotFound, Conflict),
)  # fmt: skip
async def retry_notification(request: Request, transaction_id: Id, actor: Acting, once: AskedOnce) -> Response:
    """Say a paid payment again: a new announcement with its own id, number and life, spoken as a replay."""

    async def say_again() -> Response:
        await _queue_again(session, tx, transaction_id, telling=request.app.state.telling, asked=request_id(request))
        await record(tx, actor, "transaction.notification_retried", ("transaction", transaction_id))
        told = await _announcements(session, [transaction_id])
        data = {"transaction_id": transaction_id, "announcements": told[transaction_id]}
        return envelope(request, data, status=202)

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, say_again)
    request.app.state.publisher.publish(tx.queued)
    return response


async def _queue_again(
    session: AsyncSession, tx: Statements, transaction_id: str, *, telling: Telling, asked: str
) -> None:
    payment = await _payment(session, transaction_id)
    if payment.state != PaymentState.PAID or payment.paid_at_ms is None or payment.paid_amount is None:
        raise Conflict("Only a paid transaction is announced.", status=payment.state)
    merchant = await session.get_one(Merchant, payment.merchant_id)
    first = await session.execute(
        select(OutboxMessage.recipient_id, OutboxMessage.id)
        .where(OutboxMessage.subject_id == payment.id, OutboxMessage.kind == "payment_success")
        .where(OutboxMessage.original_id.is_(None)).order_by(OutboxMessage.id)
    )  # fmt: skip
    originals = {row.recipient_id: row.id for row in first}
    announced = Announced(
        payment_id=payment.id,
        terminal_id=payment.terminal_id,
        merchant_name=merchant.brand_name,
        amount=payment.paid_amount,
        paid_at_ms=payment.paid_at_ms,
        trace_id=asked,
        original_id=min(originals.values(), default=None),  # None: it was to be given back unsaid
        originals=originals,
        policy=merchant.announcement_policy,
    )
    await queue_payment_announcement(tx, [announced], telling=telling, now_ms=clock.now_ms())


async def _payment(session: AsyncSession, transaction_id: str) -> Payment:
    payment = await session.get(Payment, transaction_id)
    if payment is None:
        raise TransactionNotFound("No such transaction.", transaction_id=transaction_id)
    return payment


def _attempt(attempt: PaymentAttempt) -> AttemptView:
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


def _report(report: ProviderEvent) -> ReportView:
    return {
        "id": report.id,
        "provider": report.provider,
        "event_id": report.event_key,
        "outcome": report.outcome,
        "reason": report.reason,
        "said": said_of_money(report),
        "request_id": report.request_id,
        "received_at": rfc3339(report.received_at_ms),
    }


def _posting(kind: str, posting: Posting) -> PostingView:
    return {
        "journal_id": posting.journal_id,
        "kind": kind,
        "source": posting.source,
        "destination": posting.destination,
        "amount": posting.amount,
        "unit": posting.unit,
    }


def _step(step: PaymentEvent) -> StepView:
    return {
        "at": rfc3339(step.at_ms),
        "event": step.kind,
        "status": step.state,
        "source": step.source,
        "detail": step.detail,
    }


async def _announcements(session: AsyncSession, payment_ids: Sequence[str]) -> dict[str, list[NotificationView]]:
    rows = await session.scalars(
        select(OutboxMessage)
        .where(OutboxMessage.subject_id.in_(payment_ids), OutboxMessage.kind == "payment_success")
        .order_by(OutboxMessage.id)
    )
    found: dict[str, list[NotificationView]] = {}
    for row in rows:
        found.setdefault(str(row.subject_id), []).append(notification(row))
    return found
