"""The API in this process: everything of it but the socket."""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from support.ports import free_port
from support.stack import CHEAP_ARGON2

from soundbox_server.access.passwords import Passwords
from soundbox_server.access.service import Principal, access_token
from soundbox_server.access.state import ROLES_OF
from soundbox_server.app import create_app
from soundbox_server.clock import now_ms, rfc3339
from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id
from soundbox_server.payments.charging import Pending
from soundbox_server.settings import Settings

SECRETS = {"sandbox": "first-secret", "acme": "second-secret"}
CALLBACK = "/integrations/qris/callback"
PASSWORD = "kuda putih tujuh awan"


@dataclass(frozen=True)
class Hub:
    """The API as its callers see it."""

    app: FastAPI
    http: httpx.AsyncClient

    def said(self, payment: Pending, *, status: str = "paid", **other: Any) -> bytes:
        """The body of a provider's callback."""
        body = {
            "event_id": new_id("pev"), "partner_reference": payment.reference, "status": status,
            "amount": payment.amount, "currency": "IDR", "paid_at": rfc3339(now_ms()),
        }  # fmt: skip
        return json.dumps(body | other).encode()

    def signed(
        self, body: bytes, *, partner: str = "sandbox", secret: str | None = None, at_s: int | None = None
    ) -> dict[str, str]:
        """The partner's headers for this body, made with plain hmac."""
        at = str(int(time.time()) if at_s is None else at_s)
        key = (secret or SECRETS[partner]).encode()
        signature = hmac.new(key, at.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {
            "x-partner-id": partner, "x-partner-timestamp": at, "x-partner-signature": f"v1={signature}",
            "content-type": "application/json",
        }  # fmt: skip

    async def call_back(self, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.http.post(CALLBACK, content=body, headers=headers or self.signed(body))

    def operator(self) -> dict[str, str]:
        """Headers of somebody who may act."""
        return self.as_role("operator")

    def as_role(self, role: str) -> dict[str, str]:
        """Headers of the person of this role: `per_test_<role>` in `org_test_<kind>`, with an open session."""
        return self.headers_of(person_of(role), role, f"ses_test_{role}")

    async def admit(self, person_id: str, role: str) -> dict[str, str]:
        """Headers of somebody by this name, who is made when nobody is."""
        kind = next(kind for kind, roles in ROLES_OF.items() if role in roles)
        at_ms = now_ms()

        async def plant(tx: Statements) -> None:
            await tx.execute(
                "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
                "password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $1, $5, 'active', 'en', 'nobody knows it', $6) "
                "ON CONFLICT (id) DO UPDATE SET role = excluded.role",
                person_id, f"org_test_{kind}", kind, f"{person_id}@shop.test", role, at_ms,
            )  # fmt: skip
            await tx.execute(
                "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms) "
                "VALUES ($1, $2, 'token', $3, $3, $4) ON CONFLICT (id) DO NOTHING",
                f"ses_{person_id}", person_id, at_ms, at_ms + 3_600_000,
            )  # fmt: skip

        await self.app.state.database.write(plant)
        return self.headers_of(person_id, role, f"ses_{person_id}")

    def headers_of(self, person_id: str, role: str, session_id: str) -> dict[str, str]:
        kind = next(kind for kind, roles in ROLES_OF.items() if role in roles)
        someone = Principal(person_id=person_id, organisation_id=f"org_test_{kind}", role=role, session_id=session_id)
        token = access_token(someone, key=self.app.state.token_key, now_s=int(time.time()), life_s=600)
        return {"authorization": f"Bearer {token}"}


def person_of(role: str) -> str:
    return f"per_test_{role}"


async def people_of_every_role(database: Database, *, hashed: str) -> None:
    """An organisation of each kind, and in it a person of each of its roles with an open session."""
    at_ms = now_ms()

    async def plant(tx: Statements) -> None:
        for kind, roles in ROLES_OF.items():
            await tx.execute(
                "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, $2, $1, $3)",
                f"org_test_{kind}", kind, at_ms,
            )  # fmt: skip
            for role in sorted(roles):
                await tx.execute(
                    "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
                    "password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, 'active', 'en', $7, $8)",
                    person_of(role), f"org_test_{kind}", kind, f"{role}@shop.test", role.title(), role, hashed,
                    at_ms,
                )  # fmt: skip
                await tx.execute(
                    "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms) "
                    "VALUES ($1, $2, 'token', $3, $3, $4)",
                    f"ses_test_{role}", person_of(role), at_ms, at_ms + 3_600_000,
                )  # fmt: skip

    await database.write(plant)


@asynccontextmanager
async def open_hub(
    database_url: str, home: Path, *, most: int = 4, waiting: int = 60, changed: bool = False, **other: Any
) -> AsyncIterator[Hub]:
    """The API on this database, with a person of every role. No broker runs: what it publishes stays for the sweep.
    `changed`: the test alters the app itself, so it gets one that no other test sees; `other` are settings."""
    settings = Settings(
        home=home, database_url=database_url, broker_port=free_port(), log_level="error",
        partner_secrets={name: [secret] for name, secret in SECRETS.items()}, callback_most=most,
        callback_waiting=waiting, **CHEAP_ARGON2 | other,
    )  # fmt: skip
    with app_for(settings, changed=changed) as app:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://hub")
        async with app.router.lifespan_context(app), client as http:
            database = app.state.database
            if not await database.read(lambda tx: tx.fetch("SELECT id FROM person WHERE id LIKE 'per_test_%'")):
                await people_of_every_role(database, hashed=_hashed_password())
            yield Hub(app, http)


_idle: list[FastAPI] = []


@contextmanager
def app_for(settings: Settings, *, changed: bool = False) -> Iterator[FastAPI]:
    """Putting an app together takes longer than most tests, and all of them are alike: its state is made anew."""
    if changed or settings.environment == "production":
        yield create_app(settings)
        return
    app = _idle.pop() if _idle else create_app(settings)
    app.state.settings = settings
    try:
        yield app
    finally:
        _idle.append(app)


@lru_cache(maxsize=1)
def _hashed_password() -> str:
    settings = {name.removeprefix("argon2_"): value for name, value in CHEAP_ARGON2.items()}
    return Passwords(**settings).hash(PASSWORD)
