"""Erasing a merchant: asked for by its owner or by staff, approved or refused by staff."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import select

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.access.service import Principal
from soundbox_server.answers import Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import Actor
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements, reading
from soundbox_server.errors import Conflict, Forbidden, IllegalTransition, NotFound
from soundbox_server.fields import Body, Id, Reason
from soundbox_server.http import Reader, envelope, problems
from soundbox_server.idempotency import Once
from soundbox_server.merchants.models import Merchant
from soundbox_server.paging import Listing, Page, Rows, matching, page
from soundbox_server.privacy import erasing
from soundbox_server.privacy.models import MerchantErasure
from soundbox_server.privacy.state import ErasureState

operators = APIRouter(prefix="/admin", tags=["operators"])
owners = APIRouter(prefix="/merchant", tags=["merchants"])


class AskedFor(Body):
    reason: Reason


class OwnersAsk(AskedFor):
    merchant_id: Annotated[Id, Field(examples=["mer_demo"])]


class TypedAgain(Body):
    """What cannot be taken back is named once more."""

    merchant_id: Annotated[Id, Field(examples=["mer_demo"], description="whom to forget")]


class ErasureFilters(Page):
    merchant_id: Id | None = None
    status: ErasureState | None = None


class ErasureView(TypedDict):
    id: str
    merchant_id: str
    status: Annotated[str, among(ErasureState)]
    reason: str
    requested_by: str
    requested_at: Time
    decided_by: str | None
    decided_at: Time | None
    hold_until: Time | None
    erased_at: Time | None


def _view(row: MerchantErasure) -> ErasureView:
    return {
        "id": row.id,
        "merchant_id": row.merchant_id,
        "status": row.state,
        "reason": row.reason,
        "requested_by": row.requested_by,
        "requested_at": rfc3339(row.requested_at_ms),
        "decided_by": row.decided_by,
        "decided_at": rfc3339_or_none(row.decided_at_ms),
        "hold_until": rfc3339_or_none(row.hold_until_ms),
        "erased_at": rfc3339_or_none(row.erased_at_ms),
    }


def _select(asked: ErasureFilters) -> Rows:
    return matching(
        select(MerchantErasure), (MerchantErasure.merchant_id, asked.merchant_id), (MerchantErasure.state, asked.status)
    )


ERASURES = Listing(asked=ErasureFilters, key=(MerchantErasure.id,), select=_select, show=_view)


@operators.post(
    "/merchants/{merchant_id}/erasures",
    status_code=201,
    responses=answers(ErasureView, status=201) | problems(NotFound, Conflict),
)
async def ask_for_erasure(
    request: Request, merchant_id: Id, asked: AskedFor, actor: Acting, once: AskedOnce
) -> Response:
    """Ask that a merchant be forgotten. Somebody else approves it; asked twice it is asked once."""
    return await _ask(request, merchant_id, asked.reason, actor, once)


@owners.post("/erasures", status_code=201, responses=answers(ErasureView, status=201) | problems(NotFound, Conflict))
async def ask_for_own_erasure(
    request: Request, asked: OwnersAsk, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """Ask that a merchant of one's own be forgotten. The platform approves it, once no money is on its way."""
    return await _ask(request, asked.merchant_id, asked.reason, actor, once, caller)


async def _ask(
    request: Request, merchant_id: str, reason: str, actor: Actor, once: Once, caller: Principal | None = None
) -> Response:
    now_ms, organisation_id = clock.now_ms(), None if caller is None else caller.organisation_id

    async def deed(tx: Statements) -> Response:
        asked = await erasing.ask(
            tx, merchant_id, reason=reason, organisation_id=organisation_id, actor=actor, now_ms=now_ms
        )
        return envelope(request, await _stored(tx, asked.id), status=201)

    answered: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: deed(tx)))
    return answered


async def _stored(tx: Statements, erasure_id: str) -> ErasureView:
    names = [column.name for column in MerchantErasure.__table__.columns]
    (row,) = await tx.fetch(f"SELECT {', '.join(names)} FROM merchant_erasure WHERE id = $1", erasure_id)
    return _view(MerchantErasure(**{name: row[name] for name in names}))


@operators.get("/erasures", responses=pages(ErasureView))
async def list_erasures(request: Request, session: Reader, asked: Annotated[ErasureFilters, Query()]) -> Response:
    """Merchants that are to be forgotten, or were, newest first."""
    return await page(request, session, ERASURES, asked)


@owners.get("/erasures", responses=pages(ErasureView))
async def list_own_erasures(
    request: Request, session: Reader, caller: Caller, asked: Annotated[ErasureFilters, Query()]
) -> Response:
    """What one asked for of one's own merchants, newest first."""
    ours = select(Merchant.id).where(Merchant.organisation_id == caller.organisation_id)

    def theirs(asked: ErasureFilters) -> Rows:
        return _select(asked).where(MerchantErasure.merchant_id.in_(ours))

    listing = Listing(asked=ErasureFilters, key=ERASURES.key, select=theirs, show=_view)
    return await page(request, session, listing, asked)


@operators.get("/erasures/{erasure_id}", responses=answers(ErasureView) | problems(NotFound))
async def get_erasure(request: Request, erasure_id: Id) -> Response:
    return envelope(request, await _shown(request, erasure_id))


@operators.post(
    "/erasures/{erasure_id}/approve",
    responses=answers(ErasureView) | problems(NotFound, Conflict, Forbidden, IllegalTransition),
)
async def approve_erasure(request: Request, erasure_id: Id, asked: TypedAgain, actor: Acting) -> Response:
    """Forget: people, names, addresses, free texts, consents and keys now, papers once the law lets go. Amounts stay.

    By somebody other than who asked. 409 while money is on its way or boxes stand at the tills. Nothing brings it back.
    """
    now_ms = clock.now_ms()
    await request.app.state.database.write_at_leisure(
        lambda tx: erasing.approve(tx, erasure_id, asked.merchant_id, actor=actor, now_ms=now_ms)
    )
    return envelope(request, await _shown(request, erasure_id))


@operators.post("/erasures/{erasure_id}/refuse", responses=answers(ErasureView) | problems(NotFound, IllegalTransition))
async def refuse_erasure(request: Request, erasure_id: Id, actor: Acting) -> Response:
    """Do not forget. It can be asked for again."""
    now_ms = clock.now_ms()
    await request.app.state.database.write(lambda tx: erasing.refuse(tx, erasure_id, actor=actor, now_ms=now_ms))
    return envelope(request, await _shown(request, erasure_id))


async def _shown(request: Request, erasure_id: str) -> ErasureView:
    async with reading(request.app.state.database) as session:
        found = await session.get(MerchantErasure, erasure_id)
    if found is None:
        raise NotFound("No such erasure.", erasure_id=erasure_id)
    return _view(found)
