"""Operators look at what was taken, day by day."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.hub import open_hub
from support.shop import NOW, Shop, open_shop
from support.staff import Staff

from soundbox_server.clock import DAY_MS
from soundbox_server.db import Database
from soundbox_server.revenue.service import Entry, add


@pytest.fixture
async def finance(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_finance", "finance")


async def three_days(database: Database) -> list[Shop]:
    """Two shops, the first with two tills, that each took something through two providers on each of three days."""
    first = await open_shop(database)
    shops = [first, await first.another_terminal(), await open_shop(database)]
    entries = [
        Entry(at_ms=NOW + day * DAY_MS, terminal_id=shop.terminal_id, provider=provider, merchant_id=shop.merchant_id,
              payments=1, gross_amount=10_000, fee_amount=70, refunds=1, refunded_amount=1_000, fee_returned=7)
        for day in range(3) for shop in shops for provider in ("acme", "cash")
    ]  # fmt: skip
    await database.write(lambda tx: add(tx, entries))
    return shops


async def test_newest_days_come_first_page_by_page_and_each_row_once(finance: Staff, database: Database) -> None:
    await three_days(database)

    pages = [page async for page in finance.pages("/admin/revenue", limit=5)]

    rows = [(row["day"], row["terminal_id"], row["provider"]) for page in pages for row in page]
    assert [len(page) for page in pages] == [5, 5, 5, 3]
    assert rows == sorted(set(rows), reverse=True)
    assert {row["net_amount"] for page in pages for row in page} == {10_000 - 70 - 1_000 + 7}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, 18),
        ({"day_from": "2026-05-24"}, 12),
        ({"day_to": "2026-05-23"}, 6),
        ({"day_from": "2026-05-24", "day_to": "2026-05-24", "provider": "cash"}, 3),
        ({"merchant_id": "first"}, 12),
        ({"outlet_id": "first"}, 12),
        ({"terminal_id": "first", "provider": "acme"}, 3),
    ],
)
async def test_filters_leave_what_was_asked_for(
    finance: Staff, database: Database, wanted: dict[str, Any], found: int
) -> None:
    first = (await three_days(database))[0]
    asked = {name: getattr(first, name) if value == "first" else value for name, value in wanted.items()}

    rows = await finance.get("/admin/revenue", **asked)

    assert len(rows) == found
    assert all(row[name] == value for row in rows for name, value in asked.items() if name in row)


@pytest.mark.parametrize("day", ["2026-02-30", "2026-5-3", "yesterday", "2026-05-23T00:00:00Z", "２０２６-05-23"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_day_that_is_none_is_refused(finance: Staff, day: str) -> None:
    answer = await finance.call("GET", "/admin/revenue", params={"day_from": day})

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["day_from"]
