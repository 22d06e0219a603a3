"""What operators and finance do about payments: give money back, decide about money that is kept apart, ask the
provider, withdraw a QR, and say whose an orphan is."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import select

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.errors import (
    Conflict,
    DuplicateRequest,
    GatewayError,
    IllegalTransition,
    InvalidAmount,
    NotFound,
    PartnerTimeout,
    SoundboxError,
    TransactionNotFound,
)
from soundbox_server.fields import Body, Id, Moment, Reason
from soundbox_server.http import Reader, envelope, problems
from soundbox_server.paging import Listing, Page, Rows, between, matching, page
from soundbox_server.payments import orphans, refunds, review, withdrawal
from soundbox_server.payments.asking import Question, questions_of
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.listings import TransactionView, transaction_view
from soundbox_server.payments.models import Payment, ProviderEvent, Refund
from soundbox_server.payments.reports import read_kept
from soundbox_server.payments.state import Outcome, RefundState
from soundbox_server.providers.base import Capabilities

router = APIRouter(tags=["operators"])


class RefundFilters(Page):
    status: RefundState | None = None
    transaction_id: Id | None = None
    merchant_id: Id | None = None
    provider: Id | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select_refunds(asked: RefundFilters) -> Rows:
    query = matching(
        select(Refund),
        (Refund.state, asked.status), (Refund.payment_id, asked.transaction_id), (Refund.provider, asked.provider),
    )  # fmt: skip
    if asked.merchant_id is not None:
        of_merchant = select(Payment.id).where(Payment.merchant_id == asked.merchant_id)
        query = query.where(Refund.payment_id.in_(of_merchant))
    return between(
        query, at=Refund.created_at_ms, id_=Refund.id, prefix="rfd",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


class RefundView(TypedDict):
    id: str
    transaction_id: str
    provider: str | None
    reference: str
    provider_refund_id: str | None
    origin: str
    amount: int
    fee_returned: int
    from_suspense: bool
    status: Annotated[str, among(RefundState)]
    reason: str | None
    requested_by: str | None
    error_code: str | None
    created_at: Time
    submitted_at: Time | None
    finished_at: Time | None


def refund_view(refund: Refund) -> RefundView:
    return {
        "id": refund.id,
        "transaction_id": refund.payment_id,
        "provider": refund.provider,
        "reference": refund.reference,
        "provider_refund_id": refund.provider_refund_id,
        "origin": refund.origin,
        "amount": refund.amount,
        "fee_returned": refund.fee_returned,
        "from_suspense": refund.from_suspense,
        "status": refund.state,
        "reason": refund.reason,
        "requested_by": refund.requested_by,
        "error_code": refund.error_code,
        "created_at": rfc3339(refund.created_at_ms),
        "submitted_at": rfc3339_or_none(refund.submitted_at_ms),
        "finished_at": rfc3339_or_none(refund.finished_at_ms),
    }


_REFUND_COLUMNS = (
    "id", "created_at", "transaction_id", "provider", "reference", "provider_refund_id", "origin", "amount",
    "fee_returned", "from_suspense", "status", "reason", "requested_by", "error_code", "submitted_at", "finished_at",
)  # fmt: skip
REFUNDS = Listing(
    asked=RefundFilters, key=(Refund.id,), select=_select_refunds, show=refund_view, columns=_REFUND_COLUMNS
)


class NewRefund(Body):
    """Without an amount, all that is left."""

    amount: Annotated[int | None, Field(ge=1, le=1_000_000_000, examples=[50000], description="whole rupiah")] = None
    reason: Reason


@router.post(
    "/admin/transactions/{transaction_id}/refund", status_code=202,
    responses=answers(RefundView, status=202)
    | problems(TransactionNotFound, Conflict, IllegalTransition, InvalidAmount),
)  # fmt: skip
async def refund_transaction(
    request: Request, transaction_id: Id, wanted: NewRefund, actor: Acting, once: AskedOnce
) -> Response:
    """Give money back to whoever paid: the refund as it was stored. Its provider is asked a moment later."""
    able = _able(request)

    async def ask_for_it() -> Response:
        refund_id = await refunds.request_refund(
            tx, transaction_id, amount=wanted.amount, reason=wanted.reason, requested_by=actor.id, able=able,
            now_ms=clock.now_ms(),
        )  # fmt: skip
        made = await session.get_one(Refund, refund_id)
        details = {"refund_id": refund_id, "amount": made.amount, "reason": wanted.reason}
        await record(tx, actor, "transaction.refund_requested", ("transaction", transaction_id), details=details)
        return envelope(request, refund_view(made), status=202)

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        return await once.answer(tx, ask_for_it)


@router.get("/admin/refunds", responses=pages(RefundView))
async def list_refunds(request: Request, session: Reader, asked: Annotated[RefundFilters, Query()]) -> Response:
    """Refunds, newest first."""
    return await page(request, session, REFUNDS, asked)


@router.get("/admin/refunds/{refund_id}", responses=answers(RefundView) | problems(NotFound))
async def get_refund(request: Request, refund_id: Id, session: Reader) -> Response:
    """One refund."""
    refund = await session.get(Refund, refund_id)
    if refund is None:
        raise NotFound("No such refund.", refund_id=refund_id)
    return envelope(request, refund_view(refund))


class Decision(Body):
    """`accept`: the money is the merchant's. `refund`: it goes back through the provider. `reject`: it is not there.

    Of a disputed transaction: `accept` says that the dispute was won, `reject` that it was lost.
    """

    action: Annotated[Literal["accept", "refund", "reject"], Field(examples=["accept"])]
    reason: Reason


@router.post(
    "/admin/transactions/{transaction_id}/resolve",
    responses=answers(TransactionView) | problems(TransactionNotFound, Conflict, IllegalTransition),
)
async def resolve_transaction(
    request: Request, transaction_id: Id, decision: Decision, actor: Acting, once: AskedOnce
) -> Response:
    """Decide about money that was kept apart, or about a dispute. What is accepted is announced, unless it is too late
    to say."""
    able, state = _able(request), request.app.state

    async def decide() -> Response:
        await review.resolve(
            tx, transaction_id, action=decision.action, reason=decision.reason, by=actor.id, able=able,
            telling=state.telling, late_report_ms=state.late_report_ms, now_ms=clock.now_ms(),
        )  # fmt: skip
        await record(
            tx, actor, f"transaction.{decision.action}ed", ("transaction", transaction_id),
            details={"reason": decision.reason},
        )  # fmt: skip
        return envelope(request, transaction_view(await session.get_one(Payment, transaction_id)))

    async with db.transaction(state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, decide)
    state.publisher.publish(tx.queued)
    return response


class ProviderSaidView(TypedDict):
    provider: str
    reference: str
    status: str | None
    error_code: str | None


class CheckedTransactionView(TransactionView):
    providers: list[ProviderSaidView]


@router.post(
    "/admin/transactions/{transaction_id}/check-status",
    responses=answers(CheckedTransactionView) | problems(TransactionNotFound, Conflict, GatewayError, PartnerTimeout),
)
async def check_status(request: Request, transaction_id: Id, actor: Acting) -> Response:
    """Ask the provider where the transaction stands, and take its word like a callback's."""
    inquiry: Inquiry = request.app.state.inquiry
    said, failures = [], []
    for question in await _questions(request, transaction_id):
        try:
            status = await inquiry.ask(question)
            said.append(_said(question, status=status.state))
        except (GatewayError, PartnerTimeout) as error:
            failures.append(error)
            said.append(_said(question, error=error))
    if len(failures) == len(said):
        raise failures[-1]
    return await _after(request, transaction_id, actor, "transaction.status_checked", said)


async def _after(
    request: Request, transaction_id: str, actor: Actor, action: str, said: list[ProviderSaidView]
) -> Response:
    """The transaction as it stands now, with what the provider said, written down."""
    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        await record(tx, actor, action, ("transaction", transaction_id), details={"providers": said})
        payment = await session.get_one(Payment, transaction_id)
        return envelope(request, transaction_view(payment) | {"providers": said})


def _said(question: Question, *, status: str | None = None, error: SoundboxError | None = None) -> ProviderSaidView:
    return {
        "provider": question.provider,
        "reference": question.reference,
        "status": status,
        "error_code": error.code if error else None,
    }


async def _questions(request: Request, transaction_id: str) -> list[Question]:
    database: db.Database = request.app.state.database
    async with db.reading(database) as session:
        if await session.get(Payment, transaction_id) is None:
            raise TransactionNotFound("No such transaction.", transaction_id=transaction_id)
        found = await questions_of(await db.statements(session), transaction_id)
    if not found:
        raise Conflict("No provider knows of this transaction.")
    return found


@router.post(
    "/admin/transactions/{transaction_id}/cancel",
    responses=answers(CheckedTransactionView)
    | problems(TransactionNotFound, Conflict, IllegalTransition, DuplicateRequest, GatewayError, PartnerTimeout),
)
async def cancel_transaction(request: Request, transaction_id: Id, actor: Acting) -> Response:
    """Withdraw an unpaid transaction, at the provider first. Where nobody knows whether the provider did it, the
    transaction stays as it is, and the provider is asked."""
    inquiry: Inquiry = request.app.state.inquiry
    questions = await _questions(request, transaction_id)
    await withdrawal.withdraw(request.app.state.database, inquiry, questions, by=str(actor.id))
    said = [_said(question, status="cancelled") for question in questions]
    return await _after(request, transaction_id, actor, "transaction.cancelled", said)


class ReportFilters(Page):
    outcome: Outcome | None = None
    provider: Id | None = None
    reference: Id | None = None
    transaction_id: Id | None = None
    received_from: Moment | None = None
    received_to: Moment | None = None


def _select_reports(asked: ReportFilters) -> Rows:
    query = matching(
        select(ProviderEvent),
        (ProviderEvent.outcome, asked.outcome), (ProviderEvent.provider, asked.provider),
        (ProviderEvent.reference, asked.reference), (ProviderEvent.payment_id, asked.transaction_id),
    )  # fmt: skip
    return between(
        query, at=ProviderEvent.received_at_ms, id_=ProviderEvent.id, prefix="evt",
        from_ms=asked.received_from, to_ms=asked.received_to,
    )  # fmt: skip


class SaidOfMoneyView(TypedDict):
    """What a provider said: `status` of a payment, or what became of its money later. Rupiah where the currency is
    IDR."""

    status: str
    amount: int | None
    currency: str
    paid_at: Time | None
    issuer: str | None
    rrn: str | None
    provider_transaction_id: str | None


class ProviderReportView(TypedDict):
    id: str
    provider: str
    event_id: str
    reference: str | None
    outcome: Annotated[str, among(Outcome)]
    reason: str | None
    transaction_id: str | None
    said: SaidOfMoneyView | None  # of what a person has to decide about
    request_id: str | None
    received_at: Time


def said_of_money(report: ProviderEvent) -> SaidOfMoneyView | None:
    """None where it was not kept: the transaction itself tells what was taken as it came."""
    if report.report is None:
        return None
    kept = read_kept(report.report)
    if (paid := kept.payment) is not None:
        return {
            "status": paid.status, "amount": paid.amount_idr, "currency": paid.currency,
            "paid_at": rfc3339_or_none(paid.paid_at_ms), "issuer": paid.issuer, "rrn": paid.rrn,
            "provider_transaction_id": paid.provider_transaction_id,
        }  # fmt: skip
    moved = kept.adjustment
    assert moved is not None
    return {
        "status": moved.kind, "amount": moved.amount_idr, "currency": moved.currency, "paid_at": None, "issuer": None,
        "rrn": None, "provider_transaction_id": moved.provider_transaction_id,
    }  # fmt: skip


def report_view(report: ProviderEvent) -> ProviderReportView:
    return {
        "id": report.id,
        "provider": report.provider,
        "event_id": report.event_key,
        "reference": report.reference,
        "outcome": report.outcome,
        "reason": report.reason,
        "transaction_id": report.payment_id,
        "said": said_of_money(report),
        "request_id": report.request_id,
        "received_at": rfc3339(report.received_at_ms),
    }


REPORTS = Listing(asked=ReportFilters, key=(ProviderEvent.id,), select=_select_reports, show=report_view)


@router.get("/admin/provider-reports", responses=pages(ProviderReportView))
async def list_reports(request: Request, session: Reader, asked: Annotated[ReportFilters, Query()]) -> Response:
    """What providers told us, newest first; `outcome=orphan` is what nobody knows the transaction of."""
    return await page(request, session, REPORTS, asked)


class Belonging(Body):
    transaction_id: Annotated[Id, Field(examples=["txn_01jz4q97c8d9e0f1g2h3j4k5mn"])]
    reason: Reason


@router.post(
    "/admin/provider-reports/{report_id}/assign", responses=answers(ProviderReportView) | problems(NotFound, Conflict)
)
async def assign_report(
    request: Request, report_id: Id, belonging: Belonging, actor: Acting, once: AskedOnce
) -> Response:
    """Say which transaction an orphan belongs to: it is taken as if it had just come."""
    state = request.app.state

    async def take() -> Response:
        outcome = await orphans.assign(
            tx, report_id, payment_id=belonging.transaction_id, telling=state.telling,
            late_report_ms=state.late_report_ms, now_ms=clock.now_ms(),
        )  # fmt: skip
        return await _settled(
            request, session, tx, actor, "provider_report.assigned", report_id,
            {"transaction_id": belonging.transaction_id, "outcome": outcome, "reason": belonging.reason},
        )  # fmt: skip

    async with db.transaction(state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, take)
    state.publisher.publish(tx.queued)
    return response


class Rejection(Body):
    reason: Reason


@router.post(
    "/admin/provider-reports/{report_id}/reject", responses=answers(ProviderReportView) | problems(NotFound, Conflict)
)
async def reject_report(
    request: Request, report_id: Id, rejection: Rejection, actor: Acting, once: AskedOnce
) -> Response:
    """An orphan belongs to nobody: its money is booked back to the provider."""

    async def let_go() -> Response:
        await orphans.reject(tx, report_id, now_ms=clock.now_ms())
        return await _settled(
            request, session, tx, actor, "provider_report.rejected", report_id, {"reason": rejection.reason}
        )

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        return await once.answer(tx, let_go)


async def _settled(
    request: Request,
    session: Any,
    tx: db.Statements,
    actor: Actor,
    action: str,
    report_id: str,
    details: Mapping[str, object],
) -> Response:
    await record(tx, actor, action, ("provider_report", report_id), details=details)
    return envelope(request, report_view(await session.get_one(ProviderEvent, report_id)))


def _able(request: Request) -> Mapping[str, Capabilities]:
    return {name: gateway.capabilities for name, gateway in request.app.state.payment_gateways().items()}
