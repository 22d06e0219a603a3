"""Time as the rooms know it: whole milliseconds since 1970, UTC. Doors read the clock and hand the value on."""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def rfc3339(at_ms: int) -> str:
    """UTC with milliseconds and a Z, for API answers: 2026-05-23T10:00:00.123Z."""
    second, ms = divmod(at_ms, 1_000)
    return f"{_second(second)}.{ms:03}Z"


@lru_cache(maxsize=1_024)
def _second(second: int) -> str:
    # What happens within one second shares its text: the payment path writes several times for each callback.
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]


def rfc3339_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
