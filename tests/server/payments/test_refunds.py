"""Money on its way back: limits under the lock, one question at a time, and nothing sent twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.acquirer import Acquirer, adjustment, references
from support.books import check_books
from support.hub import open_hub
from support.shop import NOW, Shop, adjust, execute, payment_row, report, row, rows, take, told
from support.staff import Staff, audited

from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.errors import Conflict, IllegalTransition, InvalidAmount
from soundbox_server.ledger import service as ledger
from soundbox_server.ledger.service import balance
from soundbox_server.payments import refunds
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.refunds import ASK_AFTER_S, LEASE_MS


@pytest.fixture
def acquirer() -> Acquirer:
    return Acquirer()


async def paid(shop: Shop, amount: int = 50_000) -> Pending:
    payment = await shop.payment(await shop.box(), amount)
    await take(shop.database, report(payment))
    return payment


async def wish(database: Database, payment: Pending, amount: int | None = None, *, now_ms: int = NOW) -> str:
    able = {"sandbox": Acquirer().capabilities}
    return await database.write(
        lambda tx: refunds.request_refund(
            tx, payment.payment_id, amount=amount, reason="Wrong size.", requested_by="per_1", able=able, now_ms=now_ms
        )
    )


async def work(database: Database, acquirer: Acquirer, *, now_ms: int = NOW) -> int:
    """One round of the worker at this time; how many refunds were asked about."""
    due = await database.write(lambda tx: refunds.claim_due(tx, now_ms=now_ms, limit=16))
    for one in due:
        asked = await refunds.ask_provider(acquirer, one)
        await database.write(lambda tx, asked=asked: refunds.record_answer(tx, asked, now_ms=now_ms))
    return len(due)


async def refund(database: Database, refund_id: str) -> dict[str, Any]:
    return await row(database, "SELECT * FROM refund WHERE id = $1", refund_id)


async def test_a_whole_payment_goes_back_and_its_fee_is_kept(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    refund_id = await wish(database, payment)

    assert await work(database, acquirer) == 1

    stored, done = await payment_row(database, payment.payment_id), await refund(database, refund_id)
    assert (stored["state"], stored["refunded_amount"], stored["paid_at_ms"]) == ("refunded", 50_000, NOW)
    assert (done["state"], done["fee_returned"], done["finished_at_ms"]) == ("done", 0, NOW)
    assert await database.read(lambda tx: balance(tx, f"merchant_payable:{shop.merchant_id}")) == -350
    assert len(await told(database, payment.payment_id)) == 1
    await check_books(database)


async def test_parts_add_up_and_never_exceed_what_was_paid(database: Database, shop: Shop, acquirer: Acquirer) -> None:
    payment = await paid(shop)
    await wish(database, payment, 20_000)
    await work(database, acquirer)
    assert (await payment_row(database, payment.payment_id))["state"] == "partially_refunded"
    await wish(database, payment, 25_000)

    with pytest.raises(InvalidAmount) as refused:
        await wish(database, payment, 5_001)
    await wish(database, payment)
    with pytest.raises(Conflict):
        await wish(database, payment)

    assert refused.value.facts == {"amount": 5_001, "left": 5_000}
    await work(database, acquirer)
    assert [one.amount_idr for one in acquirer.sent] == [20_000, 25_000, 5_000]
    assert (await payment_row(database, payment.payment_id))["state"] == "refunded"
    await check_books(database)


async def test_two_who_ask_at_once_do_not_give_back_twice(database: Database, shop: Shop) -> None:
    payment = await paid(shop)

    answers = await asyncio.gather(*(wish(database, payment, 30_000) for _ in range(4)), return_exceptions=True)

    assert sum(isinstance(answer, str) for answer in answers) == 1
    assert {type(answer) for answer in answers} == {str, InvalidAmount}
    await check_books(database)


async def test_the_fee_comes_back_in_parts_where_the_profile_says_so(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    await execute(database, "UPDATE fee_profile SET refund_returns_fee = TRUE WHERE id = $1", shop.fee_profile_id)
    payment = await paid(shop, 50_001)
    for part in (16_667, 16_667, 16_667):
        await wish(database, payment, part)
        await work(database, acquirer)

    back = await rows(database, "SELECT fee_returned FROM refund ORDER BY id")
    assert sum(one["fee_returned"] for one in back) == 350
    assert await database.read(lambda tx: balance(tx, f"merchant_payable:{shop.merchant_id}")) == 0
    await check_books(database)


@pytest.mark.parametrize("state", ["created", "awaiting_payment", "expired", "cancelled", "failed", "needs_review"])
async def test_only_what_is_paid_goes_back(database: Database, shop: Shop, state: str) -> None:
    payment = await shop.payment(await shop.box())
    await execute(database, "UPDATE payment SET state = $2 WHERE id = $1", payment.payment_id, state)

    with pytest.raises(IllegalTransition):
        await wish(database, payment)

    assert await rows(database, "SELECT id FROM refund") == []


async def test_a_lost_answer_is_queried_and_not_sent_again(database: Database, shop: Shop, acquirer: Acquirer) -> None:
    payment = await paid(shop)
    refund_id = await wish(database, payment)
    acquirer.faults.extend(["lost", "silent"])

    await work(database, acquirer)
    assert (await refund(database, refund_id))["state"] == "unknown"
    assert await work(database, acquirer, now_ms=NOW + 1_999) == 0  # not before its time
    await work(database, acquirer, now_ms=NOW + 2_000)
    assert (await refund(database, refund_id))["state"] == "unknown"
    await work(database, acquirer, now_ms=NOW + 60_000)

    assert (await refund(database, refund_id))["state"] == "done"
    assert len(acquirer.sent) == 1
    await check_books(database)


async def test_what_never_arrived_is_sent_again_under_the_same_reference(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    refund_id = await wish(database, payment)
    acquirer.faults.extend(["silent"])

    await work(database, acquirer)
    await work(database, acquirer, now_ms=NOW + 10_000)

    done = await refund(database, refund_id)
    assert (done["state"], references(acquirer.sent)) == ("done", [done["reference"]])


async def test_a_crash_between_asking_and_storing_is_resumed_by_query(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    refund_id = await wish(database, payment)
    (due,) = await database.write(lambda tx: refunds.claim_due(tx, now_ms=NOW, limit=16))
    await refunds.ask_provider(acquirer, due)  # and then the process is killed

    assert await work(database, acquirer, now_ms=NOW + LEASE_MS - 1) == 0
    assert await work(database, acquirer, now_ms=NOW + LEASE_MS) == 1

    assert (await refund(database, refund_id))["state"] == "done"
    assert len(acquirer.sent) == 1
    await check_books(database)


async def test_a_provider_that_cannot_be_reached_is_asked_later(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    refund_id = await wish(database, payment)
    acquirer.faults.extend(["unreachable", "unreachable"])

    await work(database, acquirer)
    await work(database, acquirer, now_ms=NOW + 10_000)
    assert (await refund(database, refund_id))["state"] == "submitted"
    await work(database, acquirer, now_ms=NOW + 60_000)

    assert (await refund(database, refund_id))["state"] == "done"
    assert len(acquirer.sent) == 1


async def test_a_refusal_ends_it_and_frees_the_amount(database: Database, shop: Shop, acquirer: Acquirer) -> None:
    payment = await paid(shop)
    refund_id = await wish(database, payment)
    acquirer.faults.append("refuse")

    await work(database, acquirer)

    failed = await refund(database, refund_id)
    assert (failed["state"], failed["error_code"], failed["ask_at_ms"]) == ("failed", "GATEWAY_ERROR", None)
    alerts = await rows(database, "SELECT kind, subject_id FROM alert")
    assert alerts == [{"kind": "refund.failed", "subject_id": payment.payment_id}]
    assert (await payment_row(database, payment.payment_id))["state"] == "paid"
    await wish(database, payment)
    await check_books(database)


async def test_a_slow_refund_is_done_once_its_callback_comes(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    refund_id = await wish(database, payment)
    acquirer.faults.append("slow")
    await work(database, acquirer)
    pending = await refund(database, refund_id)
    said = adjustment(payment, "refunded", refund_reference=pending["reference"])

    outcomes = await adjust(
        database, said, said, adjustment(payment, "refunded", refund_reference=pending["reference"])
    )

    assert [taken.outcome for taken in outcomes] == ["applied", "applied", "duplicate"]
    assert pending["state"] == "submitted"
    assert (await refund(database, refund_id))["state"] == "done"
    assert await work(database, acquirer, now_ms=NOW + 60_000) == 0
    await check_books(database)


async def test_whoever_is_stuck_is_asked_about_for_ever_and_an_operator_hears_of_it_once(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    await wish(database, payment)
    acquirer.faults.extend(["silent"] * 10)

    for n in range(10):
        assert await work(database, acquirer, now_ms=NOW + n * ASK_AFTER_S[-1] * 1_000) == 1

    (alert,) = await rows(database, "SELECT kind, times FROM alert")
    assert (alert["kind"], alert["times"]) == ("refund.stuck", 1)


async def test_cash_goes_back_at_once_and_from_the_drawer(database: Database, shop: Shop) -> None:
    payment = await paid_in_cash(database, shop, 50_000)

    refund_id = await wish(database, payment, 20_000)

    done = await refund(database, refund_id)
    assert (done["state"], done["provider"]) == ("done", None)
    assert await database.read(lambda tx: balance(tx, f"cash_sales:{shop.merchant_id}")) == 30_000
    assert await database.read(lambda tx: balance(tx, f"merchant_payable:{shop.merchant_id}")) == 0
    assert (await payment_row(database, payment.payment_id))["state"] == "partially_refunded"


async def paid_in_cash(database: Database, shop: Shop, amount: int) -> Pending:
    """A payment as a till that takes cash would book it."""
    payment = await shop.payment(await shop.box(), amount)
    await execute(database, "DELETE FROM charge_watch")
    await execute(database, "DELETE FROM payment_attempt WHERE payment_id = $1", payment.payment_id)
    await execute(
        database,
        "UPDATE payment SET state = 'paid', method = 'cash', paid_at_ms = $2, captured_at_ms = $2, paid_amount = $3, "
        "fee_amount = 0, fee_bps = 0 WHERE id = $1",
        payment.payment_id, NOW, amount,
    )  # fmt: skip
    posting = ledger.Posting(f"cash_drawer:{shop.merchant_id}", f"cash_sales:{shop.merchant_id}", amount)
    journal = ledger.Journal(kind="capture", payment_id=payment.payment_id, postings=(posting,))
    await database.write(lambda tx: ledger.post(tx, [journal], now_ms=NOW))
    return payment


async def test_money_that_comes_late_goes_back_unsaid_where_the_merchant_wants_it_so(
    database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    await execute(database, "UPDATE merchant SET late_policy = 'refund' WHERE id = $1", shop.merchant_id)
    payment = await shop.payment(await shop.box())
    in_time = await paid(shop)
    await execute(database, "UPDATE payment SET state = 'expired' WHERE id = $1", payment.payment_id)

    (taken,) = await take(database, report(payment))
    await work(database, acquirer)

    stored = await payment_row(database, payment.payment_id)
    assert (taken.outcome, stored["late"], stored["state"]) == ("applied", True, "refunded")
    assert [one.amount_idr for one in acquirer.sent] == [payment.amount]
    assert await told(database, payment.payment_id) == []
    assert len(await told(database, in_time.payment_id)) == 2  # both boxes at that till
    await check_books(database)


@pytest.fixture
async def finance(database_url: str, tmp_path: Path, acquirer: Acquirer) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        hub.app.state.payment_gateways = lambda: {"sandbox": acquirer}
        yield Staff(hub, "per_finance", "finance")


async def test_finance_asks_for_a_refund_once_and_sees_it_through(
    finance: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    path, body = f"/admin/transactions/{payment.payment_id}/refund", {"amount": 20_000, "reason": "Wrong size."}

    asked = await finance.post(path, body, status=202, key="k1")
    again = await finance.post(path, body, status=202, key="k1")
    await work(database, acquirer, now_ms=now_ms())
    shown = await finance.get(f"/admin/transactions/{payment.payment_id}")
    (listed,) = await finance.get("/admin/refunds", transaction_id=payment.payment_id, status="done")

    assert again == asked
    assert (asked["status"], asked["amount"], asked["requested_by"]) == ("requested", 20_000, "per_finance")
    assert (shown["status"], shown["refunded_amount"], shown["refunds"]) == ("partially_refunded", 20_000, [listed])
    assert [step["event"] for step in shown["timeline"]][-2:] == ["refund.requested", "refund.done"]
    assert await finance.get(f"/admin/refunds/{asked['id']}") == listed
    assert [one["subject_id"] for one in await audited(database, "transaction.refund_requested")] == [
        payment.payment_id
    ]


async def test_what_cannot_go_back_is_refused_with_its_reason(
    finance: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await paid(shop)
    path, body = f"/admin/transactions/{payment.payment_id}/refund", {"reason": "Wrong size."}

    more = await finance.refused("POST", path, body | {"amount": 50_001}, status=400)
    nobodys = await finance.refused("POST", "/admin/transactions/txn_none/refund", body, status=404)
    unknown = await finance.refused("POST", path, body | {"amonut": 1}, status=400)
    acquirer.can_refund = False
    cannot = await finance.refused("POST", path, body, status=409)
    operator = await finance.another("per_operator", "operator").refused("POST", path, body, status=403)

    assert [one["code"] for one in (more, nobodys, unknown, cannot, operator)] == [
        "INVALID_AMOUNT", "TRANSACTION_NOT_FOUND", "VALIDATION_FAILED", "CONFLICT", "FORBIDDEN",
    ]  # fmt: skip
    assert await rows(database, "SELECT id FROM refund") == []
