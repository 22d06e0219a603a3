"""On which days banks are open. Closed are weekends, and the holidays and days of joint leave of `calendar.json`.

Press lists contradict each other and ministers change their minds, so an installation may correct the file by one of
its own: TOML with `closed` and `open`, lists of days, and `years`, those it speaks of in full.
"""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

_DAY = timedelta(days=1)
_SATURDAY = 5
_WORDS = {"closed", "open", "years"}


@dataclass(frozen=True)
class Calendar:
    """Days are texts, as 2026-05-23. `years` are those whose holidays are known; in others only weekends are closed."""

    closed: frozenset[str]
    opened: frozenset[str]
    years: frozenset[int]

    def is_open(self, day: str) -> bool:
        if day in self.opened:
            return True
        return day not in self.closed and date.fromisoformat(day).weekday() < _SATURDAY

    def after(self, day: str, days: int) -> str:
        """The open day that is so many open days later; with 0, that day itself."""
        found = day
        while days:
            found = following(found)
            days -= self.is_open(found)
        return found

    def before(self, day: str) -> str:
        """The last open day before this one."""
        found = preceding(day)
        while not self.is_open(found):
            found = preceding(found)
        return found

    def knows(self, day: str) -> bool:
        return date.fromisoformat(day).year in self.years


def following(day: str) -> str:
    return (date.fromisoformat(day) + _DAY).isoformat()


def preceding(day: str) -> str:
    return (date.fromisoformat(day) - _DAY).isoformat()


def read_calendar(override: Path | None = None) -> Calendar:
    """The file's days, corrected by `override`. Raises ValueError, with that file's name, where it is no such file."""
    years = json.loads((files("soundbox_server.settlements") / "calendar.json").read_text())["years"]
    closed = {day for year in years.values() for day in (*year["national_holidays"], *year["joint_leave"])}
    own = _own(override) if override else {}
    return Calendar(
        closed=frozenset(closed | _days(own, "closed", override)),
        opened=frozenset(_days(own, "open", override)),
        years=frozenset({int(year) for year in years} | _years(own, override)),
    )


def _own(path: Path) -> dict[str, Any]:
    try:
        own = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ValueError(f"{path}: {problem}") from None
    if unknown := sorted(own.keys() - _WORDS):
        raise ValueError(f"{path}: {', '.join(unknown)}: only {', '.join(sorted(_WORDS))} are known")
    return own


def _days(own: dict[str, Any], name: str, path: Path | None) -> set[str]:
    days: Iterable[Any] = own.get(name, [])
    try:
        return {date.fromisoformat(str(day)).isoformat() for day in days}  # TOML's own dates, or texts
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {name} is a list of days, like 2026-12-24") from None


def _years(own: dict[str, Any], path: Path | None) -> set[int]:
    years = own.get("years", [])
    if not isinstance(years, list) or not all(type(year) is int for year in years):
        raise ValueError(f"{path}: years is a list of numbers, like 2027")
    return set(years)
