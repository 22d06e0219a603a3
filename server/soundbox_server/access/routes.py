"""Logging in."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from soundbox_server import clock, db
from soundbox_server.access import service
from soundbox_server.errors import Unauthenticated
from soundbox_server.http import envelope

PLATFORM_ROLES = frozenset({"platform_admin", "operator", "finance", "support"})
router = APIRouter(tags=["operators"])


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: str = Field(max_length=254, examples=["operator@demo.test"])
    password: str = Field(max_length=256, examples=["correct horse battery staple"])


@router.post("/admin/login")
async def admin_login(request: Request, login: Login) -> Response:
    """An access token for platform staff. Unknown people and wrong passwords get the same answer in the same time."""
    async with db.reading(request.app.state.database) as session:  # closed before hashing: that takes long
        found = await service.find_person(session, login.email)
    person = found[0] if found else None
    loop = asyncio.get_running_loop()
    hashed = person.password_hash if person else None
    fits = await loop.run_in_executor(service.hashing, service.check_password, login.password, hashed)
    if not fits or person is None or person.role not in PLATFORM_ROLES:
        raise Unauthenticated("E-mail address or password is wrong.")
    principal = service.Principal(person_id=person.id, organisation_id=person.organisation_id, role=person.role)
    life_s = request.app.state.settings.access_token_minutes * 60
    token = service.access_token(
        principal, key=request.app.state.token_key, now_s=clock.now_ms() // 1000, life_s=life_s
    )
    return envelope(
        request,
        {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": life_s,
            "user": {"id": person.id, "email": person.email, "name": person.name, "role": person.role},
        },
    )
