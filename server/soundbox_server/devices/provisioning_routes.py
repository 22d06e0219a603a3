"""HTTP doors for a box's credentials and for its life: refresh for the box itself, the rest for operators."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from soundbox_protocol.messages import CredentialId
from soundbox_server import clock, failpoints
from soundbox_server.access.auth import Acting, client_ip
from soundbox_server.answers import NotRequired, Time, TypedDict, among, answers
from soundbox_server.audit import service as audit
from soundbox_server.audit.service import Actor
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements
from soundbox_server.devices import credentials, lifecycle
from soundbox_server.devices.auth import DeviceTokenHash
from soundbox_server.devices.lifecycle import Move
from soundbox_server.devices.models import Device, DeviceCredential
from soundbox_server.devices.state import CredentialState, DeviceState
from soundbox_server.errors import CapabilityNotSupported, Conflict, NotFound
from soundbox_server.fields import Id
from soundbox_server.http import Reader, envelope, problems, request_id

log = structlog.get_logger()
router = APIRouter()

SHORTEST_NOTICE_S, LONGEST_NOTICE_S = 60, 30 * 86_400
MOST_CREDENTIALS = 50


def device_actor(request: Request, device_id: Id) -> Actor:
    """The box itself acts."""
    return Actor(kind="device", id=device_id, ip=client_ip(request), request_id=request_id(request))


def unstored(response: Response) -> Response:
    """An answer that shows a secret once is not for anybody's cache."""
    response.headers["cache-control"] = "no-store"
    return response


class CredentialRefresh(BaseModel):
    model_config = ConfigDict(extra="ignore")

    confirm: Annotated[CredentialId | None, Field(examples=["cred_01jz4q97c8d9e0f1g2h3j4k5mn"])] = None


class BrokerView(TypedDict):
    """Where a box goes on air, and as whom. `ca_pem` is there when no public authority signed the certificate."""

    host: str
    port: int
    tls: bool
    ca_pem: NotRequired[str]
    username: str
    client_id: str
    password: str


class RefreshView(TypedDict):
    """Issued, with what is shown this once; or active, without."""

    device_id: str
    credential_id: str
    status: Literal["issued", "active"]
    device_token: NotRequired[str]
    broker: NotRequired[BrokerView]
    server_time: Time


class CredentialView(TypedDict):
    id: str
    status: Annotated[str, among(CredentialState)]
    created_at: Time
    first_used_at: Time | None
    token_expires_at: Time | None
    rotation_asked_at: Time | None
    rotate_by: Time | None


class RotationView(TypedDict):
    device_id: str
    credential_id: str
    rotation_asked_at: Time
    rotate_by: Time | None


class MoveView(TypedDict):
    id: str
    serial_number: str
    status: Annotated[str, among(DeviceState)]


@router.post(
    "/device/provision/refresh-credential",
    tags=["devices"],
    responses=answers(RefreshView) | problems(NotFound, Conflict),
)
async def refresh_credential(
    request: Request, hashed: DeviceTokenHash, refresh: CredentialRefresh | None = None
) -> Response:
    """A new token and a new broker password, in two calls.

    Without `confirm`: they are issued beside what is in force, and shown once. With `confirm`, once they are stored:
    they take its place. The second call may carry the old token or the new one, and repeating it changes nothing.
    404 and 409 say that this credential has no future: forget it and begin again. The old token keeps working until the
    new one is first used, or for 24 hours; the old broker password ends when the broker has read the new one.
    """
    if refresh is not None and refresh.confirm:
        return await _confirm(request, hashed, refresh.confirm)
    return await _issue(request, hashed)


async def _issue(request: Request, hashed: str) -> Response:
    state, now_ms = request.app.state, clock.now_ms()

    async def work(tx: Statements) -> credentials.Issued:
        device_id = await credentials.device_refreshing(tx, hashed, confirms=None, now_ms=now_ms)
        return await credentials.issue(tx, device_id, hash_password=state.hash_broker_password, now_ms=now_ms)

    issued = await state.database.write(work)
    failpoints.reached("refresh.issued")
    log.info("device.credential_issued", device_id=issued.device_id, credential_id=issued.credential_id)
    login = {"username": issued.device_id, "client_id": issued.device_id, "password": issued.broker_password}
    data: RefreshView = {
        "device_id": issued.device_id,
        "credential_id": issued.credential_id,
        "status": "issued",
        "device_token": issued.device_token,
        "broker": state.broker_address | login,
        "server_time": rfc3339(now_ms),
    }
    return unstored(envelope(request, data))


async def _confirm(request: Request, hashed: str, credential_id: str) -> Response:
    now_ms = clock.now_ms()

    async def work(tx: Statements) -> str:
        device_id = await credentials.device_refreshing(tx, hashed, confirms=credential_id, now_ms=now_ms)
        if await credentials.confirm(tx, device_id, credential_id, now_ms=now_ms):
            actor = device_actor(request, device_id)
            details = {"credential_id": credential_id}
            await audit.record(tx, actor, "device.credential_rotated", ("device", device_id), details=details)
        return device_id

    device_id = await request.app.state.database.write(work)
    failpoints.reached("refresh.confirmed")
    log.info("device.credential_confirmed", device_id=device_id, credential_id=credential_id)
    data: RefreshView = {
        "device_id": device_id,
        "credential_id": credential_id,
        "status": "active",
        "server_time": rfc3339(now_ms),
    }
    return envelope(request, data)


@router.get("/admin/devices/{device_id}/credentials", tags=["operators"], responses=answers(list[CredentialView]))
async def list_credentials(request: Request, device_id: Id, session: Reader) -> Response:
    """The box's credentials, newest first, without their secrets: those are stored as hashes."""
    if await session.get(Device, device_id) is None:
        raise NotFound("No such device.", device_id=device_id)
    newest = select(DeviceCredential).where(DeviceCredential.device_id == device_id)
    rows = await session.scalars(newest.order_by(DeviceCredential.id.desc()).limit(MOST_CREDENTIALS))
    return envelope(request, [_credential(row) for row in rows])


def _credential(row: DeviceCredential) -> CredentialView:
    return {
        "id": row.id,
        "status": row.state,
        "created_at": rfc3339(row.created_at_ms),
        "first_used_at": rfc3339_or_none(row.first_used_at_ms),
        "token_expires_at": rfc3339_or_none(row.expires_at_ms),
        "rotation_asked_at": rfc3339_or_none(row.rotate_asked_at_ms),
        "rotate_by": rfc3339_or_none(row.rotate_by_ms),
    }


class RotationWish(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    within_s: Annotated[int | None, Field(ge=SHORTEST_NOTICE_S, le=LONGEST_NOTICE_S, examples=[86400])] = None


@router.post(
    "/admin/devices/{device_id}/credentials/rotate",
    tags=["operators"],
    status_code=202,
    responses=answers(RotationView, status=202) | problems(Conflict, CapabilityNotSupported),
)
async def rotate_credential(
    request: Request, device_id: Id, actor: Acting, wish: RotationWish | None = None
) -> Response:
    """Have the box replace its token and broker password; it learns of it with its next heartbeat.

    With `within_s`, what is still in force then is revoked, and the box needs an activation code to get back in.
    """
    now_ms = clock.now_ms()
    by_ms = now_ms + wish.within_s * 1000 if wish and wish.within_s else None

    async def work(tx: Statements) -> credentials.Rotation:
        asked = await credentials.ask_rotation(tx, device_id, by_ms=by_ms, now_ms=now_ms)
        details = {"credential_id": asked.credential_id, "rotate_by": rfc3339_or_none(asked.by_ms)}
        await audit.record(tx, actor, "device.rotation_asked", ("device", device_id), details=details)
        return asked

    asked = await request.app.state.database.write(work)
    data: RotationView = {
        "device_id": device_id,
        "credential_id": asked.credential_id,
        "rotation_asked_at": rfc3339(asked.asked_at_ms),
        "rotate_by": rfc3339_or_none(asked.by_ms),
    }
    return envelope(request, data, status=202)


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=3, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$",
                                 examples=["stolen from the counter on 12 May"])]  # fmt: skip


@router.post(
    "/admin/devices/{device_id}/credentials/revoke",
    tags=["operators"],
    responses=answers(MoveView) | problems(Conflict),
)
async def revoke_device(request: Request, device_id: Id, why: Reason, actor: Acting) -> Response:
    """Take a stolen, lost or sold box out of service for good: off the broker within two seconds, refused over HTTP.

    Its binding ends, and it can only be retired after. Use `suspend` for a box that shall come back, and a new
    activation code for one that lost its credentials.
    """
    return await _move(
        request, actor, "device.revoked", why.reason,
        lambda tx, now_ms: lifecycle.revoke(tx, device_id, reason=why.reason, now_ms=now_ms),
    )  # fmt: skip


@router.post("/admin/devices/{device_id}/suspend", tags=["operators"], responses=answers(MoveView) | problems(Conflict))
async def suspend_device(request: Request, device_id: Id, why: Reason, actor: Acting) -> Response:
    """Take a box out of service until it is resumed: off the broker, refused over HTTP, told of nothing.

    Its place and its credentials stay. What is paid meanwhile is recorded as not announced, with this reason.
    """
    return await _move(
        request, actor, "device.suspended", why.reason,
        lambda tx, now_ms: lifecycle.suspend(tx, device_id, reason=why.reason, now_ms=now_ms),
    )  # fmt: skip


@router.post("/admin/devices/{device_id}/resume", tags=["operators"], responses=answers(MoveView) | problems(Conflict))
async def resume_device(request: Request, device_id: Id, why: Reason, actor: Acting) -> Response:
    """Put a suspended box back where it stood. It gets in with the credentials it has."""
    return await _move(
        request, actor, "device.resumed", why.reason,
        lambda tx, now_ms: lifecycle.resume(tx, device_id, now_ms=now_ms),
    )  # fmt: skip


@router.post("/admin/devices/{device_id}/retire", tags=["operators"], responses=answers(MoveView) | problems(Conflict))
async def retire_device(request: Request, device_id: Id, why: Reason, actor: Acting) -> Response:
    """A revoked box leaves the fleet. Final: its id and serial number stay taken."""
    return await _move(
        request, actor, "device.retired", why.reason,
        lambda tx, now_ms: lifecycle.retire(tx, device_id, reason=why.reason),
    )  # fmt: skip


async def _move(
    request: Request, actor: Actor, action: str, reason: str, verb: Callable[[Statements, int], Awaitable[Move]]
) -> Response:
    """One move in a device's life with its audit entry. The same again changes nothing and is no deed."""
    now_ms = clock.now_ms()

    async def work(tx: Statements) -> Move:
        move = await verb(tx, now_ms)
        if move.changed:
            details = {"from": move.before.value, "to": move.after.value, "reason": reason}
            await audit.record(tx, actor, action, ("device", move.device_id), details=details)
        return move

    move = await request.app.state.database.write(work)
    if move.changed:
        log.info(action, device_id=move.device_id, before=move.before.value)
    data: MoveView = {"id": move.device_id, "serial_number": move.serial_number, "status": move.after.value}
    return envelope(request, data)
