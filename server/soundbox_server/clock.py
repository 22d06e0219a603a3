"""Time as the rooms know it: whole milliseconds since 1970, UTC. Doors read the clock and hand the value on."""

import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

DAY_MS = 86_400_000
JAKARTA_AHEAD_MS = 7 * 3_600_000  # all year round, since 1964

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


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


def jakarta_day(at_ms: int) -> str:
    """The day in Jakarta, as 2026-05-23."""
    return _day((at_ms + JAKARTA_AHEAD_MS) // DAY_MS)


@lru_cache(maxsize=64)
def _day(days: int) -> str:
    return date.fromordinal(_EPOCH_DAY + days).isoformat()


def jakarta_ms(day: str) -> int:
    """The moment at which that day begins in Jakarta."""
    return (date.fromisoformat(day).toordinal() - _EPOCH_DAY) * DAY_MS - JAKARTA_AHEAD_MS
