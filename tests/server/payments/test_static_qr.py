"""A QR that hangs at a terminal, and the payments that nobody asked for first."""

import asyncio
import json
from pathlib import Path
from typing import cast

import pytest
from support.books import check_books
from support.shop import (
    LATE_REPORT_MS,
    NOW,
    TELLING,
    Shop,
    execute,
    payment_row,
    report,
    row,
    rows,
    static_payload,
    static_report,
    take,
    told,
)

from soundbox_server.db import Database, transaction
from soundbox_server.errors import Conflict, GatewayError, QrNotAccepted
from soundbox_server.payments import charging, qris
from soundbox_server.payments.review import resolve
from soundbox_server.payments.state import Outcome, StaticQrKind
from soundbox_server.payments.static_qr import read_payload, retire
from soundbox_server.providers.base import Charge, ChargeRequest, Gateway

VECTORS = json.loads((Path(__file__).parents[2] / "fixtures/qris_vectors.json").read_text())["vectors"]
RRN = "614210000123"


async def payments(database: Database) -> list[str]:
    return [found["id"] for found in await rows(database, "SELECT id FROM payment ORDER BY id")]


async def test_money_by_a_static_qr_makes_a_payment_that_is_paid_and_announced(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await shop.static_qr()

    (taken,) = await take(database, static_report(15_000, rrn=RRN))

    assert taken.outcome is Outcome.APPLIED
    assert taken.payment_id is not None
    paid = await payment_row(database, taken.payment_id)
    assert (paid["state"], paid["amount"], paid["qr_mode"], paid["method"], paid["source"]) == (
        "paid", 15_000, "static", "qris_static", "callback",
    )  # fmt: skip
    assert (paid["terminal_id"], paid["fee_amount"], paid["rrn"]) == (shop.terminal_id, 105, RRN)
    (announced,) = await told(database, taken.payment_id)
    assert announced["recipient_id"] == device
    assert b'"amount":15000,' in announced["body"]
    steps = await rows(database, "SELECT kind FROM payment_event WHERE payment_id = $1 ORDER BY id", taken.payment_id)
    assert [step["kind"] for step in steps] == ["payment.created", "payment.paid"]
    assert (await check_books(database)).captured == {taken.payment_id: 1}


async def test_a_repeated_event_gets_its_first_answer(database: Database, shop: Shop) -> None:
    await shop.static_qr()
    once = static_report()
    first = await take(database, once)

    assert await take(database, once) == first
    assert await take(database, *[once] * 20) == first * 20
    assert len(await payments(database)) == 1
    assert len(await rows(database, "SELECT id FROM provider_event")) == 1


@pytest.mark.parametrize("one_group", [True, False])
async def test_other_words_for_the_same_money_are_the_same_payment(
    database: Database, shop: Shop, one_group: bool
) -> None:
    await shop.static_qr()
    said = [
        static_report(transaction_id="T1"),
        static_report(transaction_id="T1", rrn=RRN),  # now its retrieval reference is known
        static_report(rrn=RRN),
        static_report(rrn=RRN, transaction_id="T2"),  # known by another number at another switch
        static_report(transaction_id="T2"),
    ]

    taken = await take(database, *said) if one_group else [(await take(database, one))[0] for one in said]

    assert [one.outcome for one in taken] == [Outcome.APPLIED, *[Outcome.DUPLICATE] * 4]
    assert {one.payment_id for one in taken} == set(await payments(database))
    books = await check_books(database)
    assert (books.paid, books.suspense) == (15_000, 0)


async def test_customers_at_the_same_time_are_none_lost_and_none_twice(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await shop.static_qr()
    other = Database(database.url.render_as_string(hide_password=False))
    customers = [static_report(10_000 + n, rrn=f"{n:012d}", transaction_id=f"T{n}") for n in range(12)]
    again = [static_report(10_000 + n, rrn=f"{n:012d}") for n in range(12)]
    try:
        await asyncio.gather(
            *(take([database, other][n % 2], *said) for n, said in enumerate(zip(customers, again, strict=True))),
            *(take([other, database][n % 2], *said) for n, said in enumerate(zip(again, customers, strict=True))),
        )
    finally:
        await other.close()

    books = await check_books(database)
    assert (len(books.captured), books.paid, books.suspense) == (12, sum(10_000 + n for n in range(12)), 0)
    assert (await row(database, "SELECT last_seq FROM device WHERE id = $1", device))["last_seq"] == 12


async def test_equal_amounts_of_different_customers_are_different_payments(database: Database, shop: Shop) -> None:
    await shop.static_qr()

    taken = await take(database, *[static_report(15_000, rrn=f"{n:012d}") for n in range(3)], static_report(15_000))

    assert [one.outcome for one in taken] == [Outcome.APPLIED] * 4
    assert len({one.payment_id for one in taken}) == 4
    assert (await check_books(database)).paid == 60_000


async def test_a_transaction_number_that_is_the_qrs_own_tells_no_payments_apart(database: Database, shop: Shop) -> None:
    await shop.static_qr(provider_reference="qr_77")

    taken = await take(database, *[static_report(transaction_id="qr_77") for _ in range(3)])

    assert len({one.payment_id for one in taken}) == 3
    assert (await check_books(database)).paid == 45_000


async def test_two_retrieval_references_under_one_number_are_two_payments(database: Database, shop: Shop) -> None:
    await shop.static_qr()

    taken = await take(database, static_report(transaction_id="T", rrn="1"), static_report(transaction_id="T", rrn="2"))

    assert [one.outcome for one in taken] == [Outcome.APPLIED] * 2
    assert len({one.payment_id for one in taken}) == 2


async def test_another_amount_for_the_same_money_is_put_aside_and_not_announced(database: Database, shop: Shop) -> None:
    await shop.box()
    await shop.static_qr()
    (first,) = await take(database, static_report(15_000, transaction_id="T"))

    (other,) = await take(database, static_report(99_000, transaction_id="T"))

    assert (other.outcome, other.payment_id) == (Outcome.NEEDS_REVIEW, first.payment_id)
    books = await check_books(database)
    assert (books.paid, books.suspense) == (15_000, 99_000)
    assert len(await told(database, str(first.payment_id))) == 1


async def test_money_for_an_unapproved_merchant_waits_for_an_operator(database: Database, shop: Shop) -> None:
    await shop.box()
    await shop.static_qr()
    await shop.set_status("suspended")

    (taken,) = await take(database, static_report(rrn=RRN))

    found = await payment_row(database, str(taken.payment_id))
    assert (taken.outcome, found["state"], found["review_reason"]) == (
        Outcome.NEEDS_REVIEW, "needs_review", "merchant_not_approved",
    )  # fmt: skip
    assert await told(database, str(taken.payment_id)) == []
    assert (await check_books(database)).suspense == 15_000


async def test_a_retired_qr_brings_orphans_but_still_knows_its_payments(database: Database, shop: Shop) -> None:
    hanging = await shop.static_qr()
    (before,) = await take(database, static_report(rrn=RRN))
    async with transaction(database) as session:
        await retire(session, hanging.id, now_ms=NOW)

    again, late = await take(database, static_report(rrn=RRN), static_report(rrn="614210000999"))

    assert (again.outcome, again.payment_id) == (Outcome.DUPLICATE, before.payment_id)
    assert (late.outcome, late.payment_id) == (Outcome.ORPHAN, None)
    books = await check_books(database)
    assert (books.paid, books.suspense) == (15_000, 15_000)


async def test_unknown_references_and_other_news_are_orphans_as_ever(database: Database, shop: Shop) -> None:
    await shop.static_qr()

    taken = await take(
        database,
        static_report(reference="nobodys"),
        static_report(provider="acme"),
        static_report(status="failed"),
        static_report(currency="USD"),
    )

    assert [one.outcome for one in taken] == [Outcome.ORPHAN] * 4
    assert await payments(database) == []
    assert (await check_books(database)).suspense == 30_000


async def test_money_that_was_put_aside_before_its_qr_was_known_is_not_booked_again(
    database: Database, shop: Shop
) -> None:
    early = static_report(rrn=RRN)
    await take(database, early)
    await shop.static_qr()

    taken = await take(database, early, static_report(rrn=RRN))

    assert [one.outcome for one in taken] == [Outcome.ORPHAN] * 2
    assert await payments(database) == []
    assert (await check_books(database)).suspense == 15_000


async def test_a_terminals_own_partner_reference_is_a_static_qr(database: Database, shop: Shop) -> None:
    await execute(database, "UPDATE terminal SET partner_reference = 'till-77' WHERE id = $1", shop.terminal_id)

    taken = await take(database, static_report(reference="till-77"), static_report(reference="till-77"))

    assert [one.outcome for one in taken] == [Outcome.APPLIED] * 2
    entered = await row(database, "SELECT provider, partner_reference, qr_payload, terminal_id FROM static_qr")
    assert entered == {
        "provider": "sandbox", "partner_reference": "till-77", "qr_payload": None, "terminal_id": shop.terminal_id,
    }  # fmt: skip


async def test_static_and_dynamic_payments_share_a_group(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await shop.static_qr()
    dynamic = await shop.payment(device, 50_000)

    taken = await take(database, static_report(15_000), report(dynamic), static_report(20_000))

    assert [one.outcome for one in taken] == [Outcome.APPLIED] * 3
    assert (await check_books(database)).paid == 85_000
    assert (await row(database, "SELECT last_seq FROM device WHERE id = $1", device))["last_seq"] == 3


# Transfers


def static_transfer(vector: dict[str, str]) -> str:
    """A vector's transfer as a static QR, closed with a checksum that fits: the published ones were never renewed."""
    body = vector["payload"][:-4].replace("010212", "010211", 1).replace("54041000", "", 1)
    return body + qris.crc16(body)


TRANSFERS = [v for v in VECTORS if v["kind"] == "qris_mpm_transfer" and v["decoded"] is not None]
SALES = [v for v in VECTORS if v["kind"] == "qris_mpm_payment" and v["decoded"] is not None]


def test_the_vectors_hold_both_kinds() -> None:
    assert len(TRANSFERS) >= 4
    assert any(vector["decoded"]["mcc"] == "4829" for vector in SALES)


@pytest.mark.parametrize("vector", [*TRANSFERS, *SALES], ids=lambda vector: vector["id"])
def test_a_transfer_is_told_from_a_sale(vector: dict[str, str]) -> None:
    decoded = qris.decode(vector["payload"])

    assert decoded.qris is not None
    assert qris.is_transfer(decoded.qris) == (vector["kind"] == "qris_mpm_transfer")


@pytest.mark.parametrize("purpose", ["DMCT", "CWDL", "CDPT"])
async def test_a_transfer_is_recorded_as_one_and_never_announced(database: Database, shop: Shop, purpose: str) -> None:
    (vector,) = (v for v in TRANSFERS if f"0804{purpose}" in v["payload"])
    await shop.box()
    hanging = await shop.static_qr(qr_payload=static_transfer(vector))

    taken = await take(database, static_report(rrn=RRN), static_report(rrn=RRN))

    assert hanging.kind == "transfer"
    assert [one.outcome for one in taken] == [Outcome.NEEDS_REVIEW] * 2
    assert len({one.payment_id for one in taken}) == 1
    found = await payment_row(database, str(taken[0].payment_id))
    assert (found["state"], found["qr_mode"], found["review_reason"]) == ("needs_review", "transfer", "qris_transfer")
    assert await rows(database, "SELECT id FROM outbox_message") == []
    books = await check_books(database)
    assert (books.paid, books.suspense) == (0, 15_000)


async def test_nobody_makes_a_sale_of_a_transfer(database: Database, shop: Shop) -> None:
    await shop.static_qr(qr_payload=static_transfer(TRANSFERS[0]))
    (taken,) = await take(database, static_report(rrn=RRN))

    with pytest.raises(Conflict, match="no sale"):
        await database.write(
            lambda tx: resolve(
                tx, str(taken.payment_id), action="accept", reason="it is ours", by="per_1", able={}, telling=TELLING,
                late_report_ms=LATE_REPORT_MS, now_ms=NOW,
            )
        )  # fmt: skip

    assert await rows(database, "SELECT id FROM outbox_message") == []


async def test_a_provider_that_issues_a_transfer_issued_nothing(shop: Shop) -> None:
    asked = await shop.payment(await shop.box(), 1_000)
    body = TRANSFERS[0]["payload"][:-4]

    class Issuer:
        async def create(self, request: ChargeRequest) -> Charge:
            return Charge(
                provider="sandbox", reference=request.reference, provider_transaction_id="ptx_1", amount_idr=1_000,
                qr_payload=body + qris.crc16(body), expires_at_ms=request.expires_at_ms, body=b"{}",
            )  # fmt: skip

    answered = await charging.ask_provider(cast(Gateway, Issuer()), asked)

    assert isinstance(answered.error, GatewayError)
    assert "transfer" in answered.error.message


# What may hang there


def test_a_merchants_own_static_qr_is_a_payment() -> None:
    assert read_payload(static_payload(), nmid="ID1029384756012", names=("Warung Sari",)) is StaticQrKind.PAYMENT


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ("scan me", "no faultless QRIS"),
        (static_payload()[:-4] + "0000", "no faultless QRIS"),
        (static_payload(initiation_method="dynamic", amount="15000"), "for one payment"),
        (static_payload(amount="15000"), "for one payment"),
        (static_payload(nmid="ID9999999999999"), "another merchant's"),
        (static_payload(merchant_name="TOKO LAIN"), "another name"),
    ],
)
def test_what_cannot_hang_at_this_merchants_terminal_is_refused(payload: str, why: str) -> None:
    with pytest.raises(QrNotAccepted, match=why):
        read_payload(payload, nmid="ID1029384756012", names=("Warung Sari", "PT Sari Rasa"))


@pytest.mark.parametrize("name", ["Warung Sari", "sari", "PT WARUNG SARI JAKARTA BARAT"])
def test_acquirers_may_write_a_name_their_own_way(name: str) -> None:
    assert read_payload(static_payload(), nmid="ID1029384756012", names=(name,)) is StaticQrKind.PAYMENT


def test_another_name_can_be_confirmed() -> None:
    payload = static_payload(merchant_name="TOKO LAIN")

    kind = read_payload(payload, nmid="ID1029384756012", names=("Warung Sari",), another_name=True)

    assert kind is StaticQrKind.PAYMENT
