"""Credentials and routes: set, changed and removed by operators, read by every process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from soundbox_server import seal
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.ids import new_id
from soundbox_server.providers.base import Method
from soundbox_server.providers.profiles import Profile, Values, account_name

EVERYBODY = "-"  # owner of the routes that hold for merchants without one of their own

State = tuple[int, int, str, int, int, str]


@dataclass(frozen=True, kw_only=True)
class Route:
    """Who charges, and who does when that one definitely did not."""

    primary: str
    fallback: str | None = None

    @property
    def providers(self) -> tuple[str, ...]:
        return (self.primary,) if self.fallback is None else (self.primary, self.fallback)


async def set_credential(
    tx: Statements,
    profile: Profile,
    values: Values,
    *,
    merchant_id: str | None,
    ring: seal.Ring,
    changed_by: str,
    now_ms: int,
) -> str:
    """The new credential's id. Raises ValidationFailed for a set that is not whole, NotFound for the merchant, Conflict
    where there is one already: that one is rotated."""
    profile.checked(values)
    if merchant_id is not None:
        await _require_merchant(tx, merchant_id)
    credential_id = new_id("pcr")
    made = await tx.fetch(
        "INSERT INTO provider_credential (id, account, provider, merchant_id, names, sealed, version, created_at_ms, "
        "changed_at_ms, changed_by) VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $7, $8) ON CONFLICT DO NOTHING RETURNING id",
        credential_id, account_name(profile.name, merchant_id), profile.name, merchant_id, _names(values),
        _sealed(ring, credential_id, values), now_ms, changed_by,
    )  # fmt: skip
    if not made:
        raise Conflict("This account has credentials already: rotate them.", provider=profile.name)
    return credential_id


async def rotate_credential(
    tx: Statements,
    profile: Profile,
    credential_id: str,
    values: Values,
    *,
    ring: seal.Ring,
    changed_by: str,
    now_ms: int,
) -> None:
    """Put other values in their place; what was begun with the old ones is asked about with the new."""
    profile.checked(values)
    await tx.execute(
        "UPDATE provider_credential SET names = $2, sealed = $3, version = version + 1, changed_at_ms = $4, "
        "changed_by = $5 WHERE id = $1",
        credential_id, _names(values), _sealed(ring, credential_id, values), now_ms, changed_by,
    )  # fmt: skip


async def remove_credential(tx: Statements, credential_id: str) -> None:
    await tx.execute("DELETE FROM provider_credential WHERE id = $1", credential_id)


async def find_credential(tx: Statements, credential_id: str) -> Row:
    """Its row without what is sealed, locked until the commit. Raises NotFound."""
    rows = await tx.fetch(
        "SELECT id, account, provider, merchant_id, names, version, created_at_ms, changed_at_ms, changed_by "
        f"FROM provider_credential WHERE id = $1 {tx.lock('provider_credential')}",
        credential_id,
    )
    if not rows:
        raise NotFound("No such credential.", credential_id=credential_id)
    return rows[0]


async def set_route(
    tx: Statements, method: Method, route: Route, *, merchant_id: str | None, changed_by: str, now_ms: int
) -> str:
    """The route's id, a new one's or that of the one it changes. Raises NotFound for the merchant."""
    if merchant_id is not None:
        await _require_merchant(tx, merchant_id)
    rows = await tx.fetch(
        "INSERT INTO provider_route (id, owner, merchant_id, method, primary_provider, fallback_provider, version, "
        "changed_at_ms, changed_by) VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8) "
        "ON CONFLICT (owner, method) DO UPDATE SET primary_provider = excluded.primary_provider, "
        "fallback_provider = excluded.fallback_provider, version = provider_route.version + 1, "
        "changed_at_ms = excluded.changed_at_ms, changed_by = excluded.changed_by RETURNING id",
        new_id("prt"), merchant_id or EVERYBODY, merchant_id, method.value, route.primary, route.fallback, now_ms,
        changed_by,
    )  # fmt: skip
    return str(rows[0]["id"])


async def remove_route(tx: Statements, route_id: str) -> None:
    """Raises NotFound."""
    if not await tx.fetch("DELETE FROM provider_route WHERE id = $1 RETURNING id", route_id):
        raise NotFound("No such route.", route_id=route_id)


async def _require_merchant(tx: Statements, merchant_id: str) -> None:
    if not await tx.fetch("SELECT id FROM merchant WHERE id = $1", merchant_id):
        raise NotFound("No such merchant.", merchant_id=merchant_id)


async def state(tx: Statements) -> State:
    """Changes whenever a credential or a route does: ids grow, and so do versions."""
    (one,) = await tx.fetch(_STATE.format("provider_credential"))
    (other,) = await tx.fetch(_STATE.format("provider_route"))
    return one["n"], one["versions"], one["last"], other["n"], other["versions"], other["last"]


_STATE = "SELECT count(*) AS n, coalesce(sum(version), 0) AS versions, coalesce(max(id), '') AS last FROM {}"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A credential as the database keeps it."""

    id: str
    account: str
    provider: str
    version: int
    sealed: str

    def opened(self, ring: seal.Ring) -> Values:
        """Raises seal.CannotUnseal."""
        values: Values = orjson.loads(seal.unseal(ring, self.id, self.sealed))
        return values


async def stored_credentials(tx: Statements) -> Sequence[Stored]:
    rows = await tx.fetch("SELECT id, account, provider, version, sealed FROM provider_credential ORDER BY id")
    return [
        Stored(
            id=row["id"], account=row["account"], provider=row["provider"], version=row["version"], sealed=row["sealed"]
        )
        for row in rows
    ]


async def stored_routes(tx: Statements) -> Mapping[tuple[str, str], Route]:
    """By owner and method."""
    rows = await tx.fetch("SELECT owner, method, primary_provider, fallback_provider FROM provider_route")
    return {
        (row["owner"], row["method"]): Route(primary=row["primary_provider"], fallback=row["fallback_provider"])
        for row in rows
    }


def _names(values: Values) -> str:
    return ",".join(sorted(name for name, value in values.items() if value))


def _sealed(ring: seal.Ring, credential_id: str, values: Values) -> str:
    return seal.seal(ring, credential_id, orjson.dumps(dict(values)))
