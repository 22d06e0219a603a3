"""Keys made from the one master key: nothing made here is stored, and no two purposes share a key."""

import base64
import contextlib
import os
import secrets
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MASTER_KEY_BYTES = 32


def derive(master: bytes, info: str) -> bytes:
    """32 bytes by HKDF-SHA256 without salt (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info.encode()).derive(master)


@lru_cache(maxsize=20_000)  # one per device: deriving costs 12 us, and a payment needs it each time
def announcement_key(master: bytes, device_id: str, key_version: int) -> bytes:
    """The key that signs what this device is told (protocol: soundbox/v1/<device_id>/<key version>)."""
    return derive(master, f"soundbox/v1/{device_id}/{key_version}")


@lru_cache(maxsize=4)
def token_signing_key(master: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(derive(master, "soundbox/access-token/v1"))


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def read_or_create_master_key(path: Path) -> bytes:
    """The master key from a file only its owner may read; made at the first start. Lose it and every box must
    be activated again, so it belongs in the backup."""
    if not path.exists():
        _create_master_key(path)
    return parse_master_key(path.read_text())


def _create_master_key(path: Path) -> None:
    """Whole or not at all, and only once: of two processes that start together, the first one's key stands."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(base64url(secrets.token_bytes(MASTER_KEY_BYTES)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        unfinished.unlink()


def parse_master_key(text: str) -> bytes:
    """32 bytes as base64url, with or without padding. Raises ValueError."""
    text = text.strip()
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(raw) != MASTER_KEY_BYTES:
        raise ValueError(f"the master key must be {MASTER_KEY_BYTES} bytes as base64url, not {len(raw)}")
    return raw
