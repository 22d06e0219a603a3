"""Banks' own doors: their account, the merchants that let them see something, and loan applications.

Whatever shows something of a merchant writes down first who looks (`note`); a merchant that withdrew its consent
meanwhile is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.access.routes import MeView, me, own_doors
from soundbox_server.access.state import ROLES_OF
from soundbox_server.answers import answers, pages
from soundbox_server.audit.service import Actor
from soundbox_server.db import Statements, statements
from soundbox_server.errors import Conflict, Forbidden, IllegalTransition, InvalidAmount, NotFound
from soundbox_server.exports.writing import MEDIA_TYPES, beginning, lines
from soundbox_server.fields import Body, City, Day, Id, Reason, Reference, Search, Text
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.lending import applications, looks, seen
from soundbox_server.lending.applications import Disbursement, NewApplication, Offer
from soundbox_server.lending.listings import ApplicationFilters, LookFilters, applications_at
from soundbox_server.lending.listings import applications as listed_applications
from soundbox_server.lending.listings import looks as listed_looks
from soundbox_server.lending.models import BankConsent, BankLook, LoanApplication
from soundbox_server.lending.state import ConsentScope, LookedAt, Side
from soundbox_server.lending.views import (
    SEEN_COLUMNS,
    LoanApplicationView,
    LookView,
    SeenMerchantView,
    application_view,
    seen_row_view,
    seen_view,
)
from soundbox_server.paging import Listing, Page, Rows, page, rows_of_page
from soundbox_server.scoring.state import Model, RiskBand

account = own_doors("lending", ROLES_OF["bank"], tag="banks")
account.get("/me", responses=answers(MeView))(me)
router = APIRouter(prefix="/lending", tags=["banks"])

MOST_IN_A_FILE = 10_000
TOGETHER = 500  # rows of a file that are read, and looked at, at a time
MOST_IDR = 1_000_000_000_000

Rupiah = Annotated[int, Field(ge=1, le=MOST_IDR, examples=[25_000_000], description="whole rupiah")]
Tenor = Annotated[int, Field(ge=1, le=360, examples=[12], description="months")]
Interest = Annotated[int, Field(ge=0, le=10_000, examples=[1_250], description="basis points a year: 1250 is 12.5 %")]
Percentile = Annotated[int | None, Field(ge=0, le=100)]
Takings = Annotated[int | None, Field(ge=0, le=MOST_IDR, description="whole rupiah of thirty days")]
_CSV = MEDIA_TYPES["csv"].partition(";")[0]
_A_CSV: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": {_CSV: {"schema": {"type": "string"}}}}
}


class SeenFilters(Page):
    min_score: Percentile = None
    max_score: Percentile = None
    risk_band: RiskBand | None = None
    category: Id | None = None
    city: City | None = None
    name: Search | None = None
    min_revenue_idr: Takings = None
    max_revenue_idr: Takings = None

    @property
    def search(self) -> seen.Search:
        asked = self.model_dump(exclude={"limit", "cursor"})
        return seen.Search(**asked | {"risk_band": self.risk_band and self.risk_band.value})


class NewOffer(Body):
    """What a bank proposes to a merchant. A draft is the bank's own until it is submitted."""

    merchant_id: Annotated[Id, Field(examples=["mer_demo"])]
    amount_idr: Rupiah
    tenor_months: Tenor
    interest_bps: Interest | None = None
    recommended_amount_idr: Rupiah | None = None
    purpose: Text | None = None


class Approval(Body):
    """What is not named is as the application says."""

    reason: Reason
    amount_idr: Rupiah | None = None
    tenor_months: Tenor | None = None
    interest_bps: Interest | None = None


class Rejection(Body):
    reason: Reason


class PaidOut(Body):
    reference: Reference
    on: Annotated[Day, Field(description="the day in Jakarta, today or before")]
    amount_idr: Rupiah


async def note(
    request: Request, actor: Actor, merchant_ids: Sequence[str], what: LookedAt, *, scope: ConsentScope
) -> Mapping[str, ConsentScope]:
    """Commit that the caller looks at these merchants; returns whom they may be shown, and how much of each."""
    now_ms = clock.now_ms()

    async def work(tx: Statements) -> Mapping[str, ConsentScope]:
        return await looks.keep(tx, merchant_ids, what, scope=scope, actor=actor, now_ms=now_ms)

    seen_now: Mapping[str, ConsentScope] = await request.app.state.database.write(work)
    return seen_now


def merchants_of(bank_id: str, *, model: Model, now_ms: int) -> Listing[SeenFilters]:
    """Merchants that let this bank see something, by id."""

    def selected(asked: SeenFilters) -> Rows:
        return seen.merchants_seen(bank_id, asked.search, model=model, now_ms=now_ms)

    key = (BankConsent.merchant_id,)
    return Listing(
        asked=SeenFilters, key=key, select=selected, show=seen_row_view, columns=SEEN_COLUMNS, newest_first=False
    )


@router.get("/merchants", responses=pages(SeenMerchantView))
async def list_merchants(
    request: Request, session: Reader, caller: Caller, actor: Acting, asked: Annotated[SeenFilters, Query()]
) -> Response:
    """Merchants that let the bank see something now, by id, each with its newest score and its verified takings of
    thirty days; these are null where the consent is to the score alone."""
    model, now_ms = request.app.state.scoring_model, clock.now_ms()
    listing = merchants_of(caller.organisation_id, model=model, now_ms=now_ms)
    rows, cursor = await rows_of_page(session, listing, asked)
    shown = await note(request, actor, [row["merchant_id"] for row in rows], LookedAt.LIST, scope=ConsentScope.SCORE)
    told = [_as_let(row, shown[row["merchant_id"]]) for row in rows if row["merchant_id"] in shown]
    return envelope(request, told, next_cursor=cursor)


def _as_let(row: Mapping[str, Any], scope: ConsentScope) -> Mapping[str, Any]:
    """The consent may have become one to the score alone since the row was read."""
    return row if scope is ConsentScope.FULL else {**row, "consent_scope": scope.value, "revenue_30d_idr": None}


@router.get("/merchants/file", response_class=Response, responses=_A_CSV | problems(Conflict))
async def get_merchants_file(
    request: Request, session: Reader, caller: Caller, actor: Acting, asked: Annotated[SeenFilters, Query()]
) -> Response:
    """The same list as a CSV file, of up to 10,000 merchants, whatever limit and cursor say."""
    model, now_ms, after = request.app.state.scoring_model, clock.now_ms(), None
    body, rows = [beginning("csv", SEEN_COLUMNS, with_bom=False)], 0
    while rows % TOGETHER == 0:
        found = await seen.search(
            session, caller.organisation_id, asked.search, model=model, limit=TOGETHER, after=after, now_ms=now_ms
        )
        if not found:
            break
        ids, rows = [one.merchant_id for one in found], rows + len(found)
        if rows > MOST_IN_A_FILE:
            raise Conflict("These are too many merchants for one file: narrow the search.", most=MOST_IN_A_FILE)
        shown = await note(request, actor, ids, LookedAt.FILE, scope=ConsentScope.SCORE)
        told = [_as_let(seen_view(one), shown[one.merchant_id]) for one in found if one.merchant_id in shown]
        body.append(lines("csv", SEEN_COLUMNS, told))
        after = ids[-1]
    headers = {"Content-Disposition": 'attachment; filename="merchants.csv"', "Cache-Control": "no-store"}
    return Response(b"".join(body), headers=headers, media_type=MEDIA_TYPES["csv"])


@router.get("/looks", responses=pages(LookView))
async def list_looks(
    request: Request, session: Reader, caller: Caller, asked: Annotated[LookFilters, Query()]
) -> Response:
    """Who of the bank looked at whom, newest first."""
    return await page(request, session, listed_looks(BankLook.organisation_id == caller.organisation_id), asked)


@router.get("/loan-applications", responses=pages(LoanApplicationView))
async def list_applications(
    request: Request, session: Reader, caller: Caller, actor: Acting, asked: Annotated[ApplicationFilters, Query()]
) -> Response:
    """Loan applications at this bank, newest first, of merchants that let it see everything now."""
    theirs = applications_at(caller.organisation_id, now_ms=clock.now_ms())
    rows, cursor = await rows_of_page(session, listed_applications(*theirs), asked)
    ids = sorted({row["merchant_id"] for row in rows})
    shown = await note(request, actor, ids, LookedAt.APPLICATIONS, scope=ConsentScope.FULL)
    return envelope(request, [row for row in rows if row["merchant_id"] in shown], next_cursor=cursor)


@router.get("/loan-applications/{application_id}", responses=answers(LoanApplicationView) | problems(NotFound))
async def get_application(request: Request, application_id: Id, session: Session, actor: Acting) -> Response:
    """One application: what is asked for, the score it was submitted with, and what became of it."""
    return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=clock.now_ms()))


@router.post(
    "/loan-applications",
    status_code=201,
    responses=answers(LoanApplicationView, status=201) | problems(NotFound),
)
async def make_application(
    request: Request, asked: NewOffer, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """A draft of what the bank would lend to a merchant that lets it see everything."""
    now_ms, tx = clock.now_ms(), await statements(session)
    new = NewApplication(bank_id=str(actor.organisation_id), **asked.model_dump())

    async def deed() -> Response:
        application_id = await applications.make(tx, new, side=Side.BANK, actor=actor, now_ms=now_ms)
        return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=now_ms), status=201)

    return await once.answer(tx, deed)


@router.post(
    "/loan-applications/{application_id}/submit",
    responses=answers(LoanApplicationView) | problems(NotFound, IllegalTransition),
)
async def submit_application(request: Request, application_id: Id, session: Session, actor: Acting) -> Response:
    """Hand the bank's own draft in, with the merchant's score as it is now: from now on the merchant sees it."""
    now_ms, model = clock.now_ms(), request.app.state.scoring_model
    tx = await statements(session)
    await applications.submit(tx, application_id, side=Side.BANK, model=model, actor=actor, now_ms=now_ms)
    return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=now_ms))


@router.post(
    "/loan-applications/{application_id}/review",
    responses=answers(LoanApplicationView) | problems(NotFound, IllegalTransition),
)
async def review_application(request: Request, application_id: Id, session: Session, actor: Acting) -> Response:
    """Look into it: what nobody looked into is not decided."""
    now_ms = clock.now_ms()
    await applications.review(await statements(session), application_id, actor=actor, now_ms=now_ms)
    return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=now_ms))


@router.post(
    "/loan-applications/{application_id}/approve",
    responses=answers(LoanApplicationView) | problems(NotFound, IllegalTransition, Forbidden),
)
async def approve_application(
    request: Request, application_id: Id, asked: Approval, session: Session, actor: Acting
) -> Response:
    """Lend, on these terms. Never by who made or submitted the application."""
    now_ms = clock.now_ms()
    offer = Offer(**asked.model_dump(exclude={"reason"}))
    await applications.approve(
        await statements(session), application_id, offer, reason=asked.reason, actor=actor, now_ms=now_ms
    )
    return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=now_ms))


@router.post(
    "/loan-applications/{application_id}/reject",
    responses=answers(LoanApplicationView) | problems(NotFound, IllegalTransition, Forbidden),
)
async def reject_application(
    request: Request, application_id: Id, asked: Rejection, session: Session, actor: Acting
) -> Response:
    """Do not lend. The merchant reads the reason. Never by who made or submitted the application."""
    now_ms = clock.now_ms()
    await applications.reject(
        await statements(session), application_id, reason=asked.reason, actor=actor, now_ms=now_ms
    )
    return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=now_ms))


@router.post(
    "/loan-applications/{application_id}/disburse",
    responses=answers(LoanApplicationView) | problems(NotFound, IllegalTransition, InvalidAmount),
)
async def disburse_application(
    request: Request, application_id: Id, asked: PaidOut, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """Write down that the bank handed the money over. It is not paid by us."""
    now_ms, tx = clock.now_ms(), await statements(session)
    paid = Disbursement(**asked.model_dump())

    async def deed() -> Response:
        await applications.disburse(tx, application_id, paid, actor=actor, now_ms=now_ms)
        return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=now_ms))

    return await once.answer(tx, deed)


@router.post(
    "/loan-applications/{application_id}/withdraw",
    responses=answers(LoanApplicationView) | problems(NotFound, IllegalTransition, Forbidden),
)
async def withdraw_application(request: Request, application_id: Id, session: Session, actor: Acting) -> Response:
    """Let go of what the bank proposed itself."""
    now_ms = clock.now_ms()
    await applications.withdraw(await statements(session), application_id, side=Side.BANK, actor=actor, now_ms=now_ms)
    return envelope(request, await shown_to_bank(session, application_id, actor, now_ms=now_ms))


async def shown_to_bank(
    session: AsyncSession, application_id: str, actor: Actor, *, now_ms: int
) -> LoanApplicationView:
    """In the transaction that also holds the look. Raises NotFound."""
    theirs = applications_at(str(actor.organisation_id), now_ms=now_ms)
    listing = listed_applications(*theirs, LoanApplication.id == application_id)
    found: LoanApplication | None = await session.scalar(listing.select(ApplicationFilters()))
    if found is None:
        raise NotFound("No such loan application.", application_id=application_id)
    what, scope, tx = LookedAt.APPLICATIONS, ConsentScope.FULL, await statements(session)
    if not await looks.keep(tx, [found.merchant_id], what, scope=scope, actor=actor, now_ms=now_ms):
        raise NotFound("No such loan application.", application_id=application_id)
    return application_view(found)
