"""The API in this process: everything of it but the socket."""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from support.stack import free_port

from soundbox_server.access.service import Principal, access_token
from soundbox_server.app import create_app
from soundbox_server.clock import now_ms, rfc3339
from soundbox_server.ids import new_id
from soundbox_server.payments.dynamic_qr import Pending
from soundbox_server.settings import Settings

SECRETS = {"sandbox": "first-secret", "acme": "second-secret"}
CALLBACK = "/integrations/qris/callback"


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
        someone = Principal(person_id="per_test", organisation_id="org_test", role="operator")
        token = access_token(someone, key=self.app.state.token_key, now_s=int(time.time()), life_s=600)
        return {"authorization": f"Bearer {token}"}


@asynccontextmanager
async def open_hub(database_url: str, home: Path, *, most: int = 4, waiting: int = 60) -> AsyncIterator[Hub]:
    """The API on this database. No broker runs: what it publishes stays for the sweep."""
    settings = Settings(
        home=home, database_url=database_url, broker_port=free_port(), log_level="error",
        partner_secrets={name: [secret] for name, secret in SECRETS.items()}, callback_most=most,
        callback_waiting=waiting,
    )  # fmt: skip
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://hub") as http:
        yield Hub(app, http)
