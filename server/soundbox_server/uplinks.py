"""A message from a box as its handlers see it: read, attributed to the box that the broker vouches for, and timed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from soundbox_protocol.messages import Message
from soundbox_server.db import Statements

M = TypeVar("M", bound=Message)


class Uplink(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    device_id: str
    message: M
    payload: bytes
    received_at_ms: int


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """A place beside the uplinks where clients ask that are no boxes yet.

    `take` gets (topic, payload) and says whether that was for it. What it takes is acknowledged at once, so whoever
    asks there has to ask again when no answer comes.
    """

    topic_filter: str
    take: Callable[[str, bytes], bool]


# Handlers neither commit nor publish nor call the network: what they queue is sent after the group's commit.
Handler = Callable[[Statements, Sequence[Uplink[Any]]], Awaitable[None]]
