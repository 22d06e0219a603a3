"""Who may call what. `authorise` stands before every route: what the policy does not open is closed."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Final

from fastapi import Depends, Header, Request

from soundbox_server.access import service
from soundbox_server.access.service import Principal
from soundbox_server.audit.service import Actor
from soundbox_server.errors import Forbidden, Unauthenticated
from soundbox_server.http import request_id
from soundbox_server.idempotency import HEADER, Once, once


class Door(Enum):
    """How a route proves its caller when it is not by a person's role."""

    PUBLIC = "public"  # nobody in particular
    DEVICE = "device"  # a box by its own token: `devices.auth` looks at it
    SIGNED = "signed"  # a partner by a signature over the body


PUBLIC: Final = Door.PUBLIC
DEVICE: Final = Door.DEVICE
SIGNED: Final = Door.SIGNED

Access = Door | frozenset[str]
Policy = Mapping[tuple[str, str], Access]


def bearer(request: Request) -> str:
    """The bearer token of a request. Raises Unauthenticated."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send an access token: Authorization: Bearer <token>.")
    return token.strip()


async def authorise(request: Request) -> None:
    """Before every route: looks the route up in `app.state.policy`, and who calls in its token."""
    allowed = request.app.state.policy.get((request.method, request.scope["route"].path))
    if isinstance(allowed, Door):
        return
    principal = service.read_access_token(bearer(request), key=request.app.state.token_key)
    if allowed is None or principal.role not in allowed:
        raise Forbidden("Your role may not do this.", role=principal.role)
    request.state.principal = principal


def _caller(request: Request) -> Principal:
    """Whom `authorise` let in. A route that is open to all has no caller: asking for one there is a mistake."""
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return principal


def _actor(request: Request, principal: Annotated[Principal, Depends(_caller)]) -> Actor:
    return Actor(
        kind="person",
        id=principal.person_id,
        organisation_id=principal.organisation_id,
        role=principal.role,
        ip=client_ip(request),
        request_id=request_id(request),
    )


def client_ip(request: Request) -> str | None:
    return request.client.host if request.client else None


async def _once(
    request: Request,
    principal: Annotated[Principal, Depends(_caller)],
    idempotency_key: Annotated[
        str | None, Header(alias=HEADER, description="asked again: answered, not done again")
    ] = None,
) -> Once:
    return once(
        idempotency_key,
        principal=principal.person_id,
        method=request.method,
        path=request.url.path,
        body=await request.body(),
    )


AskedOnce = Annotated[Once, Depends(_once)]
Caller = Annotated[Principal, Depends(_caller)]
Acting = Annotated[Actor, Depends(_actor)]
