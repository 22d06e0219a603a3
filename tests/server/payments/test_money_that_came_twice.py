"""Money of a charge that is not its payment's, or that was told of twice: what was captured stays what it is."""

import asyncio
from typing import Any

import pytest
from support.acquirer import Acquirer, adjustment
from support.books import check_books
from support.shop import LATE_REPORT_MS, NOW, TELLING, Shop, adjust, execute, payment_row, report, row, rows, take, told
from support.stack import until

from soundbox_server.db import Database, Statements
from soundbox_server.ledger.service import balance
from soundbox_server.payments import charging, orphans, refunds, review, service
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.service import Taken
from soundbox_server.payments.state import Outcome
from soundbox_server.reconciliation import books

ABLE = {name: Acquirer(name=name).capabilities for name in ("sandbox", "acme")}


async def charged_anew(database: Database, payment: Pending, provider: str = "acme") -> Pending:
    """The same payment at another provider: the first one was given up."""

    async def charge(tx: Any) -> Pending:
        await tx.execute("UPDATE payment_attempt SET state = 'failed' WHERE id = $1", payment.attempt_id)
        attempt_id = await charging.insert_attempt(
            tx, payment.payment_id, provider=provider, number=2, leased=False, now_ms=NOW
        )
        await tx.execute("UPDATE payment_attempt SET state = 'active' WHERE id = $1", attempt_id)
        await tx.execute("UPDATE payment SET current_attempt_id = $2 WHERE id = $1", payment.payment_id, attempt_id)
        return await charging.find_charge(tx, payment.payment_id)

    return await database.write(charge)


async def resolve(database: Database, payment: Pending, action: review.Action) -> None:
    await database.write(
        lambda tx: review.resolve(
            tx, payment.payment_id, action=action, reason="Looked at it.", by=None, able=ABLE, telling=TELLING,
            late_report_ms=LATE_REPORT_MS, now_ms=NOW,
        )
    )  # fmt: skip


async def work(database: Database, acquirer: Acquirer) -> None:
    for due in await database.write(lambda tx: refunds.claim_due(tx, now_ms=NOW + 1, limit=16)):
        asked = await refunds.ask_provider(acquirer, due)
        await database.write(lambda tx, asked=asked: refunds.record_answer(tx, asked, now_ms=NOW + 1))


async def held_of(database: Database, account: str) -> int:
    return await database.read(lambda tx: balance(tx, account))


async def checked(database: Database) -> int:
    """What is kept apart, once the books are right by both sums."""
    assert await database.read_at_leisure(books.check) == []
    return (await check_books(database)).suspense


async def paid_at_both(database: Database, shop: Shop) -> tuple[Pending, Pending]:
    """Captured through acme; sandbox brought the same sum once more."""
    first = await shop.payment(await shop.box())
    second = await charged_anew(database, first)
    await take(database, report(second))
    (twice,) = await take(database, report(first))
    assert twice.outcome is Outcome.NEEDS_REVIEW
    assert await checked(database) == 50_000
    return first, second


@pytest.mark.parametrize("kind", ["reversed", "refunded", "denied"])
async def test_what_the_other_provider_takes_back_is_what_it_brought(kind: Any, database: Database, shop: Shop) -> None:
    first, _ = await paid_at_both(database, shop)

    (taken,) = await adjust(database, adjustment(first, kind))

    stored = await payment_row(database, first.payment_id)
    assert taken.outcome is Outcome.APPLIED
    assert (stored["state"], stored["refunded_amount"], stored["review_reason"]) == ("paid", 0, None)
    assert await held_of(database, f"merchant_payable:{shop.merchant_id}") == 49_650
    assert await checked(database) == 0


async def test_the_same_for_one_qr_that_was_paid_twice(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, rrn="111111111111"))
    await take(database, report(payment, rrn="222222222222"))

    (taken,) = await adjust(database, adjustment(payment, "refunded"))

    assert taken.outcome is Outcome.APPLIED
    assert (await payment_row(database, payment.payment_id))["state"] == "paid"
    assert await held_of(database, f"merchant_payable:{shop.merchant_id}") == 49_650
    assert await checked(database) == 0


async def test_a_part_that_the_merchant_gave_back_is_not_taken_from_what_came_twice(
    database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, rrn="111111111111"))
    await take(database, report(payment, rrn="222222222222"))

    await adjust(database, adjustment(payment, "refunded", amount=20_000))

    assert (await payment_row(database, payment.payment_id))["state"] == "partially_refunded"
    assert await checked(database) == 50_000


async def test_what_came_twice_is_not_taken_back_while_it_is_being_refunded(database: Database, shop: Shop) -> None:
    first, _ = await paid_at_both(database, shop)
    await resolve(database, first, "refund")

    (taken,) = await adjust(database, adjustment(first, "reversed"))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    assert (await payment_row(database, first.payment_id))["state"] == "paid"
    assert await checked(database) == 50_000


async def test_news_that_a_person_gave_to_a_payment_is_about_its_charge(database: Database, shop: Shop) -> None:
    first = await shop.payment(await shop.box())
    second = await charged_anew(database, first)
    await take(database, report(second))
    (orphan,) = await adjust(database, adjustment(second, "reversed", partner_reference="unheard-of"))
    assert orphan.outcome is Outcome.ORPHAN
    event_id = (await row(database, "SELECT id FROM provider_event WHERE outcome = 'orphan'"))["id"]

    outcome = await assign(database, event_id, first)

    assert outcome is Outcome.APPLIED
    assert (await payment_row(database, first.payment_id))["state"] == "reversed"
    assert await checked(database) == 0


@pytest.mark.parametrize("kind", ["reversed", "refunded", "disputed"])
async def test_news_of_a_charge_that_brought_nothing_moves_nothing(kind: Any, database: Database, shop: Shop) -> None:
    first = await shop.payment(await shop.box())
    second = await charged_anew(database, first)
    await take(database, report(second))

    (taken,) = await adjust(database, adjustment(first, kind))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    assert (await payment_row(database, first.payment_id))["state"] == "paid"
    assert len(await rows(database, "SELECT id FROM alert WHERE kind = $1", f"payment.{kind}")) == 1
    assert await checked(database) == 0


@pytest.mark.parametrize("late_policy", ["accept", "refund"])
async def test_a_charge_that_was_given_up_does_not_end_its_payment(
    late_policy: str, database: Database, shop: Shop
) -> None:
    await execute(database, "UPDATE merchant SET late_policy = $1", late_policy)
    first = await shop.payment(await shop.box())
    second = await charged_anew(database, first)

    (denied,) = await adjust(database, adjustment(first, "denied"))
    (paid,) = await take(database, report(second))

    stored = await payment_row(database, first.payment_id)
    assert (denied.outcome, paid.outcome) == (Outcome.IGNORED, Outcome.APPLIED)
    assert (stored["state"], bool(stored["late"])) == ("paid", False)
    assert len(await told(database, first.payment_id)) == 1
    assert await checked(database) == 0


@pytest.mark.parametrize("kind", ["reversed", "denied"])
async def test_a_part_is_no_reversal_of_the_whole(kind: Any, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))

    (taken,) = await adjust(database, adjustment(payment, kind, amount=20_000))
    before = await payment_row(database, payment.payment_id)
    (whole,) = await adjust(database, adjustment(payment, kind, amount=50_000))

    assert (taken.outcome, whole.outcome) == (Outcome.NEEDS_REVIEW, Outcome.APPLIED)
    assert before["state"] == "paid"
    assert (await payment_row(database, payment.payment_id))["state"] == "reversed"
    assert await checked(database) == 0


async def test_nor_is_a_part_of_what_is_kept_apart(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, amount=90_000))

    (taken,) = await adjust(database, adjustment(payment, "reversed", amount=20_000))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    assert (await payment_row(database, payment.payment_id))["state"] == "needs_review"
    assert await checked(database) == 90_000


async def named_late(database: Database, payment: Pending, **said: Any) -> str:
    """A transfer that was told of under a name that nobody knew yet; its event."""
    (taken,) = await take(database, report(payment, partner_reference="ptx_unknown", **said))
    assert taken.outcome is Outcome.ORPHAN
    return str((await row(database, "SELECT id FROM provider_event WHERE outcome = 'orphan'"))["id"])


async def assign(database: Database, event_id: str, payment: Pending) -> Outcome:
    return await database.write(
        lambda tx: orphans.assign(
            tx, event_id, payment_id=payment.payment_id, telling=TELLING, late_report_ms=LATE_REPORT_MS, now_ms=NOW
        )
    )


async def test_an_orphan_of_what_is_paid_already_waits_for_a_person(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    event_id = await named_late(database, payment)
    await take(database, report(payment))

    outcome = await assign(database, event_id, payment)
    waits = await payment_row(database, payment.payment_id)
    await resolve(database, payment, "reject")

    assert (outcome, waits["state"], waits["review_reason"]) == (Outcome.NEEDS_REVIEW, "paid", "paid_twice")
    assert await checked(database) == 0


async def test_the_transfer_that_was_captured_told_under_two_names_is_one(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    event_id = await named_late(database, payment, rrn="123456789012")
    await take(database, report(payment, rrn="123456789012"))
    assert await checked(database) == 50_000

    outcome = await assign(database, event_id, payment)

    assert outcome is Outcome.DUPLICATE
    assert (await payment_row(database, payment.payment_id))["review_reason"] is None
    assert await checked(database) == 0


async def test_a_third_name_of_the_transfer_takes_nothing_of_what_came_twice(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    events = []
    for name in ("ptx_one", "ptx_two"):  # the second one brings no money: the first has told of this transfer
        (told_of,) = await take(database, report(payment, partner_reference=name, rrn="111111111111"))
        assert told_of.outcome is Outcome.ORPHAN
        found = await row(database, "SELECT id FROM provider_event WHERE reference = $1", name)
        events.append(found["id"])
    await take(database, report(payment, rrn="111111111111"))
    await take(database, report(payment, rrn="222222222222"))

    outcomes = [await assign(database, event_id, payment) for event_id in events]

    assert outcomes == [Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert (await payment_row(database, payment.payment_id))["review_reason"] == "paid_twice"
    assert await checked(database) == 50_000


async def test_what_was_told_twice_is_accepted_once(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await shop.set_status("suspended")
    await take(database, report(payment, event_id="one"))
    await take(database, report(payment, event_id="two"))
    await shop.set_status("approved")

    await resolve(database, payment, "accept")
    accepted = await payment_row(database, payment.payment_id)
    kept = await checked(database)
    await resolve(database, payment, "reject")

    (announced,) = await told(database, payment.payment_id)
    assert (accepted["paid_amount"], accepted["review_reason"], kept) == (50_000, "paid_twice", 50_000)
    assert b'"amount":50000' in bytes(announced["body"])
    assert (await payment_row(database, payment.payment_id))["state"] == "paid"
    assert await checked(database) == 0


async def test_two_transfers_that_make_up_the_price_are_accepted_together(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, amount=20_000, rrn="111111111111"))
    await take(database, report(payment, amount=30_000, rrn="222222222222"))

    await resolve(database, payment, "accept")

    assert (await payment_row(database, payment.payment_id))["paid_amount"] == 50_000
    assert await checked(database) == 0


async def test_what_is_decided_about_the_rest_leaves_what_was_accepted_in_the_books(
    database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, amount=90_000, rrn="111111111111"))
    await resolve(database, payment, "accept")
    await take(database, report(payment, amount=90_000, rrn="222222222222"))

    await resolve(database, payment, "refund")
    await work(database, Acquirer())

    assert (await payment_row(database, payment.payment_id))["paid_amount"] == 90_000
    assert await checked(database) == 0


async def test_what_came_while_a_refund_was_on_its_way_still_waits(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, amount=90_000, rrn="111111111111"))
    await resolve(database, payment, "refund")
    await take(database, report(payment, amount=90_000, rrn="222222222222"))
    await work(database, Acquirer())
    waits = await payment_row(database, payment.payment_id)

    await resolve(database, payment, "reject")

    assert (waits["state"], waits["review_reason"]) == ("needs_review", "amount_mismatch")
    assert (await payment_row(database, payment.payment_id))["review_reason"] is None
    assert await checked(database) == 0


async def test_what_another_provider_brought_waits_when_one_takes_its_own_back(database: Database, shop: Shop) -> None:
    first = await shop.payment(await shop.box())
    second = await charged_anew(database, first)
    await take(database, report(second, rrn="111111111111"))
    await take(database, report(first, rrn="222222222222"))
    await take(database, report(second, rrn="333333333333"))

    await adjust(database, adjustment(first, "reversed"))

    stored = await payment_row(database, first.payment_id)
    assert (stored["state"], stored["review_reason"]) == ("paid", "paid_twice")
    assert await checked(database) == 50_000


@pytest.mark.parametrize("refund_first", [True, False])
async def test_whose_clock_was_read_first_does_not_change_the_books(
    refund_first: bool, database: Database, shop: Shop
) -> None:
    """Times are read before the payment's lock is waited for: whoever was second may have the smaller one."""
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    words = [("refunded", 20_000), ("reversed", 50_000)]

    for n, (kind, amount) in enumerate(words if refund_first else words[::-1]):
        word = adjustment(payment, kind, amount=30_000 if n and kind == "reversed" else amount)
        await adjust(database, word, now_ms=NOW + 100 - 50 * n)

    assert await database.read_at_leisure(books.check) == []


@pytest.mark.parametrize("then", ["accept", "reject", "refund"])
async def test_a_refund_that_came_about_after_all_takes_nothing_that_is_gone(
    then: Any, database: Database, shop: Shop
) -> None:
    payment, acquirer = await shop.payment(await shop.box()), Acquirer()
    await take(database, report(payment, amount=90_000))
    await resolve(database, payment, "refund")
    acquirer.faults.append("refuse")
    await work(database, acquirer)
    refused = await row(database, "SELECT reference FROM refund WHERE state = 'failed'")
    await resolve(database, payment, then)
    await work(database, acquirer)

    late = adjustment(payment, "refunded", amount=90_000, refund_reference=refused["reference"])
    (taken,) = await adjust(database, late)

    assert taken.outcome is Outcome.NEEDS_REVIEW
    assert len(await rows(database, "SELECT id FROM alert WHERE kind = 'refund.more_than_paid'")) == 1
    assert await checked(database) == 0


async def test_what_goes_back_by_policy_returns_the_fee_where_the_profile_says_so(
    database: Database, shop: Shop
) -> None:
    await execute(database, "UPDATE fee_profile SET refund_returns_fee = true")
    await execute(database, "UPDATE merchant SET late_policy = 'refund'")
    payment = await shop.payment(await shop.box())
    await database.write(lambda tx: service.expire_unpaid(tx, now_ms=payment.expires_at_ms))
    await take(database, report(payment))

    await work(database, Acquirer())

    assert (await row(database, "SELECT fee_returned FROM refund"))["fee_returned"] == 350
    assert await held_of(database, f"merchant_payable:{shop.merchant_id}") == 0
    assert await checked(database) == 0


@pytest.mark.parametrize("won", [True, False])
async def test_what_the_bank_is_judging_is_not_refunded_beside_it(won: bool, database: Database, shop: Shop) -> None:
    payment, acquirer = await shop.payment(await shop.box()), Acquirer()
    await take(database, report(payment))
    await database.write(
        lambda tx: refunds.request_refund(
            tx, payment.payment_id, amount=None, reason="Wrong size.", requested_by=None, able=ABLE, now_ms=NOW
        )
    )
    await adjust(database, adjustment(payment, "disputed"))

    await work(database, acquirer)
    meanwhile = len(acquirer.sent)
    await resolve(database, payment, "accept" if won else "reject")
    await work(database, acquirer)

    assert (meanwhile, len(acquirer.sent)) == (0, 1 if won else 0)
    assert (await payment_row(database, payment.payment_id))["state"] == ("refunded" if won else "reversed")
    assert await checked(database) == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_payments_of_two_providers_are_locked_by_their_ids(database: Database, shop: Shop) -> None:
    """As everybody locks: whoever waits for the first one holds nothing of the second."""
    box = await shop.box()
    first, second = sorted([await shop.payment(box), await shop.payment(box)], key=lambda one: one.payment_id)
    anew = await charged_anew(database, second)  # acme, which comes before sandbox
    taking: list[asyncio.Task[list[Taken]]] = []

    async def waits() -> bool:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await rows(database, waiting))

    async def hold_the_first(tx: Statements) -> None:
        await tx.fetch("SELECT id FROM payment WHERE id = $1 FOR UPDATE", first.payment_id)
        taking.append(asyncio.create_task(take(database, report(anew), report(first))))
        await until(waits, what="the callbacks' wait for the first payment")
        await tx.fetch("SELECT id FROM payment WHERE id = $1 FOR UPDATE NOWAIT", second.payment_id)

    await database.write(hold_the_first)

    assert [one.outcome for one in await taking[0]] == [Outcome.APPLIED, Outcome.APPLIED]
    assert await checked(database) == 0
