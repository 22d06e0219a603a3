"""Staff at their doors: the API with somebody's token in hand."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
from support.hub import Hub
from support.shop import rows

from soundbox_server.db import Database


@dataclass(frozen=True)
class Staff:
    """Somebody of the platform who calls doors. `data` are the answer's, once the answer is what was expected."""

    hub: Hub
    name: str
    role: str

    def another(self, name: str, role: str | None = None) -> "Staff":
        return replace(self, name=name, role=role or self.role)

    async def headers(self) -> dict[str, str]:
        return await self.hub.admit(self.name, self.role)

    async def call(self, method: str, path: str, *, key: str | None = None, **sent: Any) -> httpx.Response:
        headers = await self.headers() | ({"idempotency-key": key} if key else {}) | sent.pop("headers", {})
        return await self.hub.http.request(method, path, headers=headers, **sent)

    async def get(self, path: str, **params: Any) -> Any:
        return self._data(await self.call("GET", path, params=params), 200)

    async def post(self, path: str, body: Any = None, *, status: int = 200, key: str | None = None) -> Any:
        return self._data(await self.call("POST", path, json=body, key=key), status)

    async def patch(self, path: str, body: Any, *, status: int = 200) -> Any:
        return self._data(await self.call("PATCH", path, json=body), status)

    async def refused(self, method: str, path: str, body: Any = None, *, status: int) -> dict[str, Any]:
        """The problem that this call is answered with."""
        answer = await self.call(method, path, json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def pages(self, path: str, **params: Any) -> AsyncIterator[list[dict[str, Any]]]:
        """Every page of a list, one after the other."""
        cursor = None
        while True:
            answer = await self.call("GET", path, params=params | ({"cursor": cursor} if cursor else {}))
            yield self._data(answer, 200)
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return

    def _data(self, answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        return answer.json()["data"]


async def audited(database: Database, action: str) -> list[dict[str, Any]]:
    """The audit entries of an action, oldest first."""
    return await rows(
        database,
        "SELECT actor_id, action, subject_kind, subject_id, outcome, details FROM audit_entry WHERE action = $1 "
        "ORDER BY id",
        action,
    )
