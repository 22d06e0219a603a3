"""How a box gets its name and its keys: once, over HTTP, with the code from its sticker."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

FILE_NAME = "credentials.json"
ATTEMPTS = 8
LONGEST_PAUSE_S = 30.0


class ActivationRefused(RuntimeError):
    """The hub said no, and asking again will not help."""


class BrokerAddress(BaseModel):
    """Where the box goes on air, and as whom."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    host: str
    port: int
    username: str
    password: str
    tls: bool = False
    ca_pem: str | None = None  # who signed the broker's certificate, where no public authority did


class NextCredential(BaseModel):
    """A token and a broker password that will take the place of those in force, or have done so already."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    credential_id: str
    device_token: str
    password: str


class Credentials(BaseModel):
    """What activation hands over, and for whom it was asked. Kept in the box's folder, readable by its owner only.

    `next` is there from the moment a rotation begins until the broker has let the box in with it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    device_id: str
    device_token: str
    broker: BrokerAddress
    announcement_key: str
    key_version: int
    server: str
    serial_number: str
    code_sha256: str
    next: NextCredential | None = None

    @property
    def key(self) -> bytes:
        """The 32 bytes that sign announcements."""
        return base64.urlsafe_b64decode(self.announcement_key + "=" * (-len(self.announcement_key) % 4))

    @property
    def account(self) -> str:
        """Names this activation: a new one restarts the numbering of announcements."""
        fingerprint = hashlib.sha256(self.key).hexdigest()[:12]
        return f"{self.device_id}/{self.key_version}/{fingerprint}"


async def credentials_for(
    home: Path, client: httpx.AsyncClient, *, server: str, serial_number: str, activation_code: str | None
) -> Credentials:
    """Those of the last start, unless the server, the serial number or the code is another one.

    Raises ActivationRefused, also when there are none and no code to get them with.
    """
    stored = load_credentials(home)
    if stored is not None and fits(stored, server, serial_number, activation_code):
        return stored
    if not activation_code:
        raise ActivationRefused(f"{home} holds no credentials for {serial_number} at {server}, and no code was given")
    fresh = await activate(client, server=server, serial_number=serial_number, activation_code=activation_code)
    store_credentials(home, fresh)
    return fresh


async def activate(
    client: httpx.AsyncClient,
    *,
    server: str,
    serial_number: str,
    activation_code: str,
    pause: Callable[[float], Any] = asyncio.sleep,
) -> Credentials:
    """Trade the code for credentials. Asks again while the hub is not there yet or is too busy to answer."""
    url, body = f"{server}/device/provision/activate", {"activation_code": activation_code}
    problem = ""
    for attempt in range(ATTEMPTS):
        try:
            answer = await client.post(url, json={**body, "serial_number": serial_number})
        except httpx.TransportError as error:
            problem, wait_s = f"{type(error).__name__}: {error}", 2.0**attempt
        else:
            if answer.status_code < 400:
                return _read(answer, server, serial_number, activation_code)
            problem, wait_s = _why(answer), _retry_after(answer, 2.0**attempt)
            if answer.status_code != 429 and answer.status_code < 500:
                raise ActivationRefused(problem)
        if attempt + 1 < ATTEMPTS:
            await pause(min(wait_s, LONGEST_PAUSE_S))
    raise ActivationRefused(f"{problem}, after {ATTEMPTS} attempts")


def load_credentials(home: Path) -> Credentials | None:
    """None when there are none. The file is replaced whole, so there is never half of it."""
    path = home / FILE_NAME
    return Credentials.model_validate_json(path.read_bytes()) if path.exists() else None


def store_credentials(home: Path, credentials: Credentials) -> None:
    """On the disk before the box uses them: the code that bought them is spent."""
    write_durably(home / FILE_NAME, credentials.model_dump_json(indent=2).encode())


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def write_durably(path: Path, content: bytes) -> None:
    """Whole or not at all, for the owner's eyes only, and on the disk when this returns."""
    home = path.parent
    home.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.new")
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(path)
    folder = os.open(home, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def fits(stored: Credentials, server: str, serial_number: str, activation_code: str | None) -> bool:
    """A new code means that somebody wants this box activated anew, after a reset or a revocation."""
    if (stored.server, stored.serial_number) != (server, serial_number):
        return False
    return not activation_code or code_sha256(activation_code) == stored.code_sha256


def _read(answer: httpx.Response, server: str, serial_number: str, activation_code: str) -> Credentials:
    asked = {"server": server, "serial_number": serial_number, "code_sha256": code_sha256(activation_code)}
    try:
        credentials = Credentials.model_validate({**answer.json()["data"], **asked})
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ActivationRefused(f"the hub's answer is not one: {error}") from error
    if len(credentials.key) != 32:
        raise ActivationRefused("the hub's announcement key has not 32 bytes")
    return credentials


def _why(answer: httpx.Response) -> str:
    try:
        said = answer.json()
    except json.JSONDecodeError:
        said = {}
    words = [str(said[name]) for name in ("code", "message", "detail") if isinstance(said, dict) and said.get(name)]
    return f"{answer.status_code} {': '.join(words[:2]) or answer.reason_phrase}"


def _retry_after(answer: httpx.Response, otherwise_s: float) -> float:
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isdigit() else otherwise_s


def code_sha256(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
