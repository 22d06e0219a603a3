"""Settlements as the merchant asks for them: what is paid out for a window of a day, and what that is the sum of."""

from typing import Annotated

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.answers import TypedDict, among
from soundbox_server.fields import Day
from soundbox_server.ledger.models import Journal
from soundbox_server.paging import Listing, Rows
from soundbox_server.settlements.listings import SETTLEMENTS, SettlementFilters, SettlementView, ShareView
from soundbox_server.settlements.models import Settlement, SettlementItem
from soundbox_server.settlements.state import SettlementState


class OwnSettlementFilters(SettlementFilters):
    date_from: Annotated[Day | None, Field(description="of the business day")] = None
    date_to: Annotated[Day | None, Field(description="of the business day, itself among them")] = None


def _select(asked: OwnSettlementFilters) -> Rows:
    query = SETTLEMENTS.select(asked)
    if asked.date_from is not None:
        query = query.where(Settlement.day >= asked.date_from)
    if asked.date_to is not None:
        query = query.where(Settlement.day <= asked.date_to)
    return query


OWN_SETTLEMENTS = Listing(
    asked=OwnSettlementFilters, key=SETTLEMENTS.key, select=_select, show=SETTLEMENTS.show, columns=SETTLEMENTS.columns
)


class WholeSettlementView(SettlementView):
    shares: list[ShareView]


class SettledInView(TypedDict):
    id: str
    date: str
    settles_on: str
    status: Annotated[str, among(SettlementState)]


async def settled_in(session: AsyncSession, payment_id: str) -> SettledInView | None:
    """The settlement that this payment is in: found by the journal that booked it."""
    found = await session.scalar(
        select(Settlement)
        .join(SettlementItem, SettlementItem.settlement_id == Settlement.id)
        .join(Journal, Journal.id == SettlementItem.journal_id)
        .where(Journal.payment_id == payment_id, Journal.kind == "capture")
    )
    if found is None:
        return None
    return {"id": found.id, "date": found.day, "settles_on": found.settles_on, "status": found.state}
