"""The generic callback scheme: HMAC-SHA256 over the time and the raw body, several signatures during a rotation.

    X-Partner-Id: acme
    X-Partner-Timestamp: 1779530400
    X-Partner-Signature: v1=<hex of HMAC-SHA256(secret, timestamp + "." + raw body)>,v1=<the same with the next secret>

Other headers are not signed, so nothing is decided by them.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast, get_args

import msgspec

from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers.base import AdjustmentKind, AdjustmentReport, PaymentReport, ReportedStatus
from soundbox_server.providers.strict_json import MAX_BODY_BYTES, read_as

PARTNER_ID, TIMESTAMP, SIGNATURE = "x-partner-id", "x-partner-timestamp", "x-partner-signature"
WINDOW_S = 300
MAX_AMOUNT_IDR = 999_999_999_999

_SECONDS = re.compile(r"[0-9]{1,11}")
_V1 = re.compile(r"v1=([0-9a-fA-F]{64})")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LAST_MS = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MILLISECOND

_ID, _CURRENCY = "[!-~]{1,128}", "[A-Z]{3}"
PRINTABLE = "printable-text"  # a format of ours: `str.isprintable` is no pattern that fits into a line

Id = Annotated[str, msgspec.Meta(pattern=rf"\A{_ID}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=128)]


class _Body(msgspec.Struct):
    """What partners of this scheme send; fields that are not listed are ignored."""

    event_id: Id
    partner_reference: Id
    status: ReportedStatus | AdjustmentKind
    amount: Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT_IDR)]
    currency: Annotated[str, msgspec.Meta(pattern=rf"\A{_CURRENCY}\Z")]
    paid_at: str | None = None
    transaction_id: Id | None = None
    issuer: Text | None = None
    rrn: Id | None = None
    refund_reference: Id | None = None


_TIME = (
    "^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
# `_Body` for whoever reads the API's description; partners are bound by it, so it says all that is refused.
BODY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["event_id", "partner_reference", "status", "amount", "currency"],
    "properties": {
        "event_id": {"type": "string", "pattern": f"^{_ID}$"},
        "partner_reference": {"type": "string", "pattern": f"^{_ID}$"},
        "transaction_id": {"type": ["string", "null"], "pattern": f"^{_ID}$"},
        "status": {"type": "string", "enum": [*get_args(ReportedStatus), *get_args(AdjustmentKind)]},
        "amount": {"type": "integer", "minimum": 0, "maximum": MAX_AMOUNT_IDR, "description": "whole rupiah"},
        "currency": {"type": "string", "pattern": f"^{_CURRENCY}$"},
        "paid_at": {"type": ["string", "null"], "format": "date-time", "pattern": _TIME},
        "issuer": {
            "type": ["string", "null"],
            "format": PRINTABLE,
            "maxLength": 128,
            "description": "no control, direction, private or unassigned characters, and no space but U+0020",
        },
        "rrn": {"type": ["string", "null"], "pattern": f"^{_ID}$"},
        "refund_reference": {
            "type": ["string", "null"],
            "pattern": f"^{_ID}$",
            "description": "of refunded, refund_pending and refund_failed: the refund's, as we named it",
        },
    },
    "anyOf": [
        {"properties": {"status": {"enum": ["failed", "expired", "pending"]}}},
        {
            "properties": {
                "status": {"enum": list(get_args(AdjustmentKind))},
                "amount": {"minimum": 1, "description": "what this moves"},
            }
        },
        {"required": ["paid_at"], "properties": {"amount": {"minimum": 1}, "paid_at": {"type": "string"}}},
    ],
}


def sign(secrets: Sequence[bytes], body: bytes, *, partner_id: str, now_s: int) -> dict[str, str]:
    """The three headers for a body; one signature for each secret that is in use."""
    signed = b"%d." % now_s + body
    signatures = ",".join(f"v1={hmac.digest(secret, signed, 'sha256').hex()}" for secret in secrets)
    return {PARTNER_ID: partner_id, TIMESTAMP: str(now_s), SIGNATURE: signatures}


def verify(headers: Mapping[str, str], body: bytes, *, partner_id: str, secrets: Sequence[bytes], now_ms: int) -> None:
    """Raise InvalidSignature unless one of the signatures was made with one of the secrets in the last five minutes."""
    if headers.get(PARTNER_ID) != partner_id:
        raise InvalidSignature("The callback does not name the partner it is for.")
    timestamp = headers.get(TIMESTAMP, "")
    if not _SECONDS.fullmatch(timestamp) or abs(int(timestamp) - now_ms // 1000) > WINDOW_S:
        raise InvalidSignature("The callback's timestamp is missing or too far from now.")

    signed = timestamp.encode() + b"." + body
    expected = [hmac.digest(secret, signed, "sha256") for secret in secrets]
    given = [bytes.fromhex(found[1]) for found in map(_V1.fullmatch, _parts(headers.get(SIGNATURE, ""))) if found]
    matches = [hmac.compare_digest(one, other) for one in given for other in expected]  # all of them: no early exit
    if not any(matches):
        raise InvalidSignature("The callback's signature does not match.")


def read_callback(
    headers: Mapping[str, str], body: bytes, *, partner_id: str, secrets: Sequence[bytes], now_ms: int
) -> PaymentReport | AdjustmentReport:
    """Verify, then read. Raises InvalidSignature or ValidationFailed, nothing else."""
    if len(body) > MAX_BODY_BYTES:
        raise ValidationFailed("The body is too long.", limit_bytes=MAX_BODY_BYTES)
    verify(headers, body, partner_id=partner_id, secrets=secrets, now_ms=now_ms)
    return read_word(body, provider=partner_id)


def read_word(body: bytes, *, provider: str) -> PaymentReport | AdjustmentReport:
    """A body that is already trusted, as what it tells: that money came, or that it went back; raises
    ValidationFailed."""
    said = read_as(_Body, body)
    if said.status in get_args(AdjustmentKind):
        return _adjustment(said, body, provider)
    return _payment(said, body, provider)


def read_report(body: bytes, *, provider: str) -> PaymentReport:
    """A body that is already trusted and tells of a payment; raises ValidationFailed."""
    return _payment(read_as(_Body, body), body, provider)


def _adjustment(said: _Body, body: bytes, provider: str) -> AdjustmentReport:
    if said.amount == 0:
        raise ValidationFailed("Money that goes back has an amount.")
    return AdjustmentReport(
        provider=provider,
        event_id=said.event_id,
        kind=cast(AdjustmentKind, said.status),
        partner_reference=said.partner_reference,
        provider_transaction_id=said.transaction_id,
        refund_reference=said.refund_reference,
        amount_idr=said.amount,
        total_idr=None,
        currency=said.currency,
        confirmed=True,
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )


def _payment(said: _Body, body: bytes, provider: str) -> PaymentReport:
    if said.status not in get_args(ReportedStatus):
        raise ValidationFailed("This does not tell of a payment.", status=said.status)
    if said.status == "paid" and (said.amount == 0 or said.paid_at is None):
        raise ValidationFailed("A payment has an amount and a time.")
    if said.issuer is not None and not said.issuer.isprintable():  # control, bidi and half characters
        raise ValidationFailed("The issuer's name must be printable.")
    return PaymentReport(
        provider=provider,
        event_id=said.event_id,
        partner_reference=said.partner_reference,
        provider_transaction_id=said.transaction_id,
        status=cast(ReportedStatus, said.status),
        amount_idr=said.amount,
        currency=said.currency,
        paid_at_ms=None if said.paid_at is None else read_time(said.paid_at),
        issuer=said.issuer,
        rrn=said.rrn,
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )


def read_time(text: str) -> int:
    """RFC 3339 with an offset, as milliseconds since 1970 UTC (cut, not rounded); raises ValidationFailed."""
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError("not RFC 3339")
        at_ms = (datetime.fromisoformat(text.upper()) - _EPOCH) // _MILLISECOND
    except ValueError:
        raise ValidationFailed("A time must be RFC 3339 with an offset.", time=text[:40]) from None
    if not 0 <= at_ms <= _LAST_MS:
        raise ValidationFailed("A time must lie between 1970 and 9999.", time=text)
    return at_ms


def _parts(signatures: str) -> list[str]:
    return [part.strip() for part in signatures.split(",")]
