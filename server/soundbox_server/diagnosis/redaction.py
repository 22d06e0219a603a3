"""What may be shown of a message: what it says, and nothing that opens anything.

Secrets go, signatures and QRs keep their first characters so that two can be told apart, and card, phone and e-mail
numbers in texts are masked. What is no JSON object is not shown at all.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

LONGEST = 1_500
_NAMES_KEPT = 2_000
HIDDEN = "***"
# Compared without their case: a firmware engineer's debug line spells them as it likes.
_SECRET = re.compile(r"(?i)(sealed|passw|secret|token|csr|authorization|(^|_)(key|pin|pwd)$|api_?key|(^|_)psk)")
_SHORTENED: Mapping[str, int] = {"sig": 6, "signature": 6, "qr_payload": 12, "data": 12}
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_PHONE = re.compile(r"(?<![\w])(?:\+?62|0)8\d{7,11}(?!\w)")
_PAN = re.compile(r"(?<![\w])\d{13,19}(?!\w)")
_ASSIGNED = re.compile(r"(?i)\b(password|passwd|pwd|token|secret|key|authorization|psk)\s*[=:]\s*(bearer\s+)?\S+")

_WORTH_A_LOOK = re.compile(r"(?i)@|\d{9}|passw|pwd|token|secret|key|authorization|psk")


@lru_cache(maxsize=_NAMES_KEPT)
def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name))


# Where none of these is in a message in lower case, nothing of it is a secret or too long. A backslash may hide them.
_SUSPICIOUS = re.compile(
    rb'sealed|passw|secret|token|csr|authorization|key|pin|pwd|psk|@|\\|speak_code|"sig|"data"|qr_payload'
)
_SIGNED = re.compile(rb'"sig":"([\w+/=-]{7,200})"')
_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 9


def shown(payload: bytes) -> str:
    """The message as it may be kept and shown, at most LONGEST characters."""
    try:
        said = orjson.loads(payload)
    except ValueError:
        return f"({len(payload)} bytes that are no JSON)"
    if not isinstance(said, dict):
        return f"({len(payload)} bytes that are no JSON object)"
    return _harmless(payload) or _member_by_member(said, len(payload))


def _member_by_member(said: dict[str, Any], size_bytes: int) -> str:
    if said.get("command_name") == "speak_code" and "payload" in said:
        said["payload"] = HIDDEN  # a code proves who stands in front of the box
    try:
        text = storable(orjson.dumps(_redacted(said)).decode())
    except (RecursionError, orjson.JSONEncodeError):
        return f"({size_bytes} bytes, nested too deep)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _harmless(payload: bytes) -> str | None:
    """A JSON object as it is, but for the end of its signature, where a quick look finds nothing to hide: most are
    such, and a payment writes three. None where it must be read member by member."""
    if len(payload) > LONGEST:
        return None
    rest = _SIGNED.sub(b"", payload, count=1).lower()
    if not rest.isascii() or _SUSPICIOUS.search(rest) or _LONG_NUMBER in rest.translate(_ALL_ZEROS):
        return None
    return _SIGNED.sub(_signature_shortened, payload, count=1).decode()


def _signature_shortened(found: re.Match[bytes]) -> bytes:
    return b'"sig":"%b\xe2\x80\xa6 (%d)"' % (found[1][: _SHORTENED["sig"]], len(found[1]))


def storable(text: str) -> str:
    """Without what no database takes: a NUL, and half a surrogate pair."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def masked(text: str) -> str:
    """A line of free text without numbers of cards and phones, addresses, and what is said to be a secret."""
    if not _WORTH_A_LOOK.search(text):  # nearly all texts, and each of the others costs four looks
        return text
    text = _ASSIGNED.sub(lambda found: f"{found[1]}={HIDDEN}", text)
    return _PAN.sub(HIDDEN, _PHONE.sub(HIDDEN, _EMAIL.sub(HIDDEN, text)))


def _redacted(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _redacted(inner, key) for key, inner in value.items()}
    if value is not None and _is_secret(name):
        return HIDDEN
    if isinstance(value, list):
        return [_redacted(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    if name in _SHORTENED:
        return f"{value[: _SHORTENED[name]]}… ({len(value)})" if len(value) > _SHORTENED[name] else value
    return masked(value)
