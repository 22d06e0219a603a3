"""A merchant's own people and programs at their doors. A conftest imports the fixtures that its tests want."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.hub import Hub, open_hub
from support.shop import Shop, execute, open_shop

from soundbox_server.clock import now_ms
from soundbox_server.db import Database


@dataclass(frozen=True)
class Merchant:
    """Somebody of one merchant's organisation, with a token in hand."""

    hub: Hub
    role: str = "merchant_owner"
    headers: dict[str, str] | None = None

    async def call(self, method: str, path: str, *, key: str | None = None, **sent: Any) -> httpx.Response:
        headers = (self.headers or self.hub.as_role(self.role)) | ({"idempotency-key": key} if key else {})
        return await self.hub.http.request(method, path, headers=headers, **sent)

    async def get(self, path: str, params: Mapping[str, Any] | None = None, *, status: int = 200) -> Any:
        return _read(await self.call("GET", path, params=params), status)

    async def post(self, path: str, body: Any, *, status: int = 200, key: str | None = None) -> Any:
        return _read(await self.call("POST", path, json=body, key=key), status)


def _read(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
async def shop(hub: Hub, database: Database) -> Shop:
    """The shop of `owner`."""
    shop = await open_shop(database)
    await give_to(database, shop)
    return shop


@pytest.fixture
def owner(hub: Hub, shop: Shop) -> Merchant:
    return Merchant(hub)


async def give_to(database: Database, shop: Shop, organisation_id: str = "org_test_merchant") -> None:
    """The shop is this organisation's, and its terminal the default one."""
    await execute(database, "UPDATE merchant SET organisation_id = $2 WHERE id = $1", shop.merchant_id, organisation_id)
    await execute(database, "UPDATE terminal SET is_default = $2 WHERE id = $1", shop.terminal_id, True)


async def a_stranger(hub: Hub) -> Merchant:
    """Somebody of another merchant's organisation."""
    database, at_ms = hub.app.state.database, now_ms()
    await execute(
        database,
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org_strange', 'merchant', 'Strange', 1)",
    )
    await execute(
        database,
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "password_hash, created_at_ms) VALUES ('per_strange', 'org_strange', 'merchant', 's@strange.test', 'S', "
        "'merchant_owner', 'active', 'id', 'x', 1)",
    )
    await execute(
        database,
        "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms) "
        "VALUES ('ses_strange', 'per_strange', 'token', $1, $1, $2)",
        at_ms, at_ms + 3_600_000,
    )  # fmt: skip
    return Merchant(hub, headers=hub.headers_of("per_strange", "merchant_owner", "ses_strange"))
