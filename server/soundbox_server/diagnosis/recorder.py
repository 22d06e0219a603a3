"""What is written down when there is time: messages over the broker, and lines of boxes' logs.

Whoever notes something never waits: rows lie in a bounded queue until a task of their own writes them in groups. What
does not fit any more, or meets a database that is away, is lost and counted; nothing but a look back depends on it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import msgspec
import structlog

from soundbox_protocol.topics import parse_uplink
from soundbox_server import metrics
from soundbox_server.db import Database, Statements, Work
from soundbox_server.diagnosis.redaction import masked, shown, storable
from soundbox_server.diagnosis.state import Direction, Seen
from soundbox_server.ids import new_id

log = structlog.get_logger()

WRITE_EVERY_S = 0.5
MOST_WAITING = 20_000
MOST_TOGETHER = 200  # rows a transaction: SQLite lets nobody else write meanwhile, and they are made in one go
MOST_OF_A_DEVICE = 50  # lines of one box's log in one go: a box that babbles does not crowd out the others
TOPIC_LENGTH = 128

# table -> what is inserted into it
_INSERTS = {
    "mqtt_message": (
        "INSERT INTO mqtt_message (id, device_id, direction, topic, outcome, payload, size_bytes, message_id, attempt, "
        "at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    ),
    "device_log": (
        "INSERT INTO device_log (id, device_id, level, code, detail, said_at_ms, received_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)"
    ),
}
_CUT = """
DELETE FROM {table} WHERE id IN (
  SELECT id FROM {table} WHERE device_id = $1 AND id < (
    SELECT id FROM {table} WHERE device_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)
  ORDER BY id {lock})
"""


class Heard(Protocol):
    """A message as the broker hands it on."""

    @property
    def topic(self) -> str: ...

    @property
    def payload(self) -> bytes: ...


class Sent(Protocol):
    """A message of the outbox."""

    @property
    def id(self) -> str: ...

    @property
    def recipient_id(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def body(self) -> bytes: ...

    @property
    def attempt(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How many rows of each box are kept."""

    mqtt_messages: int = 200
    logs: int = 1_000
    events: int = 200

    def of(self, table: str) -> int:
        return {"mqtt_message": self.mqtt_messages, "device_log": self.logs, "device_event": self.events}[table]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a box's log."""

    device_id: str
    level: str
    code: str | None
    detail: str
    said_at_ms: int
    received_at_ms: int


T = TypeVar("T")
Row = tuple[str, str, tuple[object, ...]]  # table, device, values


class Recorder:
    """One for each process. `run` writes until it is cancelled, `write` once more at a stop."""

    def __init__(self, database: Database, *, kept: Kept | None = None, most_waiting: int = MOST_WAITING) -> None:
        self._database = database
        self._kept = kept or Kept()
        self._most_waiting = most_waiting
        self._waiting: deque[Callable[[], Row]] = deque()  # rows are made when they are written: that takes longest
        self._written: Counter[tuple[str, str]] = Counter()  # (table, device) -> rows since it was last cut
        self._cut_before: set[tuple[str, str]] = set()

    def heard(self, messages: Sequence[tuple[Heard, bool]], at_ms: int) -> None:
        """Boxes said this, each with whether it could be read."""
        self._waiting.extend(
            partial(_heard, one.topic, one.payload, understood, at_ms)
            for one, understood in self._fitting("mqtt", messages)
        )

    def sent(self, messages: Sequence[tuple[Sent, bool]], at_ms: int) -> None:
        """This went to boxes, each with whether the connection took it."""
        self._waiting.extend(partial(_sent, one, taken, at_ms) for one, taken in self._fitting("mqtt", messages))

    def logged(self, lines: Sequence[Line]) -> None:
        """Boxes' logs go on."""
        of_device: Counter[str] = Counter()
        fair = []
        for line in lines:
            of_device[line.device_id] += 1
            if of_device[line.device_id] <= MOST_OF_A_DEVICE:
                fair.append(line)
        _lost("log", len(lines) - len(fair))
        self._waiting.extend(partial(_logged, line) for line in self._fitting("log", fair))

    def filled(self, table: str, device_ids: Iterable[str]) -> None:
        """Somebody else wrote rows of these boxes, one for each time a box is named."""
        self._written.update((table, device_id) for device_id in device_ids)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write everything that waits, in groups, and take away what is too much of a box."""
        while self._waiting:
            await asyncio.sleep(0)  # payments go first
            taken = [self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))]
            group = [row for row in map(_made, taken) if row is not None]
            if not await self._tried(partial(_insert, group=group), rows=len(group)):
                _lost("mqtt", sum(table == "mqtt_message" for table, _, _ in group))
                _lost("log", sum(table == "device_log" for table, _, _ in group))
                return
            self._written.update((table, device_id) for table, device_id, _ in group)
        full = self._full()
        if full and await self._tried(partial(self._cut, full=full), rows=0):
            for one in full:
                del self._written[one]
            self._cut_before.update(full)

    async def _tried(self, work: Work[None], *, rows: int) -> bool:
        """Whether it was committed. A database that is away is no reason to stop: what comes later may be written."""
        try:
            await self._database.write(work, at_once=True, lasting=False)
        except Exception as error:
            log.warning("recorder.not_written", rows=rows, error=repr(error))
            return False
        return True

    def _fitting(self, kind: str, wanted: Sequence[T]) -> Sequence[T]:
        room = max(0, self._most_waiting - len(self._waiting))
        _lost(kind, len(wanted) - room)
        return wanted[:room]

    def _full(self) -> list[tuple[str, str]]:
        """Boxes with a quarter more than is kept; of one that this process has not cut yet nobody knows."""
        return sorted(
            one
            for one, count in self._written.items()
            if count > self._kept.of(one[0]) // 4 or one not in self._cut_before
        )[:MOST_TOGETHER]

    async def _cut(self, tx: Statements, *, full: Sequence[tuple[str, str]]) -> None:
        for table in sorted({table for table, _ in full}):
            sql = _CUT.format(table=table, lock=tx.lock(table, skip=True))
            newest = self._kept.of(table) - 1
            await tx.many(sql, [(device_id, newest) for its, device_id in full if its == table])


def _made(make: Callable[[], Row]) -> Row | None:
    """What a message cannot be made into is no reason to record no other."""
    try:
        return make()
    except Exception as error:
        log.warning("recorder.not_made", error=repr(error))
        _lost("mqtt", 1)
        return None


async def _insert(tx: Statements, *, group: Sequence[Row]) -> None:
    for table in sorted({table for table, _, _ in group}):
        await tx.many(_INSERTS[table], [values for its, _, values in group if its == table])


def _lost(kind: str, count: int) -> None:
    if count > 0:
        metrics.labelled(metrics.not_recorded, kind).inc(count)


def _heard(topic: str, payload: bytes, understood: bool, at_ms: int) -> Row:
    device_id, _ = parse_uplink(topic) or ("", "")
    seen = Seen.READ if understood else Seen.UNREADABLE
    return _message(device_id, Direction.UP, topic, seen, payload, None, None, at_ms)


def _sent(message: Sent, taken: bool, at_ms: int) -> Row:
    seen = Seen.SENT if taken else Seen.NOT_SENT
    return _message(
        message.recipient_id, Direction.DOWN, message.address, seen, message.body, message.id, message.attempt, at_ms
    )


def _message(
    device_id: str,
    direction: Direction,
    topic: str,
    seen: Seen,
    payload: bytes,
    message_id: str | None,
    attempt: int | None,
    at_ms: int,
) -> Row:
    values = (
        new_id("mqm"), device_id, direction.value, storable(topic)[:TOPIC_LENGTH], seen.value, shown(payload),
        len(payload), message_id, attempt, at_ms,
    )  # fmt: skip
    return "mqtt_message", device_id, values


def _logged(line: Line) -> Row:
    values = (
        new_id("dlg"), line.device_id, line.level, line.code, masked(line.detail), line.said_at_ms,
        line.received_at_ms,
    )  # fmt: skip
    return "device_log", line.device_id, values
