"""What was taken on each day, as operators look at it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import select

from soundbox_server.answers import TypedDict, pages
from soundbox_server.fields import Day, Id
from soundbox_server.http import Reader
from soundbox_server.merchants.models import Terminal
from soundbox_server.paging import TRIPLE_CURSOR, Listing, Page, Rows, matching, page
from soundbox_server.revenue.models import DailyRevenue

router = APIRouter(tags=["operators"])


class RevenueFilters(Page):
    cursor: str | None = Field(None, pattern=TRIPLE_CURSOR, description="next_cursor of the page before")
    day_from: Annotated[Day | None, Field(description="in Jakarta")] = None
    day_to: Annotated[Day | None, Field(description="in Jakarta, itself among them")] = None
    merchant_id: Id | None = None
    outlet_id: Id | None = None
    terminal_id: Id | None = None
    provider: Annotated[
        Id | None, Field(description="`cash` is what lies in drawers, `wallet` what went from wallet to wallet")
    ] = None


def _select(asked: RevenueFilters) -> Rows:
    query: Rows = select(DailyRevenue, Terminal.outlet_id).join(Terminal, Terminal.id == DailyRevenue.terminal_id)
    query = matching(
        query,
        (DailyRevenue.merchant_id, asked.merchant_id), (Terminal.outlet_id, asked.outlet_id),
        (DailyRevenue.terminal_id, asked.terminal_id), (DailyRevenue.provider, asked.provider),
    )  # fmt: skip
    if asked.day_from is not None:
        query = query.where(DailyRevenue.day >= asked.day_from)
    if asked.day_to is not None:
        query = query.where(DailyRevenue.day <= asked.day_to)
    return query


class RevenueView(TypedDict):
    day: str
    merchant_id: str
    outlet_id: str
    terminal_id: str
    provider: str
    payments: int
    gross_amount: int
    fee_amount: int
    refunds: int
    refunded_amount: int
    reversals: int
    reversed_amount: int
    fee_returned: int
    net_amount: int


def _revenue(row: DailyRevenue, outlet_id: str) -> RevenueView:
    return {
        "day": row.day,
        "merchant_id": row.merchant_id,
        "outlet_id": outlet_id,
        "terminal_id": row.terminal_id,
        "provider": row.provider,
        "payments": row.payments,
        "gross_amount": row.gross_amount,
        "fee_amount": row.fee_amount,
        "refunds": row.refunds,
        "refunded_amount": row.refunded_amount,
        "reversals": row.reversals,
        "reversed_amount": row.reversed_amount,
        "fee_returned": row.fee_returned,
        "net_amount": (
            row.gross_amount - row.fee_amount + row.fee_returned - row.refunded_amount - row.reversed_amount
        ),
    }


_COLUMNS = (
    "day", "merchant_id", "outlet_id", "terminal_id", "provider", "payments", "gross_amount", "fee_amount", "refunds",
    "refunded_amount", "reversals", "reversed_amount", "fee_returned", "net_amount",
)  # fmt: skip
REVENUE = Listing(
    asked=RevenueFilters, key=(DailyRevenue.day, DailyRevenue.terminal_id, DailyRevenue.provider), select=_select,
    show=_revenue, columns=_COLUMNS,
)  # fmt: skip


@router.get("/admin/revenue", responses=pages(RevenueView))
async def list_revenue(request: Request, session: Reader, asked: Annotated[RevenueFilters, Query()]) -> Response:
    """What each till took through each provider on each day in Jakarta, newest day first."""
    return await page(request, session, REVENUE, asked)
