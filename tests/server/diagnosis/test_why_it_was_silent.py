"""Why was it silent? Every cause from its facts, and the facts from what really happened."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from support.shop import NOW, Shop, execute, report, take, told
from support.staff import Staff

from soundbox_server.db import Database, Statements
from soundbox_server.devices import lifecycle
from soundbox_server.devices import service as devices
from soundbox_server.devices.presence import Reach
from soundbox_server.diagnosis import facts as gathered
from soundbox_server.diagnosis.verdict import (
    SENTENCES,
    AnnouncementFacts,
    BoxFacts,
    Cause,
    Diagnosis,
    Facts,
    PaymentFacts,
    ThenFacts,
    diagnose,
)
from soundbox_server.ids import lowest_id
from soundbox_server.outbox import service as outbox

BOX = BoxFacts(id="sbx_1", state="bound", bound=True, reach=Reach.ONLINE, volume=80)
PAID = PaymentFacts(
    id="txn_1", state="paid", amount=50_000, review_reason=None, late=False, paid_at_ms=NOW, captured_at_ms=NOW
)
THERE = ThenFacts(stood_at_terminal=True, stood_elsewhere=False, online=True, volume=80)
TOLD = AnnouncementFacts(
    id="ann_1", state="published", reason=None, attempts=1, created_at_ms=NOW, published_at_ms=NOW, received_at_ms=None,
    played_at_ms=None, finished_at_ms=None, expires_at_ms=NOW + 60_000,
)  # fmt: skip
LATER = NOW + 120_000


def of_payment(
    payment: dict[str, Any] | None = None,
    then: dict[str, Any] | None = None,
    told: dict[str, Any] | None = None,
    *,
    now_ms: int = LATER,
    announced: bool = True,
) -> Facts:
    return Facts(
        now_ms=now_ms, box=BOX, payment=replace(PAID, **payment or {}), then=replace(THERE, **then or {}),
        announcement=replace(TOLD, **told or {}) if announced else None,
    )  # fmt: skip


def of_box(**other: Any) -> Facts:
    return Facts(now_ms=NOW, box=replace(BOX, **other))


EXPIRED = {"state": "expired", "finished_at_ms": NOW + 60_000}
PLAYED = {"state": "played", "received_at_ms": NOW + 200, "played_at_ms": NOW + 2_500, "finished_at_ms": NOW + 2_600}
CASES: list[tuple[Cause, Facts]] = [
    (Cause.NOT_PAID_YET, of_payment({"state": "awaiting_payment"}, announced=False)),
    (Cause.NOT_PAID_YET, of_payment({"state": "created"}, announced=False)),
    (Cause.ENDED_UNPAID, of_payment({"state": "expired"}, announced=False)),
    (Cause.ENDED_UNPAID, of_payment({"state": "cancelled"}, announced=False)),
    (Cause.WRONG_AMOUNT, of_payment({"state": "needs_review", "review_reason": "amount_mismatch"}, announced=False)),
    (Cause.IN_REVIEW, of_payment({"state": "needs_review", "review_reason": "fee_rule_missing"}, announced=False)),
    (Cause.NO_DEVICE, of_payment({"told_nobody": True}, announced=False)),
    (Cause.OTHER_TERMINAL, of_payment({}, {"stood_at_terminal": False, "stood_elsewhere": True}, announced=False)),
    (Cause.NOT_BOUND_THEN, of_payment({"told_elsewhere": 1}, {"stood_at_terminal": False}, announced=False)),
    (Cause.POLICY, of_payment({"told_elsewhere": 1}, announced=False)),
    (Cause.NOT_ANNOUNCED, of_payment({"late": True}, announced=False)),
    (Cause.SUSPENDED, of_payment(told={"state": "suppressed", "reason": "device_suspended"})),
    (Cause.SUPPRESSED, of_payment(told={"state": "suppressed", "reason": "policy"})),
    (Cause.REPORTED_LATE, of_payment(told=EXPIRED | {"reason": "reported_late"})),
    (Cause.PLAYED, of_payment(told=PLAYED)),
    (Cause.PLAYED_AT_VOLUME_0, of_payment(then={"volume": 0}, told=PLAYED)),
    (Cause.DIGESTED, of_payment(told={"state": "digested"})),
    (Cause.AUDIO_FAULT, of_payment(told={"state": "failed", "reason": "audio_fault"})),
    (Cause.INTERRUPTED, of_payment(told={"state": "failed", "reason": "interrupted"})),
    (Cause.NO_PLAY_REPORT, of_payment(told={"state": "failed", "reason": "no_play_report"})),
    (Cause.NO_PLAY_REPORT, of_payment(told={"state": "failed", "reason": "activated_again"})),
    (Cause.FAILED_IN_BOX, of_payment(told={"state": "failed", "reason": "no_voice_pack"})),
    (Cause.CLOCK_SKEW, of_payment(then={"clock_skew_ms": -95_000}, told={"state": "stale_skipped"})),
    (Cause.ARRIVED_LATE, of_payment(then={"clock_skew_ms": 500}, told={"state": "stale_skipped"})),
    (Cause.REJECTED, of_payment(told={"state": "rejected", "reason": "seq_below_floor"})),
    (Cause.SAID_BEFORE, of_payment(told={"state": "duplicate"})),
    (Cause.BEING_PLAYED, of_payment(told={"state": "received", "received_at_ms": NOW + 200})),
    (Cause.UNCONFIRMED, of_payment(told={"state": "sent"})),
    (Cause.QUARANTINED, of_payment(then={"online": False, "quarantined": True}, told=EXPIRED)),
    (Cause.QUARANTINED, of_box(quarantine="cloned", reach=Reach.OFFLINE)),
    (Cause.WAITS_FOR_BOX, of_payment(then={"online": False}, told={"state": "queued"}, now_ms=NOW + 1_000)),
    (Cause.ON_ITS_WAY, of_payment(now_ms=NOW + 1_000)),
    (Cause.BROKER_AWAY, of_payment(told=EXPIRED | {"broker_took": False, "attempts": 6})),
    (Cause.SIGNATURE_REFUSED, of_payment(then={"events": frozenset({"bad_signature"})}, told=EXPIRED)),
    (Cause.SIGNATURE_REFUSED, of_box(refused_signatures=True)),
    (Cause.NOT_UNDERSTOOD, of_payment(then={"events": frozenset({"malformed_message"})}, told=EXPIRED)),
    (Cause.OFFLINE_THEN, of_payment(then={"online": False}, told=EXPIRED | {"attempts": 6})),
    (Cause.NO_ANSWER, of_payment(told=EXPIRED | {"attempts": 6, "broker_took": True})),
    (Cause.NO_ANSWER, of_payment()),  # the sweep has not said yet that it is over
    (Cause.OUT_OF_SERVICE, of_box(state="revoked", bound=False, reach=Reach.OFFLINE)),
    (Cause.SUSPENDED, of_box(state="suspended")),
    (Cause.NEVER_ACTIVATED, of_box(state="registered", bound=False, reach=None)),
    (Cause.NEVER_CONNECTED, of_box(state="activated", reach=None)),
    (Cause.OFFLINE, of_box(reach=Reach.OFFLINE, offline_reason="will")),
    (Cause.STALE, of_box(reach=Reach.STALE)),
    (Cause.NOT_BOUND, of_box(state="activated", bound=False)),
    (Cause.SPEAKER_FAULT, of_box(speaker_fault=True)),
    (Cause.VOLUME_0, of_box(volume=0)),
    (Cause.WRONG_CLOCK, of_box(clock_skew_ms=31_000)),
    (Cause.SILENT_SPEAKER, of_box(silent_speaker=True)),
    (Cause.LOW_BATTERY, of_box(battery_level=4)),
    (Cause.CONNECTING, of_box(reach=Reach.CONNECTING)),
    (Cause.UNSIGNED, of_box(verifies_signatures=False)),
    (Cause.WELL, of_box()),
]


@pytest.mark.parametrize(("cause", "facts"), CASES, ids=lambda one: one.value if isinstance(one, Cause) else "")
def test_each_cause_is_found_from_its_facts_and_said_in_both_languages(cause: Cause, facts: Facts) -> None:
    found = diagnose(facts)

    assert found.cause is cause
    for sentence in (found.id, found.en):
        assert sentence.endswith(".")
        assert "{" not in sentence
        assert "None" not in sentence
    assert found.id != found.en


def test_no_cause_is_without_a_case_and_a_sentence() -> None:
    assert {cause for cause, _ in CASES} == set(Cause) == set(SENTENCES)


@pytest.mark.parametrize("facts", [facts for _, facts in CASES if facts.payment is not None])
def test_the_hops_are_always_the_same_and_none_succeeds_behind_one_that_never_began(facts: Facts) -> None:
    hops = diagnose(facts).hops

    assert [hop.hop for hop in hops] == [
        "paid", "recorded", "device_bound", "announced", "published", "broker", "device_online", "received", "played",
    ]  # fmt: skip
    played, received = hops[-1], hops[-2]
    if played.state == "ok":
        assert received.state == "ok"
    if facts.announcement is None:
        assert {hop.state for hop in hops[4:]} == {"not_reached"}


def hop_states(found: Diagnosis) -> dict[str, str]:
    return {hop.hop: hop.state for hop in found.hops}


def test_the_hops_say_how_far_it_came() -> None:
    assert hop_states(diagnose(of_payment(told=PLAYED))) == dict.fromkeys(
        ["paid", "recorded", "device_bound", "announced", "published", "broker", "device_online", "received", "played"],
        "ok",
    )
    lost = hop_states(diagnose(of_payment(told=EXPIRED | {"broker_took": True})))
    assert (lost["broker"], lost["received"], lost["played"]) == ("ok", "failed", "not_reached")
    mute = hop_states(diagnose(of_payment(told={"state": "failed", "reason": "audio_fault"})))
    assert (mute["received"], mute["played"]) == ("ok", "failed")


# --- from what happened -------------------------------------------------------------------------------------------

Story = Callable[[Database, Shop, str], Awaitable[str]]


async def paid(database: Database, shop: Shop, box: str) -> str:
    payment = await shop.payment(box)
    await take(database, report(payment))
    return payment.payment_id


async def answered(database: Database, payment_id: str, **said: Any) -> None:
    (one,) = await told(database, payment_id)
    answer = outbox.Answer(message_id=one["id"], recipient_id=one["recipient_id"], **said)
    await database.write(lambda tx: outbox.acknowledge(tx, [answer], now_ms=NOW + 3_000))


async def beat(database: Database, box: str, at_ms: int, **said: Any) -> None:
    """A heartbeat as it is kept."""
    payload = {
        "device_id": box, "timestamp": "2026-05-23T10:00:00Z", "firmware_version": "1.0.0", "state": "idle",
    } | said  # fmt: skip
    await execute(
        database,
        "INSERT INTO device_heartbeat (id, device_id, received_at_ms, source, payload) VALUES ($1, $2, $3, 'mqtt', $4)",
        lowest_id("hbt", at_ms), box, at_ms, json.dumps(payload).encode(),
    )  # fmt: skip


async def say_offline(database: Database, box: str) -> None:
    gone = devices.Session(device_id=box, online=False, epoch=1, at_ms=NOW - 1)
    await database.write(lambda tx: devices.take_sessions(tx, [gone]))


async def expired(database: Database) -> None:
    await database.write(lambda tx: outbox.expire(tx, now_ms=LATER))


async def not_paid(database: Database, shop: Shop, box: str) -> str:
    return (await shop.payment(box)).payment_id


async def another_amount(database: Database, shop: Shop, box: str) -> str:
    payment = await shop.payment(box)
    await take(database, report(payment, amount=payment.amount - 1))
    return payment.payment_id


async def nobody_there(database: Database, shop: Shop, box: str) -> str:
    payment = await shop.payment(box)
    await shop.unbind(box)
    await take(database, report(payment))
    return payment.payment_id


async def heard(database: Database, shop: Shop, box: str) -> str:
    payment_id = await paid(database, shop, box)
    await answered(database, payment_id, status="played", played_at_ms=NOW + 1_500)
    return payment_id


async def at_volume_0(database: Database, shop: Shop, box: str) -> str:
    await beat(database, box, NOW - 20_000, volume=0)
    return await heard(database, shop, box)


async def speaker_broken(database: Database, shop: Shop, box: str) -> str:
    payment_id = await paid(database, shop, box)
    await answered(database, payment_id, status="failed", reason="audio_fault")
    return payment_id


async def clock_wrong(database: Database, shop: Shop, box: str) -> str:
    await beat(database, box, NOW - 20_000, clock_skew_ms=95_000)
    payment_id = await paid(database, shop, box)
    await answered(database, payment_id, status="stale_skipped")
    return payment_id


async def away(database: Database, shop: Shop, box: str) -> str:
    await say_offline(database, box)
    payment_id = await paid(database, shop, box)
    await expired(database)
    return payment_id


async def refuse_signature(database: Database, box: str, at_ms: int) -> None:
    await execute(
        database,
        "INSERT INTO device_event (id, device_id, code, level, said_at_ms, received_at_ms) "
        "VALUES ($1, $2, 'bad_signature', 'warning', $3, $3)",
        lowest_id("dve", at_ms), box, at_ms,
    )  # fmt: skip


async def wrong_key(database: Database, shop: Shop, box: str) -> str:
    payment_id = await paid(database, shop, box)
    await refuse_signature(database, box, NOW + 900)
    await expired(database)
    return payment_id


async def silent_box(database: Database, shop: Shop, box: str) -> str:
    payment_id = await paid(database, shop, box)
    await expired(database)
    return payment_id


@pytest.mark.parametrize(
    ("story", "cause"),
    [
        (not_paid, "not_paid_yet"), (another_amount, "wrong_amount"), (nobody_there, "no_device"),
        (heard, "played"), (at_volume_0, "played_at_volume_0"), (speaker_broken, "audio_fault"),
        (clock_wrong, "clock_skew"), (away, "offline_then"), (wrong_key, "signature_refused"),
            (silent_box, "no_answer"),
    ],
)  # fmt: skip
async def test_what_happened_is_what_is_said(database: Database, shop: Shop, story: Story, cause: str) -> None:
    box = await shop.box()
    payment_id = await story(database, shop, box)

    found = diagnose(await database.read(lambda tx: gathered.of_payment(tx, box, payment_id, now_ms=LATER)))
    assert found.cause == cause


async def test_a_box_at_another_till_and_one_that_hears_only_its_own(database: Database, shop: Shop) -> None:
    box, other = await shop.box(), await (await shop.another_terminal()).box()
    payment_id = await paid(database, shop, box)

    async def why(tx: Statements) -> Cause:
        return diagnose(await gathered.of_payment(tx, other, payment_id, now_ms=LATER)).cause

    assert await database.read(why) is Cause.OTHER_TERMINAL


@pytest.mark.parametrize(("refused_ms", "cause"), [(NOW + 2_900, "connecting"), (NOW + 3_100, "signature_refused")])
@pytest.mark.parametrize("proof", ["received", "played", "configuration"])
async def test_a_signature_that_a_box_refused_is_over_once_it_believed_another(
    database: Database, shop: Shop, proof: str, refused_ms: int, cause: str
) -> None:
    box = await shop.box()
    await refuse_signature(database, box, refused_ms)
    if proof == "configuration":
        await execute(
            database,
            "INSERT INTO device_config (device_id, version, config, sha256, built_from, state, key_version, "
            "acked_version, acked_status, acked_at_ms) VALUES ($1, 1, '{}', 'x', 'x', 'applied', 1, 1, 'applied', $2)",
            box, NOW + 3_000,
        )  # fmt: skip
    else:
        await answered(database, await paid(database, shop, box), status=proof)

    found = diagnose(await database.read(lambda tx: gathered.of_box(tx, box, now_ms=NOW + 10_000)))
    assert found.cause == cause


async def test_operators_read_the_sentence_the_hops_and_the_box(
    database: Database, shop: Shop, operator: Staff
) -> None:
    box = await shop.box()
    payment_id = await heard(database, shop, box)
    path = f"/admin/devices/{box}/diagnosis"
    said = await operator.get(path, transaction_id=payment_id)
    now = await operator.get(path)

    assert said["cause"] == "played"
    assert said["sentence"]["en"] == "The box spoke it 1.5 seconds after the payment was recorded."
    assert [(hop["hop"], hop["at"]) for hop in said["hops"]][-1] == ("played", "2026-05-23T10:00:01.500Z")
    assert (now["cause"], now["hops"], now["transaction_id"]) == ("connecting", [], None)
    assert now["device"]["reachable"] == "connecting"
    await operator.refused("GET", f"{path}?transaction_id=txn_nowhere", status=404)
    await operator.refused("GET", "/admin/devices/sbx_nowhere/diagnosis", status=404)


async def test_a_suspended_box_says_so_now_and_for_what_was_paid_meanwhile(database: Database, shop: Shop) -> None:
    box = await shop.box()
    payment = await shop.payment(box)
    await database.write(lambda tx: lifecycle.suspend(tx, box, reason="lost", now_ms=NOW))
    await take(database, report(payment))

    async def why(tx: Statements) -> tuple[Cause, Cause]:
        then = await gathered.of_payment(tx, box, payment.payment_id, now_ms=LATER)
        return diagnose(then).cause, diagnose(await gathered.of_box(tx, box, now_ms=LATER)).cause

    assert await database.read(why) == (Cause.SUSPENDED, Cause.SUSPENDED)
