"""License keys: who may charge for whom. Made and handed out by staff, taken by a partner who knows the key."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soundbox_server.access.state import ROLES_OF
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, IllegalTransition, InvalidLicense, LicenseExpired, NotFound
from soundbox_server.ids import new_id
from soundbox_server.partners.state import LICENSES, LicenseState

GROUPS, OF_GROUP = 5, 5
# Read out over the telephone: no I, L, O, U and no digit that looks like them. 25 of 30 are 122 bits.
_ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
KEY = re.compile(rf"[0-9A-Z]{{{OF_GROUP}}}(-[0-9A-Z]{{{OF_GROUP}}}){{{GROUPS - 1}}}")

COLUMNS = (
    "l.id, l.key, l.organisation_id, l.assigned_to, l.merchant_id, l.terminal_id, l.price_per_token, l.tokens_taken, "
    "l.state, l.trial_expires_at_ms, l.expires_at_ms, l.device_name, l.device_serial_number, l.device_model, "
    "l.device_notes, l.created_at_ms, l.updated_at_ms"
)
# A license's few top-ups, found by an index that knows nothing else; uses are counted in the row.
BALANCE = (
    "(SELECT coalesce(sum(o.amount), 0) FROM posting o WHERE o.unit = 'TOKEN' AND o.source = 'token_issue' "
    "AND o.destination = 'license:' || l.id) - l.tokens_taken"
)


@dataclass(frozen=True, kw_only=True)
class License:
    """A license as it stands, `balance` in tokens."""

    id: str
    key: str
    organisation_id: str | None
    assigned_to: str | None
    merchant_id: str | None
    terminal_id: str | None
    price_per_token: int
    balance: int
    state: LicenseState
    trial_expires_at_ms: int | None
    expires_at_ms: int | None
    device_name: str | None
    device_serial_number: str | None
    device_model: str | None
    device_notes: str | None
    created_at_ms: int
    updated_at_ms: int | None

    def expired(self, now_ms: int) -> bool:
        ends = (self.expires_at_ms, self.trial_expires_at_ms if self.state is LicenseState.TRIAL else None)
        return any(end is not None and end <= now_ms for end in ends)

    def valid(self, now_ms: int) -> bool:
        """Whether it opens anything: in use, not expired, and somebody's."""
        in_use = self.state in (LicenseState.ACTIVE, LicenseState.TRIAL)
        return in_use and not self.expired(now_ms) and self.organisation_id is not None


def new_key() -> str:
    """XXXXX-XXXXX-XXXXX-XXXXX-XXXXX."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(OF_GROUP)) for _ in range(GROUPS))
    return "-".join(groups)


def readable_key(key: str) -> str:
    """A key as it is stored: typed in lower case or with blanks around it, it is the same."""
    return key.strip().upper()


def license_of(row: Row) -> License:
    """A row of COLUMNS with BALANCE as balance."""
    return License(
        id=row["id"],
        key=row["key"],
        organisation_id=row["organisation_id"],
        assigned_to=row["assigned_to"],
        merchant_id=row["merchant_id"],
        terminal_id=row["terminal_id"],
        price_per_token=row["price_per_token"],
        balance=int(row["balance"]),
        state=LicenseState(row["state"]),
        trial_expires_at_ms=row["trial_expires_at_ms"],
        expires_at_ms=row["expires_at_ms"],
        device_name=row["device_name"],
        device_serial_number=row["device_serial_number"],
        device_model=row["device_model"],
        device_notes=row["device_notes"],
        created_at_ms=row["created_at_ms"],
        updated_at_ms=row["updated_at_ms"],
    )


_FIND = f"SELECT {COLUMNS}, {BALANCE} AS balance FROM license l WHERE "


async def find(tx: Statements, key: str) -> License | None:
    """Whoever's it is."""
    rows = await tx.fetch(_FIND + "l.key = $1", readable_key(key))
    return license_of(rows[0]) if rows else None


async def get(tx: Statements, license_id: str) -> License:
    """Raises NotFound."""
    rows = await tx.fetch(_FIND + "l.id = $1", license_id)
    if not rows:
        raise NotFound("No such license.", license_id=license_id)
    return license_of(rows[0])


async def of_organisation(tx: Statements, organisation_id: str) -> list[License]:
    """Its licenses, the oldest first; not those that were revoked."""
    rows = await tx.fetch(_FIND + "l.organisation_id = $1 AND l.state <> 'revoked' ORDER BY l.id", organisation_id)
    return [license_of(row) for row in rows]


async def owned(tx: Statements, key: str, *, organisation_id: str) -> License:
    """An organisation's own license. Raises InvalidLicense, also for another's."""
    found = await find(tx, key)
    if found is None or found.organisation_id != organisation_id or found.state is LicenseState.REVOKED:
        raise InvalidLicense("No such license key.")
    return found


async def lock(tx: Statements, license_id: str) -> License:
    """The license under its lock: nobody takes or gives back tokens of it until the commit."""
    await tx.fetch("SELECT l.id FROM license l WHERE l.id = $1 " + tx.lock("l"), license_id)
    return await get(tx, license_id)


def require_usable(license: License, *, now_ms: int) -> License:
    """Raises LicenseExpired for one that is over or switched off, InvalidLicense for one without a merchant."""
    if license.state is LicenseState.INACTIVE:
        raise LicenseExpired("This license is not active.", status=license.state.value)
    if license.expired(now_ms):
        raise LicenseExpired("This license has expired.", status=license.state.value)
    if not license.valid(now_ms) or license.merchant_id is None:
        raise InvalidLicense("This license is not assigned to a merchant.")
    return license


@dataclass(frozen=True, kw_only=True)
class NewLicense:
    """What staff say of a new license. `facts` are its device columns by name."""

    price_per_token: int
    merchant_id: str | None = None
    terminal_id: str | None = None
    organisation_id: str | None = None
    trial_expires_at_ms: int | None = None
    expires_at_ms: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


async def create(tx: Statements, new: NewLicense, *, actor: Actor, now_ms: int) -> License:
    """A license with a fresh key; a trial where it says when the trial ends. Raises NotFound and Conflict as `assign`
    does."""
    license_id, key = new_id("lic"), new_key()
    state = LicenseState.ACTIVE if new.trial_expires_at_ms is None else LicenseState.TRIAL
    if new.organisation_id is not None:
        await _require_partner(tx, new.organisation_id)
    await _require_place(tx, new.merchant_id, new.terminal_id)
    facts = {name: new.facts.get(name) for name in DEVICE_FACTS}
    await tx.execute(
        "INSERT INTO license (id, key, organisation_id, merchant_id, terminal_id, price_per_token, state, "
        "trial_expires_at_ms, expires_at_ms, device_name, device_serial_number, device_model, device_notes, "
        "created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        license_id, key, new.organisation_id, new.merchant_id, new.terminal_id, new.price_per_token, state.value,
        new.trial_expires_at_ms, new.expires_at_ms, *facts.values(), now_ms,
    )  # fmt: skip
    details = {
        "organisation_id": new.organisation_id, "merchant_id": new.merchant_id, "terminal_id": new.terminal_id,
        "price_per_token": new.price_per_token,
    }  # fmt: skip
    await record(tx, actor, "license.created", ("license", license_id), details=details)
    return await get(tx, license_id)


DEVICE_FACTS = ("device_name", "device_serial_number", "device_model", "device_notes")
CHANGEABLE = frozenset({*DEVICE_FACTS, "price_per_token", "state", "trial_expires_at_ms", "expires_at_ms"})


async def change(tx: Statements, license_id: str, changes: Mapping[str, Any], *, actor: Actor, now_ms: int) -> License:
    """Columns of CHANGEABLE by name. Raises NotFound, IllegalTransition for a state that may not follow, Conflict for a
    trial without an end."""
    license = await lock(tx, license_id)
    changed = {name: value for name, value in changes.items() if getattr(license, name) != value}
    if not changed:
        return license
    if (wanted := changed.get("state")) is not None:
        _require_state(license, LicenseState(wanted))
    ends = changed.get("trial_expires_at_ms", license.trial_expires_at_ms)
    if changed.get("state", license.state) == LicenseState.TRIAL and ends is None:
        raise Conflict("A trial has an end.", field="trial_expires_at")
    assert changed.keys() <= CHANGEABLE  # they become SQL
    columns = ", ".join(f"{name} = ${at}" for at, name in enumerate(changed, 3))
    await tx.execute(
        f"UPDATE license SET updated_at_ms = $2, {columns} WHERE id = $1", license_id, now_ms, *changed.values()
    )
    before = {name: getattr(license, name) for name in changed}
    await record(tx, actor, "license.changed", ("license", license_id), details={"before": before, "after": changed})
    return await get(tx, license_id)


def _require_state(license: License, wanted: LicenseState) -> None:
    if wanted not in LICENSES[license.state]:
        raise IllegalTransition(f"A license cannot go from {license.state} to {wanted}.", status=license.state.value)


async def assign(
    tx: Statements,
    license_id: str,
    *,
    organisation_id: str,
    merchant_id: str | None,
    terminal_id: str | None,
    actor: Actor,
    now_ms: int,
) -> License:
    """Staff give a license to a partner, and say for which merchant it charges. Raises NotFound for what there is not,
    Conflict for an organisation that is no partner, and for a revoked license."""
    license = await lock(tx, license_id)
    if license.state is LicenseState.REVOKED:
        raise IllegalTransition("This license is revoked.", status=license.state.value)
    await _require_partner(tx, organisation_id)
    await _require_place(tx, merchant_id, terminal_id)
    kept = license.assigned_to if license.organisation_id == organisation_id else None
    await tx.execute(
        "UPDATE license SET organisation_id = $2, assigned_to = $3, merchant_id = $4, terminal_id = $5, "
        "updated_at_ms = $6 WHERE id = $1",
        license_id, organisation_id, kept, merchant_id, terminal_id, now_ms,
    )  # fmt: skip
    details = {
        "organisation_id": organisation_id, "merchant_id": merchant_id, "terminal_id": terminal_id,
        "before": license.organisation_id,
    }  # fmt: skip
    await record(tx, actor, "license.assigned", ("license", license_id), details=details)
    return await get(tx, license_id)


async def claim(
    tx: Statements, key: str, *, organisation_id: str, person_id: str, actor: Actor, now_ms: int
) -> License:
    """A partner takes a license whose key it knows. Its own once more changes nothing; another's does not exist."""
    found = await find(tx, key)
    if found is None:
        raise InvalidLicense("No such license key.")
    license = await lock(tx, found.id)
    if license.state is LicenseState.REVOKED or license.organisation_id not in (None, organisation_id):
        raise InvalidLicense("No such license key.")
    if license.organisation_id == organisation_id and license.assigned_to is not None:
        return license
    await tx.execute(
        "UPDATE license SET organisation_id = $2, assigned_to = $3, updated_at_ms = $4 WHERE id = $1",
        license.id, organisation_id, person_id, now_ms,
    )  # fmt: skip
    await record(tx, actor, "license.taken", ("license", license.id), details={"organisation_id": organisation_id})
    return await get(tx, license.id)


async def revoke(tx: Statements, license_id: str, *, actor: Actor, now_ms: int) -> License:
    """For good: another key is made where one is needed. Again, it changes nothing. Raises NotFound."""
    license = await lock(tx, license_id)
    if license.state is not LicenseState.REVOKED:
        await tx.execute("UPDATE license SET state = 'revoked', updated_at_ms = $2 WHERE id = $1", license_id, now_ms)
        await record(tx, actor, "license.revoked", ("license", license_id), details={"balance": license.balance})
    return await get(tx, license_id)


async def _require_partner(tx: Statements, organisation_id: str) -> None:
    rows = await tx.fetch("SELECT kind FROM organisation WHERE id = $1", organisation_id)
    if not rows:
        raise NotFound("No such organisation.", organisation_id=organisation_id)
    if "partner" not in ROLES_OF[rows[0]["kind"]]:
        raise Conflict("Only a partner has licenses.", kind=rows[0]["kind"])


async def _require_place(tx: Statements, merchant_id: str | None, terminal_id: str | None) -> None:
    if merchant_id is None:
        if terminal_id is not None:
            raise Conflict("Say whose terminal it is.", field="merchant_id")
        return
    if not await tx.fetch("SELECT id FROM merchant WHERE id = $1", merchant_id):
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    of_merchant = "SELECT id FROM terminal WHERE id = $1 AND merchant_id = $2"
    if terminal_id is not None and not await tx.fetch(of_merchant, terminal_id, merchant_id):
        raise NotFound("This merchant has no such terminal.", terminal_id=terminal_id)


async def charging_for(tx: Statements, merchant_ids: Sequence[str], *, now_ms: int) -> dict[str, list[str]]:
    """By merchant, the partners with a license of its that holds; a merchant that has none is not among them."""
    rows = await tx.fetch(
        "SELECT DISTINCT merchant_id, organisation_id FROM license WHERE organisation_id IS NOT NULL "
        "AND state IN ('active', 'trial') AND (state <> 'trial' OR trial_expires_at_ms > $1) "
        f"AND (expires_at_ms IS NULL OR expires_at_ms > $1) AND merchant_id {tx.among(2)} "
        "ORDER BY merchant_id, organisation_id",
        now_ms, list(merchant_ids),
    )  # fmt: skip
    partners: dict[str, list[str]] = {}
    for row in rows:
        partners.setdefault(row["merchant_id"], []).append(row["organisation_id"])
    return partners
