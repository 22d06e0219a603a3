"""Fields of partners' JSON, each read in one way or refused; and the few forms in which they want to be told."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeAlias

from soundbox_server.errors import ValidationFailed
from soundbox_server.providers.hmac_scheme import MAX_AMOUNT_IDR, read_time

Fields: TypeAlias = Mapping[str, Any]

WIB = timezone(timedelta(hours=7))  # partners write Jakarta's time, often without saying so

_ID = re.compile(r"[!-~]{1,128}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_RUPIAH = re.compile(r"([0-9]{1,12})(\.0{1,2})?")
_LOCAL = re.compile(r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})[ T]?([0-9]{2}):?([0-9]{2}):?([0-9]{2})")
_EPOCH_MS = re.compile(r"[0-9]{13}")


def section(said: Fields, name: str) -> Fields:
    """An object inside; an empty one where there is none."""
    value = said.get(name)
    return value if isinstance(value, dict) else {}


def identifier(said: Fields, name: str) -> str:
    """Printable ASCII without spaces, up to 128 characters."""
    value = said.get(name)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValidationFailed("An id is missing or not printable.", field=name)
    return value


def identifier_or_none(said: Fields, name: str) -> str | None:
    value = said.get(name)
    return None if value is None or value == "" else identifier(said, name)


def text_or_none(said: Fields, name: str) -> str | None:
    """Something to show. One that cannot be shown is left out: a bank's odd name must not cost the payment."""
    value = said.get(name)
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 128:
        return None
    return value


def reference_or_none(said: Fields, *names: str) -> str | None:
    """The first of several names under which partners carry a payment's retrieval reference; unreadable ones count as
    absent."""
    for name in names:
        value = said.get(name)
        if isinstance(value, str) and _ID.fullmatch(value):
            return value
    return None


def currency(said: Fields, name: str = "currency") -> str:
    value = said.get(name, "IDR")
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise ValidationFailed("A currency must be three capital letters.", field=name)
    return value


def rupiah(value: object) -> int:
    """Whole rupiah out of 10000, "10000", "10000.00" or Decimal("10000.00"); a fraction that counts is refused."""
    match value:
        case bool() | float():
            pass
        case int() if 0 <= value <= MAX_AMOUNT_IDR:
            return value
        case Decimal() if value.is_finite() and 0 <= value <= MAX_AMOUNT_IDR and value == value.to_integral_value():
            return int(value)
        case str() if found := _RUPIAH.fullmatch(value):
            return int(found[1])
    raise ValidationFailed("An amount must be whole rupiah.")


def moment_or_none(value: object) -> int | None:
    """Milliseconds since 1970 out of RFC 3339, Jakarta's time without an offset, or 13 digits of milliseconds.

    None where it cannot be read: the time when the report arrived is good enough, and the payment is not lost.
    """
    if not isinstance(value, str):
        return None
    if _EPOCH_MS.fullmatch(value):
        return int(value)
    try:
        if local := _LOCAL.fullmatch(value):
            year, month, day, hour, minute, second = (int(part) for part in local.groups())
            at = datetime(year, month, day, hour, minute, second, tzinfo=WIB)
            return max(0, int(at.timestamp())) * 1000
        return read_time(value)
    except (ValueError, OverflowError, ValidationFailed):
        return None


def two_decimals(amount_idr: int) -> str:
    """10000 as "10000.00", digit by digit."""
    return f"{amount_idr:d}.00"


def jakarta_time(at_ms: int, timespec: str = "seconds") -> str:
    """2026-05-23T17:00:00+07:00"""
    return (datetime(1970, 1, 1, tzinfo=WIB) + timedelta(hours=7, milliseconds=at_ms)).isoformat(timespec=timespec)
