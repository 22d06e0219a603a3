"""Which box makes an HTTP request: its bearer token, known to us by SHA-256 alone."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.devices import credentials
from soundbox_server.devices.credentials import NOT_KNOWN
from soundbox_server.errors import DeviceUnauthorized


@dataclass(frozen=True, kw_only=True)
class CurrentDevice:
    id: str
    state: str


def token_sha256(authorization: str | None) -> str:
    """The hash of `Bearer <token>`. Raises DeviceUnauthorized when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise DeviceUnauthorized(NOT_KNOWN)
    return credentials.sha256(token.strip())


def bearer_sha256(request: Request) -> str:
    """The hash of the request's device token, whatever it is worth."""
    return token_sha256(request.headers.get("authorization"))


async def current_device(request: Request) -> CurrentDevice:
    hashed, now_ms = bearer_sha256(request), clock.now_ms()
    database: Database = request.app.state.database
    known = await database.read(lambda tx: credentials.known_tokens(tx, [hashed], now_ms=now_ms))
    token = known.get(hashed)
    if token is None:
        raise DeviceUnauthorized(NOT_KNOWN)
    if token.first_use:
        await database.write(lambda tx: credentials.note_first_use(tx, [token.credential_id], now_ms=now_ms))
    return CurrentDevice(id=token.device_id, state=token.device_state)


DeviceTokenHash = Annotated[str, Depends(bearer_sha256)]
AuthenticatedDevice = Annotated[CurrentDevice, Depends(current_device)]
