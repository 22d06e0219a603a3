"""The lean line against exact bytes, and against the real broker."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import pytest

from soundbox_sim.box import Publish
from soundbox_sim.swarm.wire import (
    Lane,
    Line,
    Login,
    LoginRefused,
    call,
    connect_packet,
    framed,
    publish_packet,
)

WILL = Publish("devices/sbx_001/uplink/status", b'{"state":"offline"}', 1, True)


def test_a_hello_is_the_bytes_of_mqtt_3_1_1() -> None:
    hello = connect_packet(Login("sbx_001", "secret"), WILL, keepalive_s=60)

    assert hello == (
        b"\x10\x58"
        b"\x00\x04MQTT\x04"
        b"\xec"  # user name, password, retained will at QoS 1, no clean session
        b"\x00\x3c"
        b"\x00\x07sbx_001"
        b"\x00\x1ddevices/sbx_001/uplink/status"
        b'\x00\x13{"state":"offline"}'
        b"\x00\x07sbx_001"
        b"\x00\x06secret"
    )


def test_what_is_published_at_qos_1_carries_its_number_and_at_qos_0_none() -> None:
    acked, beat = Publish("a/b", b"xy"), Publish("a/b", b"xy", qos=0)

    assert publish_packet(acked, 258) == b"\x32\x09\x00\x03a/b\x01\x02xy"
    assert publish_packet(beat, None) == b"\x30\x07\x00\x03a/bxy"


def test_packets_are_found_however_the_bytes_arrive() -> None:
    stream = publish_packet(Publish("a/b", b"x" * 300), 1) + b"\xd0\x00"

    assert framed(stream, 0) == (0x32, 3, len(stream) - 2)
    assert framed(stream, len(stream) - 2) == (0xD0, len(stream), len(stream))
    assert all(framed(stream[:cut], 0) is None for cut in range(len(stream) - 2))
    with pytest.raises(ValueError):
        framed(b"\x30\xff\xff\xff\x7f", 0)


@dataclass
class Ear:
    """Remembers what a line brings."""

    came: list[tuple[str, bytes]] = field(default_factory=list)
    acks: list[int] = field(default_factory=list)

    def heard(self, topic: str, payload: bytes) -> None:
        self.came.append((topic, payload))

    def taken(self, ack: int) -> None:
        self.acks.append(ack)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def on_line(port: int, ear: Ear, *, name: str = "sbx_001", delay_s: float | None = None) -> Line:
    """Connected to the broker of the test, which may not listen yet."""

    def line() -> Line:
        will = Publish(f"devices/{name}/uplink/status", b"gone", 1, True)
        delay = None if delay_s is None else lambda: delay_s
        return Line(Login(name, "pw"), will, ear, topic_filter=f"devices/{name}/#", keepalive_s=60, delay_s=delay)

    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                return await call(line, host="127.0.0.1", port=port)
            await asyncio.sleep(0.02)


async def test_at_a_real_broker_a_box_hears_and_its_acks_are_taken(mosquitto: Any) -> None:
    ear, own = Ear(), "devices/sbx_001/downlink/time"
    line = await on_line(mosquitto.port, ear, delay_s=0.002)

    line.publish(Publish(own, b"x" * 500, ack=41))
    line.publish(Publish(own, b"beat", qos=0))
    await until(lambda: len(ear.came) == 2 and line.all_taken)
    line.hang_up()
    await line.ended

    assert ear.came == [(own, b"x" * 500), (own, b"beat")]
    assert ear.acks == [41]


async def test_what_came_while_a_box_was_away_waits_for_it_and_its_will_was_said(mosquitto: Any) -> None:
    ear, watcher = Ear(), Ear()
    other = await on_line(mosquitto.port, watcher, name="sbx_002")
    line = await on_line(mosquitto.port, ear)
    line.break_off("cable cut")

    assert await line.ended == "cable cut"
    other.publish(Publish("devices/sbx_001/downlink/command", b"queued"))
    await until(lambda: other.all_taken)
    back = await on_line(mosquitto.port, ear)
    expected = {("devices/sbx_001/downlink/command", b"queued"), ("devices/sbx_001/uplink/status", b"gone")}
    await until(lambda: set(ear.came) >= expected)
    back.hang_up()
    other.hang_up()

    assert set(ear.came) == expected


async def test_a_broker_that_is_not_there_and_one_that_ends_are_a_lost_line(mosquitto: Any) -> None:
    line = await on_line(mosquitto.port, Ear())

    mosquitto.kill()
    await line.ended

    with pytest.raises(OSError):
        await call(
            lambda: Line(Login("sbx_001", "pw"), WILL, Ear(), topic_filter="devices/sbx_001/#", keepalive_s=60),
            host="127.0.0.1", port=mosquitto.port,
        )  # fmt: skip


async def test_a_broker_that_says_no_is_a_refused_login() -> None:
    async def say_no(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x20\x02\x00\x05")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say_no, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LoginRefused):
            await call(
                lambda: Line(Login("sbx_001", "pw"), WILL, Ear(), topic_filter="devices/sbx_001/#", keepalive_s=60),
                host="127.0.0.1", port=port,
            )  # fmt: skip


async def test_a_slow_lane_is_late_and_never_out_of_order() -> None:
    came: list[bytes] = []
    random = Random(3)
    lane = Lane(came.append, partial(random.uniform, 0.0, 0.004))
    sent = [bytes([number]) for number in range(100)]

    for data in sent:
        lane.carry(data)
    at_once = list(came)
    async with asyncio.timeout(10):
        while len(came) < len(sent):
            await asyncio.sleep(0.001)

    assert at_once == []
    assert came == sent


async def test_what_is_on_its_way_when_the_line_is_cut_never_arrives() -> None:
    came: list[bytes] = []
    lane = Lane(came.append, lambda: 0.001)

    lane.carry(b"lost")
    lane.cut()
    lane.carry(b"later")
    async with asyncio.timeout(10):
        while not came:
            await asyncio.sleep(0.001)

    assert came == [b"later"]


def test_a_box_whose_question_for_the_time_was_lost_asks_with_another_nonce(make_bench: Callable[..., Any]) -> None:
    bench = make_bench()
    bench.go_online()

    again = bench.box.ask_time(bench.now)

    (asked,) = [action for action in again if isinstance(action, Publish)]
    nonces = {message["nonce"] for message in bench.payloads("time_request")}
    assert asked.topic.endswith("/uplink/time/request")
    assert json.loads(asked.payload)["nonce"] not in nonces
