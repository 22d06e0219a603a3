"""What a box missed is told once, in one sentence, and never what was heard."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.shop import LIFE_MS, MASTER, NOW, TELLING, Shop, execute, open_shop, report, row, rows, take

from soundbox_protocol.messages import PaymentDigest, Status, decode
from soundbox_protocol.signing import verify
from soundbox_protocol.times import to_rfc3339
from soundbox_server import seal
from soundbox_server.announcements import digest
from soundbox_server.announcements.mqtt import before_birth, on_birth
from soundbox_server.announcements.service import Announced, queue_payment_announcement
from soundbox_server.db import Database, Statements
from soundbox_server.devices import mqtt as devices
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.service import Answer
from soundbox_server.uplinks import Uplink

BACK = NOW + 300_000  # when the box is back, unless told otherwise


@dataclass
class Silence:
    """A shop whose box is away, or was."""

    shop: Shop
    device: str
    epochs: int = 1
    queued: list[Any] = field(default_factory=list)

    @property
    def database(self) -> Database:
        return self.shop.database

    async def pay(self, amount: int = 50_000, *, at_ms: int = NOW, paid_at_ms: int | None = None) -> str:
        """A payment taken at that moment. Its announcement's id."""
        payment = await self.shop.payment(self.device, amount, now_ms=at_ms)
        await take(self.database, report(payment, paid_at_ms=paid_at_ms or at_ms), now_ms=at_ms)
        told = await row(self.database, "SELECT id FROM outbox_message WHERE subject_id = $1", payment.payment_id)
        return str(told["id"])

    async def sweep(self, now_ms: int) -> None:
        async def work(tx: Statements) -> None:
            await outbox.expire(tx, now_ms=now_ms)
            await outbox.claim_due(tx, now_ms=now_ms, owner="test")

        await self.database.write(work)

    async def is_born(self, *, at_ms: int = BACK, has: int | None = 0, **capabilities: Any) -> list[str]:
        """A birth as the consumer hands it over: to every room, in one transaction. The ids of what goes out."""
        self.epochs += 1
        status = Status(
            device_id=self.device, timestamp=to_rfc3339(at_ms), state="online", session_epoch=self.epochs,
            last_announcement_seq=has, capabilities=capabilities,
        )  # fmt: skip
        uplink = Uplink(device_id=self.device, message=status, payload=b"", received_at_ms=at_ms)

        async def work(tx: Statements) -> list[str]:
            await before_birth(tx, [uplink])
            await devices.on_status(tx, [uplink])
            await on_birth(tx, [uplink])
            return [message.id for message in tx.queued]

        return await self.database.write(work)

    async def look(self, *, at_ms: int = BACK + 5_000, database: Database | None = None) -> None:
        """As the worker's job does."""
        database = database or self.database

        async def tell(tx: Statements) -> tuple[int, list[Any]]:
            return await digest.tell_some(tx, telling=TELLING, now_ms=at_ms), tx.queued

        await database.write(lambda tx: digest.forget_who_missed_nothing(tx, now_ms=at_ms))
        while True:
            looked_at, queued = await database.write(tell)
            self.queued += queued
            if not looked_at:
                return

    async def ack(self, event_id: str, status: str, *, at_ms: int, played_at_ms: int | None = None) -> None:
        answer = Answer(message_id=event_id, recipient_id=self.device, status=status, played_at_ms=played_at_ms)
        await self.database.write(lambda tx: outbox.acknowledge(tx, [answer], now_ms=at_ms))

    async def digests(self) -> list[PaymentDigest]:
        told = await rows(
            self.database, "SELECT address, body FROM outbox_message WHERE kind = 'payment_digest' ORDER BY id"
        )
        key = seal.announcement_key(MASTER, self.device, 1)
        return [decode(PaymentDigest, verify(key, one["address"], bytes(one["body"]))) for one in told]

    async def state(self, event_id: str) -> str:
        return str((await row(self.database, "SELECT state FROM outbox_message WHERE id = $1", event_id))["state"])

    async def is_awaited(self) -> bool:
        return bool(await rows(self.database, "SELECT device_id FROM announcement_digest"))


@pytest.fixture
async def away(shop: Shop) -> Silence:
    """Its box went away before the first payment."""
    silence = Silence(shop, await shop.box())
    await execute(shop.database, "UPDATE device_presence SET online = $1, offline_reason = 'will'", False)
    return silence


async def test_a_birth_that_a_broker_repeats_to_a_new_subscriber_begins_nothing(away: Silence) -> None:
    await away.is_born(at_ms=NOW - 10_000)
    await away.look(at_ms=NOW - 5_000)
    missed = await away.pay()
    await away.sweep(NOW + LIFE_MS + 10)

    away.epochs -= 1  # the same birth as before
    await away.is_born()
    awaited = await away.is_awaited()
    await away.is_born(at_ms=BACK + 1)  # and now the box itself
    await away.look(at_ms=BACK + 60_001)

    assert not awaited
    assert await away.state(missed) == "digested"


async def test_what_expired_while_the_box_was_away_is_told_once(away: Silence) -> None:
    missed = [await away.pay(amount, at_ms=NOW + n) for n, amount in enumerate((50_000, 75_000, 25_000))]
    await away.sweep(NOW + LIFE_MS + 10)

    await away.is_born()
    await away.look(at_ms=BACK + 4_999)
    assert await away.digests() == []
    await away.look(at_ms=BACK + 5_000)
    await away.look(at_ms=BACK + 60_000)

    (told,) = await away.digests()
    assert (told.count, told.amount, told.seq) == (3, 150_000, 4)
    assert (told.from_, told.to, told.expires_at) == (
        to_rfc3339(NOW), to_rfc3339(NOW), to_rfc3339(BACK + 5_000 + LIFE_MS),
    )  # fmt: skip
    assert [await away.state(one) for one in missed] == ["digested"] * 3
    assert not await away.is_awaited()
    (sent,) = away.queued
    (named,) = {one["digest_id"] for one in await rows(away.database, "SELECT digest_id FROM outbox_message "
                                                       "WHERE state = 'digested'")}  # fmt: skip
    assert named == sent.id == told.event_id
    assert len(sent.body) <= 512


async def test_what_the_box_took_in_is_not_counted_though_its_ack_was_lost(away: Silence) -> None:
    heard, missed = await away.pay(10_000), await away.pay(20_000)
    await away.sweep(NOW + LIFE_MS)

    await away.is_born(has=1)
    await away.look()

    assert [(one.count, one.amount) for one in await away.digests()] == [(1, 20_000)]
    assert (await away.state(heard), await away.state(missed)) == ("expired", "digested")


async def test_a_proof_that_comes_before_the_digest_takes_the_payment_out_of_it(away: Silence) -> None:
    played, missed = await away.pay(10_000), await away.pay(20_000)
    await away.sweep(NOW + LIFE_MS)

    await away.is_born(has=None)
    await away.ack(played, "played", at_ms=BACK + 1_000, played_at_ms=NOW + 30_000)
    await away.look()

    assert [one.amount for one in await away.digests()] == [20_000]
    assert (await away.state(played), await away.state(missed)) == ("played", "digested")


async def test_a_proof_and_the_digest_that_meet_count_the_payment_as_one_of_them(away: Silence) -> None:
    missed = await away.pay(20_000)
    await away.sweep(NOW + LIFE_MS)
    await away.is_born()
    other = Database(away.database.url.render_as_string(hide_password=False))
    answer = Answer(message_id=missed, recipient_id=away.device, status="played", played_at_ms=NOW + 9_000)
    try:
        await asyncio.gather(
            away.look(),
            other.write(lambda tx: outbox.acknowledge(tx, [answer], now_ms=BACK + 5_000)),
        )
    finally:
        await other.close()

    digests = await away.digests()
    assert (await away.state(missed), len(digests)) in (("played", 0), ("digested", 1))


async def test_two_workers_tell_it_once(away: Silence) -> None:
    await away.pay()
    await away.sweep(NOW + LIFE_MS)
    await away.is_born()
    other = Database(away.database.url.render_as_string(hide_password=False))
    try:
        await asyncio.gather(away.look(), away.look(database=other))
    finally:
        await other.close()

    assert [one.count for one in await away.digests()] == [1]
    assert (await row(away.database, "SELECT last_seq FROM device WHERE id = $1", away.device))["last_seq"] == 2


async def test_of_two_births_the_later_one_counts(away: Silence) -> None:
    await away.pay(10_000)
    await away.pay(20_000)
    await away.sweep(NOW + LIFE_MS)

    await away.is_born(has=0)
    await away.is_born(at_ms=BACK + 3_000, has=1)
    await away.look(at_ms=BACK + 7_999)
    assert await away.digests() == []
    await away.look(at_ms=BACK + 8_000)

    assert [(one.count, one.amount) for one in await away.digests()] == [(1, 20_000)]


async def test_what_still_lives_at_the_birth_is_said_itself(away: Silence) -> None:
    old = await away.pay(10_000)
    fresh = await away.pay(20_000, at_ms=BACK - 30_000)
    await away.sweep(BACK - 1_000)

    await away.is_born()
    await away.sweep(BACK + 500)
    await away.look()

    assert [one.amount for one in await away.digests()] == [10_000]
    assert (await away.state(old), await away.state(fresh)) == ("digested", "published")


async def test_what_expires_as_the_box_is_born_waits_until_no_copy_can_be_spoken(shop: Shop) -> None:
    """The hub believed the box online: the broker may hold the message, and a box half a minute behind says it."""
    silence = Silence(shop, await shop.box())
    await silence.pay(10_000)
    birth = NOW + LIFE_MS
    await silence.sweep(birth)

    await silence.is_born(at_ms=birth)
    await silence.look(at_ms=birth + 5_000)
    before = await silence.digests()
    await silence.look(at_ms=birth + 30_000)

    assert before == []
    assert [one.amount for one in await silence.digests()] == [10_000]


async def test_a_copy_spoken_at_the_last_moment_is_not_told_again(shop: Shop) -> None:
    silence = Silence(shop, await shop.box())
    event_id = await silence.pay(10_000)
    birth = NOW + LIFE_MS
    await silence.sweep(birth)
    await silence.is_born(at_ms=birth)
    await silence.look(at_ms=birth + 5_000)

    await silence.ack(event_id, "received", at_ms=birth + 7_000)
    await silence.ack(event_id, "played", at_ms=birth + 9_000, played_at_ms=birth + 8_000)
    await silence.look(at_ms=birth + 40_000)

    assert (await silence.digests(), await silence.state(event_id)) == ([], "played")


async def test_a_copy_spoken_within_the_skew_is_not_told_again_though_only_its_last_ack_came(shop: Shop) -> None:
    silence = Silence(shop, await shop.box())
    event_id = await silence.pay(10_000)
    birth = NOW + LIFE_MS
    await silence.sweep(birth)
    await silence.is_born(at_ms=birth)

    await silence.ack(event_id, "played", at_ms=birth + 9_000, played_at_ms=birth + 8_000)
    await silence.look(at_ms=birth + 40_000)

    assert (await silence.digests(), await silence.state(event_id)) == ([], "played")


async def test_what_the_box_skipped_as_stale_is_told(away: Silence) -> None:
    skipped = await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    await away.ack(skipped, "stale_skipped", at_ms=BACK - 1)

    await away.is_born(has=7)
    await away.look()

    assert [one.amount for one in await away.digests()] == [10_000]


@pytest.mark.parametrize(("sent", "amounts"), [(False, [10_000]), (True, [])])
async def test_of_a_box_that_does_not_say_what_it_has_only_what_was_never_sent_is_told(
    shop: Shop, sent: bool, amounts: list[int]
) -> None:
    silence = Silence(shop, await shop.box(online=sent))
    await silence.pay(10_000)
    await silence.sweep(NOW + LIFE_MS)

    await silence.is_born(has=None)
    await silence.look()

    assert [one.amount for one in await silence.digests()] == amounts


async def test_a_digest_that_nobody_heard_is_counted_into_the_next(away: Silence) -> None:
    await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    await away.is_born()
    await away.look()
    later = BACK + 1_000_000
    await away.sweep(later)
    await away.pay(30_000, at_ms=later)
    await away.sweep(later + LIFE_MS)

    await away.is_born(at_ms=later + 600_000)
    await away.look(at_ms=later + 605_000)

    first, second = await away.digests()
    assert (first.count, second.count, second.amount) == (1, 2, 40_000)
    assert (second.from_, second.to) == (to_rfc3339(NOW), to_rfc3339(later))


async def test_a_digest_that_was_heard_is_not_counted_again(away: Silence) -> None:
    await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    await away.is_born()
    await away.look()
    (told,) = await away.digests()
    await away.ack(told.event_id, "received", at_ms=BACK + 6_000)
    await away.ack(told.event_id, "played", at_ms=BACK + 9_000, played_at_ms=BACK + 8_000)

    await away.is_born(at_ms=BACK + 500_000, has=told.seq)
    await away.look(at_ms=BACK + 505_000)

    assert len(await away.digests()) == 1


async def test_what_was_heard_as_a_replay_is_not_told(away: Silence) -> None:
    missed = await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    payment = await row(away.database, "SELECT subject_id FROM outbox_message WHERE id = $1", missed)
    again = Announced(
        payment_id=payment["subject_id"], terminal_id=away.shop.terminal_id, merchant_name="Warung Sari",
        amount=10_000, paid_at_ms=NOW, trace_id="trc_1", original_id=missed,
    )  # fmt: skip
    await away.database.write(lambda tx: queue_payment_announcement(tx, [again], telling=TELLING, now_ms=BACK - 10_000))

    await away.is_born()
    await away.look()

    assert await away.digests() == []
    assert await away.state(missed) == "expired"


@pytest.mark.parametrize("state", ["refunded", "partially_refunded"])
async def test_money_that_was_given_back_is_not_told(away: Silence, state: str) -> None:
    given_back, kept = await away.pay(10_000), await away.pay(20_000)
    await away.sweep(NOW + LIFE_MS)
    await execute(
        away.database,
        "UPDATE payment SET state = $2 WHERE id = (SELECT subject_id FROM outbox_message WHERE id = $1)",
        given_back, state,
    )  # fmt: skip

    await away.is_born()
    await away.look()

    assert [(one.count, one.amount) for one in await away.digests()] == [(1, 20_000)]
    assert (await away.state(given_back), await away.state(kept)) == ("expired", "digested")


async def test_what_was_reported_late_goes_to_the_digest_of_a_box_that_was_there_all_the_time(shop: Shop) -> None:
    silence = Silence(shop, await shop.box())
    late = await silence.pay(10_000, at_ms=BACK, paid_at_ms=BACK - 700_000)
    in_time = await silence.pay(20_000, at_ms=BACK)
    await silence.sweep(BACK + LIFE_MS)

    await silence.look(at_ms=BACK + LIFE_MS)

    (told,) = await silence.digests()
    assert (told.count, told.amount, told.from_) == (1, 10_000, to_rfc3339(BACK - 700_000))
    kept = await row(silence.database, "SELECT state, reason FROM outbox_message WHERE id = $1", late)
    assert kept == {"state": "digested", "reason": "reported_late"}
    assert await silence.state(in_time) == "expired"  # sent to a box that was there: its next birth tells


async def test_what_was_reported_late_waits_for_a_box_that_is_away(away: Silence) -> None:
    await away.pay(10_000, at_ms=NOW, paid_at_ms=NOW - 700_000)
    await away.look(at_ms=NOW + 5_000)
    before = await away.digests()

    await away.is_born()
    await away.look()

    assert before == []
    assert [one.amount for one in await away.digests()] == [10_000]


async def test_another_shop_does_not_hear_what_the_box_missed_where_it_stood(away: Silence) -> None:
    await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    elsewhere = await open_shop(away.database)
    await execute(
        away.database,
        "UPDATE device_binding SET terminal_id = $2, outlet_id = $3, merchant_id = $4, bound_at_ms = $5 "
        "WHERE device_id = $1",
        away.device, elsewhere.terminal_id, elsewhere.outlet_id, elsewhere.merchant_id, BACK - 1_000,
    )  # fmt: skip

    await away.is_born()
    await away.look()

    assert await away.digests() == []


async def test_numbers_of_an_earlier_activation_are_not_compared_with_the_new_ones(away: Silence) -> None:
    await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    await execute(away.database, "UPDATE device SET activated_at_ms = $2 WHERE id = $1", away.device, BACK - 1_000)

    await away.is_born()
    await away.look()

    assert await away.digests() == []


@pytest.mark.parametrize("why", ["capability", "configuration", "suspended", "gone again"])
async def test_a_box_that_is_not_to_be_told_is_not(away: Silence, why: str) -> None:
    missed = await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    if why == "configuration":
        await execute(
            away.database,
            "INSERT INTO device_config (device_id, version, config, sha256, built_from, state, key_version) "
            "VALUES ($1, 1, $2, 'x', 'x', 'applied', 1)",
            away.device, '{"digest":false}',
        )  # fmt: skip
    await away.is_born(**({"digest": False} if why == "capability" else {}))
    if why == "suspended":
        await execute(away.database, "UPDATE device SET state = 'suspended' WHERE id = $1", away.device)
    if why == "gone again":
        await execute(away.database, "UPDATE device_presence SET online = $1", False)

    await away.look()

    assert (await away.digests(), await away.state(missed), await away.is_awaited()) == ([], "expired", False)


async def test_a_stray_birth_makes_no_digest(away: Silence) -> None:
    """Not later than the session that runs: another box with this one's name."""
    await away.pay(10_000)
    await away.sweep(NOW + LIFE_MS)
    await away.is_born(at_ms=BACK)
    await away.look()
    away.epochs = 0

    await away.is_born(at_ms=BACK + 10_000)

    assert not await away.is_awaited()


async def test_a_box_that_missed_nothing_is_forgotten(away: Silence) -> None:
    await away.is_born()
    await away.look()

    assert (await away.digests(), await away.is_awaited()) == ([], False)


async def test_more_than_can_be_said_is_told_in_parts(away: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await away.pay(40_000)
    await away.sweep(NOW + LIFE_MS)
    monkeypatch.setattr(digest, "MAX_AMOUNT", 100_000)

    await away.is_born()
    await away.look()
    await away.is_born(at_ms=BACK + 100_000)
    await away.look(at_ms=BACK + 105_000)

    assert [one.amount for one in await away.digests()] == [80_000, 40_000]


async def test_a_box_in_quarantine_is_not_asked_what_became_of_what_it_received(database: Database) -> None:
    """Of two with one name nobody knows which one would answer."""
    shop = await open_shop(database)
    silence = Silence(shop, await shop.box())
    announcement = await silence.pay()
    await execute(
        database, "UPDATE outbox_message SET state = 'received', received_at_ms = $2 WHERE id = $1", announcement, NOW
    )
    asked = await silence.is_born(at_ms=NOW + 10_000)
    await execute(database, "UPDATE device_presence SET online = FALSE, quarantine = 'cloned'")
    in_quarantine = await silence.is_born(at_ms=NOW + 20_000)

    assert announcement in asked
    assert announcement not in in_quarantine
