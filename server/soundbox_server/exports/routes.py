"""Exports from the doors: asked for, followed, fetched."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import Field, ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.access.service import Principal
from soundbox_server.answers import AnyJson, Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, Forbidden, IllegalTransition, NotFound, RateLimited, ValidationFailed
from soundbox_server.exports import service
from soundbox_server.exports.kinds import Kind, Kinds, Report, formats_of, listing_of
from soundbox_server.exports.models import ExportJob
from soundbox_server.exports.state import ExportState
from soundbox_server.exports.writing import MEDIA_TYPES
from soundbox_server.fields import Body, Id, Whole
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.idempotency import Once
from soundbox_server.paging import Listing, Page, Rows, matching, page

router = APIRouter(tags=["operators"])

_BYTES = {"schema": {"type": "string", "format": "binary"}}
A_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": {kind.partition(";")[0]: _BYTES for kind in MEDIA_TYPES.values()}}
}


class NewExport(Body):
    kind: Annotated[Id, Field(examples=["transactions"])]
    format: Annotated[
        Literal["csv", "jsonl", "pdf"] | None, Field(description="one that the kind has; without it csv, or its first")
    ] = None
    filters: Annotated[dict[str, str | Whole | bool | None], Field(max_length=20, examples=[{"status": "paid"}])] = {}
    bom: Annotated[bool, Field(description="CSV that begins as some spreadsheets need to read UTF-8")] = False


class ExportFilters(Page):
    status: ExportState | None = None
    kind: Id | None = None
    requested_by: Id | None = None


def _select(asked: ExportFilters) -> Rows:
    return matching(
        select(ExportJob).where(ExportJob.organisation_id.is_(None)),
        (ExportJob.state, asked.status), (ExportJob.kind, asked.kind), (ExportJob.requested_by, asked.requested_by),
    )  # fmt: skip


class ExportView(TypedDict):
    id: str
    kind: str
    format: str
    filters: AnyJson
    status: Annotated[str, among(ExportState)]
    rows: int
    percent: int | None
    size_bytes: int | None
    sha256: str | None
    failure: str | None
    requested_by: str
    requested_at: Time
    finished_at: Time | None
    expires_at: Time | None


def export_view(job: ExportJob) -> ExportView:
    return {
        "id": job.id,
        "kind": job.kind,
        "format": job.format,
        "filters": orjson.loads(job.filters),
        "status": job.state,
        "rows": job.rows_done,
        "percent": _percent(job),
        "size_bytes": job.size_bytes,
        "sha256": job.sha256,
        "failure": job.failure,
        "requested_by": job.requested_by,
        "requested_at": rfc3339(job.requested_at_ms),
        "finished_at": rfc3339_or_none(job.finished_at_ms),
        "expires_at": rfc3339_or_none(job.expires_at_ms),
    }


def _percent(job: ExportJob) -> int | None:
    if job.sha256 is not None:
        return 100
    if not job.rows_total:
        return 0 if job.state == ExportState.QUEUED else None
    return min(99, job.rows_done * 100 // job.rows_total)


EXPORTS = Listing(asked=ExportFilters, key=(ExportJob.id,), select=_select, show=export_view)


def asking(
    kinds: Kinds, path: str = "/admin/exports", ask: Callable[..., Awaitable[Response]] | None = None
) -> APIRouter:
    """The door where these kinds are asked for, which are known a floor above: each has filters of its own."""
    door = APIRouter(tags=["operators"] if ask is None else [])
    body = {"content": {"application/json": {"schema": {"oneOf": [_wanted(*kind) for kind in kinds.items()]}}}}
    extra, told = {"requestBody": body}, answers(ExportView, status=202)
    responses = told | problems(NotFound, RateLimited)
    door.post(path, status_code=202, openapi_extra=extra, responses=responses)(ask or ask_for_export)
    return door


def _wanted(name: str, kind: Kind) -> dict[str, Any]:
    """The schema of an export of this kind, beside what all have in common."""
    said, formats = listing_of(kind).asked.model_json_schema(), formats_of(kind)
    filters = {name: field for name, field in said["properties"].items() if name not in Page.model_fields}
    shown = {"type": "object", "additionalProperties": False, "properties": filters}
    needed = ["kind"]
    if required := said.get("required"):
        shown["required"], needed = required, ["kind", "filters"]
    told = {
        "kind": {"const": name},
        "format": {"enum": list(formats)},
        "filters": _inlined(shown, said.get("$defs", {})),
    }
    return {"title": f"An export of {name}", "properties": told, "required": needed}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return definitions[schema["$ref"].rpartition("/")[2]]
    return {name: _inlined(part, definitions) for name, part in schema.items()}


async def ask_for_export(
    request: Request, wanted: NewExport, session: Session, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """A list as a file, made in the background and kept for a week. `filters` are those of the list's own door.

    An API key needs the scope that reads the list too.
    """
    kinds: Kinds = request.app.state.exportable
    kind = known(kinds, wanted)
    _require_may_read(request, caller, wanted.kind)
    return await queue(request, session, wanted, kind, actor, once)


def known(kinds: Kinds, wanted: NewExport) -> Kind:
    """Raises ValidationFailed for a kind, or a format of it, that there is not."""
    if wanted.kind not in kinds:
        raise ValidationFailed("No such export.", field="kind", known=sorted(kinds))
    kind = kinds[wanted.kind]
    if wanted.format is not None and wanted.format not in formats_of(kind):
        raise ValidationFailed("This export has no such format.", field="format", known=list(formats_of(kind)))
    return kind


def _usual(formats: tuple[str, ...]) -> str:
    return "csv" if "csv" in formats else formats[0]


async def queue(
    request: Request,
    session: AsyncSession,
    wanted: NewExport,
    kind: Kind,
    actor: Actor,
    once: Once,
    *,
    organisation_id: str | None = None,
) -> Response:
    """The job as it was stored. Raises ValidationFailed for filters that do not fit, NotFound where a report has
    nothing to tell of, RateLimited."""
    asked, form = _filters(listing_of(kind), wanted.filters), wanted.format or _usual(formats_of(kind))
    if isinstance(kind, Report):
        await kind.open(session, asked, form)

    async def ask() -> Response:
        tx = await statements(session)
        export_id = await service.ask(
            tx, kind=wanted.kind, format_=form, with_bom=wanted.bom,
            filters=orjson.dumps(wanted.filters).decode(), by=str(actor.id), organisation_id=organisation_id,
            now_ms=clock.now_ms(),
        )  # fmt: skip
        await record(tx, actor, "export.asked", ("export", export_id), details=wanted.model_dump() | {"format": form})
        job = await find(session, export_id, organisation_id=organisation_id)
        return envelope(request, export_view(job), status=202)

    return await once.answer(await statements(session), ask)


def _require_may_read(request: Request, caller: Principal, kind: str) -> None:
    state = request.app.state
    if caller.role not in state.export_roles[kind]:
        raise Forbidden("Your role may not export this.", kind=kind)
    require_scope(caller, kind, state.export_scopes)


def require_scope(caller: Principal, kind: str, scopes: Mapping[str, str]) -> None:
    """A key that takes a list away may also read it."""
    if caller.api_key_id is not None and scopes[kind] not in caller.scopes:
        raise Forbidden("This key may not read that list.", kind=kind, scope=scopes[kind])


def _filters(listing: Listing[Any], filters: Mapping[str, object]) -> Any:
    if paging := filters.keys() & Page.model_fields.keys():
        raise ValidationFailed("An export has no pages.", field=f"filters.{min(paging)}")
    try:
        return listing.asked.model_validate_json(orjson.dumps(filters), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("filters", *first["loc"]))
        raise ValidationFailed(first["msg"].removeprefix("Value error, "), field=field) from None


@router.get("/admin/exports", responses=pages(ExportView))
async def list_exports(request: Request, session: Reader, asked: Annotated[ExportFilters, Query()]) -> Response:
    """Exports, newest first."""
    return await page(request, session, EXPORTS, asked)


@router.get("/admin/exports/{export_id}", responses=answers(ExportView))
async def get_export(request: Request, export_id: Id, session: Reader) -> Response:
    """How far it is. `percent` is null for the very large ones."""
    return envelope(request, export_view(await find(session, export_id)))


@router.post("/admin/exports/{export_id}/cancel", responses=answers(ExportView) | problems(IllegalTransition))
async def cancel_export(request: Request, export_id: Id, session: Session, actor: Acting) -> Response:
    """Stop it. Only who asked for it, or a platform admin."""
    _require_own(await find(session, export_id), actor)
    job = await service.cancel(session, export_id, now_ms=clock.now_ms())
    await record(await statements(session), actor, "export.cancelled", ("export", export_id))
    return envelope(request, export_view(job))


@router.get("/admin/exports/{export_id}/file", response_class=FileResponse, responses=A_FILE | problems(Conflict))
async def get_export_file(request: Request, export_id: Id, session: Session, caller: Caller, actor: Acting) -> Response:
    """The file. Only for who asked for it, or a platform admin; who fetched it is written down."""
    job = await find(session, export_id)
    _require_own(job, actor)
    _require_may_read(request, caller, job.kind)
    return await send(request, session, job, actor)


async def send(request: Request, session: AsyncSession, job: ExportJob, actor: Actor) -> Response:
    """The file of a job that is done. Raises Conflict, or NotFound where the file is another machine's."""
    if job.state != ExportState.DONE:
        raise Conflict("There is no file to fetch.", status=job.state)
    if job.expires_at_ms is None or job.expires_at_ms <= clock.now_ms():  # the round that removes it is still to come
        raise Conflict("There is no file to fetch.", status=ExportState.EXPIRED)
    path = request.app.state.exports_folder / service.file_name(job.id, job.attempt, job.format)
    if not await asyncio.to_thread(path.is_file):
        raise NotFound("The file is not on this machine.", export_id=job.id)
    await record(await statements(session), actor, "export.fetched", ("export", job.id))
    return FileResponse(
        path,
        media_type=MEDIA_TYPES[job.format],
        filename=f"{job.kind}-{job.id}.{job.format}",
        headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"},
    )


def _require_own(job: ExportJob, actor: Actor) -> None:
    if actor.id != job.requested_by and actor.role != "platform_admin":
        raise Forbidden("Somebody else asked for this export.", requested_by=job.requested_by)


async def find(session: AsyncSession, export_id: str, *, organisation_id: str | None = None) -> ExportJob:
    """A job of staff's, or of this organisation's. Raises NotFound."""
    job = await session.get(ExportJob, export_id)
    if job is None or job.organisation_id != organisation_id:
        raise NotFound("No such export.", export_id=export_id)
    return job
