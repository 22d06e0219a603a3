"""The replay button of a box: the last payment once more, for whoever stands at the till now."""

from typing import Any

import pytest
from support.shop import NOW, TELLING, Shop, execute, report, rows, take

from soundbox_protocol.messages import Event
from soundbox_protocol.times import to_rfc3339
from soundbox_server.commands.mqtt import Buttons
from soundbox_server.db import Database
from soundbox_server.uplinks import Uplink

PRESSED = NOW + 30_000


def press(
    device: str, *, at_ms: int = PRESSED, said_at_ms: int | None = None, code: str = "button_replay"
) -> Uplink[Event]:
    said = at_ms if said_at_ms is None else said_at_ms
    message = Event(device_id=device, timestamp=to_rfc3339(said), code=code)
    return Uplink(device_id=device, message=message, payload=b"", received_at_ms=at_ms)


async def arrive(database: Database, *events: Uplink[Event]) -> None:
    await database.write(lambda tx: Buttons(telling=TELLING)(tx, events))


async def replays(database: Database) -> list[dict[str, Any]]:
    return await rows(
        database,
        "SELECT recipient_id, original_id, state, seq, reason FROM outbox_message WHERE original_id IS NOT NULL "
        "ORDER BY id",
    )


async def pay(shop: Shop, device: str) -> str:
    payment = await shop.payment(device)
    await take(shop.database, report(payment))
    (first,) = await rows(
        shop.database, "SELECT id FROM outbox_message WHERE subject_id = $1 AND recipient_id = $2",
        payment.payment_id, device,
    )  # fmt: skip
    return str(first["id"])


async def test_the_last_payment_is_said_again_at_this_box_alone(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await shop.box()
    await pay(shop, device)
    last = await pay(shop, device)

    await arrive(database, press(device))

    (again,) = await replays(database)
    assert (again["recipient_id"], again["original_id"], again["seq"]) == (device, last, 3)
    assert again["state"] == "published"


async def test_a_button_that_is_pressed_again_and_again_is_heard_every_ten_seconds(
    database: Database, shop: Shop
) -> None:
    device = await shop.box()
    await pay(shop, device)

    for second in range(21):
        pressed = press(device, at_ms=PRESSED + second * 1_000)
        await arrive(database, pressed, pressed)

    assert len(await replays(database)) == 3


@pytest.mark.parametrize(
    ("said_at_ms", "count"), [(PRESSED - 60_000, 1), (PRESSED - 60_001, 0), (12_000, 1), (PRESSED + 90_000, 1)]
)
async def test_what_somebody_wanted_a_minute_ago_nobody_wants_now(
    database: Database, shop: Shop, said_at_ms: int, count: int
) -> None:
    device = await shop.box()
    await pay(shop, device)

    await arrive(database, press(device, said_at_ms=said_at_ms))

    assert len(await replays(database)) == count


@pytest.mark.parametrize("why", ["nothing was paid", "it was given back", "it stands nowhere", "another button"])
async def test_where_nothing_is_to_be_said_nothing_is(database: Database, shop: Shop, why: str) -> None:
    device = await shop.box()
    if why != "nothing was paid":
        await pay(shop, device)
    if why == "it was given back":
        await execute(database, "UPDATE payment SET state = 'refunded'")
    if why == "it stands nowhere":
        await shop.unbind(device)

    await arrive(database, press(device, code="button_total" if why == "another button" else "button_replay"))

    assert await replays(database) == []
