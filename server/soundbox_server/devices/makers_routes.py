"""HTTP doors for other makers' boxes: the QF100's config call, and the window that operators open for it."""

import asyncio
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soundbox_server import clock
from soundbox_server.access import limits
from soundbox_server.access.auth import Acting, client_ip
from soundbox_server.answers import Time, TypedDict, answers
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.codecs import qf100
from soundbox_server.db import Statements
from soundbox_server.devices import config_window
from soundbox_server.devices.config_window import Granted, MakersBroker, Window
from soundbox_server.devices.provisioning_routes import device_actor, unstored
from soundbox_server.errors import CapabilityNotSupported, Conflict, NotFound, RateLimited
from soundbox_server.fields import Body, Id
from soundbox_server.http import ErrorForm, answer, envelope, problems, read_body

log = structlog.get_logger()
router = APIRouter()

CALL = "/speaker/dev-config"
CALL_BYTES = 2_048
BROKER_WAIT_S = 2.5  # the broker's file is written a moment after our commit, and the box goes on air at once
REFUSED = 1

ERRORS = ErrorForm(
    name="DevConfigError",
    paths=("/speaker",),
    schema={
        "type": "object",
        "title": "DevConfigError",
        "description": "Whatever was wrong, in the form of the QF100's config call.",
        "required": ["error-code", "message", "code"],
        "properties": {
            "error-code": {"type": "integer", "minimum": 1},
            "message": {"type": "string"},
            "code": {"type": "string"},
        },
    },
    say=lambda problem: {"error-code": REFUSED, "message": problem["message"], "code": problem["code"]},
)


class _Call(BaseModel):
    """The members that count; the box says more."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    serial_number: Annotated[str, Field(alias="dev-sn", pattern=f"^{qf100.SERIAL_PATTERN.pattern}$")]
    imei: Annotated[str, Field(pattern=r"^[0-9]{14,16}$")]
    iccid: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{18,22}$")]
    model: Annotated[str, Field(alias="dev-model", max_length=32)] = ""
    firmware_version: Annotated[str, Field(alias="fw-version", max_length=64)] = ""


_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Settings, shown this once, with error-code 0; or a refusal, the same whatever the reason.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["error-code"],
                    "properties": {
                        "error-code": {"type": "integer", "minimum": 0},
                        "message": {"type": "string"},
                        "mqtt": {
                            "type": "object",
                            "required": [
                                "broker-ip", "broker-port", "client-id", "user-name", "password", "subscribe-topic",
                                "keep-alive",
                            ],
                            "properties": {
                                "broker-ip": {"type": "string"},
                                "broker-port": {"type": "integer"},
                                "client-id": {"type": "string"},
                                "user-name": {"type": "string"},
                                "password": {"type": "string"},
                                "subscribe-topic": {"type": "string"},
                                "keep-alive": {"type": "integer"},
                            },
                        },
                    },
                }
            }
        },
    },
    **problems(NotFound, RateLimited),
}  # fmt: skip
_SAMPLE = {
    "dev-model": "QF100", "item-number": "00", "dev-sn": "SN0001", "hardware-config": "0x0F", "fw-version": "1.0.0",
    "fw-build": 1, "app-config-version": 0, "imei": "860000000000001", "imsi": "510010000000001",
    "iccid": "89620000000000000001",
}  # fmt: skip
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}, "example": _SAMPLE}},
    }
}


@router.get(CALL, tags=["devices"], responses=_ANSWER, operation_id="dev_config_by_get")
async def dev_config_by_get(request: Request) -> Response:
    """The config call as a box makes it that sends its body with GET: its maker's documents say both."""
    return await dev_config(request)


@router.post(CALL, tags=["devices"], responses=_ANSWER, openapi_extra=_BODY)
async def dev_config(request: Request) -> Response:
    """A QF100 asks where it goes on air, and as whom. Answered only in a window that an operator opened for it.

    Every answered call gives a new password; the one before ends with it. There is no such door (404) where no plain
    listener is set up for such boxes.
    """
    state, now_ms = request.app.state, clock.now_ms()
    broker: MakersBroker | None = state.makers_broker
    if broker is None:
        raise NotFound("Not Found")
    tries = f"dev-config:{limits.network(client_ip(request))}"
    call = _read(await read_body(request, limit=CALL_BYTES))

    async def work(tx: Statements) -> tuple[limits.Standing, Granted | None]:
        standing = await limits.rate_limit(
            tx, tries, limit=state.limits.activation_failures_per_minute, window_ms=limits.MINUTE_MS, now_ms=now_ms
        )
        if not standing.allowed or call is None:
            return standing, None
        granted = await config_window.take_call(
            tx, serial_number=call.serial_number, imei=call.imei, iccid=call.iccid,
            hash_password=state.hash_broker_password, now_ms=now_ms,
        )  # fmt: skip
        if granted is not None:  # only failures count: a shelf of boxes comes from one address
            await limits.take_back(tx, tries)
            details = {
                "imei": call.imei, "iccid": call.iccid, "pinned": granted.first, "reported_model": call.model,
                "firmware_version": call.firmware_version, "door": "dev-config",
            }  # fmt: skip
            actor = device_actor(request, granted.device_id)
            await record(tx, actor, "device.activated", ("device", granted.device_id), details=details)
        return standing, granted

    standing, granted = await state.database.write(work)
    limits.require(standing)
    if granted is None or call is None:
        log.warning("device.config_call_refused", readable=call is not None)
        return unstored(answer({"error-code": REFUSED, "message": "refused"}))
    log.info("device.config_call_answered", device_id=granted.device_id, pinned=granted.first)
    await _broker_lets_in(broker, call.serial_number, granted.password)
    return unstored(answer({"error-code": 0, "mqtt": _settings(broker, call.serial_number, granted.password)}))


def _read(body: bytes) -> _Call | None:
    """Whatever the method and the content type say, it is JSON; None when it is none of these calls."""
    try:
        return _Call.model_validate_json(body)
    except ValidationError:
        return None


def _settings(broker: MakersBroker, serial_number: str, password: str) -> dict[str, object]:
    return {
        "broker-ip": broker.host,
        "broker-port": broker.port,
        "client-id": f"soundbox-{serial_number}",
        "user-name": serial_number,
        "password": password,
        "subscribe-topic": qf100.subscribe_topic(serial_number),
        "keep-alive": qf100.KEEPALIVE_S,
    }


async def _broker_lets_in(broker: MakersBroker, user: str, password: str) -> None:
    """Wait a little for it: nobody knows how often the box tries."""
    deadline = asyncio.get_running_loop().time() + BROKER_WAIT_S
    while asyncio.get_running_loop().time() < deadline:
        if await broker.lets_in(user, password):
            return
        await asyncio.sleep(0.1)


class WindowWish(Body):
    """`imei` and `iccid` as they are printed on the box and its SIM: then nobody else can come first."""

    for_s: Annotated[int, Field(ge=config_window.SHORTEST_S, le=config_window.LONGEST_S)] = config_window.USUAL_S
    imei: Annotated[str | None, Field(pattern=r"^[0-9]{14,16}$", examples=["860000000000001"])] = None
    iccid: Annotated[str | None, Field(pattern=r"^[0-9A-Fa-f]{18,22}$", examples=["89620000000000000001"])] = None
    forget_pins: bool = False


class WindowView(TypedDict):
    device_id: str
    open: bool
    opened_at: Time
    closes_at: Time
    opened_by: str | None
    imei: str | None
    iccid: str | None
    refused_calls: int
    grants: int
    granted_at: Time | None


def _window(window: Window, now_ms: int) -> WindowView:
    return {
        "device_id": window.device_id,
        "open": window.is_open(now_ms),
        "opened_at": rfc3339(window.opened_at_ms),
        "closes_at": rfc3339(window.closes_at_ms),
        "opened_by": window.opened_by,
        "imei": window.imei,
        "iccid": window.iccid,
        "refused_calls": window.failures,
        "grants": window.grants,
        "granted_at": rfc3339_or_none(window.granted_at_ms),
    }


@router.post(
    "/admin/devices/{device_id}/config-window", tags=["operators"],
    responses=answers(WindowView) | problems(NotFound, Conflict, CapabilityNotSupported),
)  # fmt: skip
async def open_config_window(
    request: Request, device_id: Id, actor: Acting, wish: WindowWish | None = None
) -> Response:
    """Have a QF100's config call answered for a while. One that is open already begins anew.

    The first call pins IMEI and ICCID unless they are named here; `forget_pins` is for a box with another SIM.
    """
    wish, now_ms = wish or WindowWish(), clock.now_ms()

    async def work(tx: Statements) -> Window:
        opened = await config_window.open_window(tx, device_id, **wish.model_dump(), by=actor.id, now_ms=now_ms)
        await record(tx, actor, "device.config_window_opened", ("device", device_id), details=wish.model_dump())
        return opened

    return envelope(request, _window(await request.app.state.database.write(work), now_ms))


@router.get(
    "/admin/devices/{device_id}/config-window", tags=["operators"], responses=answers(WindowView) | problems(NotFound)
)
async def get_config_window(request: Request, device_id: Id) -> Response:
    """Whether it is open, what the box is recognised by, and what came of it."""
    window = await request.app.state.database.read(partial(config_window.window_of, device_id=device_id))
    if window is None:
        raise NotFound("No config window was ever opened for this device.", device_id=device_id)
    return envelope(request, _window(window, clock.now_ms()))


@router.delete(
    "/admin/devices/{device_id}/config-window", tags=["operators"], responses=answers(WindowView) | problems(NotFound)
)
async def close_config_window(request: Request, device_id: Id, actor: Acting) -> Response:
    """No call is answered any more; again changes nothing. What the box got works on."""
    now_ms = clock.now_ms()

    async def work(tx: Statements) -> Window | None:
        if await config_window.close_window(tx, device_id, now_ms=now_ms):
            await record(tx, actor, "device.config_window_closed", ("device", device_id))
        return await config_window.window_of(tx, device_id)

    closed = await request.app.state.database.write(work)
    return envelope(request, _window(closed, now_ms))
