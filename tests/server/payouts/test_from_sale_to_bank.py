"""From the sale to the merchant's bank: days of payments and refunds, settled by the run and paid out by the job, with
the books right after each step."""

import random

import pytest
from support.acquirer import adjustment
from support.bank import ACCOUNT, Bank, payouts
from support.books import check_books
from support.settling import settle, settlements
from support.shop import Shop, adjust, execute, open_shop, report, take

from soundbox_server.clock import DAY_MS, jakarta_ms
from soundbox_server.db import Database
from soundbox_server.ledger.service import balance
from soundbox_server.payments.charging import Pending
from soundbox_server.payouts.jobs import Payer
from soundbox_server.reconciliation import books

MONDAY = jakarta_ms("2026-06-08")
DAYS = ["2026-06-08", "2026-06-09", "2026-06-10", "2026-06-11", "2026-06-12"]


async def sell(shop: Shop, amount: int, *, at_ms: int, provider: str) -> Pending:
    payment = await shop.payment(await shop.box(), amount, provider=provider, now_ms=at_ms)
    await take(shop.database, report(payment, paid_at_ms=at_ms), now_ms=at_ms)
    return payment


async def test_a_week_of_sales_refunds_and_a_moody_bank_ends_with_everything_paid_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, bank, sold = random.Random(11), Bank(), []
    shops = [await open_shop(database, bps=bps) for bps in (70, 30)]
    await execute(
        database,
        "UPDATE merchant SET settlement_account_reference = $1, payout_mode = 'merchant_direct' WHERE id = $2",
        ACCOUNT,
        shops[0].merchant_id,
    )
    payer = Payer(database, lambda: bank, is_open=lambda day: True)
    for number, day in enumerate(DAYS):
        at_ms = MONDAY + number * DAY_MS + 10 * 3_600_000
        for shop in shops:
            for provider in ("sandbox", "acme"):
                sold.append(await sell(shop, chance.randrange(1_000, 90_000), at_ms=at_ms, provider=provider))
        for payment in chance.sample(sold, 2):  # perhaps of a day that is settled and paid
            kind = chance.choice(["refunded", "reversed"])
            await adjust(database, adjustment(payment, kind), now_ms=at_ms + 60_000)
        bank.faults.extend(chance.sample(["lost", "slow", "silent", "unreachable", "lost"], 2))
        await settle(database, day)
        assert await database.read_at_leisure(books.check) == []
        for minute in range(4):
            now_ms = MONDAY + (number + 1) * DAY_MS + minute * 60_000
            monkeypatch.setattr("soundbox_server.clock.now_ms", lambda now_ms=now_ms: now_ms)
            await payer.tick()
            for request in bank.sent:  # what was slow has arrived
                bank.becomes(request.reference, "succeeded")
            assert await database.read_at_leisure(books.check) == []
        await check_books(database)

    bank.faults.clear()
    for hour in range(4):  # Friday's batch settles on the Monday after, and the bank is in its right mind
        monkeypatch.setattr("soundbox_server.clock.now_ms", lambda hour=hour: MONDAY + 8 * DAY_MS + hour * 3_600_000)
        await payer.tick()
    assert await database.read_at_leisure(books.check) == []
    await check_books(database)

    direct = [one for one in await settlements(database, shops[0].merchant_id) if one["net_amount"]]
    by_hand = [one for one in await settlements(database, shops[1].merchant_id) if one["net_amount"]]
    assert {one["state"] for one in direct} == {"paid"}
    assert {one["state"] for one in by_hand} == {"paying"}
    assert bank.paid == sum(one["net_amount"] for one in direct) > 0
    assert len(await payouts(database)) == len(direct) + len(by_hand)
    for one in by_hand:
        assert await database.read(lambda tx, one=one: balance(tx, f"clearing:{one['id']}")) == one["net_amount"]
