"""A partner with a license at its doors, as its SDK calls them. A conftest imports the fixtures that its tests want."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.hub import Hub
from support.merchant import give_to
from support.shop import Shop, execute, open_shop, rows
from support.simulator import open_hub_with_acquirer
from support.staff import Staff

from soundbox_server.db import Database

GENERATE, QRIS, STATUS = (f"/api/partner/payment/{name}" for name in ("generate", "qris", "status"))


@dataclass(frozen=True)
class Partner:
    """Somebody of the partner's organisation, or its program, with what proves it in hand."""

    hub: Hub
    license_id: str = ""
    license_key: str = ""
    headers: Mapping[str, str] | None = None

    async def call(self, method: str, path: str, *, key: str | None = None, **sent: Any) -> httpx.Response:
        headers = dict(self.headers or self.hub.as_role("partner")) | ({"idempotency-key": key} if key else {})
        return await self.hub.http.request(method, path, headers=headers, **sent)

    async def get(self, path: str, **params: Any) -> Any:
        return data_of(await self.call("GET", path, params=params))

    async def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        return data_of(await self.call("POST", path, json=body), status)

    async def refused(self, method: str, path: str, body: Any = None, *, status: int) -> dict[str, Any]:
        """The error that this call is answered with."""
        answer = await self.call(method, path, json=body)
        assert answer.status_code == status, answer.text
        error = answer.json()
        assert (error["success"], error["error"], error["details"]["code"]) == (False, error["message"], error["code"])
        return dict(error)

    def asked(self, transaction_id: str = "TRX-2026-001", **other: Any) -> dict[str, Any]:
        """What the SDK sends to generate a QR."""
        return {
            "transaction_id": transaction_id, "amount": 50_000, "license_key": self.license_key,
            "payment_type": "qris",
        } | other  # fmt: skip

    async def generate(self, transaction_id: str = "TRX-2026-001", **other: Any) -> dict[str, Any]:
        return dict(await self.post(GENERATE, self.asked(transaction_id, **other)))

    async def balance(self) -> int:
        return int((await self.get("/api/user/token-balance"))["total_balance"])

    async def with_api_key(self) -> "Partner":
        """Its program, with a key that it has just been given."""
        key = (await self.post("/api/user/regenerate-api-key"))["api_key"]
        return replace(self, headers={"x-api-key": key})


def data_of(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["success"] is True
    return body["data"]


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub_with_acquirer(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
async def shop(hub: Hub, database: Database) -> Shop:
    """For whom the partner charges."""
    shop = await open_shop(database)
    await give_to(database, shop)
    return shop


@pytest.fixture
async def platform(hub: Hub, database: Database) -> Shop:
    """The platform's own merchant, whom top-ups are paid to."""
    shop = await open_shop(database, brand_name="Platform")
    await give_to(database, shop, "org_test_platform")
    return shop


@pytest.fixture
async def partner(hub: Hub, shop: Shop) -> Partner:
    """With a license for the shop, and three tokens."""
    return await licensed(hub, shop, tokens=3)


async def licensed(hub: Hub, shop: Shop, *, tokens: int, **other: Any) -> Partner:
    """The partner with one more license."""
    operator, finance = Staff(hub, "per_operator", "operator"), Staff(hub, "per_finance", "finance")
    wanted = {"price_per_token": 100, "organisation_id": "org_test_partner", "merchant_id": shop.merchant_id} | other
    made = await operator.post("/admin/license-keys", wanted, status=201)
    if tokens:
        await finance.post(f"/admin/license-keys/{made['id']}/tokens", {"tokens": tokens, "reason": "to begin with"})
    return Partner(hub, made["id"], made["key"])


async def a_stranger(hub: Hub) -> Partner:
    """Somebody of another partner's organisation."""
    database = hub.app.state.database
    await execute(
        database,
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org_strange', 'partner', 'Strange', 1)",
    )
    await execute(
        database,
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "password_hash, created_at_ms) VALUES ('per_strange', 'org_strange', 'partner', 's@strange.test', 'S', "
        "'partner', 'active', 'id', 'x', 1)",
    )
    await execute(
        database,
        "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms) "
        "VALUES ('ses_strange', 'per_strange', 'partner', 1, 1, 9000000000000)",
    )
    return Partner(hub, headers=hub.headers_of("per_strange", "partner", "ses_strange"))


async def accounts(database: Database) -> dict[str, int]:
    """What every account of tokens holds, as the ledger has it; accounts at zero are left out."""
    held: dict[str, int] = {}
    for moved in await rows(database, "SELECT source, destination, amount FROM posting WHERE unit = 'TOKEN'"):
        held[moved["source"]] = held.get(moved["source"], 0) - moved["amount"]
        held[moved["destination"]] = held.get(moved["destination"], 0) + moved["amount"]
    return {account: amount for account, amount in held.items() if amount}
