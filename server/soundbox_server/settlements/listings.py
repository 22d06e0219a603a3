"""Batches and their items, for their doors and for exports."""

from typing import Annotated

from pydantic import Field
from sqlalchemy import select

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.fields import Day, Id, Moment
from soundbox_server.paging import Listing, Page, Rows, between, matching
from soundbox_server.settlements.models import Settlement, SettlementItem, SettlementShare
from soundbox_server.settlements.state import ItemKind, SettlementState


class SettlementFilters(Page):
    status: SettlementState | None = None
    merchant_id: Id | None = None
    fee_profile_id: Id | None = None
    date: Annotated[Day | None, Field(description="the business day whose window it is")] = None
    window: Id | None = None
    settles_on: Day | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select(asked: SettlementFilters) -> Rows:
    query = matching(
        select(Settlement),
        (Settlement.state, asked.status), (Settlement.merchant_id, asked.merchant_id),
        (Settlement.fee_profile_id, asked.fee_profile_id), (Settlement.day, asked.date),
        (Settlement.window_name, asked.window), (Settlement.settles_on, asked.settles_on),
    )  # fmt: skip
    return between(
        query, at=Settlement.created_at_ms, id_=Settlement.id, prefix="stl",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


class SettlementView(TypedDict):
    id: str
    merchant_id: str
    fee_profile_id: str
    date: str
    window: str
    period_start: Time
    period_end: Time
    settles_on: str
    status: Annotated[str, among(SettlementState)]
    payout_mode: str
    payments: int
    adjustments: int
    gross_amount: int
    fee_amount: int
    adjustment_amount: int
    carried_in: int
    carried_out: int
    net_amount: int
    currency: str
    created_at: Time
    calculated_at: Time | None
    changed_at: Time | None


def settlement_view(settlement: Settlement) -> SettlementView:
    return {
        "id": settlement.id,
        "merchant_id": settlement.merchant_id,
        "fee_profile_id": settlement.fee_profile_id,
        "date": settlement.day,
        "window": settlement.window_name,
        "period_start": rfc3339(settlement.opens_at_ms),
        "period_end": rfc3339(settlement.closes_at_ms),
        "settles_on": settlement.settles_on,
        "status": settlement.state,
        "payout_mode": settlement.payout_mode,
        "payments": settlement.payments,
        "adjustments": settlement.adjustments,
        "gross_amount": settlement.gross_amount,
        "fee_amount": settlement.fee_amount,
        "adjustment_amount": settlement.adjustment_amount,
        "carried_in": settlement.carried_in,
        "carried_out": settlement.carried_out,
        "net_amount": settlement.net_amount,
        "currency": "IDR",
        "created_at": rfc3339(settlement.created_at_ms),
        "calculated_at": rfc3339_or_none(settlement.calculated_at_ms),
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


SETTLEMENTS = Listing(
    asked=SettlementFilters, key=(Settlement.id,), select=_select, show=settlement_view,
    columns=(
        "id", "created_at", "merchant_id", "fee_profile_id", "date", "window", "period_start", "period_end",
        "settles_on", "status", "payout_mode", "payments", "adjustments", "gross_amount", "fee_amount",
        "adjustment_amount", "carried_in", "carried_out", "net_amount", "currency", "calculated_at", "changed_at",
    ),
)  # fmt: skip


class ItemFilters(Page):
    settlement_id: Id | None = None
    merchant_id: Id | None = None
    transaction_id: Id | None = None
    kind: ItemKind | None = None
    provider: Id | None = None


def _select_items(asked: ItemFilters) -> Rows:
    query = matching(
        select(SettlementItem),
        (SettlementItem.settlement_id, asked.settlement_id), (SettlementItem.kind, asked.kind),
        (SettlementItem.provider, asked.provider), (SettlementItem.payment_id, asked.transaction_id),
    )  # fmt: skip
    if asked.merchant_id is not None:
        of_merchant = select(Settlement.id).where(Settlement.merchant_id == asked.merchant_id)
        query = query.where(SettlementItem.settlement_id.in_(of_merchant))
    return query


class ItemView(TypedDict):
    id: str
    settlement_id: str
    kind: Annotated[str, among(ItemKind)]
    transaction_id: str
    provider: str
    gross_amount: int
    fee_amount: int
    net_amount: int
    at: Time


def item_view(item: SettlementItem) -> ItemView:
    return {
        "id": item.journal_id,
        "settlement_id": item.settlement_id,
        "kind": item.kind,
        "transaction_id": item.payment_id,
        "provider": item.provider,
        "gross_amount": item.gross_amount,
        "fee_amount": item.fee_amount,
        "net_amount": item.gross_amount - item.fee_amount,
        "at": rfc3339(item.at_ms),
    }


SETTLEMENT_ITEMS = Listing(
    asked=ItemFilters, key=(SettlementItem.settlement_id, SettlementItem.journal_id), select=_select_items,
    show=item_view,
    columns=(
        "id", "settlement_id", "kind", "transaction_id", "provider", "gross_amount", "fee_amount", "net_amount", "at",
    ),
)  # fmt: skip
