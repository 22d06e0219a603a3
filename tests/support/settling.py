"""Settling in tests: windows by their day, and what came of them."""

import asyncio
from functools import partial
from typing import Any

from support.shop import rows

from soundbox_server.clock import jakarta_ms
from soundbox_server.db import Database
from soundbox_server.settlements import planning, service
from soundbox_server.settlements.calendar import read_calendar
from soundbox_server.settlements.running import settle_window
from soundbox_server.settlements.service import Wanted

CALENDAR = read_calendar()


async def windows_on(database: Database, day: str, *, fee_profile_id: str | None = None) -> list[Wanted]:
    """The windows of a day, once they are all due."""
    now_ms = jakarta_ms(CALENDAR.after(day, 31))
    find = partial(planning.on_day, calendar=CALENDAR, day=day, name=None, by=None, now_ms=now_ms)
    return await database.read(partial(find, fee_profile_id=fee_profile_id))


async def settle(database: Database, day: str, *, fee_profile_id: str | None = None) -> None:
    """Settle every window of a day."""
    for wanted in await windows_on(database, day, fee_profile_id=fee_profile_id):
        await settle_window(database, wanted)


def settle_monday_in_pieces(database_url: str) -> None:
    """In a process of its own. Two journals and one batch a transaction: what a large run does in many pieces, a small
    one does here too."""

    async def monday() -> None:
        database = Database(database_url)
        await settle(database, "2026-05-25")
        await database.close()

    service.TOGETHER = {"sqlite": 2, "postgresql": 2}
    service.BATCHES = 1
    asyncio.run(monday())


async def settlements(database: Database, merchant_id: str | None = None) -> list[dict[str, Any]]:
    """Batches in the order in which they were made."""
    return await rows(
        database,
        "SELECT * FROM settlement WHERE coalesce($1, merchant_id) = merchant_id ORDER BY day, window_name, merchant_id",
        merchant_id,
    )


async def items(database: Database, settlement_id: str) -> list[dict[str, Any]]:
    return await rows(
        database, "SELECT * FROM settlement_item WHERE settlement_id = $1 ORDER BY journal_id", settlement_id
    )
