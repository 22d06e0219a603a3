"""Banks, and merchants that let them see something."""

from dataclasses import dataclass, replace
from typing import Any

import httpx
from support.hub import Hub

from soundbox_server.audit.service import SYSTEM
from soundbox_server.clock import DAY_MS, now_ms
from soundbox_server.db import Database
from soundbox_server.lending.service import create_bank, grant
from soundbox_server.lending.state import ConsentScope

BANK = "org_test_bank"


@dataclass(frozen=True)
class Banker:
    """Somebody of the test bank with a token in hand; `another` is a colleague."""

    hub: Hub
    name: str = "per_test_bank"

    def another(self, name: str = "per_second_banker") -> "Banker":
        return replace(self, name=name)

    async def call(self, method: str, path: str, *, key: str | None = None, **sent: Any) -> httpx.Response:
        headers = await self.hub.admit(self.name, "bank") | ({"idempotency-key": key} if key else {})
        return await self.hub.http.request(method, path, headers=headers, **sent)

    async def get(self, path: str, *, status: int = 200, **params: Any) -> Any:
        return _read(await self.call("GET", path, params=params), status)

    async def post(self, path: str, body: Any = None, *, status: int = 200, key: str | None = None) -> Any:
        return _read(await self.call("POST", path, json=body, key=key), status)


def _read(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def a_bank(database: Database, name: str = "Bank Contoh") -> str:
    return await database.write(lambda tx: create_bank(tx, name=name, actor=SYSTEM, now_ms=now_ms()))


async def let_see(
    database: Database,
    merchant_id: str,
    bank_id: str = BANK,
    *,
    scope: ConsentScope = ConsentScope.FULL,
    for_ms: int = DAY_MS,
    at_ms: int | None = None,
) -> str:
    """The merchant's consent; its id."""
    at_ms = now_ms() if at_ms is None else at_ms
    return await database.write(
        lambda tx: grant(
            tx, merchant_id=merchant_id, bank_id=bank_id, scope=scope, expires_at_ms=at_ms + for_ms, actor=SYSTEM,
            now_ms=at_ms,
        )
    )  # fmt: skip
