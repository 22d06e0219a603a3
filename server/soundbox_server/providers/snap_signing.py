"""SNAP BI signatures, both kinds and both directions. Paylabs and DANA sign their own messages the asymmetric way.

    token          X-CLIENT-KEY|X-TIMESTAMP                              RSA, SHA-256, PKCS#1 v1.5, base64
    asymmetric     METHOD:PATH:hex(sha256(body)):X-TIMESTAMP             the same
    symmetric      METHOD:PATH:TOKEN:hex(sha256(body)):X-TIMESTAMP       HMAC-SHA512, base64

What is hashed is the body as it came. Where that fails its minified form is tried: some partners sign that and send
another. A body is never parsed and written again: two writers of JSON seldom agree.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature as WrongSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers.hmac_scheme import read_time
from soundbox_server.providers.strict_json import read_object

WINDOW_S = 300

_STRINGS_AND_SPACE = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', re.DOTALL)


def private_key(text: str) -> RSAPrivateKey:
    """A key as PEM, or as the bare base64 that some portals hand out. Raises ValueError, without the key in it."""
    try:
        raw = text.strip().encode()
        key = load_pem_private_key(raw, None) if raw.startswith(b"--") else load_der_private_key(_der(raw), None)
    except (ValueError, TypeError):
        raise ValueError("The private key cannot be read.") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("The private key must be RSA.")
    return key


def public_key(text: str) -> RSAPublicKey:
    """The same for a public key."""
    try:
        raw = text.strip().encode()
        key = load_pem_public_key(raw) if raw.startswith(b"--") else load_der_public_key(_der(raw))
    except ValueError:
        raise ValueError("The public key cannot be read.") from None
    if not isinstance(key, RSAPublicKey):
        raise ValueError("The public key must be RSA.")
    return key


def token_text(client_key: str, timestamp: str) -> bytes:
    return _bytes(f"{client_key}|{timestamp}")


def asymmetric_text(method: str, path: str, body: bytes, timestamp: str) -> bytes:
    return _bytes(f"{method}:{path}:{_digest(body)}:{timestamp}")


def symmetric_text(method: str, path: str, token: str, body: bytes, timestamp: str) -> bytes:
    return _bytes(f"{method}:{path}:{token}:{_digest(body)}:{timestamp}")


def sign_rsa(key: RSAPrivateKey, text: bytes) -> str:
    return base64.b64encode(key.sign(text, PKCS1v15(), SHA256())).decode()


def sign_hmac(secret: bytes, text: bytes) -> str:
    return base64.b64encode(hmac.digest(secret, text, "sha512")).decode()


def verify_rsa(key: RSAPublicKey, text: bytes, signature: str) -> bool:
    try:
        key.verify(_decoded(signature), text, PKCS1v15(), SHA256())
    except WrongSignature:
        return False
    return True


def verify_hmac(secret: bytes, text: bytes, signature: str) -> bool:
    return hmac.compare_digest(hmac.digest(secret, text, "sha512"), _decoded(signature))


def require_signature(body: bytes, verifies: Callable[[bytes], bool]) -> None:
    """Raise InvalidSignature unless `verifies` accepts the body as it came, or minified."""
    if verifies(body):
        return
    try:
        read_object(body)  # only well-formed JSON has a minified form
    except ValidationFailed:
        raise InvalidSignature("The callback's signature does not match.") from None
    short = minified(body)
    if short == body or not verifies(short):
        raise InvalidSignature("The callback's signature does not match.")


def require_recent(timestamp: str, *, window_s: int, now_ms: int) -> None:
    """Raise InvalidSignature unless the timestamp is RFC 3339 with an offset, and within the window of now."""
    try:
        at_ms = read_time(timestamp)
    except ValidationFailed:
        raise InvalidSignature("The timestamp is missing or not RFC 3339 with an offset.") from None
    if abs(at_ms - now_ms) > window_s * 1000:
        raise InvalidSignature("The timestamp is too far from now.")


def minified(body: bytes) -> bytes:
    """Well-formed JSON without the white space between its parts; strings keep theirs."""
    return _STRINGS_AND_SPACE.sub(rb"\1", body)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _decoded(signature: str) -> bytes:
    try:
        return base64.b64decode(signature, validate=True)
    except ValueError:
        return b""


def _der(bare: bytes) -> bytes:
    return base64.b64decode(b"".join(bare.split()), validate=True)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
