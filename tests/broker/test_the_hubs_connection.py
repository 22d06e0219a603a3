"""The hub's own MQTT connection: on a real Mosquitto, and against peers that misbehave as no broker of ours would."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_server import clock
from soundbox_server.broker import wire
from soundbox_server.broker.consumer import Consumer
from soundbox_server.broker.users import hub_password
from soundbox_server.broker.wire import BrokerLost, Connection, Message, connected

SHARD, PUBLISHER = "hub-shard-0", "hub-pub-0"
MASTER_KEY = bytes(range(32))
UPLINKS = "devices/+/uplink/#"
ACK = "devices/dev_alpha/uplink/payment_ack"
SOON_S = 5.0


def hub(port: int, user: str, *, persistent: bool = False, **other: Any) -> AbstractAsyncContextManager[Connection]:
    password = hub_password(MASTER_KEY, user)
    return connected(host="127.0.0.1", port=port, user=user, password=password, persistent=persistent, **other)


async def heard(connection: Connection, count: int) -> list[Message]:
    messages: list[Message] = []
    async with asyncio.timeout(SOON_S):
        while len(messages) < count:
            messages += await connection.next_group(most=64)
    return messages


async def test_what_a_box_says_is_heard_and_what_the_hub_says_arrives(start_mosquitto: Any) -> None:
    async with start_mosquitto() as broker, hub(broker.port, SHARD, persistent=True) as shard:
        await shard.subscribe(UPLINKS)
        async with broker.client("dev_alpha") as box, hub(broker.port, PUBLISHER) as publisher:
            await box.subscribe("devices/dev_alpha/downlink/#", qos=1)
            await box.publish(ACK, b"a" * 300, qos=1)
            await box.publish("devices/dev_alpha/uplink/heartbeat", b"", qos=0)
            said = await heard(shard, 2)

            taken = publisher.publish("devices/dev_alpha/downlink/payment/success", b"paid " + b"b" * 400)
            async with asyncio.timeout(SOON_S):
                arrived = await anext(box.messages)

    assert [(message.topic, message.payload, message.qos) for message in said] == [
        (ACK, b"a" * 300, 1),
        ("devices/dev_alpha/uplink/heartbeat", b"", 0),
    ]
    assert taken
    assert (str(arrived.topic), arrived.payload, arrived.qos) == (
        "devices/dev_alpha/downlink/payment/success", b"paid " + b"b" * 400, 1,
    )  # fmt: skip


async def test_a_consumer_knows_since_when_it_hears_what_boxes_say(start_mosquitto: Any) -> None:
    nothing_comes: Any = None
    consumer = Consumer(nothing_comes, {}, committed=lambda queued, channels: None)
    began_ms = clock.now_ms()
    async with start_mosquitto() as broker, hub(broker.port, SHARD, persistent=True) as shard:
        unheard = consumer.listening_since_ms
        consuming = asyncio.create_task(consumer.consume(shard))
        async with asyncio.timeout(SOON_S):
            while consumer.listening_since_ms is None:
                await asyncio.sleep(0.01)
        since_ms = consumer.listening_since_ms
        await shard.close()
        with pytest.raises(BrokerLost):
            await consuming

    assert (unheard, consumer.listening_since_ms) == (None, None)
    assert began_ms <= since_ms <= clock.now_ms()


async def test_what_is_said_once_is_never_kept_for_somebody_who_is_away(start_mosquitto: Any) -> None:
    topic = "devices/dev_alpha/downlink/payment/success"
    async with start_mosquitto() as broker, hub(broker.port, PUBLISHER) as publisher:
        async with broker.client("dev_alpha", clean_session=False) as box:
            await box.subscribe(topic, qos=1)
            assert publisher.publish(topic, b"here", once=True)
            async with asyncio.timeout(SOON_S):
                first = await anext(box.messages)
        publisher.publish(topic, b"away, once", once=True)
        publisher.publish(topic, b"away", retain=False)
        async with broker.client("dev_alpha", clean_session=False) as box, asyncio.timeout(SOON_S):
            kept = await anext(box.messages)

    assert (first.payload, first.qos, kept.payload) == (b"here", 0, b"away")


async def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(start_mosquitto: Any) -> None:
    async with start_mosquitto() as broker:
        async with hub(broker.port, SHARD, persistent=True) as shard, broker.client("dev_alpha") as box:
            await shard.subscribe(UPLINKS)
            for said in (b"first", b"second"):
                await box.publish(ACK, said, qos=1)
            first, _second = await heard(shard, 2)
            shard.acknowledge([first])
        async with hub(broker.port, SHARD, persistent=True) as successor:
            again = await heard(successor, 1)

    assert [message.payload for message in again] == [b"second"]


async def test_a_group_is_never_larger_than_asked_for(start_mosquitto: Any) -> None:
    async with (
        start_mosquitto() as broker,
        hub(broker.port, SHARD, persistent=True) as shard,
        broker.client("dev_alpha") as box,
    ):
        await shard.subscribe(UPLINKS)
        for n in range(5):
            await box.publish(ACK, b"%d" % n, qos=1)
        async with asyncio.timeout(SOON_S):
            groups = [await shard.next_group(most=2) for _ in range(3)]
            while sum(map(len, groups)) < 5:
                groups.append(await shard.next_group(most=2))

    assert max(map(len, groups)) <= 2
    assert [message.payload for group in groups for message in group] == [b"0", b"1", b"2", b"3", b"4"]


async def test_more_messages_than_there_are_packet_ids_all_arrive(start_mosquitto: Any) -> None:
    topic, count = "devices/dev_alpha/downlink/time", 70_000

    async with (
        start_mosquitto() as broker,
        hub(broker.port, PUBLISHER) as publisher,
        broker.client("dev_alpha") as box,
    ):
        await box.subscribe("devices/dev_alpha/downlink/#", qos=0)  # the box's own queue is no matter of this test
        for n in range(count):
            while not publisher.publish(topic, b"%d" % n):
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            async for message in box.messages:
                if message.payload == b"%d" % (count - 1):
                    break
            while publisher._unanswered:
                await asyncio.sleep(0.01)

    assert not publisher.publish(topic, b"too late")


async def test_a_login_the_broker_refuses_is_told(start_mosquitto: Any) -> None:
    async with start_mosquitto() as broker:
        with pytest.raises(BrokerLost, match="refused the login: code 5"):
            async with connected(
                host="127.0.0.1", port=broker.port, user=PUBLISHER, password="wrong", persistent=False
            ):
                raise AssertionError("it was let in")


async def test_where_no_broker_listens_the_connection_is_lost_at_once(free_port: int) -> None:
    with pytest.raises(BrokerLost):
        async with hub(free_port, PUBLISHER):
            raise AssertionError("there is nobody to let it in")


async def test_a_second_connection_of_the_same_user_ends_the_first(start_mosquitto: Any) -> None:
    async with start_mosquitto() as broker, hub(broker.port, SHARD, persistent=True) as first:
        await first.subscribe(UPLINKS)
        reading = asyncio.create_task(first.next_group(most=64))
        async with hub(broker.port, SHARD, persistent=True):
            with pytest.raises(BrokerLost):
                await asyncio.wait_for(reading, SOON_S)
            with pytest.raises(BrokerLost):
                await asyncio.wait_for(first.until_lost(), SOON_S)

        assert not first.publish("devices/dev_alpha/downlink/time", b"x")
        with pytest.raises(BrokerLost):
            await first.subscribe(UPLINKS)


# --- peers that misbehave ------------------------------------------------------------------------------------------

CONNACK = b"\x20\x02\x00\x00"


@asynccontextmanager
async def peer(answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[int]:
    """A listener that answers every login so, and then says nothing more. The port."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(1)
        answer(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_a_broker_that_falls_silent_is_given_up() -> None:
    async with peer(lambda writer: writer.write(CONNACK)) as port, hub(port, PUBLISHER, keepalive_s=0.2) as lonely:
        with pytest.raises(BrokerLost, match="fell silent"):
            await asyncio.wait_for(lonely.until_lost(), SOON_S)


async def test_a_broker_that_never_lets_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CONNECT_WITHIN_S", 0.1)

    async with peer(lambda writer: None) as port:
        with pytest.raises(BrokerLost, match="Timeout"):
            async with hub(port, PUBLISHER):
                raise AssertionError("it was let in")


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n" + b"Content-Type: text/plain\r\n" * 4,
        CONNACK + b"\x30\xff\xff\xff\xff\x7f",  # a length of five bytes
        CONNACK + b"\x30\xff\xff\xff\x7f",  # 256 MB are announced
        CONNACK + b"\x34\x05\x00\x01a\x00\x01",  # QoS 2
        CONNACK + b"\x32\x03\x00\x01a",  # QoS 1 without an id
        CONNACK + b"\x30\x03\x00\x01\xff",  # a topic that is no UTF-8
        CONNACK + b"\x62\x02\x00\x01",  # PUBREL
        b"\x20\x00",
    ],
)
async def test_what_is_no_mqtt_ends_the_connection(garbage: bytes) -> None:
    async with peer(lambda writer: writer.write(garbage)) as port:
        with pytest.raises(BrokerLost, match="no MQTT"):
            async with asyncio.timeout(SOON_S), hub(port, PUBLISHER) as connection:
                await connection.until_lost()


class Ear(asyncio.Transport):
    """A transport that keeps what is written and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def publish_packet(message: Message) -> bytes:
    name = message.topic.encode()
    mid = message.mid.to_bytes(2, "big") if message.qos else b""
    body = len(name).to_bytes(2, "big") + name + mid + message.payload
    length = b""
    left = len(body)
    while left > 127:
        length, left = length + bytes([left % 128 + 128]), left // 128
    return bytes([0x30 | message.qos << 1]) + length + bytes([left]) + body


messages = st.builds(
    lambda topic, payload, mid: Message(topic, payload, 1 if mid else 0, mid),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.binary(max_size=300),
    st.integers(0, 65_535),
)


@given(said=st.lists(messages, min_size=1, max_size=6), cuts=st.lists(st.integers(0, 2_000), max_size=8))
def test_however_the_network_cuts_the_bytes_the_same_messages_are_heard(said: list[Message], cuts: list[int]) -> None:
    stream = CONNACK + b"".join(map(publish_packet, said))

    async def hear() -> list[Message]:
        connection, ear = Connection(b"", keepalive_s=60), Ear()
        connection.connection_made(ear)
        at = 0
        for cut in [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]:
            connection.data_received(stream[at:cut])
            at = cut
        found = await connection.next_group(most=64)
        connection.acknowledge(found)
        connection.connection_lost(None)
        acknowledged = b"".join(b"\x40\x02" + one.mid.to_bytes(2, "big") for one in said if one.qos)
        assert (ear.written, ear.aborted) == (acknowledged, False)
        return found

    assert asyncio.run(hear()) == said


async def test_heartbeats_are_dropped_when_too_many_wait_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "QOS0_WAITING", 3)
    connection = Connection(b"", keepalive_s=60)
    connection.connection_made(Ear())

    said = [Message("t", b"%d" % n, n % 2, n % 2 * (n + 1)) for n in range(10)]
    connection.data_received(b"".join(map(publish_packet, said)))
    kept = await connection.next_group(most=64)
    connection.connection_lost(None)

    assert [int(message.payload) for message in kept] == [0, 1, 2, 3, 5, 7, 9]
    assert connection.dropped == 3
