"""Boxes as lean as the wire allows: fifty of them cost the machine less than one real client library would.

Only what a box of the bench needs of MQTT 3.1.1: connect, subscribe, publish, take QoS 1 messages and acknowledge them.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from soundbox_protocol.topics import Downlink, Uplink, downlink, downlink_filter, uplink

KEEPALIVE_S = 1_200  # longer than a run, so that nobody needs to ping
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
QOS1 = 0x02

Heard = Callable[[bytes, int], None]  # transaction_id, monotonic nanoseconds


@dataclass(frozen=True)
class Login:
    device_id: str
    password: str


class Box(asyncio.Protocol):
    """One connection. It says `received` and `played` to every payment it hears, if `answering`."""

    def __init__(self, login: Login, heard: Heard, *, moment: str) -> None:
        self.answering = True
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._login = login
        self._heard = heard
        self._moment = moment
        self._payments = downlink(login.device_id, Downlink.PAYMENT_SUCCESS).encode()
        self._acks = uplink(login.device_id, Uplink.PAYMENT_ACK)
        self._unread = b""
        self._mid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        name, password = self._login.device_id, self._login.password
        flags = bytes([0b1100_0010])  # user name, password, clean session
        head = _text("MQTT") + b"\x04" + flags + KEEPALIVE_S.to_bytes(2, "big")
        self._transport.write(_packet(CONNECT, head + _text(name) + _text(name) + _text(password)))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError(f"the broker closed {self._login.device_id}'s connection"))

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        data = self._unread + data
        at = 0
        while (found := _next(data, at)) is not None:
            kind, start, at = found
            self._take(kind, data[start:at], now_ns)
        self._unread = data[at:]

    def publish(self, topic: str, body: bytes, *, qos: int = 1) -> None:
        self._transport.write(self._publish(topic, body, qos))

    def close(self) -> None:
        self._transport.close()

    def _take(self, kind: int, packet: bytes, now_ns: int) -> None:
        if kind & 0xF0 == PUBLISH:
            self._hear(packet, now_ns)
        elif kind == CONNACK:
            self._subscribe(packet)
        elif kind == SUBACK:
            self._say_birth()
            self.ready.set_result(None)

    def _subscribe(self, connack: bytes) -> None:
        if connack[1] != 0:
            self.ready.set_exception(ConnectionError(f"{self._login.device_id}: login refused, code {connack[1]}"))
            return
        body = (1).to_bytes(2, "big") + _text(downlink_filter(self._login.device_id)) + b"\x01"
        self._transport.write(_packet(SUBSCRIBE, body))

    def _say_birth(self) -> None:
        said = f'"device_id":"{self._login.device_id}","timestamp":"{self._moment}","state":"online","session_epoch":1'
        self.publish(uplink(self._login.device_id, Uplink.STATUS), f'{{"message_type":"status",{said}}}'.encode())

    def _hear(self, packet: bytes, now_ns: int) -> None:
        end = 2 + int.from_bytes(packet[:2], "big")
        written = _packet(PUBACK, packet[end : end + 2])
        body = packet[end + 2 :]
        if packet[2:end] == self._payments:
            self._heard(member(body, b"transaction_id"), now_ns)
            if self.answering:
                written += self._answers(member(body, b"event_id").decode())
        self._transport.write(written)

    def _answers(self, event_id: str) -> bytes:
        said = f'{{"message_type":"payment_ack","device_id":"{self._login.device_id}","timestamp":"{self._moment}",'
        received = f'{said}"event_id":"{event_id}","status":"received"}}'
        played = f'{said}"event_id":"{event_id}","status":"played","played_at":"{self._moment}"}}'
        return self._publish(self._acks, received.encode(), 1) + self._publish(self._acks, played.encode(), 1)

    def _publish(self, topic: str, body: bytes, qos: int) -> bytes:
        if qos == 0:
            return _packet(PUBLISH, _text(topic) + body)
        self._mid = self._mid % 65_535 + 1
        return _packet(PUBLISH | QOS1, _text(topic) + self._mid.to_bytes(2, "big") + body)


def member(body: bytes, name: bytes) -> bytes:
    """A text member of compact JSON that holds no escape, found without parsing the rest."""
    start = body.index(b'"%s":"' % name) + len(name) + 4
    return body[start : body.index(b'"', start)]


def _next(data: bytes, at: int) -> tuple[int, int, int] | None:
    """(kind, start of its content, end) of the packet at this place, or None while it is not all there."""
    length, shift, start = 0, 0, at + 1
    while start < len(data):
        byte = data[start]
        length |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return (data[at], start, start + length) if start + length <= len(data) else None
    return None


def _packet(kind: int, content: bytes) -> bytes:
    length, size = len(content), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([kind]) + size + bytes([length]) + content


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw
