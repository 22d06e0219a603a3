"""Keys made from the one master key, and secrets sealed for the database.

A derived key is stored nowhere, and no two purposes share one. What cannot be derived (a partner's secret, a TOTP seed)
is kept sealed: `seal` and `unseal`, with a ring of keys that can be changed (decision 0005). The column that keeps it
says so with `mapped_column(info=SEALED)`, one in a table, and is then found by `soundbox keys rotate`.
"""

import base64
import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from soundbox_server.files import sync_folder

MASTER_KEY_BYTES = 32
NONCE_BYTES = 12
SEALED: Mapping[str, bool] = MappingProxyType({"sealed": True})
_FORM = "s1"  # the first part of every sealed text: form, key id, nonce with ciphertext


class CannotUnseal(Exception):
    """A sealed secret stays closed: its key is not in the ring, it was altered, or it belongs to another row."""


@dataclass(frozen=True, repr=False)
class Ring:
    """32-byte keys for secrets in the database: the first one seals, all of them open."""

    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not self.keys or any(len(key) != MASTER_KEY_BYTES for key in self.keys):
            raise ValueError(f"a ring holds at least one key, each of {MASTER_KEY_BYTES} bytes")

    @property
    def key_ids(self) -> list[str]:
        """What names each key in public, in the ring's order."""
        return [key_id(key) for key in self.keys]


def ring(master: bytes, *, sealing_keys: Sequence[bytes] = (), previous_masters: Sequence[bytes] = ()) -> Ring:
    """The operator's sealing keys, newest first, then the key that seals while there are none: the master's own.

    That one always stays, so what was sealed before the first sealing key was set can still be opened.
    """
    derived = (derive(known, "soundbox/sealing/v1") for known in (master, *previous_masters))
    return Ring(tuple(dict.fromkeys((*sealing_keys, *derived))))


@lru_cache(maxsize=32)
def key_id(key: bytes) -> str:
    """Eight characters that name a key and tell nothing of it."""
    return base64url(derive(key, "soundbox/sealing-key-id/v1")[:6])


def sealed_prefix(key: bytes) -> str:
    """How every secret begins that this key has sealed."""
    return f"{_FORM}.{key_id(key)}."


def sealed_key_id(sealed: str) -> str:
    """The id of the key that sealed this; a question mark for what is no sealed text."""
    form, _, rest = sealed.partition(".")
    named, dot, _ = rest.partition(".")
    return named if form == _FORM and dot else "?"


def seal(ring: Ring, row_id: str, plaintext: bytes) -> str:
    """Encrypt for the row with this key (AES-256-GCM, the key as associated data): moved to another it stays closed."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(ring.keys[0]).encrypt(nonce, plaintext, row_id.encode())
    return sealed_prefix(ring.keys[0]) + base64url(nonce + sealed)


def unseal(ring: Ring, row_id: str, sealed: str) -> bytes:
    """What was sealed for this row. Raises CannotUnseal, which never quotes the text."""
    key = next((key for key in ring.keys if sealed.startswith(sealed_prefix(key))), None)
    if key is None:
        raise CannotUnseal(f"{row_id}: sealed with a key that is not in the ring")
    body = sealed.removeprefix(sealed_prefix(key))
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], row_id.encode())
    except (ValueError, InvalidTag) as broken:
        raise CannotUnseal(f"{row_id}: altered, or sealed for another row") from broken


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
            file.write(new_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
        sync_folder(path.parent)  # before anything is sealed under it
    finally:
        unfinished.unlink()


def new_key() -> str:
    """32 random bytes as base64url."""
    return base64url(secrets.token_bytes(MASTER_KEY_BYTES))


def parse_master_key(text: str) -> bytes:
    """32 bytes as base64url, with or without padding. Raises ValueError."""
    text = text.strip()
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(raw) != MASTER_KEY_BYTES:
        raise ValueError(f"the master key must be {MASTER_KEY_BYTES} bytes as base64url, not {len(raw)}")
    return raw
