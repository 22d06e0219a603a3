"""A credential that changes while its box is in use: issued beside the one in force, and swapped when the box confirms
that it has stored it. A power cut at any step leaves a box that gets in."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from soundbox_server.db import Statements
from soundbox_server.devices.service import credentials_changed
from soundbox_server.errors import Conflict, DeviceUnauthorized, NotFound
from soundbox_server.ids import new_id


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A new credential, shown once and good for nothing until it is confirmed."""

    device_id: str
    credential_id: str
    device_token: str
    broker_password: str


async def issue(tx: Statements, device_id: str, *, hash_password: Callable[[str], str], now_ms: int) -> Issued:
    """First phase: a new credential beside the one in force; one that was not confirmed is forgotten. Raises
    DeviceUnauthorized for a box out of service."""
    await _lock_in_service(tx, device_id)
    token, password, credential_id = secrets.token_urlsafe(32), secrets.token_urlsafe(32), new_id("cred")
    await tx.execute("DELETE FROM device_credential WHERE device_id = $1 AND state = 'issued'", device_id)
    await tx.execute(
        "INSERT INTO device_credential (id, device_id, token_sha256, broker_hash, state, created_at_ms) "
        "VALUES ($1, $2, $3, $4, 'issued', $5)",
        credential_id, device_id, hashlib.sha256(token.encode()).hexdigest(), hash_password(password), now_ms,
    )  # fmt: skip
    return Issued(device_id=device_id, credential_id=credential_id, device_token=token, broker_password=password)


async def confirm(tx: Statements, device_id: str, credential_id: str, *, now_ms: int) -> bool:
    """Second phase: it takes the old one's place. True when this call did it, False when it was so already. Raises
    NotFound for one that was never this box's or was forgotten, Conflict for one that has had its time."""
    await _lock_in_service(tx, device_id)
    rows = await tx.fetch(
        "SELECT state FROM device_credential WHERE id = $1 AND device_id = $2", credential_id, device_id
    )
    if not rows:
        raise NotFound("No such credential. Ask for a new one.", credential_id=credential_id)
    if rows[0]["state"] == "active":
        return False
    if rows[0]["state"] != "issued":
        raise Conflict("This credential has been replaced. Ask for a new one.", state=rows[0]["state"])
    await tx.execute(
        "UPDATE device_credential SET state = 'superseded' WHERE device_id = $1 AND state = 'active'", device_id
    )
    await tx.execute("UPDATE device_credential SET state = 'active' WHERE id = $1", credential_id)
    await credentials_changed(tx, now_ms=now_ms)
    return True


async def _lock_in_service(tx: Statements, device_id: str) -> None:
    rows = await tx.fetch("SELECT state FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    if not rows or rows[0]["state"] not in ("activated", "bound"):
        raise DeviceUnauthorized("This device is not in service.")
