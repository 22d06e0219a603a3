"""From wallet to wallet: every refusal, one success a session, and the announcement at the payee's terminal."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from support.books import check_books
from support.hub import Hub
from support.shop import execute, row, rows, told
from support.staff import Staff, audited
from support.wallets import PIN, TXN, WRONG_PIN, Holder, open_holder

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.reconciliation import books
from soundbox_server.revenue import service as revenue
from soundbox_server.wallets import pins
from soundbox_server.wallets.sessions import Terms


async def right(database: Database) -> bool:
    """By both of the sums that the ledger is held against."""
    await check_books(database)
    return await database.read_at_leisure(books.check) == []


async def refused(payer: Holder, session: Any, **other: Any) -> tuple[int, str]:
    answered = await payer.accepts(session, **other)
    said = answered.json()
    assert isinstance(said["error"], str), said
    return answered.status_code, said["code"]


async def test_a_payment_moves_the_money_and_is_said_at_the_payees_terminal(
    payer: Holder, payee: Holder, database: Database
) -> None:
    box = await payee.shop.box()
    session = await payee.asks(30_000)

    answered = (await payer.accepts(session)).json()

    assert session | {"session-time": 600} == {
        "serviceFee": 0, "totalAmount": 30_000, "transactionTraceId": session["transactionTraceId"],
        "session-time": 600,
    }  # fmt: skip
    details = answered["transactionDetails"]
    assert (details["status"], details["type"], details["totalAmount"]) == ("success", "debit", 30_000)
    assert (answered["updatedBalance"], await payer.balance(), await payee.balance()) == (70_000, 70_000, 30_000)
    paid = await row(database, "SELECT * FROM payment WHERE method = 'wallet'")
    assert (paid["state"], paid["paid_amount"], paid["merchant_id"]) == ("paid", 30_000, payee.shop.merchant_id)
    (said,) = await told(database, paid["id"])
    assert (said["recipient_id"], json.loads(bytes(said["body"]))["amount"]) == (box, 30_000)
    assert [one["subject_id"] for one in await audited(database, "wallet.paid")] == [payer.wallet]
    assert await right(database)


async def test_what_went_to_wallets_is_shown_apart_and_summed_up_anew_alike(
    payer: Holder, payee: Holder, database: Database
) -> None:
    """Nobody settles it: it is in the wallet already. `payer` was opened with 100,000, put in by QRIS."""
    await payer.pays(payee, 30_000)

    kept = await _by_merchant(database)
    differs = await database.read(lambda tx: revenue.differences(tx))
    await database.write(revenue.rebuild)

    assert kept[payee.shop.merchant_id] == (30_000, 30_000)
    assert {wallet for gross, wallet in kept.values()} == {gross for gross, wallet in kept.values()}
    assert list(differs) == []
    assert await _by_merchant(database) == kept


async def _by_merchant(database: Database) -> dict[str, tuple[int, int]]:
    """What was taken, and how much of it went to wallets."""
    found = await rows(database, "SELECT merchant_id, gross_amount, wallet_amount FROM daily_revenue")
    return {one["merchant_id"]: (one["gross_amount"], one["wallet_amount"]) for one in found}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_staff_find_what_moved_in_a_wallet(hub: Hub, payer: Holder, payee: Holder) -> None:
    await payer.pays(payee, 30_000)

    listed = await Staff(hub, "per_finance", "finance").get("/admin/ledger-entries", account=f"wallet:{payer.wallet}")

    assert [(one["entry_type"], one["balance_effect"]) for one in listed] == [
        ("payment", -30_000),
        ("payment", 100_000),
    ]


async def test_the_service_fee_is_asked_of_the_payer_and_handed_on_by_the_payee(
    hub: Hub, payer: Holder, payee: Holder, database: Database
) -> None:
    hub.app.state.wallet_terms = Terms(fee_percent=2)

    session = await payee.asks(10_025)
    short = await refused(payer, session, totalAmount=10_025)
    paid = await payer.accepts(session)

    assert (session["serviceFee"], session["totalAmount"]) == (2, 10_226)  # 200.5 rounds up
    assert short == (400, "INVALID_AMOUNT")
    assert paid.status_code == 200
    assert (await payer.balance(), await payee.balance()) == (100_000 - 10_226, 10_025)
    assert await right(database)


async def test_whoever_may_not_pay_so_is_refused_and_nothing_moves(
    hub: Hub, payer: Holder, payee: Holder, database: Database
) -> None:
    session = await payee.asks(30_000)
    rich = await payee.asks(100_001)
    other = (await payer.post("/api/v1/wallets", status=201))["newWallet"]["code"]
    over = await payee.asks(1_000)
    await execute(
        database, "UPDATE wallet_session SET expires_at_ms = $2 WHERE id = $1", over["transactionTraceId"],
        clock.now_ms(),
    )  # fmt: skip
    unknown = session | {"transactionTraceId": "txn-nowhere"}

    assert await refused(payer, over) == (400, "SESSION_EXPIRED")
    assert await refused(payee, session) == (400, "VALIDATION_FAILED")  # to oneself
    assert await refused(payer, session, fromWalletCode=other) == (400, "VALIDATION_FAILED")  # not the default one
    assert await refused(payer, session, fromWalletCode=payee.wallet) == (404, "NOT_FOUND")  # somebody else's
    assert await refused(payer, session, pin=WRONG_PIN) == (400, "INVALID_PIN")
    assert await refused(payer, session, totalAmount=29_999) == (400, "INVALID_AMOUNT")
    assert await refused(payer, rich) == (400, "INSUFFICIENT_BALANCE")
    assert await refused(payer, unknown) == (404, "NOT_FOUND")
    assert (await payer.balance(), await payee.balance()) == (100_000, 0)
    assert await rows(database, "SELECT id FROM payment WHERE method = 'wallet'") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("amount", [1000.0, 1000.5, "1000", -1000, 0, True, None, 10**12])
async def test_amounts_are_whole_rupiah(payer: Holder, payee: Holder, amount: Any) -> None:
    session = await payee.asks(1_000)

    asked = await payee.call("POST", f"{TXN}/payment-session/{payee.wallet}", {"amount": amount})
    paid = await payer.accepts(session, totalAmount=amount)
    out = await payer.call("POST", f"{TXN}/withdraw", {"walletCode": payer.wallet, "amount": amount, "pin": PIN})
    topped = await payer.call("POST", f"/api/v1/wallets/{payer.wallet}/topup", {"amount": amount})

    assert [one.status_code for one in (asked, paid, out, topped)] == [400] * 4
    assert await payer.balance() == 100_000


async def test_of_fifty_that_accept_at_once_one_pays(payer: Holder, payee: Holder, database: Database) -> None:
    await payee.shop.box()
    session = await payee.asks(10_000)

    answered = await asyncio.gather(*(payer.accepts(session) for _ in range(50)))

    counted = Counter((one.status_code, one.json().get("code")) for one in answered)
    assert counted.pop((200, None)) == 1, counted
    assert counted.keys() <= {(400, "SESSION_EXPIRED"), (423, "LOCKED")}
    assert (await payer.balance(), await payee.balance()) == (90_000, 10_000)
    assert await rows(database, "SELECT pin_tries FROM wallet_holder WHERE pin_tries > 0") == []
    assert len(await rows(database, "SELECT id FROM outbox_message WHERE kind = 'payment_success' AND seq > 0")) == 1
    assert await right(database)


async def test_two_sessions_at_once_never_spend_the_same_money(
    payer: Holder, payee: Holder, database: Database
) -> None:
    sessions = [await payee.asks(60_000) for _ in range(4)]

    answered = await asyncio.gather(*(payer.accepts(session) for session in sessions))

    assert Counter(one.status_code for one in answered)[200] == 1
    assert await payer.balance() == 40_000
    assert await right(database)


async def test_wallets_that_pay_each_other_at_once_do_not_wait_for_each_other(
    hub: Hub, payer: Holder, database: Database
) -> None:
    other = await open_holder(hub, database, balance=100_000)
    there = [await payer.asks(1_000) for _ in range(4)]
    here = [await other.asks(1_000) for _ in range(4)]

    answered = await asyncio.gather(
        *(one.accepts(session) for one, asked in ((other, there), (payer, here)) for session in asked)
    )

    assert {one.status_code for one in answered} == {200}
    assert (await payer.balance(), await other.balance()) == (100_000, 100_000)
    assert await right(database)


async def test_an_accept_that_is_repeated_with_its_key_gets_the_first_answer(
    payer: Holder, payee: Holder, database: Database
) -> None:
    session = await payee.asks(10_000)

    first = await payer.accepts(session, key="k1")
    again = await payer.accepts(session, key="k1")
    wrong_pin = await payer.accepts(session, key="k1", pin=WRONG_PIN)
    other = await payer.accepts(session, key="k1", totalAmount=1)

    assert (first.status_code, again.content) == (200, first.content)
    assert (wrong_pin.status_code, other.status_code) == (400, 422)
    assert await payer.balance() == 90_000


async def test_a_pin_that_is_wrong_five_times_locks_and_longer_each_time(
    payer: Holder, payee: Holder, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await payee.asks(10_000)
    at_ms = clock.now_ms()
    monkeypatch.setattr("soundbox_server.clock.now_ms", lambda: at_ms)

    wrong = [await refused(payer, session, pin=WRONG_PIN) for _ in range(5)]
    locked = await payer.accepts(session)
    at_ms += 15 * 60_000 - 1
    still = await refused(payer, session)
    at_ms += 1
    fresh = await payee.asks(10_000)
    again = await refused(payer, fresh, pin=WRONG_PIN)
    at_ms += 15 * 60_000
    longer = await refused(payer, fresh)
    at_ms += 15 * 60_000
    paid = await payer.accepts(await payee.asks(10_000))
    counted = await refused(payer, fresh, pin=WRONG_PIN)
    free = await refused(payer, fresh, pin=WRONG_PIN)

    assert set(wrong) == {(400, "INVALID_PIN")}
    assert (locked.status_code, locked.json()["code"], locked.headers["retry-after"]) == (423, "LOCKED", "900")
    assert (still, longer) == ((423, "LOCKED"), (423, "LOCKED"))
    assert again == counted == free == (400, "INVALID_PIN")
    assert paid.status_code == 200
    assert [pins.lock_ms(tries) // 60_000 for tries in (5, 6, 7, 11, 12, 99)] == [15, 30, 60, 960, 1_440, 1_440]


async def test_of_many_wrong_pins_at_once_five_are_compared(payer: Holder, payee: Holder, database: Database) -> None:
    session = await payee.asks(10_000)

    answered = await asyncio.gather(*(payer.accepts(session, pin=WRONG_PIN) for _ in range(20)))

    assert Counter(one.json()["code"] for one in answered) == {"INVALID_PIN": 5, "LOCKED": 15}
    assert len(await audited(database, "wallet.pin_wrong")) == 5


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_suspended_merchant_is_not_paid_and_one_that_waits_to_be_approved_is(
    payer: Holder, payee: Holder
) -> None:
    early = await payee.asks(1_000)
    await payee.shop.set_status("suspended")
    asked = await payee.call("POST", f"{TXN}/payment-session/{payee.wallet}", {"amount": 1_000})
    paid = await payer.accepts(early)
    await payee.shop.set_status("pending")
    later = await payer.accepts(early)

    assert (asked.status_code, paid.status_code, later.status_code) == (403, 403, 200)


async def test_the_payee_sends_money_back_until_nothing_is_left(
    payer: Holder, payee: Holder, database: Database
) -> None:
    trace = (await payer.pays(payee, 30_000))["transactionDetails"]["transactionTraceId"]
    path = f"{TXN}/refund/{trace}"

    part = await payee.post(path, {"pin": PIN, "amount": 10_000}, key="r1")
    again = await payee.post(path, {"pin": PIN, "amount": 10_000}, key="r1")
    rest = await payee.post(path, {"pin": PIN})
    more = await payee.call("POST", path, {"pin": PIN, "amount": 1})
    wrong = await payee.call("POST", path, {"pin": WRONG_PIN})
    theirs = await payer.call("POST", path, {"pin": PIN})

    assert (part["amount"], again, rest["amount"], rest["updatedBalance"]) == (10_000, part, 20_000, 0)
    assert (more.status_code, wrong.json()["code"], theirs.status_code) == (409, "INVALID_PIN", 404)
    assert (await payer.balance(), await payee.balance()) == (100_000, 0)
    assert (await row(database, "SELECT state FROM payment WHERE method = 'wallet'"))["state"] == "refunded"
    assert await right(database)


async def test_what_the_payee_has_spent_is_not_sent_back(
    hub: Hub, payer: Holder, payee: Holder, database: Database
) -> None:
    other = await open_holder(hub, database)
    trace = (await payer.pays(payee, 30_000))["transactionDetails"]["transactionTraceId"]
    await payee.pays(other, 20_000)

    refused_all = await payee.call("POST", f"{TXN}/refund/{trace}", {"pin": PIN})

    assert (refused_all.status_code, refused_all.json()["code"]) == (400, "INSUFFICIENT_BALANCE")
    assert (await payer.balance(), await payee.balance(), await other.balance()) == (70_000, 10_000, 20_000)
    assert await rows(database, "SELECT id FROM refund") == []
    assert await right(database)


async def test_each_sees_its_own_side_of_a_payment(payer: Holder, payee: Holder, database: Database) -> None:
    await payer.pays(payee, 30_000)
    over = await payee.asks(1_000)
    await execute(database, "UPDATE wallet_session SET expires_at_ms = 1 WHERE id = $1", over["transactionTraceId"])
    await payee.asks(2_000)

    theirs, ours = await payer.listed(), await payee.listed()
    pages = [await payee.post(f"{TXN}/transaction", {"limit": 2})]
    pages.append(await payee.post(f"{TXN}/transaction", {"limit": 2, "cursor": pages[0]["nextCursor"]}))

    assert [(one["type"], one["status"], one["totalAmount"]) for one in theirs] == [("debit", "success", 30_000)]
    assert [(one["type"], one["status"], one["totalAmount"]) for one in ours] == [
        ("credit", "initiated", 2_000), ("credit", "failed", 1_000), ("credit", "success", 30_000),
    ]  # fmt: skip
    assert theirs[0]["counterparty"] == ours[2]["userID"]
    assert ours[2]["counterparty"] == theirs[0]["userID"]
    assert [one for page in pages for one in page["transactions"]] == ours
    assert [page["nextCursor"] is None for page in pages] == [False, True]
