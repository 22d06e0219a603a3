"""The ledger: one amount leaves one account and enters another, once, and nobody changes it afterwards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.books import check_books
from support.shop import NOW, Shop, execute, open_shop, report, rows, take

from soundbox_server.db import Database
from soundbox_server.fees.terms import fee
from soundbox_server.ledger import service as ledger
from soundbox_server.ledger.service import Journal, Posting

CAPTURE = {"provider_event_id": "evt_1", "provider": "sandbox", "merchant_id": "mer_1"}


async def post(database: Database, *journals: Journal) -> None:
    await database.write(lambda tx: ledger.post(tx, journals, now_ms=NOW))


def found(amount: int, *, event: str = "evt_1", key: str = "sandbox:rrn:1") -> Journal:
    return ledger.suspense(payment_id=None, provider_event_id=event, provider="sandbox", amount=amount, money_key=key)


async def balance(database: Database, account: str) -> int:
    return await database.write(lambda tx: ledger.balance(tx, account))


async def test_a_capture_moves_the_gross_and_takes_the_fee(database: Database) -> None:
    await post(database, ledger.capture(payment_id="txn_1", gross=50_000, fee=350, **CAPTURE))

    assert await balance(database, "provider_receivable:sandbox") == -50_000
    assert await balance(database, "merchant_payable:mer_1") == 49_650
    assert await balance(database, "fees:sandbox") == 350


async def test_a_payment_without_a_fee_is_one_posting(database: Database) -> None:
    await post(database, ledger.capture(payment_id="txn_1", gross=500, fee=0, **CAPTURE))

    assert [row["amount"] for row in await rows(database, "SELECT amount FROM posting")] == [500]


async def test_money_of_nobody_is_kept_apart(database: Database) -> None:
    await post(database, found(7))

    assert await balance(database, "suspense:sandbox") == 7
    assert await balance(database, "provider_receivable:sandbox") == -7
    assert await balance(database, "account:of-nobody") == 0


async def test_units_are_never_added_up_together(database: Database) -> None:
    await post(
        database,
        Journal(kind="suspense", postings=(Posting("a", "b", 5), Posting("a", "b", 7, "TOKEN"))),
    )

    assert await balance(database, "b") == 5
    assert await database.write(lambda tx: ledger.balance(tx, "b", unit="TOKEN")) == 7


async def test_a_payment_is_captured_once_whoever_tries(database: Database) -> None:
    capture = ledger.capture(payment_id="txn_1", gross=50_000, fee=350, **CAPTURE)
    await post(database, capture)
    other_event = CAPTURE | {"provider_event_id": "evt_2"}

    with pytest.raises(Exception, match=r"(?i)unique"):
        await post(database, ledger.capture(payment_id="txn_1", gross=50_000, fee=350, **other_event))

    assert await balance(database, "provider_receivable:sandbox") == -50_000


async def test_an_event_is_booked_once(database: Database) -> None:
    await post(database, found(7, event="evt_1", key="sandbox:event:1"))

    with pytest.raises(Exception, match=r"(?i)unique"):
        await post(database, found(7, event="evt_1", key="sandbox:event:2"))

    assert await balance(database, "suspense:sandbox") == 7


async def test_a_transfer_told_again_is_left_as_it_was_booked(database: Database) -> None:
    await post(database, found(7, event="evt_1"))

    await post(database, found(7, event="evt_2"), found(9, event="evt_3"), found(5, event="evt_4", key="another"))

    assert await balance(database, "suspense:sandbox") == 12
    assert len(await rows(database, "SELECT id FROM journal")) == 2
    assert len(await rows(database, "SELECT position FROM posting")) == 2


@pytest.mark.parametrize(
    "posting",
    [Posting("a", "b", 0), Posting("a", "b", -1), Posting("a", "a", 1), Posting("a", "b", 1, "USD")],
    ids=["nothing", "less than nothing", "to itself", "another unit"],
)
async def test_a_posting_that_makes_no_sense_is_refused_by_the_database(database: Database, posting: Posting) -> None:
    with pytest.raises(Exception, match=r"(?i)check"):
        await post(database, Journal(kind="suspense", postings=(posting,)))

    assert await rows(database, "SELECT id FROM journal") == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE posting SET amount = amount + 1",
        "UPDATE posting SET destination = 'merchant_payable:mine'",
        "DELETE FROM posting",
        "UPDATE journal SET payment_id = NULL",
        "UPDATE journal SET kind = 'suspense'",
        "DELETE FROM journal",
    ],
)
async def test_what_is_booked_can_neither_be_changed_nor_deleted(database: Database, sql: str) -> None:
    await post(database, ledger.capture(payment_id="txn_1", gross=50_000, fee=350, **CAPTURE))
    before = await rows(database, "SELECT * FROM posting ORDER BY journal_id, position")

    with pytest.raises(Exception, match="append-only"):
        await execute(database, sql)

    assert await rows(database, "SELECT * FROM posting ORDER BY journal_id, position") == before
    assert len(await rows(database, "SELECT id FROM journal")) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has no TRUNCATE
async def test_the_ledger_cannot_be_emptied_at_once_either(database: Database) -> None:
    await post(database, ledger.capture(payment_id="txn_1", gross=50_000, fee=350, **CAPTURE))

    with pytest.raises(Exception, match="append-only"):
        await execute(database, "TRUNCATE posting")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # REPLACE is SQLite's own
async def test_replacing_a_row_is_no_way_around_it(database: Database) -> None:
    await post(database, ledger.capture(payment_id="txn_1", gross=50_000, fee=350, **CAPTURE))
    (first, *_) = await rows(database, "SELECT * FROM posting ORDER BY journal_id, position")

    with pytest.raises(Exception, match="append-only"):
        await execute(
            database,
            "REPLACE INTO posting (journal_id, position, source, destination, unit, amount) "
            "VALUES ($1, $2, 'a', 'b', 'IDR', 1)",
            first["journal_id"], first["position"],
        )  # fmt: skip

    assert await balance(database, "provider_receivable:sandbox") == -50_000


@given(st.integers(1, 999_999_999_999), st.integers(0, 10_000))
def test_a_fee_is_rounded_half_up_and_never_more_than_the_amount(amount: int, bps: int) -> None:
    charged = fee(amount, bps)

    assert 0 <= charged <= amount
    assert abs(charged * 10_000 - amount * bps) <= 5_000
    assert charged * 10_000 - amount * bps != -5_000  # exactly half a rupiah rounds up


async def test_many_payments_of_many_prices_add_up(database: Database) -> None:
    shops: list[Shop] = [await open_shop(database, bps=bps) for bps in (0, 1, 30, 70, 333)]
    payments = [await shop.payment(await shop.box(), amount) for shop in shops for amount in (1, 71, 15_000, 9_999_999)]

    await take(database, *[report(payment) for payment in payments])

    books = await check_books(database)
    assert books.paid == sum(payment.amount for payment in payments)
