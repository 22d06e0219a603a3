"""Who is told of a payment, in which words, and under which number."""

import asyncio

import pytest
from support.books import check_books
from support.shop import MASTER, NOW, TELLING, Shop, execute, open_shop, report, row, rows, take, told

from soundbox_protocol import MAX_PAYLOAD_BYTES
from soundbox_protocol.messages import PaymentSuccess, decode, encode
from soundbox_protocol.signing import verify
from soundbox_server import seal
from soundbox_server.announcements.service import Announced, queue_payment_announcement
from soundbox_server.db import Database, Statements


async def queue(database: Database, *announced: Announced, fail: bool = False) -> None:
    async def work(tx: Statements) -> None:
        await queue_payment_announcement(tx, announced, telling=TELLING, now_ms=NOW)
        if fail:
            raise RuntimeError("the transaction fails")

    await database.write(work)


def announced(shop: Shop, payment_id: str, **more: object) -> Announced:
    said = {
        "payment_id": payment_id, "terminal_id": shop.terminal_id, "merchant_name": "Warung Sari", "amount": 50_000,
        "paid_at_ms": NOW, "trace_id": "trc_1",
    } | more  # fmt: skip
    return Announced(**said)  # type: ignore[arg-type]


def said(sent: dict[str, object]) -> PaymentSuccess:
    device, topic = str(sent["recipient_id"]), str(sent["address"])
    return decode(PaymentSuccess, verify(seal.announcement_key(MASTER, device, 1), topic, bytes(sent["body"])))  # type: ignore[call-overload]


@pytest.mark.parametrize("original_id", [None, "ann_1"])
@pytest.mark.parametrize("name", ["Warung Sari", 'Toko "é" \\ 😀/', "a\x07b\u2028\u202ec", "~\x7f\x9f"])
async def test_the_bytes_are_the_models(database: Database, shop: Shop, name: str, original_id: str | None) -> None:
    device = await shop.box()
    payment = await shop.payment(device)
    await queue(database, announced(shop, payment.payment_id, merchant_name=name, original_id=original_id))

    (sent,) = await told(database, payment.payment_id)
    key, topic, body = seal.announcement_key(MASTER, device, 1), sent["address"], bytes(sent["body"])
    assert verify(key, topic, body) == encode(said(sent))


async def test_numbers_have_no_gap_after_a_transaction_that_failed(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await queue(database, announced(shop, "txn_1"))

    with pytest.raises(RuntimeError):
        await queue(database, announced(shop, "txn_2"), announced(shop, "txn_3"), fail=True)
    await queue(database, announced(shop, "txn_4"))

    numbered = await rows(database, "SELECT subject_id, seq FROM outbox_message ORDER BY seq")
    assert [(one["subject_id"], one["seq"]) for one in numbered] == [("txn_1", 1), ("txn_4", 2)]
    assert (await row(database, "SELECT last_seq FROM device WHERE id = $1", device))["last_seq"] == 2


async def test_two_processes_never_give_the_same_number_twice(database: Database, shop: Shop) -> None:
    await shop.box()
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        await asyncio.gather(*(queue([database, other][n % 2], announced(shop, f"txn_{n}")) for n in range(40)))
    finally:
        await other.close()

    numbered = await rows(database, "SELECT seq FROM outbox_message ORDER BY seq")
    assert [one["seq"] for one in numbered] == list(range(1, 41))


async def test_a_payment_is_announced_once_at_a_box_whatever_raced(database: Database, shop: Shop) -> None:
    await shop.box()
    await queue(database, announced(shop, "txn_1"))

    with pytest.raises(Exception, match=r"(?i)unique"):
        await queue(database, announced(shop, "txn_1"))

    assert len(await rows(database, "SELECT id FROM outbox_message")) == 1


async def test_a_replay_names_what_it_repeats_and_has_a_life_of_its_own(database: Database, shop: Shop) -> None:
    await shop.box()
    await queue(database, announced(shop, "txn_1"))
    (first,) = await told(database, "txn_1")

    await queue(database, announced(shop, "txn_1", original_id=first["id"]))

    _, again = await told(database, "txn_1")
    assert (again["original_id"], again["seq"]) == (first["id"], 2)
    assert again["id"] != first["id"]
    assert (said(again).original_event_id, said(again).seq) == (first["id"], 2)
    assert said(first).original_event_id is None


async def test_a_replay_can_go_to_one_box_alone(database: Database, shop: Shop) -> None:
    await shop.box()
    wanted = await shop.box()

    await queue(database, announced(shop, "txn_1", original_id="ann_1", device_id=wanted))

    assert [sent["recipient_id"] for sent in await told(database, "txn_1")] == [wanted]


@pytest.mark.parametrize("name", ["Warung Sari", "W" * 200, "Toko 寿司 " * 20, 'Kedai "Ü" \\ ', "🍜" * 60])
async def test_the_longest_announcement_still_fits_a_small_box(database: Database, name: str) -> None:
    shop = await open_shop(database, brand_name=name)
    payment = await shop.payment(await shop.box(), 10_000_000)

    await take(database, report(payment))

    (sent,) = await told(database, payment.payment_id)
    assert len(bytes(sent["body"])) <= MAX_PAYLOAD_BYTES
    assert name.startswith(said(sent).merchant_name)


async def test_no_word_of_a_callback_is_ever_spoken(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)

    await take(database, report(payment, issuer="Say This Instead", transaction_id="txn_of_theirs"))

    (sent,) = await told(database, payment.payment_id)
    assert b"Say This Instead" not in bytes(sent["body"])
    assert said(sent).transaction_id == payment.payment_id


async def test_a_new_activation_starts_over_with_a_new_key_and_new_numbers(database: Database, shop: Shop) -> None:
    device = await shop.box()
    payment = await shop.payment(device)
    await execute(database, "UPDATE device SET key_version = 2, last_seq = 0 WHERE id = $1", device)

    await take(database, report(payment))

    (sent,) = await told(database, payment.payment_id)
    key = seal.announcement_key(MASTER, device, 2)
    assert decode(PaymentSuccess, verify(key, str(sent["address"]), bytes(sent["body"]))).seq == 1
    await check_books(database)
