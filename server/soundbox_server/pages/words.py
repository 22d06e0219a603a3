"""What people read: its language, its money and its times.

Texts are written in English in code and templates, and translated in `locales/<language>.po`. A test fails where one is
not translated, or is no longer used.
"""

import gettext
import io
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

LANGUAGES = ("id", "en")  # the first is what nobody has to ask for
NO_BREAK = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
JAKARTA = ZoneInfo("Asia/Jakarta")
_SHORT = {"Asia/Jakarta": "WIB", "Asia/Makassar": "WITA", "Asia/Jayapura": "WIT"}


@lru_cache
def translations(language: str) -> gettext.NullTranslations:
    """Of one of LANGUAGES. English is what the texts are written in."""
    if language == "en":
        return gettext.NullTranslations()
    written = resources.files("soundbox_server.pages") / "locales" / f"{language}.po"
    compiled = io.BytesIO()
    with written.open("rb") as lines:
        write_mo(compiled, read_po(lines, locale=language, abort_invalid=True))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def language_of(*wanted: str | None, accepted: str = "") -> str:
    """The first of `wanted` that we speak, else what the browser likes best (an Accept-Language header), else
    Indonesian."""
    for one in wanted:
        if one in LANGUAGES:
            return one
    for tag in _by_weight(accepted):
        if tag.partition("-")[0].lower() in LANGUAGES:
            return tag.partition("-")[0].lower()
    return LANGUAGES[0]


def _by_weight(accepted: str) -> list[str]:
    """The tags of an Accept-Language header, the best liked first. What cannot be read weighs nothing."""
    weighed = []
    for part in accepted[:200].split(","):
        tag, _, parameter = part.strip().partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            weight = 0.0
        if tag and weight > 0:
            weighed.append((-weight, tag.strip()))
    return [tag for _, tag in sorted(weighed, key=lambda one: one[0])]


def rupiah(amount_idr: int) -> str:
    """`Rp 50.000` in every language: a space that never breaks, dots, a true minus."""
    sign = MINUS if amount_idr < 0 else ""
    return f"{sign}Rp{NO_BREAK}{abs(amount_idr):,}".replace(",", ".")


def clock_time(at_ms: int, zone: ZoneInfo = JAKARTA) -> str:
    """`16:30:05 WIB`."""
    return f"{_at(at_ms, zone):%H:%M:%S} {_SHORT.get(zone.key, zone.key)}"


def day_and_time(at_ms: int, zone: ZoneInfo = JAKARTA) -> str:
    """`2026-05-24 16:30:05 WIB`."""
    return f"{_at(at_ms, zone):%Y-%m-%d} {clock_time(at_ms, zone)}"


def _at(at_ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(zone)


FILTERS: dict[str, Any] = {"rupiah": rupiah, "clock_time": clock_time, "day_and_time": day_and_time}
