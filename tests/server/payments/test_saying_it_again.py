"""`retry-notification`: an operator has a paid payment said once more."""

from typing import Any

from support.books import check_books
from support.hub import Hub
from support.shop import Shop, payment_row, report, row, take, told

from soundbox_protocol.messages import PaymentSuccess, decode
from soundbox_protocol.signing import verify
from soundbox_protocol.times import from_rfc3339
from soundbox_server import clock, seal
from soundbox_server.db import Database


async def paid(database: Database, shop: Shop, device: str) -> str:
    payment = await shop.payment(device, 50_000)
    now_ms = clock.now_ms()
    await take(database, report(payment, paid_at_ms=now_ms), now_ms=now_ms)
    return payment.payment_id


def path(payment_id: str) -> str:
    return f"/admin/transactions/{payment_id}/retry-notification"


def read(hub: Hub, sent: Any) -> PaymentSuccess:
    key = seal.announcement_key(hub.app.state.settings.master, sent["recipient_id"], 1)
    return decode(PaymentSuccess, verify(key, sent["address"], bytes(sent["body"])))


async def test_a_replay_is_a_new_announcement_that_names_the_first(hub: Hub, database: Database, shop: Shop) -> None:
    payment_id = await paid(database, shop, await shop.box())
    (first,) = await told(database, payment_id)

    answer = await hub.http.post(path(payment_id), headers=hub.operator() | {"x-request-id": "again-1"})

    assert answer.status_code == 202, answer.text
    _, again = await told(database, payment_id)
    said = read(hub, again)
    assert said.event_id == again["id"] != first["id"]
    assert (said.original_event_id, again["original_id"]) == (first["id"], first["id"])
    assert (said.seq, again["seq"], again["trace_id"]) == (2, 2, "again-1")
    assert from_rfc3339(said.expires_at) > clock.now_ms()
    assert [one["event_id"] for one in answer.json()["data"]["announcements"]] == [first["id"], again["id"]]
    assert (await check_books(database)).captured == {payment_id: 1}


async def test_each_box_repeats_what_it_said_itself(hub: Hub, database: Database, shop: Shop) -> None:
    first, second = await shop.box(), await shop.box()
    payment_id = await paid(database, shop, first)
    originals = {one["recipient_id"]: one["id"] for one in await told(database, payment_id)}

    await hub.http.post(path(payment_id), headers=hub.operator())

    replays = [one for one in await told(database, payment_id) if one["original_id"]]
    assert {one["recipient_id"]: one["original_id"] for one in replays} == originals
    assert set(originals) == {first, second}


async def test_every_replay_repeats_the_first_announcement_and_not_another_replay(
    hub: Hub, database: Database, shop: Shop
) -> None:
    payment_id = await paid(database, shop, await shop.box())
    (first,) = await told(database, payment_id)

    for _ in range(3):
        assert (await hub.http.post(path(payment_id), headers=hub.operator())).status_code == 202

    _, *replays = await told(database, payment_id)
    assert [one["original_id"] for one in replays] == [first["id"]] * 3
    assert [one["seq"] for one in replays] == [2, 3, 4]


async def test_a_box_that_came_later_can_say_it_too(hub: Hub, database: Database, shop: Shop) -> None:
    first = await shop.box()
    payment = await shop.payment(first)
    await shop.unbind(first)
    now_ms = clock.now_ms()
    await take(database, report(payment, paid_at_ms=now_ms), now_ms=now_ms)
    (unheard,) = await told(database, payment.payment_id)
    newcomer = await shop.box()

    answer = await hub.http.post(path(payment.payment_id), headers=hub.operator())

    assert (answer.status_code, unheard["state"]) == (202, "suppressed")
    (replay,) = [one for one in await told(database, payment.payment_id) if one["original_id"]]
    assert (replay["recipient_id"], replay["original_id"]) == (newcomer, unheard["id"])


async def test_only_what_is_paid_is_said(hub: Hub, database: Database, shop: Shop) -> None:
    device = await shop.box()
    unpaid, wrong = await shop.payment(device), await shop.payment(device)
    await take(database, report(wrong, amount=1))

    answers = [await hub.http.post(path(one.payment_id), headers=hub.operator()) for one in (unpaid, wrong)]
    unknown = await hub.http.post(path("txn_of_nobody"), headers=hub.operator())

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(409, "CONFLICT")] * 2
    assert (unknown.status_code, unknown.json()["code"]) == (404, "TRANSACTION_NOT_FOUND")
    assert (await row(database, "SELECT count(*) AS n FROM outbox_message"))["n"] == 0
    assert (await payment_row(database, unpaid.payment_id))["state"] == "awaiting_payment"


async def test_nobody_without_a_role_for_it_has_anything_said(hub: Hub, database: Database, shop: Shop) -> None:
    payment_id = await paid(database, shop, await shop.box())

    answer = await hub.http.post(path(payment_id))

    assert answer.status_code == 401
    assert len(await told(database, payment_id)) == 1
