"""The doors of payouts: operators', and the bank's callback."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import structlog
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
    IllegalTransition,
    InvalidSignature,
    MerchantPayoutNotConfigured,
    NotFound,
    SettlementNotEligible,
)
from soundbox_server.fields import Body, Id, Moment, Reason, Reference
from soundbox_server.http import Reader, answer, envelope, problems, read_body, request_id
from soundbox_server.merchants.models import Merchant
from soundbox_server.paging import Listing, Page, Rows, between, matching, page
from soundbox_server.payouts import reports, service
from soundbox_server.payouts.models import Payout, PayoutEvent
from soundbox_server.payouts.state import EventOutcome, PayoutMode, PayoutState
from soundbox_server.providers.banks import BODY_SCHEMA
from soundbox_server.providers.base import PayoutReport
from soundbox_server.settlements.models import Settlement

log = structlog.get_logger()
router = APIRouter(tags=["operators"])


class PayoutFilters(Page):
    status: PayoutState | None = None
    mode: PayoutMode | None = None
    merchant_id: Id | None = None
    settlement_id: Id | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select_payouts(asked: PayoutFilters) -> Rows:
    query = matching(
        select(Payout),
        (Payout.state, asked.status), (Payout.mode, asked.mode), (Payout.merchant_id, asked.merchant_id),
        (Payout.settlement_id, asked.settlement_id),
    )  # fmt: skip
    return between(
        query, at=Payout.created_at_ms, id_=Payout.id, prefix="pyt",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


class PayoutView(TypedDict):
    id: str
    settlement_id: str
    merchant_id: str
    number: int
    mode: Annotated[str, among(PayoutMode)]
    bank: str | None
    rail: Annotated[str | None, Field(examples=["bi_fast"])]
    reference: str
    bank_payout_id: str | None
    amount: int
    account_reference: str | None
    account_type: str | None
    status: Annotated[str, among(PayoutState)]
    error_code: str | None
    paid_reference: str | None
    note: str | None
    requested_by: str | None
    marked_by: str | None
    created_at: Time
    submitted_at: Time | None
    finished_at: Time | None
    reversed_at: Time | None


def payout_view(payout: Payout) -> PayoutView:
    return {
        "id": payout.id,
        "settlement_id": payout.settlement_id,
        "merchant_id": payout.merchant_id,
        "number": payout.number,
        "mode": payout.mode,
        "bank": payout.bank,
        "rail": payout.rail,
        "reference": payout.reference,
        "bank_payout_id": payout.bank_payout_id,
        "amount": payout.amount,
        "account_reference": payout.account_reference,
        "account_type": payout.account_type,
        "status": payout.state,
        "error_code": payout.error_code,
        "paid_reference": payout.paid_reference,
        "note": payout.note,
        "requested_by": payout.requested_by,
        "marked_by": payout.marked_by,
        "created_at": rfc3339(payout.created_at_ms),
        "submitted_at": rfc3339_or_none(payout.submitted_at_ms),
        "finished_at": rfc3339_or_none(payout.finished_at_ms),
        "reversed_at": rfc3339_or_none(payout.reversed_at_ms),
    }


_PAYOUT_COLUMNS = (
    "id", "created_at", "settlement_id", "merchant_id", "number", "mode", "bank", "rail", "reference",
    "bank_payout_id", "amount", "account_reference", "account_type", "status", "error_code", "paid_reference", "note",
    "requested_by", "marked_by", "submitted_at", "finished_at", "reversed_at",
)  # fmt: skip
PAYOUTS = Listing(
    asked=PayoutFilters, key=(Payout.id,), select=_select_payouts, show=payout_view, columns=_PAYOUT_COLUMNS
)


@router.get("/admin/payouts", responses=pages(PayoutView))
async def list_payouts(request: Request, session: Reader, asked: Annotated[PayoutFilters, Query()]) -> Response:
    """Payouts, newest first."""
    return await page(request, session, PAYOUTS, asked)


class PayoutEventView(TypedDict):
    id: str
    event_id: str
    outcome: Annotated[str, among(EventOutcome)]
    reason: str | None
    received_at: Time


class WholePayoutView(PayoutView):
    reports: list[PayoutEventView]


@router.get("/admin/payouts/{payout_id}", responses=answers(WholePayoutView) | problems(NotFound))
async def get_payout(request: Request, payout_id: Id, session: Reader) -> Response:
    """One payout, with what its bank reported of it, oldest first."""
    payout = await session.get(Payout, payout_id)
    if payout is None:
        raise NotFound("No such payout.", payout_id=payout_id)
    told = await session.scalars(select(PayoutEvent).where(PayoutEvent.payout_id == payout_id).order_by(PayoutEvent.id))
    return envelope(request, {**payout_view(payout), "reports": [_event_view(event) for event in told]})


def _event_view(event: PayoutEvent) -> PayoutEventView:
    return {
        "id": event.id,
        "event_id": event.event_key,
        "outcome": event.outcome,
        "reason": event.reason,
        "received_at": rfc3339(event.received_at_ms),
    }


# What somebody has to pay by hand, for the bank's own screens: the accounts are those of the moment.


class TransferFilters(Page):
    merchant_id: Id | None = None


def _select_transfers(asked: TransferFilters) -> Rows:
    query = (
        select(Payout, Merchant, Settlement)
        .join(Merchant, Merchant.id == Payout.merchant_id)
        .join(Settlement, Settlement.id == Payout.settlement_id)
        .where(Payout.mode == PayoutMode.MANUAL, Payout.state == PayoutState.CREATED)
    )
    return matching(query, (Payout.merchant_id, asked.merchant_id))


class TransferView(TypedDict):
    reference: str
    account_reference: str | None
    account_type: str | None
    beneficiary: str
    amount: int
    currency: Literal["IDR"]
    merchant_id: str
    settlement_id: str
    settlement_day: str
    created_at: Time


def transfer_view(payout: Payout, merchant: Merchant, settlement: Settlement) -> TransferView:
    return {
        "reference": payout.reference,
        "account_reference": merchant.settlement_account_reference,
        "account_type": merchant.settlement_account_type,
        "beneficiary": merchant.legal_name,
        "amount": payout.amount,
        "currency": "IDR",
        "merchant_id": merchant.id,
        "settlement_id": settlement.id,
        "settlement_day": settlement.day,
        "created_at": rfc3339(payout.created_at_ms),
    }


_TRANSFER_COLUMNS = (
    "reference", "account_reference", "account_type", "beneficiary", "amount", "currency", "merchant_id",
    "settlement_id", "settlement_day", "created_at",
)  # fmt: skip
TRANSFERS = Listing(
    asked=TransferFilters, key=(Payout.id,), select=_select_transfers, show=transfer_view, columns=_TRANSFER_COLUMNS
)


# Decisions


@router.post(
    "/admin/settlements/{settlement_id}/retry-payout", status_code=202,
    responses=answers(PayoutView, status=202)
    | problems(NotFound, IllegalTransition, SettlementNotEligible, MerchantPayoutNotConfigured),
)  # fmt: skip
async def retry_payout(request: Request, settlement_id: Id, actor: Acting, once: AskedOnce) -> Response:
    """Pay out a settlement whose payout failed or came back, or that has none yet; its bank is asked a moment later.

    While a payout may still be paid there is no other: its bank is asked where it stands, and this answers 409."""
    database: db.Database = request.app.state.database
    now_ms = clock.now_ms()
    await database.write(lambda tx: service.ask_now(tx, settlement_id, now_ms=now_ms))

    async def begin() -> Response:
        payout_id = await service.retry(
            tx, settlement_id, bank=request.app.state.bank_name, by=_name(actor), now_ms=now_ms
        )
        payout = await session.get_one(Payout, payout_id)
        details = {"payout_id": payout_id, "amount": payout.amount, "mode": payout.mode}
        await record(tx, actor, "payout.requested", ("settlement", settlement_id), details=details)
        return envelope(request, payout_view(payout), status=202)

    async with db.transaction(database) as session:
        tx = await db.statements(session)
        return await once.answer(tx, begin)


class PaidByHand(Body):
    reference: Annotated[Reference, Field(examples=["FT26143ABC"], description="as the bank's slip names the transfer")]
    reason: Reason


@router.post(
    "/admin/settlements/{settlement_id}/mark-paid",
    responses=answers(PayoutView) | problems(NotFound, Conflict, IllegalTransition, SettlementNotEligible),
)
async def mark_paid(request: Request, settlement_id: Id, paid: PaidByHand, actor: Acting, once: AskedOnce) -> Response:
    """Somebody paid this settlement by hand. 409 while a bank may be paying it."""

    async def mark() -> Response:
        payout_id = await service.mark_paid(
            tx, settlement_id, reference=paid.reference, reason=paid.reason, by=_name(actor), now_ms=clock.now_ms()
        )
        payout = await session.get_one(Payout, payout_id)
        details = {
            "payout_id": payout_id, "amount": payout.amount, "reference": paid.reference, "reason": paid.reason
        }  # fmt: skip
        await record(tx, actor, "payout.marked_paid", ("settlement", settlement_id), details=details)
        return envelope(request, payout_view(payout))

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        return await once.answer(tx, mark)


class Returned(Body):
    reason: Reason


@router.post(
    "/admin/payouts/{payout_id}/mark-returned",
    responses=answers(PayoutView) | problems(NotFound, Conflict, IllegalTransition),
)
async def mark_returned(
    request: Request, payout_id: Id, returned: Returned, actor: Acting, once: AskedOnce
) -> Response:
    """What was paid by hand came back: the settlement waits to be paid again."""

    async def mark() -> Response:
        await service.mark_returned(tx, payout_id, reason=returned.reason, by=_name(actor), now_ms=clock.now_ms())
        await record(tx, actor, "payout.marked_returned", ("payout", payout_id), details={"reason": returned.reason})
        return envelope(request, payout_view(await session.get_one(Payout, payout_id)))

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        return await once.answer(tx, mark)


def _name(actor: Actor) -> str:
    assert actor.id is not None  # whoever passed a door that asks for a role has an id
    return actor.id


# The bank


class CallbackReader(Protocol):
    """Whoever can tell whether a bank signed this."""

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> PayoutReport: ...


async def payout_callback(request: Request) -> Response:
    """`POST /integrations/bank/payout-callback`: answered only after the commit. Forged or stale: 401 and nothing
    written."""
    body = await read_body(request)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
    bank: CallbackReader | None = request.app.state.bank_callbacks.get(headers.get("x-partner-id", ""))
    if bank is None:
        raise InvalidSignature("The callback does not name a bank of ours.")
    now_ms = clock.now_ms()
    report = bank.read_callback(headers, body, now_ms=now_ms)
    database: db.Database = request.app.state.database
    asked = request_id(request)
    elsewhere = request.app.state.other_transfers
    outcome, payout_id = await database.write(
        lambda tx: reports.take(tx, report, request_id=asked, now_ms=now_ms, elsewhere=elsewhere)
    )
    log.info(
        "payout_callback.taken",
        bank=report.provider, event_id=report.event_id, payout_id=payout_id, outcome=outcome.value,
    )  # fmt: skip
    return answer(
        {
            "data": {"event_id": report.event_id, "payout_id": payout_id, "outcome": outcome.value},
            "request_id": asked,
            "timestamp": clock.rfc3339(clock.now_ms()),
        }
    )


CALLBACK_OPERATION: dict[str, Any] = {
    "summary": "A bank reports what became of a payout",
    "description": (
        "Answered only after the commit; the same report again changes nothing. The signature covers the raw body; "
        "`X-Partner-Timestamp` may differ from our clock by 300 s. Other headers are unsigned and decide nothing."
    ),
    "tags": ["partners"],
    "operationId": "payout_callback",
    "parameters": [
        {"name": "X-Partner-Id", "in": "header", "required": True, "schema": {"type": "string"}, "example": "sandbox"},
        {"name": "X-Partner-Timestamp", "in": "header", "required": True, "description": "Unix seconds",
         "schema": {"type": "string", "pattern": "^[0-9]{1,11}$"}, "example": "1779527430"},
        {"name": "X-Partner-Signature", "in": "header", "required": True,
         "schema": {"type": "string", "pattern": "^v1=[0-9a-fA-F]{64}(,v1=[0-9a-fA-F]{64})*$"},
         "description": "v1= and 64 hex digits; several, separated by commas, while a secret is exchanged",
         "example": f"v1={'0123456789abcdef' * 4}"},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": BODY_SCHEMA,
                "example": {
                    "event_id": "evt_7718", "payout_reference": "pay_01k9x3m8z6", "payout_id": "TRF0000000001",
                    "status": "succeeded", "amount": 1250000, "currency": "IDR",
                },
            }
        },
    },
    "responses": {
        "200": {
            "description": "Stored for good, whatever the outcome",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["data", "request_id", "timestamp"],
                        "properties": {
                            "data": {
                                "type": "object",
                                "required": ["event_id", "payout_id", "outcome"],
                                "properties": {
                                    "event_id": {"type": "string"},
                                    "payout_id": {"type": ["string", "null"]},
                                    "outcome": {"type": "string", "enum": [one.value for one in EventOutcome]},
                                },
                            },
                            "request_id": {"type": "string"},
                            "timestamp": {"type": "string", "format": "date-time"},
                        },
                    }
                }
            },
        }
    },
}  # fmt: skip
