"""What a provider's word leads to, in every case that is known to go wrong."""

import asyncio
from functools import partial

import pytest
from msgspec.structs import replace
from support.books import check_books
from support.shop import (
    LATE_REPORT_MS,
    NOW,
    QR_LIFE_MS,
    TELLING,
    Shop,
    execute,
    flat_profile,
    open_shop,
    payment_row,
    report,
    row,
    rows,
    take,
    told,
)

from soundbox_protocol.messages import PaymentSuccess, decode
from soundbox_protocol.signing import verify
from soundbox_protocol.times import from_rfc3339
from soundbox_server import seal
from soundbox_server.db import Database, Statements
from soundbox_server.ledger.service import balance
from soundbox_server.payments.service import CLOCK_AHEAD_MS, Received, expire_unpaid, take_reports
from soundbox_server.payments.state import Outcome


async def test_money_that_arrives_is_booked_and_announced_in_one_transaction(database: Database, shop: Shop) -> None:
    device = await shop.box()
    payment = await shop.payment(device, 50_000)

    (taken,) = await take(database, report(payment, issuer="Bank Contoh", rrn="123456789012"))

    paid = await payment_row(database, payment.payment_id)
    assert (taken.outcome, taken.payment_id) == (Outcome.APPLIED, payment.payment_id)
    assert (paid["state"], paid["late"], paid["rrn"], paid["issuer"]) == ("paid", False, "123456789012", "Bank Contoh")
    assert (paid["paid_at_ms"], paid["captured_at_ms"]) == (NOW, NOW)
    assert (paid["fee_amount"], paid["fee_bps"], paid["fee_version"]) == (350, 70, f"{shop.fee_profile_id}/1")
    attempt = await row(database, "SELECT state FROM payment_attempt WHERE id = $1", payment.attempt_id)
    assert attempt["state"] == "succeeded"
    assert await database.write(lambda tx: balance(tx, f"merchant_payable:{shop.merchant_id}")) == 49_650
    assert (await check_books(database)).captured == {payment.payment_id: 1}


async def test_the_announcement_is_made_of_our_records_and_signed_for_its_box(database: Database, shop: Shop) -> None:
    device = await shop.box()
    payment = await shop.payment(device, 75_000)

    await take(database, report(payment))

    (sent,) = await told(database, payment.payment_id)
    topic = f"devices/{device}/downlink/payment/success"
    key = seal.announcement_key(bytes(range(32)), device, 1)
    said = decode(PaymentSuccess, verify(key, topic, bytes(sent["body"])))
    assert (said.event_id, said.transaction_id, said.seq) == (sent["id"], payment.payment_id, 1)
    assert (said.amount, said.currency, said.merchant_name) == (75_000, "IDR", "Warung Sari")
    assert (from_rfc3339(said.issued_at), from_rfc3339(said.expires_at)) == (NOW, NOW + 60_000)
    assert (sent["state"], sent["attempt"], sent["due_at_ms"], sent["owner"]) == ("published", 1, NOW + 5_000, "test")


async def test_a_repeated_report_gets_its_first_answer_and_changes_nothing(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    once = report(payment)
    first = await take(database, once)

    again = await take(database, once, now_ms=NOW + 1_000)

    assert again == first
    assert len(await rows(database, "SELECT id FROM provider_event")) == 1
    assert (await payment_row(database, payment.payment_id))["captured_at_ms"] == NOW
    assert (await check_books(database)).captured == {payment.payment_id: 1}


async def test_fifty_copies_in_one_group_are_one_payment(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    once = report(payment)

    taken = await take(database, *[once] * 50)

    assert taken == [taken[0]] * 50
    assert (await check_books(database)).captured == {payment.payment_id: 1}


async def test_fifty_copies_from_two_processes_at_once_are_one_payment(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    once = report(payment)
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        taken = await asyncio.gather(*(take([database, other][n % 2], once) for n in range(50)))
    finally:
        await other.close()

    assert {one.outcome for (one,) in taken} == {Outcome.APPLIED}
    assert len(await rows(database, "SELECT id FROM provider_event")) == 1
    assert (await check_books(database)).captured == {payment.payment_id: 1}


async def test_another_event_of_a_paid_payment_is_a_duplicate_and_is_kept(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment, rrn="111111111111"))

    taken = await take(database, report(payment, rrn="111111111111"), report(payment))

    assert [one.outcome for one in taken] == [Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert len(await rows(database, "SELECT id FROM provider_event")) == 3
    assert (await check_books(database)).suspense == 0


async def test_several_events_of_one_payment_in_one_group_pay_it_once(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    taken = await take(database, *[report(payment) for _ in range(20)])

    assert [one.outcome for one in taken] == [Outcome.APPLIED] + [Outcome.DUPLICATE] * 19
    assert (await check_books(database)).captured == {payment.payment_id: 1}


async def test_the_same_event_with_another_body_is_judged_by_itself(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, event_id="evt-1"))

    (same_money,) = await take(database, report(payment, event_id="evt-1", issuer="Bank Lain"))
    (other_money,) = await take(database, report(payment, event_id="evt-1", amount=90_000))

    assert same_money.outcome is Outcome.DUPLICATE
    assert other_money.outcome is Outcome.NEEDS_REVIEW
    paid = await payment_row(database, payment.payment_id)
    assert (paid["state"], paid["amount"], paid["review_reason"]) == ("paid", 50_000, "amount_mismatch")
    assert (await check_books(database)).suspense == 90_000


@pytest.mark.parametrize("ended_by", ["failed", "expired", "clock", "cancelled"])
async def test_money_after_the_end_is_paid_late_and_announced_once(
    database: Database, shop: Shop, ended_by: str
) -> None:
    payment = await shop.payment(await shop.box())
    if ended_by == "clock":
        assert await database.write(lambda tx: expire_unpaid(tx, now_ms=NOW + QR_LIFE_MS)) == 1
    elif ended_by == "cancelled":
        await execute(database, "UPDATE payment SET state = 'cancelled' WHERE id = $1", payment.payment_id)
    else:
        (ended,) = await take(database, report(payment, status=ended_by))
        assert ended.outcome is Outcome.APPLIED
    expected = "expired" if ended_by == "clock" else ended_by
    assert (await payment_row(database, payment.payment_id))["state"] == expected

    taken = await take(database, report(payment), report(payment), now_ms=NOW + QR_LIFE_MS + 1_000)

    assert [one.outcome for one in taken] == [Outcome.APPLIED, Outcome.DUPLICATE]
    paid = await payment_row(database, payment.payment_id)
    assert (paid["state"], paid["late"]) == ("paid", True)
    attempt = await row(database, "SELECT state FROM payment_attempt WHERE id = $1", payment.attempt_id)
    assert attempt["state"] == "succeeded"
    assert len(await told(database, payment.payment_id)) == 1
    await check_books(database)


async def test_a_payment_expires_at_its_end_and_not_before(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    early = await database.write(lambda tx: expire_unpaid(tx, now_ms=NOW + QR_LIFE_MS - 1))
    on_time = await database.write(lambda tx: expire_unpaid(tx, now_ms=NOW + QR_LIFE_MS))
    again = await database.write(lambda tx: expire_unpaid(tx, now_ms=NOW + QR_LIFE_MS))

    assert (early, on_time, again) == (0, 1, 0)
    steps = await rows(
        database, "SELECT kind FROM payment_event WHERE payment_id = $1 ORDER BY at_ms, id", payment.payment_id
    )
    assert [step["kind"] for step in steps][-1] == "payment.expired"


@pytest.mark.parametrize("afterwards", ["pending", "expired", "failed"])
async def test_a_paid_payment_stays_paid_whatever_is_said_later(
    database: Database, shop: Shop, afterwards: str
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))

    (taken,) = await take(database, report(payment, status=afterwards))

    assert taken.outcome is Outcome.IGNORED
    assert (await payment_row(database, payment.payment_id))["state"] == "paid"
    kept = await rows(database, "SELECT outcome, reason FROM provider_event WHERE outcome = 'ignored'")
    assert len(kept) == 1
    assert kept[0]["reason"] == ("pending_says_nothing" if afterwards == "pending" else "already_paid")
    await check_books(database)


async def test_pending_says_nothing_of_an_unpaid_payment(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    (taken,) = await take(database, report(payment, status="pending"))

    assert taken.outcome is Outcome.IGNORED
    assert (await payment_row(database, payment.payment_id))["state"] == "awaiting_payment"


@pytest.mark.parametrize(("amount", "in_suspense"), [(49_999, 49_999), (50_001, 50_001), (1, 1), (500_000, 500_000)])
async def test_a_wrong_amount_is_refused_and_remembered(
    database: Database, shop: Shop, amount: int, in_suspense: int
) -> None:
    payment = await shop.payment(await shop.box(), 50_000)

    (taken,) = await take(database, report(payment, amount=amount))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    put_aside = await payment_row(database, payment.payment_id)
    assert (put_aside["state"], put_aside["review_reason"]) == ("needs_review", "amount_mismatch")
    assert (put_aside["paid_at_ms"], put_aside["fee_amount"]) == (None, None)
    assert await told(database, payment.payment_id) == []
    books = await check_books(database)
    assert (books.paid, books.suspense) == (0, in_suspense)


async def test_another_currency_is_put_aside_without_touching_the_rupiah_books(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    (taken,) = await take(database, report(payment, currency="USD"))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    assert (await payment_row(database, payment.payment_id))["review_reason"] == "currency_mismatch"
    assert await rows(database, "SELECT position FROM posting") == []
    assert await told(database, payment.payment_id) == []


async def test_the_right_amount_does_not_talk_a_payment_out_of_review(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, amount=1))

    (taken,) = await take(database, report(payment))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    assert (await payment_row(database, payment.payment_id))["review_reason"] == "amount_mismatch"
    assert (await check_books(database)).suspense == 50_001
    assert await told(database, payment.payment_id) == []


async def test_money_that_moved_twice_is_kept_apart_and_said_once(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, rrn="111111111111"))

    (taken,) = await take(database, report(payment, rrn="222222222222"))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    paid = await payment_row(database, payment.payment_id)
    assert (paid["state"], paid["review_reason"], paid["rrn"]) == ("paid", "paid_twice", "111111111111")
    books = await check_books(database)
    assert (books.paid, books.suspense) == (50_000, 50_000)


async def test_a_transfer_told_again_in_other_words_is_kept_apart_once(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, rrn="111111111111"))

    for n in range(3):
        (taken,) = await take(database, report(payment, rrn="222222222222", issuer=f"Bank {n}"), now_ms=NOW + n)
        assert taken.outcome is Outcome.NEEDS_REVIEW
    await take(database, report(payment, rrn="111111111111", amount=60_000), now_ms=NOW + 9)

    assert len(await rows(database, "SELECT id FROM provider_event")) == 5
    assert (await check_books(database)).suspense == 50_000


async def test_what_a_payment_cost_stays_what_it_cost(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, rrn="111111111111"))
    await database.write(lambda tx: flat_profile(tx, shop.fee_profile_id, 200, version=2))

    await take(database, report(payment, rrn="222222222222"))

    paid = await payment_row(database, payment.payment_id)
    assert (paid["fee_amount"], paid["fee_bps"], paid["fee_version"]) == (350, 70, f"{shop.fee_profile_id}/1")
    await check_books(database)


@pytest.mark.parametrize(
    ("status", "currency", "suspense"), [("paid", "IDR", 50_000), ("paid", "USD", 0), ("failed", "IDR", 0)]
)
async def test_an_unknown_reference_is_an_orphan_whose_money_is_kept(
    database: Database, shop: Shop, status: str, currency: str, suspense: int
) -> None:
    payment = await shop.payment(await shop.box())
    stray = report(payment, status=status, currency=currency, partner_reference="ref_of_nobody")

    first, second = await take(database, stray, stray)
    (third,) = await take(database, stray)

    assert first == second == third
    assert (first.outcome, first.payment_id) == (Outcome.ORPHAN, None)
    stored = await row(database, "SELECT outcome, reason, reference, payment_id FROM provider_event")
    assert stored == {
        "outcome": "orphan", "reason": "reference_unknown", "reference": "ref_of_nobody", "payment_id": None,
    }  # fmt: skip
    assert (await check_books(database)).suspense == suspense
    assert (await payment_row(database, payment.payment_id))["state"] == "awaiting_payment"


async def test_two_processes_with_the_same_orphans_in_opposite_order_book_each_once(
    database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box(), 1_000)
    strays = [report(payment, partner_reference=f"nobody_{n}") for n in range(40)]
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        await asyncio.gather(take(database, *strays), take(other, *reversed(strays)))
    finally:
        await other.close()

    assert len(await rows(database, "SELECT id FROM provider_event")) == 40
    assert (await check_books(database)).suspense == 40_000


async def test_an_unapproved_merchants_money_waits_for_an_operator(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await shop.set_status("rejected")

    (taken,) = await take(database, report(payment))

    assert taken.outcome is Outcome.NEEDS_REVIEW
    put_aside = await payment_row(database, payment.payment_id)
    assert (put_aside["state"], put_aside["review_reason"]) == ("needs_review", "merchant_not_approved")
    assert (await check_books(database)).suspense == 50_000
    assert await told(database, payment.payment_id) == []


async def test_a_payment_without_a_time_is_paid_now_and_says_so(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    await take(database, report(payment, paid_at_ms=None), now_ms=NOW + 7_000)

    assert (await payment_row(database, payment.payment_id))["paid_at_ms"] == NOW + 7_000
    step = await row(database, "SELECT detail FROM payment_event WHERE kind = 'payment.paid'")
    assert step["detail"] == "paid_at_missing"


@pytest.mark.parametrize(
    ("ahead_ms", "believed"), [(CLOCK_AHEAD_MS, True), (CLOCK_AHEAD_MS + 1_000, False), (10**10, False)]
)
async def test_a_time_far_ahead_is_the_providers_clock(
    database: Database, shop: Shop, ahead_ms: int, believed: bool
) -> None:
    payment = await shop.payment(await shop.box())

    await take(database, report(payment, paid_at_ms=NOW + ahead_ms))

    paid = await payment_row(database, payment.payment_id)
    assert paid["paid_at_ms"] == (NOW + ahead_ms if believed else NOW)
    step = await row(database, "SELECT detail FROM payment_event WHERE kind = 'payment.paid'")
    assert step["detail"] == (None if believed else "paid_at_ahead_of_our_clock")


@pytest.mark.parametrize(("delay_ms", "said"), [(LATE_REPORT_MS, True), (LATE_REPORT_MS + 1, False)])
async def test_a_payment_reported_much_later_is_booked_but_not_spoken(
    database: Database, shop: Shop, delay_ms: int, said: bool
) -> None:
    payment = await shop.payment(await shop.box())

    (taken,) = await take(database, report(payment), now_ms=NOW + delay_ms)

    assert taken.outcome is Outcome.APPLIED
    (announcement,) = await told(database, payment.payment_id)
    expected = ("published", None) if said else ("expired", "reported_late")
    assert (announcement["state"], announcement["reason"]) == expected
    assert (announcement["due_at_ms"] is None) is not said
    await check_books(database)


async def test_a_payment_nobody_can_hear_is_suppressed_and_visible(database: Database, shop: Shop) -> None:
    device = await shop.box()
    payment = await shop.payment(device)
    await shop.unbind(device)

    await take(database, report(payment))

    (announcement,) = await told(database, payment.payment_id)
    assert (announcement["state"], announcement["reason"]) == ("suppressed", "no_device")
    assert (announcement["seq"], announcement["due_at_ms"]) == (None, None)
    await check_books(database)


async def test_every_box_at_the_terminal_says_it_and_no_other(database: Database, shop: Shop) -> None:
    first, second = await shop.box(), await shop.box()
    elsewhere = await (await shop.another_terminal()).box()
    payment = await shop.payment(first)

    await take(database, report(payment))

    assert {sent["recipient_id"] for sent in await told(database, payment.payment_id)} == {first, second}
    assert await rows(database, "SELECT id FROM outbox_message WHERE recipient_id = $1", elsewhere) == []
    await check_books(database)


async def test_a_box_out_of_service_is_not_told_and_operators_see_it(database: Database, shop: Shop) -> None:
    device, silent = await shop.box(), await shop.box()
    payment = await shop.payment(device)
    await execute(database, "UPDATE device SET state = 'suspended' WHERE id = $1", silent)

    await take(database, report(payment))

    said = {sent["recipient_id"]: (sent["state"], sent["reason"]) for sent in await told(database, payment.payment_id)}
    assert said == {device: ("published", None), silent: ("suppressed", "device_suspended")}


async def test_an_offline_boxs_announcement_waits_for_its_birth(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(online=False))

    await take(database, report(payment))

    (announcement,) = await told(database, payment.payment_id)
    assert (announcement["state"], announcement["attempt"], announcement["due_at_ms"]) == ("queued", 0, None)
    assert announcement["expires_at_ms"] == NOW + 60_000


async def test_the_same_reference_at_two_providers_is_two_payments(database: Database, shop: Shop) -> None:
    device = await shop.box()
    ours = await shop.payment(device, 10_000, provider="sandbox")
    theirs = await shop.payment(device, 20_000, provider="acme")

    taken = await take(
        database,
        report(ours, event_id="same"),
        report(theirs, event_id="same"),
        replace(report(ours), provider="acme"),
    )

    assert [(one.outcome, one.payment_id) for one in taken] == [
        (Outcome.APPLIED, ours.payment_id),
        (Outcome.APPLIED, theirs.payment_id),
        (Outcome.ORPHAN, None),
    ]
    books = await check_books(database)
    assert (books.paid, books.suspense) == (30_000, 10_000)
    for provider, gross in (("sandbox", 10_000), ("acme", 30_000)):
        assert await database.write(partial(balance, account=f"provider_receivable:{provider}")) == -gross


async def test_a_group_of_many_shops_keeps_every_boxs_numbers_without_gap(database: Database) -> None:
    shops = [await open_shop(database, bps=bps) for bps in (0, 30, 70)]
    boxes = [await shop.box() for shop in shops]
    payments = [
        await shop.payment(device, 1_001 + n) for n in range(5) for shop, device in zip(shops, boxes, strict=True)
    ]

    await take(database, *[report(payment) for payment in payments])

    books = await check_books(database)
    assert len(books.captured) == 15
    for device in boxes:
        assert (await row(database, "SELECT last_seq FROM device WHERE id = $1", device))["last_seq"] == 5


async def test_an_error_in_the_group_leaves_nothing_of_it(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    received = [Received(report=report(payment), request_id="req_1", received_at_ms=NOW)]

    async def take_and_fail(tx: Statements) -> None:
        await take_reports(tx, received, now_ms=NOW, telling=TELLING, late_report_ms=LATE_REPORT_MS)
        raise RuntimeError("the last statement failed")

    with pytest.raises(RuntimeError, match="the last statement failed"):
        await database.write(take_and_fail)

    assert (await payment_row(database, payment.payment_id))["state"] == "awaiting_payment"
    assert await rows(database, "SELECT id FROM provider_event") == []
    assert await rows(database, "SELECT position FROM posting") == []
    assert (await row(database, "SELECT last_seq FROM device"))["last_seq"] == 0
