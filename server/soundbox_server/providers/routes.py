"""What operators decide of providers: whose accounts are used, and who is asked for what. Secrets never come out."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field, StringConstraints
from sqlalchemy import select

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339
from soundbox_server.errors import Conflict, CredentialsRefused, NotFound
from soundbox_server.fields import Body, Id
from soundbox_server.http import Reader, envelope, problems
from soundbox_server.paging import Listing, Page, Rows, page
from soundbox_server.providers import service
from soundbox_server.providers.base import Method
from soundbox_server.providers.models import ProviderCredential, ProviderRoute
from soundbox_server.providers.profiles import Profile, Values, account_name, provider_of
from soundbox_server.providers.registry import Gateways
from soundbox_server.providers.service import Route

router = APIRouter(tags=["operators"])

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,40}$", examples=["xendit"])]
_Secret = Annotated[str | None, StringConstraints(min_length=1, max_length=8_192)]
MethodName = Literal[
    "qris_dynamic", "gopay", "ovo", "dana", "shopeepay", "linkaja", "va_bca", "va_bni", "va_bri", "va_mandiri",
    "card_hosted",
]  # fmt: skip


EXAMPLE = {"secret_key": "xnd_production_0zR4u1Yq", "webhook_token": "tW2kVbN8"}


class Credentials(Body):
    """What proves us to a provider; which of them it needs, `GET /admin/providers` tells. Keys as PEM or base64."""

    secret_key: _Secret = None
    webhook_token: _Secret = Field(None, description="two, separated by a comma, while one is exchanged")
    server_key: _Secret = None
    merchant_id: _Secret = None
    private_key: _Secret = None
    public_key: _Secret = None
    partner_id: _Secret = None
    client_key: _Secret = None
    partner_public_key: _Secret = None
    client_secret: _Secret = None
    notify_secret: _Secret = None
    notify_client_key: _Secret = None
    terminal_id: _Secret = None
    channel_id: _Secret = None

    def values(self) -> Values:
        return {name: str(value) for name, value in self if value is not None}


class NewCredential(Body):
    merchant_id: Id | None = Field(None, description="the merchant whose own account this is; else the platform's")
    credentials: Credentials = Field(examples=[EXAMPLE])


class Rotated(Body):
    credentials: Credentials = Field(examples=[EXAMPLE])


class WantedRoute(Body):
    method: Annotated[MethodName, Field(examples=["va_bca"])]
    primary: Name
    fallback: Name | None = Field(None, description="asked when the primary definitely did not charge")
    merchant_id: Id | None = Field(None, description="for this merchant alone")


class ProviderAccountView(TypedDict):
    account: str
    circuit: str | None
    methods: list[str]
    minimum_amount: int


class ProviderView(TypedDict):
    provider: str
    kind: str
    base_url: str
    needs: list[str]
    may_have: list[str]
    configured_by_settings: bool
    accounts: list[ProviderAccountView]


@router.get("/admin/providers", responses=answers(list[ProviderView]))
async def list_providers(request: Request) -> Response:
    """Every provider that this installation can reach, and its accounts as this process uses them."""
    gateways: Gateways = request.app.state.gateways
    circuits = await gateways.circuits()
    return envelope(request, [_provider(profile, gateways, circuits) for profile in gateways.profiles.values()])


def _provider(profile: Profile, gateways: Gateways, circuits: dict[str, str]) -> ProviderView:
    accounts: list[ProviderAccountView] = [
        {
            "account": name,
            "circuit": circuits.get(name),
            "methods": sorted(method.value for method in gateway.capabilities.methods),
            "minimum_amount": gateway.capabilities.minimum_idr,
        }
        for name, gateway in gateways.accounts.items()
        if provider_of(name) == profile.name
    ]
    return {
        "provider": profile.name,
        "kind": profile.kind,
        "base_url": profile.base_url,
        "needs": list(profile.needs),
        "may_have": list(profile.may),
        "configured_by_settings": profile.configured,
        "accounts": accounts,
    }


# --- credentials --------------------------------------------------------------------------------------------------


class CredentialView(TypedDict):
    id: str
    provider: str
    account: str
    merchant_id: str | None
    names: list[str]
    version: int
    created_at: Time
    changed_at: Time
    changed_by: str


@router.post(
    "/admin/providers/{provider}/credentials", status_code=201,
    responses=answers(CredentialView, status=201) | problems(NotFound, Conflict, CredentialsRefused),
)  # fmt: skip
async def set_credential(
    request: Request, provider: Name, wanted: NewCredential, actor: Acting, once: AskedOnce
) -> Response:
    """Let a provider be used with these, for the platform or for one merchant. They are sealed, and never shown."""
    profile = _profile(request, provider)
    await _prove(profile, values := wanted.credentials.values())

    async def store() -> Response:
        credential_id = await service.set_credential(
            tx, profile, values, merchant_id=wanted.merchant_id, ring=request.app.state.sealing_ring,
            changed_by=str(actor.id), now_ms=clock.now_ms(),
        )  # fmt: skip
        details = {"provider": provider, "merchant_id": wanted.merchant_id, "names": sorted(values)}
        await record(tx, actor, "provider.credential_set", ("provider_credential", credential_id), details=details)
        stored = await session.get_one(ProviderCredential, credential_id)
        return envelope(request, _credential(stored), status=201)

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, store)
    await _take_up(request)
    return response


class CredentialFilters(Page):
    provider: Name | None = None
    merchant_id: Id | None = None


def _select_credentials(asked: CredentialFilters) -> Rows:
    query = select(ProviderCredential)
    if asked.provider is not None:
        query = query.where(ProviderCredential.provider == asked.provider)
    if asked.merchant_id is not None:
        query = query.where(ProviderCredential.merchant_id == asked.merchant_id)
    return query


def _credential(stored: ProviderCredential) -> CredentialView:
    return {
        "id": stored.id,
        "provider": stored.provider,
        "account": stored.account,
        "merchant_id": stored.merchant_id,
        "names": stored.names.split(","),
        "version": stored.version,
        "created_at": rfc3339(stored.created_at_ms),
        "changed_at": rfc3339(stored.changed_at_ms),
        "changed_by": stored.changed_by,
    }


CREDENTIALS = Listing(
    asked=CredentialFilters, key=(ProviderCredential.id,), select=_select_credentials, show=_credential
)


@router.get("/admin/providers/credentials", responses=pages(CredentialView))
async def list_credentials(request: Request, session: Reader, asked: Annotated[CredentialFilters, Query()]) -> Response:
    """Which accounts have credentials in the database, newest first: their names, and nothing of what they are."""
    return await page(request, session, CREDENTIALS, asked)


@router.post(
    "/admin/providers/credentials/{credential_id}/rotate",
    responses=answers(CredentialView) | problems(NotFound, CredentialsRefused),
)  # fmt: skip
async def rotate_credential(
    request: Request, credential_id: Id, wanted: Rotated, actor: Acting, once: AskedOnce
) -> Response:
    """Put others in their place, at once for all processes within seconds."""
    values = wanted.credentials.values()
    async with db.reading(request.app.state.database) as looking:
        known = await looking.get(ProviderCredential, credential_id)
    if known is None:
        raise NotFound("No such credential.", credential_id=credential_id)
    profile = _profile(request, known.provider)
    await _prove(profile, values)

    async def rotate() -> Response:
        await service.find_credential(tx, credential_id)
        await service.rotate_credential(
            tx, profile, credential_id, values, ring=request.app.state.sealing_ring, changed_by=str(actor.id),
            now_ms=clock.now_ms(),
        )  # fmt: skip
        details = {"account": known.account, "names": sorted(values)}
        await record(tx, actor, "provider.credential_rotated", ("provider_credential", credential_id), details=details)
        return envelope(request, _credential(await session.get_one(ProviderCredential, credential_id)))

    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        response = await once.answer(tx, rotate)
    await _take_up(request)
    return response


@router.delete("/admin/providers/credentials/{credential_id}", status_code=204, responses=problems(NotFound))
async def remove_credential(request: Request, credential_id: Id, actor: Acting) -> Response:
    """Use this account no more. What was charged through it can then neither be asked about nor be reported."""
    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        found = await service.find_credential(tx, credential_id)
        await service.remove_credential(tx, credential_id)
        details = {"account": found["account"]}
        await record(tx, actor, "provider.credential_removed", ("provider_credential", credential_id), details=details)
    await _take_up(request)
    return Response(status_code=204)


# --- routes -------------------------------------------------------------------------------------------------------


class RouteFilters(Page):
    merchant_id: Id | None = None
    method: Method | None = None


def _select_routes(asked: RouteFilters) -> Rows:
    query = select(ProviderRoute)
    if asked.merchant_id is not None:
        query = query.where(ProviderRoute.merchant_id == asked.merchant_id)
    if asked.method is not None:
        query = query.where(ProviderRoute.method == asked.method.value)
    return query


class RouteView(TypedDict):
    id: str
    merchant_id: str | None
    method: Annotated[str, among(Method)]
    primary: str
    fallback: str | None
    changed_at: Time
    changed_by: str


def _route(stored: ProviderRoute) -> RouteView:
    return {
        "id": stored.id,
        "merchant_id": stored.merchant_id,
        "method": stored.method,
        "primary": stored.primary_provider,
        "fallback": stored.fallback_provider,
        "changed_at": rfc3339(stored.changed_at_ms),
        "changed_by": stored.changed_by,
    }


ROUTES = Listing(asked=RouteFilters, key=(ProviderRoute.id,), select=_select_routes, show=_route)


@router.get("/admin/providers/routes", responses=pages(RouteView))
async def list_routes(request: Request, session: Reader, asked: Annotated[RouteFilters, Query()]) -> Response:
    """Who is asked for what, where settings do not decide it: newest first."""
    return await page(request, session, ROUTES, asked)


@router.put("/admin/providers/routes", responses=answers(RouteView) | problems(NotFound, Conflict))
async def set_route(request: Request, wanted: WantedRoute, actor: Acting) -> Response:
    """Who charges by this method, for everybody or for one merchant, and who when that one definitely did not."""
    if wanted.fallback == wanted.primary:
        raise Conflict("The fallback is another provider than the primary.", field="fallback")
    for name in (wanted.primary, wanted.fallback):
        if name is not None:
            _profile(request, name)
    route = Route(primary=wanted.primary, fallback=wanted.fallback)
    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        route_id = await service.set_route(
            tx, Method(wanted.method), route, merchant_id=wanted.merchant_id, changed_by=str(actor.id),
            now_ms=clock.now_ms(),
        )  # fmt: skip
        await record(tx, actor, "provider.route_set", ("provider_route", route_id), details=wanted.model_dump())
        stored = await session.get_one(ProviderRoute, route_id)
    await _take_up(request)
    return envelope(request, _route(stored))


@router.delete("/admin/providers/routes/{route_id}", status_code=204, responses=problems(NotFound))
async def remove_route(request: Request, route_id: Id, actor: Acting) -> Response:
    """Let the platform's route, or settings, decide again."""
    async with db.transaction(request.app.state.database) as session:
        tx = await db.statements(session)
        await service.remove_route(tx, route_id)
        await record(tx, actor, "provider.route_removed", ("provider_route", route_id))
    await _take_up(request)
    return Response(status_code=204)


def _profile(request: Request, provider: str) -> Profile:
    gateways: Gateways = request.app.state.gateways
    if provider not in gateways.profiles:
        raise NotFound("No such provider.", provider=provider)
    return gateways.profiles[provider]


async def _prove(profile: Profile, values: Values) -> None:
    """Raise CredentialsRefused unless a gateway can be made of these. Nobody is asked anything."""
    profile.checked(values)
    if not profile.needs:
        raise CredentialsRefused("This provider has no credentials.", provider=profile.name)
    try:
        gateway = await asyncio.to_thread(profile.make, account_name(profile.name, None), values)
    except ValueError as wrong:  # which never quotes a secret
        raise CredentialsRefused(str(wrong), provider=profile.name) from None
    await gateway.aclose()


async def _take_up(request: Request) -> None:
    """Use what was changed right away; other processes look every few seconds."""
    gateways: Gateways = request.app.state.gateways
    await gateways.refresh(request.app.state.database, request.app.state.sealing_ring)
