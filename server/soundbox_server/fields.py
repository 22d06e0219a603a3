"""The kinds of values our own doors accept. What a person can neither see nor type on purpose is refused."""

import re
import unicodedata
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = (
    r"^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_DAY = r"^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, bidi marks, surrogates, unassigned
MOST_WHOLE = 2**53  # beyond it a JSON reader that knows doubles alone reads another number
VISIBLE = "visible-text"  # a format of ours: no pattern that every reader of the description knows says it in one line


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
    if not text.strip():
        raise ValueError("is blank")
    return text


def _real_day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("no such day") from None


def _moment_ms(value: object) -> object:
    """Milliseconds since 1970 of an RFC 3339 time. A time without a zone could mean two moments."""
    if not isinstance(value, str) or not re.fullmatch(_MOMENT, value):
        raise ValueError("write an RFC 3339 time with its zone, from 1970 on, like 2026-05-23T10:00:00Z")
    try:
        return (datetime.fromisoformat(value.upper()) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise ValueError("no such time") from None


# Spaces around it count for its length and go then: the description knows no length of what is left.
_STRIPPED = AfterValidator(str.strip)
_Visible = Annotated[str, Field(min_length=1, json_schema_extra={"format": VISIBLE}), AfterValidator(_seen)]

Name = Annotated[_Visible, Field(max_length=100, examples=["Toko Indo"]), _STRIPPED]
City = Annotated[_Visible, Field(max_length=60, examples=["Jakarta"]), _STRIPPED]
Text = Annotated[_Visible, Field(max_length=500, examples=["Opposite the market."]), _STRIPPED]
Reason = Annotated[_Visible, Field(max_length=300, examples=["The photo of the identity card is blurred."]), _STRIPPED]
Reference = Annotated[_Visible, Field(max_length=128, examples=["bank:9876543210"]), _STRIPPED]
# ASCII: what every mail server takes, and nothing that looks like another letter.
Email = Annotated[str, StringConstraints(pattern=r"^[!-?A-~]{1,64}@[!-?A-~]{1,180}\.[!-\-/-?A-~]{2,}$", max_length=254)]
Whole = Annotated[int, Field(ge=-MOST_WHOLE, le=MOST_WHOLE)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
# A merchant's own name for a payment: printed on its receipts, whatever it looks like.
OrderCode = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,100}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
Search = Annotated[_Visible, Field(max_length=64, description="beginning of a code, number or name"), _STRIPPED]
# On the calendar in Jakarta. The text itself: as such it is stored, and as such it is in order.
Day = Annotated[
    str,
    StringConstraints(pattern=_DAY),
    AfterValidator(_real_day),
    WithJsonSchema({"type": "string", "format": "date", "pattern": _DAY, "examples": ["2026-05-22"]}),
]
Moment = Annotated[
    int,
    BeforeValidator(_moment_ms),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _MOMENT, "examples": ["2026-05-23T10:00:00Z"]}),
]
