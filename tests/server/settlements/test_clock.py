"""By the clock: one process settles what is due, and says when nobody knows next year's holidays."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.books import check_books
from support.settling import CALENDAR, settlements
from support.shop import execute, open_shop, report, rows, take

from soundbox_server.broker.leases import try_lease
from soundbox_server.clock import DAY_MS, jakarta_day, now_ms
from soundbox_server.db import Database
from soundbox_server.settlements.calendar import Calendar
from soundbox_server.settlements.jobs import Settler


@pytest.fixture
def calendar() -> Calendar:
    """One that knows this year and the next, whenever this is."""
    year = int(jakarta_day(now_ms())[:4])
    return replace(CALENDAR, years=frozenset({year, year + 1}))


async def test_what_is_due_is_settled_by_whoever_holds_the_lease(
    database: Database, calendar: Calendar, tmp_path: Path
) -> None:
    shop = await open_shop(database)
    await take(database, report(await shop.payment(await shop.box())))
    settler = Settler(database, calendar, folder=tmp_path)
    lease = await try_lease(database, "settlements", folder=tmp_path)
    assert lease is not None
    await settler.tick()
    assert await settlements(database) == []
    await lease.release()

    await settler.tick()
    await settler.tick()

    (batch,) = await settlements(database)
    assert (batch["payments"], batch["state"]) == (1, "calculated")
    assert [run["started_by"] for run in await rows(database, "SELECT started_by FROM settlement_run")] == [None]
    await check_books(database)


async def test_a_run_that_somebody_left_is_ended(database: Database, calendar: Calendar, tmp_path: Path) -> None:
    shop = await open_shop(database)
    await take(database, report(await shop.payment(await shop.box())))
    settler = Settler(database, calendar, folder=tmp_path)
    await settler.tick()
    await execute(database, "UPDATE settlement_run SET state = 'collecting', finished_at_ms = NULL")

    await settler.tick()

    assert [run["state"] for run in await rows(database, "SELECT state FROM settlement_run")] == ["done"]
    assert len(await settlements(database)) == 1
    await check_books(database)


async def test_a_year_without_known_holidays_is_an_alert_until_they_are_known(
    database: Database, calendar: Calendar, tmp_path: Path
) -> None:
    ahead = jakarta_day(now_ms() + 30 * DAY_MS)[:4]
    for _ in range(2):
        await Settler(database, replace(calendar, years=frozenset()), folder=tmp_path).tick()
    (alert,) = await rows(database, "SELECT kind, state, times, facts FROM alert")
    assert (alert["kind"], alert["state"], alert["times"]) == ("settlements.holidays_unknown", "open", 1)
    assert alert["facts"] == f'{{"year":{ahead}}}'

    await Settler(database, calendar, folder=tmp_path).tick()

    assert [row["state"] for row in await rows(database, "SELECT state FROM alert")] == ["resolved"]
