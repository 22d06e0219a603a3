"""Tokens that we issue to SNAP partners who notify us: signed, so that any process knows them and none stores them."""

import base64
import hmac
import os
import struct

from soundbox_server.providers.snap import TOKEN_LIFE_S

_PAYLOAD = struct.Struct(">Q16s")  # when it ends in seconds, and chance


def issue(key: bytes, account: str, *, now_ms: int, life_s: int = TOKEN_LIFE_S) -> str:
    """A token for this account alone."""
    payload = _PAYLOAD.pack(now_ms // 1000 + life_s, os.urandom(16))
    return base64.urlsafe_b64encode(payload + _proof(key, account, payload)).rstrip(b"=").decode()


def knows(key: bytes, account: str, token: str, *, now_ms: int) -> bool:
    """Whether we issued it to this account, and it still lives."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return False
    payload, proof = raw[: _PAYLOAD.size], raw[_PAYLOAD.size :]
    if len(payload) < _PAYLOAD.size or not hmac.compare_digest(proof, _proof(key, account, payload)):
        return False
    ends_at_s, _ = _PAYLOAD.unpack(payload)
    return bool(now_ms < ends_at_s * 1000)


def _proof(key: bytes, account: str, payload: bytes) -> bytes:
    return hmac.digest(key, account.encode() + b"|" + payload, "sha256")
