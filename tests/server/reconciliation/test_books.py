"""The ledger against independent sums: right books pass, and each way to break them is found."""

from collections.abc import Callable
from typing import Any

import pytest
from support.acquirer import adjustment, money_for
from support.books import check_books
from support.shop import NOW, Shop, adjust, execute, report, row, rows, take

from soundbox_server.db import Database
from soundbox_server.ids import new_id
from soundbox_server.payments import refunds, review
from soundbox_server.reconciliation import books, jobs, nightly
from soundbox_server.reconciliation.books import Finding

NIGHT = NOW + 10 * 3_600_000  # three in the morning in Jakarta


async def busy_day(shop: Shop) -> None:
    """Every way in which money comes and goes."""
    database, box = shop.database, await shop.box()
    plain, part, whole, taken, late, twice, wrong = [await shop.payment(box, 10_000 * n) for n in range(1, 8)]
    await take(database, *map(report, (plain, part, whole, taken, late)))
    await adjust(database, adjustment(part, "refunded", amount=5_000), now_ms=NOW + 1_000)
    await adjust(database, adjustment(whole, "refunded"), now_ms=NOW + 1_000)
    await adjust(database, adjustment(taken, "refunded", amount=1_000), now_ms=NOW + 1_000)
    await adjust(database, adjustment(taken, "reversed"), now_ms=NOW + 2_000)
    await take(database, report(twice, rrn="1"))
    await take(database, report(twice, rrn="2"))  # paid again: kept apart
    await take(database, report(wrong, amount=1))
    await take(database, money_for("nobody's", 77_000))
    await take(database, report(await shop.payment(box, 9_000, provider="acme")))


async def found(database: Database) -> list[Finding]:
    return await database.read_at_leisure(books.check)


async def test_books_of_a_busy_day_are_right(database: Database, shop: Shop) -> None:
    await busy_day(shop)

    assert await found(database) == []
    await check_books(database)


async def test_money_that_an_operator_decided_about_is_accounted_for(database: Database, shop: Shop) -> None:
    box = await shop.box()
    accepted, rejected = [await shop.payment(box, 20_000) for _ in range(2)]
    await take(database, report(accepted, amount=19_000, rrn="1"), report(rejected, amount=5, rrn="2"))
    for payment, action in ((accepted, "accept"), (rejected, "reject")):
        await database.write(_decide(shop, payment.payment_id, action))

    assert await found(database) == []
    assert (await row(database, "SELECT paid_amount FROM payment WHERE id = $1", accepted.payment_id)) == {
        "paid_amount": 19_000
    }


def _decide(shop: Shop, payment_id: str, action: str) -> Callable[[Any], Any]:
    from support.shop import LATE_REPORT_MS, TELLING

    return lambda tx: review.resolve(
        tx, payment_id, action=action, reason="Looked at.", by="per_1", able={}, telling=TELLING,
        late_report_ms=LATE_REPORT_MS, now_ms=NOW,
    )  # fmt: skip


async def journal(database: Database, source: str, destination: str, amount: int, *, kind: str = "release") -> None:
    """A journal that nothing has led to."""
    jid = new_id("jrn")
    await execute(database, "INSERT INTO journal (id, kind, booked_at_ms) VALUES ($1, $2, $3)", jid, kind, NOW)
    await execute(
        database, "INSERT INTO posting (journal_id, position, source, destination, unit, amount) "
        "VALUES ($1, 0, $2, $3, $4, $5)", jid, source, destination, _unit(source), amount,
    )  # fmt: skip


def _unit(account: str) -> str:
    return "TOKEN" if account.startswith(("license:", "token")) else "IDR"


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("provider_receivable:sandbox", "manual_payout"),
        ("merchant_payable:{merchant}", "provider_receivable:sandbox"),
        ("fees:sandbox", "merchant_payable:{merchant}"),
        ("suspense:acme", "provider_receivable:acme"),
        ("cash_drawer:{merchant}", "cash_sales:{merchant}"),
        ("wallet:w1", "manual_payout"),
        ("license:l1", "token_used"),
    ],
)
async def test_money_that_moves_for_no_reason_is_found_at_its_account(
    database: Database, shop: Shop, source: str, destination: str
) -> None:
    await busy_day(shop)
    source, destination = (end.format(merchant=shop.merchant_id) for end in (source, destination))

    await journal(database, source, destination, 7)

    assert source in {one.subject for one in await found(database)}
    assert {one.booked - one.expected for one in await found(database)} <= {7, -7}


async def test_a_balanced_pair_of_wrong_postings_is_found_too(database: Database, shop: Shop) -> None:
    """The sum of all accounts stays zero, and so does each of two accounts' sum with the other."""
    await busy_day(shop)

    await journal(database, "fees:sandbox", "fees:acme", 70)

    assert [(one.subject, one.booked - one.expected) for one in await found(database)] == [
        ("fees:acme", 70), ("fees:sandbox", -70),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("UPDATE payment SET paid_amount = paid_amount + 1 WHERE id = $1", "capture"),
        ("UPDATE payment SET fee_amount = fee_amount + 1 WHERE id = $1", "balance"),
    ],
)
async def test_a_payment_that_says_something_else_is_found(
    database: Database, shop: Shop, change: str, check: str
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))

    await execute(database, change, payment.payment_id)

    assert check in {one.check for one in await found(database)}


async def test_what_was_captured_for_nobody_or_never_is_found(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await journal(database, "provider_receivable:sandbox", f"merchant_payable:{shop.merchant_id}", 7, kind="capture")
    await execute(
        database, "UPDATE payment SET state = 'paid', paid_amount = amount, fee_amount = 350, paid_at_ms = $2 "
        "WHERE id = $1", payment.payment_id, NOW,
    )  # fmt: skip

    captures = [one for one in await found(database) if one.check == "capture"]

    assert sorted((one.booked, one.expected) for one in captures) == [(0, 50_000), (7, 0)]


async def test_a_refund_that_was_never_booked_is_found(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    new = refunds.NewRefund(
        payment_id=payment.payment_id, attempt_id=None, provider="sandbox", origin="person", amount=10, reason="x"
    )
    await database.write(lambda tx: refunds.insert_refunds(tx, [new], now_ms=NOW))
    assert await found(database) == []

    await execute(database, "UPDATE refund SET state = 'done', finished_at_ms = $1", NOW)

    assert {one.subject for one in await found(database)} == {
        "provider_receivable:sandbox", f"merchant_payable:{shop.merchant_id}",
    }  # fmt: skip


async def test_an_empty_journal_is_found(database: Database) -> None:
    await execute(database, "INSERT INTO journal (id, kind, booked_at_ms) VALUES ('jrn_1', 'release', 7)")

    assert [(one.check, one.subject) for one in await found(database)] == [("empty_journal", "jrn_1")]


async def test_the_night_raises_an_alert_until_the_books_are_right(
    database: Database, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy_day(shop)
    await execute(database, "UPDATE payment SET fee_amount = fee_amount + 1 WHERE fee_amount = 70")
    for at_ms in (NIGHT, NIGHT + 60_000):
        monkeypatch.setattr("soundbox_server.clock.now_ms", lambda at_ms=at_ms: at_ms)
        await jobs.check_books(database)
    (alert,) = await rows(database, "SELECT kind, severity, state, times FROM alert WHERE kind LIKE 'ledger.%'")
    assert alert == {"kind": "ledger.unbalanced", "severity": "critical", "state": "open", "times": 1}
    assert (await row(database, "SELECT day, findings FROM ledger_check")) == {"day": "2026-05-24", "findings": 3}

    await execute(database, "UPDATE payment SET fee_amount = fee_amount - 1 WHERE fee_amount = 71")
    monkeypatch.setattr("soundbox_server.clock.now_ms", lambda: NIGHT + 24 * 3_600_000)
    await jobs.check_books(database)

    assert (await row(database, "SELECT state FROM alert WHERE kind = 'ledger.unbalanced'"))["state"] == "resolved"
    assert [one["findings"] for one in await rows(database, "SELECT findings FROM ledger_check ORDER BY day")] == [3, 0]


@pytest.mark.parametrize(
    ("at_ms", "due"),
    [(NIGHT, True), (NIGHT - 3_600_000, True), (NIGHT - 3_600_001, False), (NIGHT - 10 * 3_600_000, True)],
)
async def test_the_books_are_looked_at_once_a_day_and_not_before_two(database: Database, at_ms: int, due: bool) -> None:
    claims = [await database.write(lambda tx: nightly.claim(tx, now_ms=at_ms)) for _ in range(2)]

    assert [claim is not None for claim in claims] == [due, False]


async def test_a_look_that_died_is_begun_again(database: Database) -> None:
    await database.write(lambda tx: nightly.claim(tx, now_ms=NIGHT))

    again = [
        await database.write(lambda tx, at_ms=at_ms: nightly.claim(tx, now_ms=at_ms))
        for at_ms in (NIGHT + nightly.LEASE_MS - 1, NIGHT + nightly.LEASE_MS)
    ]

    assert again == [None, "2026-05-24"]
