"""Which way money goes: by its amount, the hour and the day."""

import pytest

from soundbox_server.clock import jakarta_ms
from soundbox_server.payouts.rails import choose, in_force, next_opening_ms
from soundbox_server.settlements.calendar import read_calendar

OPEN = read_calendar().is_open
MILLION = 1_000_000


def at(day: str, hour: str) -> int:
    hours, minutes = hour.split(":")
    return jakarta_ms(day) + (int(hours) * 60 + int(minutes)) * 60_000


@pytest.mark.parametrize(
    ("amount", "day", "hour", "rail"),
    [
        (1, "2026-05-22", "10:00", "bi_fast"),
        (250 * MILLION, "2026-05-22", "10:00", "bi_fast"),
        (250 * MILLION, "2026-05-24", "03:00", "bi_fast"),  # a Sunday night
        (250 * MILLION + 1, "2026-05-22", "10:00", "skn"),
        (1_000 * MILLION, "2026-05-22", "06:30", "skn"),
        (1_000 * MILLION + 1, "2026-05-22", "10:00", "rtgs"),
        (1_000 * MILLION + 1, "2026-05-22", "16:29", "rtgs"),
        (1_000 * MILLION + 1, "2026-05-22", "16:30", None),
        (250 * MILLION + 1, "2026-05-22", "06:29", None),
        (250 * MILLION + 1, "2026-05-23", "10:00", None),  # a Saturday
        (250 * MILLION + 1, "2026-08-17", "10:00", None),  # Independence Day, a Monday
        (250 * MILLION, "2021-12-20", "10:00", "skn"),  # the day before BI-FAST
    ],
)
def test_the_rail_is_the_first_that_carries_the_amount_now(amount: int, day: str, hour: str, rail: str | None) -> None:
    assert choose(amount, at_ms=at(day, hour), is_open=OPEN) == rail


@pytest.mark.parametrize(
    ("day", "hour", "opens"),
    [
        ("2026-05-21", "16:30", "2026-05-22"),
        ("2026-05-22", "16:30", "2026-05-25"),  # over a weekend
        ("2026-05-25", "06:29", "2026-05-25"),
        ("2026-08-14", "17:00", "2026-08-18"),  # over a weekend and Independence Day
    ],
)
def test_what_nobody_carries_now_waits_for_the_next_opening(day: str, hour: str, opens: str) -> None:
    found = next_opening_ms(300 * MILLION, at_ms=at(day, hour), is_open=OPEN)

    assert found == at(opens, "06:30")
    assert choose(300 * MILLION, at_ms=found, is_open=OPEN) == "skn"


def test_of_each_rail_one_limit_is_in_force() -> None:
    assert [limit.rail for limit in in_force("2026-05-22")] == ["bi_fast", "skn", "rtgs"]
    assert [limit.rail for limit in in_force("2016-07-01")] == ["rtgs"]
