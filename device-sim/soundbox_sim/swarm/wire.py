"""A box's end of MQTT 3.1.1, as lean as thousands of boxes in one process need it.

Persistent session, last will, QoS 0 and 1 both ways. The link's slowness sits between the socket and the packets, so
that bytes are late but never out of order, as on a real connection.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from soundbox_sim.box import Publish

ANSWER_S = 15.0
MOST_BYTES = 2**16
REFUSED_LOGIN = (4, 5)

_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK, _PINGRESP = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xD0
_PINGREQ, _DISCONNECT = b"\xc0\x00", b"\xe0\x00"
_REFUSED_FILTER = 0x80


class LineLost(ConnectionError):
    """There is no connection, or none any more."""


class LoginRefused(LineLost):
    """The broker does not know this name, or not with this password."""


class Ear(Protocol):
    """Who holds the line."""

    def heard(self, topic: str, payload: bytes) -> None:
        """A downlink; the broker was told that it arrived."""

    def taken(self, ack: int) -> None:
        """The broker has the message that carries this ack."""


@dataclass(frozen=True, slots=True)
class Login:
    """User name and client id are one."""

    name: str
    password: str


class Lane:
    """One direction of a link: what goes in comes out later, and never out of order. `delay_s` is asked for each."""

    __slots__ = ("_delay_s", "_free_at", "_loop", "_out", "_waiting")

    def __init__(self, out: Callable[[bytes], None], delay_s: Callable[[], float] | None) -> None:
        self._out, self._delay_s = out, delay_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._free_at = 0.0

    def carry(self, data: bytes) -> None:
        if self._delay_s is None:
            self._out(data)
            return
        self._free_at = max(self._loop.time() + self._delay_s(), self._free_at)
        self._waiting.append(data)
        self._loop.call_at(self._free_at, self._arrive)

    def cut(self) -> None:
        """What is under way is lost."""
        self._waiting.clear()

    def _arrive(self) -> None:
        """The oldest, whichever of two timers of one moment fires first."""
        if self._waiting:
            self._out(self._waiting.popleft())


class Line(asyncio.Protocol):
    """One connection, from the will to its end."""

    def __init__(
        self,
        login: Login,
        will: Publish,
        ear: Ear,
        *,
        topic_filter: str,
        keepalive_s: int,
        delay_s: Callable[[], float] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self._hello = connect_packet(login, will, keepalive_s=keepalive_s)
        self._ear, self._filter, self._keepalive_s = ear, topic_filter, keepalive_s
        self._up, self._down = Lane(self._write, delay_s), Lane(self._read, delay_s)
        self._unread = b""
        self._mid = 0
        self._acks: dict[int, int | None] = {}
        self._pinging: asyncio.TimerHandle | None = None
        self._answered = True
        self._why = "the broker closed the connection"
        self._transport: asyncio.Transport | None = None

    # What the box does with it.

    @property
    def all_taken(self) -> bool:
        """Whether the broker has everything that was sent at QoS 1."""
        return not self._acks

    def publish(self, message: Publish) -> None:
        """Into the socket, or nowhere when there is none any more: acks are in the journal."""
        if self.ended.done():
            return
        if message.qos == 0:
            self._up.carry(publish_packet(message, None))
            return
        self._mid = self._mid % 65_535 + 1
        self._acks[self._mid] = message.ack
        self._up.carry(publish_packet(message, self._mid))

    def subscribe(self) -> None:
        self._mid = self._mid % 65_535 + 1
        content = self._mid.to_bytes(2, "big") + _text(self._filter) + b"\x01"
        self._up.carry(_packet(_SUBSCRIBE, content))

    def hang_up(self) -> None:
        """The orderly end: the broker sends no will."""
        if self._transport is not None:
            self._write(_DISCONNECT)
            self._transport.close()

    def break_off(self, why: str) -> None:
        """As if the cable were cut, or the plug pulled: nothing that is under way arrives, and the will is sent."""
        self._why = why
        self._up.cut()
        self._down.cut()
        if self._transport is not None:
            self._transport.abort()

    # What the event loop tells it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._up.carry(self._hello)

    def data_received(self, data: bytes) -> None:
        self._down.carry(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._up.cut()
        self._down.cut()
        if self._pinging is not None:
            self._pinging.cancel()
        self._end(LineLost(repr(exc) if exc else self._why))

    # Inside.

    def _end(self, problem: LineLost) -> None:
        if not self.ended.done():
            self.ended.set_result(str(problem))
        if not self.ready.done():
            self.ready.set_exception(problem)
            self.ready.exception()  # whoever waited may have given up: that is no error of the loop's

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _read(self, data: bytes) -> None:
        self._answered = True
        data = self._unread + data if self._unread else data
        at = 0
        try:
            while (found := framed(data, at)) is not None:
                kind, start, at = found
                self._take(kind, data[start:at])
        except (ValueError, IndexError) as problem:
            self.break_off(f"no MQTT: {problem}")
            return
        self._unread = data[at:]

    def _take(self, kind: int, content: bytes) -> None:
        if kind & 0xF0 == _PUBLISH:
            self._hear(kind >> 1 & 3, content)
        elif kind == _PUBACK:
            ack = self._acks.pop(int.from_bytes(content[:2], "big"), None)
            if ack is not None:
                self._ear.taken(ack)
        elif kind == _CONNACK:
            self._welcome(content[1])
        elif kind == _SUBACK:
            if content[2] >= _REFUSED_FILTER:
                self.break_off("the broker refused the subscription")
            elif not self.ready.done():
                self.ready.set_result(None)
        elif kind != _PINGRESP:
            raise ValueError(f"a packet that begins with {kind:#x}")

    def _welcome(self, code: int) -> None:
        if code == 0:
            self._pinging = asyncio.get_running_loop().call_later(self._keepalive_s / 2, self._ping)
            self.subscribe()
            return
        refusal = LoginRefused if code in REFUSED_LOGIN else LineLost
        self._end(refusal(f"the broker answers {code}"))
        self.break_off("refused")

    def _hear(self, qos: int, content: bytes) -> None:
        end = 2 + int.from_bytes(content[:2], "big")
        topic = content[2:end].decode()
        if qos == 0:
            self._ear.heard(topic, content[end:])
            return
        self._up.carry(b"\x40\x02" + content[end : end + 2])
        self._ear.heard(topic, content[end + 2 :])

    def _ping(self) -> None:
        """Half-way through the keep-alive; a broker that is silent until the next half is gone."""
        if not self._answered:
            self.break_off("the broker fell silent")
            return
        self._answered = False
        self._up.carry(_PINGREQ)
        self._pinging = asyncio.get_running_loop().call_later(self._keepalive_s / 2, self._ping)


async def call(line: Callable[[], Line], *, host: str, port: int) -> Line:
    """A line that is admitted and subscribed. Raises OSError (LineLost and LoginRefused are some)."""
    made: Line | None = None
    try:
        async with asyncio.timeout(ANSWER_S):
            _, made = await asyncio.get_running_loop().create_connection(line, host, port)
            await made.ready
    except BaseException:
        if made is not None:
            made.break_off("gave up")
        raise
    return made


def connect_packet(login: Login, will: Publish, *, keepalive_s: int) -> bytes:
    """CONNECT with user name, password, a will, and a session that the broker keeps."""
    flags = 0b1100_0100 | will.qos << 3 | will.retain << 5
    head = _text("MQTT") + bytes([4, flags]) + keepalive_s.to_bytes(2, "big")
    payload = will.payload
    last_words = _text(will.topic) + len(payload).to_bytes(2, "big") + payload
    return _packet(_CONNECT, head + _text(login.name) + last_words + _text(login.name) + _text(login.password))


def publish_packet(message: Publish, mid: int | None) -> bytes:
    """PUBLISH at QoS 1 with a packet id, at QoS 0 without."""
    head = _PUBLISH | message.retain | (0 if mid is None else 0b10)
    number = b"" if mid is None else mid.to_bytes(2, "big")
    return _packet(head, _text(message.topic) + number + message.payload)


def framed(data: bytes, at: int) -> tuple[int, int, int] | None:
    """(first byte, start of the content, end) of the packet at `at`, or None while it is not all there.

    Raises ValueError for one that no broker of boxes sends.
    """
    length, shift, start = 0, 0, at + 1
    while start < len(data):
        byte = data[start]
        start += 1
        length |= (byte & 127) << shift
        if length > MOST_BYTES or shift > 21:
            raise ValueError("a packet longer than any of ours")
        if byte < 128:
            return (data[at], start, start + length) if start + length <= len(data) else None
        shift += 7
    return None


def _packet(kind: int, content: bytes) -> bytes:
    number, size = len(content), bytearray()
    while number > 127:
        size.append(number & 127 | 128)
        number >>= 7
    size.append(number)
    return bytes([kind]) + bytes(size) + content


def _text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw
