"""What was said over MQTT and in boxes' logs can be looked at: the newest, without secrets, and nobody waits for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shop import NOW, Shop, report, rows, take
from support.staff import Staff, audited

from soundbox_protocol.messages import Event, Log, Message, encode
from soundbox_protocol.times import to_rfc3339
from soundbox_server import metrics
from soundbox_server.broker import wire
from soundbox_server.broker.publisher import Publisher
from soundbox_server.clock import now_ms
from soundbox_server.db import Database, Statements
from soundbox_server.diagnosis.mqtt import Telemetry
from soundbox_server.diagnosis.recorder import Kept, Line, Recorder
from soundbox_server.diagnosis.redaction import _member_by_member, masked, shown
from soundbox_server.diagnosis.state import Level
from soundbox_server.diagnosis.tail import LOOK_BACK_MS, Place, Tails
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.uplinks import Uplink


def heard(box: str, channel: str, **said: Any) -> wire.Message:
    body = {"device_id": box, "timestamp": to_rfc3339(NOW)} | said
    return wire.Message(f"devices/{box}/uplink/{channel}", json.dumps(body).encode(), 0, 0)


def beat(box: str, volume: int = 80) -> wire.Message:
    return heard(box, "heartbeat", message_type="heartbeat", firmware_version="1.0.0", state="idle", volume=volume)


def going_out(box: str, body: bytes = b'{"message_type":"time"}', *, attempt: int = 1) -> outbox.Message:
    return outbox.Message(
        id=new_id("ann"), kind="payment_success", recipient_id=box, address=f"devices/{box}/downlink/payment/success",
        body=body, created_at_ms=NOW, expires_at_ms=None, trace_id="trc_1", attempt=attempt,
    )  # fmt: skip


def line(box: str, detail: str = "all is well", level: str = "info") -> Line:
    at_ms = now_ms()
    return Line(device_id=box, level=level, code=None, detail=detail, said_at_ms=at_ms, received_at_ms=at_ms)


def uplink(box: str, message: Message) -> Uplink[Any]:
    return Uplink(device_id=box, message=message, payload=encode(message), received_at_ms=now_ms())


def lost(kind: str) -> float:
    return float(metrics.not_recorded.labels(kind)._value.get())


async def test_both_directions_are_listed_newest_first(shop: Shop, operator: Staff) -> None:
    box, recorder = await shop.box(), Recorder(shop.database)
    message = going_out(box)
    recorder.heard([(beat(box), True)], NOW)
    recorder.sent([(message, True), (going_out(box, attempt=2), False)], NOW + 5)
    recorder.heard([(wire.Message(f"devices/{box}/uplink/heartbeat", b"\xff\x00no", 0, 0), False)], NOW + 9)
    await recorder.write()

    path = f"/admin/devices/{box}/mqtt-messages"
    listed = await operator.get(path)
    assert [(one["direction"], one["outcome"]) for one in listed] == [
        ("up", "unreadable"), ("down", "not_sent"), ("down", "sent"), ("up", "read"),
    ]  # fmt: skip
    assert listed[2] | {"id": None} == {
        "id": None, "device_id": box, "direction": "down", "topic": message.address, "outcome": "sent",
        "payload": '{"message_type":"time"}', "size_bytes": 23, "message_id": message.id, "attempt": 1,
        "at": "2026-05-23T10:00:00.005Z",
    }  # fmt: skip
    assert json.loads(listed[3]["payload"])["volume"] == 80
    assert [one["direction"] for one in await operator.get(path, direction="up", outcome="read")] == ["up"]
    assert len([page async for page in operator.pages(path, limit=3)]) == 2
    await operator.refused("GET", "/admin/devices/sbx_nowhere/mqtt-messages", status=404)


async def test_of_each_box_only_the_newest_are_kept(shop: Shop) -> None:
    noisy, quiet = await shop.box(), await shop.box()
    recorder = Recorder(shop.database, kept=Kept(mqtt_messages=10))
    recorder.heard([(beat(quiet, 1), True)], NOW)
    for volume in range(100):
        recorder.heard([(beat(noisy, volume), True)], NOW + volume)
        if volume % 7 == 0:
            await recorder.write()
    await recorder.write()

    kept = await rows(shop.database, "SELECT device_id, payload FROM mqtt_message ORDER BY id")
    volumes = [json.loads(one["payload"])["volume"] for one in kept if one["device_id"] == noisy]
    assert 10 <= len(volumes) <= 20
    assert volumes[-10:] == list(range(90, 100))
    assert len(kept) == len(volumes) + 1


async def test_what_does_not_fit_is_lost_and_counted_and_nobody_waits(shop: Shop) -> None:
    box, recorder, before = await shop.box(), Recorder(shop.database, most_waiting=5), (lost("mqtt"), lost("log"))
    recorder.heard([(beat(box, volume), True) for volume in range(8)], NOW)
    recorder.logged([line(box)])
    await recorder.write()

    assert len(await rows(shop.database, "SELECT id FROM mqtt_message")) == 5
    assert (lost("mqtt") - before[0], lost("log") - before[1]) == (3, 1)


async def test_a_database_that_is_away_costs_what_waited_and_nothing_else(shop: Shop) -> None:
    box, closed = await shop.box(), Database("postgresql://nobody@127.0.0.1:1/nowhere")
    recorder, before = Recorder(closed), lost("mqtt")
    recorder.heard([(beat(box), True), (beat(box), True)], NOW)

    await recorder.write()

    assert lost("mqtt") - before == 2
    await closed.close()


async def test_a_payment_is_published_without_a_word_to_the_database(shop: Shop) -> None:
    """The callback's transaction holds nothing of the log: its rows are written later, by another."""
    box, said = await shop.box(), []

    class Taking:
        def publish(self, topic: str, payload: bytes, *, retain: bool, once: bool) -> bool:
            said.append(topic)
            return True

        def flush(self) -> None: ...

    recorder = Recorder(shop.database)
    publisher = Publisher(recorder.sent)
    publisher.attach(Taking())  # type: ignore[arg-type]
    await take(shop.database, report(await shop.payment(box)))
    claimed: list[outbox.Message] = []

    async def claim(tx: Statements) -> None:
        await outbox.claim_due(tx, now_ms=NOW + 6_000, owner="test")
        claimed.extend(tx.queued)

    await shop.database.write(claim)
    publisher.publish(claimed)
    await asyncio.sleep(0)  # the loop's next round: the sockets come first
    before = await rows(shop.database, "SELECT id FROM mqtt_message")
    await recorder.write()

    assert before == []
    assert [(one["message_id"], one["attempt"]) for one in await rows(
        shop.database, "SELECT message_id, attempt FROM mqtt_message"
    )] == [(claimed[0].id, 2)]  # fmt: skip
    assert len(said) == 1
    publisher.attach(None)


@pytest.mark.parametrize(
    ("said", "gone", "left"),
    [
        ({"sealed": "A" * 60}, "AAAA", '"sealed":"***"'),
        ({"device_token": "tok_1", "mqtt": {"Password": "pw_1"}}, "_1", '"Password":"***"'),
        ({"sig": "abcdef" + "g" * 37}, "ggg", "abcdef… (43)"),
        ({"qr_payload": "00020101021226" + "5" * 80}, "555", "000201010212… (94)"),
        ({"command_name": "speak_code", "payload": {"code": "4711"}}, "4711", '"payload":"***"'),
        ({"announcement_key": "k" * 43}, "kkk", '"announcement_key":"***"'),
        ({"result_payload": {"lines": ["call 081234567890", "4111111111111111"]}}, "4111111111111111", "call ***"),
        ({"detail": "mail siti@contoh.id, password=hunter2"}, "hunter2", "mail ***, password=***"),
        ({"csr": "-----BEGIN"}, "BEGIN", '"csr":"***"'),
    ],
)  # fmt: skip
def test_secrets_are_not_shown(said: dict[str, object], gone: str, left: str) -> None:
    text = shown(json.dumps(said).encode())

    assert gone not in text
    assert left in text


def test_what_says_nothing_secret_is_shown_word_for_word() -> None:
    said = b'{"message_type":"payment_success","event_id":"ann_01jz4q8w3v6n2m5k7r9t1x0abc","amount":50000,"seq":3}'

    assert shown(said) == said.decode()
    assert masked("ann_01jz4q8w3v6n2m5k7r9t1x0abc played at 2026-05-23T10:00:00.123Z") == (
        "ann_01jz4q8w3v6n2m5k7r9t1x0abc played at 2026-05-23T10:00:00.123Z"
    )


_WORDS = st.sampled_from(
    [*"abz", "sig", "key", "Pin", "token", "data", "qr_payload", "note", "Ä", "at@b.id", "0812345678"]
)
_TEXTS = st.lists(_WORDS | st.text(max_size=3), max_size=3).map("".join)
_SAID = st.dictionaries(
    _TEXTS,
    st.recursive(_TEXTS | st.integers(0, 10**12) | st.none(), lambda inner: st.lists(inner, max_size=2)),
    max_size=4,
)


@given(said=_SAID, signature=st.none() | st.text("abcAB_-=+/9", max_size=60))
def test_a_quick_look_shows_what_reading_every_member_shows(said: dict[str, Any], signature: str | None) -> None:
    whole = said if signature is None else said | {"sig": signature}

    assert shown(orjson.dumps(whole)) == _member_by_member(orjson.loads(orjson.dumps(whole)), 0)


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"[1]", b'"x"', b"{", b'{"a":"\\u0000"}', b'{"a":"' + b"x" * 9_000 + b'"}']
)
def test_whatever_came_can_be_stored_and_is_short(payload: bytes) -> None:  # fmt: skip
    text = shown(payload)

    assert len(text) <= 1_501
    assert "\0" not in text


async def test_events_and_lines_of_the_log_are_kept_and_listed_by_gravity(shop: Shop, operator: Staff) -> None:
    box, recorder = await shop.box(), Recorder(shop.database)
    telemetry = Telemetry(recorder)
    common: dict[str, Any] = {"device_id": box, "timestamp": to_rfc3339(NOW)}
    events = [
        uplink(box, Event(**common, code="low_battery", level="warning", detail="9 %, owner 081234567890")),
        uplink(box, Event(**common, code="button_replay")),
    ]
    logs = [uplink(box, Log(**common, level="debug", detail="tick")), uplink(box, Log(**common, detail="tock"))]
    await shop.database.write(lambda tx: telemetry.on_event(tx, events))
    await shop.database.write(lambda tx: telemetry.on_log(tx, logs))
    before = await operator.get(f"/admin/devices/{box}/logs")
    await recorder.write()

    told = await operator.get(f"/admin/devices/{box}/events")
    assert [(one["code"], one["detail"]) for one in told] == [
        ("button_replay", None),
        ("low_battery", "9 %, owner ***"),
    ]
    assert [one["code"] for one in await operator.get(f"/admin/devices/{box}/events", level="warning")] == [
        "low_battery"
    ]
    assert before == []
    assert [one["detail"] for one in await operator.get(f"/admin/devices/{box}/logs")] == ["tock", "tick"]
    assert [one["detail"] for one in await operator.get(f"/admin/devices/{box}/logs", level="info")] == ["tock"]


async def test_events_of_a_box_that_sends_too_many_are_bounded(shop: Shop) -> None:
    box, recorder = await shop.box(), Recorder(shop.database, kept=Kept(events=5))
    telemetry = Telemetry(recorder)
    common: dict[str, Any] = {"device_id": box, "timestamp": to_rfc3339(NOW)}
    for number in range(20):
        event = uplink(box, Event(**common, code="bad_signature", detail=str(number)))
        await shop.database.write(lambda tx, event=event: telemetry.on_event(tx, [event]))
    await recorder.write()

    kept = await rows(shop.database, "SELECT detail FROM device_event ORDER BY id")
    assert [one["detail"] for one in kept] == ["15", "16", "17", "18", "19"]


async def test_a_box_that_babbles_does_not_crowd_out_the_others(shop: Shop) -> None:
    loud, soft = await shop.box(), await shop.box()
    recorder = Recorder(shop.database)
    recorder.logged([line(loud)] * 500 + [line(soft)])
    await recorder.write()

    counted = await rows(shop.database, "SELECT device_id, count(*) AS n FROM device_log GROUP BY device_id")
    assert {one["device_id"]: one["n"] for one in counted} == {loud: 50, soft: 1}


# --- the live tail ------------------------------------------------------------------------------------------------


async def next_said(stream: AsyncIterator[bytes]) -> list[tuple[str, dict[str, Any]]]:
    """The next events that are not signs of life: their kind and what they say."""
    async for chunk in stream:
        parts = [one.split(b"\n") for one in chunk.split(b"\n\n") if one.startswith(b"event")]
        if parts:
            return [(kind.decode()[7:], json.loads(data[6:])) for kind, _, data in parts]
    raise AssertionError("the stream ended")


async def test_a_line_that_another_process_wrote_comes_through_the_tail(shop: Shop) -> None:
    box, other = await shop.box(), await shop.box()
    recorder, tails = Recorder(shop.database), Tails(most=1)
    place = Place.at(now_ms() - LOOK_BACK_MS)
    stream = tails.follow(shop.database, box, level=Level.INFO, place=place, for_s=30)
    await anext(stream)
    recorder.logged([line(box, "first"), line(box, "whispered", "debug"), line(other, "not ours")])
    await recorder.write()
    first = await next_said(stream)
    assert tails.full
    recorder.logged([line(box, "second", "error")])
    await recorder.write()
    second = await next_said(stream)
    await stream.aclose()

    assert [(kind, said["detail"]) for kind, said in first + second] == [("log", "first"), ("log", "second")]
    assert not tails.full


async def test_a_message_that_nobody_can_show_ends_no_record(shop: Shop) -> None:
    box, recorder = await shop.box(), Recorder(shop.database)
    deep = b'{"a":' * 600 + b"1" + b"}" * 600

    recorder.heard([(wire.Message(f"devices/{box}/uplink/event", said, 0, 0), True) for said in (deep, b"{}")], NOW)
    await recorder.write()

    kept = await rows(shop.database, "SELECT payload FROM mqtt_message ORDER BY id")
    assert len(kept) == 2
    assert "nested too deep" in kept[0]["payload"]


async def test_nobody_who_follows_a_log_keeps_the_process_from_ending(shop: Shop) -> None:
    box, tails = await shop.box(), Tails()
    stream = tails.follow(shop.database, box, level=Level.INFO, place=Place.at(0), for_s=300)
    await anext(stream)

    tails.close()

    async with asyncio.timeout(10):
        assert [piece async for piece in stream] == []
    assert tails.full


async def test_the_tail_goes_on_after_the_last_event_that_was_seen(
    shop: Shop, operator: Staff, database: Database
) -> None:
    box, recorder = await shop.box(), Recorder(shop.database)
    recorder.logged([line(box, "one"), line(box, "two")])
    await recorder.write()
    path = f"/admin/devices/{box}/logs/tail"
    whole = await operator.call("GET", path, params={"for_s": 1})
    seen = next(part for part in whole.text.split("\n") if part.startswith("id: "))[4:]
    rest = await operator.call("GET", path, params={"for_s": 1}, headers={"last-event-id": seen})

    assert whole.headers["content-type"].startswith("text/event-stream")
    assert [word in whole.text for word in ("one", "two")] == [True, True]
    assert ["one" in rest.text, "two" in rest.text] == [False, True]
    assert [one["action"] for one in await audited(database, "device.log_followed")] == ["device.log_followed"] * 2
    await operator.refused("GET", "/admin/devices/sbx_nowhere/logs/tail", status=404)
