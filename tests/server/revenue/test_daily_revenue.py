"""What is kept of each day equals what the payments say, whatever happened."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from support.acquirer import adjustment
from support.books import check_books
from support.shop import NOW, Shop, adjust, execute, open_shop, report, rows, take

from soundbox_server.clock import DAY_MS, jakarta_day
from soundbox_server.db import Database
from soundbox_server.revenue.service import Entry, add, differences, rebuild

MIDNIGHT = 1_779_555_600_000  # 2026-05-24 00:00 in Jakarta


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


@pytest.mark.parametrize(
    ("at_ms", "day"),
    [(MIDNIGHT - 1, "2026-05-23"), (MIDNIGHT, "2026-05-24"), (0, "1970-01-01"), (NOW, "2026-05-23")],
)
def test_a_day_begins_at_midnight_in_jakarta(at_ms: int, day: str) -> None:
    assert jakarta_day(at_ms) == day


async def kept(database: Database) -> Sequence[dict[str, Any]]:
    return await rows(database, "SELECT * FROM daily_revenue ORDER BY day, terminal_id, provider")


async def test_a_payment_counts_on_the_day_it_was_paid_and_its_refund_on_its_own(
    database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, paid_at_ms=MIDNIGHT - 1), now_ms=MIDNIGHT + 5)
    await adjust(database, adjustment(payment, "refunded", amount=20_000), now_ms=MIDNIGHT + DAY_MS)
    await adjust(database, adjustment(payment, "reversed"), now_ms=MIDNIGHT + 2 * DAY_MS)

    days = await kept(database)

    sums = ("day", "payments", "gross_amount", "fee_amount", "refunds", "refunded_amount", "reversals",
            "reversed_amount", "fee_returned")  # fmt: skip
    assert [tuple(day[name] for name in sums) for day in days] == [
        ("2026-05-23", 1, 50_000, 350, 0, 0, 0, 0, 0),
        ("2026-05-25", 0, 0, 0, 1, 20_000, 0, 0, 0),
        ("2026-05-26", 0, 0, 0, 0, 0, 1, 30_000, 350),
    ]
    assert {day["merchant_id"] for day in days} == {shop.merchant_id}
    assert await database.read(differences) == []


async def test_a_group_of_payments_is_one_row_a_till(database: Database, shop: Shop) -> None:
    other = await shop.another_terminal()
    boxes = [(shop, await shop.box()), (other, await other.box())]
    payments = [await till.payment(box, 10_000 * n) for n in (1, 2, 3) for till, box in boxes]

    await take(database, *map(report, payments))

    assert sorted((day["payments"], day["gross_amount"]) for day in await kept(database)) == [(3, 60_000)] * 2
    await check_books(database)


async def test_random_histories_rebuild_to_what_was_kept(database: Database) -> None:
    chance = random.Random(7)
    shops = [await open_shop(database, bps=bps) for bps in (0, 70, 233)]
    boxes = [await shop.box() for shop in shops]
    for _ in range(40):
        n = chance.randrange(3)
        payment = await shops[n].payment(boxes[n], chance.randrange(1, 5_000_000))
        at_ms = NOW + chance.randrange(5 * DAY_MS)
        await take(database, report(payment, paid_at_ms=at_ms), now_ms=at_ms)
        for _ in range(chance.randrange(3)):
            at_ms += chance.randrange(2 * DAY_MS)
            part = chance.randrange(1, payment.amount + 1)
            await adjust(database, adjustment(payment, "refunded", amount=part), now_ms=at_ms)
        if chance.random() < 0.3:
            await adjust(database, adjustment(payment, "reversed"), now_ms=at_ms + DAY_MS)
        elif chance.random() < 0.3:
            await take(database, report(payment, amount=7, rrn="9"), now_ms=at_ms)
    before = await kept(database)

    assert await database.read(differences) == []
    count = await database.write(rebuild)

    assert (count, await kept(database)) == (len(before), before)
    await check_books(database)


async def test_what_was_spoilt_is_named_and_mended(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment))
    await execute(database, "UPDATE daily_revenue SET gross_amount = gross_amount + 7")

    (found,) = await database.read(differences)
    assert (found["day"], found["gross_amount"], found["payments"]) == ("2026-05-23", 7, 0)
    await database.write(rebuild)

    assert await database.read(differences) == []
    assert (await kept(database))[0]["gross_amount"] == 50_000


async def test_entries_of_one_till_and_day_are_added_up(database: Database, shop: Shop) -> None:
    till = {"terminal_id": shop.terminal_id, "provider": "sandbox", "merchant_id": shop.merchant_id}
    for _ in range(2):
        entries = [Entry(at_ms=NOW + n * DAY_MS // 2, payments=1, gross_amount=n, **till) for n in range(4)]
        await database.write(lambda tx, entries=entries: add(tx, entries))
    await database.write(lambda tx: add(tx, []))

    assert [(day["payments"], day["gross_amount"]) for day in await kept(database)] == [(2, 0), (4, 6), (2, 6)]
