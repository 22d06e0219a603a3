"""How a box without HTTPS gets its name: both sides know the activation code, and neither ever sends it.

The box signs its request with a key that the code and a nonce make, the hub seals the answer with another one. Whoever
reads both learns the serial number and the device's id.
"""

import base64
import hashlib
from dataclasses import dataclass

from soundbox_protocol.sealing import hkdf

PART_BYTES = 32
_MISREAD = str.maketrans("ILO", "110")


def code_secret(code: str) -> bytes:
    """SHA-256 of the code in capitals. Forgives dashes, blanks, and letters that the code's alphabet leaves out."""
    return hashlib.sha256(code.upper().replace("-", "").replace(" ", "").translate(_MISREAD).encode()).digest()


def request_key(secret: bytes, nonce: str) -> bytes:
    """Signs the request. `secret` is the code's (`code_secret`), the nonce 32 hexadecimal digits."""
    return hkdf(secret, salt=bytes.fromhex(nonce), info="soundbox/provision/v1/request")


def response_key(secret: bytes, nonce: str) -> bytes:
    """Seals the answer."""
    return hkdf(secret, salt=bytes.fromhex(nonce), info="soundbox/provision/v1/response")


def credential_key(announcement_key: bytes) -> bytes:
    """Seals a new credential for a box that is activated."""
    return hkdf(announcement_key, info="soundbox/credential/v1/response")


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What travels sealed: 32 bytes each. Token and password are used as text, base64url without padding."""

    announcement_key: bytes
    device_token: str
    broker_password: str

    def packed(self) -> bytes:
        return self.announcement_key + _raw(self.device_token) + _raw(self.broker_password)

    @classmethod
    def unpacked(cls, raw: bytes) -> "Secrets":
        """ValueError when there are not three of them. What a later hub adds behind them is ignored."""
        key, token, password = _parts(raw, 3)
        return cls(announcement_key=key, device_token=_text(token), broker_password=_text(password))


def packed_credential(device_token: str, broker_password: str) -> bytes:
    """A new credential as it is sealed: token and password, 32 bytes each."""
    return _raw(device_token) + _raw(broker_password)


def unpacked_credential(raw: bytes) -> tuple[str, str]:
    """(device token, broker password). ValueError when they are not there."""
    token, password = _parts(raw, 2)
    return _text(token), _text(password)


def _parts(raw: bytes, count: int) -> list[bytes]:
    if len(raw) < count * PART_BYTES:
        raise ValueError(f"{count} secrets of {PART_BYTES} bytes were expected")
    return [raw[at * PART_BYTES : (at + 1) * PART_BYTES] for at in range(count)]


def _raw(text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(raw) != PART_BYTES:
        raise ValueError(f"a token or password of {PART_BYTES} bytes was expected")
    return raw


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
