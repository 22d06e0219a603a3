"""The signature at the end of every downlink that speaks, shows, configures or acts.

HMAC-SHA256 over `topic` + LF + the exact payload bytes before `,"sig":`. There is no list of fields and no canonical
form: what was received is what is verified, and a device needs no JSON parser before it knows who is speaking.
"""

import base64
import hmac

KEY_BYTES = 32
_OPEN, _CLOSE = b',"sig":"', b'"}'
TAIL_BYTES = len(_OPEN) + 43 + len(_CLOSE)  # 43 characters of base64url carry 32 bytes without padding


class BadSignature(ValueError):
    """The payload was not signed for this topic with this key. Nothing in it may be believed."""


def sign(key: bytes, topic: str, body: bytes) -> bytes:
    """Append `,"sig":"…"}` to a compact JSON object that has at least one member. The key is 32 bytes."""
    if body[:2] != b'{"' or body[-1:] != b"}":
        raise ValueError("only a compact JSON object with a member can be signed")
    signed = body[:-1]
    return signed + _tail(key, topic, signed)


def verify(key: bytes, topic: str, payload: bytes) -> bytes:
    """The signed body, its closing brace restored and nothing parsed. Raises BadSignature.

    The 43 characters are compared as text: a second spelling of the same 32 bytes, with the unused bits of the last
    character set, is refused as well.
    """
    signed, tail = payload[:-TAIL_BYTES], payload[-TAIL_BYTES:]
    if not hmac.compare_digest(tail, _tail(key, topic, signed)) or signed[:2] != b'{"':
        raise BadSignature("the signature does not fit topic, payload and key")
    return signed + b"}"


def signed_length(body: bytes) -> int:
    """How many bytes `body` has once it is signed, to compare with what a device can take."""
    return len(body) - 1 + TAIL_BYTES


def _tail(key: bytes, topic: str, signed: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"an announcement key has {KEY_BYTES} bytes")
    mac = hmac.digest(key, topic.encode() + b"\n" + signed, "sha256")
    return _OPEN + base64.urlsafe_b64encode(mac)[:43] + _CLOSE
