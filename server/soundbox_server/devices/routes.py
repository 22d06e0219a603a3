"""HTTP doors of boxes: activation and heartbeat for the boxes, the registry for operators."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from soundbox_protocol.messages import Heartbeat, MalformedMessage, decode
from soundbox_server import clock
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Database, Statements
from soundbox_server.devices import service, views
from soundbox_server.devices.auth import token_sha256
from soundbox_server.devices.models import Device, DeviceBinding, DevicePresence
from soundbox_server.devices.state import DeviceState
from soundbox_server.errors import DeviceUnauthorized, NotFound, Unauthenticated, ValidationFailed
from soundbox_server.group_commit import GroupCommit
from soundbox_server.http import Reader, envelope, read_body
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.outbox.views import notification
from soundbox_server.paging import Cursor, Limit, decode_cursor, next_cursor
from soundbox_server.seal import base64url
from soundbox_server.uplinks import Uplink

log = structlog.get_logger()
router = APIRouter()

BROKER_WAIT_S = 2.5


class Activation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    activation_code: str = Field(max_length=40, examples=["K7QM2-9XW4T"])
    serial_number: str = Field(max_length=64, examples=["SBX-2026-000001"])


@router.post("/device/provision/activate", tags=["devices"])
async def activate(request: Request, activation: Activation) -> Response:
    """Trade a one-time code for credentials. They are shown once; the code works once, whoever is first."""
    state = request.app.state
    now_ms = clock.now_ms()
    activated = await state.database.write(
        lambda tx: service.activate(
            tx,
            code=activation.activation_code,
            serial_number=activation.serial_number,
            hash_password=state.hash_broker_password,
            now_ms=now_ms,
        )
    )
    if activated is None:
        raise Unauthenticated(service.WRONG_CODE)
    log.info("device.activated", device_id=activated.device_id, key_version=activated.key_version)
    ready = await _broker_lets_in(state, activated)
    key = state.telling.key_of(activated.device_id, activated.key_version)
    data = {
        "device_id": activated.device_id,
        "device_token": activated.device_token,
        "broker": state.broker_address
        | {"username": activated.device_id, "client_id": activated.device_id, "password": activated.broker_password},
        "announcement_key": base64url(key),
        "key_version": activated.key_version,
        "server_time": rfc3339(clock.now_ms()),
    }
    if not ready:
        data["retry_after_s"] = 5
    return envelope(request, data)


async def _broker_lets_in(state: Any, activated: service.Activated) -> bool:
    """Whether the broker knows the new password already; the box waits a little when it does not."""
    deadline = asyncio.get_running_loop().time() + BROKER_WAIT_S
    while asyncio.get_running_loop().time() < deadline:
        if await state.probe_login(activated.device_id, activated.broker_password):
            return True
        await asyncio.sleep(0.1)
    return False


class HeartbeatDesk:
    """Heartbeats over HTTP, committed in groups. A token that belongs to nobody harms only its own request."""

    def __init__(self, database: Database) -> None:
        self._group: GroupCommit[tuple[str, service.Vitals], bool] = GroupCommit(database, self._apply)

    async def take(self, token_hash: str, beat: service.Vitals) -> None:
        if not await self._group.submit((token_hash, beat)):
            raise DeviceUnauthorized("The device token is missing, not valid, or another device's.")

    async def drain(self) -> None:
        await self._group.drain()

    async def _apply(self, tx: Statements, items: Sequence[tuple[str, service.Vitals]]) -> Sequence[bool]:
        owners = await service.devices_of_tokens(tx, [hashed for hashed, _ in items])
        fits = [owners.get(hashed) == beat.device_id for hashed, beat in items]
        await service.take_heartbeats(tx, [beat for (_, beat), fit in zip(items, fits, strict=True) if fit])
        return fits


async def heartbeat(request: Request) -> Response:
    """`POST /device/heartbeat`: reference 001's body, which is the MQTT heartbeat without its message_type."""
    hashed = token_sha256(request.headers.get("authorization"))
    body = await read_body(request, limit=4_096)
    at_ms = clock.now_ms()
    try:
        beat = decode(Heartbeat, body, message_type_optional=True)
    except MalformedMessage as error:
        raise ValidationFailed("The heartbeat cannot be read.", error=str(error)) from None
    uplink = Uplink(device_id=beat.device_id, message=beat, payload=body, received_at_ms=at_ms)
    await request.app.state.heartbeat_desk.take(hashed, service.vitals(uplink, source="http"))
    return envelope(request, {"device_id": beat.device_id, "server_time": rfc3339(at_ms)})


class Registration(BaseModel):
    model_config = ConfigDict(extra="forbid")

    serial_number: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{3,64}$", examples=["SBX-2026-000001"])]
    vendor: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] = "native"
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = "sbx-1"
    device_id: Annotated[str | None, Field(max_length=32, examples=["sbx_001"])] = None


@router.post("/admin/devices", tags=["operators"], status_code=201)
async def register_device(request: Request, registration: Registration) -> Response:
    """A new box and its activation code, which is shown this once and lives 24 hours."""
    now_ms = clock.now_ms()
    device_id, code = await request.app.state.database.write(
        lambda tx: service.register(
            tx,
            serial_number=registration.serial_number,
            vendor=registration.vendor,
            model=registration.model,
            device_id=registration.device_id,
            now_ms=now_ms,
        )
    )
    data = {"id": device_id, "serial_number": registration.serial_number, "activation_code": code}
    return envelope(request, data | {"expires_at": rfc3339(now_ms + service.CODE_LIFE_MS)}, status=201)


@router.get("/admin/devices", tags=["operators"])
async def list_devices(
    request: Request,
    session: Reader,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: DeviceState | None = None,
    online: Annotated[bool | None, Query()] = None,
) -> Response:
    """Boxes by id, each with where it stands and what it last said."""
    query = _devices().order_by(Device.id).limit(limit)
    if after := decode_cursor(cursor):
        query = query.where(Device.id > after)
    if status:
        query = query.where(Device.state == status.value)
    if online is not None:
        query = query.where(DevicePresence.online.is_(True) if online else DevicePresence.online.is_not(True))
    rows = (await session.execute(query)).all()
    ids = [row[0].id for row in rows]
    return envelope(request, [_device(*row) for row in rows], next_cursor=next_cursor(ids, limit))


@router.get("/admin/devices/{device_id}", tags=["operators"])
async def get_device(request: Request, device_id: str, session: Reader) -> Response:
    row = (await session.execute(_devices().where(Device.id == device_id))).one_or_none()
    if row is None:
        raise NotFound("No such device.", device_id=device_id)
    return envelope(request, _device(*row))


@router.get("/admin/devices/{device_id}/notifications", tags=["operators"])
async def list_notifications(
    request: Request, device_id: str, session: Reader, limit: Limit = 20, cursor: Cursor = None
) -> Response:
    """What this box was told of payments and what became of it, newest first."""
    if await session.get(Device, device_id) is None:
        raise NotFound("No such device.", device_id=device_id)
    query = (
        select(OutboxMessage)
        .where(OutboxMessage.recipient_id == device_id, OutboxMessage.kind == "payment_success")
        .order_by(OutboxMessage.id.desc()).limit(limit)
    )  # fmt: skip
    if after := decode_cursor(cursor):
        query = query.where(OutboxMessage.id < after)
    rows = (await session.scalars(query)).all()
    return envelope(request, [notification(row) for row in rows], next_cursor=next_cursor([r.id for r in rows], limit))


@router.post("/admin/devices/{device_id}/activation-code", tags=["operators"], status_code=201)
async def new_activation_code(request: Request, device_id: str) -> Response:
    """Another activation code for a box that lost its credentials or its code; earlier codes stop working."""
    now_ms = clock.now_ms()
    code = await request.app.state.database.write(lambda tx: service.issue_new_code(tx, device_id, now_ms=now_ms))
    data = {"id": device_id, "activation_code": code, "expires_at": rfc3339(now_ms + service.CODE_LIFE_MS)}
    return envelope(request, data, status=201)


def _devices() -> Any:
    return (
        select(Device, DeviceBinding, DevicePresence)
        .outerjoin(DeviceBinding, (DeviceBinding.device_id == Device.id) & DeviceBinding.unbound_at_ms.is_(None))
        .outerjoin(DevicePresence, DevicePresence.device_id == Device.id)
    )


def _device(device: Device, binding: DeviceBinding | None, presence: DevicePresence | None) -> dict[str, Any]:
    return {
        "id": device.id,
        "serial_number": device.serial_number,
        "vendor": device.vendor,
        "model": device.model,
        "status": device.state,
        "key_version": device.key_version,
        "last_announcement_seq": device.last_seq,
        "created_at": rfc3339(device.created_at_ms),
        "binding": views.binding(binding) if binding else None,
        "presence": _presence(presence) if presence else None,
    }


def _presence(presence: DevicePresence) -> dict[str, Any]:
    return {
        "online": presence.online,
        "session_epoch": presence.session_epoch,
        "last_seen_at": rfc3339(presence.last_seen_at_ms),
        "changed_at": rfc3339(presence.changed_at_ms),
        "heartbeat_at": rfc3339_or_none(presence.heartbeat_at_ms),
        "firmware_version": presence.firmware_version,
        "max_payload_bytes": presence.max_payload_bytes,
        "verifies_signatures": presence.verifies_signatures,
        "network_strength": presence.network_strength,
        "battery_level": presence.battery_level,
        "state": presence.state,
        "volume": presence.volume,
    }
