"""The load generator, a process of its own: calls over HTTP/1.1 connections that stay open, and the boxes that listen.

The same program loads the product and the baseline. It reads one order a line from its standard input and answers each
with one line: first the logins of the boxes, then `Order`s. Everything that a call sends is made beforehand.
"""

import asyncio
import gc
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import msgspec
import uvloop
from support.bench.boxes import Box, Login

SILENCE_S = 20.0
BEATS_TOGETHER = 100


class Call(msgspec.Struct):
    """One request, complete with its head, and the transaction that the boxes will hear of (none for a heartbeat)."""

    text: str
    transaction_id: str | None = None


class Order(msgspec.Struct):
    """`paced_s`: one call at a time, each so long after the last one was answered and heard."""

    port: int
    connections: int
    calls: list[Call]
    answering: bool = True
    paced_s: float = 0.0


class Beats(msgspec.Struct, tag=True):
    """Heartbeats over MQTT at QoS 0, as many from every box."""

    topics: list[str]
    bodies: list[str]
    each: int


class Begin(msgspec.Struct, tag=True):
    broker_port: int
    moment: str
    logins: list[tuple[str, str]]


class Run(msgspec.Struct, tag=True):
    order: Order


class Measured(msgspec.Struct):
    """Milliseconds since each call was written, and when the whole began and ended on the machine's monotonic clock."""

    answered_ms: list[float]
    heard_ms: list[float]
    began_ns: int
    last_answer_ns: int
    refused: list[str]


@dataclass
class Clocks:
    """When each transaction's call was written and its message heard."""

    written_ns: dict[bytes, int] = field(default_factory=dict)
    heard_ns: dict[bytes, int] = field(default_factory=dict)
    waiting_for: bytes = b""
    heard_it: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, transaction_id: bytes, at_ns: int) -> None:
        if transaction_id in self.written_ns:
            self.heard_ns.setdefault(transaction_id, at_ns)
        if transaction_id == self.waiting_for or self.all_heard():
            self.heard_it.set()

    def all_heard(self) -> bool:
        return len(self.heard_ns) >= len(self.written_ns)


class Caller(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server closed the connection"))

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """(status, body)"""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head_end = self._unread.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._unread[:head_end].lower()
        length_at = head.index(b"content-length:") + 15
        length_end = head.find(b"\r", length_at)
        length = int(head[length_at : length_end if length_end > 0 else None])
        end = head_end + 4 + length
        if len(self._unread) < end or self._answer is None:
            return
        body, self._unread = self._unread[head_end + 4 : end], self._unread[end:]
        self._answer.set_result((int(head[9:12]), body))


class Generator:
    def __init__(self) -> None:
        self._boxes: list[Box] = []
        self._clocks = Clocks()

    async def begin(self, begin: Begin) -> None:
        """Connect all boxes; each has said that it is online when this returns."""
        loop = asyncio.get_running_loop()
        for device_id, password in begin.logins:
            login = Login(device_id, password)
            _, box = await loop.create_connection(
                lambda login=login: Box(login, self._hear, moment=begin.moment),  # type: ignore[misc]
                "127.0.0.1",
                begin.broker_port,
            )
            await asyncio.wait_for(box.ready, SILENCE_S)
            self._boxes.append(box)

    async def beat(self, beats: Beats) -> int:
        """When the first one was written, in monotonic nanoseconds."""
        began_ns = time.monotonic_ns()
        for n in range(beats.each):
            for box, topic, body in zip(self._boxes, beats.topics, beats.bodies, strict=True):
                box.publish(topic, body.encode(), qos=0)
            if n % (BEATS_TOGETHER // len(self._boxes) or 1) == 0:
                await asyncio.sleep(0)  # let them leave
        return began_ns

    async def run(self, order: Order) -> Measured:
        for box in self._boxes:
            box.answering = order.answering
        self._clocks = clocks = Clocks()
        calls = deque((call.text.encode(), (call.transaction_id or "").encode()) for call in order.calls)
        callers = [await _open(order.port) for _ in range(order.connections)]
        answered_ms: list[float] = []
        refused: list[str] = []
        gc.collect()
        gc.disable()
        began_ns = time.monotonic_ns()
        work = self._one_by_one if order.paced_s else self._as_fast_as_answered
        await asyncio.gather(*(work(caller, calls, answered_ms, refused, order.paced_s) for caller in callers))
        last_answer_ns = time.monotonic_ns()
        await self._hear_the_rest(clocks)
        gc.enable()
        for caller in callers:
            caller.transport.close()
        heard_ms = [(at - clocks.written_ns[who]) / 1e6 for who, at in clocks.heard_ns.items()]
        return Measured(answered_ms, heard_ms, began_ns, last_answer_ns, refused[:3])

    async def _as_fast_as_answered(
        self, caller: Caller, calls: deque[tuple[bytes, bytes]], answered_ms: list[float], refused: list[str], _: float
    ) -> None:
        written_ns = self._clocks.written_ns
        while calls:
            request, who = calls.popleft()
            started_ns = time.monotonic_ns()
            if who:
                written_ns[who] = started_ns
            status, body = await caller.call(request)
            answered_ms.append((time.monotonic_ns() - started_ns) / 1e6)
            if status != 200:
                refused.append(f"{status} {body[:300]!r}")

    async def _one_by_one(
        self,
        caller: Caller,
        calls: deque[tuple[bytes, bytes]],
        answered_ms: list[float],
        refused: list[str],
        paced_s: float,
    ) -> None:
        clocks = self._clocks
        while calls and not refused:
            one = deque([calls.popleft()])
            clocks.waiting_for = one[0][1]
            clocks.heard_it.clear()
            await self._as_fast_as_answered(caller, one, answered_ms, refused, 0)
            if clocks.waiting_for not in clocks.heard_ns:
                await asyncio.wait_for(clocks.heard_it.wait(), SILENCE_S)
            await asyncio.sleep(paced_s)

    async def _hear_the_rest(self, clocks: Clocks) -> None:
        clocks.waiting_for = b""
        while not clocks.all_heard():
            clocks.heard_it.clear()
            await asyncio.wait_for(clocks.heard_it.wait(), SILENCE_S)

    def _hear(self, transaction_id: bytes, at_ns: int) -> None:
        self._clocks.hear(transaction_id, at_ns)


async def _open(port: int) -> Caller:
    _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", port)
    return caller


async def main() -> None:
    orders, generator = await _lines(), Generator()
    while line := await orders.readline():
        order = msgspec.json.decode(line, type=Begin | Beats | Run)
        answer: object = None
        if isinstance(order, Begin):
            await generator.begin(order)
        elif isinstance(order, Beats):
            answer = await generator.beat(order)
        else:
            answer = await generator.run(order.order)
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=2**28)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    uvloop.run(main())
