"""What a merchant's own people see: all of their shop, nothing of another's, and nothing that is the platform's."""

import json
from datetime import date, timedelta
from hashlib import sha256
from typing import Any

import pytest
from support.acquirer import adjustment
from support.hub import Hub
from support.merchant import Merchant, a_stranger, give_to
from support.shop import Shop, adjust, execute, open_shop, report, take
from support.staff import audited

from soundbox_server.clock import DAY_MS, jakarta_day, now_ms
from soundbox_server.db import Database
from soundbox_server.portal.views import masked
from soundbox_server.revenue.service import Entry, add


async def a_payment(shop: Shop, amount: int = 50_000, *, paid: bool = True, at_ms: int | None = None) -> Any:
    payment = await shop.payment(await shop.box(), amount, now_ms=at_ms or now_ms())
    if paid:
        await take(shop.database, report(payment, paid_at_ms=at_ms or now_ms()), now_ms=at_ms or now_ms())
    return payment


async def another_shop(database: Database) -> Shop:
    """With a payment and a box, and of nobody who calls here."""
    other = await open_shop(database, brand_name="Toko Lain")
    await a_payment(other)
    return other


async def test_an_owner_says_which_boxes_speak_and_nobody_else_does(
    hub: Hub, owner: Merchant, shop: Shop, database: Database
) -> None:
    path, wanted = f"/merchant/merchants/{shop.merchant_id}", {"announcement_policy": "outlet"}
    clerk, stranger = Merchant(hub, role="merchant_staff"), await a_stranger(hub)

    refused = [(await who.call("PATCH", path, json=wanted)).status_code for who in (clerk, stranger)]
    unknown = await owner.call("PATCH", path, json={"announcement_policy": "everybody"})
    more = await owner.call("PATCH", path, json=wanted | {"brand_name": "Warung Lain"})
    before = (await owner.get("/merchant/me"))["data"]["merchants"][0]["announcement_policy"]
    changed = await owner.call("PATCH", path, json=wanted)
    again = await owner.call("PATCH", path, json=wanted)

    assert (refused, unknown.status_code, more.status_code, before) == ([403, 404], 400, 400, "terminal")
    assert changed.json()["data"]["announcement_policy"] == again.json()["data"]["announcement_policy"] == "outlet"
    (entry,) = await audited(database, "merchant.changed")
    assert (entry["actor_id"], entry["subject_id"]) == ("per_test_merchant_owner", shop.merchant_id)


async def test_who_asks_and_whose_merchants(owner: Merchant, shop: Shop, database: Database) -> None:
    await another_shop(database)
    await execute(
        database,
        "UPDATE merchant SET settlement_account_reference = 'bank:9876543210', settlement_account_type = 'x' "
        "WHERE id = $1",
        shop.merchant_id,
    )
    await execute(
        database,
        "INSERT INTO merchant_account_change (id, merchant_id, account_reference, state, requested_by, "
        "requested_at_ms) VALUES ('acc_1', $1, 'bank:1111112222', 'requested', 'per_secret', 1)",
        shop.merchant_id,
    )

    said = await owner.get("/merchant/me")

    me = said["data"]
    (merchant,) = me["merchants"]
    assert (me["user"]["id"], me["user"]["role"]) == ("per_test_merchant_owner", "merchant_owner")
    assert me["organisation"]["id"] == "org_test_merchant"
    assert (merchant["id"], merchant["status"], merchant["outlets_count"]) == (shop.merchant_id, "approved", 1)
    assert (merchant["onboarding_status"], merchant["missing"]) == ("complete", [])
    assert merchant["settlement_account"] == "bank:••••••3210"
    assert merchant["pending_account_change"]["settlement_account"] == "bank:••••••2222"
    assert not [word for word in ("98765", "11111", "per_secret") if word in json.dumps(said)]


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (None, None),
        ("bank:9876543210", "bank:••••••3210"),
        ("bank:bca:9876543210", "bank:bca:••••••3210"),
        ("123456", "••••56"),
        ("1234", "••••"),
        ("bank:12", "bank:••"),
        ("bank:", "bank:"),
    ],
)
def test_an_account_is_known_by_its_last_digits_and_never_read(reference: str | None, shown: str | None) -> None:
    assert masked(reference) == shown


async def test_payments_page_by_page_and_by_filters(owner: Merchant, shop: Shop, database: Database) -> None:
    await another_shop(database)
    paid = [(await a_payment(shop, 1_000 * n)).payment_id for n in (1, 2, 3)]
    waits = (await a_payment(shop, paid=False)).payment_id

    first = await owner.get("/merchant/transactions", {"limit": 3})
    rest = await owner.get("/merchant/transactions", {"limit": 3, "cursor": first["next_cursor"]})
    waiting = await owner.get("/merchant/transactions", {"status": "awaiting_payment"})
    elsewhere = await owner.get("/merchant/transactions", {"outlet_id": "out_nowhere"})

    assert [row["id"] for row in first["data"]] == [waits, paid[2], paid[1]]
    assert ([row["id"] for row in rest["data"]], rest["next_cursor"]) == ([paid[0]], None)
    assert [row["id"] for row in waiting["data"]] == [waits]
    assert elsewhere["data"] == []
    (one,) = rest["data"]
    assert (one["paid_amount"], one["fee_amount"], one["net_amount"]) == (1_000, 7, 993)


async def test_one_payment_with_what_came_of_it_and_without_what_is_the_platforms(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    payment = await a_payment(shop)
    await adjust(database, adjustment(payment, "refunded", amount=20_000), now_ms=now_ms())
    await execute(database, "UPDATE refund SET requested_by = 'per_secret', reason = 'not for them'")
    await execute(database, "UPDATE payment_event SET source = 'per_secret', detail = 'not for them'")

    shown = (await owner.get(f"/merchant/transactions/{payment.payment_id}"))["data"]

    assert (shown["status"], shown["refunded_amount"]) == ("partially_refunded", 20_000)
    assert [(refund["amount"], refund["status"]) for refund in shown["refunds"]] == [(20_000, "done")]
    (told,) = shown["announcements"]
    assert (told["device_id"], told["status"]) == (payment.device_id, "published")
    assert [step["event"] for step in shown["timeline"]][:3] == [
        "payment.created", "payment.qr_issued", "payment.paid",
    ]  # fmt: skip
    said = json.dumps(shown)
    secret = ("per_secret", "not for them", payment.reference, "sandbox", "trace_id", "review_reason", "fee_version")
    assert not [word for word in secret if word in said]


async def test_outlets_with_their_tills_and_boxes_where_they_stand(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    other = await another_shop(database)
    second = await shop.another_terminal()
    here, there = await shop.box(), await second.box(online=False)
    gone = await shop.box()
    await shop.unbind(gone)
    await execute(database, "UPDATE device SET notes = 'not for them'")

    (outlet,) = (await owner.get("/merchant/outlets"))["data"]
    boxes = (await owner.get("/merchant/devices"))["data"]
    online = (await owner.get("/merchant/devices", {"online": True}))["data"]
    foreign = (await owner.get("/merchant/devices", {"merchant_id": other.merchant_id}))["data"]

    assert outlet["id"] == shop.outlet_id
    assert {till["id"] for till in outlet["terminals"]} == {shop.terminal_id, second.terminal_id}
    assert {box["id"]: box["binding"]["terminal_id"] for box in boxes} == {
        here: shop.terminal_id, there: second.terminal_id,
    }  # fmt: skip
    assert [box["id"] for box in online] == [here]
    assert foreign == []
    assert "not for them" not in json.dumps(boxes)


async def test_another_merchants_people_see_nothing_of_it(hub: Hub, shop: Shop) -> None:
    payment = await a_payment(shop)
    stranger = await a_stranger(hub)

    lists = [(await stranger.get(f"/merchant/{name}"))["data"] for name in ("transactions", "outlets", "devices")]
    one = await stranger.get(f"/merchant/transactions/{payment.payment_id}", status=404)
    me = (await stranger.get("/merchant/me"))["data"]
    sums = (await stranger.get("/merchant/dashboard/summary"))["data"]

    assert lists == [[], [], []]
    assert one["code"] == "TRANSACTION_NOT_FOUND"
    assert me["merchants"] == []
    assert (sums["period"]["gross_amount"], sums["outlets"], sums["devices"]["bound"]) == (0, [], 0)
    for wanted in ({"merchant_id": shop.merchant_id}, {"outlet_id": shop.outlet_id}):
        assert (await stranger.get("/merchant/dashboard/summary", wanted, status=404))["code"] == "NOT_FOUND"


async def test_a_key_sees_the_shop_by_its_scopes(hub: Hub, owner: Merchant, database: Database) -> None:
    await execute(
        database,
        "INSERT INTO api_key (id, organisation_id, organisation_kind, name, role, scopes, key_sha256, created_by, "
        "created_at_ms) VALUES ('key_1', 'org_test_merchant', 'merchant', 'k', 'merchant_staff', 'shop:read', $1, "
        "'per_test_operator', 1)",
        sha256(b"sbk_shop").hexdigest(),
    )

    async def status(path: str) -> int:
        return (await hub.http.get(path, headers={"x-api-key": "sbk_shop"})).status_code

    me = await hub.http.get("/merchant/me", headers={"x-api-key": "sbk_shop"})
    assert (me.status_code, me.json()["data"]["user"]) == (200, None)
    assert [await status(f"/merchant/{path}") for path in ("devices", "transactions")] == [200, 403]


async def test_the_days_sums_are_those_of_the_wall_clock_in_jakarta(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    await another_shop(database)
    now = now_ms()
    today = date.fromisoformat(jakarta_day(now))
    payment = await a_payment(shop, 100_000, at_ms=now)
    await adjust(database, adjustment(payment, "refunded", amount=30_000), now_ms=now)
    second = await shop.another_terminal()
    entries = [
        Entry(at_ms=now - DAY_MS, terminal_id=second.terminal_id, provider="acme", merchant_id=shop.merchant_id,
              payments=2, gross_amount=40_000, fee_amount=280, wallet_amount=15_000),
        Entry(at_ms=now - DAY_MS, terminal_id=shop.terminal_id, provider="cash", merchant_id=shop.merchant_id,
              payments=1, gross_amount=5_000),
        Entry(at_ms=now - 3 * DAY_MS, terminal_id=shop.terminal_id, provider="acme", merchant_id=shop.merchant_id,
              reversals=1, reversed_amount=10_000, fee_returned=70),
        Entry(at_ms=now - 7 * DAY_MS, terminal_id=shop.terminal_id, provider="acme", merchant_id=shop.merchant_id,
              payments=1, gross_amount=1),
    ]  # fmt: skip
    await database.write(lambda tx: add(tx, entries))

    said = (await owner.get("/merchant/dashboard/summary", {"days": 7}))["data"]

    assert (said["timezone"], said["day"]) == ("Asia/Jakarta", today.isoformat())
    assert [day["day"] for day in said["days"]] == [(today - timedelta(days=n)).isoformat() for n in range(6, -1, -1)]
    assert said["today"] == {
        "payments": 1, "gross_amount": 100_000, "cash_amount": 0, "wallet_amount": 0, "fee_amount": 700,
        "fee_returned": 0, "refunds": 1, "refunded_amount": 30_000, "reversals": 0, "reversed_amount": 0,
        "net_amount": 69_300,
    }  # fmt: skip
    yesterday = said["yesterday"]
    assert (yesterday["gross_amount"], yesterday["cash_amount"], yesterday["wallet_amount"]) == (45_000, 5_000, 15_000)
    assert said["days"][3]["net_amount"] == 70 - 10_000
    assert said["days"][4]["payments"] == 0
    assert (said["period"]["payments"], said["period"]["gross_amount"]) == (4, 145_000)
    assert said["period"]["net_amount"] == 69_300 + 44_720 - 9_930
    assert [(one["outlet_id"], one["gross_amount"]) for one in said["outlets"]] == [(shop.outlet_id, 145_000)]
    assert said["devices"] == {"bound": 1, "online": 1, "offline": 0}
    assert said["month"]["gross_amount"] >= said["today"]["gross_amount"]


async def test_an_organisation_of_several_merchants_sums_them_or_asks_for_one(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    second = await open_shop(database, brand_name="Cabang")
    await give_to(database, second)
    for one, amount in ((shop, 10_000), (second, 20_000)):
        await a_payment(one, amount)

    both = (await owner.get("/merchant/dashboard/summary", {"days": 1}))["data"]
    one = (await owner.get("/merchant/dashboard/summary", {"merchant_id": second.merchant_id}))["data"]
    of_outlet = (await owner.get("/merchant/dashboard/summary", {"outlet_id": shop.outlet_id}))["data"]

    assert both["period"]["gross_amount"] == 30_000
    assert [outlet["outlet_id"] for outlet in both["outlets"]] == [second.outlet_id, shop.outlet_id]
    assert (one["today"]["gross_amount"], of_outlet["today"]["gross_amount"]) == (20_000, 10_000)
    assert of_outlet["devices"]["bound"] == 1


async def test_the_dashboard_reads_no_payment(owner: Merchant, shop: Shop, database: Database) -> None:
    """Only the kept sums: with the payments' table aside it answers the same."""
    await a_payment(shop)
    before = (await owner.get("/merchant/dashboard/summary"))["data"]
    await execute(database, "ALTER TABLE payment RENAME TO payment_aside")

    after = (await owner.get("/merchant/dashboard/summary"))["data"]

    assert {**after, "as_of": None} == {**before, "as_of": None}
    assert after["today"]["gross_amount"] == 50_000
