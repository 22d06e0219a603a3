"""The table of role × route, walked."""

import time
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from support.hub import Hub, open_hub

from soundbox_server.access.auth import DEVICE, PUBLIC, SIGNED
from soundbox_server.access.service import Principal, access_token
from soundbox_server.policy import POLICY

ROLES = (
    "platform_admin", "operator", "finance", "support", "merchant_owner", "merchant_staff", "bank", "partner"
)  # fmt: skip
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def served(hub: Hub) -> set[tuple[str, str]]:
    paths = hub.app.openapi()["paths"]
    lean = {(method, route.path) for route in hub.app.routes for method in getattr(route, "methods", None) or ()
            if route.path.startswith(("/device/", "/integrations/"))}  # fmt: skip
    return lean | {(method.upper(), path) for path, methods in paths.items() for method in methods}


def token(hub: Hub, role: str) -> dict[str, str]:
    someone = Principal(person_id="per_walker", organisation_id="org_walker", role=role)
    made = access_token(someone, key=hub.app.state.token_key, now_s=int(time.time()), life_s=600)
    return {"authorization": f"Bearer {made}"}


async def call(hub: Hub, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    filled = path.replace("{device_id}", "sbx_nowhere").replace("{transaction_id}", "txn_nowhere")
    filled = filled.replace("{command_id}", "cmd_nowhere")
    assert "{" not in filled, f"say what stands for the parameters of {path}"
    return await hub.http.request(method, filled, headers=headers)


async def test_the_table_and_what_is_served_are_the_same(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        assert served(hub) == set(POLICY)


async def test_every_role_gets_in_where_the_table_says_and_nowhere_else(database_url: str, tmp_path: Path) -> None:
    asked = 0
    async with open_hub(database_url, tmp_path) as hub:
        for (method, path), allowed in POLICY.items():
            for role in ROLES:
                answered = await call(hub, method, path, token(hub, role))
                asked += 1

                if allowed in (PUBLIC, SIGNED):
                    assert answered.status_code != 403, (method, path, role)
                elif allowed is DEVICE:
                    assert answered.status_code in (400, 401), (method, path, role)
                else:
                    assert isinstance(allowed, frozenset)
                    assert (answered.status_code == 403) == (role not in allowed), (method, path, role)
    assert asked == len(POLICY) * len(ROLES)


async def test_without_a_token_only_public_doors_open(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        for (method, path), allowed in POLICY.items():
            answered = await call(hub, method, path, {})

            if allowed is not PUBLIC:
                assert answered.status_code in (400, 401), (method, path)


async def test_a_route_nobody_entered_in_the_table_is_closed(database_url: str, tmp_path: Path) -> None:
    router = APIRouter()

    @router.get("/admin/forgotten")
    async def forgotten() -> str:
        return "secret"

    async with open_hub(database_url, tmp_path) as hub:
        hub.app.include_router(router)

        answered = await hub.http.get("/admin/forgotten", headers=token(hub, "platform_admin"))
        assert answered.status_code == 403
        assert (await hub.http.get("/admin/forgotten")).status_code == 401
