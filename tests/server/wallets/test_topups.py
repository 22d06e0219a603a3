"""Money into a wallet: a QRIS of the platform's own merchant, paid at a real provider's simulator."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.books import check_books
from support.hub import Hub
from support.settling import CALENDAR, settle
from support.shop import execute, report, row, rows, take
from support.simulator import open_hub_with_acquirer
from support.stack import until
from support.staff import Staff
from support.wallets import issue_topup, open_holder, platform_shop

from soundbox_server import clock
from soundbox_server.clock import jakarta_day
from soundbox_server.db import Database
from soundbox_server.payments import qris
from soundbox_server.reconciliation import books


@pytest.fixture
async def acquired(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub_with_acquirer(database_url, tmp_path / "home") as hub:
        yield hub


async def right(database: Database) -> bool:
    await check_books(database)
    return await database.read_at_leisure(books.check) == []


async def test_what_is_paid_by_qris_is_in_the_wallet(acquired: Hub, database: Database) -> None:
    holder = await open_holder(acquired, database)
    path = f"/api/v1/wallets/{holder.wallet}/topup"
    nobody = await holder.call("POST", path, {"amount": 75_000})
    platform = await platform_shop(database)

    issued = await holder.post(path, {"amount": 75_000}, status=201, key="t1")
    again = await holder.post(path, {"amount": 75_000}, status=201, key="t1")
    waiting = [(one["kind"], one["status"]) for one in await holder.listed()]
    (attempt,) = await rows(database, "SELECT reference FROM payment_attempt")
    await acquired.app.state.simulator.pay(attempt["reference"])

    async def arrived() -> bool:
        return await holder.balance() == 75_000

    await until(arrived, what="a top-up in its wallet")
    assert (nobody.status_code, nobody.json()["code"]) == (503, "PAYMENTS_CLOSED")
    assert (again, qris.amount_idr(qris.decode(issued["qrString"]))) == (issued, 75_000)
    assert waiting == [("topup", "pending")]
    assert [one["status"] for one in await holder.listed()] == ["success"]
    paid = await row(database, "SELECT * FROM payment")
    assert (paid["merchant_id"], paid["fee_amount"], paid["state"]) == (platform.merchant_id, 0, "paid")
    assert await right(database)


async def test_a_top_up_that_is_told_twice_or_late_is_there_once(hub: Hub, database: Database) -> None:
    holder = await open_holder(hub, database)
    pending = await issue_topup(database, holder.wallet, 50_000)
    await execute(database, "UPDATE merchant SET late_policy = 'refund'")
    await execute(database, "UPDATE payment SET state = 'expired'")

    for _ in range(3):
        await take(database, report(pending), now_ms=clock.now_ms())

    assert await holder.balance() == 50_000
    assert await rows(database, "SELECT id FROM refund") == []
    assert await right(database)


@pytest.mark.parametrize("status", ["reversed", "refunded"])
async def test_what_the_provider_takes_back_is_the_platforms_loss_and_no_wallet_is_negative(
    hub: Hub, database: Database, status: str
) -> None:
    holder, other = await open_holder(hub, database), await open_holder(hub, database)
    pending = await issue_topup(database, holder.wallet, 50_000)
    await take(database, report(pending), now_ms=clock.now_ms())
    await holder.pays(other, 50_000)
    more = {"amount": 50_000, "refund_reference": "theirs"} if status == "refunded" else {}

    taken = await hub.call_back(hub.said(pending, status=status, **more))

    assert taken.json()["data"]["outcome"] == "applied"
    assert (await holder.balance(), await other.balance()) == (0, 50_000)
    platform = await platform_shop(database)
    account = f"merchant_payable:{platform.merchant_id}"
    owed = await row(
        database, "SELECT sum(CASE WHEN destination = $1 THEN amount ELSE -amount END) AS owed FROM posting "
        "WHERE $1 IN (source, destination)", account,
    )  # fmt: skip
    assert owed["owed"] == -50_000
    assert await right(database)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_staff_send_no_top_up_back_past_its_owner(hub: Hub, database: Database) -> None:
    holder = await open_holder(hub, database)
    pending = await issue_topup(database, holder.wallet, 50_000)
    await take(database, report(pending), now_ms=clock.now_ms())

    path = f"/admin/transactions/{pending.payment_id}/refund"
    refused = await Staff(hub, "per_finance", "finance").refused("POST", path, {"reason": "asked"}, status=409)

    assert refused["code"] == "CONFLICT"
    assert await holder.balance() == 50_000


async def test_what_is_in_wallets_is_settled_to_nobody(hub: Hub, database: Database) -> None:
    payer, payee = await open_holder(hub, database, balance=100_000), await open_holder(hub, database)
    await payer.pays(payee, 30_000)
    by_qris = await payee.shop.payment(await payee.shop.box(), 20_000, now_ms=clock.now_ms())
    await take(database, report(by_qris, paid_at_ms=clock.now_ms()), now_ms=clock.now_ms())

    today = jakarta_day(clock.now_ms())
    for days in (1, 2):  # today may be a day on which banks are closed
        await settle(database, CALENDAR.after(today, days))

    settled = await rows(database, "SELECT merchant_id, gross_amount FROM settlement")
    assert settled == [{"merchant_id": payee.shop.merchant_id, "gross_amount": 20_000}]
    assert (await payer.balance(), await payee.balance()) == (70_000, 30_000)
    assert await right(database)
