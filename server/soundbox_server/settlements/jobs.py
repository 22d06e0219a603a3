"""Settling by the clock."""

from functools import partial
from pathlib import Path

import structlog

from soundbox_server import clock
from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.broker.leases import try_lease
from soundbox_server.db import Database, Statements
from soundbox_server.settlements import planning
from soundbox_server.settlements.calendar import Calendar
from soundbox_server.settlements.running import settle_window
from soundbox_server.settlements.service import Wanted

log = structlog.get_logger()

AHEAD_MS = 30 * clock.DAY_MS  # so long before a year begins its holidays should be known
_CALENDAR = ("settlement_calendar", "years")


class Settler:
    """Settles what is due. One process at a time does it: the others find the lease taken."""

    def __init__(self, database: Database, calendar: Calendar, *, folder: Path) -> None:
        self._database = database
        self._calendar = calendar
        self._folder = folder

    async def tick(self) -> None:
        """Settle every window whose day has come, and what somebody began and nobody ended."""
        lease = await try_lease(self._database, "settlements", folder=self._folder)
        if lease is None:
            return
        try:
            await self._database.write(partial(_look_ahead, calendar=self._calendar))
            for wanted in await self._database.read(self._due):
                await settle_window(self._database, wanted)
                log.info("settlements.settled", run=wanted.run)
        finally:
            await lease.release()

    async def _due(self, tx: Statements) -> list[Wanted]:
        return await planning.due_now(tx, self._calendar, by=None, now_ms=clock.now_ms())


async def _look_ahead(tx: Statements, calendar: Calendar) -> None:
    """Holidays that nobody wrote down would be taken for days on which banks pay."""
    now_ms = clock.now_ms()
    year = clock.jakarta_day(now_ms + AHEAD_MS)[:4]
    if calendar.knows(f"{year}-01-01"):
        await clear(tx, "settlements.holidays_unknown", _CALENDAR, now_ms=now_ms)
        return
    standing = await tx.fetch(
        "SELECT id FROM alert WHERE kind = 'settlements.holidays_unknown' AND state <> 'resolved'"
    )
    if not standing:
        await raise_alert(
            tx, "settlements.holidays_unknown", _CALENDAR, severity=Severity.WARNING, facts={"year": int(year)},
            now_ms=now_ms,
        )  # fmt: skip
