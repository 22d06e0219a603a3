"""Settlements as the merchant sees them: what is paid out for a window of a day, and what that is the sum of."""

from typing import Annotated

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.fields import Code, Day, Id
from soundbox_server.ledger.models import Journal
from soundbox_server.paging import Listing, Page, Rows, matching
from soundbox_server.settlements.models import Settlement, SettlementItem, SettlementShare
from soundbox_server.settlements.state import SettlementState


class SettlementFilters(Page):
    status: SettlementState | None = None
    merchant_id: Id | None = None
    window: Code | None = None
    day_from: Day | None = None
    day_to: Day | None = None


def _select(asked: SettlementFilters) -> Rows:
    query = matching(
        select(Settlement),
        (Settlement.state, asked.status), (Settlement.merchant_id, asked.merchant_id),
        (Settlement.window_name, asked.window),
    )  # fmt: skip
    if asked.day_from is not None:
        query = query.where(Settlement.day >= asked.day_from)
    if asked.day_to is not None:
        query = query.where(Settlement.day <= asked.day_to)
    return query


class SettlementView(TypedDict):
    """`carried_in` is what the batch before lacked, `carried_out` what this one lacks; both are zero or negative."""

    id: str
    merchant_id: str
    day: str
    window: str
    opens_at: Time
    closes_at: Time
    settles_on: str
    status: Annotated[str, among(SettlementState)]
    payout_mode: str
    currency: str
    payments: int
    adjustments: int
    gross_amount: int
    fee_amount: int
    adjustment_amount: int
    carried_in: int
    carried_out: int
    net_amount: int
    created_at: Time
    changed_at: Time | None


def settlement_view(settlement: Settlement) -> SettlementView:
    return {
        "id": settlement.id,
        "merchant_id": settlement.merchant_id,
        "day": settlement.day,
        "window": settlement.window_name,
        "opens_at": rfc3339(settlement.opens_at_ms),
        "closes_at": rfc3339(settlement.closes_at_ms),
        "settles_on": settlement.settles_on,
        "status": settlement.state,
        "payout_mode": settlement.payout_mode,
        "currency": "IDR",
        "payments": settlement.payments,
        "adjustments": settlement.adjustments,
        "gross_amount": settlement.gross_amount,
        "fee_amount": settlement.fee_amount,
        "adjustment_amount": settlement.adjustment_amount,
        "carried_in": settlement.carried_in,
        "carried_out": settlement.carried_out,
        "net_amount": settlement.net_amount,
        "created_at": rfc3339(settlement.created_at_ms),
        "changed_at": rfc3339_or_none(settlement.changed_at_ms),
    }


class ShareView(TypedDict):
    provider: str
    payments: int
    adjustments: int
    gross_amount: int
    fee_amount: int
    adjustment_amount: int
    carried_in: int
    carried_out: int
    net_amount: int


class WholeSettlementView(SettlementView):
    shares: list[ShareView]


def share_view(share: SettlementShare) -> ShareView:
    return {
        "provider": share.provider,
        "payments": share.payments,
        "adjustments": share.adjustments,
        "gross_amount": share.gross_amount,
        "fee_amount": share.fee_amount,
        "adjustment_amount": share.adjustment_amount,
        "carried_in": share.carried_in,
        "carried_out": share.carried_out,
        "net_amount": share.net_amount,
    }


_COLUMNS = (
    "id", "merchant_id", "day", "window", "opens_at", "closes_at", "settles_on", "status", "payout_mode", "currency",
    "payments", "adjustments", "gross_amount", "fee_amount", "adjustment_amount", "carried_in", "carried_out",
    "net_amount", "created_at", "changed_at",
)  # fmt: skip
SETTLEMENTS = Listing(
    asked=SettlementFilters, key=(Settlement.id,), select=_select, show=settlement_view, columns=_COLUMNS
)


class SettledInView(TypedDict):
    id: str
    day: str
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
    return {"id": found.id, "day": found.day, "settles_on": found.settles_on, "status": found.state}
