"""Time as the rooms know it: whole milliseconds since 1970, UTC. Doors read the clock and hand the value on."""

import time
from datetime import UTC, datetime, timedelta


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def rfc3339(at_ms: int) -> str:
    """UTC with milliseconds and a Z, for API answers: 2026-05-23T10:00:00.123Z."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")[
        :-6
    ] + "Z"


def rfc3339_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
