"""Secrets inside a message that others may read: credentials on their way to the one box that can open them.

The message stays JSON. Its last member but a signature is `sealed`: AES-256-GCM over the secrets, base64url without
padding of 12 bytes of nonce, the ciphertext and its 16-byte tag. What goes with it unsealed is authenticated too: the
associated data is `topic` + LF + the exact payload bytes before `,"sealed":`.
"""

import base64
import hashlib
import hmac
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

IV_BYTES, TAG_BYTES = 12, 16
_TAIL = re.compile(rb'(.*),"sealed":"([A-Za-z0-9_-]+)"\}', re.DOTALL)


class CannotOpen(ValueError):
    """These bytes were not sealed for this topic with this key. Nothing in them may be believed."""


def hkdf(secret: bytes, *, salt: bytes = b"", info: str) -> bytes:
    """32 bytes by HKDF-SHA256 (RFC 5869)."""
    return hmac.digest(hmac.digest(salt, secret, hashlib.sha256), info.encode() + b"\x01", hashlib.sha256)


def seal(key: bytes, topic: str, body: bytes, secrets: bytes, *, iv: bytes | None = None) -> bytes:
    """Append `,"sealed":"…"}` to a compact JSON object. `iv` is random; only a vector gives one."""
    if body[:2] != b'{"' or body[-1:] != b"}":
        raise ValueError("only a compact JSON object with a member can carry something sealed")
    iv, open_part = iv or os.urandom(IV_BYTES), body[:-1]
    box = iv + AESGCM(key).encrypt(iv, secrets, topic.encode() + b"\n" + open_part)
    return open_part + b',"sealed":"' + base64.urlsafe_b64encode(box).rstrip(b"=") + b'"}'


def unseal(key: bytes, topic: str, payload: bytes) -> tuple[bytes, bytes]:
    """(the body without what was sealed, its closing brace restored; the secrets). Raises CannotOpen."""
    found = _TAIL.fullmatch(payload)
    if found is None:
        raise CannotOpen("nothing is sealed at the end of the payload")
    open_part, text = found.groups()
    try:
        box = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        secrets = AESGCM(key).decrypt(box[:IV_BYTES], box[IV_BYTES:], topic.encode() + b"\n" + open_part)
    except (InvalidTag, ValueError):
        raise CannotOpen("the seal does not fit topic, payload and key") from None
    if base64.urlsafe_b64encode(box).rstrip(b"=") != text:
        raise CannotOpen("a second spelling of the same bytes")
    return open_part + b"}", secrets
