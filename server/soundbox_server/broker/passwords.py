"""Password hashes in the form Mosquitto reads: `$7$<iterations>$<salt>$<hash>`, PBKDF2-HMAC-SHA512, base64.

101 iterations are Mosquitto's own number and few on purpose: our passwords are 256 random bits, which no number of
iterations protects better, and the broker computes one hash for each connect on its only thread.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets

ITERATIONS = 101
SALT_BYTES = 12
HASH_BYTES = 64
_MOST_ITERATIONS = 100_000  # a line that asks for more would stall whoever verifies it
_SHAPE = re.compile(r"\$7\$([1-9][0-9]{0,5})\$([A-Za-z0-9+/]+={0,2})\$([A-Za-z0-9+/]{86}==)")


def hash_password(password: str, *, salt: bytes | None = None) -> str:
    """The line's second field for this password; random salt unless one is given."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    return f"$7${ITERATIONS}${_text(salt)}${_text(_stretch(password, salt, ITERATIONS))}"


def verify(password: str, stored: str) -> bool:
    """Whether the password belongs to the hash. False for anything that is not such a hash."""
    if not is_hash(stored):
        return False
    _, _, iterations, salt, expected = stored.split("$")
    return hmac.compare_digest(_stretch(password, base64.b64decode(salt), int(iterations)), base64.b64decode(expected))


def is_hash(stored: str) -> bool:
    """Whether this is a complete `$7$` hash, so that writing it cannot break the password file's line."""
    shape = _SHAPE.fullmatch(stored)
    if shape is None or int(shape[1]) > _MOST_ITERATIONS:
        return False
    try:
        base64.b64decode(shape[2], validate=True)
    except binascii.Error:
        return False
    return True


def _stretch(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, HASH_BYTES)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
