"""Boxes that answer nothing: told once, never called lost, never called played."""

import asyncio
import json
from typing import Any

import pytest
from support.makers import beat, qf100
from support.shop import NOW, TELLING, Shop, report, row, rows, take, told

from soundbox_server.announcements.service import Announced, queue_payment_announcement
from soundbox_server.commands import kinds, replay, service
from soundbox_server.commands.service import Order
from soundbox_server.db import Database, Statements
from soundbox_server.device_config import service as configuration
from soundbox_server.devices.service import end_what_waits, online_among
from soundbox_server.errors import CapabilityNotSupported
from soundbox_server.outbox import service as outbox

DAY_MS = 86_400_000


async def sweep(database: Database, *, now_ms: int) -> list[Any]:
    """What a worker's sweep hands over at that moment."""

    async def work(tx: Statements) -> list[Any]:
        await outbox.expire(tx, now_ms=now_ms)
        waiting = await outbox.waiting_for_birth(tx, now_ms=now_ms)
        if back := await online_among(tx, waiting):
            await outbox.make_due(tx, recipients=back, now_ms=now_ms)
        await outbox.claim_due(tx, now_ms=now_ms, owner="test")
        return tx.queued

    return await database.write(work)


async def pay(shop: Shop, device_id: str, *, now_ms: int = NOW) -> str:
    payment = await shop.payment(device_id, now_ms=now_ms)
    await take(shop.database, report(payment), now_ms=now_ms)
    return payment.payment_id


async def give(database: Database, device_id: str, name: str, payload: dict[str, Any] | None = None) -> str:
    order = Order(
        device_id=device_id, kind=kinds.kind_named(name), payload=kinds.checked_payload(name, payload or {}),
        requested_by="per_1", trace_id="trc_1",
    )  # fmt: skip
    return await database.write(lambda tx: service.give(tx, order, key_of=TELLING.key_of, owner="test", now_ms=NOW))


async def test_a_payment_is_handed_over_once_and_ends_as_published(database: Database, shop: Shop) -> None:
    device = await qf100(shop)
    payment_id = await pay(shop, device)

    (sent,) = await sweep(database, now_ms=NOW + 100)
    again = [await sweep(database, now_ms=NOW + later) for later in (6_000, 59_000, 61_000, DAY_MS)]

    assert (sent.address, json.loads(sent.body)["data"]) == ("soundbox/SN0001/down", {"amount": 50_000})
    assert sent.unconfirmed
    assert again == [[], [], [], []]
    (kept,) = await told(database, payment_id)
    assert (kept["state"], kept["attempt"], kept["published_at_ms"], kept["finished_at_ms"]) == (
        "published", 1, NOW + 100, NOW + 100,
    )  # fmt: skip
    assert (bool(kept["unsigned"]), bool(kept["unconfirmed"]), kept["played_at_ms"]) == (True, True, None)


async def test_two_sweeps_at_once_hand_it_over_once(database: Database, shop: Shop) -> None:
    device = await qf100(shop)
    await pay(shop, device)

    sent = await asyncio.gather(*(sweep(database, now_ms=NOW + 100) for _ in range(4)))

    assert len([one for sweeping in sent for one in sweeping]) == 1


async def test_neither_another_heartbeat_nor_another_activation_touches_what_was_said(
    database: Database, shop: Shop
) -> None:
    device = await qf100(shop)
    payment_id = await pay(shop, device)
    await sweep(database, now_ms=NOW)

    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW + 1_000))
    await database.write(lambda tx: end_what_waits(tx, device, reason="activated_again", now_ms=NOW + 1_000))

    assert await sweep(database, now_ms=NOW + 1_000) == []
    assert [one["state"] for one in await told(database, payment_id)] == ["published"]
    assert await database.write(outbox.depth) == {"queued": 0, "published": 0}


async def test_a_box_that_is_away_hears_it_when_it_is_back_in_time_and_not_later(
    database: Database, shop: Shop
) -> None:
    device = await qf100(shop, online=False)
    first, second = await pay(shop, device), await pay(shop, device, now_ms=NOW + 30_000)
    nothing = await sweep(database, now_ms=NOW + 30_000)
    await beat(database, now_ms=NOW + 70_000)

    sent = await sweep(database, now_ms=NOW + 70_000)

    assert nothing == []
    assert [one.subject_id for one in sent] == [second]
    assert [one["state"] for one in await told(database, first)] == ["expired"]


async def test_what_could_not_be_handed_over_is_handed_over_later(database: Database, shop: Shop) -> None:
    device = await qf100(shop)
    await pay(shop, device)
    claimed = await sweep(database, now_ms=NOW)

    await database.write(lambda tx: outbox.put_back(tx, claimed, now_ms=NOW + 500))

    (sent,) = await sweep(database, now_ms=NOW + 500)
    assert (sent.id, sent.attempt) == (claimed[0].id, 2)


async def test_its_neighbour_of_our_own_is_told_as_ever(database: Database, shop: Shop) -> None:
    device, own = await qf100(shop), await shop.box()
    payment_id = await pay(shop, device)

    by_box = {one["recipient_id"]: one for one in await told(database, payment_id)}
    assert (by_box[own]["state"], bool(by_box[own]["unconfirmed"])) == ("published", False)
    assert (by_box[device]["state"], bool(by_box[device]["unconfirmed"])) == ("queued", True)


async def test_a_replay_would_be_heard_as_another_payment_and_is_not_said(database: Database, shop: Shop) -> None:
    device = await qf100(shop)
    payment_id = await pay(shop, device)
    (first,) = await told(database, payment_id)
    again = Announced(
        payment_id=payment_id, terminal_id=shop.terminal_id, merchant_name="Warung Sari", amount=50_000, paid_at_ms=NOW,
        trace_id="trc_1", original_id=first["id"],
    )  # fmt: skip
    await database.write(lambda tx: queue_payment_announcement(tx, [again], telling=TELLING, now_ms=NOW + 1))
    order = Order(
        device_id=device, kind=kinds.kind_named("replay_last"), payload={}, requested_by=None, trace_id="trc_2"
    )

    with pytest.raises(CapabilityNotSupported):
        await database.write(lambda tx: replay.replay_last(tx, order, telling=TELLING, now_ms=NOW + 2))

    assert [(one["state"], one["reason"]) for one in await told(database, payment_id)][1:] == [
        ("suppressed", "replay_not_supported")
    ]


async def test_a_command_ends_as_unconfirmed_and_is_given_once(database: Database, shop: Shop) -> None:
    device = await qf100(shop)
    command_id = await give(database, device, "reboot")
    (sent,) = await sweep(database, now_ms=NOW)

    await database.write(lambda tx: service.follow_up(tx, now_ms=NOW + 1_000))
    await database.write(lambda tx: service.follow_up(tx, now_ms=NOW + DAY_MS))

    kept = await row(database, "SELECT state, sent_at_ms, finished_at_ms FROM device_command WHERE id = $1", command_id)
    assert json.loads(sent.body) == {"header": {"category": 5}, "data": {"command": "reboot"}}
    assert kept == {"state": "unconfirmed", "sent_at_ms": NOW + 1_000, "finished_at_ms": NOW + 1_000}
    assert await sweep(database, now_ms=NOW + 6_000) == []


async def test_a_command_that_was_just_handed_over_is_not_called_taken_back(database: Database, shop: Shop) -> None:
    device = await qf100(shop)
    first = await give(database, device, "reboot")
    await sweep(database, now_ms=NOW)

    second = await give(database, device, "reboot")
    await database.write(lambda tx: service.follow_up(tx, now_ms=NOW + 1_000))

    states = {one["id"]: one["state"] for one in await rows(database, "SELECT id, state FROM device_command")}
    assert states == {first: "unconfirmed", second: "queued"}


async def test_a_qr_reaches_it_at_once_or_not_at_all(database: Database, shop: Shop) -> None:
    device = await qf100(shop, online=False)
    command_id = await give(database, device, "show_qr", {"qr_payload": "00020101", "amount": 15_000, "show_for_s": 60})
    await beat(database, now_ms=NOW + 11_000)

    assert await sweep(database, now_ms=NOW + 11_000) == []
    await database.write(lambda tx: service.follow_up(tx, now_ms=NOW + 11_000))
    kept = await row(database, "SELECT state FROM device_command WHERE id = $1", command_id)
    assert kept["state"] == "expired"


@pytest.mark.parametrize("name", sorted(set(kinds.KINDS) - {"reboot", "show_qr", "replay_last"}))
async def test_what_it_cannot_do_is_refused_and_leaves_no_trace(database: Database, shop: Shop, name: str) -> None:
    device = await qf100(shop)
    payloads: dict[str, dict[str, Any]] = {
        "set_volume": {"volume": 50}, "speak_code": {"code": "1234"}, "daily_total": {"count": 1, "amount": 1_000},
    }  # fmt: skip

    with pytest.raises(CapabilityNotSupported):
        await give(database, device, name, payloads.get(name))

    assert await rows(database, "SELECT id FROM device_command") == []


async def test_a_box_of_our_own_without_a_display_shows_no_qr(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await database.write(
        lambda tx: tx.execute("UPDATE device_presence SET has_display = $2 WHERE device_id = $1", device, False)
    )

    with pytest.raises(CapabilityNotSupported):
        await give(database, device, "show_qr", {"qr_payload": "00020101", "amount": 15_000})


async def test_it_is_never_configured(database: Database, shop: Shop) -> None:
    device, own = await qf100(shop), await shop.box()
    change = {"volume": 40}
    await database.write(lambda tx: configuration.change_layer(tx, "fleet", "fleet", change, by=None, now_ms=NOW))

    assert await database.write(lambda tx: configuration.out_of_date(tx, limit=10)) == [own]
    with pytest.raises(CapabilityNotSupported):
        await database.write(lambda tx: configuration.change_layer(tx, "device", device, change, by=None, now_ms=NOW))
