"""Registering by oneself: an organisation and its first person. What it may do is decided by staff afterwards."""

import secrets
from dataclasses import dataclass

from soundbox_server.access.people import create_organisation
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict
from soundbox_server.ids import new_id

_ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
_FIRST_ROLE = {"merchant": "merchant_owner", "partner": "partner"}


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Whoever registers. `kind` is merchant or partner, the e-mail address in lower case."""

    kind: str
    organisation_name: str
    email: str
    name: str
    phone_number: str | None = None
    address: str | None = None
    referral_code: str | None = None


@dataclass(frozen=True, kw_only=True)
class Registered:
    person_id: str
    organisation_id: str
    referral_code: str


async def register(tx: Statements, new: Registration, hashed: str, *, actor: Actor, now_ms: int) -> Registered:
    """Somebody who can log in from this commit on. Raises Conflict for an address that is taken, and for a referral
    code that nobody has."""
    organisation_id = await create_organisation(
        tx, kind=new.kind, name=new.organisation_name, actor=actor, now_ms=now_ms
    )
    person_id, role = new_id("per"), _FIRST_ROLE[new.kind]
    stored = await tx.fetch(
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, 'active', 'id', $7, $8) "
        "ON CONFLICT DO NOTHING RETURNING id",
        person_id, organisation_id, new.kind, new.email, new.name, role, hashed, now_ms,
    )  # fmt: skip
    if not stored:
        raise _refused("email", "This e-mail address is taken.")
    referral_code = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    await tx.execute(
        "INSERT INTO person_profile (person_id, phone_number, address, referral_code, referred_by, created_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        person_id, new.phone_number, new.address, referral_code, await _referrer(tx, new.referral_code), now_ms,
    )  # fmt: skip
    who = Actor(
        kind="person", id=person_id, organisation_id=organisation_id, role=role, ip=actor.ip,
        request_id=actor.request_id,
    )  # fmt: skip
    await record(tx, who, "person.registered", ("person", person_id), details={"kind": new.kind})
    return Registered(person_id=person_id, organisation_id=organisation_id, referral_code=referral_code)


async def _referrer(tx: Statements, referral_code: str | None) -> str | None:
    if referral_code is None:
        return None
    rows = await tx.fetch("SELECT person_id FROM person_profile WHERE referral_code = $1", referral_code.upper())
    if not rows:
        raise _refused("referral_code", "Nobody has this referral code.")
    return str(rows[0]["person_id"])


def _refused(field: str, message: str) -> Conflict:
    refused = Conflict(message, field=field)
    refused.errors = [{"field": field, "message": message}]
    return refused
