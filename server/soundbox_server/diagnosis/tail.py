"""A box's log as it comes in, as server-sent events.

Each look at the database is a transaction of its own, so a listener holds nothing between two of them, and any process
serves what any other wrote.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import select

from soundbox_server.db import Database, reading
from soundbox_server.diagnosis.listings import GRAVER, event_view, log_view
from soundbox_server.diagnosis.models import DeviceEvent, DeviceLog
from soundbox_server.diagnosis.state import Level
from soundbox_server.ids import lowest_id

LOOK_EVERY_S = 0.5
SIGN_OF_LIFE_S = 15.0
TOGETHER = 200
LOOK_BACK_MS = 10_000
CURSOR = r"^dlg_[0-9a-z]{26}\.dve_[0-9a-z]{26}$"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The last line and the last event that were sent."""

    log_id: str
    event_id: str

    @classmethod
    def at(cls, at_ms: int) -> "Place":
        return cls(log_id=lowest_id("dlg", at_ms), event_id=lowest_id("dve", at_ms))

    @classmethod
    def read(cls, text: str) -> "Place":
        log_id, _, event_id = text.partition(".")
        return cls(log_id=log_id, event_id=event_id)

    def __str__(self) -> str:
        return f"{self.log_id}.{self.event_id}"


class Tails:
    """How many listen in this process: each costs a look at the database every half second."""

    def __init__(self, most: int = 50) -> None:
        self._most, self._open = most, 0
        self._closed = False

    def close(self) -> None:
        """The process is about to end: nobody is kept waiting. Browsers come back to whoever serves then."""
        self._closed = True

    @property
    def full(self) -> bool:
        return self._closed or self._open >= self._most

    async def follow(
        self, database: Database, device_id: str, *, level: Level, place: Place, for_s: float
    ) -> AsyncIterator[bytes]:
        """What comes, until the time is over or nobody listens any more."""
        self._open += 1
        try:
            ends, said_at = time.monotonic() + for_s, time.monotonic()
            yield b": the log begins\n\n"
            while True:
                sent, place = await _look(database, device_id, level, place)
                now = time.monotonic()
                if sent:
                    yield b"".join(sent)
                    said_at = now
                elif now - said_at >= SIGN_OF_LIFE_S:
                    yield b": nothing new\n\n"
                    said_at = now
                if self._closed or now >= ends:
                    return
                if len(sent) < TOGETHER:
                    await asyncio.sleep(min(LOOK_EVERY_S, ends - now))
        finally:
            self._open -= 1


async def _look(database: Database, device_id: str, level: Level, place: Place) -> tuple[Sequence[bytes], Place]:
    levels = GRAVER[level]
    logs = (
        select(DeviceLog).where(DeviceLog.device_id == device_id, DeviceLog.id > place.log_id)
        .where(DeviceLog.level.in_(levels)).order_by(DeviceLog.id).limit(TOGETHER)
    )  # fmt: skip
    events = (
        select(DeviceEvent).where(DeviceEvent.device_id == device_id, DeviceEvent.id > place.event_id)
        .where(DeviceEvent.level.in_(levels)).order_by(DeviceEvent.id).limit(TOGETHER)
    )  # fmt: skip
    async with reading(database) as session:
        found = [(row.received_at_ms, row.id, "log", log_view(row)) for row in await session.scalars(logs)]
        told = [(row.received_at_ms, row.id, "event", event_view(row)) for row in await session.scalars(events)]
    sent = []
    for _, row_id, kind, shown in sorted([*found, *told], key=lambda one: one[:2]):
        place = (
            Place(log_id=row_id, event_id=place.event_id) if kind == "log"
            else Place(log_id=place.log_id, event_id=row_id)
        )  # fmt: skip
        sent.append(_event(kind, str(place), shown))
    return sent, place


def _event(kind: str, place: str, shown: Any) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (kind.encode(), place.encode(), orjson.dumps(shown))
