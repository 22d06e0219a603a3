"""Which way money goes to a bank: by its amount and the hour, from limits that are data with the day they hold from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from soundbox_server.clock import DAY_MS, jakarta_day, jakarta_ms
from soundbox_server.payouts.state import Rail

IsOpen = Callable[[str], bool]  # whether banks are open on a day, as 2026-05-23
_LOOK_AHEAD_DAYS = 30  # no holidays last longer


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a rail carries from a day on, and when."""

    rail: Rail
    effective_from: str
    minimum_idr: int
    maximum_idr: int | None
    opens_ms: int  # after midnight in Jakarta
    closes_ms: int
    every_day: bool

    def carries(self, amount: int) -> bool:
        return self.minimum_idr <= amount and (self.maximum_idr is None or amount <= self.maximum_idr)


@lru_cache(maxsize=1)
def limits() -> Sequence[Limit]:
    """All that are known, in the order in which they are preferred."""
    read = json.loads((files("soundbox_server.payouts") / "rails.json").read_text())
    return [
        Limit(
            rail=Rail(one["rail"]),
            effective_from=one["effective_from"],
            minimum_idr=one["minimum_idr"],
            maximum_idr=one["maximum_idr"],
            opens_ms=_ms(one["opens"]),
            closes_ms=_ms(one["closes"]),
            every_day=one["every_day"],
        )
        for one in read["rails"]
    ]


def _ms(hour: str) -> int:
    hours, minutes = hour.split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000


def choose(amount: int, *, at_ms: int, is_open: IsOpen) -> Rail | None:
    """The rail that carries this amount now; None while all that could are closed."""
    day = jakarta_day(at_ms)
    since_midnight = at_ms - jakarta_ms(day)
    for limit in in_force(day):
        on_duty = limit.every_day or is_open(day)
        if limit.carries(amount) and on_duty and limit.opens_ms <= since_midnight < limit.closes_ms:
            return limit.rail
    return None


def in_force(day: str) -> list[Limit]:
    """Of each rail what holds on this day."""
    newest = {
        limit.rail: limit
        for limit in sorted(limits(), key=lambda limit: limit.effective_from)
        if limit.effective_from <= day
    }
    preferred = [limit.rail for limit in limits()]
    return sorted(newest.values(), key=lambda limit: preferred.index(limit.rail))


def next_opening_ms(amount: int, *, at_ms: int, is_open: IsOpen) -> int:
    """When a rail that carries this amount opens next, after one was found closed."""
    today = jakarta_ms(jakarta_day(at_ms))
    for days in range(_LOOK_AHEAD_DAYS):
        begins = today + days * DAY_MS
        day = jakarta_day(begins)
        found = [
            begins + limit.opens_ms
            for limit in in_force(day)
            if limit.carries(amount) and (limit.every_day or is_open(day)) and begins + limit.opens_ms > at_ms
        ]
        if found:
            return min(found)
    return at_ms + DAY_MS
