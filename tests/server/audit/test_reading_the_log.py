"""The audit log as staff read it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.hub import open_hub
from support.shop import execute
from support.staff import Staff

from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import now_ms, rfc3339
from soundbox_server.db import Database

OPERATOR = Actor(kind="person", id="per_1", organisation_id="org_platform", role="operator", ip="::1", request_id="r1")
BOX = Actor(kind="device", id="sbx_1")


@pytest.fixture
async def support(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_support", "support")


@pytest.fixture
async def began(database: Database) -> int:
    """Five deeds, and when they began."""
    at_ms = now_ms()
    await database.write(lambda tx: record(tx, OPERATOR, "admin.login.success", ("person", "per_1")))
    await database.write(lambda tx: record(tx, OPERATOR, "admin.login.failed", ("person", "per_2"), outcome="failed"))
    await database.write(lambda tx: record(tx, OPERATOR, "merchant.login.success", ("person", "per_3")))
    await database.write(lambda tx: record(tx, OPERATOR, "merchant.approved", ("merchant", "mer_1"), details={"a": 1}))
    await database.write(lambda tx: record(tx, BOX, "device.activated", ("device", "sbx_1")))
    return at_ms


async def actions(support: Staff, **filters: Any) -> list[str]:
    return [entry["action"] for entry in await support.get("/admin/audit-logs", **filters)]


async def test_newest_first_and_whole(support: Staff, began: int) -> None:
    entries = await support.get("/admin/audit-logs")

    assert [entry["action"] for entry in entries] == [
        "device.activated", "merchant.approved", "merchant.login.success", "admin.login.failed", "admin.login.success",
    ]  # fmt: skip
    approved = entries[1]
    assert approved["actor"] == {
        "kind": "person", "id": "per_1", "organisation_id": "org_platform", "role": "operator", "ip": "::1",
    }  # fmt: skip
    assert (approved["subject"], approved["details"], approved["request_id"], approved["chain"]) == (
        {"kind": "merchant", "id": "mer_1"}, {"a": 1}, "r1", None,
    )  # fmt: skip


async def test_the_references_own_question_is_answered(support: Staff, began: int) -> None:
    found = await actions(support, action_contains=".login.", limit=10)

    assert found == ["merchant.login.success", "admin.login.failed", "admin.login.success"]


async def test_the_log_is_filtered(support: Staff, began: int) -> None:
    assert await actions(support, action="merchant.approved") == ["merchant.approved"]
    assert await actions(support, subject_kind="merchant", subject_id="mer_1") == ["merchant.approved"]
    assert await actions(support, actor_id="sbx_1") == ["device.activated"]
    assert len(await actions(support, organisation_id="org_platform")) == 4
    assert await actions(support, outcome="failed") == ["admin.login.failed"]
    assert len(await actions(support, request_id="r1")) == 4
    assert len(await actions(support, at_from=rfc3339(began))) == 5
    assert await actions(support, at_to=rfc3339(began)) == []
    assert await actions(support, action_contains="_login_") == []
    assert await actions(support, action_contains="%") == []


async def test_every_entry_is_on_one_page(support: Staff, began: int) -> None:
    pages = [page async for page in support.pages("/admin/audit-logs", limit=2)]

    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({entry["id"] for page in pages for entry in page}) == 5


async def test_a_linked_entry_says_where_it_stands_in_the_chain(support: Staff, database: Database, began: int) -> None:
    (entry,) = await support.get("/admin/audit-logs", action="merchant.approved")
    await execute(
        database, "INSERT INTO audit_link (position, entry_id, hash) VALUES (1, $1, $2)", entry["id"], "ab" * 32
    )

    (linked,) = await support.get("/admin/audit-logs", action="merchant.approved")

    assert linked["chain"] == {"position": 1, "hash": "ab" * 32}
