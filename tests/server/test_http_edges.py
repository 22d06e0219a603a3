"""What every caller sees at the edges of the HTTP surface: errors, ids, limits, and who gets in."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route
from support.hub import CHEAP_ARGON2, app_for, people_of_every_role

from soundbox_server import clock, seal, seed
from soundbox_server.access.auth import PUBLIC, SIGNED
from soundbox_server.access.service import Principal, access_token
from soundbox_server.db import Database
from soundbox_server.policy import POLICY
from soundbox_server.settings import Settings

# Pages and documents for whoever comes, which are no part of the API and so not in the table.
OPEN = {
    "/docs", "/api-docs", "/docs/start.js", "/docs/swagger-ui/{name}", "/openapi.json", "/static/{name}",
    "/pay/{session_id}", "/pay/{session_id}/events", "/pay/{session_id}/check", "/pay/{session_id}/qr.svg",
    "/pay/{session_id}/choose", "/console/set-password", "/portal/set-password", "/bank/set-password",
}  # fmt: skip


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", database_url=database_url, broker_port=1, **CHEAP_ARGON2)


@pytest.fixture
async def app(settings: Settings, database: Database) -> AsyncIterator[FastAPI]:
    await seed.plant(database, settings, now_ms=clock.now_ms())
    await people_of_every_role(database, hashed="nobody logs in with this")
    with app_for(settings) as app:
        async with app.router.lifespan_context(app):
            yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://hub", timeout=30) as client:
        yield client


def _bearer(settings: Settings, role: str, *, now_s: int | None = None) -> dict[str, str]:
    principal = Principal(
        person_id=f"per_test_{role}", organisation_id="org_x", role=role, session_id=f"ses_test_{role}"
    )
    key = seal.token_signing_key(settings.master)
    issued = clock.now_ms() // 1000 if now_s is None else now_s
    return {"authorization": f"Bearer {access_token(principal, key=key, now_s=issued, life_s=600)}"}


def _is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    body = answer.json()
    wanted = {"type", "title", "status", "detail", "instance", "code", "message", "details", "request_id", "timestamp"}
    return (
        answer.headers["content-type"] == "application/problem+json"
        and wanted <= body.keys()
        and (answer.status_code, body["status"], body["code"]) == (status, status, code)
        and body["request_id"] == answer.headers["x-request-id"]
    )


async def test_every_error_is_the_same_kind_of_answer(client: httpx.AsyncClient, settings: Settings) -> None:
    staff = _bearer(settings, "support")

    assert _is_problem(await client.get("/nowhere"), 404, "NOT_FOUND")
    assert _is_problem(await client.get("/admin/login"), 405, "METHOD_NOT_ALLOWED")
    papers = await client.put("/admin/merchants/mer_x/documents/file")
    assert (papers.status_code, papers.headers["allow"]) == (405, "POST")
    assert _is_problem(await client.post("/admin/login", json={"email": 5}), 400, "VALIDATION_FAILED")
    assert _is_problem(await client.post("/admin/login", content=b"{"), 400, "VALIDATION_FAILED")
    assert _is_problem(await client.post("/admin/login", content=b"x" * 70_000), 413, "PAYLOAD_TOO_LARGE")
    assert _is_problem(await client.get("/admin/devices"), 401, "UNAUTHENTICATED")
    assert _is_problem(await client.post("/admin/devices", json={}, headers=staff), 403, "FORBIDDEN")
    assert _is_problem(await client.get("/admin/devices/none", headers=staff), 404, "NOT_FOUND")
    assert _is_problem(await client.get("/admin/transactions/none", headers=staff), 404, "TRANSACTION_NOT_FOUND")
    assert _is_problem(await client.get("/admin/transactions?cursor=%00", headers=staff), 400, "VALIDATION_FAILED")
    nul = {"email": "a\0@demo.test", "password": "x"}
    assert (await client.post("/admin/login", json=nul)).status_code in (400, 401)
    assert (await client.get("/admin/devices/%00", headers=staff)).status_code in (400, 404)
    assert _is_problem(await client.get("/admin/transactions?limit=101", headers=staff), 400, "VALIDATION_FAILED")
    assert _is_problem(await client.post("/device/heartbeat", content=b"{}"), 401, "DEVICE_UNAUTHORIZED")


async def test_a_body_that_grows_past_the_limit_while_it_comes_is_refused(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 8_192

    answer = await client.post("/integrations/qris/callback", content=endless())

    assert _is_problem(answer, 413, "PAYLOAD_TOO_LARGE")


async def test_a_request_id_is_kept_when_it_is_one_and_made_when_it_is_not(client: httpx.AsyncClient) -> None:
    given = await client.get("/healthz", headers={"x-request-id": "order-17.a"})
    strange = await client.get("/healthz", headers={"x-request-id": "a b\tc"})

    assert given.headers["x-request-id"] == "order-17.a"
    assert strange.headers["x-request-id"].startswith("req_")


async def test_the_right_password_logs_in_and_nothing_else_does(client: httpx.AsyncClient) -> None:
    good = await client.post("/admin/login", json={"email": "Operator@demo.test", "password": seed.PASSWORD})
    wrong = await client.post("/admin/login", json={"email": "operator@demo.test", "password": "wrong"})
    unknown = await client.post("/admin/login", json={"email": "nobody@demo.test", "password": seed.PASSWORD})
    merchant = await client.post("/admin/login", json={"email": "owner@demo.test", "password": seed.PASSWORD})

    token = good.json()["data"]["access_token"]
    listed = await client.get("/admin/devices", headers={"authorization": f"Bearer {token}"})
    assert (good.status_code, listed.status_code) == (200, 200)
    for refused in (wrong, unknown, merchant):
        assert _is_problem(refused, 401, "UNAUTHENTICATED")
    assert wrong.json()["message"] == unknown.json()["message"] == merchant.json()["message"]


async def test_tokens_that_are_not_ours_are_refused(client: httpx.AsyncClient, settings: Settings) -> None:
    good = _bearer(settings, "support")["authorization"]
    head, body, signature = good.removeprefix("Bearer ").split(".")
    expired = _bearer(settings, "support", now_s=clock.now_ms() // 1000 - 700)["authorization"]
    other = Settings(home=settings.home / "other", database_url=settings.database_url)
    foreign = _bearer(other, "platform_admin")["authorization"]
    unsigned = f"Bearer eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{body}."
    tampered = f"Bearer {head}.{body[:-2]}AA.{signature}"

    assert (await client.get("/admin/devices", headers={"authorization": good})).status_code == 200
    for bad in (expired, foreign, unsigned, tampered, "Bearer x", "Basic abc", "Bearer ", "Bearer é".encode("latin-1")):
        answer = await client.get("/admin/devices", headers={"authorization": bad})
        assert _is_problem(answer, 401, "UNAUTHENTICATED")


async def test_every_route_but_the_open_ones_turns_strangers_away(app: FastAPI, client: httpx.AsyncClient) -> None:
    tried = 0
    for path, methods in _routes(app):
        for method in methods - {"HEAD"}:
            if path in OPEN or POLICY.get((method, path)) in (PUBLIC, SIGNED):
                continue
            body = json.dumps({"device_id": "x", "terminal_id": "x", "amount": 1, "currency": "IDR", "request_id": "x"})
            answer = await client.request(method, path.replace("{", "").replace("}", ""), content=body)
            assert answer.status_code == 401, (method, path, answer.text)
            tried += 1
    assert tried >= 9


async def test_a_merchants_token_opens_no_operators_door(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings
) -> None:
    for role in ("merchant_owner", "merchant_staff", "bank", "partner"):
        headers = _bearer(settings, role)
        for path, methods in _routes(app):
            if path.startswith("/admin/") and path not in OPEN and "GET" in methods:
                answer = await client.get(path.replace("{", "").replace("}", ""), headers=headers)
                assert _is_problem(answer, 403, "FORBIDDEN"), (role, path)


def _routes(app: FastAPI) -> list[tuple[str, set[str]]]:
    found: list[tuple[str, set[str]]] = []
    for context in app.router.routes:
        if isinstance(context, APIRoute | Route):
            found.append((context.path, set(context.methods or ())))
    documented = {
        path: {method.upper() for method in operations} for path, operations in app.openapi()["paths"].items()
    }
    return [*found, *((path, methods) for path, methods in documented.items() if path not in {p for p, _ in found})]


async def test_readiness_names_what_is_missing(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz")

    assert answer.status_code == 200  # callbacks are stored while the broker is away
    assert answer.json() == {"status": "degraded", "checks": {"database": "ok", "broker": "failing", "provider": "ok"}}


async def test_the_figures_can_be_scraped(client: httpx.AsyncClient) -> None:
    page = (await client.get("/metrics")).text

    for name in ("soundbox_outbox_depth", "soundbox_devices_online", "soundbox_announcement_seconds"):
        assert name in page


async def test_wrong_activation_codes_from_one_address_are_limited_and_right_ones_are_not(
    settings: Settings, client: httpx.AsyncClient, app: FastAPI
) -> None:
    async def activate(code: str, serial: str = "SBX-DEMO-0001") -> int:
        body = {"activation_code": code, "serial_number": serial}
        return (await client.post("/device/provision/activate", json=body)).status_code

    async def let_in(_user: str, _password: str) -> bool:
        return True

    app.state.probe_login = let_in  # no broker runs here, and each activation would wait for one
    codes = {}
    for n in range(12):
        registered = await client.post(
            "/admin/devices", json={"serial_number": f"SBX-SHELF-{n}"}, headers=_bearer(settings, "operator")
        )
        codes[f"SBX-SHELF-{n}"] = registered.json()["data"]["activation_code"]
    *shelf, last = codes
    right = [await activate(codes[serial], serial) for serial in shelf]
    wrong = [await activate(f"WRONG{n}") for n in range(11)]
    right_too = await activate(codes[last], last)

    assert right == [200] * 11
    assert wrong == [401] * 10 + [429]
    assert right_too == 429
