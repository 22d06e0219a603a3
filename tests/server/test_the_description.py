"""The OpenAPI document, and the pages that show it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from support.hub import Hub, open_hub

from soundbox_server.access.auth import PUBLIC
from soundbox_server.app import ERROR_FORMS, LEAN
from soundbox_server.exportable import EXPORTABLE
from soundbox_server.exports.kinds import listing_of
from soundbox_server.paging import Page
from soundbox_server.policy import POLICY

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


async def test_the_document_is_valid_and_describes_exactly_what_the_policy_opens(
    database_url: str, tmp_path: Path
) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        document = (await hub.http.get("/openapi.json")).json()

    validate(document)
    assert {(method, path) for method, path, _ in operations(document)} == set(POLICY)
    assert set(LEAN) <= set(document["paths"])


async def test_every_operation_tells_its_audience_its_callers_and_its_errors(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        document = hub.app.openapi()

    for method, path, operation in operations(document):
        where = f"{method} {path}"
        allowed = POLICY[method, path]
        assert operation["tags"], where
        assert bool(operation["security"]) == (allowed is not PUBLIC), where
        assert operation.get("x-roles", []) == (sorted(allowed) if isinstance(allowed, frozenset) else []), where
        answers = operation["responses"]
        assert "503" in answers, where
        assert allowed is PUBLIC or "401" in answers, where
        assert not isinstance(allowed, frozenset) or "403" in answers, where
        for status, said in answers.items():
            if status >= "400":
                form = next((form for form in ERROR_FORMS if form.is_at(path)), None)
                content = said["content"]["application/json" if form else "application/problem+json"]
                assert content["schema"] == {"$ref": f"#/components/schemas/{form.name if form else 'Problem'}"}
                for code, example in content["examples"].items():
                    assert code in example["value"].values(), where
                    assert form or example["value"]["status"] == int(status), where


async def test_every_answer_has_a_shape_of_its_own(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        document = hub.app.openapi()

    for method, path, operation in operations(document):
        told = {status: said for status, said in operation["responses"].items() if status < "300"}
        assert told, f"{method} {path}"
        for status, said in told.items():
            assert ("content" in said) != (status == "204"), (method, path, status)
            for kind, body in said.get("content", {}).items():
                shape = body.get("schema")
                assert shape, (method, path, status, kind)
                assert shape != {"$ref": "#/components/schemas/Envelope"}, (method, path, status)


async def test_bodies_have_examples(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        document = hub.app.openapi()

    for method, path, operation in operations(document):
        for kind, body in operation.get("requestBody", {}).get("content", {}).items():
            assert kind != "application/json" or _has_example(document, body), f"{method} {path}"


async def test_every_whole_number_that_is_sent_is_bounded(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        document = hub.app.openapi()

    for method, path, operation in operations(document):
        sent = [operation.get("parameters", []), operation.get("requestBody", {})]
        for whole in _whole_numbers(document, sent):
            bounds = [whole.get(f"{name}imum", whole.get(f"exclusive{name.title()}imum")) for name in ("min", "max")]
            assert "const" in whole or "enum" in whole or None not in bounds, (method, path, whole)


def _whole_numbers(document: dict[str, Any], said: Any, seen: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Every schema of an integer in there, by whatever reference."""
    if isinstance(said, list):
        for part in said:
            yield from _whole_numbers(document, part, seen)
    elif isinstance(said, dict):
        if (reference := said.get("$ref")) in seen:
            return
        if isinstance(reference, str):
            found: Any = document
            for name in reference.removeprefix("#/").split("/"):
                found = found[name]
            yield from _whole_numbers(document, found, seen | {reference})
        if said.get("type") == "integer":
            yield said
        for part in said.values():
            yield from _whole_numbers(document, part, seen)


async def test_an_export_of_each_kind_has_the_filters_of_its_list(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        document = hub.app.openapi()

    body = document["paths"]["/admin/exports"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    told = {one["properties"]["kind"]["const"]: one["properties"]["filters"]["properties"] for one in body["oneOf"]}
    asked = {kind: listing_of(exported).asked.model_fields.keys() for kind, exported in EXPORTABLE.items()}
    assert {kind: filters.keys() for kind, filters in told.items()} == {
        kind: fields - Page.model_fields.keys() for kind, fields in asked.items()
    }


def _has_example(document: dict[str, Any], body: dict[str, Any]) -> bool:
    schema = body["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = schema.get("required", [])
    return (
        "example" in body or "examples" in schema or all("examples" in schema["properties"][name] for name in required)
    )


@pytest.mark.parametrize("path", ["/docs", "/api-docs"])
async def test_the_page_loads_what_we_serve_and_nothing_else(database_url: str, tmp_path: Path, path: str) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        page = await hub.http.get(path)

        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) == 4
        for address in loaded:
            got = await hub.http.get(address)
            assert address.startswith("/docs/")
            assert (got.status_code, got.headers["x-content-type-options"]) == (200, "nosniff"), address
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert _is_problem(await hub.http.get("/docs/swagger-ui/../../pyproject.toml"), 404)
        assert _is_problem(await hub.http.get("/docs/swagger-ui/__init__.py"), 404)


async def test_what_goes_wrong_before_a_door_is_a_problem_too(database_url: str, tmp_path: Path) -> None:
    async def endless() -> Any:
        for _ in range(20):
            yield b" " * 8_192

    async with open_hub(database_url, tmp_path) as hub:
        http, json = hub.http, {"content-type": "application/json"}
        form = {"content-type": "application/x-www-form-urlencoded"}

        assert _is_problem(await http.post("/admin/login", content=endless(), headers=json), 413)
        assert _is_problem(await http.post("/admin/login", content=b"email=a", headers=form), 415)
        assert _is_problem(await http.post("/admin/login", content=b"{}", headers={"content-type": "text/plain"}), 415)
        assert _is_problem(await http.post("/admin/login", content=b"[" * 60_000, headers=json), 400)
        assert _is_problem(await http.post("/admin/login", content=b"\xff\xfe", headers=json), 400)
        assert _is_problem(await http.post("/admin/login/", content=b"{}", headers=json), 404)
        assert _is_problem(await http.put("/device/heartbeat"), 405)
        assert "POST" in (await http.put("/device/heartbeat")).headers["allow"]
        assert _is_problem(await http.request("BREW", "/admin/login"), 405)
        assert (await http.post("/admin/login", json=login(hub))).status_code == 401


def login(_hub: Hub) -> dict[str, str]:
    return {"email": "nobody@demo.test", "password": "not-the-password"}


def _is_problem(answer: httpx.Response, status: int) -> bool:
    body = answer.json()
    return (
        (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        and body["status"] == status
        and body["request_id"] == answer.headers["x-request-id"]
    )
