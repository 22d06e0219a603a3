"""Which box makes an HTTP request: its bearer token, known to us by SHA-256 alone."""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import select

from soundbox_server import db
from soundbox_server.devices.models import Device, DeviceCredential
from soundbox_server.errors import DeviceUnauthorized

IN_SERVICE = ("activated", "bound")
_NOT_KNOWN = "The device token is missing or not valid."


@dataclass(frozen=True, kw_only=True)
class CurrentDevice:
    id: str
    state: str


def token_sha256(authorization: str | None) -> str:
    """The hash of `Bearer <token>`. Raises DeviceUnauthorized when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise DeviceUnauthorized(_NOT_KNOWN)
    return hashlib.sha256(token.strip().encode()).hexdigest()


async def current_device(request: Request) -> CurrentDevice:
    hashed = token_sha256(request.headers.get("authorization"))
    async with db.reading(request.app.state.database) as session:
        found = await session.execute(
            select(Device.id, Device.state)
            .join(DeviceCredential, DeviceCredential.device_id == Device.id)
            .where(DeviceCredential.token_sha256 == hashed, DeviceCredential.state == "active")
        )
        row = found.one_or_none()
    if row is None or row.state not in IN_SERVICE:
        raise DeviceUnauthorized(_NOT_KNOWN)
    return CurrentDevice(id=row.id, state=row.state)


AuthenticatedDevice = Annotated[CurrentDevice, Depends(current_device)]
