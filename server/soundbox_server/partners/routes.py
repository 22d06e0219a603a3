"""Staff's doors to license keys: made, handed out, changed, revoked, and given tokens."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import String, func, literal, select

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import Time, TypedDict, among, answers, pages
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.fields import Body, Id, Moment, Name, Reason, Text, unchanged
from soundbox_server.http import Reader, envelope, problems
from soundbox_server.ledger.models import Posting
from soundbox_server.paging import Listing, Page, Rows, matching, page
from soundbox_server.partners import licenses, models, tokens
from soundbox_server.partners.licenses import License, NewLicense
from soundbox_server.partners.state import LicenseState

router = APIRouter(prefix="/admin/license-keys", tags=["operators"])

Price = Annotated[int, Field(ge=1, le=1_000_000, examples=[100], description="whole rupiah for one token")]


class NewLicenseKey(Body):
    """Without an organisation it waits for whoever is told the key; without a merchant it charges for nobody yet."""

    price_per_token: Price
    organisation_id: Id | None = None
    merchant_id: Id | None = None
    terminal_id: Id | None = None
    trial_expires_at: Annotated[Moment | None, Field(description="a trial until then")] = None
    expires_at: Moment | None = None
    device_name: Name | None = None
    device_serial_number: Name | None = None
    device_model: Name | None = None
    device_notes: Text | None = None


class LicenseChanges(Body):
    """Only what is named is changed."""

    price_per_token: Price = Field(default_factory=unchanged)
    status: Literal["active", "trial", "inactive"] = Field(default_factory=unchanged)
    trial_expires_at: Moment | None = None
    expires_at: Moment | None = None
    device_name: Name | None = None
    device_serial_number: Name | None = None
    device_model: Name | None = None
    device_notes: Text | None = None


class Assignment(Body):
    """Whose a license is, and for whom it charges."""

    organisation_id: Annotated[Id, Field(examples=["org_demo_partner"])]
    merchant_id: Annotated[Id | None, Field(examples=["mer_demo"])] = None
    terminal_id: Id | None = None


class Grant(Body):
    tokens: Annotated[int, Field(ge=1, le=10_000_000, examples=[100])]
    reason: Reason


class LicenseView(TypedDict):
    id: str
    key: str
    organisation_id: str | None
    assigned_to: str | None
    merchant_id: str | None
    terminal_id: str | None
    price_per_token: int
    token_balance: int
    status: Annotated[str, among(LicenseState)]
    trial_expires_at: Time | None
    expires_at: Time | None
    device_name: str | None
    device_serial_number: str | None
    device_model: str | None
    device_notes: str | None
    created_at: Time
    updated_at: Time | None


def _view(license: License) -> LicenseView:
    return {
        "id": license.id,
        "key": license.key,
        "organisation_id": license.organisation_id,
        "assigned_to": license.assigned_to,
        "merchant_id": license.merchant_id,
        "terminal_id": license.terminal_id,
        "price_per_token": license.price_per_token,
        "token_balance": license.balance,
        "status": license.state.value,
        "trial_expires_at": rfc3339_or_none(license.trial_expires_at_ms),
        "expires_at": rfc3339_or_none(license.expires_at_ms),
        "device_name": license.device_name,
        "device_serial_number": license.device_serial_number,
        "device_model": license.device_model,
        "device_notes": license.device_notes,
        "created_at": rfc3339(license.created_at_ms),
        "updated_at": rfc3339_or_none(license.updated_at_ms),
    }


class LicenseFilters(Page):
    organisation_id: Id | None = None
    merchant_id: Id | None = None
    status: LicenseState | None = None


_issued = (
    select(func.coalesce(func.sum(Posting.amount), 0))
    .where(Posting.unit == "TOKEN", Posting.source == "token_issue")
    .where(Posting.destination == literal("license:", String) + models.License.id)
    .correlate(models.License)
    .scalar_subquery()
)


def _select(asked: LicenseFilters) -> Rows:
    return matching(
        select(models.License, _issued), (models.License.organisation_id, asked.organisation_id),
        (models.License.merchant_id, asked.merchant_id), (models.License.state, asked.status),
    )  # fmt: skip


def _listed(row: models.License, issued: int) -> LicenseView:
    facts = {column.name: getattr(row, column.name) for column in models.License.__table__.columns}
    return _view(licenses.license_of(facts | {"balance": int(issued) - row.tokens_taken}))


LICENSES = Listing(asked=LicenseFilters, key=(models.License.id,), select=_select, show=_listed)


@router.post("", status_code=201, responses=answers(LicenseView, status=201) | problems(NotFound, Conflict))
async def create_license(request: Request, asked: NewLicenseKey, actor: Acting, once: AskedOnce) -> Response:
    """A license with a fresh key, given to a partner at once or not. It has no tokens yet."""
    now_ms = clock.now_ms()
    new = NewLicense(
        price_per_token=asked.price_per_token,
        merchant_id=asked.merchant_id,
        terminal_id=asked.terminal_id,
        organisation_id=asked.organisation_id,
        trial_expires_at_ms=asked.trial_expires_at,
        expires_at_ms=asked.expires_at,
        facts={name: getattr(asked, name) for name in licenses.DEVICE_FACTS},
    )

    async def deed(tx: Statements) -> Response:
        return envelope(request, _view(await licenses.create(tx, new, actor=actor, now_ms=now_ms)), status=201)

    answered: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: deed(tx)))
    return answered


@router.get("", responses=pages(LicenseView))
async def list_licenses(request: Request, session: Reader, asked: Annotated[LicenseFilters, Query()]) -> Response:
    """License keys, newest first, revoked ones included."""
    return await page(request, session, LICENSES, asked)


@router.get("/{license_id}", responses=answers(LicenseView))
async def get_license(request: Request, license_id: Id) -> Response:
    return envelope(request, _view(await request.app.state.database.read(lambda tx: licenses.get(tx, license_id))))


_COLUMN = {"status": "state", "trial_expires_at": "trial_expires_at_ms", "expires_at": "expires_at_ms"}


@router.patch("/{license_id}", responses=answers(LicenseView) | problems(Conflict))
async def change_license(request: Request, license_id: Id, asked: LicenseChanges, actor: Acting) -> Response:
    """Its price from now on, whether it is in use, until when, and the device it is meant for."""
    named = asked.model_dump(exclude_unset=True)
    changes: dict[str, Any] = {_COLUMN.get(name, name): value for name, value in named.items()}
    now_ms = clock.now_ms()
    changed = await request.app.state.database.write(
        lambda tx: licenses.change(tx, license_id, changes, actor=actor, now_ms=now_ms)
    )
    return envelope(request, _view(changed))


@router.post("/{license_id}/assign", responses=answers(LicenseView) | problems(Conflict))
async def assign_license(
    request: Request, license_id: Id, asked: Assignment, actor: Acting, once: AskedOnce
) -> Response:
    """Give it to a partner, and say for which merchant, perhaps at which till, it charges. Its tokens go with it."""
    now_ms = clock.now_ms()

    async def deed(tx: Statements) -> Response:
        assigned = await licenses.assign(tx, license_id, **asked.model_dump(), actor=actor, now_ms=now_ms)
        return envelope(request, _view(assigned))

    answered: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: deed(tx)))
    return answered


@router.post("/{license_id}/revoke", responses=answers(LicenseView))
async def revoke_license(request: Request, license_id: Id, actor: Acting) -> Response:
    """It opens nothing any more, for good. What is left on it stays in the books."""
    now_ms = clock.now_ms()
    revoked = await request.app.state.database.write(
        lambda tx: licenses.revoke(tx, license_id, actor=actor, now_ms=now_ms)
    )
    return envelope(request, _view(revoked))


@router.post("/{license_id}/tokens", responses=answers(LicenseView))
async def add_tokens(request: Request, license_id: Id, asked: Grant, actor: Acting, once: AskedOnce) -> Response:
    """Give tokens without a payment: with a contract, or for trouble. The reason stays in the audit log."""
    now_ms = clock.now_ms()

    async def deed(tx: Statements) -> Response:
        given = await tokens.add(tx, license_id, asked.tokens, reason=asked.reason, actor=actor, now_ms=now_ms)
        return envelope(request, _view(given))

    answered: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: deed(tx)))
    return answered
