"""Which boxes say a payment: all at the till, one of them, or all in the outlet."""

import asyncio
from typing import Any

import pytest
from support.books import check_books
from support.shop import NOW, TELLING, Shop, execute, report, row, rows, take, told

from soundbox_server.commands.kinds import KINDS
from soundbox_server.commands.replay import replay_last
from soundbox_server.commands.service import Order
from soundbox_server.db import Database


async def follow(shop: Shop, policy: str) -> None:
    await execute(shop.database, "UPDATE merchant SET announcement_policy = $2 WHERE id = $1", shop.merchant_id, policy)


async def pay(shop: Shop, device: str) -> list[tuple[str, str]]:
    """(recipient, state) of what the payment led to, by recipient."""
    payment = await shop.payment(device)
    await take(shop.database, report(payment))
    return sorted((one["recipient_id"], one["state"]) for one in await told(shop.database, payment.payment_id))


async def three_boxes(shop: Shop) -> tuple[str, str, str]:
    """Two at the till, bound one after the other, and one at the outlet's second till."""
    first, second = await shop.box(), await shop.box()
    other = await (await shop.another_terminal()).box()
    await execute(shop.database, "UPDATE device_binding SET bound_at_ms = $2 WHERE device_id = $1", second, NOW + 1)
    return first, second, other


@pytest.mark.parametrize(
    ("policy", "heard"), [("terminal", [True, True, False]), ("primary", [True, False, False]), ("outlet", [True] * 3)]
)
async def test_the_policy_says_who_hears_it(database: Database, shop: Shop, policy: str, heard: list[bool]) -> None:
    boxes = await three_boxes(shop)
    await follow(shop, policy)

    sent = await pay(shop, boxes[0])

    assert sent == sorted((box, "published") for box, hears in zip(boxes, heard, strict=True) if hears)
    await check_books(database)


async def test_of_two_at_a_till_the_one_in_service_says_it(database: Database, shop: Shop) -> None:
    first, second, _ = await three_boxes(shop)
    await follow(shop, "primary")
    await execute(database, "UPDATE device SET state = 'suspended' WHERE id = $1", first)

    assert await pay(shop, second) == [(second, "published")]


@pytest.mark.parametrize("policy", ["terminal", "primary", "outlet"])
async def test_without_a_box_a_row_says_so(database: Database, shop: Shop, policy: str) -> None:
    device = await shop.box()
    payment = await shop.payment(device)
    await shop.unbind(device)
    await follow(shop, policy)

    await take(database, report(payment))

    (nobody,) = await told(database, payment.payment_id)
    assert (nobody["state"], nobody["reason"]) == ("suppressed", "no_device")


async def test_an_outlet_hears_a_till_that_has_no_box_itself(database: Database, shop: Shop) -> None:
    device = await shop.box()
    payment = await shop.payment(device)
    await shop.unbind(device)
    other = await (await shop.another_terminal()).box()
    await follow(shop, "outlet")

    await take(database, report(payment))

    assert [one["recipient_id"] for one in await told(database, payment.payment_id)] == [other]


async def test_payments_at_two_tills_of_one_outlet_are_numbered_in_one_row_at_each_box(
    database: Database, shop: Shop
) -> None:
    there = await shop.another_terminal()
    boxes = [await shop.box(), await there.box()]
    payments = [await shop.payment(boxes[0]), await there.payment(boxes[1]), await shop.payment(boxes[0])]
    await follow(shop, "outlet")

    await take(database, *(report(payment) for payment in payments))

    for box in boxes:
        numbered = await rows(
            database, "SELECT seq, subject_id FROM outbox_message WHERE recipient_id = $1 ORDER BY seq", box
        )
        assert [one["seq"] for one in numbered] == [1, 2, 3]
        assert {one["subject_id"] for one in numbered} == {payment.payment_id for payment in payments}
        assert (await row(database, "SELECT last_seq FROM device WHERE id = $1", box))["last_seq"] == 3


async def test_callbacks_in_two_processes_number_an_outlets_boxes_without_a_gap(database: Database, shop: Shop) -> None:
    there = await shop.another_terminal()
    boxes = [await shop.box(), await there.box()]
    payments = [await (shop, there)[n % 2].payment(boxes[n % 2]) for n in range(20)]
    await follow(shop, "outlet")
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        await asyncio.gather(*(take([database, other][n % 2], report(one)) for n, one in enumerate(payments)))
    finally:
        await other.close()

    numbered = await rows(database, "SELECT seq FROM outbox_message WHERE recipient_id = $1 ORDER BY seq", boxes[1])
    assert [one["seq"] for one in numbered] == list(range(1, 21))


async def test_a_replay_goes_to_the_box_that_was_asked_though_it_stands_at_another_till(
    database: Database, shop: Shop
) -> None:
    here = await shop.box()
    other = await (await shop.another_terminal()).box()
    await follow(shop, "outlet")
    await pay(shop, here)
    order = Order(device_id=other, kind=KINDS["replay_last"], payload={}, requested_by=None, trace_id="trc_1")

    await database.write(lambda tx: replay_last(tx, order, telling=TELLING, now_ms=NOW + 1))

    again: list[dict[str, Any]] = await rows(
        database, "SELECT recipient_id FROM outbox_message WHERE original_id IS NOT NULL"
    )
    assert [one["recipient_id"] for one in again] == [other]


async def test_a_policy_that_does_not_exist_cannot_be_written(shop: Shop) -> None:
    with pytest.raises(Exception, match=r"(?i)check"):
        await follow(shop, "everybody")
