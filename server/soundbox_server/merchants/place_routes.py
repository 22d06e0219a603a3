"""Operators' doors to outlets and terminals."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import or_, select

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import answers, pages
from soundbox_server.audit.service import record
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.fields import Body, Code, Id, Moment, Name, Reference, Search, Text, unchanged
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.merchants import places
from soundbox_server.merchants.models import Outlet, Terminal
from soundbox_server.merchants.state import PlaceState
from soundbox_server.merchants.views import OutletView, TerminalView, outlet_view, terminal_view
from soundbox_server.paging import Listing, Page, Rows, beginning, between, matching, page

router = APIRouter(tags=["operators"])

QrMode = Literal["static", "dynamic"]


class NewOutlet(Body):
    name: Name
    address: Annotated[Text, Field(examples=["Jl. Contoh 1, Jakarta"])] = Field(default_factory=str)
    outlet_code: Code | None = None


class OutletChanges(Body):
    name: Name = Field(default_factory=unchanged)
    address: Text = Field(default_factory=unchanged)
    outlet_code: Code = Field(default_factory=unchanged)
    status: Literal["active", "disabled"] = Field(default_factory=unchanged)


class OutletFilters(Page):
    merchant_id: Id | None = None
    status: PlaceState | None = None
    q: Search | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select_outlets(asked: OutletFilters) -> Rows:
    query = matching(select(Outlet), (Outlet.merchant_id, asked.merchant_id), (Outlet.status, asked.status))
    if asked.q:
        query = query.where(or_(beginning(Outlet.outlet_code, asked.q), beginning(Outlet.name, asked.q)))
    return between(
        query, at=Outlet.created_at_ms, id_=Outlet.id, prefix="out",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


_OUTLET_COLUMNS = ("id", "merchant_id", "outlet_code", "name", "address", "status", "created_at", "updated_at")
OUTLETS = Listing(
    asked=OutletFilters, key=(Outlet.id,), select=_select_outlets, show=outlet_view, columns=_OUTLET_COLUMNS
)


@router.post(
    "/admin/merchants/{merchant_id}/outlets",
    status_code=201,
    responses=answers(OutletView, status=201) | problems(Conflict),
)
async def create_outlet(
    request: Request, merchant_id: Id, wanted: NewOutlet, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """Another outlet of a merchant. Without a code it gets one."""

    async def create() -> Response:
        facts = wanted.model_dump(exclude_none=True)
        outlet = await places.open_outlet(session, merchant_id, facts, now_ms=clock.now_ms())
        await record(await statements(session), actor, "outlet.created", ("outlet", outlet.id), details=facts)
        return envelope(request, outlet_view(outlet), status=201)

    return await once.answer(await statements(session), create)


@router.get("/admin/outlets", responses=pages(OutletView))
async def list_outlets(request: Request, session: Reader, asked: Annotated[OutletFilters, Query()]) -> Response:
    """Outlets, newest first."""
    return await page(request, session, OUTLETS, asked)


@router.get("/admin/outlets/{outlet_id}", responses=answers(OutletView))
async def get_outlet(request: Request, outlet_id: Id, session: Reader) -> Response:
    outlet = await session.get(Outlet, outlet_id)
    if outlet is None:
        raise NotFound("No such outlet.", outlet_id=outlet_id)
    return envelope(request, outlet_view(outlet))


@router.patch("/admin/outlets/{outlet_id}", responses=answers(OutletView) | problems(Conflict))
async def change_outlet(
    request: Request, outlet_id: Id, wanted: OutletChanges, session: Session, actor: Acting
) -> Response:
    """Change what is named. No terminal of a disabled outlet issues QR; payments to it are recorded."""
    changes = wanted.model_dump(exclude_unset=True)
    outlet, changed = await places.change_outlet(session, outlet_id, changes, now_ms=clock.now_ms())
    if changed:
        details = {"before": changed.before, "after": changed.after}
        await record(await statements(session), actor, "outlet.changed", ("outlet", outlet_id), details=details)
    return envelope(request, outlet_view(outlet))


class NewTerminal(Body):
    terminal_code: Code | None = None
    qr_mode: QrMode = "dynamic"
    partner_reference: Annotated[Reference | None, Field(description="what a provider calls its static QR")] = None


class TerminalChanges(Body):
    terminal_code: Code = Field(default_factory=unchanged)
    qr_mode: QrMode = Field(default_factory=unchanged)
    partner_reference: Reference | None = None
    status: Literal["active", "disabled"] = Field(default_factory=unchanged)


class TerminalFilters(Page):
    merchant_id: Id | None = None
    outlet_id: Id | None = None
    status: PlaceState | None = None
    qr_mode: QrMode | None = None
    q: Search | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select_terminals(asked: TerminalFilters) -> Rows:
    query = matching(
        select(Terminal),
        (Terminal.merchant_id, asked.merchant_id), (Terminal.outlet_id, asked.outlet_id),
        (Terminal.status, asked.status), (Terminal.qr_mode, asked.qr_mode),
    )  # fmt: skip
    if asked.q:
        named = or_(beginning(Terminal.terminal_code, asked.q), beginning(Terminal.partner_reference, asked.q))
        query = query.where(named)
    return between(
        query, at=Terminal.created_at_ms, id_=Terminal.id, prefix="term",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


_TERMINAL_COLUMNS = (
    "id", "merchant_id", "outlet_id", "terminal_code", "qr_mode", "partner_reference", "status", "created_at",
    "updated_at",
)  # fmt: skip
TERMINALS = Listing(
    asked=TerminalFilters, key=(Terminal.id,), select=_select_terminals, show=terminal_view, columns=_TERMINAL_COLUMNS
)


@router.post(
    "/admin/outlets/{outlet_id}/terminals",
    status_code=201,
    responses=answers(TerminalView, status=201) | problems(Conflict),
)
async def create_terminal(
    request: Request, outlet_id: Id, wanted: NewTerminal, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """Another till of an outlet. Without a code it gets one."""

    async def create() -> Response:
        facts = wanted.model_dump(exclude_none=True)
        terminal = await places.open_terminal(session, outlet_id, facts, now_ms=clock.now_ms())
        await record(await statements(session), actor, "terminal.created", ("terminal", terminal.id), details=facts)
        return envelope(request, terminal_view(terminal), status=201)

    return await once.answer(await statements(session), create)


@router.get("/admin/terminals", responses=pages(TerminalView))
async def list_terminals(request: Request, session: Reader, asked: Annotated[TerminalFilters, Query()]) -> Response:
    """Terminals, newest first."""
    return await page(request, session, TERMINALS, asked)


@router.get("/admin/terminals/{terminal_id}", responses=answers(TerminalView))
async def get_terminal(request: Request, terminal_id: Id, session: Reader) -> Response:
    terminal = await session.get(Terminal, terminal_id)
    if terminal is None:
        raise NotFound("No such terminal.", terminal_id=terminal_id)
    return envelope(request, terminal_view(terminal))


@router.patch("/admin/terminals/{terminal_id}", responses=answers(TerminalView) | problems(Conflict))
async def change_terminal(
    request: Request, terminal_id: Id, wanted: TerminalChanges, session: Session, actor: Acting
) -> Response:
    """Change what is named. A disabled terminal issues no QR; payments to it are recorded."""
    changes = wanted.model_dump(exclude_unset=True)
    terminal, changed = await places.change_terminal(session, terminal_id, changes, now_ms=clock.now_ms())
    if changed:
        details = {"before": changed.before, "after": changed.after}
        await record(await statements(session), actor, "terminal.changed", ("terminal", terminal_id), details=details)
    return envelope(request, terminal_view(terminal))
