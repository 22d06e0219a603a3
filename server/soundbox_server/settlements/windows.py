"""When a merchant's payments are settled. A profile's windows divide time: each payment belongs to the first window
that closes after it, on a day on which banks are open, and is settled some open days later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from soundbox_server.clock import DAY_MS, jakarta_day, jakarta_ms
from soundbox_server.fees.terms import Terms
from soundbox_server.settlements.calendar import Calendar, following

MINUTE_MS = 60_000
LOOK_BACK_DAYS = 60  # for the first run of a profile: longer than any row of holidays and days to wait


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """A window on one business day. It is open from `opens_at_ms` until just before `closes_at_ms`."""

    day: str
    name: str
    opens_at_ms: int
    closes_at_ms: int
    settles_on: str

    def is_due(self, now_ms: int) -> bool:
        """Whether it may be settled: its day has come."""
        return self.closes_at_ms <= now_ms and self.settles_on <= jakarta_day(now_ms)


def windows_of(terms: Terms, calendar: Calendar, day: str) -> list[Occurrence]:
    """The windows of a day, in the order in which they close; none on a closed day, or before the first version's."""
    found, opens_at_ms = [], _closed_before(terms, calendar, day)
    for name, closes_at_ms, days in _closings(terms, calendar, day):
        settles_on = calendar.after(day, days)
        found.append(
            Occurrence(
                day=day, name=name, opens_at_ms=opens_at_ms, closes_at_ms=closes_at_ms, settles_on=settles_on
            )
        )  # fmt: skip
        opens_at_ms = closes_at_ms
    return found


def window_of(terms: Terms, calendar: Calendar, at_ms: int) -> Occurrence:
    """Where a payment of that moment belongs."""
    day = jakarta_day(at_ms)
    while True:
        for window in windows_of(terms, calendar, day):
            if window.closes_at_ms > at_ms:
                return window
        day = following(day)


def due(terms: Terms, calendar: Calendar, *, after_ms: int | None, now_ms: int) -> list[Occurrence]:
    """Windows to settle now, oldest first: those that closed after `after_ms`, when the last settled one did. Where
    none was settled yet it is the latest that is due, which takes everything before it along.

    None overtakes another: a window waits for those before it, also where a new version pays sooner.
    """
    start = jakarta_day(now_ms - LOOK_BACK_DAYS * DAY_MS if after_ms is None else after_ms)
    windows = _windows_between(terms, calendar, start, jakarta_day(now_ms))
    found = takewhile(lambda window: window.is_due(now_ms), windows)
    ready = [window for window in found if after_ms is None or window.closes_at_ms > after_ms]
    return ready[-1:] if after_ms is None else ready


def _windows_between(terms: Terms, calendar: Calendar, day: str, last: str) -> Iterator[Occurrence]:
    while day <= last:
        yield from windows_of(terms, calendar, day)
        day = following(day)


def _closings(terms: Terms, calendar: Calendar, day: str) -> list[tuple[str, int, int]]:
    """Name, end and days to wait of each window of a day."""
    version = terms.on(day)
    if version is None or not calendar.is_open(day):
        return []
    closings = [(one.name, jakarta_ms(day) + _end_ms(one.cutoff), one.settle_after_days) for one in version.windows]
    return sorted(closings, key=lambda closing: closing[1])


def _end_ms(cutoff: str) -> int:
    """The minute of the cutoff belongs to the window: with 23:59 that is the whole day."""
    hours, minutes = cutoff.split(":")
    return (int(hours) * 60 + int(minutes) + 1) * MINUTE_MS


def _closed_before(terms: Terms, calendar: Calendar, day: str) -> int:
    """When the last window before this day closed; where no terms held yet, the day's own beginning."""
    before = _closings(terms, calendar, calendar.before(day))
    return before[-1][1] if before else jakarta_ms(day)
