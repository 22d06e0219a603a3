"""Operators have many boxes do something, with a colleague's agreement when it is the whole fleet."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.api_keys import person_behind
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import AnyJson, Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.commands import batches
from soundbox_server.commands.kinds import IN_BULK, KINDS, checked_payload
from soundbox_server.commands.models import CommandBatch, CommandBatchTarget, DeviceCommand
from soundbox_server.commands.state import BatchState
from soundbox_server.db import Statements, statements
from soundbox_server.errors import Conflict, Forbidden, NotFound
from soundbox_server.fields import MOST_WHOLE, Body, City, Id, Reason
from soundbox_server.http import Reader, Session, envelope, problems, request_id
from soundbox_server.paging import Listing, Page, Rows, matching, page

router = APIRouter(tags=["operators"])


def _each_with_its_payload(schema: dict[str, Any]) -> None:
    """For the description: which payload goes with which command."""
    schema["oneOf"] = [
        {
            "properties": {
                "command_name": {"const": name},
                "payload": KINDS[name].payload.model_json_schema() | {"additionalProperties": False},
            },
            "required": ["command_name", *(["payload"] if KINDS[name].payload.model_json_schema().get("required")
                                           else [])],
        }
        for name in IN_BULK
    ]  # fmt: skip


class Which(Body):
    """Boxes in service that are all of this; none of it: the fleet."""

    vendor: Id | None = None
    model: Id | None = None
    firmware: Annotated[str | None, Field(pattern=r"^[!-~]{1,64}$")] = None
    tag: Annotated[str | None, Field(pattern=r"^[a-z0-9-]{1,32}$")] = None
    merchant_id: Id | None = None
    outlet_id: Id | None = None
    city: City | None = None


class NewBatch(Body):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_each_with_its_payload)

    command_name: Annotated[
        Literal["play_test", "reboot", "refresh_config", "set_volume", "upload_log"], Field(examples=["set_volume"])
    ]
    payload: Annotated[dict[str, Any], Field(examples=[{"volume": 40}])] = {}
    filter: Annotated[Which, Field(examples=[{"city": "Jakarta", "tag": "pilot"}])]
    count: Annotated[
        int | None, Field(ge=1, le=MOST_WHOLE, description="how many boxes you expect; asked for beyond ten")
    ] = None


class BatchView(TypedDict):
    batch_id: str
    command_name: str
    payload: AnyJson
    filter: AnyJson
    status: Annotated[str, among(BatchState)]
    fleet_wide: bool
    total: int
    requested_by: str
    requested_at: Time
    decide_by: Time
    decided_by: str | None
    decided_at: Time | None
    reason: str | None
    finished_at: Time | None
    trace_id: str


class WholeBatchView(BatchView):
    progress: dict[str, int]


class TargetView(TypedDict):
    device_id: str
    status: str
    reason: str | None
    command_id: str | None


@router.post(
    "/admin/command-batches", status_code=201, responses=answers(WholeBatchView, status=201) | problems(Conflict)
)
async def ask_for_batch(
    request: Request, wanted: NewBatch, actor: Acting, session: Session, once: AskedOnce
) -> Response:
    """Have every box do something that the filter finds now. Beyond ten boxes `count` has to be theirs; the fleet waits
    for a second person, for a day at most."""
    tx, kind = await statements(session), KINDS[wanted.command_name]
    payload = checked_payload(kind.name, wanted.payload)

    async def ask() -> Response:
        asked = batches.Asked(
            kind=kind, payload=payload, filter=wanted.filter.model_dump(exclude_none=True), count=wanted.count,
            by=str(actor.id), person=await person_behind(tx, str(actor.id)), trace_id=request_id(request),
        )  # fmt: skip
        batch_id = await batches.ask(tx, asked, now_ms=clock.now_ms())
        shown = await _whole(session, tx, batch_id)
        details = {"command_name": kind.name, "payload": payload, "filter": asked.filter, "total": shown["total"]}
        await record(tx, actor, "command_batch.asked", ("command_batch", batch_id), details=details)
        return envelope(request, shown, status=201)

    return await once.answer(tx, ask)


class BatchFilters(Page):
    status: BatchState | None = None


def _select(asked: BatchFilters) -> Rows:
    return matching(select(CommandBatch), (CommandBatch.state, asked.status))


@router.get("/admin/command-batches", responses=pages(WholeBatchView))
async def list_batches(request: Request, session: Reader, asked: Annotated[BatchFilters, Query()]) -> Response:
    """What many boxes were asked to do, newest first; `status=waiting` is what waits for a second person."""
    tx = await statements(session)

    async def beside(rows: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        counted = await batches.progress(tx, [row[0].id for row in rows])
        return [{"progress": counted[row[0].id]} for row in rows]

    return await page(request, session, BATCHES, asked, beside=beside)


@router.get("/admin/command-batches/{batch_id}", responses=answers(WholeBatchView))
async def get_batch(request: Request, batch_id: Id, session: Reader) -> Response:
    """How far it is: how many boxes stand where."""
    return envelope(request, await _whole(session, await statements(session), batch_id))


class TargetFilters(Page):
    status: Annotated[str | None, Field(pattern=r"^[a-z]{1,16}$", description="waiting, given, refused, stopped")] = (
        None
    )


@router.get("/admin/command-batches/{batch_id}/devices", responses=pages(TargetView))
async def list_targets(
    request: Request, batch_id: Id, session: Reader, asked: Annotated[TargetFilters, Query()]
) -> Response:
    """The boxes it is for, each with what became of it there."""
    if await session.get(CommandBatch, batch_id) is None:
        raise NotFound("No such batch.", batch_id=batch_id)

    def of_this_batch(asked: TargetFilters) -> Rows:
        query = select(CommandBatchTarget, DeviceCommand.state).outerjoin(
            DeviceCommand, DeviceCommand.id == CommandBatchTarget.command_id
        )
        return matching(query.where(CommandBatchTarget.batch_id == batch_id), (CommandBatchTarget.state, asked.status))

    listing = Listing(
        asked=TargetFilters, key=(CommandBatchTarget.device_id,), select=of_this_batch, show=_target,
        newest_first=False,
    )  # fmt: skip
    return await page(request, session, listing, asked)


@router.post(
    "/admin/command-batches/{batch_id}/approve", responses=answers(WholeBatchView) | problems(Conflict, Forbidden)
)
async def approve_batch(request: Request, batch_id: Id, actor: Acting, session: Session) -> Response:
    """The second person agrees, and it begins."""
    tx = await statements(session)
    await batches.approve(tx, batch_id, by=str(actor.id), now_ms=clock.now_ms())
    await record(tx, actor, "command_batch.approved", ("command_batch", batch_id))
    return envelope(request, await _whole(session, tx, batch_id))


class Refusal(Body):
    reason: Reason


@router.post("/admin/command-batches/{batch_id}/refuse", responses=answers(WholeBatchView) | problems(Conflict))
async def refuse_batch(request: Request, batch_id: Id, refusal: Refusal, actor: Acting, session: Session) -> Response:
    """It will not be done."""
    tx = await statements(session)
    await batches.refuse(tx, batch_id, by=str(actor.id), reason=refusal.reason, now_ms=clock.now_ms())
    await record(tx, actor, "command_batch.refused", ("command_batch", batch_id), details={"reason": refusal.reason})
    return envelope(request, await _whole(session, tx, batch_id))


@router.post("/admin/command-batches/{batch_id}/stop", responses=answers(WholeBatchView) | problems(Conflict))
async def stop_batch(request: Request, batch_id: Id, refusal: Refusal, actor: Acting, session: Session) -> Response:
    """Whoever has not got it yet will not. What was sent already goes on."""
    tx = await statements(session)
    await batches.stop(tx, batch_id, reason=refusal.reason, now_ms=clock.now_ms())
    await record(tx, actor, "command_batch.stopped", ("command_batch", batch_id), details={"reason": refusal.reason})
    return envelope(request, await _whole(session, tx, batch_id))


async def _whole(session: AsyncSession, tx: Statements, batch_id: str) -> WholeBatchView:
    batch = await session.get(CommandBatch, batch_id)
    if batch is None:
        raise NotFound("No such batch.", batch_id=batch_id)
    counted = await batches.progress(tx, [batch_id])
    return {**_batch(batch), "progress": counted[batch_id]}


def _batch(batch: CommandBatch) -> BatchView:
    return {
        "batch_id": batch.id,
        "command_name": batch.name,
        "payload": orjson.Fragment(batch.payload),
        "filter": orjson.Fragment(batch.filter),
        "status": batch.state,
        "fleet_wide": batch.fleet_wide,
        "total": batch.total,
        "requested_by": batch.requested_by,
        "requested_at": rfc3339(batch.created_at_ms),
        "decide_by": rfc3339(batch.decide_by_ms),
        "decided_by": batch.decided_by,
        "decided_at": rfc3339_or_none(batch.decided_at_ms),
        "reason": batch.reason,
        "finished_at": rfc3339_or_none(batch.finished_at_ms),
        "trace_id": batch.trace_id,
    }


def _target(target: CommandBatchTarget, command_state: str | None) -> TargetView:
    return {
        "device_id": target.device_id,
        "status": command_state or target.state,
        "reason": target.reason,
        "command_id": target.command_id,
    }


BATCHES = Listing(asked=BatchFilters, key=(CommandBatch.id,), select=_select, show=_batch)
