"""The kinds of values our own doors accept. What a person can neither see nor type on purpose is refused."""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, bidi marks, surrogates, unassigned


class Body(BaseModel):
    """What a caller of ours sends: a field that we do not know is a mistake of theirs, and 1 is no text.

    Strict also towards enums, which a text is not: name their values with Literal.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


def unchanged() -> Any:
    """The default of a field that changes something when it is named: `exclude_unset` leaves it out."""
    return None


def _seen(text: str) -> str:
    if any(unicodedata.category(letter) in _UNSEEN for letter in text):
        raise ValueError("holds control or direction characters")
    return text


def _moment_ms(value: object) -> object:
    """Milliseconds since 1970 of an RFC 3339 time. A time without a zone could mean two moments."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise ValueError("write an RFC 3339 time with its zone, like 2026-05-23T10:00:00Z")
    try:
        return (datetime.fromisoformat(value.upper()) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise ValueError("no such time") from None


_Shown = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_seen)]

Name = Annotated[_Shown, Field(max_length=100, examples=["Toko Indo"])]
Text = Annotated[_Shown, Field(max_length=500, examples=["Opposite the market."])]
Reason = Annotated[_Shown, Field(max_length=300, examples=["The photo of the identity card cannot be read."])]
Reference = Annotated[_Shown, Field(max_length=128, examples=["bank:9876543210"])]
Email = Annotated[
    str, StringConstraints(pattern=r"^[^\s@]{1,64}@[^\s@]{1,180}\.[^\s@.]{2,}$", max_length=254), AfterValidator(_seen)
]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
Search = Annotated[_Shown, Field(max_length=64, description="beginning of a code, number or name")]
Moment = Annotated[
    int,
    BeforeValidator(_moment_ms),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-05-23T10:00:00Z"]}),
]
