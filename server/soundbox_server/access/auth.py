"""Who may call what. A route names its roles; a route that names none is closed to everybody."""

from typing import Annotated

from fastapi import Depends, Request

from soundbox_server.access import service
from soundbox_server.access.service import Principal
from soundbox_server.errors import Forbidden, Unauthenticated

PLATFORM = frozenset({"platform_admin", "operator", "finance", "support"})
OPERATORS = frozenset({"platform_admin", "operator"})


def bearer(request: Request) -> str:
    """The bearer token of a request. Raises Unauthenticated."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send an access token: Authorization: Bearer <token>.")
    return token.strip()


def current_principal(request: Request) -> Principal:
    return service.read_access_token(bearer(request), key=request.app.state.token_key)


class AnyOf:
    """A dependency that lets these roles through."""

    def __init__(self, roles: frozenset[str]) -> None:
        self.roles = roles

    def __call__(self, principal: Annotated[Principal, Depends(current_principal)]) -> Principal:
        if principal.role not in self.roles:
            raise Forbidden("Your role may not do this.", role=principal.role)
        return principal


PlatformStaff = Annotated[Principal, Depends(AnyOf(PLATFORM))]
Operator = Annotated[Principal, Depends(AnyOf(OPERATORS))]
