"""Staff: which merchants let which banks see them, who looked, and what became of loan applications. They read."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy.sql.expression import true

from soundbox_server.answers import answers, pages
from soundbox_server.errors import NotFound
from soundbox_server.fields import Id
from soundbox_server.http import Reader, envelope, problems
from soundbox_server.lending import listings
from soundbox_server.lending.listings import ApplicationFilters, ConsentFilters, LookFilters
from soundbox_server.lending.models import LoanApplication
from soundbox_server.lending.owner_routes import whole_consent
from soundbox_server.lending.views import ConsentView, LoanApplicationView, LookView, application_view
from soundbox_server.paging import page

router = APIRouter(prefix="/admin", tags=["operators"])


@router.get("/consents", responses=pages(ConsentView))
async def list_consents(request: Request, session: Reader, asked: Annotated[ConsentFilters, Query()]) -> Response:
    """What merchants let banks see, newest first, withdrawn ones included."""
    return await page(request, session, listings.consents(true()), asked)


@router.get("/consents/{consent_id}", responses=answers(ConsentView) | problems(NotFound))
async def get_consent(request: Request, consent_id: Id, session: Reader) -> Response:
    """One consent, with every time it was granted or withdrawn."""
    return envelope(request, await whole_consent(session, consent_id))


@router.get("/looks", responses=pages(LookView))
async def list_looks(request: Request, session: Reader, asked: Annotated[LookFilters, Query()]) -> Response:
    """Who of which bank looked at whom, newest first."""
    return await page(request, session, listings.looks(true()), asked)


@router.get("/loan-applications", responses=pages(LoanApplicationView))
async def list_applications(
    request: Request, session: Reader, asked: Annotated[ApplicationFilters, Query()]
) -> Response:
    """Loan applications of all merchants at all banks, newest first."""
    return await page(request, session, listings.applications(true()), asked)


@router.get("/loan-applications/{application_id}", responses=answers(LoanApplicationView) | problems(NotFound))
async def get_application(request: Request, application_id: Id, session: Reader) -> Response:
    found = await session.get(LoanApplication, application_id)
    if found is None:
        raise NotFound("No such loan application.", application_id=application_id)
    return envelope(request, application_view(found))
