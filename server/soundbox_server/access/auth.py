"""Who may call what. `authorise` stands before every route: what the policy does not open is closed."""

import ipaddress
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request

from soundbox_server import clock, db
from soundbox_server.access import service
from soundbox_server.access.api_keys import USED_EVERY_MS, note_use
from soundbox_server.access.service import KEY_PREFIX, Principal
from soundbox_server.access.state import NEEDS_TOTP
from soundbox_server.audit.service import Actor
from soundbox_server.errors import Forbidden, MfaRequired, Unauthenticated
from soundbox_server.http import request_id
from soundbox_server.idempotency import HEADER, KEY, Once, once


class Door(Enum):
    """How a route proves its caller when it is not by a person's role."""

    PUBLIC = "public"  # nobody in particular
    DEVICE = "device"  # a box by its own token: `devices.auth` looks at it
    SIGNED = "signed"  # a partner by a signature over the body


PUBLIC: Final = Door.PUBLIC
DEVICE: Final = Door.DEVICE
SIGNED: Final = Door.SIGNED

Route = tuple[str, str]  # method, path with its parameters' names
Access = Door | frozenset[str]
Policy = Mapping[Route, Access]
Scopes = Mapping[str, frozenset[Route]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def bearer(request: Request) -> str:
    """The bearer token of a request. Raises Unauthenticated."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Send an access token: Authorization: Bearer <token>.")
    return token.strip()


async def authorise(request: Request) -> None:
    """Before every route: looks the route up in `app.state.policy`, and who calls in the database.

    A session that ended, a person who was disabled and a key that was revoked are refused from that commit on.
    """
    route = (request.method, request.scope["route"].path_format)
    allowed = request.app.state.policy.get(route)
    if isinstance(allowed, Door):
        return
    principal = await _who(request)
    if allowed is None or principal.role not in allowed:
        raise Forbidden("Your role may not do this.", role=principal.role)
    if principal.api_key_id is not None and not _in_scope(request.app.state.scopes, principal, route):
        raise Forbidden("This key's scopes do not hold this.", scopes=sorted(principal.scopes))
    if _must_enrol(request.app.state, principal) and route not in request.app.state.open_without_totp:
        raise MfaRequired("Set up a second factor first.", enrol=True)
    request.state.principal = principal


async def _who(request: Request) -> Principal:
    key = request.headers.get("x-api-key") or bearer(request)
    if request.headers.get("x-api-key") or key.startswith(KEY_PREFIX):
        return await _who_by_key(request, key)
    session_id = service.session_of_token(key, keys=request.app.state.token_keys)
    async with db.reading(request.app.state.database) as session:
        principal = await service.principal_of_session(session, session_id, now_ms=clock.now_ms())
    if principal is None:
        raise Unauthenticated("This session has ended. Log in again.")
    return principal


async def _who_by_key(request: Request, key: str) -> Principal:
    now_ms, database = clock.now_ms(), request.app.state.database
    async with db.reading(database) as session:
        known = await service.principal_of_key(session, key, now_ms=now_ms)
    if known is None:
        raise Unauthenticated("The API key is not valid.")
    if now_ms - (known.last_used_at_ms or 0) >= USED_EVERY_MS:
        key_id = str(known.principal.api_key_id)
        await database.write(lambda tx: note_use(tx, key_id, now_ms=now_ms))
    return known.principal


def _in_scope(scopes: Scopes, principal: Principal, route: Route) -> bool:
    return any(route in scopes.get(name, ()) for name in principal.scopes)


def _must_enrol(state: Any, principal: Principal) -> bool:
    return must_enrol(role=principal.role, has_totp=principal.has_totp, required=state.require_totp) and (
        principal.api_key_id is None
    )


def must_enrol(*, role: str, has_totp: bool, required: bool) -> bool:
    """Whether somebody of this role may do nothing but set up a second factor."""
    return required and role in NEEDS_TOTP and not has_totp


def scopes_of(policy: Policy, scopes: Scopes, role: str) -> set[str]:
    """The scopes that open at least one route to this role."""
    return {name for name, routes in scopes.items() if any(_opens(policy, route, role) for route in routes)}


def _opens(policy: Policy, route: Route, role: str) -> bool:
    allowed = policy.get(route)
    return isinstance(allowed, frozenset) and role in allowed


def _caller(request: Request) -> Principal:
    """Whom `authorise` let in. A route that is open to all has no caller: asking for one there is a mistake."""
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return principal


def _actor(request: Request, principal: Annotated[Principal, Depends(_caller)]) -> Actor:
    return Actor(
        kind="person" if principal.api_key_id is None else "api_key",
        id=_name(principal),
        organisation_id=principal.organisation_id,
        role=principal.role,
        ip=client_ip(request),
        request_id=request_id(request),
    )


def _name(principal: Principal) -> str:
    return str(principal.person_id if principal.api_key_id is None else principal.api_key_id)


def client_ip(request: Request) -> str | None:
    """The caller's address. Behind proxies that the settings name it is the last one they did not add themselves."""
    peer = request.client.host if request.client else None
    trusted: Collection[Network] = request.app.state.trusted_proxies
    hops = [hop.strip() for line in request.headers.getlist("x-forwarded-for") for hop in line.split(",")]
    while hops and _is_among(peer, trusted) and (before := _address(hops.pop())) is not None:
        peer = str(before)
    return peer


def _is_among(peer: str | None, networks: Collection[Network]) -> bool:
    address = _address(peer or "")
    return address is not None and any(address in network for network in networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:  # what a header says need not be an address
        return None


async def _once(
    request: Request,
    principal: Annotated[Principal, Depends(_caller)],
    idempotency_key: Annotated[
        str | None, Header(alias=HEADER, pattern=KEY, description="asked again: answered, not done again")
    ] = None,
) -> Once:
    return once(
        idempotency_key,
        principal=_name(principal),
        method=request.method,
        path=request.url.path,
        body=await request.body(),
    )


AskedOnce = Annotated[Once, Depends(_once)]
Caller = Annotated[Principal, Depends(_caller)]
Acting = Annotated[Actor, Depends(_actor)]
