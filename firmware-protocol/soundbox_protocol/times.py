"""Times on the wire: RFC 3339 in UTC, ending in `Z`. Inside the programs they are integer milliseconds since 1970."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z")


def to_rfc3339(ms: int) -> str:
    """Whole seconds, rounded down: `2026-05-23T10:00:00Z`. ValueError outside the years 1 to 9999."""
    return _second(ms // 1000)


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    # Messages written in the same second share their times, so the hot path seldom formats one.
    try:
        return (_EPOCH + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


def from_rfc3339(text: str) -> int:
    """Milliseconds since 1970, finer fractions cut off. ValueError when the text is no RFC 3339 time ending in `Z`."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("not an RFC 3339 time in UTC")
    return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND
