"""What operators ask of boxes: commands, and where a box stands. And the box's own answer, over HTTP."""

from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_protocol.messages import CommandAck, MalformedMessage, TerminalId, decode
from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import AnyJson, NotRequired, Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.commands import kinds, possession, replay, service
from soundbox_server.commands.models import DeviceCommand, DeviceCommandAck
from soundbox_server.commands.state import CommandState
from soundbox_server.db import Statements
from soundbox_server.devices import service as devices
from soundbox_server.devices import views
from soundbox_server.devices.auth import AuthenticatedDevice
from soundbox_server.devices.models import Device
from soundbox_server.errors import (
    CapabilityNotSupported,
    Conflict,
    DeviceUnauthorized,
    NotFound,
    RateLimited,
    ValidationFailed,
    WrongCode,
)
from soundbox_server.fields import Id
from soundbox_server.http import Reader, envelope, problems, read_body, request_id, storable
from soundbox_server.paging import Listing, Page, Rows, matching, page

router = APIRouter()

# --- commands -----------------------------------------------------------------------------------------------------


def _each_with_its_payload(schema: dict[str, Any]) -> None:
    """For the description: which payload goes with which command."""
    schema["oneOf"] = [
        {
            "properties": {
                "command_name": {"const": name},
                "payload": kind.payload.model_json_schema() | {"additionalProperties": False},
            },
            "required": ["command_name", *(["payload"] if kind.payload.model_json_schema().get("required") else [])],
        }
        for name, kind in sorted(kinds.KINDS.items())
    ]


class NewCommand(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra=_each_with_its_payload)

    command_name: Annotated[str, Field(max_length=32, examples=["speak_code"])]
    payload: Annotated[dict[str, Any], Field(examples=[{"code": "1234"}])] = {}


class CommandView(TypedDict):
    command_id: str
    device_id: str
    command_name: str
    payload: AnyJson
    status: Annotated[str, among(CommandState)]
    reason: str | None
    last_ack: str | None
    result_payload: AnyJson
    requested_by: str | None
    requested_at: Time
    sent_at: Time | None
    delivered_at: Time | None
    finished_at: Time | None
    expires_at: Time
    trace_id: str | None


class AckView(TypedDict):
    status: str
    conflicting: bool
    reason: str | None
    result_payload: AnyJson
    source: str
    received_at: Time


class WholeCommandView(CommandView):
    acks: list[AckView]


class TakenView(TypedDict):
    command_id: str
    status: Annotated[str, among(CommandState)]
    conflicting: bool


class AskedView(TypedDict):
    challenge_id: str
    command_id: str
    digits: int
    tries: int
    expires_at: Time


class ChallengeView(TypedDict):
    device_id: str
    terminal_id: NotRequired[str]
    bound: bool
    challenge: AskedView


class UnboundView(TypedDict):
    device_id: str
    bound: bool


@router.post(
    "/admin/devices/{device_id}/commands",
    tags=["operators"],
    status_code=201,
    responses=answers(WholeCommandView, status=201) | problems(Conflict, CapabilityNotSupported),
)
async def give_command(request: Request, device_id: Id, wanted: NewCommand, actor: Acting, once: AskedOnce) -> Response:
    """Have a box do something. An offline box leaves it queued until it is back or the command expires.

    Of commands that make each other pointless the latest counts: the volume of a minute ago is taken back.
    """
    kind = kinds.kind_named(wanted.command_name)
    order = service.Order(
        device_id=device_id,
        kind=kind,
        payload=kinds.checked_payload(kind.name, wanted.payload),
        requested_by=actor.id,
        trace_id=request_id(request),
    )
    telling = request.app.state.telling

    async def give() -> Response:
        now_ms = clock.now_ms()
        if kind.travels == "announcement":
            command_id = await replay.replay_last(tx, order, telling=telling, now_ms=now_ms)
        else:
            command_id = await service.give(tx, order, key_of=telling.key_of, owner=telling.owner, now_ms=now_ms)
        details = {"command_id": command_id, "command_name": kind.name, "payload": order.payload}
        await record(tx, actor, "device.command_given", ("device", device_id), details=details)
        return envelope(request, await _found(session, device_id, command_id), status=201)

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, give)
    request.app.state.publisher.publish(tx.queued)
    return response


class CommandFilters(Page):
    status: CommandState | None = None


@router.get("/admin/devices/{device_id}/commands", tags=["operators"], responses=pages(CommandView))
async def list_commands(
    request: Request, device_id: Id, session: Reader, asked: Annotated[CommandFilters, Query()]
) -> Response:
    """What this box was asked to do and what became of it, newest first."""
    if await session.get(Device, device_id) is None:
        raise NotFound("No such device.", device_id=device_id)

    def of_this_box(asked: CommandFilters) -> Rows:
        return matching(
            select(DeviceCommand), (DeviceCommand.device_id, device_id), (DeviceCommand.state, asked.status)
        )

    listing = Listing(asked=CommandFilters, key=(DeviceCommand.id,), select=of_this_box, show=_command)
    return await page(request, session, listing, asked)


@router.get("/admin/devices/{device_id}/commands/{command_id}", tags=["operators"], responses=answers(WholeCommandView))
async def get_command(request: Request, device_id: Id, command_id: Id) -> Response:
    """One command with everything its box said of it."""
    return envelope(request, await _seen(request, device_id, command_id))


@router.post(
    "/admin/devices/{device_id}/commands/{command_id}/cancel",
    tags=["operators"],
    responses=answers(WholeCommandView) | problems(Conflict),
)
async def cancel_command(request: Request, device_id: Id, command_id: Id, actor: Acting) -> Response:
    """Take back a command that was not sent yet; again changes nothing."""

    async def cancel(tx: Statements) -> None:
        if await service.cancel(tx, device_id=device_id, command_id=command_id, now_ms=clock.now_ms()):
            details = {"command_id": command_id}
            await record(tx, actor, "device.command_cancelled", ("device", device_id), details=details)

    await request.app.state.database.write(cancel)
    return envelope(request, await _seen(request, device_id, command_id))


async def _seen(request: Request, device_id: Id, command_id: str) -> dict[str, Any]:
    async with db.reading(request.app.state.database) as session:
        return await _found(session, device_id, command_id)


async def _found(session: AsyncSession, device_id: Id, command_id: str) -> dict[str, Any]:
    command = await session.get(DeviceCommand, command_id)
    if command is None or command.device_id != device_id:
        raise NotFound("No such command of this device.", command_id=command_id)
    said = await session.scalars(
        select(DeviceCommandAck).where(DeviceCommandAck.command_id == command_id)
        .order_by(DeviceCommandAck.received_at_ms, DeviceCommandAck.status)
    )  # fmt: skip
    return _command(command) | {"acks": [_ack(ack) for ack in said]}


def _command(command: DeviceCommand) -> CommandView:
    return {
        "command_id": command.id,
        "device_id": command.device_id,
        "command_name": command.name,
        "payload": orjson.Fragment(command.payload),
        "status": command.state,
        "reason": command.reason,
        "last_ack": command.last_ack,
        "result_payload": _stored(command.result),
        "requested_by": command.requested_by,
        "requested_at": rfc3339(command.created_at_ms),
        "sent_at": rfc3339_or_none(command.sent_at_ms),
        "delivered_at": rfc3339_or_none(command.delivered_at_ms),
        "finished_at": rfc3339_or_none(command.finished_at_ms),
        "expires_at": rfc3339(command.expires_at_ms),
        "trace_id": command.trace_id,
    }


def _ack(ack: DeviceCommandAck) -> AckView:
    return {
        "status": ack.status,
        "conflicting": ack.conflicting,
        "reason": ack.reason,
        "result_payload": _stored(ack.result),
        "source": ack.source,
        "received_at": rfc3339(ack.received_at_ms),
    }


def _stored(text: str | None) -> orjson.Fragment | None:
    """JSON as the box sent it: its integers may be longer than orjson writes."""
    return None if text is None else orjson.Fragment(text)


# --- the box's answer ---------------------------------------------------------------------------------------------

ACK_BYTES = 4_096
_ACK = storable(CommandAck.model_json_schema())
_ACK["properties"]["result_payload"] = storable({"type": ["object", "null"]})
_ACK_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _ACK,
                "example": {
                    "device_id": "sbx_001",
                    "command_id": "cmd_123",
                    "status": "delivered",
                    "reason": "ok",
                    "result_payload": {"payment_result": "ok"},
                },
            }
        },
    }
}


@router.post(
    "/device/commands/ack", tags=["devices"], openapi_extra=_ACK_BODY, responses=answers(TakenView) | problems(NotFound)
)
async def acknowledge_command(request: Request, device: AuthenticatedDevice) -> Response:
    """What became of a command. `delivered` means done here; a word that comes too late is kept as conflicting."""
    try:
        ack = decode(CommandAck, await read_body(request, limit=ACK_BYTES), message_type_optional=True)
    except MalformedMessage as error:
        raise ValidationFailed("The ack cannot be read.", error=str(error)) from None
    if ack.device_id != device.id:
        raise DeviceUnauthorized("The token belongs to another device.")
    said = service.answer(device.id, ack, source="http")
    (verdict,) = await request.app.state.database.write(
        lambda tx: service.take_answers(tx, [said], now_ms=clock.now_ms())
    )
    if verdict.state is None:
        raise NotFound("No such command of this device.", command_id=ack.command_id)
    data = {"command_id": ack.command_id, "status": verdict.state.value, "conflicting": verdict.conflicting}
    return envelope(request, data)


# --- where a box stands -------------------------------------------------------------------------------------------


class _Move(BaseModel):
    """`possession` is what this installation does by default when it is left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [
                {"properties": {"possession": {"enum": ["check", None]}}},
                {"required": ["reason"], "properties": {"reason": {"type": "string"}}},
            ]
        },
    )

    possession: Literal["check", "waived"] | None = None
    reason: (
        Annotated[
            str, Field(min_length=3, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["bound in the factory"])
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.possession == "waived" and self.reason is None:
            raise ValueError("possession: waived needs a reason")
        return self

    def is_checked(self, request: Request) -> bool:
        return self.possession == "check" or (self.possession is None and request.app.state.possession_check)

    @property
    def waiver(self) -> dict[str, object]:
        """For the audit log: why nobody had to repeat a code."""
        return {"possession": self.possession or "off", "reason": self.reason}


_MOVED: dict[int | str, dict[str, Any]] = {
    202: {"description": "The box speaks a code, which `confirm` wants to hear.", **answers(ChallengeView)[200]},
    **problems(Conflict, RateLimited),
}


class Place(_Move):
    terminal_id: Annotated[TerminalId, Field(examples=["term_001"])]


class Removal(_Move):
    pass


@router.post("/admin/devices/{device_id}/bind", tags=["operators"], responses=answers(views.BindingView) | _MOVED)
async def bind(request: Request, device_id: Id, place: Place, actor: Acting, once: AskedOnce) -> Response:
    """Put an activated box at a terminal; from then on it speaks that terminal's payments.

    Where possession is checked the answer is 202: the box speaks a code, and `bind/confirm` with it completes the
    binding. `possession: waived` with a reason binds at once: in the factory, or a box that is offline.
    """
    now_ms = clock.now_ms()

    async def move() -> Response:
        challenge = None
        if place.is_checked(request):
            challenge = await possession.begin_bind(
                tx, _asking(request), device_id=device_id, terminal_id=place.terminal_id, by=actor.id,
                trace_id=request_id(request), now_ms=now_ms,
            )  # fmt: skip
        if challenge is not None:
            details: dict[str, object] = {"terminal_id": place.terminal_id, "challenge_id": challenge.id}
            await record(tx, actor, "device.bind_challenged", ("device", device_id), details=details)
            return envelope(request, _challenge(challenge, terminal_id=place.terminal_id, bound=False), status=202)
        binding = await devices.bind(session, device_id=device_id, terminal_id=place.terminal_id, now_ms=now_ms)
        details = {"terminal_id": place.terminal_id, **place.waiver}
        await record(tx, actor, "device.bound", ("device", device_id), details=details)
        return envelope(request, views.binding(binding))

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, move)
    request.app.state.publisher.publish(tx.queued)
    return response


@router.post("/admin/devices/{device_id}/unbind", tags=["operators"], responses=answers(UnboundView) | _MOVED)
async def unbind(
    request: Request, device_id: Id, actor: Acting, once: AskedOnce, removal: Removal | None = None
) -> Response:
    """Take a box away from its terminal, with the same check of possession as when it is bound."""
    removal, now_ms = removal or Removal(), clock.now_ms()

    async def move() -> Response:
        if removal.is_checked(request):
            challenge = await possession.begin_unbind(
                tx, _asking(request), device_id=device_id, by=actor.id, trace_id=request_id(request), now_ms=now_ms
            )
            details: dict[str, object] = {"challenge_id": challenge.id}
            await record(tx, actor, "device.unbind_challenged", ("device", device_id), details=details)
            return envelope(request, _challenge(challenge, bound=True), status=202)
        await devices.unbind(session, device_id=device_id, now_ms=now_ms)
        await record(tx, actor, "device.unbound", ("device", device_id), details=removal.waiver)
        return envelope(request, {"device_id": device_id, "bound": False})

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, move)
    request.app.state.publisher.publish(tx.queued)
    return response


class Heard(BaseModel):
    model_config = ConfigDict(extra="forbid")

    challenge_id: Annotated[Id, Field(examples=["chl_01jz4q9c7c8d9e0f1g2h3j4k5p"])]
    code: Annotated[str, Field(pattern=r"^[0-9]{4}$", examples=["1234"])]


@router.post(
    "/admin/devices/{device_id}/bind/confirm",
    tags=["operators"],
    responses=answers(views.BindingView) | problems(Conflict, WrongCode),
)
async def confirm_bind(request: Request, device_id: Id, heard: Heard, actor: Acting) -> Response:
    """The code that the box spoke: the binding that was asked for takes effect. Three tries in five minutes."""
    now_ms = clock.now_ms()
    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        answered = await _compare(request, tx, actor, device_id, "bind", heard, now_ms)
        if answered.outcome is possession.Outcome.PASSED:
            binding = await devices.bind(session, device_id=device_id, terminal_id=answered.terminal_id, now_ms=now_ms)
            details = {"terminal_id": answered.terminal_id, **_confirmed(heard)}
            await record(tx, actor, "device.bound", ("device", device_id), details=details)
            answer = views.binding(binding)
    _require_passed(answered)
    return envelope(request, answer)


@router.post(
    "/admin/devices/{device_id}/unbind/confirm",
    tags=["operators"],
    responses=answers(UnboundView) | problems(Conflict, WrongCode),
)
async def confirm_unbind(request: Request, device_id: Id, heard: Heard, actor: Acting) -> Response:
    """The code that the box spoke: it is taken from its terminal."""
    now_ms = clock.now_ms()
    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        answered = await _compare(request, tx, actor, device_id, "unbind", heard, now_ms)
        if answered.outcome is possession.Outcome.PASSED:
            await devices.unbind(session, device_id=device_id, now_ms=now_ms)
            await record(tx, actor, "device.unbound", ("device", device_id), details=_confirmed(heard))
    _require_passed(answered)
    return envelope(request, {"device_id": device_id, "bound": False})


async def _compare(
    request: Request,
    tx: Statements,
    actor: Acting,
    device_id: str,
    purpose: possession.Purpose,
    heard: Heard,
    now_ms: int,
) -> possession.Answered:
    answered = await possession.answer(
        tx, device_id=device_id, challenge_id=heard.challenge_id, purpose=purpose, code=heard.code,
        key=request.app.state.possession_key, now_ms=now_ms,
    )  # fmt: skip
    if answered.outcome is not possession.Outcome.PASSED:
        details = {"challenge_id": heard.challenge_id, "tries_left": answered.tries_left}
        await record(
            tx, actor, f"device.{purpose}_code_wrong", ("device", device_id), outcome="failed", details=details
        )
    return answered


def _require_passed(answered: possession.Answered) -> None:
    """Only after the commit: raised inside, it would roll back the try it counts."""
    if answered.outcome is possession.Outcome.BURNT:
        raise Conflict("That was not the code, and it was the last try. Begin again.", tries_left=0)
    if answered.outcome is possession.Outcome.WRONG:
        raise WrongCode("That is not the code the box spoke.", field="code", tries_left=answered.tries_left)


def _confirmed(heard: Heard) -> dict[str, object]:
    return {"possession": "confirmed", "challenge_id": heard.challenge_id}


def _asking(request: Request) -> possession.Asking:
    state = request.app.state
    return possession.Asking(key=state.possession_key, key_of=state.telling.key_of, owner=state.telling.owner)


def _challenge(challenge: possession.Challenge, **beside: object) -> dict[str, Any]:
    return {
        "device_id": challenge.device_id,
        **beside,
        "challenge": {
            "challenge_id": challenge.id,
            "command_id": challenge.command_id,
            "digits": possession.DIGITS,
            "tries": possession.TRIES,
            "expires_at": rfc3339(challenge.expires_at_ms),
        },
    }
