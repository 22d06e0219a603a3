"""A run makes one batch per merchant and window: of what moved, once, however often and by how many it is started."""

import asyncio
from functools import partial

import pytest
from support.acquirer import adjustment
from support.books import check_books
from support.settling import CALENDAR, items, settle, settlements, windows_on
from support.shop import NOW, Shop, adjust, execute, open_shop, report, rows, take

from soundbox_server.clock import DAY_MS, jakarta_ms
from soundbox_server.db import Database
from soundbox_server.errors import MerchantPayoutNotConfigured, SettlementNotEligible
from soundbox_server.ledger.service import balance
from soundbox_server.payments.cash import take_cash
from soundbox_server.payments.charging import Order, Pending
from soundbox_server.settlements import planning, service
from soundbox_server.settlements.running import settle_merchant, settle_window

MONDAY, TUESDAY = "2026-05-25", "2026-05-26"  # NOW is the Saturday before


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


async def paid(shop: Shop, amount: int = 50_000, *, at_ms: int = NOW, provider: str = "sandbox") -> Pending:
    payment = await shop.payment(await shop.box(), amount, provider=provider, now_ms=at_ms)
    await take(shop.database, report(payment, paid_at_ms=at_ms), now_ms=at_ms)
    return payment


async def owed(shop: Shop) -> int:
    return await shop.database.read(lambda tx: balance(tx, f"merchant_payable:{shop.merchant_id}"))


async def test_what_was_paid_before_the_cutoff_is_settled_less_its_fees(database: Database, shop: Shop) -> None:
    first, second = await paid(shop, 50_000), await paid(shop, 20_000)
    late = await paid(shop, 7_000, at_ms=jakarta_ms(TUESDAY))

    await settle(database, MONDAY)

    (batch,) = await settlements(database)
    assert (batch["state"], batch["day"], batch["window_name"], batch["settles_on"]) == (
        "calculated", MONDAY, "daily", TUESDAY,
    )  # fmt: skip
    assert (batch["payments"], batch["gross_amount"], batch["fee_amount"], batch["net_amount"]) == (
        2, 70_000, 490, 69_510,
    )  # fmt: skip
    assert {item["payment_id"] for item in await items(database, batch["id"])} == {first.payment_id, second.payment_id}
    assert await database.read(lambda tx: balance(tx, f"clearing:{batch['id']}")) == 69_510
    assert await owed(shop) == 7_000 - 49
    await check_books(database)
    await settle(database, TUESDAY)
    (_, next_batch) = await settlements(database)
    assert [item["payment_id"] for item in await items(database, next_batch["id"])] == [late.payment_id]
    await check_books(database)


async def test_a_second_run_of_a_window_changes_nothing(database: Database, shop: Shop) -> None:
    await paid(shop)
    await settle(database, MONDAY)
    before = await settlements(database)
    told_late = await paid(shop, 9_000)  # paid in the window, and told after it was settled

    await settle(database, MONDAY)

    assert await settlements(database) == before
    await settle(database, TUESDAY)
    assert [item["payment_id"] for item in await items(database, (await settlements(database))[1]["id"])] == [
        told_late.payment_id
    ]
    await check_books(database)


async def test_what_goes_back_is_taken_from_the_window_in_which_it_went(database: Database, shop: Shop) -> None:
    refunded, reversed_ = await paid(shop, 50_000), await paid(shop, 30_000)
    kept = await paid(shop, 20_000)
    await settle(database, MONDAY)
    tuesday = jakarta_ms(TUESDAY) + DAY_MS // 2
    await adjust(database, adjustment(refunded, "refunded", amount=15_000), now_ms=tuesday)
    await adjust(database, adjustment(reversed_, "reversed"), now_ms=tuesday)
    await paid(shop, 100_000, at_ms=tuesday)

    await settle(database, TUESDAY)

    monday, batch = await settlements(database)
    assert monday["gross_amount"] == 100_000
    assert sorted(item["kind"] for item in await items(database, batch["id"])) == ["payment", "refund", "reversal"]
    assert (batch["adjustments"], batch["adjustment_amount"]) == (2, -15_000 - (30_000 - 210))
    assert batch["net_amount"] == 100_000 - 700 - 15_000 - 29_790
    assert kept.payment_id in {item["payment_id"] for item in await items(database, monday["id"])}
    await check_books(database)


async def test_a_batch_below_nothing_is_carried_into_the_next(database: Database, shop: Shop) -> None:
    payment = await paid(shop, 50_000)
    await settle(database, MONDAY)
    tuesday = jakarta_ms(TUESDAY)
    await adjust(database, adjustment(payment, "reversed"), now_ms=tuesday)
    await settle(database, TUESDAY)
    carried = (await settlements(database))[1]
    assert (carried["state"], carried["net_amount"], carried["carried_out"]) == ("carried", 0, -49_650)
    assert await rows(database, "SELECT id FROM journal WHERE money_key = $1", f"settlement:{carried['id']}") == []
    assert await owed(shop) == -49_650

    await paid(shop, 80_000, at_ms=tuesday + 3 * DAY_MS)
    await settle(database, "2026-05-29")

    last = (await settlements(database))[2]
    assert (last["carried_in"], last["net_amount"], last["carried_out"]) == (-49_650, 80_000 - 560 - 49_650, 0)
    assert await owed(shop) == 0
    await check_books(database)


async def test_a_provider_that_brought_too_little_is_made_up_for_by_the_others(database: Database, shop: Shop) -> None:
    of_acme = await paid(shop, 40_000, provider="acme")
    await settle(database, MONDAY)
    tuesday = jakarta_ms(TUESDAY)
    await adjust(database, adjustment(of_acme, "reversed"), now_ms=tuesday)
    await paid(shop, 100_000, at_ms=tuesday)
    await settle(database, TUESDAY)
    await paid(shop, 10_000, at_ms=tuesday + 3 * DAY_MS, provider="acme")

    await settle(database, "2026-05-29")

    _, second, third = await settlements(database)
    shares = {
        (share["settlement_id"], share["provider"]): (share["carried_in"], share["net_amount"], share["carried_out"])
        for share in await rows(database, "SELECT * FROM settlement_share")
    }
    assert shares[second["id"], "acme"] == (0, 0, -39_720)
    assert shares[second["id"], "sandbox"] == (0, 99_300 - 39_720, 39_720)
    assert shares[third["id"], "acme"] == (-39_720, 0, -29_790)
    assert shares[third["id"], "sandbox"] == (39_720, 9_930, 29_790)
    assert third["net_amount"] == 9_930
    await check_books(database)


async def test_cash_and_money_kept_apart_are_left_out(database: Database, shop: Shop) -> None:
    order = Order(
        merchant_id=shop.merchant_id, outlet_id=shop.outlet_id, terminal_id=shop.terminal_id, amount=12_000,
        source="pos", trace_id="trc_1", method="cash",
    )  # fmt: skip
    await database.write(lambda tx: take_cash(tx, order, paid_at_ms=NOW, now_ms=NOW))
    waiting = await shop.payment(await shop.box(), 50_000)
    await take(database, report(waiting, amount=49_999))

    await settle(database, MONDAY)

    assert await settlements(database) == []
    assert await rows(database, "SELECT journal_id FROM settlement_item") == []
    assert [run["state"] for run in await rows(database, "SELECT state FROM settlement_run")] == ["done"]


@pytest.mark.parametrize(
    ("hindrance", "end", "error"),
    [
        ("status = 'suspended'", "status = 'approved'", SettlementNotEligible),
        ("payout_mode = 'merchant_direct'", "settlement_account_reference = 'bank:1'", MerchantPayoutNotConfigured),
    ],
)
async def test_a_merchant_that_cannot_be_paid_waits_until_it_can(
    database: Database, shop: Shop, hindrance: str, end: str, error: type[Exception]
) -> None:
    other = await open_shop(database)
    await paid(shop)
    await paid(other)
    await execute(database, "UPDATE merchant SET fee_profile_id = $1", shop.fee_profile_id)
    await execute(database, f"UPDATE merchant SET {hindrance} WHERE id = $1", shop.merchant_id)
    await settle(database, MONDAY)
    assert [batch["merchant_id"] for batch in await settlements(database)] == [other.merchant_id]
    (wanted,) = await windows_on(database, MONDAY, fee_profile_id=shop.fee_profile_id)
    with pytest.raises(error):
        await settle_merchant(database, wanted, shop.merchant_id)

    await execute(database, f"UPDATE merchant SET {end} WHERE id = $1", shop.merchant_id)
    await settle(database, TUESDAY)

    (batch,) = await settlements(database, shop.merchant_id)
    assert (batch["day"], batch["payments"]) == (TUESDAY, 1)
    await check_books(database)


async def test_one_merchant_alone_and_then_the_others(database: Database, shop: Shop) -> None:
    other = await open_shop(database)
    await execute(database, "UPDATE merchant SET fee_profile_id = $1", shop.fee_profile_id)
    await paid(shop)
    await paid(other)
    (wanted,) = await windows_on(database, MONDAY)
    await settle_merchant(database, wanted, other.merchant_id)
    assert [batch["merchant_id"] for batch in await settlements(database)] == [other.merchant_id]

    await settle_merchant(database, wanted, other.merchant_id)
    await settle_window(database, wanted)

    assert [batch["payments"] for batch in await settlements(database)] == [1, 1]
    await check_books(database)


async def test_a_run_goes_on_where_another_stopped(
    database: Database, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of two journals and one batch: each transaction is where somebody may have died."""
    monkeypatch.setattr(service, "TOGETHER", {"sqlite": 2, "postgresql": 2})
    monkeypatch.setattr(service, "BATCHES", 1)
    shops = [shop, await open_shop(database), await open_shop(database)]
    await execute(database, "UPDATE merchant SET fee_profile_id = $1", shop.fee_profile_id)
    for n in range(7):
        await paid(shops[n % 3], 10_000 + n)
    (wanted,) = await windows_on(database, MONDAY)
    await database.write_at_leisure(partial(service.begin, wanted=wanted, now_ms=NOW))
    steps = 0
    while not await database.write_at_leisure(partial(service.advance, wanted=wanted, now_ms=NOW)):
        steps += 1
        await _settle_anew(database, wanted, steps)

    assert steps == 3  # seven transactions, two in each round: four pieces, and three batches beside the last piece
    assert sorted(batch["payments"] for batch in await settlements(database)) == [2, 2, 3]
    await check_books(database)


async def _settle_anew(database: Database, wanted: service.Wanted, steps: int) -> None:
    """Somebody else who starts the same run does one piece of it."""
    await database.write_at_leisure(partial(service.begin, wanted=wanted, now_ms=NOW + steps))
    await database.write_at_leisure(partial(service.advance, wanted=wanted, now_ms=NOW + steps))


async def test_a_merchant_approved_while_a_run_goes_is_in_the_next(
    database: Database, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "TOGETHER", {"sqlite": 2, "postgresql": 2})
    newcomer = await open_shop(database)
    await execute(database, "UPDATE merchant SET fee_profile_id = $1", shop.fee_profile_id)
    early = await paid(newcomer, 11_000)
    await paid(shop)
    await paid(shop)
    await paid(newcomer, 12_000)
    await newcomer.set_status("suspended")
    (wanted,) = await windows_on(database, MONDAY)
    await database.write_at_leisure(partial(service.begin, wanted=wanted, now_ms=NOW))
    await database.write_at_leisure(partial(service.advance, wanted=wanted, now_ms=NOW))
    await newcomer.set_status("approved")

    await settle_window(database, wanted)
    await settle(database, TUESDAY)

    (batch,) = await settlements(database, newcomer.merchant_id)
    assert (batch["day"], batch["payments"]) == (TUESDAY, 2)
    assert early.payment_id in {item["payment_id"] for item in await items(database, batch["id"])}
    await check_books(database)


async def test_a_later_run_looks_only_at_what_came_since(database: Database, shop: Shop) -> None:
    for n in range(3):
        await paid(shop, 10_000 + n)
    await settle(database, MONDAY)
    tuesday = jakarta_ms(TUESDAY)
    await paid(shop, 20_000, at_ms=tuesday + DAY_MS // 2)
    await settle(database, TUESDAY)
    (progress,) = await rows(database, "SELECT settled_to FROM settlement_progress")
    booked = await rows(database, "SELECT id FROM journal WHERE kind = 'capture' ORDER BY id")

    assert booked[2]["id"] <= progress["settled_to"]
    await paid(shop, 30_000, at_ms=tuesday + 3 * DAY_MS)
    await settle(database, "2026-05-29")
    assert [batch["payments"] for batch in await settlements(database)] == [3, 1, 1]
    await check_books(database)


async def test_a_preview_says_what_a_run_then_makes(database: Database, shop: Shop) -> None:
    gone = await paid(shop, 50_000)
    await paid(shop, 30_000)
    await adjust(database, adjustment(gone, "refunded", amount=20_000), now_ms=NOW + 1)
    (wanted,) = await windows_on(database, MONDAY)

    foreseen = await database.read(lambda tx: service.preview(tx, wanted, merchant_id=None, now_ms=NOW))

    assert await settlements(database) == []
    await settle_window(database, wanted)
    (batch,) = await settlements(database)
    assert foreseen[shop.merchant_id].row() == tuple(
        batch[name]
        for name in (
            "payments", "adjustments", "gross_amount", "fee_amount", "adjustment_amount", "carried_in", "carried_out",
            "net_amount",
        )
    )  # fmt: skip
    assert await database.read(lambda tx: service.preview(tx, wanted, merchant_id=None, now_ms=NOW)) == {}


async def test_the_clock_settles_each_window_once_its_day_has_come(database: Database, shop: Shop) -> None:
    await paid(shop)
    find = partial(planning.due_now, calendar=CALENDAR, by=None)
    before = await database.read(partial(find, now_ms=jakarta_ms(TUESDAY) - 1))
    assert [one.window.day for one in before] == ["2026-05-22"]
    due = await database.read(partial(find, now_ms=jakarta_ms(TUESDAY)))
    await settle_window(database, due[0])

    assert [(one.window.day, one.window.name) for one in due] == [(MONDAY, "daily")]
    assert await database.read(partial(find, now_ms=jakarta_ms(TUESDAY))) == []
    assert [one.window.day for one in await database.read(partial(find, now_ms=jakarta_ms("2026-06-02")))] == [
        TUESDAY, "2026-05-29",
    ]  # fmt: skip


async def test_twenty_runs_at_once_settle_everything_once(database: Database, database_url: str) -> None:
    shops = [await open_shop(database) for _ in range(3)]
    for shop in shops:
        await execute(
            database, "UPDATE merchant SET fee_profile_id = $2 WHERE id = $1", shop.merchant_id, shops[0].fee_profile_id
        )
        for n in range(4):
            await paid(shop, 10_000 + n)
    (wanted,) = await windows_on(database, MONDAY, fee_profile_id=shops[0].fee_profile_id)
    others = [Database(database_url) for _ in range(3)]
    try:
        runs = [settle_window([database, *others][n % 4], wanted) for n in range(20)]

        await asyncio.gather(*runs, *(settle_merchant(others[0], wanted, shop.merchant_id) for shop in shops))
    finally:
        for other in others:
            await other.close()

    batches = await settlements(database)
    assert [(batch["payments"], batch["state"]) for batch in batches] == [(4, "calculated")] * 3
    assert len(await rows(database, "SELECT id FROM journal WHERE kind = 'settlement'")) == 3
    await check_books(database)
