"""What operators decide: about money that was kept apart, about disputes, and whose an orphan is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.acquirer import Acquirer, adjustment, money_for
from support.books import check_books
from support.hub import open_hub
from support.shop import NOW, TELLING, Shop, adjust, execute, payment_row, report, row, rows, take, told
from support.staff import Staff, audited

from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.ledger.service import balance
from soundbox_server.payments import orphans, refunds
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.state import Outcome


@pytest.fixture
def acquirer() -> Acquirer:
    return Acquirer()


@pytest.fixture
async def finance(database_url: str, tmp_path: Path, acquirer: Acquirer) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        hub.app.state.payment_gateways = lambda: {"sandbox": acquirer}
        yield Staff(hub, "per_finance", "finance")


async def in_review(shop: Shop, amount: int = 90_000, **said: Any) -> Pending:
    payment = await shop.payment(await shop.box(), 50_000)
    at_ms = now_ms()
    (taken,) = await take(shop.database, report(payment, amount=amount, paid_at_ms=at_ms, **said), now_ms=at_ms)
    assert taken.outcome is Outcome.NEEDS_REVIEW
    return payment


async def resolve(finance: Staff, payment: Pending, action: str, *, status: int = 200) -> Any:
    body = {"action": action, "reason": "Looked at the till roll."}
    path = f"/admin/transactions/{payment.payment_id}/resolve"
    if status != 200:
        return await finance.refused("POST", path, body, status=status)
    return await finance.post(path, body)


async def work(database: Database, acquirer: Acquirer) -> None:
    for due in await database.write(lambda tx: refunds.claim_due(tx, now_ms=now_ms(), limit=16)):
        asked = await refunds.ask_provider(acquirer, due)
        await database.write(lambda tx, asked=asked: refunds.record_answer(tx, asked, now_ms=now_ms()))


async def test_what_is_accepted_is_booked_as_it_came_and_announced(
    finance: Staff, database: Database, shop: Shop
) -> None:
    payment = await in_review(shop, rrn="111111111111")
    (queued,) = await finance.get("/admin/transactions", in_review=True, status="needs_review")

    shown = await resolve(finance, payment, "accept")

    assert queued["id"] == payment.payment_id
    assert (shown["status"], shown["amount"], shown["paid_amount"]) == ("paid", 50_000, 90_000)
    assert (shown["resolution"], shown["review_reason"], shown["fee_amount"]) == ("accepted", None, 630)
    (said,) = await told(database, payment.payment_id)
    assert b'"amount":90000' in bytes(said["body"])
    assert await finance.get("/admin/transactions", in_review=True) == []
    assert (await check_books(database)).suspense == 0
    (again,) = await take(database, report(payment, amount=90_000, rrn="111111111111"))
    assert again.outcome is Outcome.DUPLICATE
    (entry,) = await audited(database, "transaction.accepted")
    assert (entry["actor_id"], entry["subject_id"]) == ("per_finance", payment.payment_id)


async def test_what_is_accepted_days_later_is_not_spoken(finance: Staff, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, amount=90_000))  # months ago, as this machine's clock has it

    await resolve(finance, payment, "accept")

    (said,) = await told(database, payment.payment_id)
    assert (said["state"], said["reason"]) == ("expired", "reported_late")


async def test_what_is_refused_goes_back_from_where_it_was_kept(
    finance: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await in_review(shop)

    waiting = await resolve(finance, payment, "refund")
    twice = await resolve(finance, payment, "accept", status=409)
    await work(database, acquirer)

    stored = await payment_row(database, payment.payment_id)
    assert (waiting["status"], twice["code"]) == ("needs_review", "CONFLICT")
    assert (stored["state"], stored["resolution"], stored["paid_at_ms"]) == ("refunded", "refunded", None)
    assert [one.amount_idr for one in acquirer.sent] == [90_000]
    assert await told(database, payment.payment_id) == []
    assert (await check_books(database)).suspense == 0


async def test_a_refund_that_the_provider_refuses_leaves_the_decision_open(
    finance: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await in_review(shop)
    acquirer.faults.append("refuse")
    await resolve(finance, payment, "refund")

    await work(database, acquirer)

    assert (await payment_row(database, payment.payment_id))["review_reason"] == "amount_mismatch"
    await resolve(finance, payment, "reject")
    assert (await check_books(database)).suspense == 0


async def test_what_is_rejected_leaves_the_books_and_does_not_come_back_by_itself(
    finance: Staff, database: Database, shop: Shop
) -> None:
    payment = await in_review(shop)

    shown = await resolve(finance, payment, "reject")
    (afterwards,) = await take(database, report(payment))
    again = await resolve(finance, payment, "reject")

    assert (shown["status"], shown["resolution"]) == ("failed", "rejected")
    assert afterwards.outcome is Outcome.NEEDS_REVIEW
    assert again["status"] == "failed"
    assert await told(database, payment.payment_id) == []
    assert (await check_books(database)).suspense == 0


async def test_a_second_payment_for_one_qr_goes_back_and_the_first_stays(
    finance: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, rrn="111111111111"))
    await take(database, report(payment, rrn="222222222222"))

    refused = await resolve(finance, payment, "accept", status=409)
    await resolve(finance, payment, "refund")
    await work(database, acquirer)

    stored = await payment_row(database, payment.payment_id)
    assert refused["code"] == "CONFLICT"
    assert (stored["state"], stored["review_reason"], stored["refunded_amount"]) == ("paid", None, 0)
    assert [one.amount_idr for one in acquirer.sent] == [50_000]
    assert (await check_books(database)).suspense == 0


async def test_an_unapproved_merchant_gets_nothing_until_it_is_approved(
    finance: Staff, database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box())
    await shop.set_status("suspended")
    await take(database, report(payment))

    refused = await resolve(finance, payment, "accept", status=409)
    await shop.set_status("approved")
    shown = await resolve(finance, payment, "accept")

    assert (refused["code"], shown["status"]) == ("CONFLICT", "paid")
    await check_books(database)


async def test_two_who_decide_at_once_decide_once(finance: Staff, database: Database, shop: Shop) -> None:
    payment = await in_review(shop)
    path = f"/admin/transactions/{payment.payment_id}/resolve"

    answers = await asyncio.gather(
        *(
            finance.call("POST", path, json={"action": action, "reason": "r"})
            for action in ("accept", "reject", "accept", "refund")
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    await check_books(database)


async def test_there_must_be_something_to_decide(finance: Staff, database: Database, shop: Shop) -> None:
    unpaid = await shop.payment(await shop.box())

    refused = await resolve(finance, unpaid, "accept", status=409)
    support = finance.another("per_support", "support")
    forbidden = await resolve(support, unpaid, "accept", status=403)

    assert (refused["code"], forbidden["code"]) == ("CONFLICT", "FORBIDDEN")


@pytest.mark.parametrize(("action", "state"), [("accept", "paid"), ("reject", "reversed")])
async def test_a_dispute_is_won_or_lost(
    finance: Staff, database: Database, shop: Shop, action: str, state: str
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    await adjust(database, adjustment(payment, "disputed"))

    shown = await resolve(finance, payment, action)

    assert shown["status"] == state
    assert len(await told(database, payment.payment_id)) == 1
    await check_books(database)


async def matched(database: Database, *, at_ms: int = NOW) -> list[Outcome]:
    found = await database.read(lambda tx: orphans.matches(tx, limit=16))
    return await database.write(
        lambda tx: orphans.match(tx, found, telling=TELLING, late_report_ms=600_000, now_ms=at_ms)
    )


async def test_an_orphan_is_matched_once_its_payment_appears(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    ours = payment.reference
    await execute(database, "UPDATE payment_attempt SET reference = 'not yet' WHERE id = $1", payment.attempt_id)
    (orphan,) = await take(database, money_for(ours, 50_000, rrn="333333333333"))
    assert (await check_books(database)).suspense == 50_000
    assert await matched(database) == []
    await execute(database, "UPDATE payment_attempt SET reference = $2 WHERE id = $1", payment.attempt_id, ours)

    outcomes = await matched(database)

    assert (orphan.outcome, outcomes) == (Outcome.ORPHAN, [Outcome.APPLIED])
    stored = await payment_row(database, payment.payment_id)
    assert (stored["state"], stored["rrn"]) == ("paid", "333333333333")
    assert [one["state"] for one in await told(database, payment.payment_id)] == ["published"]
    assert (await check_books(database)).suspense == 0
    assert await matched(database) == []
    (again,) = await take(database, report(payment, rrn="333333333333"))
    assert again.outcome is Outcome.DUPLICATE


async def test_an_orphan_over_another_amount_stays_apart_and_waits_for_a_person(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    ours = payment.reference
    await execute(database, "UPDATE payment_attempt SET reference = 'not yet' WHERE id = $1", payment.attempt_id)
    await take(database, money_for(ours, 40_000))
    await execute(database, "UPDATE payment_attempt SET reference = $2 WHERE id = $1", payment.attempt_id, ours)

    assert await matched(database) == [Outcome.NEEDS_REVIEW]

    assert (await payment_row(database, payment.payment_id))["state"] == "needs_review"
    assert await told(database, payment.payment_id) == []
    assert (await check_books(database)).suspense == 40_000


async def test_an_operator_says_whose_an_orphan_is(finance: Staff, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    at_ms = now_ms()
    await take(database, money_for("a-typing-error", 50_000), now_ms=at_ms)
    (orphan,) = await finance.get("/admin/provider-reports", outcome="orphan")
    path, body = f"/admin/provider-reports/{orphan['id']}/assign", {"transaction_id": payment.payment_id, "reason": "r"}

    shown = await finance.post(path, body, key="a1")
    again = await finance.post(path, body, key="a1")
    refused = await finance.refused("POST", path, body, status=409)
    nobodys = await finance.refused("POST", path, body | {"transaction_id": "txn_none"}, status=404)

    assert (shown["outcome"], shown["transaction_id"]) == ("applied", payment.payment_id)
    assert again == shown
    assert (refused["code"], nobodys["code"]) == ("CONFLICT", "NOT_FOUND")
    assert (await payment_row(database, payment.payment_id))["state"] == "paid"
    assert (await check_books(database)).suspense == 0


async def test_whoever_decides_sees_what_came_beside_what_was_asked_for(
    finance: Staff, database: Database, shop: Shop
) -> None:
    payment = await in_review(shop, 90_000, issuer="Bank Contoh", rrn="111111111111")
    await take(database, money_for("ref-of-nobody", 70_000))

    shown = await finance.get(f"/admin/transactions/{payment.payment_id}")
    (orphan,) = await finance.get("/admin/provider-reports", outcome="orphan")

    (said,) = [one["said"] for one in shown["reports"]]
    assert (shown["amount"], said["amount"], said["currency"], said["status"]) == (50_000, 90_000, "IDR", "paid")
    assert (said["issuer"], said["rrn"]) == ("Bank Contoh", "111111111111")
    assert (orphan["said"]["amount"], orphan["said"]["status"]) == (70_000, "paid")


async def test_an_orphan_that_belongs_to_nobody_is_let_go(finance: Staff, database: Database, shop: Shop) -> None:
    await take(database, money_for("ref-of-nobody", 70_000))
    (orphan,) = await finance.get("/admin/provider-reports", outcome="orphan")
    path = f"/admin/provider-reports/{orphan['id']}/reject"

    shown = await finance.post(path, {"reason": "It was a test of theirs."})
    await finance.refused("POST", path, {"reason": "Twice."}, status=409)

    assert (shown["outcome"], shown["reason"]) == ("ignored", "rejected")
    assert await database.read(lambda tx: balance(tx, "suspense:sandbox")) == 0
    assert [one["outcome"] for one in await audited(database, "provider_report.rejected")] == ["success"]


async def test_news_that_came_before_its_payment_was_known_is_taken_then(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment))
    ours = payment.reference
    await execute(database, "UPDATE payment_attempt SET reference = 'not yet' WHERE id = $1", payment.attempt_id)
    await adjust(database, adjustment(payment, "reversed"))
    await execute(database, "UPDATE payment_attempt SET reference = $2 WHERE id = $1", payment.attempt_id, ours)

    assert await matched(database) == [Outcome.APPLIED]

    assert (await row(database, "SELECT state FROM payment"))["state"] == "reversed"
    assert await rows(database, "SELECT id FROM provider_event WHERE outcome = 'orphan'") == []
    await check_books(database)
