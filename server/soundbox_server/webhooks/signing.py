"""How what we send is signed: as Standard Webhooks says, and as reference 003's receivers verify it."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
KGITON_HEADER = "x-kgiton-signature"
SECRET_BYTES = 32


def new_secret() -> str:
    """A secret as its owner gets it: whsec_ and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def standard_headers(keys: Sequence[str], *, message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks; a signature for each secret that is in force, the newest first."""
    signed = f"{message_id}.{at_s}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{_base64_hmac(key, signed)}" for key in keys),
    }


def _base64_hmac(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def kgiton_headers(keys: Sequence[str], *, body: bytes) -> dict[str, str]:
    """Lower-case hex HMAC-SHA256 of the exact body with the whole secret as it was issued. There is room for one."""
    return {KGITON_HEADER: hmac.new(keys[0].encode(), body, hashlib.sha256).hexdigest()}
