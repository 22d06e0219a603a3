"""Outlets and the terminals in them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.db import KEY_STAYS
from soundbox_server.errors import NotFound
from soundbox_server.ids import new_id
from soundbox_server.merchants.models import Outlet, Terminal
from soundbox_server.merchants.service import Changed, apply, flush, lock, new_code
from soundbox_server.merchants.state import PlaceState


async def open_outlet(session: AsyncSession, merchant_id: str, facts: Mapping[str, Any], *, now_ms: int) -> Outlet:
    """Another outlet of a merchant. Raises NotFound, or Conflict when its code is taken there."""
    await lock(session, merchant_id)
    outlet = Outlet(
        id=new_id("out"),
        merchant_id=merchant_id,
        status=PlaceState.ACTIVE.value,
        created_at_ms=now_ms,
        **{"outlet_code": new_code("o"), **facts},
    )
    session.add(outlet)
    await flush(session, "outlet_code")
    return outlet


async def open_terminal(session: AsyncSession, outlet_id: str, facts: Mapping[str, Any], *, now_ms: int) -> Terminal:
    """Another till of an outlet. Raises NotFound, or Conflict when its code or partner reference is taken."""
    outlet = await _lock_outlet(session, outlet_id)
    terminal = Terminal(
        id=new_id("term"),
        outlet_id=outlet.id,
        merchant_id=outlet.merchant_id,
        status=PlaceState.ACTIVE.value,
        created_at_ms=now_ms,
        **{"terminal_code": new_code("t"), **facts},
    )
    session.add(terminal)
    await flush(session, "terminal_code", "partner_reference")
    return terminal


async def change_outlet(
    session: AsyncSession, outlet_id: str, changes: Mapping[str, Any], *, now_ms: int
) -> tuple[Outlet, Changed]:
    outlet = await _lock_outlet(session, outlet_id)
    changed = apply(outlet, changes, now_ms=now_ms)
    await flush(session, "outlet_code")
    return outlet, changed


async def change_terminal(
    session: AsyncSession, terminal_id: str, changes: Mapping[str, Any], *, now_ms: int
) -> tuple[Terminal, Changed]:
    terminal = await session.get(Terminal, terminal_id, with_for_update=KEY_STAYS)
    if terminal is None:
        raise NotFound("No such terminal.", terminal_id=terminal_id)
    changed = apply(terminal, changes, now_ms=now_ms)
    await flush(session, "terminal_code", "partner_reference")
    return terminal, changed


async def _lock_outlet(session: AsyncSession, outlet_id: str) -> Outlet:
    outlet = await session.get(Outlet, outlet_id, with_for_update=KEY_STAYS)
    if outlet is None:
        raise NotFound("No such outlet.", outlet_id=outlet_id)
    return outlet
