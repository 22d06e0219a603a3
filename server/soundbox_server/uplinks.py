"""A message from a box as its handlers see it: read, attributed to the box that the broker vouches for, and timed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from soundbox_protocol.messages import MAX_COUNT, Message
from soundbox_server.db import Statements

M = TypeVar("M", bound=Message)

HIGHEST_BELIEVED = MAX_COUNT // 2  # of a box's own counts: whoever goes on above it has as much room again


class Uplink(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    device_id: str
    message: M
    payload: bytes
    received_at_ms: int


class Allowance:
    """So many a minute for each box; what is more is dropped. Kept by the one process that hears the boxes."""

    _REMEMBERED = 20_000

    def __init__(self, a_minute: int) -> None:
        self._a_minute = a_minute
        self._taken: dict[str, tuple[int, int]] = {}  # when its minute began, and how many since

    def takes(self, device_id: str, *, at_ms: int) -> bool:
        began_ms, taken = self._taken.get(device_id, (at_ms, 0))
        if at_ms - began_ms >= 60_000:
            began_ms, taken = at_ms, 0
        if taken >= self._a_minute:
            return False
        if len(self._taken) >= self._REMEMBERED:
            self._taken = {one: kept for one, kept in self._taken.items() if at_ms - kept[0] < 60_000}
        self._taken[device_id] = (began_ms, taken + 1)
        return True


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """A place beside the uplinks where clients ask that are no boxes yet.

    `take` gets (topic, payload) and says whether that was for it. What it takes is acknowledged at once, so whoever
    asks there has to ask again when no answer comes.
    """

    topic_filter: str
    take: Callable[[str, bytes], bool]


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """What another maker's box said, as it came."""

    topic: str
    payload: bytes
    received_at_ms: int


class ForeignUplinks(msgspec.Struct, frozen=True, kw_only=True):
    """Where other makers' boxes speak, and what takes a group of their messages in the group's own transaction."""

    topic_filter: str
    is_one: Callable[[str], bool]
    handle: Callable[[Statements, Sequence[Foreign]], Awaitable[None]]


# Handlers neither commit nor publish nor call the network: what they queue is sent after the group's commit.
Handler = Callable[[Statements, Sequence[Uplink[Any]]], Awaitable[None]]
