"""API keys: `sbk_<id>_<secret>`, stored as SHA-256, bound to an organisation, a role and scopes."""

from collections.abc import Collection
from dataclasses import dataclass

from soundbox_server.access.service import KEY_PREFIX, new_secret, sha256
from soundbox_server.access.state import MAY_GIVE_KEYS, ROLES_OF
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, Forbidden, NotFound
from soundbox_server.ids import new_id

MOST_ACTIVE = 2  # of one name: today's and the next, while a rotation lasts
USED_EVERY_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class NewKey:
    organisation_id: str
    name: str
    role: str
    scopes: Collection[str]
    expires_at_ms: int | None


async def create(tx: Statements, new: NewKey, *, usable: Collection[str], actor: Actor, now_ms: int) -> tuple[str, str]:
    """(id, key); the key is shown this once. `usable` are the scopes that open something to the role.

    Raises Forbidden for a role the actor may not give, NotFound, and Conflict for a role or scopes that do not go with
    it, for a time that is over, and for a third of a name.
    """
    if new.role not in MAY_GIVE_KEYS.get(actor.role or "", frozenset()):
        raise Forbidden("You may not give this role to a key.", role=new.role)
    if strange := sorted(set(new.scopes) - set(usable)):
        raise Conflict("This role has no such scopes.", scopes=strange)
    if new.expires_at_ms is not None and new.expires_at_ms <= now_ms:
        raise Conflict("The key would have expired already.", field="expires_at")
    found = await tx.fetch(
        "SELECT kind FROM organisation WHERE id = $1 " + tx.lock("organisation"), new.organisation_id
    )
    if not found:
        raise NotFound("No such organisation.", organisation_id=new.organisation_id)
    if new.role not in ROLES_OF[found[0]["kind"]]:
        raise Conflict("An organisation of this kind has no such role.", role=new.role, kind=found[0]["kind"])
    await _require_room(tx, new, now_ms)
    key_id = new_id("key")
    key = f"{KEY_PREFIX}{key_id.removeprefix('key_')}_{new_secret()}"
    await tx.execute(
        "INSERT INTO api_key (id, organisation_id, organisation_kind, name, role, scopes, key_sha256, created_by, "
        "created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        key_id, new.organisation_id, found[0]["kind"], new.name, new.role, " ".join(sorted(set(new.scopes))),
        sha256(key), actor.id, now_ms, new.expires_at_ms,
    )  # fmt: skip
    details = {"organisation_id": new.organisation_id, "role": new.role, "scopes": sorted(set(new.scopes))}
    await record(tx, actor, "api_key.created", ("api_key", key_id), details=details)
    return key_id, key


async def _require_room(tx: Statements, new: NewKey, now_ms: int) -> None:
    active = await tx.fetch(
        "SELECT id FROM api_key WHERE organisation_id = $1 AND name = $2 AND revoked_at_ms IS NULL "
        "AND (expires_at_ms IS NULL OR expires_at_ms > $3)",
        new.organisation_id,
        new.name,
        now_ms,
    )
    if len(active) >= MOST_ACTIVE:
        raise Conflict("Two keys of this name are active. Revoke one first.", ids=[row["id"] for row in active])


async def revoke(tx: Statements, key_id: str, *, actor: Actor, now_ms: int) -> None:
    """The key stops working with this commit. Raises NotFound; revoking again changes nothing."""
    found = await tx.fetch("SELECT role FROM api_key WHERE id = $1 " + tx.lock("api_key"), key_id)
    if not found:
        raise NotFound("No such API key.", api_key_id=key_id)
    if found[0]["role"] not in MAY_GIVE_KEYS.get(actor.role or "", frozenset()):
        raise Forbidden("You may not revoke a key of this role.", role=found[0]["role"])
    revoked = await tx.fetch(
        "UPDATE api_key SET revoked_at_ms = $2 WHERE id = $1 AND revoked_at_ms IS NULL RETURNING id", key_id, now_ms
    )
    if revoked:
        await record(tx, actor, "api_key.revoked", ("api_key", key_id))


async def revoke_made_by(tx: Statements, person_id: str, *, but_roles: Collection[str], now_ms: int) -> list[str]:
    """Revoke what a person made and could not make any more. Returns the ids."""
    keys = await tx.fetch(
        "SELECT id, role FROM api_key WHERE created_by = $1 AND revoked_at_ms IS NULL "
        f"ORDER BY id {tx.lock('api_key')}",
        person_id,
    )
    gone = [row["id"] for row in keys if row["role"] not in but_roles]
    await tx.many("UPDATE api_key SET revoked_at_ms = $2 WHERE id = $1", [(key_id, now_ms) for key_id in gone])
    return gone


async def note_use(tx: Statements, key_id: str, *, now_ms: int) -> None:
    """When a key was last used, to the minute: requests that come together write once."""
    await tx.execute(
        "UPDATE api_key SET last_used_at_ms = $2 WHERE id = $1 AND coalesce(last_used_at_ms, 0) <= $3",
        key_id,
        now_ms,
        now_ms - USED_EVERY_MS,
    )


async def person_behind(tx: Statements, actor_id: str) -> str:
    """Who made the key, when it is one that acts."""
    rows = await tx.fetch("SELECT created_by FROM api_key WHERE id = $1", actor_id)
    return str(rows[0]["created_by"]) if rows else actor_id
