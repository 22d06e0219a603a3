"""A merchant's owner: whom they let see their merchant, who looked, and what they asked banks for."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.access.models import Organisation
from soundbox_server.answers import answers, pages
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, IllegalTransition, NotFound
from soundbox_server.fields import Body, Id, Moment, Text
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.lending import applications, listings, service
from soundbox_server.lending.applications import NewApplication
from soundbox_server.lending.listings import (
    ApplicationFilters,
    ConsentFilters,
    LookFilters,
    of_organisation,
    seen_from,
)
from soundbox_server.lending.models import BankConsent, BankConsentEvent, BankLook, LoanApplication
from soundbox_server.lending.routes import Rupiah, Tenor
from soundbox_server.lending.state import ConsentScope, Side
from soundbox_server.lending.views import (
    BankView,
    ConsentView,
    LoanApplicationView,
    LookView,
    application_view,
    consent_event_view,
    consent_view,
)
from soundbox_server.paging import Listing, Page, Rows, page

router = APIRouter(prefix="/merchant", tags=["merchants"])

MerchantId = Annotated[Id, Field(examples=["mer_demo"])]
BankId = Annotated[Id, Field(examples=["org_demo_bank"])]


class NewConsent(Body):
    """Without an end it holds for a year, which is the longest."""

    merchant_id: MerchantId
    bank_id: BankId
    scope: Annotated[
        Literal["score", "full"],
        Field(description="score, band and limits; or besides contact, takings, warnings and loan applications"),
    ] = "full"
    expires_at: Annotated[Moment | None, Field(description="within a year")] = None


class NewLoanApplication(Body):
    merchant_id: MerchantId
    bank_id: BankId
    amount_idr: Rupiah
    tenor_months: Tenor
    purpose: Text | None = None


def _banks(_asked: Page) -> Rows:
    return select(Organisation).where(Organisation.kind == "bank")


def _bank(bank: Organisation) -> BankView:
    return {"id": bank.id, "name": bank.name}


BANKS = Listing(asked=Page, key=(Organisation.id,), select=_banks, show=_bank)


@router.get("/banks", responses=pages(BankView))
async def list_banks(request: Request, session: Reader, asked: Annotated[Page, Query()]) -> Response:
    """Banks that a merchant can let see it, newest first."""
    return await page(request, session, BANKS, asked)


@router.post("/consents", status_code=201, responses=answers(ConsentView, status=201) | problems(NotFound, Conflict))
async def grant_consent(
    request: Request, asked: NewConsent, session: Session, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """Let a bank see a merchant of one's own. What stood before with this bank is replaced."""
    now_ms, tx = clock.now_ms(), await statements(session)

    async def deed() -> Response:
        consent_id = await service.grant(
            tx, merchant_id=asked.merchant_id, bank_id=asked.bank_id, scope=ConsentScope(asked.scope),
            expires_at_ms=asked.expires_at, organisation_id=caller.organisation_id, actor=actor, now_ms=now_ms,
        )  # fmt: skip
        return envelope(request, await whole_consent(session, consent_id, caller.organisation_id), status=201)

    return await once.answer(tx, deed)


@router.get("/consents", responses=pages(ConsentView))
async def list_consents(
    request: Request, session: Reader, caller: Caller, asked: Annotated[ConsentFilters, Query()]
) -> Response:
    """Banks that one lets see something, or did, newest first."""
    theirs = BankConsent.merchant_id.in_(of_organisation(caller.organisation_id))
    return await page(request, session, listings.consents(theirs), asked)


@router.get("/consents/{consent_id}", responses=answers(ConsentView) | problems(NotFound))
async def get_consent(request: Request, consent_id: Id, session: Reader, caller: Caller) -> Response:
    """One consent, with every time it was granted or withdrawn."""
    return envelope(request, await whole_consent(session, consent_id, caller.organisation_id))


@router.post("/consents/{consent_id}/withdraw", responses=answers(ConsentView) | problems(NotFound))
async def withdraw_consent(
    request: Request, consent_id: Id, session: Session, caller: Caller, actor: Acting
) -> Response:
    """From this answer on the bank sees nothing of the merchant any more."""
    now_ms, organisation_id = clock.now_ms(), caller.organisation_id
    tx = await statements(session)
    await service.withdraw(tx, consent_id, organisation_id=organisation_id, actor=actor, now_ms=now_ms)
    return envelope(request, await whole_consent(session, consent_id, organisation_id))


async def whole_consent(session: AsyncSession, consent_id: str, organisation_id: str | None = None) -> ConsentView:
    """With its history, oldest first. Raises NotFound, also for one of another organisation's merchant."""
    whose = () if organisation_id is None else (BankConsent.merchant_id.in_(of_organisation(organisation_id)),)
    listing = listings.consents(*whose, BankConsent.id == consent_id)
    row = (await session.execute(listing.select(ConsentFilters()))).one_or_none()
    if row is None:
        raise NotFound("No such consent.", consent_id=consent_id)
    events = await session.scalars(
        select(BankConsentEvent).where(BankConsentEvent.consent_id == consent_id).order_by(BankConsentEvent.id)
    )
    return {**consent_view(*row), "history": [consent_event_view(event) for event in events]}


@router.get("/looks", responses=pages(LookView))
async def list_looks(
    request: Request, session: Reader, caller: Caller, asked: Annotated[LookFilters, Query()]
) -> Response:
    """Who of which bank looked at one's merchants, newest first."""
    theirs = BankLook.merchant_id.in_(of_organisation(caller.organisation_id))
    return await page(request, session, listings.looks(theirs), asked)


@router.get("/loan-applications", responses=pages(LoanApplicationView))
async def list_applications(
    request: Request, session: Reader, caller: Caller, asked: Annotated[ApplicationFilters, Query()]
) -> Response:
    """One's loan applications, and what banks propose, newest first."""
    theirs = LoanApplication.merchant_id.in_(of_organisation(caller.organisation_id))
    return await page(request, session, listings.applications(theirs, seen_from(Side.MERCHANT)), asked)


@router.get("/loan-applications/{application_id}", responses=answers(LoanApplicationView) | problems(NotFound))
async def get_application(request: Request, application_id: Id, session: Reader, caller: Caller) -> Response:
    return envelope(request, await _application(session, application_id, caller.organisation_id))


@router.post(
    "/loan-applications",
    status_code=201,
    responses=answers(LoanApplicationView, status=201) | problems(NotFound, Conflict),
)
async def make_application(
    request: Request, asked: NewLoanApplication, session: Session, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """A draft, at a bank that may see everything of the merchant. The bank sees it once it is submitted."""
    now_ms, tx = clock.now_ms(), await statements(session)
    new = NewApplication(**asked.model_dump())

    async def deed() -> Response:
        application_id = await applications.make(tx, new, side=Side.MERCHANT, actor=actor, now_ms=now_ms)
        return envelope(request, await _application(session, application_id, caller.organisation_id), status=201)

    return await once.answer(tx, deed)


@router.post(
    "/loan-applications/{application_id}/submit",
    responses=answers(LoanApplicationView) | problems(NotFound, Conflict, IllegalTransition),
)
async def submit_application(
    request: Request, application_id: Id, session: Session, caller: Caller, actor: Acting
) -> Response:
    """Hand it in, with the merchant's score as it is now."""
    now_ms, model, tx = clock.now_ms(), request.app.state.scoring_model, await statements(session)
    await applications.submit(tx, application_id, side=Side.MERCHANT, model=model, actor=actor, now_ms=now_ms)
    return envelope(request, await _application(session, application_id, caller.organisation_id))


@router.post(
    "/loan-applications/{application_id}/withdraw",
    responses=answers(LoanApplicationView) | problems(NotFound, IllegalTransition),
)
async def withdraw_application(
    request: Request, application_id: Id, session: Session, caller: Caller, actor: Acting
) -> Response:
    """One does not want the loan any more, also after it was approved."""
    now_ms, tx = clock.now_ms(), await statements(session)
    await applications.withdraw(tx, application_id, side=Side.MERCHANT, actor=actor, now_ms=now_ms)
    return envelope(request, await _application(session, application_id, caller.organisation_id))


async def _application(session: AsyncSession, application_id: str, organisation_id: str) -> LoanApplicationView:
    theirs = LoanApplication.merchant_id.in_(of_organisation(organisation_id))
    listing = listings.applications(theirs, seen_from(Side.MERCHANT), LoanApplication.id == application_id)
    found: LoanApplication | None = await session.scalar(listing.select(ApplicationFilters()))
    if found is None:
        raise NotFound("No such loan application.", application_id=application_id)
    return application_view(found)
