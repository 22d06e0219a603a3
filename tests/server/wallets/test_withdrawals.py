"""Money out of wallets: to the merchant's own account, through the bank, once."""

from typing import Any

import pytest
from support.bank import ACCOUNT, Bank, told
from support.books import check_books
from support.hub import Hub
from support.shop import execute, row, rows
from support.wallets import PIN, TXN, WRONG_PIN, Holder

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.payouts import reports
from soundbox_server.payouts.service import LEASE_MS, STUCK_AFTER
from soundbox_server.reconciliation import books
from soundbox_server.wallets.jobs import Withdrawer
from soundbox_server.wallets.withdrawals import take_report


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ms = clock.now_ms()
        monkeypatch.setattr("soundbox_server.clock.now_ms", lambda: self.ms)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
async def saver(payer: Holder) -> Holder:
    """Somebody with 100,000 and an account to be paid to."""
    await execute(
        payer.database, "UPDATE merchant SET settlement_account_reference = $2 WHERE id = $1", payer.shop.merchant_id,
        ACCOUNT,
    )  # fmt: skip
    return payer


def withdrawer(database: Database, bank: Bank | None) -> Withdrawer:
    return Withdrawer(database, lambda: bank, is_open=lambda day: True)


async def wants(holder: Holder, amount: Any, **other: Any) -> tuple[int, dict[str, Any]]:
    body = {"walletCode": holder.wallet, "amount": amount, "pin": PIN} | other
    answered = await holder.call("POST", f"{TXN}/withdraw", body)
    return answered.status_code, answered.json()


async def state(database: Database) -> str:
    return str((await row(database, "SELECT state FROM wallet_withdrawal ORDER BY id DESC LIMIT 1"))["state"])


async def says(database: Database, kind: str, amount: int = 60_000, **other: Any) -> str:
    reference = (await row(database, "SELECT reference FROM wallet_withdrawal"))["reference"]
    said = told(reference, kind, amount, **other)
    outcome, _ = await database.write(
        lambda tx: reports.take(tx, said, request_id="req_1", now_ms=clock.now_ms(), elsewhere=take_report)
    )
    return outcome.value


async def right(database: Database) -> bool:
    await check_books(database)
    return await database.read_at_leisure(books.check) == []


async def test_it_leaves_the_wallet_at_once_and_reaches_the_account(saver: Holder, database: Database) -> None:
    bank = Bank()

    status, said = await wants(saver, 60_000)
    on_its_way = await right(database)
    await withdrawer(database, bank).tick()
    await withdrawer(database, bank).tick()

    assert (status, said["status"], said["updatedBalance"]) == (202, "pending", 40_000)
    assert on_its_way
    (sent,) = bank.sent
    assert (sent.amount_idr, sent.account, sent.beneficiary) == (60_000, ACCOUNT, "Toko Payer")
    assert (await state(database), await saver.balance()) == ("succeeded", 40_000)
    assert [(one["kind"], one["status"]) for one in await saver.listed()] == [("withdrawal", "success")]
    assert await right(database)


async def test_a_negative_withdrawal_mints_nothing(saver: Holder, database: Database) -> None:
    answered = [(await wants(saver, amount))[0] for amount in (-1, -60_000, 0, 1.5)]

    assert answered == [400] * 4
    assert await saver.balance() == 100_000
    assert await rows(database, "SELECT id FROM wallet_withdrawal") == []


async def test_who_may_not_withdraw_so_is_refused(hub: Hub, saver: Holder, payee: Holder, database: Database) -> None:
    too_much = await wants(saver, 100_001)
    wrong_pin = await wants(saver, 1, pin=WRONG_PIN)
    theirs = await wants(saver, 1, walletCode=payee.wallet)
    nowhere_to_go = await wants(payee, 1)
    hub.app.state.bank_name = None
    no_bank = await wants(saver, 1)
    hub.app.state.bank_name = "sandbox"
    await saver.shop.set_status("pending")
    not_approved = await wants(saver, 1)

    codes = [said["code"] for _, said in (too_much, wrong_pin, theirs, nowhere_to_go, no_bank, not_approved)]
    assert codes == [
        "INSUFFICIENT_BALANCE", "INVALID_PIN", "NOT_FOUND", "MERCHANT_PAYOUT_NOT_CONFIGURED",
        "MERCHANT_PAYOUT_NOT_CONFIGURED", "FORBIDDEN",
    ]  # fmt: skip
    assert await saver.balance() == 100_000


async def test_what_the_bank_refuses_is_in_the_wallet_again(saver: Holder, database: Database) -> None:
    bank = Bank()
    bank.faults.append("refuse")
    await wants(saver, 60_000)

    await withdrawer(database, bank).tick()

    assert (await state(database), await saver.balance(), bank.paid) == ("failed", 100_000, 0)
    assert [one["status"] for one in await saver.listed()] == ["failed"]
    assert (await wants(saver, 60_000))[0] == 202
    assert await right(database)


@pytest.mark.parametrize("fault", ["lost", "silent"])
async def test_what_nobody_knows_blocks_another_and_is_found_out_by_asking(
    saver: Holder, database: Database, moved: Clock, fault: str
) -> None:
    bank = Bank()
    bank.faults.append(fault)
    await wants(saver, 60_000)

    await withdrawer(database, bank).tick()
    unknown, blocked = await state(database), await wants(saver, 1)
    moved.ms += 60_000
    await withdrawer(database, bank).tick()

    assert (unknown, blocked[0], blocked[1]["code"]) == ("unknown", 409, "CONFLICT")
    assert (await state(database), bank.paid, len(bank.queried)) == ("succeeded", 60_000, 1)
    assert await saver.balance() == 40_000
    assert await right(database)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_process_that_dies_after_it_asked_is_followed_by_one_that_queries(
    saver: Holder, database: Database, moved: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank()
    await wants(saver, 60_000)
    with monkeypatch.context() as patched:
        patched.setattr("soundbox_server.wallets.withdrawals.record_answer", None)
        await withdrawer(database, bank).tick()
    early = await withdrawer(database, bank).tick()

    moved.ms += LEASE_MS
    await withdrawer(database, bank).tick()

    assert early is None
    assert (len(bank.sent), len(bank.queried), await state(database)) == (1, 1, "succeeded")
    assert await right(database)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_one_that_never_ends_is_said(saver: Holder, database: Database, moved: Clock) -> None:
    bank = Bank()
    bank.faults.extend(["slow"])
    await wants(saver, 60_000)

    for _ in range(STUCK_AFTER):
        await withdrawer(database, bank).tick()
        moved.ms += 3_600_000

    alert = await row(database, "SELECT * FROM alert WHERE kind = 'withdrawal.stuck'")
    assert alert["subject_id"] == saver.wallet


async def test_the_banks_word_is_taken_once_and_believed_where_it_fits(saver: Holder, database: Database) -> None:
    bank = Bank()
    bank.faults.append("slow")
    await wants(saver, 60_000)
    await withdrawer(database, bank).tick()

    pending = await says(database, "pending")
    other_sum = await says(database, "succeeded", 59_999)
    paid = [await says(database, "succeeded", event_id="e1") for _ in range(2)]
    again = await says(database, "succeeded")
    contradicted = await says(database, "failed")
    held = await saver.balance()
    back = [await says(database, "reversed") for _ in range(2)]

    assert (pending, other_sum, paid, again) == ("ignored", "needs_review", ["applied"] * 2, "duplicate")
    assert (contradicted, held, back) == ("needs_review", 40_000, ["applied", "duplicate"])
    assert (await state(database), await saver.balance()) == ("reversed", 100_000)
    kinds = {one["kind"] for one in await rows(database, "SELECT kind FROM alert")}
    assert kinds == {"withdrawal.contradicted"}
    assert await right(database)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_failed_and_was_paid_all_the_same_is_for_a_person(saver: Holder, database: Database) -> None:
    bank = Bank()
    bank.faults.append("refuse")
    await wants(saver, 60_000)
    await withdrawer(database, bank).tick()

    assert await says(database, "succeeded") == "needs_review"
    assert await saver.balance() == 100_000
    assert await right(database)
