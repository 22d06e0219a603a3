"""Windows of business days: where a payment belongs, and when it is settled."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from soundbox_server.clock import jakarta_day, jakarta_ms
from soundbox_server.fees.terms import Terms, Version, Window
from soundbox_server.settlements.calendar import read_calendar
from soundbox_server.settlements.windows import due, window_of, windows_of

CALENDAR = read_calendar()
DAILY = Window("daily", "23:59", 1)


def terms(*windows: Window, effective_from: str = "1970-01-01") -> Terms:
    return Terms("fee", (Version(1, effective_from, (), windows or (DAILY,)),))


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("paid_at", "day", "settles_on"),
    [
        ("2026-03-17T10:00:00+07:00", "2026-03-17", "2026-03-25"),  # joint leave around Idul Fitri
        ("2026-05-13T09:00:00+07:00", "2026-05-13", "2026-05-18"),  # Ascension, joint leave, a weekend
        ("2026-05-22T23:59:59.999+07:00", "2026-05-22", "2026-05-25"),  # the cutoff's minute is the day's
        ("2026-05-23T00:00:00+07:00", "2026-05-25", "2026-05-26"),  # a Saturday belongs to Monday
        ("2026-05-22T16:59:59+00:00", "2026-05-22", "2026-05-25"),  # the day is Jakarta's
        ("2026-05-22T17:00:00+00:00", "2026-05-25", "2026-05-26"),
        ("2026-12-23T12:00:00+07:00", "2026-12-23", "2026-12-28"),
    ],
)
def test_a_payment_is_settled_on_the_next_open_day_after_its_own(paid_at: str, day: str, settles_on: str) -> None:
    window = window_of(terms(), CALENDAR, at(paid_at))

    assert (window.day, window.settles_on) == (day, settles_on)
    assert window.opens_at_ms <= at(paid_at) < window.closes_at_ms


def test_every_moment_of_a_year_is_in_exactly_one_window() -> None:
    three = terms(Window("noon", "11:59", 0), Window("evening", "17:29", 1), Window("night", "23:00", 1))
    day, found = "2026-01-02", []
    while day < "2027-01-01":
        found += windows_of(three, CALENDAR, day)
        day = (date.fromisoformat(day) + timedelta(days=1)).isoformat()

    assert all(before.closes_at_ms == after.opens_at_ms for before, after in pairwise(found))
    assert all(CALENDAR.is_open(window.day) and CALENDAR.is_open(window.settles_on) for window in found)
    assert len(found) == 3 * (261 - sum(date.fromisoformat(day).weekday() < 5 for day in CALENDAR.closed))


def test_a_window_after_the_cutoff_is_the_next_days() -> None:
    half = terms(Window("half", "12:00", 2))

    assert window_of(half, CALENDAR, at("2026-06-02T12:00:59+07:00")).day == "2026-06-02"
    late = window_of(half, CALENDAR, at("2026-06-02T12:01:00+07:00"))
    assert (late.day, late.settles_on) == ("2026-06-03", "2026-06-05")


def test_windows_are_due_in_their_order_and_none_twice() -> None:
    monday, tuesday = jakarta_ms("2026-06-09"), jakarta_ms("2026-06-10")  # when these windows closed

    assert [one.day for one in due(terms(), CALENDAR, after_ms=None, now_ms=tuesday)] == ["2026-06-09"]
    assert [one.day for one in due(terms(), CALENDAR, after_ms=monday, now_ms=tuesday)] == ["2026-06-09"]
    assert due(terms(), CALENDAR, after_ms=tuesday, now_ms=tuesday) == []
    week = due(terms(), CALENDAR, after_ms=monday, now_ms=jakarta_ms("2026-06-17"))
    assert [one.day for one in week] == ["2026-06-09", "2026-06-10", "2026-06-11", "2026-06-12", "2026-06-15"]


def test_a_window_that_pays_sooner_does_not_overtake_one_before_it() -> None:
    slow, fast = Version(1, "1970-01-01", (), (Window("daily", "23:59", 3),)), Version(2, "2026-06-10", (), (DAILY,))
    changed = Terms("fee", (slow, fast))
    ninth = jakarta_ms("2026-06-09")

    assert due(changed, CALENDAR, after_ms=ninth, now_ms=jakarta_ms("2026-06-11")) == []
    later = due(changed, CALENDAR, after_ms=ninth, now_ms=jakarta_ms("2026-06-12"))
    assert [(one.day, one.settles_on) for one in later] == [("2026-06-09", "2026-06-12"), ("2026-06-10", "2026-06-11"),
                                                            ("2026-06-11", "2026-06-12")]  # fmt: skip


def test_terms_that_begin_later_have_no_windows_before() -> None:
    begins = terms(effective_from="2099-01-05")

    assert due(begins, CALENDAR, after_ms=None, now_ms=at("2026-06-10T00:00:00Z")) == []
    assert windows_of(begins, CALENDAR, "2026-06-10") == []


def test_an_installation_corrects_the_calendar(tmp_path: Path) -> None:
    own = tmp_path / "calendar.toml"
    own.write_text('closed = ["2027-01-01", 2026-06-02]\nopen = ["2026-12-24"]\nyears = [2027]\n')

    corrected = read_calendar(own)

    assert (corrected.is_open("2026-12-24"), CALENDAR.is_open("2026-12-24")) == (True, False)
    assert (corrected.is_open("2026-06-02"), corrected.is_open("2027-01-01")) == (False, False)
    assert (corrected.knows("2027-05-05"), CALENDAR.knows("2027-05-05")) == (True, False)


@pytest.mark.parametrize(
    "text", ["closed = 7", 'closed = ["2026-02-30"]', "shut = []", "years = ['2027']", "years = [true]", "closed = ["]
)
def test_a_calendar_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    own = tmp_path / "calendar.toml"
    own.write_text(text)

    with pytest.raises(ValueError, match=r"calendar\.toml"):
        read_calendar(own)


def test_the_holidays_of_2026_are_as_many_as_the_decree_says() -> None:
    assert len(CALENDAR.closed) == 17 + 8
    assert {day[:4] for day in CALENDAR.closed} == {"2026"}
    assert jakarta_day(int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)) in CALENDAR.closed
