import asyncio
import contextlib
import http.server
import json
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiomqtt
import pytest

from soundbox_protocol.topics import UPLINK_FILTER
from soundbox_sim.activation import BrokerAddress
from soundbox_sim.box import Box, BoxSettings, Speak, Tell
from soundbox_sim.faults import Faults
from soundbox_sim.journal import Journal
from soundbox_sim.radio import Backoff, Counter, Heartbeats, Radio
from soundbox_sim.voice import AudioFault, SilentVoice

DEVICE, KEY = "dev_01k0000000000000000000000", bytes(range(32))
QUICK = Backoff(first_s=0.02, longest_s=0.1)


@dataclass
class Air:
    """The broker, a listening hub, and the box under test."""

    port: int
    home: Path
    client: aiomqtt.Client
    heard: list[dict[str, Any]] = field(default_factory=list)
    told: list[Tell] = field(default_factory=list)
    radio: Radio | None = None

    async def send(self, message: tuple[str, bytes]) -> None:
        await self.client.publish(*message, qos=1)

    def acks(self) -> list[tuple[str, str]]:
        return [(ack["event_id"], ack["status"]) for ack in self.of("payment_ack")]

    def of(self, message_type: str) -> list[dict[str, Any]]:
        return [message for message in self.heard if message["message_type"] == message_type]

    def told_of(self, what: str) -> list[dict[str, Any]]:
        return [told.facts for told in self.told if told.what == what]

    @contextlib.asynccontextmanager
    async def box(self, **settings: Any) -> AsyncIterator[Radio]:
        """On air until the block ends, then switched off in an orderly way."""
        stop = asyncio.Event()
        radio = self.make_radio(**settings)
        running = asyncio.create_task(radio.run(stop))
        births = len(self.told_of("online"))
        try:
            if settings.get("wait", True):
                await until(lambda: len(self.told_of("online")) > births or running.done())
            yield radio
        finally:
            stop.set()
            await asyncio.wait_for(running, 20)

    def make_radio(
        self,
        *,
        voice: Any = None,
        faults: Faults | None = None,
        heartbeats: Heartbeats | None = None,
        port: int | None = None,
        wait: bool = True,
    ) -> Radio:
        faults = faults or Faults()
        now_ms = Counter(has_clock=not faults.no_clock, skew_ms=faults.clock_skew)

        def power_on() -> Box:
            return Box(
                DEVICE,
                KEY,
                Journal(self.home),
                account="one",
                now_ms=now_ms(),
                token=lambda: secrets.token_urlsafe(16),
                settings=BoxSettings(terminal_id="term_1", has_clock=not faults.no_clock),
            )

        return Radio(
            power_on,
            broker=BrokerAddress(host="127.0.0.1", port=port or self.port, username=DEVICE, password="x"),
            voice=voice or SilentVoice(),
            watch=lambda _box, told: self.told.append(told),
            now_ms=now_ms,
            random=Random(1),
            faults=faults,
            heartbeats=heartbeats,
            backoff=QUICK,
        )


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def listening_hub(port: int, heard: list[dict[str, Any]]) -> AsyncIterator[aiomqtt.Client]:
    async with await connected(port) as client:
        await client.subscribe(UPLINK_FILTER, qos=1)

        async def listen() -> None:
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                heard.append({**json.loads(message.payload), "retained": message.retain})

        listener = asyncio.create_task(listen())
        try:
            yield client
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)


async def connected(port: int) -> aiomqtt.Client:
    """A client of a broker that may still be starting."""
    deadline = time.monotonic() + 30
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert time.monotonic() < deadline, "the broker did not start"
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return aiomqtt.Client("127.0.0.1", port, socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)])


@pytest.fixture
async def air(mosquitto, tmp_path: Path) -> AsyncIterator[Air]:
    heard: list[dict[str, Any]] = []
    async with listening_hub(mosquitto.port, heard) as client:
        yield Air(mosquitto.port, tmp_path / "box", client, heard)


def fresh(hub, seq: int, **other: Any) -> tuple[str, bytes]:
    return hub.payment(seq, at=int(time.time() * 1000), **other)


async def test_from_the_birth_to_the_goodbye(air: Air, hub) -> None:
    voice = SilentVoice()
    async with air.box(voice=voice):
        await air.send(fresh(hub, 1))
        await until(lambda: ("ann_1", "played") in air.acks())
    await until(lambda: len(air.of("status")) == 2)

    assert [status["state"] for status in air.of("status")] == ["online", "offline"]
    assert [status["session_epoch"] for status in air.of("status")] == [1, 1]
    assert air.acks() == [("ann_1", "received"), ("ann_1", "played")]
    assert [speech.event_id for speech in voice.said] == ["ann_1"]

    later: list[dict[str, Any]] = []
    async with listening_hub(air.port, later):
        await until(lambda: later)
    assert (later[0]["state"], later[0]["retained"]) == ("offline", True)


async def test_a_power_cut_speaks_through_the_will_and_the_box_comes_back(air: Air) -> None:
    async with air.box() as radio:
        await until(lambda: len(air.of("status")) == 1)
        radio.cut_power()
        await until(lambda: len(air.of("status")) == 3)

    states = [(status["state"], status["session_epoch"]) for status in air.of("status")]
    assert sorted(states[:3]) == [("offline", 1), ("online", 1), ("online", 2)]


async def test_a_power_cut_between_journal_and_speaker_leaves_it_unspoken_and_reported(air: Air, hub) -> None:
    voice = SilentVoice()
    async with air.box(voice=voice, faults=Faults(reboot=1.0)):
        await air.send(fresh(hub, 1))
        await until(lambda: ("ann_1", "failed") in air.acks())
        await air.send(fresh(hub, 1))
        await until(lambda: air.acks().count(("ann_1", "failed")) == 2)

    assert voice.said == []
    assert air.of("payment_ack")[-1]["reason"] == "interrupted"


async def test_what_was_sent_while_the_box_was_off_is_waiting_for_it(air: Air, hub) -> None:
    async with air.box():
        pass
    await air.send(fresh(hub, 1))
    voice = SilentVoice()
    async with air.box(voice=voice):
        await until(lambda: ("ann_1", "played") in air.acks())

    assert len(voice.said) == 1


async def test_acks_that_never_reached_the_broker_are_sent_after_the_next_start(air: Air, hub) -> None:
    async with air.box(faults=Faults(refuse_ack=1.0)):
        await air.send(fresh(hub, 1))
        await until(lambda: air.told_of("played"))
    assert air.acks() == []

    async with air.box():
        await until(lambda: len(air.acks()) == 2)
    async with air.box():
        await air.send(fresh(hub, 2))
        await until(lambda: ("ann_2", "played") in air.acks())

    assert air.acks()[:2] == [("ann_1", "received"), ("ann_1", "played")]
    assert len(air.acks()) == 4


async def test_a_broker_that_dies_is_missed_once_aloud_and_found_again(air: Air, mosquitto, hub) -> None:
    voice = SilentVoice()
    async with air.box(voice=voice):
        await until(lambda: air.of("status"))
        mosquitto.kill()
        await until(lambda: len(air.told_of("waits")) >= 3)
        mosquitto.start()
        await until(lambda: len(air.told_of("online")) == 2)
        heard: list[dict[str, Any]] = []
        async with listening_hub(mosquitto.port, heard) as client:
            await client.publish(*fresh(hub, 1), qos=1)
            await until(lambda: any(message.get("status") == "played" for message in heard))

    assert [speech.sentence for speech in voice.said[:1]] == ["Jaringan terputus"]
    assert [speech.event_id for speech in voice.said] == [None, "ann_1"]


async def test_a_network_that_repeats_everything_is_heard_once(air: Air, hub) -> None:
    voice = SilentVoice()
    async with air.box(voice=voice, faults=Faults(duplicate=1.0)):
        for seq in (1, 2, 3):
            await air.send(fresh(hub, seq))
        await until(lambda: len(air.acks()) == 9)

    assert [speech.event_id for speech in voice.said] == ["ann_1", "ann_2", "ann_3"]
    assert sorted(status for _, status in air.acks()) == ["duplicate"] * 3 + ["played"] * 3 + ["received"] * 3


async def test_a_network_that_loses_everything_leaves_the_box_silent(air: Air, hub) -> None:
    async with air.box(faults=Faults(drop=1.0)) as radio:
        await air.send(fresh(hub, 1))
        await radio.ask_qr(15_000)  # Its request arrives after the payment was lost.
        await until(lambda: air.of("dynamic_qr_request"))

    assert air.acks() == []


async def test_a_slow_network_does_not_change_the_order(air: Air, hub) -> None:
    voice = SilentVoice()
    async with air.box(voice=voice, faults=Faults(delay=200)):
        for seq in range(1, 7):
            await air.send(fresh(hub, seq))
        await until(lambda: len(air.told_of("played")) == 6)

    assert [speech.seq for speech in voice.said] == [1, 2, 3, 4, 5, 6]


async def test_a_box_without_a_clock_is_told_the_time(air: Air, hub) -> None:
    voice = SilentVoice()
    async with air.box(voice=voice, faults=Faults(no_clock=True)):
        await air.send(fresh(hub, 1))
        await until(lambda: air.told_of("waits_for_time") and air.of("time_request"))
        assert voice.said == []
        await air.send(hub.time(air.of("time_request")[-1]["nonce"], at=int(time.time() * 1000)))
        await until(lambda: ("ann_1", "played") in air.acks())

    assert air.of("payment_ack")[-1]["played_at"][:4] == time.strftime("%Y", time.gmtime())


async def test_a_qr_is_asked_for_over_the_air(air: Air, hub) -> None:
    async with air.box() as radio:
        assert await radio.ask_qr(15_000)
        await until(lambda: air.of("dynamic_qr_request"))
        request = air.of("dynamic_qr_request")[0]
        await air.send(hub.qr(request["request_id"], at=int(time.time() * 1000)))
        await until(lambda: air.told_of("qr_shown"))

    assert air.told_of("qr_shown")[0]["qr_payload"] == "00020101021226"


async def test_a_broken_speaker_is_reported(air: Air, hub) -> None:
    class Hoarse:
        async def say(self, speech: Speak) -> str | None:
            raise AudioFault("no sound card")

    async with air.box(voice=Hoarse()):
        await air.send(fresh(hub, 1))
        await until(lambda: air.of("event") and ("ann_1", "failed") in air.acks())

    assert air.of("payment_ack")[-1]["reason"] == "audio_fault"
    assert (air.of("event")[0]["code"], air.of("event")[0]["detail"]) == ("audio_fault", "no sound card")


async def test_the_sentence_being_spoken_is_finished_before_the_goodbye(air: Air, hub) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    class Slow(SilentVoice):
        async def say(self, speech: Speak) -> str | None:
            started.set()
            await may_end.wait()
            return await super().say(speech)

    async with air.box(voice=Slow()):
        await air.send(fresh(hub, 1))
        await asyncio.wait_for(started.wait(), 10)
        asyncio.get_running_loop().call_later(0.2, may_end.set)
    await until(lambda: len(air.of("status")) == 2)

    assert air.acks() == [("ann_1", "received"), ("ann_1", "played")]


async def test_heartbeats_go_out_while_the_box_lives(air: Air) -> None:
    async with air.box(heartbeats=Heartbeats(every_s=0.05)):
        await until(lambda: len(air.of("heartbeat")) >= 2)

    assert air.of("heartbeat")[0]["state"] == "idle"


async def test_heartbeats_may_go_over_http(air: Air) -> None:
    with http_receiver() as (url, received):
        async with air.box(heartbeats=Heartbeats(every_s=0.05, http_url=url, token="secret")):
            await until(lambda: len(received) >= 2)

    authorization, body = received[0]
    assert authorization == "Bearer secret"
    assert (body["message_type"], body["device_id"]) == ("heartbeat", DEVICE)
    assert air.of("heartbeat") == []


async def test_a_hub_that_refuses_heartbeats_is_told_and_does_not_stop_the_box(air: Air, hub) -> None:
    async with air.box(heartbeats=Heartbeats(every_s=0.05, http_url="http://127.0.0.1:1/")):
        await until(lambda: len(air.told_of("heartbeat_failed")) >= 2)
        await air.send(fresh(hub, 1))
        await until(lambda: ("ann_1", "played") in air.acks())


async def test_a_box_that_finds_no_broker_can_still_be_switched_off(air: Air) -> None:
    started = time.monotonic()
    async with air.box(port=1, wait=False) as radio:
        await until(lambda: air.told_of("waits"))
        assert not await radio.ask_qr(15_000)

    assert time.monotonic() - started < 10


async def test_a_full_disk_silences_the_box_and_does_not_confuse_it(air: Air, hub, monkeypatch) -> None:
    """Nothing is acked or spoken that could not be written down; with room again the repeat is spoken."""
    voice = SilentVoice()
    async with air.box(voice=voice):
        write = Journal.write
        monkeypatch.setattr(Journal, "write", _no_space)
        await air.send(fresh(hub, 1))
        await until(lambda: air.told_of("waits"))
        assert air.acks() == []
        monkeypatch.setattr(Journal, "write", write)
        await until(lambda: len(air.told_of("online")) == 2)
        await air.send(fresh(hub, 1))
        await until(lambda: ("ann_1", "played") in air.acks())

    assert [speech.event_id for speech in voice.said] == [None, "ann_1"]
    assert "No space left" in air.told_of("waits")[0]["reason"]


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_pauses_grow_to_a_ceiling_and_are_never_the_same() -> None:
    random, backoff = Random(1), Backoff()
    pauses = [[backoff.pause_s(attempt, random) for _ in range(200)] for attempt in (0, 3, 9, 5_000)]

    assert [max(pause) <= ceiling for pause, ceiling in zip(pauses, (1, 8, 300, 300), strict=True)] == [True] * 4
    assert max(pauses[3]) > 250
    assert min(pauses[3]) < 50


@contextlib.contextmanager
def http_receiver() -> Any:
    received: list[tuple[str | None, dict[str, Any]]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.headers["authorization"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/device/heartbeat", received
        server.shutdown()
        thread.join()
