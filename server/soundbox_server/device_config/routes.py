"""What boxes are to be like: operators' doors to the layers and to each box's configuration, and the box's own."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_protocol.configuration import sha256_of
from soundbox_protocol.messages import ConfigAck, MalformedMessage, decode
from soundbox_server import clock
from soundbox_server.access.auth import Acting
from soundbox_server.answers import AnyJson, Time, TypedDict, among, answers
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements, reading
from soundbox_server.device_config import service
from soundbox_server.device_config.layers import LayerChanges
from soundbox_server.device_config.models import ConfigLayer, DeviceConfig
from soundbox_server.device_config.state import ConfigState
from soundbox_server.devices.auth import AuthenticatedDevice
from soundbox_server.devices.models import Device, DeviceBinding
from soundbox_server.errors import CapabilityNotSupported, Conflict, DeviceUnauthorized, NotFound, ValidationFailed
from soundbox_server.fields import Id
from soundbox_server.http import Reader, envelope, problems, read_body, request_id, storable
from soundbox_server.merchants.models import Merchant
from soundbox_server.outbox.models import OutboxMessage

router = APIRouter()


class LayersView(TypedDict):
    fleet: AnyJson
    merchant: AnyJson
    device: AnyJson


class ConfigView(TypedDict):
    device_id: str
    config_version: int
    config: AnyJson
    sha256: str
    status: Annotated[str, among(ConfigState)]
    layers: LayersView


class LayerView(TypedDict):
    scope: str
    subject_id: str
    settings: AnyJson
    revision: int
    updated_at: Time | None
    updated_by: str | None


class AckView(TypedDict):
    config_version: int
    status: str
    sha256: str | None
    errors: list[str]
    at: Time


class ReportView(TypedDict):
    config_version: int | None
    sha256: str | None
    at: Time


class StatusView(TypedDict):
    device_id: str
    config_version: int
    sha256: str
    status: Annotated[str, among(ConfigState)]
    changed_at: Time | None
    pushed_at: Time | None
    attempts: int
    ack: AckView | None
    reported: ReportView | None


# --- operators ----------------------------------------------------------------------------------------------------


@router.get("/admin/devices/{device_id}/config", tags=["operators"], responses=answers(ConfigView))
async def get_config(request: Request, device_id: Id, session: Reader) -> Response:
    """What this box is to be like, and which layer says what. What no layer names is as the box left the factory."""
    return envelope(request, await _config(session, device_id))


@router.patch(
    "/admin/devices/{device_id}/config", tags=["operators"],
    responses=answers(ConfigView) | problems(CapabilityNotSupported),
)  # fmt: skip
async def change_config(request: Request, device_id: Id, wanted: LayerChanges, actor: Acting) -> Response:
    """Change what is named for this box; null leaves it to its merchant and the fleet. A box that is online gets it at
    once, another one when it is back."""
    state, now_ms = request.app.state, clock.now_ms()

    async def change(tx: Statements) -> list[Any]:
        done = await service.change_layer(tx, "device", device_id, wanted.as_settings(), by=actor.id, now_ms=now_ms)
        if done.before != done.after:
            details = {"before": done.before, "after": done.after}
            await record(tx, actor, "device.config_changed", ("device", device_id), details=details)
        await service.build(tx, [device_id], now_ms=now_ms)
        await service.push(
            tx, [device_id], key_of=state.telling.key_of, owner=state.telling.owner, trace_id=request_id(request),
            now_ms=now_ms,
        )  # fmt: skip
        return tx.queued

    state.publisher.publish(await state.database.write(change))
    return await _answer(request, device_id)


@router.get("/admin/devices/{device_id}/config/status", tags=["operators"], responses=answers(StatusView))
async def get_status(request: Request, device_id: Id, session: Reader) -> Response:
    """Whether the box has it: what was sent, what it answered, and what it says is in force."""
    return envelope(request, await _status(session, device_id))


@router.post(
    "/admin/devices/{device_id}/config/retry-push", tags=["operators"],
    responses=answers(StatusView) | problems(NotFound, Conflict, CapabilityNotSupported),
)  # fmt: skip
async def retry_push(request: Request, device_id: Id, actor: Acting) -> Response:
    """Send it once more, at once or when the box is back."""
    state, now_ms = request.app.state, clock.now_ms()

    async def again(tx: Statements) -> list[Any]:
        await service.ask_again(tx, device_id)
        await service.push(
            tx, [device_id], key_of=state.telling.key_of, owner=state.telling.owner, trace_id=request_id(request),
            now_ms=now_ms,
        )  # fmt: skip
        await record(tx, actor, "device.config_pushed_again", ("device", device_id))
        return tx.queued

    state.publisher.publish(await state.database.write(again))
    async with reading(state.database) as session:
        return envelope(request, await _status(session, device_id))


@router.get("/admin/config/fleet", tags=["operators"], responses=answers(LayerView))
async def get_fleet_layer(request: Request, session: Reader) -> Response:
    """What all boxes are to be like, unless their merchant or they themselves are configured otherwise."""
    return envelope(request, await _layer(session, "fleet", service.FLEET))


@router.patch("/admin/config/fleet", tags=["operators"], responses=answers(LayerView))
async def change_fleet_layer(request: Request, wanted: LayerChanges, actor: Acting) -> Response:
    """Change what is named for the whole fleet. Its boxes follow within moments, in groups."""
    return await _change_layer(request, "fleet", service.FLEET, wanted, actor)


@router.get("/admin/config/merchants/{merchant_id}", tags=["operators"], responses=answers(LayerView))
async def get_merchant_layer(request: Request, merchant_id: Id, session: Reader) -> Response:
    """What a merchant's boxes are to be like, unless they are configured themselves."""
    if await session.get(Merchant, merchant_id) is None:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    return envelope(request, await _layer(session, "merchant", merchant_id))


@router.patch("/admin/config/merchants/{merchant_id}", tags=["operators"], responses=answers(LayerView))
async def change_merchant_layer(request: Request, merchant_id: Id, wanted: LayerChanges, actor: Acting) -> Response:
    """Change what is named for all boxes at this merchant's terminals."""
    return await _change_layer(request, "merchant", merchant_id, wanted, actor)


async def _change_layer(
    request: Request, scope: service.Scope, subject_id: str, wanted: LayerChanges, actor: Acting
) -> Response:
    now_ms = clock.now_ms()

    async def change(tx: Statements) -> None:
        done = await service.change_layer(tx, scope, subject_id, wanted.as_settings(), by=actor.id, now_ms=now_ms)
        if done.before != done.after:
            details = {"before": done.before, "after": done.after}
            await record(tx, actor, f"{scope}.config_changed", (scope, subject_id), details=details)

    await request.app.state.database.write(change)
    async with reading(request.app.state.database) as session:
        return envelope(request, await _layer(session, scope, subject_id))


async def _answer(request: Request, device_id: str) -> Response:
    async with reading(request.app.state.database) as session:
        return envelope(request, await _config(session, device_id))


async def _config(session: AsyncSession, device_id: str) -> ConfigView:
    await _require_device(session, device_id)
    built = await session.get(DeviceConfig, device_id)
    merchant_id = await session.scalar(
        select(DeviceBinding.merchant_id).where(
            DeviceBinding.device_id == device_id, DeviceBinding.unbound_at_ms.is_(None)
        )
    )
    said = [
        await session.get(ConfigLayer, (scope, subject_id)) if subject_id else None
        for scope, subject_id in (("fleet", service.FLEET), ("merchant", merchant_id), ("device", device_id))
    ]
    fleet, merchant, own = (orjson.Fragment(layer.settings if layer else "{}") for layer in said)
    return {
        "device_id": device_id,
        "config_version": built.version if built else 0,
        "config": orjson.Fragment(built.config if built else "{}"),
        "sha256": built.sha256 if built else sha256_of(b"{}"),
        "status": built.state if built else ConfigState.NONE.value,
        "layers": {"fleet": fleet, "merchant": merchant, "device": own},
    }


async def _status(session: AsyncSession, device_id: str) -> StatusView:
    await _require_device(session, device_id)
    built = await session.get(DeviceConfig, device_id)
    sent = await session.get(OutboxMessage, built.message_id) if built and built.message_id else None
    return {
        "device_id": device_id,
        "config_version": built.version if built else 0,
        "sha256": built.sha256 if built else sha256_of(b"{}"),
        "status": built.state if built else ConfigState.NONE.value,
        "changed_at": rfc3339_or_none(built.changed_at_ms) if built else None,
        "pushed_at": rfc3339_or_none(built.pushed_at_ms) if built else None,
        "attempts": sent.attempt if sent else 0,
        "ack": _ack(built) if built else None,
        "reported": _report(built) if built else None,
    }


def _ack(built: DeviceConfig) -> AckView | None:
    if built.acked_version is None or built.acked_status is None or built.acked_at_ms is None:
        return None
    return {
        "config_version": built.acked_version,
        "status": built.acked_status,
        "sha256": built.acked_sha256,
        "errors": orjson.loads(built.acked_errors or "[]"),
        "at": rfc3339(built.acked_at_ms),
    }


def _report(built: DeviceConfig) -> ReportView | None:
    if built.reported_at_ms is None:
        return None
    return {
        "config_version": built.reported_version,
        "sha256": built.reported_sha256,
        "at": rfc3339(built.reported_at_ms),
    }


async def _layer(session: AsyncSession, scope: str, subject_id: str) -> LayerView:
    layer = await session.get(ConfigLayer, (scope, subject_id))
    return {
        "scope": scope,
        "subject_id": subject_id,
        "settings": orjson.Fragment(layer.settings if layer else "{}"),
        "revision": layer.revision if layer else 0,
        "updated_at": rfc3339(layer.updated_at_ms) if layer and layer.revision else None,
        "updated_by": layer.updated_by if layer else None,
    }


async def _require_device(session: AsyncSession, device_id: str) -> None:
    if await session.get(Device, device_id) is None:
        raise NotFound("No such device.", device_id=device_id)


# --- the box ------------------------------------------------------------------------------------------------------

ACK_BYTES = 4_096


class OwnConfigView(TypedDict):
    config_version: int
    config: AnyJson
    sha256: str


class TakenView(TypedDict):
    config_version: int
    status: Annotated[str, among(ConfigState)]


@router.get("/device/config", tags=["devices"], responses=answers(OwnConfigView))
async def own_config(request: Request, device: AuthenticatedDevice, session: Reader) -> Response:
    """What the box is to be like. `sha256` covers the bytes of `config` as they stand here; version 0: nothing is
    configured."""
    shown = await _config(session, device.id)
    return envelope(request, {name: shown[name] for name in ("config_version", "config", "sha256")})


_ACK_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": storable(ConfigAck.model_json_schema()),
                "example": {"device_id": "sbx_001", "config_version": 4, "status": "applied"},
            }
        },
    }
}


@router.post(
    "/device/config/ack", tags=["devices"], openapi_extra=_ACK_BODY, responses=answers(TakenView) | problems(NotFound)
)
async def acknowledge_config(request: Request, device: AuthenticatedDevice) -> Response:
    """Whether the box has it in force, or why not. A word about an earlier version changes nothing."""
    try:
        ack = decode(ConfigAck, await read_body(request, limit=ACK_BYTES), message_type_optional=True)
    except MalformedMessage as error:
        raise ValidationFailed("The ack cannot be read.", error=str(error)) from None
    if ack.device_id != device.id:
        raise DeviceUnauthorized("The token belongs to another device.")
    (verdict,) = await request.app.state.database.write(lambda tx: service.take_acks(tx, [ack], now_ms=clock.now_ms()))
    if verdict.state is None:
        raise NotFound("Nothing is configured for this device.")
    return envelope(request, {"config_version": verdict.version, "status": verdict.state.value})
