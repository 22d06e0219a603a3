"""A hub that was restored from a backup goes on above what its boxes have taken in."""

import asyncio
import json
from typing import Any

import pytest
from support.shop import NOW, Shop, execute, report, row, rows, take, told

from soundbox_protocol.messages import MAX_COUNT, Status
from soundbox_protocol.times import to_rfc3339
from soundbox_server.announcements.mqtt import before_birth, on_birth
from soundbox_server.db import Database, Statements
from soundbox_server.devices import mqtt as devices
from soundbox_server.devices import service
from soundbox_server.uplinks import HIGHEST_BELIEVED, Uplink


async def is_born(database: Database, device: str, epoch: int, last_seq: int | None) -> None:
    """As the consumer hands a birth over."""
    status = Status(
        device_id=device, timestamp=to_rfc3339(NOW), state="online", session_epoch=epoch, last_announcement_seq=last_seq
    )
    uplink = Uplink(device_id=device, message=status, payload=b"", received_at_ms=NOW)

    async def work(tx: Statements) -> None:
        for handler in (before_birth, devices.on_status, on_birth):
            await handler(tx, [uplink])

    await database.write(work)


async def restored(database: Database, shop: Shop, last_seq: int) -> str:
    """A box of a hub whose backup holds this number."""
    device = await shop.box(online=False)
    await execute(database, "UPDATE device SET last_seq = $2 WHERE id = $1", device, last_seq)
    return device


async def next_seq(database: Database, shop: Shop, device: str) -> int:
    payment = await shop.payment(device)
    await take(database, report(payment))
    (one,) = await told(database, payment.payment_id)
    return int(one["seq"])


async def alerts(database: Database) -> list[dict[str, Any]]:
    found = await rows(database, "SELECT kind, subject_id, state, facts FROM alert ORDER BY id")
    return [one | {"facts": json.loads(one["facts"])} for one in found]


async def test_the_next_number_is_above_what_the_box_has_and_somebody_is_told(database: Database, shop: Shop) -> None:
    device = await restored(database, shop, 900)
    await is_born(database, device, 1, 1_000)

    assert await next_seq(database, shop, device) == 1_001
    facts = {"last_seq": 900, "reported_seq": 1_000, "believed": True}
    assert await alerts(database) == [
        {"kind": "device.ahead_of_hub", "subject_id": device, "state": "open", "facts": facts}
    ]


@pytest.mark.parametrize("said", [None, 0, 899, 900])
async def test_a_box_that_is_not_ahead_changes_nothing(database: Database, shop: Shop, said: int | None) -> None:
    device = await restored(database, shop, 900)
    await is_born(database, device, 1, said)

    assert (await next_seq(database, shop, device), await alerts(database)) == (901, [])


@pytest.mark.parametrize(("said", "then"), [(HIGHEST_BELIEVED, HIGHEST_BELIEVED + 1), (MAX_COUNT, 901)])
async def test_a_number_that_no_box_comes_to_is_not_gone_on_from(
    database: Database, shop: Shop, said: int, then: int
) -> None:
    device = await restored(database, shop, 900)
    await is_born(database, device, 1, said)

    assert await next_seq(database, shop, device) == then
    (alert,) = await alerts(database)
    assert alert["facts"]["believed"] is (then != 901)


async def test_a_birth_that_a_broker_repeats_says_nothing_new(database: Database, shop: Shop) -> None:
    device = await restored(database, shop, 900)
    await is_born(database, device, 7, 900)
    await is_born(database, device, 7, 1_000)

    assert (await next_seq(database, shop, device), await alerts(database)) == (901, [])


async def test_an_activation_begins_numbers_anew_and_settles_it(database: Database, shop: Shop) -> None:
    device = await restored(database, shop, 900)
    await is_born(database, device, 1, 1_000)
    serial = (await row(database, "SELECT serial_number FROM device WHERE id = $1", device))["serial_number"]
    code = await database.write(lambda tx: service.issue_code(tx, device, now_ms=NOW))
    await database.write(
        lambda tx: service.activate(
            tx, code=code, serial_number=serial, hash_password=lambda _: "$7$unused", now_ms=NOW + 1
        )
    )

    assert await next_seq(database, shop, device) == 1
    assert [one["state"] for one in await alerts(database)] == ["resolved"]


async def test_births_and_activations_that_meet_wait_for_each_other_in_one_order(
    database: Database, shop: Shop
) -> None:
    """An activation locks the box and then its presence."""
    device = await restored(database, shop, 900)
    serial = (await row(database, "SELECT serial_number FROM device WHERE id = $1", device))["serial_number"]
    other = Database(database.url.render_as_string(hide_password=False))

    async def activate() -> None:
        code = await other.write(lambda tx: service.issue_code(tx, device, now_ms=NOW))
        await other.write(
            lambda tx: service.activate(
                tx, code=code, serial_number=serial, hash_password=lambda _: "$7$unused", now_ms=NOW
            )
        )

    try:
        for n in range(10):
            await asyncio.gather(activate(), is_born(database, device, 100 + n, 1_000 * (n + 1)))
    finally:
        await other.close()

    last = (await row(database, "SELECT last_seq FROM device WHERE id = $1", device))["last_seq"]
    assert last in (0, 10_000)
