"""Walking through the doors of people: log in, read mail, make codes, and read what was written down."""

import base64
import email
import email.policy
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from support.hub import PASSWORD, Hub, open_hub
from support.shop import rows

from soundbox_server.mail.jobs import Postman
from soundbox_server.mail.sinks import FileSink


async def log_in(hub: Hub, role: str = "operator", *, door: str = "admin", **other: str) -> httpx.Response:
    body = {"email": f"{role}@shop.test", "password": PASSWORD} | other
    return await hub.http.post(f"/{door}/login", json=body)


async def tokens(hub: Hub, role: str = "operator", *, door: str = "admin", **other: str) -> dict[str, Any]:
    answered = await log_in(hub, role, door=door, **other)
    assert answered.status_code == 200, answered.text
    return dict(answered.json()["data"])


def bearer(pair: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {pair['access_token']}"}


async def refresh(hub: Hub, pair: dict[str, Any], *, door: str = "admin") -> httpx.Response:
    return await hub.http.post(f"/{door}/refresh", json={"refresh_token": pair["refresh_token"]})


async def works(hub: Hub, pair: dict[str, Any]) -> bool:
    answered = await hub.http.get("/admin/me", headers=bearer(pair))
    assert answered.status_code in (200, 401), answered.text
    return answered.status_code == 200


def code(uri: str, *, steps: int = 0) -> str:
    """What an authenticator app shows for this otpauth URI now, or so many steps later."""
    secret = parse_qs(urlsplit(uri).query)["secret"][0]
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    return TOTP(key, 6, SHA1(), 30).generate(int(time.time()) + 30 * steps).decode()


async def enrol(hub: Hub, role: str = "operator", *, door: str = "admin") -> tuple[str, list[str], dict[str, Any]]:
    """Set up a second factor: (otpauth URI, recovery codes, the pair of tokens it was done with)."""
    pair = await tokens(hub, role, door=door)
    begun = await hub.http.post(f"/{door}/totp", json={"password": PASSWORD}, headers=bearer(pair))
    assert begun.status_code == 201, begun.text
    uri = begun.json()["data"]["otpauth_uri"]
    done = await hub.http.post(f"/{door}/totp/confirm", json={"code": code(uri, steps=-1)}, headers=bearer(pair))
    assert done.status_code == 200, done.text
    return uri, done.json()["data"]["recovery_codes"], pair


async def post_mail(hub: Hub, folder: Path) -> list[email.message.EmailMessage]:
    """Send what is due into this folder; every mail in it, oldest first."""
    state = hub.app.state
    sender = "Soundbox <no-reply@shop.test>"
    await Postman(state.database, FileSink(folder), ring=state.sealing_ring, sender=sender, owner="test").tick()
    return [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)  # type: ignore[arg-type]
        for path in sorted(folder.glob("*.eml"))
    ]


def link_in(mail: email.message.EmailMessage) -> tuple[str, str]:
    """(the page, the token) of the one link in a mail."""
    text = mail.get_content()
    page, _, token = next(word for word in text.split() if "set-password#" in word).partition("#")
    return page, token


async def audited(hub: Hub, like: str) -> list[dict[str, Any]]:
    """What the audit log holds of actions like this, oldest first."""
    return await rows(
        hub.app.state.database,
        "SELECT action, actor_id, organisation_id, role, ip, subject_kind, subject_id, outcome, details "
        "FROM audit_entry WHERE action LIKE $1 ORDER BY id",
        like,
    )


@asynccontextmanager
async def two_hubs(database_url: str, home: Path, **settings: Any) -> AsyncIterator[list[Hub]]:
    """Two API processes' worth of connections to one database and one home: what a race needs."""
    async with open_hub(database_url, home, **settings) as first, open_hub(database_url, home, **settings) as second:
        yield [first, second]
