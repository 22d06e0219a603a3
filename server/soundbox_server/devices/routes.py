"""HTTP doors of boxes: activation and heartbeat for the boxes, the registry for operators."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_protocol.messages import DeviceId, Heartbeat, MalformedMessage, SerialNumber, decode
from soundbox_server import clock
from soundbox_server.access import limits
from soundbox_server.access.auth import Acting, AskedOnce, client_ip
from soundbox_server.answers import NotRequired, Time, TypedDict, answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import rfc3339
from soundbox_server.codecs.choice import codec_of, require_serial
from soundbox_server.db import KEY_STAYS, Database, Statements, statements
from soundbox_server.devices import credentials, service
from soundbox_server.devices.auth import token_sha256
from soundbox_server.devices.credentials import Token
from soundbox_server.devices.listings import (
    DEVICES,
    HEARTBEATS,
    TAG,
    DeviceFilters,
    DeviceView,
    HeartbeatFilters,
    HeartbeatPage,
    HeartbeatView,
    device_view,
    devices,
    stored_tags,
)
from soundbox_server.devices.models import Device
from soundbox_server.devices.provisioning_routes import BrokerView, device_actor, unstored
from soundbox_server.errors import (
    CapabilityNotSupported,
    Conflict,
    DeviceUnauthorized,
    NotFound,
    Unauthenticated,
    ValidationFailed,
)
from soundbox_server.fields import Body, Id, Moment, Name, Text, unchanged
from soundbox_server.group_commit import GroupCommit
from soundbox_server.http import Reader, Session, envelope, problems, read_body, storable
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.outbox.state import Delivery
from soundbox_server.outbox.views import NotificationView, notification
from soundbox_server.paging import Listing, Page, Rows, page
from soundbox_server.seal import base64url
from soundbox_server.uplinks import Uplink

log = structlog.get_logger()
router = APIRouter()

BROKER_WAIT_S = 2.5

Vendor = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]
Model = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
Tag = Annotated[str, Field(pattern=TAG)]


class Activation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    activation_code: str = Field(max_length=40, examples=["K7QM2-9XW4T"])
    serial_number: Annotated[SerialNumber, Field(examples=["SBX-2026-000001"])]


class ActivationView(TypedDict):
    device_id: str
    device_token: str
    broker: BrokerView
    announcement_key: str
    key_version: int
    server_time: Time
    retry_after_s: NotRequired[int]


@router.post(
    "/device/provision/activate", tags=["devices"], responses=answers(ActivationView) | problems(Unauthenticated)
)
async def activate(request: Request, activation: Activation) -> Response:
    """Trade a one-time code for credentials. They are shown once; the code works once, whoever is first."""
    state, now_ms = request.app.state, clock.now_ms()
    tries = f"activation:{limits.network(client_ip(request))}"

    async def work(tx: Statements) -> tuple[limits.Standing, service.Activated | None]:
        standing = await limits.rate_limit(
            tx, tries, limit=state.limits.activation_failures_per_minute, window_ms=limits.MINUTE_MS, now_ms=now_ms
        )
        if not standing.allowed:
            return standing, None
        activated = await service.activate(
            tx,
            code=activation.activation_code,
            serial_number=activation.serial_number,
            hash_password=state.hash_broker_password,
            now_ms=now_ms,
        )
        if activated is not None:  # only failures count: a shelf of new boxes comes from one address
            await limits.take_back(tx, tries)
            subject, details = ("device", activated.device_id), {"key_version": activated.key_version}
            await record(tx, device_actor(request, activated.device_id), "device.activated", subject, details=details)
        return standing, activated

    standing, activated = await state.database.write(work)
    limits.require(standing)
    if activated is None:
        raise Unauthenticated(service.WRONG_CODE)
    log.info("device.activated", device_id=activated.device_id, key_version=activated.key_version)
    ready = await _broker_lets_in(state, activated)
    key = state.telling.key_of(activated.device_id, activated.key_version)
    data: ActivationView = {
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
    return unstored(envelope(request, data))


async def _broker_lets_in(state: Any, activated: service.Activated) -> bool:
    """Whether the broker knows the new password already; the box waits a little when it does not."""
    deadline = asyncio.get_running_loop().time() + BROKER_WAIT_S
    while asyncio.get_running_loop().time() < deadline:
        if await state.probe_login(activated.device_id, activated.broker_password):
            return True
        await asyncio.sleep(0.1)
    return False


class HeartbeatDesk:
    """Heartbeats over HTTP, committed in groups. A token that belongs to nobody harms only its own request.

    `also` is what a room above makes of them, in the same transaction.
    """

    def __init__(
        self, database: Database, *, also: Callable[[Statements, Sequence[service.Vitals]], Awaitable[None]]
    ) -> None:
        self._also = also
        self._group: GroupCommit[tuple[str, service.Vitals], Token | None] = GroupCommit(database, self._apply)

    async def take(self, token_hash: str, beat: service.Vitals) -> Token:
        token = await self._group.submit((token_hash, beat))
        if token is None:
            raise DeviceUnauthorized("The device token is missing, not valid, or another device's.")
        return token

    async def drain(self) -> None:
        await self._group.drain()

    async def _apply(self, tx: Statements, items: Sequence[tuple[str, service.Vitals]]) -> Sequence[Token | None]:
        now_ms = clock.now_ms()
        known = await credentials.known_tokens(tx, [hashed for hashed, _ in items], now_ms=now_ms)
        tokens = [_if_its_own(known.get(hashed), beat) for hashed, beat in items]
        first_used = [token.credential_id for token in tokens if token and token.first_use]
        await credentials.note_first_use(tx, first_used, now_ms=now_ms)
        beats = [beat for (_, beat), token in zip(items, tokens, strict=True) if token]
        await service.take_heartbeats(tx, beats)
        await self._also(tx, beats)
        return tokens


def _if_its_own(token: Token | None, beat: service.Vitals) -> Token | None:
    return token if token is not None and token.device_id == beat.device_id else None


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
    token = await request.app.state.heartbeat_desk.take(hashed, service.vitals(uplink, source="http"))
    wish = {"rotate_credential": True} if token.rotate else {}
    return envelope(request, {"device_id": beat.device_id, "server_time": rfc3339(at_ms), **wish})


HEARTBEAT_OPERATION: dict[str, Any] = {
    "summary": "A box says how it is",
    "description": "The heartbeat of MQTT without its message_type. Unknown fields are ignored; at most 4,096 bytes.",
    "tags": ["devices"],
    "operationId": "heartbeat",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": storable(Heartbeat.model_json_schema()),
                "example": {
                    "device_id": "sbx_001", "timestamp": "2026-05-23T10:00:00Z", "firmware_version": "1.0.3",
                    "network_strength": 78, "battery_level": 92, "state": "idle",
                },
            }
        },
    },
    "responses": {
        "200": {
            "description": "Stored",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["data", "request_id", "timestamp"],
                        "properties": {
                            "data": {
                                "type": "object",
                                "required": ["device_id", "server_time"],
                                "properties": {
                                    "device_id": {"type": "string"},
                                    "server_time": {"type": "string", "format": "date-time"},
                                    "rotate_credential": {
                                        "const": True, "description": "ask for a new credential now",
                                    },
                                },
                            },
                            "request_id": {"type": "string"},
                            "timestamp": {"type": "string", "format": "date-time"},
                        },
                    }
                }
            },
        }
    },
}  # fmt: skip


class Registration(Body):
    serial_number: Annotated[SerialNumber, Field(examples=["SBX-2026-000001"])]
    vendor: Vendor = "native"
    model: Model = "sbx-1"
    device_id: Annotated[DeviceId | None, Field(examples=["sbx_001"])] = None
    label: Name | None = None
    notes: Text | None = None


class NewDeviceView(TypedDict):
    id: str
    serial_number: str
    activation_code: str
    expires_at: Time


class NewCodeView(TypedDict):
    id: str
    activation_code: str
    expires_at: Time


@router.post(
    "/admin/devices", tags=["operators"], status_code=201,
    responses=answers(NewDeviceView, status=201) | problems(Conflict),
)  # fmt: skip
async def register_device(request: Request, registration: Registration, actor: Acting, once: AskedOnce) -> Response:
    """A new box and its activation code, which is shown this once and lives 24 hours."""
    now_ms = clock.now_ms()

    async def work(tx: Statements) -> Response:
        return await once.answer(tx, partial(_register, request, tx, registration, actor, now_ms=now_ms))

    return unstored(await request.app.state.database.write(work))


async def _register(
    request: Request, tx: Statements, registration: Registration, actor: Actor, *, now_ms: int
) -> Response:
    facts = registration.model_dump(exclude={"label", "notes"})
    device_id, code = await service.register(tx, **facts, now_ms=now_ms)
    await tx.execute(
        "UPDATE device SET label = $2, notes = $3 WHERE id = $1", device_id, registration.label, registration.notes
    )
    await record(tx, actor, "device.registered", ("device", device_id), details=registration.model_dump())
    data = {"id": device_id, "serial_number": registration.serial_number, "activation_code": code}
    return envelope(request, data | {"expires_at": rfc3339(now_ms + service.CODE_LIFE_MS)}, status=201)


@router.get("/admin/devices", tags=["operators"], responses=pages(DeviceView))
async def list_devices(request: Request, session: Reader, asked: Annotated[DeviceFilters, Query()]) -> Response:
    """Boxes by id, each with where it stands and what it last said."""
    return await page(request, session, DEVICES, asked)


@router.get("/admin/devices/{device_id}", tags=["operators"], responses=answers(DeviceView))
async def get_device(request: Request, device_id: Id, session: Reader) -> Response:
    return envelope(request, await _one(session, device_id))


class DeviceChanges(Body):
    """What people call a box. What it is and may do has doors of its own."""

    vendor: Vendor = Field(default_factory=unchanged)
    model: Model = Field(default_factory=unchanged)
    label: Name | None = None
    notes: Text | None = None
    tags: Annotated[list[Tag], Field(max_length=10, examples=[["pilot", "east"]])] = Field(default_factory=unchanged)


@router.patch("/admin/devices/{device_id}", tags=["operators"], responses=answers(DeviceView) | problems(Conflict))
async def change_device(
    request: Request, device_id: Id, wanted: DeviceChanges, session: Session, actor: Acting
) -> Response:
    """Change what is named. What would have the box spoken to in another way waits until it has never been let in."""
    device = await session.get(Device, device_id, with_for_update=KEY_STAYS)
    if device is None:
        raise NotFound("No such device.", device_id=device_id)
    changes = wanted.model_dump(exclude_unset=True)
    if "tags" in changes:
        changes["tags"] = stored_tags(changes["tags"])
    before = {name: getattr(device, name) for name, value in changes.items() if getattr(device, name) != value}
    for name in before:
        setattr(device, name, changes[name])
    _choose_codec(device)
    if before:
        details = {"before": before, "after": {name: changes[name] for name in before}}
        await record(await statements(session), actor, "device.changed", ("device", device_id), details=details)
    return envelope(request, await _one(session, device_id))


def _choose_codec(device: Device) -> None:
    """Raises Conflict for a box that has credentials for the one it speaks."""
    codec = codec_of(device.vendor, device.model)
    if codec.name == device.codec:
        return
    if device.key_version:
        raise Conflict("Boxes of that model are spoken to in another way. Register this one anew.", codec=codec.name)
    require_serial(codec, device.serial_number)
    device.codec = codec.name


async def _one(session: AsyncSession, device_id: str) -> DeviceView:
    row = (await session.execute(devices().where(Device.id == device_id))).one_or_none()
    if row is None:
        raise NotFound("No such device.", device_id=device_id)
    return device_view(*row)


class NotificationFilters(Page):
    status: Delivery | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


@router.get("/admin/devices/{device_id}/notifications", tags=["operators"], responses=pages(NotificationView))
async def list_notifications(
    request: Request, device_id: Id, session: Reader, asked: Annotated[NotificationFilters, Query()]
) -> Response:
    """What this box was told of payments and what became of it, newest first. A digest has no transaction of its own:
    those it counted name it."""
    await _require_device(session, device_id)

    def of_this_box(asked: NotificationFilters) -> Rows:
        query = select(OutboxMessage).where(
            OutboxMessage.recipient_id == device_id, OutboxMessage.kind.in_(("payment_success", "payment_digest"))
        )
        if asked.status:
            query = query.where(OutboxMessage.state == asked.status.value)
        if asked.created_from is not None:
            query = query.where(OutboxMessage.created_at_ms >= asked.created_from)
        if asked.created_to is not None:
            query = query.where(OutboxMessage.created_at_ms < asked.created_to)
        return query

    listing = Listing(asked=NotificationFilters, key=(OutboxMessage.id,), select=of_this_box, show=notification)
    return await page(request, session, listing, asked)


async def _require_device(session: AsyncSession, device_id: str) -> None:
    if await session.get(Device, device_id) is None:
        raise NotFound("No such device.", device_id=device_id)


@router.get("/admin/devices/{device_id}/heartbeats", tags=["operators"], responses=pages(HeartbeatView))
async def list_heartbeats(
    request: Request, device_id: Id, session: Reader, asked: Annotated[HeartbeatPage, Query()]
) -> Response:
    """What this box said of itself, newest first: read, and word for word to copy."""
    await _require_device(session, device_id)
    of_this_box = HeartbeatFilters.model_construct(**dict(asked), device_id=device_id)
    return await page(request, session, HEARTBEATS, of_this_box)


@router.post(
    "/admin/devices/{device_id}/activation-code",
    tags=["operators"],
    status_code=201,
    responses=answers(NewCodeView, status=201) | problems(Conflict, CapabilityNotSupported),
)
async def new_activation_code(request: Request, device_id: Id, actor: Acting, once: AskedOnce) -> Response:
    """Another activation code for a box that lost its credentials or its code; earlier codes stop working."""
    now_ms = clock.now_ms()

    async def issue(tx: Statements) -> Response:
        code = await service.issue_new_code(tx, device_id, now_ms=now_ms)
        await record(tx, actor, "device.activation_code_issued", ("device", device_id))
        data = {"id": device_id, "activation_code": code, "expires_at": rfc3339(now_ms + service.CODE_LIFE_MS)}
        return envelope(request, data, status=201)

    async def work(tx: Statements) -> Response:
        return await once.answer(tx, partial(issue, tx))

    return unstored(await request.app.state.database.write(work))
