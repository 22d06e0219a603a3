"""A box asks for what it has not got: what lives is sent again, the rest is skipped, and nobody asks without end."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support.shop import LIFE_MS, MASTER, NOW, TELLING, Shop, execute, report, row, rows, take, told

from soundbox_protocol import MAX_PAYLOAD_BYTES
from soundbox_protocol.messages import PaymentMissing, PaymentSkip, decode
from soundbox_protocol.signing import verify
from soundbox_protocol.times import to_rfc3339
from soundbox_server import seal
from soundbox_server.announcements.mqtt import QUESTIONS_A_MINUTE, Gaps
from soundbox_server.db import Database, Statements
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.service import Answer
from soundbox_server.uplinks import Uplink


async def announce(shop: Shop, device: str, count: int) -> list[str]:
    """So many payments at NOW; their announcements' ids, by number."""
    payments = [await shop.payment(device) for _ in range(count)]
    await take(shop.database, *(report(payment) for payment in payments))
    numbered = await rows(
        shop.database, "SELECT id FROM outbox_message WHERE kind = 'payment_success' AND seq IS NOT NULL ORDER BY seq"
    )
    return [one["id"] for one in numbered]


def missing(device: str, from_seq: int, to_seq: int, *, at_ms: int = NOW + 2_000) -> Uplink[PaymentMissing]:
    message = PaymentMissing(device_id=device, timestamp=to_rfc3339(at_ms), from_seq=from_seq, to_seq=to_seq)
    return Uplink(device_id=device, message=message, payload=b"", received_at_ms=at_ms)


async def ask(database: Database, *asked: Uplink[PaymentMissing], gaps: Gaps | None = None) -> list[Any]:
    """What is published straight after the commit."""

    async def work(tx: Statements) -> list[Any]:
        await (gaps or Gaps(telling=TELLING))(tx, asked)
        return tx.queued

    return await database.write(work)


def skips(device: str, sent: Sequence[Any]) -> list[tuple[int, int]]:
    key, found = seal.announcement_key(MASTER, device, 1), []
    for message in sent:
        assert message.address == f"devices/{device}/downlink/payment/skip"
        assert len(message.body) <= MAX_PAYLOAD_BYTES
        skip = decode(PaymentSkip, verify(key, message.address, message.body))
        found.append((skip.from_seq, skip.to_seq))
    return found


async def due(database: Database, now_ms: int) -> list[int]:
    """The numbers that the next sweep sends."""

    async def work(tx: Statements) -> list[Any]:
        await outbox.expire(tx, now_ms=now_ms)
        await outbox.claim_due(tx, now_ms=now_ms, owner="test")
        return tx.queued

    return sorted(message.seq for message in await database.write(work))


async def test_what_lives_is_sent_again_at_once_and_what_does_not_is_skipped(database: Database, shop: Shop) -> None:
    device = await shop.box()
    ids = await announce(shop, device, 5)
    await execute(database, "UPDATE outbox_message SET state = 'rejected' WHERE id = $1", ids[1])
    await execute(database, "UPDATE outbox_message SET state = 'received' WHERE id = $1", ids[2])

    sent = await ask(database, missing(device, 1, 4))

    assert skips(device, sent) == [(2, 3)]
    assert await due(database, NOW + 2_000) == [1, 4]


async def test_what_is_only_waited_for_is_not_skipped(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await announce(shop, device, 3)

    assert await ask(database, missing(device, 1, 2)) == []


async def test_what_is_expiring_is_skipped_whether_the_sweep_has_seen_it_or_not(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await announce(shop, device, 2)

    before = await ask(database, missing(device, 1, 1, at_ms=NOW + LIFE_MS - 1))
    at_the_end = await ask(database, missing(device, 1, 1, at_ms=NOW + LIFE_MS))
    still = await due(database, NOW + LIFE_MS)
    after = await ask(database, missing(device, 1, 1, at_ms=NOW + LIFE_MS))

    assert (before, still) == ([], [])
    assert skips(device, at_the_end) == skips(device, after) == [(1, 1)]


async def test_a_question_while_the_sweep_ends_it_is_answered_one_way_or_the_other(
    database: Database, shop: Shop
) -> None:
    device = await shop.box()
    await announce(shop, device, 2)
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        sent, _ = await asyncio.gather(
            ask(database, missing(device, 1, 1, at_ms=NOW + LIFE_MS - 1)), due(other, NOW + LIFE_MS)
        )
    finally:
        await other.close()

    assert skips(device, sent) in ([], [(1, 1)])
    assert await due(database, NOW + LIFE_MS) == []


async def test_of_numbers_that_never_were_nothing_is_said(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await announce(shop, device, 2)

    assert await ask(database, missing(device, 3, 2**31 - 1)) == []


async def test_a_question_about_everything_costs_one_message(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await announce(shop, device, 2)
    await execute(database, "UPDATE device SET last_seq = 5000 WHERE id = $1", device)

    sent = await ask(database, missing(device, 1, 2**31 - 1))

    assert skips(device, sent) == [(1, 5_000)]  # the two that live lie below what the box would take in


async def test_another_boxs_announcements_are_not_sent_to_whoever_asks(database: Database, shop: Shop) -> None:
    await announce(shop, await shop.box(), 3)
    stranger = await shop.box()

    assert await ask(database, missing(stranger, 1, 3)) == []
    assert await due(database, NOW + 2_000) == []


async def test_questions_that_come_together_are_each_answered(database: Database, shop: Shop) -> None:
    device, other = await shop.box(), await (await shop.another_terminal()).box()
    ids = await announce(shop, device, 8)
    await execute(database, "UPDATE outbox_message SET state = 'rejected' WHERE id = $1", ids[3])

    sent = await ask(database, missing(device, 3, 4), missing(other, 1, 1), missing(device, 6, 7))

    assert skips(device, sent) == [(4, 4)]
    assert await due(database, NOW + 2_000) == [3, 6, 7]


async def test_of_many_questions_that_come_together_a_few_are_answered(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await execute(database, "UPDATE device SET last_seq = 100 WHERE id = $1", device)

    sent = await ask(database, *(missing(device, n, n) for n in (9, 1, 3, 5, 7, 11)))

    assert skips(device, sent) == [(5, 5), (7, 7), (9, 9), (11, 11)]


async def test_questions_that_overlap_are_answered_as_one(database: Database, shop: Shop) -> None:
    device = await shop.box()
    ids = await announce(shop, device, 3)
    await execute(database, "UPDATE outbox_message SET state = 'rejected' WHERE id <> $1", ids[0])

    sent = await ask(database, missing(device, 1, 2), missing(device, 1, 3))

    assert skips(device, sent) == [(2, 3)]


async def test_a_box_that_asks_without_end_is_answered_so_many_times_a_minute(database: Database, shop: Shop) -> None:
    device, calm = await shop.box(), await shop.box()
    await announce(shop, device, 1)
    await execute(database, "UPDATE outbox_message SET state = 'rejected'")
    gaps = Gaps(telling=TELLING)

    answers = [await ask(database, missing(device, 1, 1, at_ms=NOW + n), gaps=gaps) for n in range(100)]
    other = await ask(database, missing(calm, 1, 1, at_ms=NOW + 100), gaps=gaps)
    a_minute_later = await ask(database, missing(device, 1, 1, at_ms=NOW + 60_000), gaps=gaps)

    assert len([one for one in answers if one]) == QUESTIONS_A_MINUTE
    assert len(other) == len(a_minute_later) == 1


async def test_a_digest_fills_a_gap_too(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await announce(shop, device, 2)
    await execute(database, "UPDATE outbox_message SET kind = 'payment_digest' WHERE seq = 1")

    assert await ask(database, missing(device, 1, 1)) == []
    assert await due(database, NOW + 2_000) == [1]


@pytest.mark.parametrize("late", [True, False])
async def test_a_number_that_went_to_the_digest_is_skipped(database: Database, shop: Shop, late: bool) -> None:
    device = await shop.box()
    payment = await shop.payment(device)
    paid_at_ms = NOW - 700_000 if late else NOW
    await take(database, report(payment, paid_at_ms=paid_at_ms))
    await announce(shop, device, 1)

    sent = await ask(database, missing(device, 1, 1))

    assert skips(device, sent) == ([(1, 1)] if late else [])
    (first,) = await told(database, payment.payment_id)
    assert first["state"] == ("expired" if late else "published")


async def test_a_skip_is_sent_once(database: Database, shop: Shop) -> None:
    device = await shop.box()
    (only,) = await announce(shop, device, 1)
    answer = Answer(message_id=only, recipient_id=device, status="rejected")
    await database.write(lambda tx: outbox.acknowledge(tx, [answer], now_ms=NOW + 1))

    (sent,) = await ask(database, missing(device, 1, 1))

    kept = await row(database, "SELECT state, due_at_ms FROM outbox_message WHERE id = $1", sent.id)
    assert kept == {"state": "sent", "due_at_ms": None}
