"""A message on its way to a box: sent again until it is answered or too old, and never twice for the same attempt."""

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shop import LIFE_MS, NOW, Shop, report, row, rows, take, told

from soundbox_server.db import Database, Statements
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.service import NO_PLAY_REPORT_MS, SKEW_MS, Answer, Hop
from soundbox_server.outbox.state import TRANSITIONS, Delivery, may_follow

LAST_WORDS = {Delivery.PLAYED, Delivery.REJECTED, Delivery.SUPPRESSED, Delivery.DIGESTED, Delivery.SENT}


async def announce(database: Database, shop: Shop, *, online: bool = True) -> tuple[str, str]:
    """(event id, device id) of an announcement made at NOW."""
    device = await shop.box(online=online)
    payment = await shop.payment(device)
    await take(database, report(payment))
    (sent,) = await told(database, payment.payment_id)
    return sent["id"], device


async def sweep(database: Database, now_ms: int, *, owner: str = "worker") -> list[outbox.Message]:
    async def work(tx: Statements) -> list[outbox.Message]:
        await outbox.expire(tx, now_ms=now_ms)
        await outbox.claim_due(tx, now_ms=now_ms, owner=owner)
        return tx.queued

    return await database.write(work)


async def ack(
    database: Database,
    event_id: str,
    device: str,
    status: str,
    *,
    now_ms: int = NOW + 1_000,
    played_at_ms: int | None = None,
    reason: str | None = None,
) -> list[Hop]:
    answer = Answer(message_id=event_id, recipient_id=device, status=status, played_at_ms=played_at_ms, reason=reason)
    return await database.write(lambda tx: outbox.acknowledge(tx, [answer], now_ms=now_ms))


async def ask_again(database: Database, device: str, now_ms: int) -> list[outbox.Message]:
    async def work(tx: Statements) -> list[outbox.Message]:
        await outbox.ask_again(tx, recipients=[device], now_ms=now_ms)
        return tx.queued

    return await database.write(work)


async def message(database: Database, event_id: str) -> dict[str, Any]:
    return await row(database, "SELECT * FROM outbox_message WHERE id = $1", event_id)


async def state_of(database: Database, event_id: str) -> str:
    return str((await message(database, event_id))["state"])


async def test_an_unanswered_message_is_sent_after_5_5_10_10_10_10_seconds_and_then_expires(
    database: Database, shop: Shop
) -> None:
    event_id, _ = await announce(database, shop)

    sent_at_s = [second for second in range(130) for _ in await sweep(database, NOW + second * 1_000)]

    assert sent_at_s == [5, 10, 20, 30, 40, 50]
    ended = await message(database, event_id)
    assert (ended["state"], ended["attempt"], ended["finished_at_ms"]) == ("expired", 7, NOW + LIFE_MS)


async def test_a_message_is_not_due_a_millisecond_early(database: Database, shop: Shop) -> None:
    event_id, _ = await announce(database, shop)

    early = await sweep(database, NOW + 4_999)
    on_time = await sweep(database, NOW + 5_000, owner="another worker")

    assert early == []
    (again,) = on_time
    assert (again.id, again.attempt) == (event_id, 2)
    claimed = await message(database, event_id)
    assert (claimed["owner"], claimed["due_at_ms"]) == ("another worker", NOW + 10_000)


async def test_a_message_goes_out_with_the_bytes_it_was_born_with(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop)
    born = await message(database, event_id)

    (again,) = await sweep(database, NOW + 5_000)

    assert (again.address, again.body) == (f"devices/{device}/downlink/payment/success", bytes(born["body"]))
    assert (again.seq, again.trace_id, again.expires_at_ms) == (1, born["trace_id"], NOW + LIFE_MS)


async def test_a_message_lives_until_its_last_millisecond(database: Database, shop: Shop) -> None:
    event_id, _ = await announce(database, shop)
    for second in (5, 10, 20, 30, 40):
        await sweep(database, NOW + second * 1_000)

    assert len(await sweep(database, NOW + LIFE_MS - 1)) == 1
    assert await sweep(database, NOW + LIFE_MS) == []
    assert await state_of(database, event_id) == "expired"


async def test_received_stops_the_resending(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop)

    (hop,) = await ack(database, event_id, device, "received", now_ms=NOW + 400)

    assert (hop.state, hop.ms_since_created, hop.recipient_id) == (Delivery.RECEIVED, 400, device)
    for second in range(0, 70, 5):
        assert await sweep(database, NOW + second * 1_000) == []


async def test_played_is_the_boxs_own_time_where_it_can_be_true(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop)
    await ack(database, event_id, device, "received", now_ms=NOW + 400)

    await ack(database, event_id, device, "played", now_ms=NOW + 3_000, played_at_ms=NOW + 2_500)

    heard = await message(database, event_id)
    assert (heard["state"], heard["received_at_ms"], heard["played_at_ms"]) == ("played", NOW + 400, NOW + 2_500)
    assert heard["finished_at_ms"] == NOW + 3_000


@pytest.mark.parametrize("claimed_ms", [None, NOW - 1, NOW + 3_001, 0])
async def test_a_time_that_cannot_be_is_replaced_by_when_the_word_came(
    database: Database, shop: Shop, claimed_ms: int | None
) -> None:
    event_id, device = await announce(database, shop)

    await ack(database, event_id, device, "played", now_ms=NOW + 3_000, played_at_ms=claimed_ms)

    heard = await message(database, event_id)
    assert (heard["received_at_ms"], heard["played_at_ms"]) == (NOW + 3_000, NOW + 3_000)


@pytest.mark.parametrize(("played_at_ms", "state"), [(None, "received"), (NOW + 700, "played")])
async def test_a_duplicate_proves_what_the_box_did_the_first_time(
    database: Database, shop: Shop, played_at_ms: int | None, state: str
) -> None:
    event_id, device = await announce(database, shop)

    await ack(database, event_id, device, "duplicate", played_at_ms=played_at_ms)

    assert await state_of(database, event_id) == state


async def test_a_duplicate_after_received_changes_nothing_unless_it_proves_the_playing(
    database: Database, shop: Shop
) -> None:
    event_id, device = await announce(database, shop)
    await ack(database, event_id, device, "received")

    nothing = await ack(database, event_id, device, "duplicate")
    (played,) = await ack(database, event_id, device, "duplicate", played_at_ms=NOW + 500)

    assert nothing == []
    assert played.state is Delivery.PLAYED


async def test_another_boxs_ack_changes_nothing(database: Database, shop: Shop) -> None:
    event_id, _ = await announce(database, shop)
    stranger = await shop.box()
    before = await message(database, event_id)

    for status in ("received", "played", "rejected", "failed", "stale_skipped", "duplicate"):
        assert await ack(database, event_id, stranger, status) == []

    assert await message(database, event_id) == before


async def test_an_ack_for_nothing_is_ignored(database: Database, shop: Shop) -> None:
    device = await shop.box()

    assert await ack(database, "ann_of_nobody", device, "played") == []


async def test_a_message_received_but_never_reported_played_has_failed(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop)
    await ack(database, event_id, device, "received")

    await sweep(database, NOW + LIFE_MS + NO_PLAY_REPORT_MS - 1)
    still = await state_of(database, event_id)
    await sweep(database, NOW + LIFE_MS + NO_PLAY_REPORT_MS)

    ended = await message(database, event_id)
    assert still == "received"
    assert (ended["state"], ended["reason"]) == ("failed", "no_play_report")


async def test_the_boxs_word_is_better_than_our_guess(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop)
    await ack(database, event_id, device, "received")
    await sweep(database, NOW + LIFE_MS + NO_PLAY_REPORT_MS)

    await ack(database, event_id, device, "played", now_ms=NOW + 10**7, played_at_ms=NOW + 2_000)

    heard = await message(database, event_id)
    assert (heard["state"], heard["reason"], heard["played_at_ms"]) == ("played", None, NOW + 2_000)


async def test_a_late_proof_turns_expired_into_played(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop)
    await sweep(database, NOW + LIFE_MS)
    assert await state_of(database, event_id) == "expired"

    await ack(database, event_id, device, "received", now_ms=NOW + 90_000)
    await ack(database, event_id, device, "played", now_ms=NOW + 90_000, played_at_ms=NOW + 9_000)

    heard = await message(database, event_id)
    assert (heard["state"], heard["played_at_ms"]) == ("played", NOW + 9_000)


@pytest.mark.parametrize(
    ("played_at_ms", "state"),
    [(NOW + LIFE_MS + SKEW_MS, "played"), (NOW + LIFE_MS + SKEW_MS + 1, "expired"), (None, "expired")],
)
async def test_only_proof_of_having_spoken_in_time_counts_after_the_end(
    database: Database, shop: Shop, played_at_ms: int | None, state: str
) -> None:
    event_id, device = await announce(database, shop)
    await sweep(database, NOW + LIFE_MS)

    await ack(database, event_id, device, "played", now_ms=NOW + 10**6, played_at_ms=played_at_ms)

    assert await state_of(database, event_id) == state


@pytest.mark.parametrize("status", ["failed", "rejected", "stale_skipped"])
async def test_why_it_was_not_spoken_counts_after_the_end_too(database: Database, shop: Shop, status: str) -> None:
    event_id, device = await announce(database, shop)
    await sweep(database, NOW + LIFE_MS)

    await ack(database, event_id, device, status, now_ms=NOW + 90_000, reason="interrupted")

    ended = await message(database, event_id)
    assert (ended["state"], ended["reason"], ended["finished_at_ms"]) == (status, "interrupted", NOW + 90_000)


async def test_a_box_that_comes_back_gets_what_is_still_alive_and_nothing_older(database: Database, shop: Shop) -> None:
    device = await shop.box(online=False)
    old, young = await shop.payment(device), await shop.payment(device)
    await take(database, report(old), now_ms=NOW)
    await take(database, report(young), now_ms=NOW + 30_000)
    await sweep(database, NOW + 61_000)

    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW + 61_000))
    sent = await sweep(database, NOW + 61_000)

    assert [(one.subject_id, one.attempt) for one in sent] == [(young.payment_id, 1)]
    (missed,) = await told(database, old.payment_id)
    assert missed["state"] == "expired"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_birth_reads_what_waits_and_not_all_that_the_box_was_ever_sent(database: Database) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []

    async def listen(tx: Any) -> list[str]:
        fetch = tx.fetch
        tx.fetch = lambda sql, *args: asked.append((sql, args)) or fetch(sql, *args)
        await outbox.make_due(tx, recipients=["sbx_001"], now_ms=NOW)
        ((sql, args),) = asked
        return [row["detail"] for row in await fetch("EXPLAIN QUERY PLAN " + sql, *args)]

    plan = await database.write(listen)

    assert any("outbox_due" in step for step in plan)
    assert not any("outbox_recipient" in step for step in plan)


async def test_an_offline_boxs_message_follows_the_schedule_from_its_birth_on(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop, online=False)
    assert await sweep(database, NOW + 20_000) == []
    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW + 21_000))

    sent_at_s = [second for second in range(21, 70) if await sweep(database, NOW + second * 1_000)]

    assert sent_at_s == [21, 26, 31, 41, 51]
    assert await state_of(database, event_id) == "expired"


async def test_two_sweeps_at_once_never_send_the_same_attempt_twice(database: Database, shop: Shop) -> None:
    device = await shop.box()
    payments = [await shop.payment(device, 1_000 + n) for n in range(30)]
    await take(database, *[report(payment) for payment in payments])
    others = [Database(database.url.render_as_string(hide_password=False)) for _ in range(2)]
    sent: list[outbox.Message] = []
    try:
        for second in (5, 10, 20, 30):
            sweeps = [sweep(one, NOW + second * 1_000) for one in (*others, *others, database)]
            sent += itertools.chain.from_iterable(await asyncio.gather(*sweeps))
    finally:
        for one in others:
            await one.close()

    attempts = Counter((one.id, one.attempt) for one in sent)
    assert set(attempts.values()) == {1}
    assert len(attempts) == 30 * 4


async def test_a_claim_of_an_attempt_that_has_passed_is_void(database: Database, shop: Shop) -> None:
    """The fence itself: whoever read the row before somebody else claimed it may not claim it again."""
    event_id, _ = await announce(database, shop)
    stale = (event_id, NOW + 99_000, "slow worker", 1, NOW)
    await sweep(database, NOW + 5_000)

    await database.write(lambda tx: tx.many(outbox._CLAIM, [stale]))

    claimed = await message(database, event_id)
    assert (claimed["attempt"], claimed["owner"], claimed["due_at_ms"]) == (2, "worker", NOW + 10_000)


async def test_messages_without_an_answer_are_sent_once(database: Database, shop: Shop) -> None:
    device = await shop.box()
    told_once = outbox.Message(
        id="tim_1", kind="time", recipient_id=device, address="a", body=b"{}", created_at_ms=NOW, expires_at_ms=None,
        trace_id="trc", state=Delivery.SENT,
    )  # fmt: skip

    async def work(tx: Statements) -> list[outbox.Message]:
        await outbox.queue(tx, [told_once], owner="worker")
        return tx.queued

    assert await database.write(work) == [told_once]
    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW))
    assert await sweep(database, NOW + 10**9) == []


async def test_when_it_was_first_claimed_for_sending_is_written_once(database: Database, shop: Shop) -> None:
    event_id, _ = await announce(database, shop)
    born = (await message(database, event_id))["published_at_ms"]
    await sweep(database, NOW + 5_000)

    assert (born, (await message(database, event_id))["published_at_ms"]) == (NOW, NOW)


async def test_what_waits_for_a_birth_is_published_when_it_is_claimed(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop, online=False)
    waiting = (await message(database, event_id))["published_at_ms"]
    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW + 2_000))
    await sweep(database, NOW + 2_001)

    assert (waiting, (await message(database, event_id))["published_at_ms"]) == (None, NOW + 2_001)


async def test_the_depth_counts_what_still_has_somewhere_to_go(database: Database, shop: Shop) -> None:
    await announce(database, shop, online=False)
    terminal = await shop.another_terminal()
    event_id, device = await announce(database, terminal)
    await announce(database, await shop.another_terminal())
    await ack(database, event_id, device, "received")

    assert await database.write(outbox.depth) == {"queued": 1, "published": 1}


async def test_no_order_of_answers_takes_a_message_backwards(database: Database, shop: Shop) -> None:
    """Every order of up to four things that can happen, each on a message of its own."""
    kinds = ["received", "played", "duplicate", "failed", "stale_skipped", "expire"]
    orders = list(itertools.permutations(kinds, 4))
    device = await shop.box()
    payment = await shop.payment(device)
    await take(database, report(payment))
    (born,) = await told(database, payment.payment_id)
    ids = [f"ann_{n}" for n in range(len(orders))]
    copies = [(name, n + 2) for n, name in enumerate(ids)]
    await database.write(lambda tx: tx.many(_COPY.format(born["id"]), copies))
    now_ms = NOW

    for step in range(4):
        now_ms += 1_000
        before = await _states(database)
        acks = [
            Answer(message_id=name, recipient_id=device, status=order[step], played_at_ms=_played_at(order[step]))
            for name, order in zip(ids, orders, strict=True)
            if order[step] != "expire"
        ]
        await database.write(lambda tx, acks=acks, at=now_ms: outbox.acknowledge(tx, acks, now_ms=at))  # type: ignore[misc]
        expiring = [(name,) for name, order in zip(ids, orders, strict=True) if order[step] == "expire"]
        await database.write(lambda tx, expiring=expiring: tx.many(_EXPIRE_ONE, expiring))  # type: ignore[misc]
        after = await _states(database)
        for name in ids:
            moved = before[name] != after[name]
            assert not moved or may_follow(before[name], Delivery(after[name])), (before[name], after[name])

    final = await _states(database)
    for name, order in zip(ids, orders, strict=True):
        if "played" in order and "stale_skipped" not in order[: order.index("played")]:
            assert final[name] == "played", order
        assert final[name] not in ("queued", "published"), order


_COPY = (
    "INSERT INTO outbox_message (id, transport, kind, recipient_id, subject_id, original_id, seq, address, body, "
    "state, attempt, due_at_ms, expires_at_ms, created_at_ms, trace_id) "
    "SELECT $1, transport, kind, recipient_id, subject_id, id, $2, address, body, state, attempt, due_at_ms, "
    "expires_at_ms, created_at_ms, trace_id FROM outbox_message "
    "WHERE id = '{}'"
)
_EXPIRE_ONE = "UPDATE outbox_message SET state = 'expired' WHERE id = $1 AND state IN ('queued', 'published')"


def _played_at(status: str) -> int | None:
    return NOW + 500 if status == "played" else None


async def _states(database: Database) -> dict[str, str]:
    return {one["id"]: one["state"] for one in await rows(database, "SELECT id, state FROM outbox_message")}


@given(st.lists(st.sampled_from(list(Delivery)), max_size=12))
def test_no_walk_through_the_table_comes_back_to_where_it_was(wishes: list[Delivery]) -> None:
    state, been = Delivery.QUEUED, [Delivery.QUEUED]
    for wish in wishes:
        if may_follow(state, wish):
            state = wish
            assert state not in been
            been.append(state)


def test_what_is_final_leads_nowhere_and_everything_else_leads_on() -> None:
    assert {state for state, then in TRANSITIONS.items() if not then} == LAST_WORDS
    assert set(TRANSITIONS) == set(Delivery)


async def test_a_box_that_comes_back_is_asked_what_became_of_what_it_received(database: Database, shop: Shop) -> None:
    event_id, device = await announce(database, shop)
    await ack(database, event_id, device, "received")
    before = await message(database, event_id)

    asked = await ask_again(database, device, NOW + LIFE_MS + NO_PLAY_REPORT_MS - 1)
    too_late = await ask_again(database, device, NOW + LIFE_MS + NO_PLAY_REPORT_MS)
    unchanged = await message(database, event_id)
    await ack(database, event_id, device, "duplicate", played_at_ms=NOW + 2_000)
    answered = await ask_again(database, device, NOW + LIFE_MS)

    assert [(one.id, one.body, one.address) for one in asked] == [(event_id, before["body"], before["address"])]
    assert (too_late, answered) == ([], [])
    assert unchanged == before
    assert (await message(database, event_id))["state"] == "played"
