"""What operators look at when a box gives trouble: its messages, events and logs. And how a box sends a whole log."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting
from soundbox_server.answers import TypedDict, among, answers, pages
from soundbox_server.audit.service import record
from soundbox_server.db import statements
from soundbox_server.devices.auth import AuthenticatedDevice
from soundbox_server.devices.models import Device
from soundbox_server.diagnosis import listings, log_files, tail
from soundbox_server.diagnosis.listings import (
    EventPage,
    EventView,
    LogFileView,
    LogView,
    MqttMessageView,
    MqttPage,
    TellingPage,
)
from soundbox_server.diagnosis.models import LogFile
from soundbox_server.diagnosis.state import FileState, Level
from soundbox_server.errors import BodyTooLarge, Conflict, NotFound, Overloaded
from soundbox_server.fields import Id
from soundbox_server.http import Reader, Session, envelope, problems, read_body
from soundbox_server.paging import Page, page

router = APIRouter()


async def require_device(session: AsyncSession, device_id: str) -> None:
    """Raises NotFound."""
    if await session.get(Device, device_id) is None:
        raise NotFound("No such device.", device_id=device_id)


@router.get("/admin/devices/{device_id}/mqtt-messages", tags=["operators"], responses=pages(MqttMessageView))
async def list_mqtt_messages(
    request: Request, device_id: Id, session: Reader, asked: Annotated[MqttPage, Query()]
) -> Response:
    """What this box and the hub said to each other, newest first: a moment later than it was said, the newest ones
    only, and without secrets."""
    await require_device(session, device_id)
    return await page(request, session, listings.mqtt_messages(device_id), asked)


@router.get("/admin/devices/{device_id}/events", tags=["operators"], responses=pages(EventView))
async def list_events(
    request: Request, device_id: Id, session: Reader, asked: Annotated[EventPage, Query()]
) -> Response:
    """What this box wanted an operator to see, newest first. `level` means that one and graver ones."""
    await require_device(session, device_id)
    return await page(request, session, listings.device_events(device_id), asked)


@router.get("/admin/devices/{device_id}/logs", tags=["operators"], responses=pages(LogView))
async def list_logs(
    request: Request, device_id: Id, session: Reader, asked: Annotated[TellingPage, Query()]
) -> Response:
    """Lines of this box's log, newest first. It sends them for a while after a `tail_log` command."""
    await require_device(session, device_id)
    return await page(request, session, listings.device_logs(device_id), asked)


class Following(BaseModel):
    model_config = ConfigDict(extra="forbid")

    level: Annotated[Level, Field(description="this one and graver ones")] = Level.DEBUG
    for_s: Annotated[int, Field(ge=1, le=600, description="then the stream ends, and is asked for again")] = 300


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events `log` and `event`, each with a row as the lists show it",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get(
    "/admin/devices/{device_id}/logs/tail",
    tags=["operators"],
    response_class=StreamingResponse,
    responses=_STREAM | problems(Overloaded),
)
async def follow_logs(
    request: Request,
    device_id: Id,
    actor: Acting,
    asked: Annotated[Following, Query()],
    last_event_id: Annotated[str | None, Header(pattern=tail.CURSOR)] = None,
) -> Response:
    """Log lines and events of this box as they come in, from ten seconds ago or after `Last-Event-ID`."""
    tails: tail.Tails = request.app.state.log_tails
    if tails.full:
        raise Overloaded("Too many follow logs at the moment.")
    async with db.transaction(request.app.state.database) as session:  # none is open while the stream is
        await require_device(session, device_id)
        details = {"level": asked.level.value, "for_s": asked.for_s}
        await record(await statements(session), actor, "device.log_followed", ("device", device_id), details=details)
    begin_ms = clock.now_ms() - tail.LOOK_BACK_MS
    place = tail.Place.at(begin_ms) if last_event_id is None else tail.Place.read(last_event_id)
    stream = tails.follow(request.app.state.database, device_id, level=asked.level, place=place, for_s=asked.for_s)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


# --- whole logs ---------------------------------------------------------------------------------------------------


@router.get("/admin/devices/{device_id}/log-files", tags=["operators"], responses=pages(LogFileView))
async def list_log_files(request: Request, device_id: Id, session: Reader, asked: Annotated[Page, Query()]) -> Response:
    """The whole logs this box sent, newest first. A command `upload_log` with `whole` asks for one."""
    await require_device(session, device_id)
    return await page(request, session, listings.log_files(device_id), asked)


_PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"description": "The log", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get(
    "/admin/devices/{device_id}/log-files/{log_file_id}/file",
    tags=["operators"],
    response_class=FileResponse,
    responses=_PLAIN | problems(NotFound, Conflict),
)
async def get_log_file(request: Request, device_id: Id, log_file_id: Id, session: Session, actor: Acting) -> Response:
    """The log itself, to be saved and not shown: it came from outside. Who fetched it is written down."""
    row = await session.get(LogFile, log_file_id)
    if row is None or row.device_id != device_id:
        raise NotFound("No such log of this device.", log_file_id=log_file_id)
    if row.state != FileState.WHOLE:
        raise Conflict("There is no whole log to fetch.", status=row.state)
    path = request.app.state.device_logs_folder / row.command_id
    if not await asyncio.to_thread(path.is_file):
        raise NotFound("The file is not on this machine.", log_file_id=log_file_id)
    details = {"log_file_id": log_file_id}
    await record(await statements(session), actor, "device.log_fetched", ("device", device_id), details=details)
    return FileResponse(
        path,
        media_type="text/plain; charset=utf-8",
        filename=f"{device_id}-{log_file_id}.log",
        headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"},
    )


class PieceOfLog(BaseModel):
    """Where a piece belongs. What else a box says in the query is ignored."""

    command_id: Id
    offset: Annotated[int, Field(ge=0, lt=log_files.LARGEST_LOG, examples=[0])]
    size: Annotated[int, Field(ge=1, le=log_files.LARGEST_LOG, description="of the whole log", examples=[5])]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="of the whole log")]


class PieceTakenView(TypedDict):
    command_id: str
    status: Annotated[str, among(FileState)]
    received_bytes: int


_PIECE = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "/device/logs",
    tags=["devices"],
    openapi_extra=_PIECE,
    responses=answers(PieceTakenView) | problems(NotFound, Conflict, BodyTooLarge),
)
async def take_log(request: Request, device: AuthenticatedDevice, named: Annotated[PieceOfLog, Query()]) -> Response:
    """A piece of a log that a command asked for, at most 32 KiB. The same piece again changes nothing."""
    content = await read_body(request, limit=log_files.LARGEST_PIECE)
    piece = log_files.Piece(device_id=device.id, content=content, **named.model_dump())
    state = request.app.state
    standing = await state.database.read(lambda tx: log_files.look(tx, piece))
    if standing is None:
        after = await asyncio.to_thread(log_files.write_piece, state.device_logs_folder, piece)
        standing = await state.database.write(
            lambda tx: log_files.note(tx, piece, after, kept_days=state.device_log_file_days, now_ms=clock.now_ms())
        )
    data = {"command_id": piece.command_id, "status": standing.state.value, "received_bytes": standing.received_bytes}
    return envelope(request, data)
