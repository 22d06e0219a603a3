"""Settlements at their doors: finance runs them, staff read them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.books import check_books
from support.hub import Hub, open_hub
from support.settling import settlements
from support.shop import Shop, execute, open_shop, report, rows, take
from support.staff import Staff, audited

from soundbox_server.db import Database

MONDAY = "2026-05-25"
RUN = "/admin/settlements/run"


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def finance(hub: Hub) -> Staff:
    return Staff(hub, "per_finance", "finance")


@pytest.fixture
async def shop(database: Database) -> Shop:
    shop = await open_shop(database)
    for amount in (50_000, 20_000):
        payment = await shop.payment(await shop.box(), amount)
        await take(database, report(payment))
    return shop


async def test_a_day_is_run_and_read(finance: Staff, database: Database, shop: Shop) -> None:
    told = await finance.post(RUN, {"date": MONDAY, "window": "daily"})

    (window,) = told["windows"]
    assert (window["date"], window["settles_on"], window["settlements"]) == (MONDAY, "2026-05-26", 1)
    assert (window["gross_amount"], window["fee_amount"], window["net_amount"]) == (70_000, 490, 69_510)
    (batch,) = await finance.get("/admin/settlements", merchant_id=shop.merchant_id, date=MONDAY, status="calculated")
    assert (batch["period_end"], batch["net_amount"]) == ("2026-05-25T17:00:00.000Z", 69_510)
    whole = await finance.get(f"/admin/settlements/{batch['id']}")
    assert [(share["provider"], share["net_amount"]) for share in whole["shares"]] == [("sandbox", 69_510)]
    seen = [item async for page in finance.pages(f"/admin/settlements/{batch['id']}/items", limit=1) for item in page]
    assert [(item["kind"], item["gross_amount"], item["net_amount"]) for item in seen] == [
        ("payment", 20_000, 19_860), ("payment", 50_000, 49_650),
    ]  # fmt: skip
    assert len(await audited(database, "settlement.run")) == 1
    await check_books(database)


async def test_a_dry_run_makes_nothing(finance: Staff, database: Database, shop: Shop) -> None:
    told = await finance.post(RUN, {"date": MONDAY, "dry_run": True})

    assert [(one["settlements"], one["net_amount"]) for one in told["windows"]] == [(1, 69_510)]
    assert await settlements(database) == []
    assert await rows(database, "SELECT day FROM settlement_run") == []
    assert await audited(database, "settlement.run") == []
    assert (await finance.post(RUN, {"date": MONDAY}))["windows"] == told["windows"]


async def test_without_a_date_what_is_due_is_settled_and_told_again(
    finance: Staff, database: Database, shop: Shop
) -> None:
    first = await finance.post(RUN, {"merchant_id": shop.merchant_id})
    again = await finance.post(RUN, {})

    assert first == again
    assert [batch["payments"] for batch in await settlements(database)] == [2]


async def test_the_same_key_gets_the_same_answer(finance: Staff, database: Database, shop: Shop) -> None:
    first = await finance.call("POST", RUN, json={"date": MONDAY}, key="run-1")
    again = await finance.call("POST", RUN, json={"date": MONDAY}, key="run-1")

    assert first.status_code == 200
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert len(await audited(database, "settlement.run")) == 1


async def test_a_key_that_was_used_for_another_run_settles_nothing(
    finance: Staff, database: Database, shop: Shop
) -> None:
    other = await open_shop(database)
    await take(database, report(await other.payment(await other.box(), 70_000)))
    await finance.call("POST", RUN, json={"date": MONDAY, "merchant_id": shop.merchant_id}, key="run-1")

    refused = await finance.call("POST", RUN, json={"date": MONDAY}, key="run-1")

    assert (refused.status_code, refused.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert [batch["merchant_id"] for batch in await settlements(database)] == [shop.merchant_id]


async def test_a_run_that_was_refused_leaves_its_key_free(finance: Staff, database: Database, shop: Shop) -> None:
    body = {"merchant_id": shop.merchant_id, "date": MONDAY}
    await shop.set_status("suspended")
    refused = await finance.call("POST", RUN, json=body, key="run-1")
    await shop.set_status("approved")

    settled = await finance.call("POST", RUN, json=body, key="run-1")

    assert (refused.status_code, settled.status_code) == (409, 200)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"date": "2026-05-24"}, 409, "SETTLEMENT_NOT_ELIGIBLE"),  # a Sunday
        ({"date": "2099-06-02"}, 409, "SETTLEMENT_NOT_ELIGIBLE"),
        ({"date": "9999-12-31"}, 409, "SETTLEMENT_NOT_ELIGIBLE"),
        ({"date": "9999-12-31", "dry_run": True}, 409, "SETTLEMENT_NOT_ELIGIBLE"),
        ({"date": MONDAY, "window": "noon"}, 409, "SETTLEMENT_NOT_ELIGIBLE"),
        ({"date": "2026-05-22"}, 409, "SETTLEMENT_NOT_ELIGIBLE"),  # nothing was paid by then
        ({"date": "2026-05-22", "dry_run": True}, 409, "SETTLEMENT_NOT_ELIGIBLE"),
        ({"merchant_id": "mer_nobody"}, 404, "NOT_FOUND"),
        ({"window": "noon"}, 409, "SETTLEMENT_NOT_ELIGIBLE"),
        ({"date": "2026-02-30"}, 400, "VALIDATION_FAILED"),
        ({"date": MONDAY, "merchant": "x"}, 400, "VALIDATION_FAILED"),
    ],
)
async def test_what_cannot_be_settled_is_said(
    finance: Staff, database: Database, shop: Shop, body: dict[str, object], status: int, code: str
) -> None:
    assert (await finance.refused("POST", RUN, body, status=status))["code"] == code
    assert await settlements(database) == []


async def test_a_merchant_without_an_account_is_named(finance: Staff, database: Database, shop: Shop) -> None:
    await execute(database, "UPDATE merchant SET payout_mode = 'merchant_direct' WHERE id = $1", shop.merchant_id)

    refused = await finance.refused("POST", RUN, {"merchant_id": shop.merchant_id}, status=409)

    assert refused["code"] == "MERCHANT_PAYOUT_NOT_CONFIGURED"
    assert (await finance.refused("POST", RUN, {"date": MONDAY}, status=409))["code"] == "SETTLEMENT_NOT_ELIGIBLE"


async def test_the_merchants_ledger_shows_what_was_paid_out(finance: Staff, shop: Shop) -> None:
    await finance.post(RUN, {"date": MONDAY})

    entries = await finance.get("/admin/ledger-entries", account=f"merchant_payable:{shop.merchant_id}", limit=100)

    assert entries[0]["entry_type"] == "settlement"
    assert sum(entry["balance_effect"] for entry in entries) == 0
    (settled,) = await finance.get("/admin/ledger-entries", merchant_id=shop.merchant_id, kind="settlement")
    assert settled["destination"].startswith("clearing:stl_")
    assert await finance.get("/admin/ledger-entries", account=settled["destination"])
