"""Merchants read what is paid out to them, and what that is the sum of."""

import pytest
from support.acquirer import adjustment
from support.hub import Hub
from support.merchant import Merchant, a_stranger
from support.settled import MONDAY, plant_settlement, settled
from support.shop import Shop, adjust, execute, open_shop, report, take

from soundbox_server.db import Database


async def takings(shop: Shop) -> str:
    """The payment of which a part went back."""
    payment = await shop.payment(await shop.box(), 50_000)
    await take(shop.database, report(payment))
    await adjust(shop.database, adjustment(payment, "refunded", amount=20_000))
    return payment.payment_id


async def test_settlements_are_listed_shown_and_opened_to_their_items(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    payment_id = await takings(shop)
    other = await open_shop(database)
    await takings(other)
    settlement_id = await settled(database, shop)

    listed = (await owner.get("/merchant/settlements"))["data"]
    shown = (await owner.get(f"/merchant/settlements/{settlement_id}"))["data"]
    first = await owner.get(f"/merchant/settlements/{settlement_id}/items", {"limit": 1})
    second = await owner.get(
        f"/merchant/settlements/{settlement_id}/items", {"limit": 1, "cursor": first["next_cursor"]}
    )
    transaction = (await owner.get(f"/merchant/transactions/{payment_id}"))["data"]

    assert [one["id"] for one in listed] == [settlement_id]
    assert (shown["gross_amount"], shown["fee_amount"], shown["adjustment_amount"]) == (50_000, 350, -20_000)
    assert (shown["net_amount"], shown["status"], shown["settles_on"]) == (29_650, "calculated", "2026-05-26")
    assert [(share["provider"], share["net_amount"]) for share in shown["shares"]] == [("sandbox", 29_650)]
    items = first["data"] + second["data"]
    assert [(item["kind"], item["net_amount"]) for item in items] == [("payment", 49_650), ("refund", -20_000)]
    assert ({item["transaction_id"] for item in items}, second["next_cursor"]) == ({payment_id}, None)
    assert transaction["settlement"] == {
        "id": settlement_id, "date": MONDAY, "settles_on": "2026-05-26", "status": "calculated",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "days"),
    [
        ({}, ["2026-05-25", "2026-05-24", "2026-05-23"]),
        ({"date_from": "2026-05-24"}, ["2026-05-25", "2026-05-24"]),
        ({"date_from": "2026-05-24", "date_to": "2026-05-24"}, ["2026-05-24"]),
        ({"date": "2026-05-25"}, ["2026-05-25"]),
        ({"status": "paid"}, ["2026-05-24"]),
        ({"window": "evening"}, []),
        ({"merchant_id": "mer_nowhere"}, []),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_settlements_are_found_by_what_is_asked(
    owner: Merchant, shop: Shop, database: Database, wanted: dict[str, str], days: list[str]
) -> None:
    for day, state in (("2026-05-23", "calculated"), ("2026-05-24", "paid"), ("2026-05-25", "calculated")):
        await plant_settlement(database, shop, day=day, state=state)

    found = (await owner.get("/merchant/settlements", wanted))["data"]

    assert [one["date"] for one in found] == days


async def test_the_dashboard_tells_what_is_still_to_come(owner: Merchant, shop: Shop, database: Database) -> None:
    before = (await owner.get("/merchant/dashboard/summary"))["data"]["settlements"]
    await takings(shop)
    settlement_id = await settled(database, shop)
    waiting = (await owner.get("/merchant/dashboard/summary"))["data"]["settlements"]
    await execute(database, "UPDATE settlement SET state = 'paid'")
    paid = (await owner.get("/merchant/dashboard/summary"))["data"]["settlements"]

    assert before == {"waiting": 0, "waiting_amount": 0, "last": None}
    assert (waiting["waiting"], waiting["waiting_amount"], waiting["last"]["id"]) == (1, 29_650, settlement_id)
    assert (paid["waiting"], paid["waiting_amount"], paid["last"]["status"]) == (0, 0, "paid")


async def test_another_merchants_people_find_none_of_it(hub: Hub, shop: Shop, database: Database) -> None:
    await takings(shop)
    settlement_id = await settled(database, shop)
    stranger = await a_stranger(hub)

    listed = await stranger.get("/merchant/settlements")
    refused = [
        await stranger.get(f"/merchant/settlements/{settlement_id}{below}", status=404) for below in ("", "/items")
    ]

    assert listed["data"] == []
    assert {one["code"] for one in refused} == {"NOT_FOUND"}
