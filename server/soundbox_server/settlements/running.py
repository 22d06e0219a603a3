"""Carrying a run out: one transaction after the other, so that callbacks come in between."""

from functools import partial

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.settlements import service
from soundbox_server.settlements.service import Wanted


async def settle_window(database: Database, wanted: Wanted) -> None:
    """Settle a window of a profile, or go on where somebody stopped; nothing happens to one that is settled."""
    await database.write_at_leisure(partial(service.begin, wanted=wanted, now_ms=clock.now_ms()))
    while not await database.write_at_leisure(partial(service.advance, wanted=wanted, now_ms=clock.now_ms())):
        pass


async def settle_merchant(database: Database, wanted: Wanted, merchant_id: str) -> None:
    """Settle a window for one merchant. Raises what `service.settle_merchant` raises."""
    await database.write_at_leisure(
        partial(service.settle_merchant, wanted=wanted, merchant_id=merchant_id, now_ms=clock.now_ms())
    )
