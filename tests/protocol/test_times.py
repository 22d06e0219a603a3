from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_protocol import from_rfc3339, to_rfc3339

FIRST_MS = int(datetime(1, 1, 1, tzinfo=UTC).timestamp()) * 1000
LAST_MS = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()) * 1000 + 999


@given(st.integers(min_value=FIRST_MS, max_value=LAST_MS))
def test_a_time_comes_back_in_whole_seconds(ms: int) -> None:
    assert from_rfc3339(to_rfc3339(ms)) == ms // 1000 * 1000
    assert len(to_rfc3339(ms)) == 20


def test_a_known_instant() -> None:
    assert to_rfc3339(1_779_530_400_999) == "2026-05-23T10:00:00Z"
    assert from_rfc3339("2026-05-23T10:00:00Z") == 1_779_530_400_000


@pytest.mark.parametrize(
    ("text", "ms"), [(".5", 500), (".25", 250), (".001", 1), (".0019", 1), (".999999999", 999), (".000000001", 0)]
)
def test_fractions_are_cut_to_milliseconds(text: str, ms: int) -> None:
    assert from_rfc3339(f"2026-05-23T10:00:00{text}Z") == 1_779_530_400_000 + ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-05-23",
        "2026-05-23T10:00Z",
        "2026-05-23T10:00:00",
        "2026-05-23T10:00:00z",
        "2026-05-23 10:00:00Z",
        "2026-05-23T10:00:00+00:00",
        "2026-05-23T17:00:00+07:00",
        "2026-05-23T10:00:00.Z",
        "2026-05-23T10:00:00.1234567890Z",
        "2026-05-23T10:00:00Z\n",
        "2026-05-23T24:00:00Z",
        "2026-05-23T10:00:60Z",
        "2026-02-29T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "２026-05-23T10:00:00Z",
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        from_rfc3339(text)


@pytest.mark.parametrize("ms", [FIRST_MS - 1, LAST_MS + 1, 10**30])
def test_a_time_outside_the_calendar_cannot_be_written(ms: int) -> None:
    with pytest.raises(ValueError):
        to_rfc3339(ms)
