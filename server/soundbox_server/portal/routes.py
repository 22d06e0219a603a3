"""Merchants' own doors of reference 001: their shop, its takings, payments, places and boxes.

Whose they are comes from the caller's organisation and from nowhere else; what is another's is not there.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, Caller
from soundbox_server.access.models import Organisation, Person
from soundbox_server.answers import answers, pages
from soundbox_server.audit.service import record
from soundbox_server.db import statements
from soundbox_server.devices.listings import DeviceFilters
from soundbox_server.errors import NotFound, TransactionNotFound
from soundbox_server.fields import Body, Id, unchanged
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.merchants import accounts, service
from soundbox_server.merchants.models import AccountChange, Merchant, Outlet, Terminal
from soundbox_server.merchants.place_routes import OutletFilters
from soundbox_server.merchants.routes import AnnouncementPolicy
from soundbox_server.merchants.state import AccountChangeState
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.paging import Page, page
from soundbox_server.payments.listings import TransactionFilters
from soundbox_server.payments.models import PaymentEvent, Refund
from soundbox_server.payments.tenants import merchants_of, payment_of
from soundbox_server.portal.dashboard import SummaryView, summary
from soundbox_server.portal.scope import devices_of, outlets_of, settlements_of, transactions_of
from soundbox_server.portal.settlements import OwnSettlementFilters, WholeSettlementView, settled_in
from soundbox_server.portal.views import (
    MeView,
    OwnDeviceView,
    OwnMerchantView,
    OwnOutletView,
    OwnTransactionView,
    OwnUserView,
    WholeOwnTransactionView,
    own_announcement_view,
    own_merchant_view,
    own_refund_view,
    own_step_view,
    own_terminal_view,
    own_transaction_view,
)
from soundbox_server.settlements.listings import SettlementView, settlement_view, share_view
from soundbox_server.statements.listings import ITEMS, StatementFilters, StatementItemView
from soundbox_server.statements.service import settlement_of, shares_of

router = APIRouter(tags=["merchants"])

_WAITING = (AccountChangeState.REQUESTED.value, AccountChangeState.APPROVED.value)


@router.get("/merchant/me", responses=answers(MeView))
async def get_me(request: Request, session: Reader, caller: Caller) -> Response:
    """Who is asking, and the merchants of their organisation. `user` is null for an API key."""
    organisation = await session.get_one(Organisation, caller.organisation_id)
    person = await session.get_one(Person, caller.person_id) if caller.api_key_id is None else None
    found = await session.execute(
        select(Merchant, AccountChange, _outlets_of_it())
        .outerjoin(AccountChange, (AccountChange.merchant_id == Merchant.id) & AccountChange.state.in_(_WAITING))
        .where(Merchant.organisation_id == organisation.id).order_by(Merchant.id)
    )  # fmt: skip
    return envelope(
        request,
        {
            "user": _user(person) if person else None,
            "organisation": {"id": organisation.id, "name": organisation.name},
            "merchants": [
                own_merchant_view(merchant, outlets=outlets, waiting=waiting) for merchant, waiting, outlets in found
            ],
        },
    )


def _outlets_of_it() -> Any:
    return select(func.count()).where(Outlet.merchant_id == Merchant.id).correlate(Merchant).scalar_subquery()


class OwnChanges(Body):
    announcement_policy: AnnouncementPolicy = Field(default_factory=unchanged)


@router.patch("/merchant/merchants/{merchant_id}", responses=answers(OwnMerchantView) | problems(NotFound))
async def change_own_merchant(
    request: Request, merchant_id: Id, wanted: OwnChanges, session: Session, caller: Caller, actor: Acting
) -> Response:
    """What an owner decides about a merchant of their own: which boxes say its payments."""
    merchant = await service.lock(session, merchant_id)
    if merchant.organisation_id != caller.organisation_id:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    changes = wanted.model_dump(exclude_unset=True)
    changed = await service.change(session, merchant, changes, now_ms=clock.now_ms())
    if changed:
        details = {"before": changed.before, "after": changed.after}
        await record(await statements(session), actor, "merchant.changed", ("merchant", merchant_id), details=details)
    outlets = await session.scalar(select(func.count()).where(Outlet.merchant_id == merchant_id))
    waits = await accounts.waiting_change(session, merchant_id)
    return envelope(request, own_merchant_view(merchant, outlets=outlets or 0, waiting=waits))


def _user(person: Person) -> OwnUserView:
    return {
        "id": person.id,
        "email": person.email,
        "name": person.name,
        "role": person.role,
        "language": person.language,
    }


class SummaryAsked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    days: int = Field(30, ge=1, le=92, description="days in Jakarta, today among them")
    merchant_id: Id | None = None
    outlet_id: Id | None = None


@router.get("/merchant/dashboard/summary", responses=answers(SummaryView) | problems(NotFound))
async def get_summary(
    request: Request, session: Reader, caller: Caller, asked: Annotated[SummaryAsked, Query()]
) -> Response:
    """What was taken today, yesterday, this month and on each of the last days, by outlets, and how many boxes are
    online. A day is a day in Jakarta; a refund counts on its own day."""
    merchants = await merchants_of(session, caller.organisation_id)
    if asked.merchant_id is not None:
        if asked.merchant_id not in merchants:
            raise NotFound("No such merchant.", merchant_id=asked.merchant_id)
        merchants = [asked.merchant_id]
    if asked.outlet_id is not None:
        await _require_outlet(session, asked.outlet_id, merchants)
    shown = await summary(session, merchants, outlet_id=asked.outlet_id, days=asked.days, now_ms=clock.now_ms())
    return envelope(request, shown)


async def _require_outlet(session: AsyncSession, outlet_id: str, merchants: Sequence[str]) -> None:
    outlet = await session.get(Outlet, outlet_id)
    if outlet is None or outlet.merchant_id not in merchants:
        raise NotFound("No such outlet.", outlet_id=outlet_id)


@router.get("/merchant/transactions", responses=pages(OwnTransactionView))
async def list_transactions(
    request: Request, session: Reader, caller: Caller, asked: Annotated[TransactionFilters, Query()]
) -> Response:
    """Payments, newest first, whatever door they came through."""
    return await page(request, session, transactions_of(caller.organisation_id), asked)


@router.get(
    "/merchant/transactions/{transaction_id}",
    responses=answers(WholeOwnTransactionView) | problems(TransactionNotFound),
)
async def get_transaction(request: Request, transaction_id: Id, session: Reader, caller: Caller) -> Response:
    """One payment: what was given back of it, what its box said of it, and its log."""
    payment = await payment_of(session, transaction_id, organisation_id=caller.organisation_id)
    refunds = await session.scalars(select(Refund).where(Refund.payment_id == payment.id).order_by(Refund.id))
    told = await session.scalars(
        select(OutboxMessage)
        .where(OutboxMessage.subject_id == payment.id, OutboxMessage.kind == "payment_success")
        .order_by(OutboxMessage.id)
    )
    steps = await session.scalars(
        select(PaymentEvent).where(PaymentEvent.payment_id == payment.id).order_by(PaymentEvent.id)
    )
    return envelope(
        request,
        own_transaction_view(payment)
        | {
            "settlement": await settled_in(session, payment.id),
            "refunds": [own_refund_view(refund) for refund in refunds],
            "announcements": [own_announcement_view(message) for message in told],
            "timeline": [own_step_view(step) for step in steps],
        },
    )


@router.get("/merchant/outlets", responses=pages(OwnOutletView))
async def list_outlets(
    request: Request, session: Reader, caller: Caller, asked: Annotated[OutletFilters, Query()]
) -> Response:
    """Outlets, newest first, each with its tills."""

    async def terminals(rows: Sequence[Any]) -> list[dict[str, Any]]:
        ids = [row[0].id for row in rows]
        found: dict[str, list[Any]] = {outlet_id: [] for outlet_id in ids}
        for terminal in await session.scalars(
            select(Terminal).where(Terminal.outlet_id.in_(ids)).order_by(Terminal.id)
        ):
            found[terminal.outlet_id].append(own_terminal_view(terminal))
        return [{"terminals": found[outlet_id]} for outlet_id in ids]

    return await page(request, session, outlets_of(caller.organisation_id), asked, beside=terminals)


@router.get("/merchant/devices", responses=pages(OwnDeviceView))
async def list_devices(
    request: Request, session: Reader, caller: Caller, asked: Annotated[DeviceFilters, Query()]
) -> Response:
    """Boxes that stand at the merchant's tills now, by id, each with what it last said."""
    return await page(request, session, devices_of(caller.organisation_id), asked)


@router.get("/merchant/settlements", responses=pages(SettlementView))
async def list_settlements(
    request: Request, session: Reader, caller: Caller, asked: Annotated[OwnSettlementFilters, Query()]
) -> Response:
    """Settlements, newest first."""
    return await page(request, session, settlements_of(caller.organisation_id), asked)


@router.get("/merchant/settlements/{settlement_id}", responses=answers(WholeSettlementView) | problems(NotFound))
async def get_settlement(request: Request, settlement_id: Id, session: Reader, caller: Caller) -> Response:
    """One settlement, and the part of it that came through each provider."""
    settlement = await settlement_of(session, settlement_id, organisation_id=caller.organisation_id)
    shares = [share_view(share) for share in await shares_of(session, settlement_id)]
    return envelope(request, settlement_view(settlement) | {"shares": shares})


@router.get("/merchant/settlements/{settlement_id}/items", responses=pages(StatementItemView) | problems(NotFound))
async def list_settlement_items(
    request: Request, settlement_id: Id, session: Reader, caller: Caller, asked: Annotated[Page, Query()]
) -> Response:
    """Every payment, refund and reversal that is in it, in the order in which they were booked."""
    await settlement_of(session, settlement_id, organisation_id=caller.organisation_id)
    of_this_one = StatementFilters.model_construct(**dict(asked), settlement_id=settlement_id)
    return await page(request, session, ITEMS, of_this_one)
