"""Settlements, as staff start and read them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import select

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import TypedDict, answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.errors import MerchantPayoutNotConfigured, NotFound, SettlementNotEligible, SoundboxError
from soundbox_server.fields import Body, Code, Day, Id
from soundbox_server.http import Reader, envelope, problems
from soundbox_server.idempotency import Once, begin, keep, release
from soundbox_server.paging import Listing, Page, Rows, page
from soundbox_server.settlements import planning, running, service
from soundbox_server.settlements.calendar import Calendar
from soundbox_server.settlements.listings import (
    SETTLEMENTS,
    ItemView,
    SettlementFilters,
    SettlementView,
    ShareView,
    item_view,
    settlement_view,
    share_view,
)
from soundbox_server.settlements.models import Settlement, SettlementItem, SettlementShare
from soundbox_server.settlements.service import Wanted
from soundbox_server.settlements.state import ItemKind

router = APIRouter(tags=["operators"])
LEASE_MS = 10 * 60_000  # a run of a large day; whoever repeats it meanwhile is told that it is under way


class Run(Body):
    """Without a date, every window that is due, or those of the name. `dry_run` only says what would come of it."""

    date: Annotated[Day | None, Field(description="the business day whose windows are settled")] = None
    window: Annotated[Code | None, Field(examples=["daily"], description="windows of this name alone")] = None
    fee_profile_id: Annotated[Id | None, Field(examples=["fee_basic"])] = None
    merchant_id: Annotated[Id | None, Field(description="this merchant's batch alone")] = None
    dry_run: bool = False


class RunView(TypedDict):
    """A window's batches together."""

    fee_profile_id: str
    date: str
    window: str
    settles_on: str
    settlements: int
    payments: int
    adjustments: int
    gross_amount: int
    fee_amount: int
    adjustment_amount: int
    carried_in: int
    carried_out: int
    net_amount: int


class RunsView(TypedDict):
    dry_run: bool
    windows: list[RunView]


@router.post(
    "/admin/settlements/run",
    responses=answers(RunsView) | problems(NotFound, SettlementNotEligible, MerchantPayoutNotConfigured),
)
async def run_settlements(request: Request, asked: Run, actor: Acting, once: AskedOnce) -> Response:
    """Settle windows whose day has come: one batch per merchant and window, however often it is asked for.

    409 SETTLEMENT_NOT_ELIGIBLE where there is nothing to settle, or not yet; 409 MERCHANT_PAYOUT_NOT_CONFIGURED for a
    merchant without an account to be paid at. Others without one are passed over, and taken along once they have one.
    """
    database: db.Database = request.app.state.database
    if asked.dry_run:
        windows = await database.read(lambda tx: _wanted(tx, request.app.state.calendar, asked, by=actor.id))
        return envelope(request, {"dry_run": True, "windows": await _previewed(database, windows, asked.merchant_id)})
    async with db.transaction(database) as session:
        tx = await db.statements(session)
        if (stored := await begin(tx, once, now_ms=clock.now_ms(), lease_ms=LEASE_MS)) is not None:
            return stored
    try:
        return await _run(request, asked, actor, once)
    except SoundboxError:  # anything else leaves it to the lease: it may have settled some
        async with db.transaction(database) as session:
            await release(await db.statements(session), once)
        raise


async def _run(request: Request, asked: Run, actor: Actor, once: Once) -> Response:
    """A run is many transactions. What it leaves is told, and kept under its key, in the last one."""
    database: db.Database = request.app.state.database
    windows = await database.read(lambda tx: _wanted(tx, request.app.state.calendar, asked, by=actor.id))
    for wanted in windows:
        if asked.merchant_id:
            await running.settle_merchant(database, wanted, asked.merchant_id)
        else:
            await running.settle_window(database, wanted)
    async with db.transaction(database) as session:
        tx = await db.statements(session)
        settled = [await _settled(tx, wanted, asked.merchant_id) for wanted in windows]
        found = _require_some([one for one in settled if one["settlements"]])
        await record(tx, actor, "settlement.run", ("settlement_run", found[-1]["date"]), details={"windows": found})
        response = envelope(request, {"dry_run": False, "windows": found})
        await keep(tx, once, response)
    return response


async def _wanted(tx: db.Statements, calendar: Calendar, asked: Run, *, by: str | None) -> list[Wanted]:
    now_ms, profile = clock.now_ms(), asked.fee_profile_id
    if asked.merchant_id:
        await service.require_eligible(tx, asked.merchant_id)
        profile = await planning.profile_of(tx, asked.merchant_id)
    if asked.date:
        return await planning.on_day(
            tx, calendar, asked.date, name=asked.window, fee_profile_id=profile, by=by, now_ms=now_ms
        )
    due = [] if asked.merchant_id else await planning.due_now(tx, calendar, by=by, now_ms=now_ms)
    found = [one for one in due if profile in (None, one.fee_profile_id) and asked.window in (None, one.window.name)]
    last = [] if found else await planning.latest(tx, calendar, profile, by=by, now_ms=now_ms)
    return found or [one for one in last if asked.window in (None, one.window.name)]


def _require_some(windows: list[RunView]) -> list[RunView]:
    if not windows:
        raise SettlementNotEligible("There is nothing to settle.")
    return windows


async def _previewed(database: db.Database, windows: list[Wanted], merchant_id: str | None) -> list[RunView]:
    """Each window as if it were the next one: what an earlier one of these takes is in the later ones as well."""
    found = []
    for wanted in windows:
        batches = await database.read_at_leisure(
            lambda tx, wanted=wanted: service.preview(tx, wanted, merchant_id=merchant_id, now_ms=clock.now_ms())  # type: ignore[misc]
        )
        found.append(_run_view(wanted, len(batches), service.total(batches).row()))
    return _require_some([one for one in found if one["settlements"]])


_SUMS = (
    "payments", "adjustments", "gross_amount", "fee_amount", "adjustment_amount", "carried_in", "carried_out",
    "net_amount",
)  # fmt: skip
_SETTLED = f"""
SELECT count(*) AS settlements, {", ".join(f"CAST(coalesce(sum({name}), 0) AS BIGINT) AS {name}" for name in _SUMS)}
FROM settlement
WHERE fee_profile_id = $1 AND day = $2 AND window_name = $3 AND coalesce($4, merchant_id) = merchant_id
"""


async def _settled(tx: db.Statements, wanted: Wanted, merchant_id: str | None) -> RunView:
    (row,) = await tx.fetch(_SETTLED, *wanted.key, merchant_id)
    return _run_view(wanted, row["settlements"], tuple(row[name] for name in _SUMS))


def _run_view(wanted: Wanted, settlements: int, sums: tuple[int, ...]) -> RunView:
    payments, adjustments, gross, fee, adjustment, carried_in, carried_out, net = sums
    return {
        "fee_profile_id": wanted.fee_profile_id,
        "date": wanted.window.day,
        "window": wanted.window.name,
        "settles_on": wanted.window.settles_on,
        "settlements": settlements,
        "payments": payments,
        "adjustments": adjustments,
        "gross_amount": gross,
        "fee_amount": fee,
        "adjustment_amount": adjustment,
        "carried_in": carried_in,
        "carried_out": carried_out,
        "net_amount": net,
    }


@router.get("/admin/settlements", responses=pages(SettlementView))
async def list_settlements(request: Request, session: Reader, asked: Annotated[SettlementFilters, Query()]) -> Response:
    """Batches, newest first."""
    return await page(request, session, SETTLEMENTS, asked)


class WholeSettlementView(SettlementView):
    shares: list[ShareView]


@router.get("/admin/settlements/{settlement_id}", responses=answers(WholeSettlementView))
async def get_settlement(request: Request, settlement_id: Id, session: Reader) -> Response:
    """One batch, and which part of it came through which provider. Its items have a list of their own."""
    settlement = await session.get(Settlement, settlement_id)
    if settlement is None:
        raise NotFound("No such settlement.", settlement_id=settlement_id)
    shares = await session.scalars(
        select(SettlementShare).where(SettlementShare.settlement_id == settlement_id).order_by(SettlementShare.provider)
    )
    return envelope(request, {**settlement_view(settlement), "shares": [share_view(share) for share in shares]})


class ItemsOfSettlement(Page):
    kind: ItemKind | None = None
    provider: Id | None = None


@router.get("/admin/settlements/{settlement_id}/items", responses=pages(ItemView))
async def list_settlement_items(
    request: Request, settlement_id: Id, session: Reader, asked: Annotated[ItemsOfSettlement, Query()]
) -> Response:
    """What is in a batch, newest first: payments, and what went back of them. Amounts are the merchant's: a refund's
    are negative."""
    if await session.get(Settlement, settlement_id) is None:
        raise NotFound("No such settlement.", settlement_id=settlement_id)

    def items(asked: ItemsOfSettlement) -> Rows:
        query: Rows = select(SettlementItem).where(SettlementItem.settlement_id == settlement_id)
        if asked.kind is not None:
            query = query.where(SettlementItem.kind == asked.kind.value)
        return query if asked.provider is None else query.where(SettlementItem.provider == asked.provider)

    listing = Listing(asked=ItemsOfSettlement, key=(SettlementItem.journal_id,), select=items, show=item_view)
    return await page(request, session, listing, asked)
