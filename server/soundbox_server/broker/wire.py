"""The hub's end of an MQTT 3.1.1 connection: the part of the protocol that the hub speaks, and no more of it.

A client library costs the hub a third of its worker's time (decision 0006), and decides what the hub must decide
itself: it acknowledges a message before our code has seen it and drops what its bounded queue cannot hold. Here
messages are acknowledged by hand after the commit, only what was sent at QoS 0 may be dropped, and nobody waits for the
broker's PUBACK, which proves nothing to us: what was not announced in time is sent again by the sweep.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import msgspec

from soundbox_server import metrics

CONNECT_WITHIN_S = 10.0
KEEPALIVE_S = 20
CLOSE_WITHIN_S = 1.0
QOS0_WAITING = 20_000  # heartbeats that may wait; QoS 1 is bounded by the broker's max_inflight_messages
UNANSWERED = 50_000  # packet ids end at 65,535, and none may be used twice at once
UNSENT_BYTES = 16 * 2**20
MOST_BYTES = 2**20  # of one packet; the broker of this product takes far smaller ones
REFUSED = 0x80  # a SUBACK code from here on means no

_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
_PINGREQ, _PINGRESP, _DISCONNECT = b"\xc0\x00", 0xD0, b"\xe0\x00"
_PUBLISH_QOS0, _PUBLISH_QOS1, _PUBLISH_QOS1_RETAINED = b"\x30", b"\x32", b"\x33"


class BrokerLost(Exception):
    """There is no connection to the broker, or none any more."""


class Message(msgspec.Struct, frozen=True):
    """`mid` names it in its acknowledgement; at QoS 0 there is none."""

    topic: str
    payload: bytes
    qos: int
    mid: int


class Connection(asyncio.Protocol):
    """One connection to the broker. It hears what it subscribed to, and sends at QoS 1."""

    def __init__(self, hello: bytes, *, keepalive_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.admitted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.dropped = 0
        self._hello = hello
        self._ping_every_s = keepalive_s / 2
        self._why = "the broker closed the connection"
        self._unread = b""
        self._heard: deque[Message] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._granted: dict[int, asyncio.Future[bytes]] = {}
        self._unanswered: set[int] = set()
        self._unsent: list[bytes] = []
        self._mid = 0
        self._answered_since_ping = True
        self._stuck = False

    # --- what the hub does with it ---------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, once: bool = False) -> bool:
        """Hand over to the socket without waiting; False when the connection takes no more. `retain`: whoever
        subscribes later gets it too, until another one takes its place, or an empty one. `once`: at QoS 0, so that the
        broker neither says it twice nor keeps it for somebody who is away."""
        if self._stuck or self.ended.done() or len(self._unanswered) >= UNANSWERED:
            return False
        if once:
            self._send_later(_PUBLISH_QOS0 + _length(len(topic.encode()) + 2 + len(payload)) + _text(topic) + payload)
            return True
        mid, name = self._next_mid(), topic.encode()
        self._unanswered.add(mid)
        body = b"%b%b%b%b" % (len(name).to_bytes(2, "big"), name, mid.to_bytes(2, "big"), payload)
        head = _PUBLISH_QOS1_RETAINED if retain else _PUBLISH_QOS1
        self._send_later(head + _length(len(body)) + body)
        return True

    def _send_later(self, packet: bytes) -> None:
        if not self._unsent:  # what one commit publishes leaves with one system call, and wakes the broker once
            asyncio.get_running_loop().call_soon(self.flush)
        self._unsent.append(packet)

    def flush(self) -> None:
        """Send what was published before anything else is done; by itself it leaves a turn of the event loop later."""
        unsent, self._unsent = self._unsent, []
        if unsent and not self.ended.done():
            self._transport.write(b"".join(unsent))

    async def subscribe(self, topic_filter: str) -> None:
        """At QoS 1. Raises BrokerLost, also when the broker refuses."""
        self._raise_if_ended()
        mid = self._next_mid()
        self._granted[mid] = granted = asyncio.get_running_loop().create_future()
        self._transport.write(_packet(_SUBSCRIBE, mid.to_bytes(2, "big") + _text(topic_filter) + b"\x01"))
        try:
            codes = await granted
        finally:
            del self._granted[mid]
        if not codes or max(codes) >= REFUSED:
            raise BrokerLost("the broker refused the subscription")

    async def next_group(self, *, most: int) -> list[Message]:
        """At least one message, and with it what else is already here. Raises BrokerLost when the connection ends."""
        self._raise_if_ended()
        while not self._heard:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
            self._raise_if_ended()
        return [self._heard.popleft() for _ in range(min(most, len(self._heard)))]

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Let the broker forget them."""
        packets = b"".join([b"\x40\x02" + message.mid.to_bytes(2, "big") for message in messages if message.qos])
        if packets and not self.ended.done():
            self._transport.write(packets)

    async def until_lost(self) -> None:
        """Raises BrokerLost when the connection ends, and never returns."""
        await asyncio.shield(self.ended)
        self._raise_if_ended()

    async def close(self) -> None:
        """Say goodbye, send what is still to be sent, and close."""
        if self.ended.done():
            return
        self.flush()
        self._transport.write(_DISCONNECT)
        self._transport.close()
        await asyncio.wait([self.ended], timeout=CLOSE_WITHIN_S)
        self._transport.abort()

    # --- what the event loop tells it ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._transport.set_write_buffer_limits(UNSENT_BYTES)
        self._transport.write(self._hello)
        self._pinging = asyncio.get_running_loop().call_later(self._ping_every_s, self._ping)

    def data_received(self, data: bytes) -> None:
        self._answered_since_ping = True
        unread = self._unread + data if self._unread else data
        at = 0
        try:
            while (framed := _framed(unread, at)) is not None:
                kind, start, at = framed
                self._take(kind, unread[start:at])
        except (ValueError, IndexError) as error:
            self._give_up(f"the broker sent what is no MQTT: {error}")
            return
        self._unread = unread[at:]
        if self._heard and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def pause_writing(self) -> None:
        self._stuck = True

    def resume_writing(self) -> None:
        self._stuck = False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._why = repr(exc)
        self._pinging.cancel()
        self.ended.set_result(None)
        if not self.admitted.done():
            self.admitted.set_exception(BrokerLost(self._why))
        for granted in self._granted.values():
            if not granted.done():
                granted.set_exception(BrokerLost(self._why))
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _take(self, kind: int, body: bytes) -> None:
        if kind & 0xF0 == _PUBLISH:
            self._hear(kind >> 1 & 3, body)
        elif kind == _PUBACK:
            self._unanswered.discard(int.from_bytes(body[:2], "big"))
        elif kind == _SUBACK:
            granted = self._granted.get(int.from_bytes(body[:2], "big"))
            if granted is not None and not granted.done():
                granted.set_result(body[2:])
        elif kind == _CONNACK:
            if body[1] != 0:
                self._give_up(f"the broker refused the login: code {body[1]}")
            elif not self.admitted.done():
                self.admitted.set_result(None)
        elif kind != _PINGRESP:
            raise ValueError(f"a packet that begins with {kind:#x}")

    def _hear(self, qos: int, body: bytes) -> None:
        if qos == 0 and len(self._heard) >= QOS0_WAITING:
            self.dropped += 1
            metrics.labelled(metrics.uplinks, "qos0", "dropped").inc()
            return
        if qos > 1:
            raise ValueError("QoS 2 was never asked for")
        end = 2 + int.from_bytes(body[:2], "big")
        topic = body[2:end].decode()
        if qos:
            self._heard.append(Message(topic, body[end + 2 :], 1, body[end] << 8 | body[end + 1]))
        else:
            self._heard.append(Message(topic, body[end:], 0, 0))

    def _ping(self) -> None:
        """Half-way through the keep-alive; whoever has not answered by the next half is gone."""
        if not self._answered_since_ping:
            self._give_up("the broker fell silent")
            return
        self._answered_since_ping = False
        self._transport.write(_PINGREQ)
        self._pinging = asyncio.get_running_loop().call_later(self._ping_every_s, self._ping)

    def _give_up(self, why: str) -> None:
        self._why = why
        self._transport.abort()

    def _next_mid(self) -> int:
        while True:
            self._mid = self._mid % 65_535 + 1
            if self._mid not in self._unanswered:
                return self._mid

    def _raise_if_ended(self) -> None:
        if self.ended.done():
            raise BrokerLost(self._why)


@asynccontextmanager
async def connected(
    *, host: str, port: int, user: str, password: str, persistent: bool, keepalive_s: float = KEEPALIVE_S
) -> AsyncIterator[Connection]:
    """A connection whose client id is its user name, admitted by the broker; with `persistent` it keeps its session.

    Raises BrokerLost when there is no broker, or none that lets us in.
    """
    hello = _hello(user, password, persistent=persistent, keepalive_s=keepalive_s)
    connection: Connection | None = None
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(hello, keepalive_s=keepalive_s), host, port
            )
            await connection.admitted
    except OSError as error:  # TimeoutError is one
        if connection is not None:
            await connection.close()
        raise BrokerLost(repr(error)) from error
    except BaseException:
        if connection is not None:
            await connection.close()
        raise
    try:
        yield connection
    finally:
        await connection.close()


def _hello(user: str, password: str, *, persistent: bool, keepalive_s: float) -> bytes:
    flags = 0b1100_0000 if persistent else 0b1100_0010  # user name, password, and whether to begin a clean session
    head = _text("MQTT") + bytes([4, flags]) + max(int(keepalive_s), 1).to_bytes(2, "big")
    return _packet(_CONNECT, head + _text(user) + _text(user) + _text(password))


def _text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _length(len(body)) + body


def _length(number: int) -> bytes:
    """MQTT's variable length: seven bits a byte, the top bit says that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _framed(data: bytes, at: int) -> tuple[int, int, int] | None:
    """(first byte, start of the body, end) of the packet at `at`, or None while it is not all there."""
    length, shift, start = 0, 0, at + 1
    while start < len(data):
        byte = data[start]
        start += 1
        length |= (byte & 127) << shift
        if length > MOST_BYTES or shift > 21:
            raise ValueError("a packet longer than any of ours")
        if byte < 128:
            end = start + length
            return (data[at], start, end) if end <= len(data) else None
        shift += 7
    return None
