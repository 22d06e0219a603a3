"""A partner's API key in the form that its SDK knows, and the secret that signs what we tell the partner.

`kgiton_` and 32 characters; stored as SHA-256, shown once, one at a time: the next one ends the one before.
"""

import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.access.models import ApiKey, Person
from soundbox_server.access.service import Principal, sha256
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.errors import Forbidden
from soundbox_server.ids import new_id
from soundbox_server.seal import Ring
from soundbox_server.webhooks import service as webhooks

NAME = "kgiton"  # of the api_key's row
PREFIX = "kgiton_"
LENGTH = 32
_BASE62 = string.digits + string.ascii_letters


@dataclass(frozen=True, kw_only=True)
class Issued:
    """Shown this once. `webhook_secret` is what whoever hears our webhooks verifies them with."""

    api_key_id: str
    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    created_at_ms: int


async def regenerate(
    tx: Statements, principal: Principal, *, scopes: Collection[str], ring: Ring, actor: Actor, now_ms: int
) -> Issued:
    """A key for the caller's organisation; the one before stops working with this commit."""
    await tx.fetch("SELECT id FROM organisation WHERE id = $1 " + tx.lock("organisation"), principal.organisation_id)
    person_id = await _person(tx, principal)
    revoked = await _revoke(tx, principal.organisation_id, now_ms=now_ms)
    key_id, key = new_id("key"), PREFIX + "".join(secrets.choice(_BASE62) for _ in range(LENGTH))
    await tx.execute(
        "INSERT INTO api_key (id, organisation_id, organisation_kind, name, role, scopes, key_sha256, created_by, "
        "created_at_ms) VALUES ($1, $2, 'partner', $3, 'partner', $4, $5, $6, $7)",
        key_id, principal.organisation_id, NAME, " ".join(sorted(scopes)), sha256(key), person_id, now_ms,
    )  # fmt: skip
    secret = await webhooks.kgiton_secret(tx, principal.organisation_id, ring=ring, now_ms=now_ms)
    await record(tx, actor, "api_key.regenerated", ("api_key", key_id), details={"revoked": revoked})
    return Issued(api_key_id=key_id, api_key=key, webhook_secret=secret, created_at_ms=now_ms)


async def revoke(tx: Statements, organisation_id: str, *, actor: Actor, now_ms: int) -> int:
    """The organisation's key stops working with this commit; returns how many did."""
    revoked = await _revoke(tx, organisation_id, now_ms=now_ms)
    for key_id in revoked:
        await record(tx, actor, "api_key.revoked", ("api_key", key_id))
    return len(revoked)


async def _revoke(tx: Statements, organisation_id: str, *, now_ms: int) -> list[str]:
    rows = await tx.fetch(
        "UPDATE api_key SET revoked_at_ms = $3 WHERE organisation_id = $1 AND name = $2 AND revoked_at_ms IS NULL "
        "RETURNING id",
        organisation_id, NAME, now_ms,
    )  # fmt: skip
    return [str(row["id"]) for row in rows]


async def _person(tx: Statements, principal: Principal) -> str:
    if principal.person_id is not None:
        return principal.person_id
    rows = await tx.fetch("SELECT created_by FROM api_key WHERE id = $1", principal.api_key_id)
    return str(rows[0]["created_by"])


async def person_of(session: AsyncSession, principal: Principal) -> Person:
    """Whom a call is made for: who is logged in, or else the one of the organisation who made the key. A key that staff
    made stands for whoever was there first. Raises Forbidden where there is nobody."""
    of_organisation = select(Person).where(Person.organisation_id == principal.organisation_id)
    if principal.person_id is not None:
        wanted = of_organisation.where(Person.id == principal.person_id)
    else:
        made = select(ApiKey.created_by).where(ApiKey.id == principal.api_key_id).scalar_subquery()
        wanted = of_organisation.order_by(Person.id != made, Person.id).limit(1)
    person = await session.scalar(wanted)
    if person is None:
        raise Forbidden("Nobody has registered for this organisation.")
    return person
