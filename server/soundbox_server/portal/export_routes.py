"""Merchants' files: asked for, followed and fetched by the owner of what is in them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from sqlalchemy import select

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.answers import answers, pages
from soundbox_server.audit.service import record
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, IllegalTransition, NotFound
from soundbox_server.exports import service
from soundbox_server.exports.models import ExportJob
from soundbox_server.exports.routes import (
    A_FILE,
    EXPORTS,
    ExportFilters,
    ExportView,
    NewExport,
    asking,
    export_view,
    find,
    known,
    queue,
    require_scope,
    send,
)
from soundbox_server.fields import Id
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.paging import Listing, Rows, matching, page
from soundbox_server.portal.scope import files_of

router = APIRouter(tags=["merchants"])

# A key that takes a list away needs the scope that reads it besides.
SCOPES = {
    "transactions": "payments:read",
    "settlements": "settlements:read",
    "statements": "settlements:read",
    "personal_data": "shop:write",  # of all that an owner may, the most
}


async def ask_for_file(
    request: Request, wanted: NewExport, session: Session, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """A list, or the statement of a settlement, as a file: made in the background and kept for a week.

    An API key needs the scope that reads the list too.
    """
    kind = known(files_of(caller.organisation_id), wanted)
    require_scope(caller, wanted.kind, SCOPES)
    return await queue(request, session, wanted, kind, actor, once, organisation_id=caller.organisation_id)


router.include_router(asking(files_of("org_any"), "/merchant/exports", ask_for_file))


@router.get("/merchant/exports", responses=pages(ExportView))
async def list_files(
    request: Request, session: Reader, caller: Caller, asked: Annotated[ExportFilters, Query()]
) -> Response:
    """The organisation's files, newest first."""

    def of_them(asked: ExportFilters) -> Rows:
        return matching(
            select(ExportJob).where(ExportJob.organisation_id == caller.organisation_id),
            (ExportJob.state, asked.status), (ExportJob.kind, asked.kind),
            (ExportJob.requested_by, asked.requested_by),
        )  # fmt: skip

    listing = Listing(asked=ExportFilters, key=EXPORTS.key, select=of_them, show=EXPORTS.show)
    return await page(request, session, listing, asked)


@router.get("/merchant/exports/{export_id}", responses=answers(ExportView) | problems(NotFound))
async def get_file_state(request: Request, export_id: Id, session: Reader, caller: Caller) -> Response:
    """How far it is."""
    return envelope(request, export_view(await find(session, export_id, organisation_id=caller.organisation_id)))


@router.post(
    "/merchant/exports/{export_id}/cancel", responses=answers(ExportView) | problems(NotFound, IllegalTransition)
)
async def cancel_file(request: Request, export_id: Id, session: Session, caller: Caller, actor: Acting) -> Response:
    """Stop it."""
    await find(session, export_id, organisation_id=caller.organisation_id)
    job = await service.cancel(session, export_id, now_ms=clock.now_ms())
    await record(await statements(session), actor, "export.cancelled", ("export", export_id))
    return envelope(request, export_view(job))


@router.get(
    "/merchant/exports/{export_id}/file", response_class=FileResponse,
    responses=A_FILE | problems(NotFound, Conflict),
)  # fmt: skip
async def get_file(request: Request, export_id: Id, session: Session, caller: Caller, actor: Acting) -> Response:
    """The file; who fetched it is written down."""
    job = await find(session, export_id, organisation_id=caller.organisation_id)
    require_scope(caller, job.kind, SCOPES)
    return await send(request, session, job, actor)
