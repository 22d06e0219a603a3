"""Operators' doors to organisations, people and API keys."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock, db
from soundbox_server.access import api_keys, people
from soundbox_server.access.auth import Acting, AskedOnce, scopes_of
from soundbox_server.access.models import ApiKey, Organisation, Person, TotpSecret
from soundbox_server.access.people import Change, Invitation
from soundbox_server.access.state import PersonState
from soundbox_server.answers import Time, TypedDict, among, answers, pages
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.fields import Body, Id, Moment
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.paging import Listing, Page, Rows, matching, page

router = APIRouter(prefix="/admin", tags=["operators"])

Kind = Literal["platform", "merchant", "partner", "bank"]
Role = Literal[
    "platform_admin", "operator", "finance", "support", "merchant_owner", "merchant_staff", "bank", "partner"
]
Language = Literal["id", "en"]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=people.VISIBLE, examples=["Siti Rahma"])]
Email = Annotated[
    str,
    Field(max_length=254, pattern=people.ADDRESS,
          examples=["siti@warung.test"]),
    AfterValidator(str.lower),
]  # fmt: skip
Scope = Annotated[str, Field(pattern="^[a-z:_-]{1,60}$")]
OrganisationId = Annotated[Id, Field(examples=["org_demo_merchant"])]


class NewOrganisation(Body):
    kind: Annotated[Kind, Field(examples=["merchant"])]
    name: Name


class NewPerson(Body):
    organisation_id: OrganisationId
    email: Email
    name: Name
    role: Annotated[Role, Field(examples=["merchant_owner"])]
    language: Language = "id"


class PersonChange(Body):
    name: Name | None = None
    language: Language | None = None
    role: Role | None = None
    disabled: bool | None = None


class NewApiKey(Body):
    organisation_id: OrganisationId
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9 ._-]{1,60}$", examples=["till software"])]
    role: Annotated[Role, Field(examples=["operator"])]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=50, examples=[["devices:read"]])]
    expires_at: Moment | None = None


class OrganisationView(TypedDict):
    id: str
    kind: str
    name: str
    created_at: Time


class PersonView(TypedDict):
    id: str
    organisation_id: str
    email: str
    name: str
    role: str
    status: Annotated[str, among(PersonState)]
    language: str
    totp: bool
    created_at: Time


class InvitedView(TypedDict):
    id: str
    invited: bool


class SecondFactorView(TypedDict):
    id: str
    totp: bool


class NewApiKeyView(TypedDict):
    id: str
    api_key: str
    name: str
    role: str
    scopes: list[str]


class ApiKeyView(TypedDict):
    id: str
    organisation_id: str
    name: str
    role: str
    scopes: list[str]
    created_by: str
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None


class RevokedView(TypedDict):
    id: str
    revoked: bool


def _people() -> Rows:
    everybody: Rows = select(Person, TotpSecret.confirmed_at_ms).outerjoin(
        TotpSecret, TotpSecret.person_id == Person.id
    )
    return everybody


def _person(person: Person, totp_since_ms: int | None) -> PersonView:
    return {
        "id": person.id,
        "organisation_id": person.organisation_id,
        "email": person.email,
        "name": person.name,
        "role": person.role,
        "status": person.state,
        "language": person.language,
        "totp": totp_since_ms is not None,
        "created_at": rfc3339(person.created_at_ms),
    }


def _organisation(row: Organisation) -> OrganisationView:
    return {"id": row.id, "kind": row.kind, "name": row.name, "created_at": rfc3339(row.created_at_ms)}


def _api_key(row: ApiKey) -> ApiKeyView:
    return {
        "id": row.id,
        "organisation_id": row.organisation_id,
        "name": row.name,
        "role": row.role,
        "scopes": row.scopes.split(),
        "created_by": row.created_by,
        "created_at": rfc3339(row.created_at_ms),
        "expires_at": rfc3339_or_none(row.expires_at_ms),
        "revoked_at": rfc3339_or_none(row.revoked_at_ms),
        "last_used_at": rfc3339_or_none(row.last_used_at_ms),
    }


class OrganisationFilters(Page):
    kind: Kind | None = None


class PersonFilters(Page):
    organisation_id: Id | None = None
    role: Role | None = None
    status: PersonState | None = None
    email: Annotated[str | None, Field(max_length=254, pattern=people.VISIBLE)] = None


class ApiKeyFilters(Page):
    organisation_id: Id | None = None


def _select_organisations(asked: OrganisationFilters) -> Rows:
    return matching(select(Organisation), (Organisation.kind, asked.kind))


def _select_people(asked: PersonFilters) -> Rows:
    return matching(
        _people(), (Person.organisation_id, asked.organisation_id), (Person.role, asked.role),
        (Person.state, asked.status), (Person.email, None if asked.email is None else asked.email.strip().lower()),
    )  # fmt: skip


def _select_api_keys(asked: ApiKeyFilters) -> Rows:
    return matching(select(ApiKey), (ApiKey.organisation_id, asked.organisation_id))


ORGANISATIONS = Listing(
    asked=OrganisationFilters, key=(Organisation.id,), select=_select_organisations, show=_organisation
)
PEOPLE = Listing(asked=PersonFilters, key=(Person.id,), select=_select_people, show=_person)
API_KEYS = Listing(asked=ApiKeyFilters, key=(ApiKey.id,), select=_select_api_keys, show=_api_key)


@router.post("/organisations", status_code=201, responses=answers(OrganisationView, status=201))
async def create_organisation(request: Request, asked: NewOrganisation, actor: Acting, once: AskedOnce) -> Response:
    now_ms = clock.now_ms()

    async def deed(tx: Statements) -> Response:
        made = await people.create_organisation(tx, kind=asked.kind, name=asked.name, actor=actor, now_ms=now_ms)
        data = {"id": made, "kind": asked.kind, "name": asked.name, "created_at": rfc3339(now_ms)}
        return envelope(request, data, status=201)

    answered: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: deed(tx)))
    return answered


@router.get("/organisations", responses=pages(OrganisationView))
async def list_organisations(
    request: Request, session: Reader, asked: Annotated[OrganisationFilters, Query()]
) -> Response:
    """Organisations, newest first."""
    return await page(request, session, ORGANISATIONS, asked)


@router.get("/organisations/{organisation_id}", responses=answers(OrganisationView))
async def get_organisation(request: Request, organisation_id: Id, session: Reader) -> Response:
    row = await session.get(Organisation, organisation_id)
    if row is None:
        raise NotFound("No such organisation.", organisation_id=organisation_id)
    return envelope(request, _organisation(row))


@router.post("/people", status_code=201, responses=answers(PersonView, status=201) | problems(NotFound, Conflict))
async def invite_person(
    request: Request, asked: NewPerson, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """Invite somebody: a mail brings a link that works once, for 24 hours, to choose a password."""
    new, tx, now_ms = Invitation(**asked.model_dump()), await db.statements(session), clock.now_ms()

    async def deed() -> Response:
        person_id = await people.invite(tx, new, desk=request.app.state.mail_desk, actor=actor, now_ms=now_ms)
        return envelope(request, await _found(session, person_id), status=201)

    return await once.answer(tx, deed)


@router.get("/people", responses=pages(PersonView))
async def list_people(request: Request, session: Reader, asked: Annotated[PersonFilters, Query()]) -> Response:
    """People, newest first."""
    return await page(request, session, PEOPLE, asked)


@router.get("/people/{person_id}", responses=answers(PersonView))
async def get_person(request: Request, person_id: Id) -> Response:
    return envelope(request, await _shown(request, person_id))


@router.patch("/people/{person_id}", responses=answers(PersonView) | problems(Conflict))
async def change_person(request: Request, person_id: Id, asked: PersonChange, actor: Acting) -> Response:
    """Change a name, a language or a role, disable or enable. Disabling ends sessions and keys at once."""
    change, now_ms = Change(**asked.model_dump()), clock.now_ms()
    await request.app.state.database.write(lambda tx: people.change(tx, person_id, change, actor=actor, now_ms=now_ms))
    return envelope(request, await _shown(request, person_id))


@router.post(
    "/people/{person_id}/invite", status_code=202, responses=answers(InvitedView, status=202) | problems(Conflict)
)
async def invite_again(request: Request, person_id: Id, actor: Acting) -> Response:
    """Another invitation mail; the link of the one before stops working."""
    state, now_ms = request.app.state, clock.now_ms()
    await state.database.write(
        lambda tx: people.invite_again(tx, person_id, desk=state.mail_desk, actor=actor, now_ms=now_ms)
    )
    return envelope(request, {"id": person_id, "invited": True}, status=202)


@router.delete("/people/{person_id}/totp", responses=answers(SecondFactorView) | problems(Conflict))
async def remove_persons_totp(request: Request, person_id: Id, actor: Acting) -> Response:
    """For somebody who lost device and recovery codes. Their sessions end."""
    now_ms = clock.now_ms()
    await request.app.state.database.write(lambda tx: people.remove_totp(tx, person_id, actor=actor, now_ms=now_ms))
    return envelope(request, {"id": person_id, "totp": False})


@router.post("/api-keys", status_code=201, responses=answers(NewApiKeyView, status=201) | problems(NotFound, Conflict))
async def create_api_key(request: Request, asked: NewApiKey, actor: Acting, once: AskedOnce) -> Response:
    """A key for a program of an organisation. It is shown this once. Two of a name may be active, to change over."""
    state, now_ms = request.app.state, clock.now_ms()
    new = api_keys.NewKey(
        organisation_id=asked.organisation_id,
        name=asked.name,
        role=asked.role,
        scopes=asked.scopes,
        expires_at_ms=asked.expires_at,
    )
    usable = scopes_of(state.policy, state.scopes, asked.role)
    told = {"name": asked.name, "role": asked.role, "scopes": sorted(set(asked.scopes))}

    async def deed(tx: Statements) -> Response:
        key_id, key = await api_keys.create(tx, new, usable=usable, actor=actor, now_ms=now_ms)
        return envelope(request, {"id": key_id, "api_key": key} | told, status=201)

    answered: Response = await state.database.write(lambda tx: once.answer(tx, lambda: deed(tx)))
    answered.headers["cache-control"] = "no-store"
    return answered


@router.get("/api-keys", responses=pages(ApiKeyView))
async def list_api_keys(request: Request, session: Reader, asked: Annotated[ApiKeyFilters, Query()]) -> Response:
    """API keys, newest first, revoked ones included. Never the keys themselves."""
    return await page(request, session, API_KEYS, asked)


@router.get("/api-keys/{api_key_id}", responses=answers(ApiKeyView))
async def get_api_key(request: Request, api_key_id: Id, session: Reader) -> Response:
    row = await session.get(ApiKey, api_key_id)
    if row is None:
        raise NotFound("No such API key.", api_key_id=api_key_id)
    return envelope(request, _api_key(row))


@router.delete("/api-keys/{api_key_id}", responses=answers(RevokedView))
async def revoke_api_key(request: Request, api_key_id: Id, actor: Acting) -> Response:
    """Revoke a key: it stops working at once, and stays in the list."""
    now_ms = clock.now_ms()
    await request.app.state.database.write(lambda tx: api_keys.revoke(tx, api_key_id, actor=actor, now_ms=now_ms))
    return envelope(request, {"id": api_key_id, "revoked": True})


async def _shown(request: Request, person_id: str) -> PersonView:
    async with db.reading(request.app.state.database) as session:
        return await _found(session, person_id)


async def _found(session: AsyncSession, person_id: str) -> PersonView:
    row = (await session.execute(_people().where(Person.id == person_id))).one_or_none()
    if row is None:
        raise NotFound("No such person.", person_id=person_id)
    return _person(*row)
