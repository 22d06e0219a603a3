"""Who can be reached: sessions, silence, two boxes of one name, and the races between what is said of them."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.hub import open_hub
from support.shop import MASTER, NOW, Shop, execute, report, row, rows, take
from support.staff import Staff, audited

from soundbox_protocol.messages import Status
from soundbox_protocol.times import to_rfc3339
from soundbox_server import clock, seal
from soundbox_server.commands import service as commands
from soundbox_server.commands.kinds import KINDS
from soundbox_server.db import Database, Statements
from soundbox_server.devices import lifecycle, presence
from soundbox_server.devices import mqtt as door
from soundbox_server.devices import service as devices
from soundbox_server.devices.jobs import watch_presence
from soundbox_server.devices.presence import (
    CALM_MS,
    FLAPPING_AT,
    GRACE_MS,
    HEARTBEAT_S,
    WINDOW_MS,
    Clock,
    Reach,
    Session,
    can_speak,
    clock_of,
    reach,
)
from soundbox_server.devices.service import Vitals
from soundbox_server.outbox import service as outbox
from soundbox_server.uplinks import Uplink

SILENT_MS = 3 * HEARTBEAT_S * 1000 + GRACE_MS


@pytest.fixture
async def box(shop: Shop) -> str:
    """A box that was never heard of."""
    return await shop.box(online=False)


@pytest.fixture
async def operator(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_operator", "operator")


def birth(box: str, epoch: int, at_ms: int = NOW, *, said_at_ms: int | None = None) -> Session:
    said = at_ms if said_at_ms is None else said_at_ms
    return Session(device_id=box, online=True, epoch=epoch, at_ms=at_ms, said_at_ms=said)


def will(box: str, epoch: int, at_ms: int = NOW) -> Session:
    return Session(device_id=box, online=False, epoch=epoch, at_ms=at_ms)


async def say(database: Database, *sessions: Session) -> list[str]:
    return await database.write(lambda tx: presence.take_sessions(tx, sessions))


async def beat(database: Database, box: str, at_ms: int, *, source: str = "mqtt", **said: Any) -> None:
    unsaid: dict[str, Any] = dict.fromkeys(("firmware_version", "network_strength", "battery_level", "state", "volume"))
    vitals = Vitals(device_id=box, payload=b"{}", source=source, received_at_ms=at_ms, **unsaid | said)
    await database.write(lambda tx: devices.take_heartbeats(tx, [vitals]))


async def swept(database: Database, now_ms: int) -> list[outbox.Message]:
    """What the next sweep sends."""

    async def claim(tx: Statements) -> list[outbox.Message]:
        await outbox.claim_due(tx, now_ms=now_ms, owner="test")
        return list(tx.queued)

    return await database.write(claim)


async def fall_silent(database: Database, now_ms: int) -> list[str]:
    """As the worker does it: look, and look again under the locks."""
    found = await database.read(lambda tx: presence.silent(tx, now_ms=now_ms))
    return await database.write(lambda tx: presence.end_silent(tx, found, now_ms=now_ms))


async def seen(database: Database, box: str) -> tuple[bool, str | None]:
    found = await row(database, "SELECT online, offline_reason FROM device_presence WHERE device_id = $1", box)
    return bool(found["online"]), found["offline_reason"]


async def times(database: Database, box: str) -> list[tuple[int, int | None, str | None]]:
    found = await rows(
        database,
        "SELECT began_at_ms, ended_at_ms, end_reason FROM device_online WHERE device_id = $1 ORDER BY began_at_ms, id",
        box,
    )
    return [(one["began_at_ms"], one["ended_at_ms"], one["end_reason"]) for one in found]


# --- reachable, can speak -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("online", "born", "heard", "now", "expected"),
    [
        (False, 0, 10, 20, Reach.OFFLINE),
        (True, 0, None, 20, Reach.CONNECTING),  # never heartbeated is never online
        (True, 100, 50, 120, Reach.CONNECTING),  # that heartbeat was another session's
        (True, 0, 10, 10 + 2 * 30_000 + GRACE_MS, Reach.ONLINE),
        (True, 0, 10, 11 + 2 * 30_000 + GRACE_MS, Reach.STALE),
    ],
)
def test_a_box_is_reachable_as_its_heartbeats_say(
    online: bool, born: int, heard: int | None, now: int, expected: Reach
) -> None:
    assert reach(online=online, session_at_ms=born, heartbeat_at_ms=heard, every_s=30, now_ms=now) is expected


@pytest.mark.parametrize(
    ("volume", "state", "speaks"),
    [(None, None, None), (0, "idle", False), (10, "idle", True), (80, "fault", False), (None, "idle", True)],
)
def test_a_box_speaks_when_it_is_loud_enough_and_whole(
    volume: int | None, state: str | None, speaks: bool | None
) -> None:
    assert can_speak(volume=volume, state=state) is speaks
    assert can_speak(volume=volume, state=state, clock=Clock.NONE) is False  # it cannot tell what is too late


@pytest.mark.parametrize(
    ("has_clock", "asked_at_ms", "clock"),
    [(True, None, Clock.OWN), (False, None, Clock.NONE), (False, NOW - 1, Clock.NONE), (False, NOW, Clock.HUB)],
)
def test_a_box_without_a_clock_has_the_time_once_it_asked_in_its_session(
    has_clock: bool, asked_at_ms: int | None, clock: Clock
) -> None:
    assert clock_of(has_clock=has_clock, time_asked_at_ms=asked_at_ms, session_at_ms=NOW) is clock


async def test_three_missing_heartbeats_are_an_end_and_the_next_one_a_beginning(database: Database, box: str) -> None:
    await say(database, birth(box, 1))
    await beat(database, box, NOW + 1_000)

    too_early = await fall_silent(database, NOW + 999 + SILENT_MS)
    gone = await fall_silent(database, NOW + 1_000 + SILENT_MS)
    meanwhile = await seen(database, box)
    await beat(database, box, NOW + 400_000)

    assert (too_early, gone) == ([], [box])
    assert (meanwhile, await seen(database, box)) == ((False, "silent"), (True, None))
    assert await times(database, box) == [
        (NOW, NOW + 1_000 + SILENT_MS, "silent"), (NOW + 400_000, None, None),
    ]  # fmt: skip


async def test_a_box_that_never_sends_one_does_not_stay_online(database: Database, box: str) -> None:
    await say(database, birth(box, 1))

    assert await fall_silent(database, NOW + SILENT_MS) == [box]


async def test_a_box_that_was_told_to_send_seldom_is_waited_for(database: Database, box: str) -> None:
    await say(database, birth(box, 1))
    await database.write(lambda tx: presence.expect_heartbeats(tx, box, 600, now_ms=NOW))

    assert await fall_silent(database, NOW + SILENT_MS) == []
    assert await fall_silent(database, NOW + 3 * 600_000 + GRACE_MS) == [box]


async def test_a_box_that_takes_another_interval_is_waited_for_from_then_on(database: Database, box: str) -> None:
    """Its last heartbeat is as old as the interval before allowed."""
    await say(database, birth(box, 1))
    await database.write(lambda tx: presence.expect_heartbeats(tx, box, 600, now_ms=NOW))
    await beat(database, box, NOW + 1_000)
    taken_ms = NOW + 400_000
    await database.write(lambda tx: presence.expect_heartbeats(tx, box, HEARTBEAT_S, now_ms=taken_ms))

    assert await fall_silent(database, taken_ms + SILENT_MS - 1) == []
    assert await fall_silent(database, taken_ms + SILENT_MS) == [box]


async def test_what_was_said_while_nobody_listened_is_not_missing(database: Database, shop: Shop) -> None:
    """A worker that was away comes back: the boxes were connected all the time, and their heartbeats are nowhere."""
    now_ms = clock.now_ms()
    box, seldom = await shop.box(online=False), await shop.box(online=False)
    await say(database, birth(box, 1, now_ms - 10 * SILENT_MS), birth(seldom, 1, now_ms - 10 * SILENT_MS))
    await database.write(lambda tx: presence.expect_heartbeats(tx, seldom, 600, now_ms=now_ms - 10 * SILENT_MS))

    online = []
    for listening_since_ms in (None, now_ms, now_ms - SILENT_MS + 60_000, now_ms - SILENT_MS):
        await watch_presence(database, listening_since_ms=listening_since_ms)
        online.append([(await seen(database, one))[0] for one in (box, seldom)])

    assert online == [[True, True], [True, True], [True, True], [False, True]]


# --- races --------------------------------------------------------------------------------------------------------


async def test_an_old_will_in_any_order_does_not_end_the_new_session(database: Database, shop: Shop) -> None:
    """Race 1: the broker sends the will of the session that a new connection replaced, before or after its birth."""
    for order in itertools.permutations(range(3)):
        box = await shop.box(online=False)
        said = [birth(box, 1), will(box, 1, NOW + 2), birth(box, 2, NOW + 1)]
        await say(database, *(said[number] for number in order))

        assert (await seen(database, box))[0], order


async def test_what_the_broker_kept_begins_no_session_and_is_no_other_box(database: Database, box: str) -> None:
    """Race 2: a worker that starts gets the retained birth again, which is as old as it was."""
    await say(database, birth(box, 7))
    for _ in range(5):
        assert await say(database, birth(box, 7, NOW + 60_000, said_at_ms=NOW)) == []

    assert await rows(database, "SELECT id FROM alert") == []
    assert await times(database, box) == [(NOW, None, None)]


async def test_what_the_broker_kept_does_not_bring_back_a_box_that_fell_silent(database: Database, box: str) -> None:
    """Nobody unplugged the broker's copy. What a box says anew brings it back, whatever it is."""
    await say(database, birth(box, 7))
    await fall_silent(database, NOW + SILENT_MS)
    began = [await say(database, birth(box, 7, NOW + n * 300_000, said_at_ms=NOW)) for n in (1, 2)]
    kept = await seen(database, box)
    anew = await say(database, birth(box, 7, NOW + 700_000))

    assert (began, kept) == ([[], []], (False, "silent"))
    assert (anew, await seen(database, box)) == ([box], (True, None))


async def test_a_birth_of_the_life_before_an_activation_begins_no_session(database: Database, box: str) -> None:
    """The broker keeps it, and says it to a worker that starts: the new box begins to count at one."""
    await say(database, birth(box, 38, NOW))
    await database.write(lambda tx: presence.begin_anew(tx, box, at_ms=NOW + 1_000))

    await say(database, birth(box, 38, NOW + 2_000, said_at_ms=NOW))
    kept = await seen(database, box)
    for epoch in (1, 2, 3):
        await say(database, birth(box, epoch, NOW + 2_000 + epoch * 1_000))

    standing = await row(database, "SELECT online, session_epoch, quarantine FROM device_presence")
    assert kept[0] is False
    assert (bool(standing["online"]), standing["session_epoch"], standing["quarantine"]) == (True, 3, None)


async def test_a_birth_heard_twice_after_its_end_begins_a_session(database: Database, box: str) -> None:
    """A box that tells no time and does not count its births: its silence has been confirmed, so that it was away."""
    await say(database, birth(box, 1))
    await fall_silent(database, NOW + SILENT_MS)
    late_ms = NOW + SILENT_MS + 10

    assert await say(database, will(box, 1, late_ms), birth(box, 1, late_ms + 10, said_at_ms=NOW)) == [box]


async def test_a_delayed_heartbeat_does_not_undo_a_will(database: Database, box: str) -> None:
    """Race 3: QoS 0 and QoS 1 have no common order."""
    await say(database, birth(box, 1))
    await say(database, will(box, 1, NOW + 10))
    await beat(database, box, NOW + 20)

    assert await seen(database, box) == (False, "will")


async def test_a_will_after_the_silence_counts(database: Database, box: str) -> None:
    """Race 4: the broker notices later than we do; what was under way meanwhile brings nobody back."""
    await say(database, birth(box, 1))
    await fall_silent(database, NOW + SILENT_MS)
    await say(database, will(box, 1, NOW + SILENT_MS + 10))
    await beat(database, box, NOW + SILENT_MS + 20)

    assert await seen(database, box) == (False, "will")


async def test_a_heartbeat_over_http_breaks_a_silence_and_undoes_no_will(database: Database, box: str) -> None:
    """Race 5: some boxes send them over HTTP alone; the broker says what it knows of the MQTT session."""
    await say(database, birth(box, 1))
    await fall_silent(database, NOW + SILENT_MS)
    await beat(database, box, NOW + SILENT_MS + 20, source="http")
    back = await seen(database, box)
    await say(database, will(box, 1, NOW + SILENT_MS + 30))
    await beat(database, box, NOW + SILENT_MS + 40, source="http")

    assert (back, await seen(database, box)) == ((True, None), (False, "will"))


async def test_what_was_paid_during_a_silence_is_said_once_it_is_over(database: Database, shop: Shop, box: str) -> None:
    """The box was connected all along: no birth comes that would make its messages due."""
    await say(database, birth(box, 1))
    silent_ms = NOW + SILENT_MS
    await fall_silent(database, silent_ms)
    payment = await shop.payment(box, now_ms=silent_ms)
    await take(database, report(payment, paid_at_ms=silent_ms), now_ms=silent_ms)
    (waiting,) = await rows(database, "SELECT state, due_at_ms FROM outbox_message WHERE recipient_id = $1", box)

    await beat(database, box, silent_ms + 20)

    assert (waiting["state"], waiting["due_at_ms"]) == ("queued", None)
    assert [message.subject_id for message in await swept(database, silent_ms + 21)] == [payment.payment_id]


async def test_a_heartbeat_and_the_look_for_silence_at_once_agree(database: Database, shop: Shop) -> None:
    """Race 6: whoever comes second looks again."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        for _ in range(5):
            box = await shop.box(online=False)
            await say(database, birth(box, 1))
            late = NOW + SILENT_MS
            await asyncio.gather(beat(database, box, late), fall_silent(other, late))

            assert await fall_silent(database, late + 1) == []
            assert await seen(database, box) == (True, None)
            assert [one for one in await times(database, box) if one[1] is None] != []
    finally:
        await other.close()


async def test_two_births_at_once_leave_one_session(database: Database, box: str) -> None:
    """Race 7: two workers, during a takeover, read the same box."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        began = await asyncio.gather(say(database, birth(box, 3)), say(other, birth(box, 3)))
    finally:
        await other.close()

    assert sorted(began) == [[], [box]]
    assert await times(database, box) == [(NOW, None, None)]


def key_of(device_id: str, key_version: int) -> bytes:
    return seal.announcement_key(MASTER, device_id, key_version)


async def give(database: Database, box: str) -> str:
    order = commands.Order(device_id=box, kind=KINDS["play_test"], payload={}, requested_by=None, trace_id="trc")
    return await database.write(lambda tx: commands.give(tx, order, key_of=key_of, owner="test", now_ms=NOW))


async def sweep(database: Database, now_ms: int) -> list[str]:
    """As the worker does it."""

    async def work(tx: Statements) -> list[str]:
        waiting = await outbox.waiting_for_birth(tx, now_ms=now_ms)
        await outbox.make_due(tx, recipients=await devices.online_among(tx, waiting), now_ms=now_ms)
        await outbox.claim_due(tx, now_ms=now_ms, owner="test")
        return [message.id for message in tx.queued]

    return await database.write(work)


async def test_a_command_that_meets_a_birth_is_sent_whoever_commits_first(database: Database, shop: Shop) -> None:
    """Race 8: the command saw its box offline, the birth saw no command."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        for _ in range(5):
            box = await shop.box(online=False)
            command_id, _ = await asyncio.gather(give(database, box), say(other, birth(box, 1)))
            born_sent = await rows(database, "SELECT id FROM outbox_message WHERE id = $1 AND attempt = 1", command_id)

            assert bool(born_sent) != (await sweep(database, NOW + 1_000) == [command_id])
    finally:
        await other.close()


async def test_a_command_is_either_cancelled_or_sent(database: Database, shop: Shop) -> None:
    """Race 9: the operator takes it back while the box comes online."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        for _ in range(5):
            box = await shop.box(online=False)
            command_id = await give(database, box)
            await say(database, birth(box, 1))

            async def cancel(box: str = box, command_id: str = command_id) -> bool:
                return await database.write(
                    lambda tx: commands.cancel(tx, device_id=box, command_id=command_id, now_ms=NOW)
                )

            cancelled, sent = await asyncio.gather(cancel(), sweep(other, NOW + 1_000), return_exceptions=True)

            assert (cancelled is True) != (sent == [command_id]), (cancelled, sent)
    finally:
        await other.close()


async def test_an_answer_and_the_expiry_at_once_leave_one_end(database: Database, shop: Shop) -> None:
    """Race 10: the box took it in the last moment."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        for _ in range(5):
            box = await shop.box()
            command_id = await give(database, box)
            late = NOW + KINDS["play_test"].life_ms
            said = commands.Answer(
                command_id=command_id, device_id=box, status="succeeded", reason=None, result=None, source="mqtt"
            )

            async def answer(said: commands.Answer = said, late: int = late) -> commands.Verdict:
                (verdict,) = await database.write(lambda tx: commands.take_answers(tx, [said], now_ms=late))
                return verdict

            async def expire(late: int = late) -> None:
                await other.write(lambda tx: commands.follow_up(tx, now_ms=late))

            verdict, _ = await asyncio.gather(answer(), expire())

            ended = await row(database, "SELECT state FROM device_command WHERE id = $1", command_id)
            assert ended["state"] == ("succeeded" if verdict.moved else "expired")
            assert verdict.conflicting is not verdict.moved
    finally:
        await other.close()


# --- two boxes of one name ----------------------------------------------------------------------------------------


async def test_two_boxes_with_one_journal_are_caught_and_get_nothing_more(database: Database, box: str) -> None:
    """Each counts on from where the copy was made, and each throws the other out."""
    await say(database, birth(box, 10))
    for number in range(1, 4):
        at_ms = NOW + number * 2_000
        await say(database, will(box, 9 + number, at_ms), birth(box, 10 + number, at_ms))  # one of the two
        await say(database, birth(box, 10 + number, at_ms + 1_000))  # and the other

    assert await seen(database, box) == (False, "quarantine")
    (alert,) = await rows(database, "SELECT kind, severity, facts FROM alert")
    assert (alert["kind"], alert["severity"]) == ("device.cloned", "critical")
    assert json.loads(alert["facts"])["strays"] == 2
    assert await say(database, birth(box, 50, NOW + 60_000)) == []
    await beat(database, box, NOW + 61_000)
    assert await seen(database, box) == (False, "quarantine")


async def test_one_stray_birth_heard_again_and_again_is_one(database: Database, box: str) -> None:
    """The broker says it again to every worker that starts, and QoS 1 may say it twice anyway."""
    await say(database, birth(box, 7))
    stray_ms = NOW + 1_000
    await say(database, birth(box, 3, stray_ms), birth(box, 3, stray_ms + 10, said_at_ms=stray_ms))
    for number in range(1, 4):
        await say(database, birth(box, 3, stray_ms + number * (WINDOW_MS // 2), said_at_ms=stray_ms))
    once = await seen(database, box), await rows(database, "SELECT id FROM alert")
    late_ms = stray_ms + 3 * WINDOW_MS
    await say(database, birth(box, 3, late_ms), birth(box, 3, late_ms + 1_000))  # and made anew it is another

    assert once == ((True, None), [])
    assert await seen(database, box) == (False, "quarantine")


async def test_a_box_that_never_stays_is_caught_and_let_out_once_it_does(database: Database, box: str) -> None:
    for epoch in range(1, FLAPPING_AT + 1):
        await say(database, will(box, epoch - 1, NOW + epoch * 1_000), birth(box, epoch, NOW + epoch * 1_000))
    last = NOW + FLAPPING_AT * 1_000
    caught = await seen(database, box)

    too_early = await database.write(lambda tx: presence.release_calm(tx, now_ms=last + CALM_MS - 1))
    assert not await database.read(lambda tx: presence.any_calm(tx, now_ms=last + CALM_MS - 1))
    calm = await database.write(lambda tx: presence.release_calm(tx, now_ms=last + CALM_MS))
    await beat(database, box, last + CALM_MS + 1_000)

    assert (caught, too_early, calm) == ((False, "quarantine"), [], [box])
    assert await seen(database, box) == (True, None)
    (alert,) = await rows(database, "SELECT kind, state FROM alert")
    assert (alert["kind"], alert["state"]) == ("device.flapping", "resolved")


async def flap(database: Database, box: str) -> int:
    """When it was caught, by its last birth."""
    for epoch in range(1, FLAPPING_AT + 1):
        await say(database, birth(box, epoch, NOW + epoch * 1_000))
    assert await seen(database, box) == (False, "quarantine")
    return NOW + FLAPPING_AT * 1_000


async def test_a_box_that_flapped_is_let_out_once_it_stays_as_long_as_others_do(database: Database, box: str) -> None:
    """No session of five minutes, as behind some networks: what is asked of every box is enough."""
    caught_ms, session_ms = await flap(database, box), CALM_MS - 60_000
    out = []
    for number in range(1, 2 * WINDOW_MS // session_ms + 2):
        at_ms = caught_ms + number * session_ms
        assert await database.write(lambda tx, at_ms=at_ms: presence.release_calm(tx, now_ms=at_ms)) == []  # type: ignore[misc]
        out += await say(database, birth(box, FLAPPING_AT + number, at_ms))

    assert (out, await seen(database, box)) == ([box], (True, None))
    (alert,) = await rows(database, "SELECT kind, state FROM alert")
    assert (alert["kind"], alert["state"]) == ("device.flapping", "resolved")


async def test_a_box_that_goes_on_flapping_stays_where_it_is(database: Database, box: str) -> None:
    caught_ms = await flap(database, box)
    for number in range(1, 4 * FLAPPING_AT):
        at_ms = caught_ms + number * (WINDOW_MS // (FLAPPING_AT + 2))
        assert await say(database, birth(box, FLAPPING_AT + number, at_ms)) == []

    assert await seen(database, box) == (False, "quarantine")


async def test_a_box_let_out_by_what_the_broker_kept_is_back_with_its_next_heartbeat(
    database: Database, box: str
) -> None:
    """The copy of a birth begins no session; it only shows that a window is over."""
    caught_ms = await flap(database, box)
    last_ms = caught_ms + WINDOW_MS + 1_000
    await say(database, birth(box, FLAPPING_AT + 1, last_ms))
    said_again = birth(box, FLAPPING_AT, last_ms + WINDOW_MS + 1_000, said_at_ms=caught_ms)

    assert await say(database, said_again) == []
    assert await seen(database, box) == (False, "silent")
    await beat(database, box, last_ms + WINDOW_MS + 2_000)
    assert await seen(database, box) == (True, None)


async def test_a_heartbeat_of_a_silent_box_that_was_cloned_meanwhile_brings_nobody_back(
    database: Database, box: str
) -> None:
    await say(database, birth(box, 10))
    late_ms = NOW + SILENT_MS
    await fall_silent(database, late_ms)
    await say(database, birth(box, 3, late_ms + 1_000), birth(box, 4, late_ms + 2_000))
    await beat(database, box, late_ms + 3_000)
    caught = await seen(database, box)
    await database.write(lambda tx: presence.release(tx, box, now_ms=late_ms + 4_000))
    await beat(database, box, late_ms + 5_000)

    assert caught == (False, "silent")
    assert await seen(database, box) == (True, None)


async def test_a_cloned_box_is_not_let_out_by_time(database: Database, box: str) -> None:
    await say(database, birth(box, 10), birth(box, 3, NOW + 1_000), birth(box, 4, NOW + 2_000))
    for number in range(1, 4):
        assert await say(database, birth(box, 10 + number, NOW + number * (WINDOW_MS + 1_000))) == []

    assert await seen(database, box) == (False, "quarantine")


async def test_births_with_time_between_them_are_no_flapping(database: Database, box: str) -> None:
    for epoch in range(1, 3 * FLAPPING_AT):
        await say(database, birth(box, epoch, NOW + epoch * (WINDOW_MS // (FLAPPING_AT - 2))))

    assert (await seen(database, box))[0]


async def test_an_activation_ends_the_quarantine(database: Database, box: str) -> None:
    await say(database, birth(box, 10))
    for number in range(3):
        await say(database, birth(box, 10, NOW + 1_000 + number))
    caught = await seen(database, box)
    await database.write(lambda tx: presence.begin_anew(tx, box, at_ms=NOW + 5_000))

    assert caught == (False, "quarantine")
    assert await say(database, birth(box, 1, NOW + 6_000)) == [box]
    assert await rows(database, "SELECT id FROM alert WHERE state = 'open'") == []


async def test_only_a_session_that_began_makes_what_waits_due(database: Database, box: str) -> None:
    command_id = await give(database, box)

    async def hear(epoch: int, said_at_ms: int) -> int | None:
        status = Status(device_id=box, timestamp=to_rfc3339(said_at_ms), state="online", session_epoch=epoch)
        uplink = Uplink(device_id=box, message=status, payload=b"", received_at_ms=NOW + 1_000)
        await database.write(lambda tx: door.on_status(tx, [uplink]))
        found = await row(database, "SELECT due_at_ms FROM outbox_message WHERE id = $1", command_id)
        due: int | None = found["due_at_ms"]
        await execute(database, "UPDATE outbox_message SET due_at_ms = NULL WHERE id = $1", command_id)
        return due

    assert [await hear(3, NOW), await hear(3, NOW), await hear(2, NOW), await hear(4, NOW)] == [
        NOW + 1_000, None, None, NOW + 1_000,
    ]  # fmt: skip


async def test_the_worker_notices_silence_and_calm_by_itself(database: Database, shop: Shop) -> None:
    silent, calm, fine = await shop.box(online=False), await shop.box(online=False), await shop.box(online=False)
    now_ms = clock.now_ms()
    await say(database, birth(silent, 1, now_ms - SILENT_MS), birth(fine, 1, now_ms - SILENT_MS))
    await beat(database, fine, now_ms)
    for epoch in range(1, FLAPPING_AT + 1):
        await say(database, birth(calm, epoch, now_ms - CALM_MS - 60_000 + epoch))

    await watch_presence(database, listening_since_ms=0)
    await beat(database, calm, now_ms)

    assert [await seen(database, box) for box in (silent, fine, calm)] == [
        (False, "silent"),
        (True, None),
        (True, None),
    ]


# --- doors --------------------------------------------------------------------------------------------------------


async def test_an_operator_sees_what_a_box_can_and_lets_it_out(operator: Staff, shop: Shop, database: Database) -> None:
    box = await shop.box(online=False)
    unheard = await operator.get(f"/admin/devices/{box}")
    now_ms = clock.now_ms()
    await say(database, birth(box, 1, now_ms))
    connecting = (await operator.get(f"/admin/devices/{box}"))["presence"]["reachable"]
    await beat(database, box, now_ms + 1, volume=0, state="idle")
    online = (await operator.get(f"/admin/devices/{box}"))["presence"]
    for number in range(3):
        await say(database, birth(box, 1, now_ms + 1_000 + number))
    caught = (await operator.get(f"/admin/devices/{box}"))["presence"]

    released = await operator.post(f"/admin/devices/{box}/quarantine/release")
    again = await operator.refused("POST", f"/admin/devices/{box}/quarantine/release", status=409)
    await say(database, birth(box, 2, now_ms + 5_000))

    assert (unheard["presence"], unheard["heard_at"], connecting) == (None, None, "connecting")
    assert (online["reachable"], online["can_speak"], online["heartbeat_every_s"]) == ("online", False, HEARTBEAT_S)
    assert (caught["reachable"], caught["quarantine"], caught["offline_reason"]) == ("offline", "cloned", "quarantine")
    assert (released["released"], again["code"], await seen(database, box)) == (True, "CONFLICT", (True, None))
    assert len(await audited(database, "device.quarantine_released")) == 1


async def test_availability_is_told_by_day_in_jakarta(operator: Staff, shop: Shop, database: Database) -> None:
    box, hour = await shop.box(online=False), 3_600_000
    midnight = NOW + 7 * hour  # 17:00Z is midnight in Jakarta: the 23rd ends
    await say(database, birth(box, 1, midnight - 6 * hour))
    await say(database, will(box, 1, midnight - 5 * hour), birth(box, 2, midnight - 2 * hour))
    await say(database, will(box, 2, midnight + 3 * hour))

    days = await operator.get(f"/admin/devices/{box}/availability", until="2026-05-24", days=3)

    assert [(day["day"], day["online_s"] // 3600, day["interruptions"]) for day in days] == [
        ("2026-05-24", 3, 1), ("2026-05-23", 3, 1), ("2026-05-22", 0, 0),
    ]  # fmt: skip
    assert (days[1]["of_s"], days[1]["share"]) == (86_400, 0.125)
    await operator.refused("GET", f"/admin/devices/{box}/availability?until=2026-02-29", status=400)
    await operator.refused("GET", "/admin/devices/sbx_nowhere/availability", status=404)


async def test_a_box_taken_out_of_service_ends_its_time(database: Database, box: str) -> None:
    await say(database, birth(box, 1))
    await database.write(lambda tx: lifecycle.suspend(tx, box, reason="broken", now_ms=NOW + 9))

    assert await times(database, box) == [(NOW, NOW + 9, "out_of_service")]


async def test_a_box_that_was_never_dropped_is_back_with_its_next_heartbeat(database: Database, shop: Shop) -> None:
    """Suspended by mistake and resumed at once: the broker noticed neither, and no birth comes."""
    box = await shop.box(online=False)
    await say(database, birth(box, 1))
    await database.write(lambda tx: lifecycle.suspend(tx, box, reason="wrong box", now_ms=NOW + 9))
    await beat(database, box, NOW + 10)
    suspended = await seen(database, box)
    await database.write(lambda tx: lifecycle.resume(tx, box, now_ms=NOW + 20))
    resumed = await seen(database, box)
    payment = await shop.payment(box, now_ms=NOW + 30)
    await take(database, report(payment, paid_at_ms=NOW + 30), now_ms=NOW + 30)
    await beat(database, box, NOW + 1_000)

    assert (suspended, resumed) == ((False, "out_of_service"), (False, "silent"))
    assert await seen(database, box) == (True, None)
    assert [message.subject_id for message in await swept(database, NOW + 1_001)] == [payment.payment_id]


async def test_a_resumed_box_that_had_gone_by_itself_is_not_back_by_a_heartbeat(database: Database, box: str) -> None:
    await say(database, birth(box, 1))
    await say(database, will(box, 1, NOW + 5))
    await database.write(lambda tx: lifecycle.suspend(tx, box, reason="broken", now_ms=NOW + 9))
    await database.write(lambda tx: lifecycle.resume(tx, box, now_ms=NOW + 20))
    await beat(database, box, NOW + 30, source="http")

    assert await seen(database, box) == (False, "will")
