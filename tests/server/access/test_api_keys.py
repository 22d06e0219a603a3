"""API keys: shown once, scoped, two of a name, and revoked at once."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from support.doors import audited, two_hubs
from support.hub import Hub
from support.shop import row, rows


def wanted(**other: Any) -> dict[str, Any]:
    body = {"organisation_id": "org_test_platform", "name": "till software", "role": "operator"}
    return body | {"scopes": ["devices:read", "account:read"]} | other


async def create(hub: Hub, /, by: str = "operator", **other: Any) -> httpx.Response:
    return await hub.http.post("/admin/api-keys", json=wanted(**other), headers=hub.as_role(by))


async def key_of(hub: Hub, **other: Any) -> dict[str, Any]:
    answered = await create(hub, **other)
    assert answered.status_code == 201, answered.text
    return dict(answered.json()["data"])


async def status(hub: Hub, key: str, path: str = "/admin/devices") -> int:
    return (await hub.http.get(path, headers={"x-api-key": key})).status_code


async def test_a_key_is_shown_once_and_stored_as_a_hash(hub: Hub) -> None:
    made = await key_of(hub)

    key, key_id = made["api_key"], made["id"]
    listed = await hub.http.get("/admin/api-keys", headers=hub.operator())
    one = await hub.http.get(f"/admin/api-keys/{key_id}", headers=hub.operator())
    stored = str([await rows(hub.app.state.database, f"SELECT * FROM {table}") for table in ("api_key", "audit_entry")])
    assert key.startswith(f"sbk_{key_id.removeprefix('key_')}_")
    assert len(key.removeprefix(f"sbk_{key_id.removeprefix('key_')}_")) == 43  # 256 bits as base64url
    assert key not in stored + listed.text + one.text
    assert one.json()["data"]["scopes"] == ["account:read", "devices:read"]


async def test_a_key_opens_its_scopes_by_either_header_and_speaks_for_its_organisation(hub: Hub) -> None:
    key = (await key_of(hub))["api_key"]

    me = await hub.http.get("/admin/me", headers={"authorization": f"Bearer {key}"})

    assert await status(hub, key) == 200
    assert await status(hub, key, "/admin/transactions") == 403
    assert await status(hub, key, "/admin/people") == 403
    assert await status(hub, key + "x") == 401
    assert (me.json()["data"]["organisation"]["id"], me.json()["data"]["person"]) == ("org_test_platform", None)


async def test_what_a_key_does_is_written_down_as_the_keys(hub: Hub) -> None:
    made = await key_of(hub)
    revoked = await hub.http.delete(f"/admin/api-keys/{made['id']}", headers=hub.operator())
    again = await hub.http.delete(f"/admin/api-keys/{made['id']}", headers=hub.operator())

    entries = await audited(hub, "api_key.%")
    assert (revoked.status_code, again.status_code) == (200, 200)
    assert await status(hub, made["api_key"]) == 401
    assert [(entry["action"], entry["subject_id"], entry["actor_id"]) for entry in entries] == [
        ("api_key.created", made["id"], "per_test_operator"), ("api_key.revoked", made["id"], "per_test_operator"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("by", "other", "expected"),
    [
        ("operator", {"role": "platform_admin"}, 403),
        ("operator", {"role": "finance"}, 403),
        ("platform_admin", {"role": "finance", "scopes": ["devices:write"]}, 409),
        ("operator", {"scopes": ["everything"]}, 409),
        ("operator", {"scopes": []}, 400),
        ("operator", {"role": "merchant_owner"}, 409),
        ("operator", {"organisation_id": "org_nowhere"}, 404),
        ("operator", {"expires_at": "2020-01-01T00:00:00Z"}, 409),
        ("operator", {"expires_at": "2030-01-01T00:00:00"}, 400),
        ("support", {"role": "support"}, 403),
    ],
)
async def test_keys_that_cannot_be_made(hub: Hub, by: str, other: dict[str, Any], expected: int) -> None:
    answered = await create(hub, by, **other)

    assert answered.status_code == expected, answered.text
    assert await rows(hub.app.state.database, "SELECT id FROM api_key") == []


async def test_two_of_a_name_are_active_so_that_one_can_replace_the_other(hub: Hub) -> None:
    first, second = await key_of(hub), await key_of(hub)
    third = await create(hub)
    await hub.http.delete(f"/admin/api-keys/{first['id']}", headers=hub.operator())
    fourth = await create(hub)

    assert (third.status_code, fourth.status_code) == (409, 201)
    assert [await status(hub, one["api_key"]) for one in (first, second)] == [401, 200]


async def test_of_twenty_keys_of_one_name_at_once_two_are_made(database_url: str, tmp_path: Path) -> None:
    async with two_hubs(database_url, tmp_path / "home") as hubs:
        answers = await asyncio.gather(*(create(hubs[n % 2]) for n in range(20)))

    assert sorted(answered.status_code for answered in answers) == [201] * 2 + [409] * 18


async def test_a_key_ends_when_it_says(hub: Hub) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    key = (await key_of(hub, expires_at=soon))["api_key"]

    before = await status(hub, key)
    with time_machine.travel(time.time() + 3_700, tick=True):
        after = await status(hub, key)

    assert (before, after) == (200, 401)


async def test_the_last_use_is_noted_to_the_minute(hub: Hub) -> None:
    made, noted = await key_of(hub), []
    with time_machine.travel(time.time(), tick=False) as clock:
        for wait in (0, 59, 2):
            clock.shift(wait)
            await status(hub, made["api_key"])
            noted.append((await row(hub.app.state.database, "SELECT last_used_at_ms FROM api_key"))["last_used_at_ms"])

    assert noted[0] == noted[1]
    assert noted[2] - noted[0] == 61_000
