"""What becomes of money after it was booked, as providers tell it: in every order, and told twice."""

import asyncio
import dataclasses

import pytest
from support.acquirer import Acquirer, adjustment
from support.books import check_books
from support.shop import NOW, Shop, adjust, execute, payment_row, report, row, rows, take, told

from soundbox_server.db import Database
from soundbox_server.ledger.service import balance
from soundbox_server.payments import refunds
from soundbox_server.payments.asking import ANYWAY
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.state import Outcome


async def paid(shop: Shop, amount: int = 50_000) -> Pending:
    payment = await shop.payment(await shop.box(), amount)
    await take(shop.database, report(payment))
    return payment


async def given_back(database: Database, payment: Pending, amount: int) -> None:
    able = {"sandbox": Acquirer().capabilities}
    refund_id = await database.write(
        lambda tx: refunds.request_refund(
            tx, payment.payment_id, amount=amount, reason="r", requested_by=None, able=able, now_ms=NOW
        )
    )
    reference = (await row(database, "SELECT reference FROM refund WHERE id = $1", refund_id))["reference"]
    (taken,) = await adjust(database, adjustment(payment, "refunded", amount=amount, refund_reference=reference))
    assert taken.outcome is Outcome.APPLIED


async def state(database: Database, payment: Pending) -> str:
    return str((await payment_row(database, payment.payment_id))["state"])


@pytest.mark.parametrize("kind", ["reversed", "denied"])
async def test_a_reversal_is_the_inverse_of_the_capture_and_is_told_to_an_operator(
    database: Database, shop: Shop, kind: str
) -> None:
    payment = await paid(shop)
    said = adjustment(payment, kind)

    taken = await adjust(database, said, said, adjustment(payment, kind))

    stored = await payment_row(database, payment.payment_id)
    assert [one.outcome for one in taken] == [Outcome.APPLIED, Outcome.APPLIED, Outcome.IGNORED]
    assert (stored["state"], stored["paid_at_ms"], stored["reversed_at_ms"]) == ("reversed", NOW, NOW)
    for account in (f"merchant_payable:{shop.merchant_id}", "provider_receivable:sandbox", "fees:sandbox"):
        assert await database.read(lambda tx, account=account: balance(tx, account)) == 0
    (alert,) = await rows(database, "SELECT kind, severity, subject_id FROM alert")
    assert alert == {"kind": "payment.reversed", "severity": "critical", "subject_id": payment.payment_id}
    assert len(await told(database, payment.payment_id)) == 1  # it was true when it was said
    await check_books(database)


async def test_a_reversal_takes_only_what_refunds_left(database: Database, shop: Shop) -> None:
    payment = await paid(shop)
    await given_back(database, payment, 20_000)

    await adjust(database, adjustment(payment, "reversed"))

    back = await rows(
        database, "SELECT p.amount FROM posting p JOIN journal j ON j.id = p.journal_id WHERE j.kind = 'reversal'"
    )
    assert sorted(one["amount"] for one in back) == [350, 30_000]
    assert await state(database, payment) == "reversed"
    await check_books(database)


async def test_fifty_reversals_at_once_are_one(database: Database, shop: Shop) -> None:
    payment = await paid(shop)

    taken = await asyncio.gather(*(adjust(database, adjustment(payment, "reversed")) for _ in range(20)))

    outcomes = [one.outcome for (one,) in taken]
    assert outcomes.count(Outcome.APPLIED) == 1
    assert len(await rows(database, "SELECT id FROM journal WHERE kind = 'reversal'")) == 1
    await check_books(database)


async def test_a_denial_before_the_money_ends_the_payment(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    (taken,) = await adjust(database, adjustment(payment, "denied"))

    assert (taken.outcome, await state(database, payment)) == (Outcome.APPLIED, "failed")
    await take(database, report(payment))
    assert (await payment_row(database, payment.payment_id))["late"]
    await check_books(database)


@pytest.mark.parametrize("kind", ["reversed", "refunded", "disputed"])
async def test_what_undoes_a_payment_before_it_came_makes_nobody_say_it(
    database: Database, shop: Shop, kind: str
) -> None:
    payment = await shop.payment(await shop.box())

    (first,) = await adjust(database, adjustment(payment, kind))
    (second,) = await take(database, report(payment))

    assert (first.outcome, second.outcome) == (Outcome.NEEDS_REVIEW, Outcome.NEEDS_REVIEW)
    stored = await payment_row(database, payment.payment_id)
    assert (stored["state"], stored["review_reason"]) == ("needs_review", f"{kind}_before_paid")
    assert await told(database, payment.payment_id) == []
    await check_books(database)


async def test_what_is_kept_apart_can_be_taken_back(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, amount=90_000))

    (taken,) = await adjust(database, adjustment(payment, "reversed", amount=90_000))

    stored = await payment_row(database, payment.payment_id)
    assert (taken.outcome, stored["state"], stored["review_reason"]) == (Outcome.APPLIED, "failed", None)
    assert (await check_books(database)).suspense == 0
    (again,) = await take(database, report(payment))
    assert again.outcome is Outcome.NEEDS_REVIEW  # what comes now is for a person to judge
    await check_books(database)


async def test_a_refund_at_the_providers_own_desk_is_booked(database: Database, shop: Shop) -> None:
    payment = await paid(shop)
    said = adjustment(payment, "refunded", amount=20_000, refund_reference="theirs-1")

    taken = await adjust(
        database, said, adjustment(payment, "refunded", amount=20_000, refund_reference="theirs-1"),
        adjustment(payment, "refunded", amount=30_000, refund_reference="theirs-2"),
        adjustment(payment, "refunded", amount=1, refund_reference="theirs-3"),
    )  # fmt: skip

    assert [one.outcome for one in taken] == ["applied", "duplicate", "applied", "needs_review"]
    assert await state(database, payment) == "refunded"
    assert {one["origin"] for one in await rows(database, "SELECT origin FROM refund")} == {"provider"}
    await check_books(database)


async def test_a_total_says_what_is_more_than_we_know(database: Database, shop: Shop) -> None:
    payment = await paid(shop)
    await given_back(database, payment, 10_000)
    said = dataclasses.replace(adjustment(payment, "refunded"), amount_idr=None, total_idr=25_000)

    (taken,) = await adjust(database, said)

    assert taken.outcome is Outcome.APPLIED
    assert (await payment_row(database, payment.payment_id))["refunded_amount"] == 25_000
    await check_books(database)


async def test_more_back_than_came_is_not_booked(database: Database, shop: Shop) -> None:
    payment = await paid(shop)

    (taken,) = await adjust(database, adjustment(payment, "refunded", amount=50_001))

    assert (taken.outcome, await state(database, payment)) == (Outcome.NEEDS_REVIEW, "paid")
    assert [one["kind"] for one in await rows(database, "SELECT kind FROM alert")] == ["refund.more_than_paid"]
    await check_books(database)


async def test_news_that_nobody_signed_moves_nothing_until_the_provider_was_asked(
    database: Database, shop: Shop
) -> None:
    payment = await paid(shop)
    said = dataclasses.replace(adjustment(payment, "refunded"), confirmed=False)

    (taken,) = await adjust(database, said, now_ms=NOW + 5)

    assert (taken.outcome, await state(database, payment)) == (Outcome.IGNORED, "paid")
    watched = await row(database, "SELECT asks, ask_at_ms FROM charge_watch WHERE attempt_id = $1", payment.attempt_id)
    assert watched == {"asks": ANYWAY, "ask_at_ms": NOW + 5}
    await check_books(database)


async def test_a_dispute_stands_until_it_is_decided(database: Database, shop: Shop) -> None:
    payment = await paid(shop)

    taken = await adjust(database, adjustment(payment, "disputed"), adjustment(payment, "disputed"))
    (lost,) = await adjust(database, adjustment(payment, "reversed"))

    assert [one.outcome for one in (*taken, lost)] == [Outcome.APPLIED, Outcome.DUPLICATE, Outcome.APPLIED]
    assert await state(database, payment) == "reversed"
    assert {one["kind"] for one in await rows(database, "SELECT kind FROM alert")} == {
        "payment.disputed", "payment.reversed",
    }  # fmt: skip
    await check_books(database)


async def test_a_refund_that_failed_frees_its_amount_and_may_be_done_all_the_same(
    database: Database, shop: Shop
) -> None:
    payment = await paid(shop)
    able = {"sandbox": Acquirer().capabilities}
    refund_id = await database.write(
        lambda tx: refunds.request_refund(
            tx, payment.payment_id, amount=None, reason="r", requested_by=None, able=able, now_ms=NOW
        )
    )
    reference = (await row(database, "SELECT reference FROM refund WHERE id = $1", refund_id))["reference"]

    taken = await adjust(
        database, adjustment(payment, "refund_pending", refund_reference=reference),
        adjustment(payment, "refund_failed", refund_reference=reference),
        adjustment(payment, "refund_failed", refund_reference=reference),
        adjustment(payment, "refunded", refund_reference=reference),
    )  # fmt: skip

    assert [one.outcome for one in taken] == ["ignored", "applied", "ignored", "applied"]
    assert await state(database, payment) == "refunded"
    await check_books(database)


async def test_news_of_an_unknown_payment_waits_for_it(database: Database, shop: Shop) -> None:
    payment = await paid(shop)
    said = dataclasses.replace(adjustment(payment, "reversed"), partner_reference="ref_of_nobody")

    taken = await adjust(database, said, said)

    assert [(one.outcome, one.payment_id) for one in taken] == [(Outcome.ORPHAN, None)] * 2
    assert await state(database, payment) == "paid"


async def test_a_payment_is_found_by_its_providers_own_name_for_it(database: Database, shop: Shop) -> None:
    payment = await paid(shop)
    named = (await row(database, "SELECT provider_reference FROM payment_attempt"))["provider_reference"]
    said = dataclasses.replace(adjustment(payment, "reversed"), partner_reference=None, provider_transaction_id=named)

    (taken,) = await adjust(database, said)

    assert (taken.outcome, taken.payment_id) == (Outcome.APPLIED, payment.payment_id)


async def test_wishes_that_were_not_sent_end_with_a_reversal(database: Database, shop: Shop) -> None:
    payment = await paid(shop)
    able = {"sandbox": Acquirer().capabilities}
    await database.write(
        lambda tx: refunds.request_refund(
            tx, payment.payment_id, amount=None, reason="r", requested_by=None, able=able, now_ms=NOW
        )
    )

    await adjust(database, adjustment(payment, "reversed"))

    (wish,) = await rows(database, "SELECT state, error_code FROM refund")
    assert wish == {"state": "failed", "error_code": "PAYMENT_REVERSED"}
    assert await database.write(lambda tx: refunds.claim_due(tx, now_ms=NOW, limit=9)) == []
    await check_books(database)


async def test_the_database_itself_refuses_a_paid_payment_without_its_time(database: Database, shop: Shop) -> None:
    payment = await paid(shop)
    for change in (
        "paid_at_ms = NULL, paid_amount = NULL", "state = 'expired'", "refunded_amount = 50001",
        "state = 'reversed'", "paid_amount = NULL",
    ):  # fmt: skip
        with pytest.raises(Exception, match=r"(?i)check"):
            await execute(database, f"UPDATE payment SET {change} WHERE id = $1", payment.payment_id)
