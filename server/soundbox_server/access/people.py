"""Organisations and the people in them: created, invited, changed, disabled."""

import re
from dataclasses import dataclass

from soundbox_server.access import api_keys, one_time, sessions, totp
from soundbox_server.access.mails import Addressee, Desk
from soundbox_server.access.state import MAY_GIVE_KEYS, MAY_INVITE, ROLES_OF, PersonState
from soundbox_server.audit.service import SYSTEM, Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, Forbidden, NotFound, ValidationFailed
from soundbox_server.ids import new_id

# No control characters and none that turn the direction of writing: names are shown, mailed and logged.
VISIBLE = "^[^\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]+$"
ADDRESS = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$"


def readable_address(email: str) -> str:
    """In lower case. Raises ValidationFailed for what is none."""
    if len(email) > 254 or not re.fullmatch(ADDRESS, email):
        raise ValidationFailed("This is no e-mail address.", field="email")
    return email.lower()


def readable_name(name: str) -> str:
    """Raises ValidationFailed for what cannot be shown."""
    if not 1 <= len(name) <= 100 or not re.fullmatch(VISIBLE, name):
        raise ValidationFailed("A name has 1 to 100 visible characters.", field="name")
    return name


async def create_organisation(tx: Statements, *, kind: str, name: str, actor: Actor, now_ms: int) -> str:
    """Returns the id."""
    organisation_id = new_id("org")
    await tx.execute(
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, $2, $3, $4)",
        organisation_id, kind, name, now_ms,
    )  # fmt: skip
    await record(tx, actor, "organisation.created", ("organisation", organisation_id), details={"kind": kind})
    return organisation_id


@dataclass(frozen=True, kw_only=True)
class Invitation:
    organisation_id: str
    email: str  # lower case
    name: str
    role: str
    language: str


async def invite(tx: Statements, new: Invitation, *, desk: Desk, actor: Actor, now_ms: int) -> str:
    """A person who becomes active with the mail's link; returns the id.

    Raises NotFound, Forbidden for a role the actor may not hand out, Conflict for one that the organisation does not
    have and for an address that is known.
    """
    person_id = await add(tx, new, actor=actor, now_ms=now_ms)
    await _mail_invitation(tx, person_id, desk=desk, actor=actor, now_ms=now_ms)
    return person_id


async def add(tx: Statements, new: Invitation, *, actor: Actor, now_ms: int) -> str:
    """The same without a mail."""
    _require_may_invite(actor, new.role)
    found = await tx.fetch("SELECT kind FROM organisation WHERE id = $1", new.organisation_id)
    if not found:
        raise NotFound("No such organisation.", organisation_id=new.organisation_id)
    _require_role_fits(new.role, found[0]["kind"])
    person_id = new_id("per")
    stored = await tx.fetch(
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, 'invited', $7, $8) ON CONFLICT DO NOTHING RETURNING id",
        person_id, new.organisation_id, found[0]["kind"], new.email, new.name, new.role, new.language, now_ms,
    )  # fmt: skip
    if not stored:
        raise Conflict("Somebody with this e-mail address exists already.")
    details = {"organisation_id": new.organisation_id, "role": new.role}
    await record(tx, actor, "person.invited", ("person", person_id), details=details)
    return person_id


async def create_administrator(
    tx: Statements, *, email: str, name: str, hashed: str | None, desk: Desk, now_ms: int
) -> str | None:
    """An administrator of the platform, by whoever may run commands on its machines: with a password, or with the
    one-time link to set one, which is returned. Raises Conflict for an address that is known."""
    await tx.execute(
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org_platform', 'platform', 'Platform', $1) "
        "ON CONFLICT DO NOTHING",
        now_ms,
    )
    new = Invitation(organisation_id="org_platform", email=email, name=name, role="platform_admin", language="en")
    person_id = await add(tx, new, actor=SYSTEM, now_ms=now_ms)
    if hashed is None:
        token = await one_time.issue_token(tx, person_id, purpose="invitation", now_ms=now_ms)
        return desk.link("platform", token)
    await tx.execute("UPDATE person SET password_hash = $2, state = 'active' WHERE id = $1", person_id, hashed)
    await record(tx, SYSTEM, "person.activated", ("person", person_id))
    return None


async def invite_again(tx: Statements, person_id: str, *, desk: Desk, actor: Actor, now_ms: int) -> None:
    """Another mail for somebody who did not follow the first; its link stops working. Raises NotFound or Conflict."""
    person = await _person_for(tx, person_id, actor)
    if person["state"] != PersonState.INVITED:
        raise Conflict("This person has a password already.", state=person["state"])
    await _mail_invitation(tx, person_id, desk=desk, actor=actor, now_ms=now_ms)
    await record(tx, actor, "person.invited_again", ("person", person_id))


async def _mail_invitation(tx: Statements, person_id: str, *, desk: Desk, actor: Actor, now_ms: int) -> None:
    person = await sessions.locked_person(tx, person_id)
    assert person is not None
    await one_time.mail_token(
        tx, Addressee.of(person), purpose="invitation", desk=desk, trace_id=actor.request_id or "", now_ms=now_ms
    )


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is to be different; None stays as it is."""

    name: str | None = None
    language: str | None = None
    role: str | None = None
    disabled: bool | None = None


async def change(tx: Statements, person_id: str, wanted: Change, *, actor: Actor, now_ms: int) -> None:
    """Change a person. Disabling ends their sessions and the keys they made, with this commit.

    Raises NotFound, Forbidden for whom the actor may not touch, and Conflict for a role that the organisation does not
    have, and where it would take the platform's last administrator, or the actor's own place.
    """
    await _lock_administrators(tx)
    person = await _person_for(tx, person_id, actor)
    role, state = wanted.role or person["role"], _state_after(person, wanted.disabled)
    before = {name: person[name] for name in ("name", "language", "role", "state")}
    after = {
        "name": wanted.name or person["name"],
        "language": wanted.language or person["language"],
        "role": role,
        "state": state.value,
    }
    if before == after:
        return
    if before["role"] != role:
        _require_may_invite(actor, role)
        _require_role_fits(role, person["organisation_kind"])
    await _require_stays_governed(tx, person, role, state, actor)
    await tx.execute(
        "UPDATE person SET name = $2, language = $3, role = $4, state = $5 WHERE id = $1", person_id, *after.values()
    )
    details: dict[str, object] = {
        name: {"from": before[name], "to": after[name]} for name in before if before[name] != after[name]
    }
    if state is PersonState.DISABLED:
        await one_time.void_tokens(tx, person_id, now_ms)
        ended = await sessions.end_all_of(tx, person_id, reason="person_disabled", now_ms=now_ms)
        details["sessions_ended"] = ended
    if state is PersonState.DISABLED or before["role"] != role:
        left = frozenset() if state is PersonState.DISABLED else MAY_GIVE_KEYS.get(role, frozenset())
        details["keys_revoked"] = await api_keys.revoke_made_by(tx, person_id, but_roles=left, now_ms=now_ms)
    await record(tx, actor, "person.changed", ("person", person_id), details=details)


async def remove_totp(tx: Statements, person_id: str, *, actor: Actor, now_ms: int) -> None:
    """For somebody who lost the second factor and the recovery codes. Raises NotFound, Forbidden, Conflict."""
    await _person_for(tx, person_id, actor)
    if person_id == actor.id:
        raise Conflict("Remove your own second factor with your password and a code.")
    if not await totp.remove(tx, person_id):
        raise Conflict("This person has no second factor.")
    await sessions.end_all_of(tx, person_id, reason="totp_changed", now_ms=now_ms)
    await record(tx, actor, "totp.removed_by_other", ("person", person_id))


def _state_after(person: Row, disabled: bool | None) -> PersonState:
    if disabled is None or disabled == (person["state"] == PersonState.DISABLED):
        return PersonState(person["state"])
    if disabled:
        return PersonState.DISABLED
    return PersonState.ACTIVE if person["password_hash"] else PersonState.INVITED


async def _lock_administrators(tx: Statements) -> None:
    """Two administrators who disable each other at once wait here for one another."""
    await tx.fetch(f"SELECT id FROM person WHERE role = 'platform_admin' ORDER BY id {tx.lock('person')}")


async def _require_stays_governed(tx: Statements, person: Row, role: str, state: PersonState, actor: Actor) -> None:
    keeps = role == person["role"] and state is not PersonState.DISABLED
    if keeps:
        return
    if person["id"] == actor.id:
        raise Conflict("You cannot take your own place. Ask another administrator.")
    others = await tx.fetch(
        "SELECT id FROM person WHERE role = 'platform_admin' AND state = 'active' AND id <> $1 LIMIT 1", person["id"]
    )
    if person["role"] == "platform_admin" and person["state"] == PersonState.ACTIVE and not others:
        raise Conflict("This is the last administrator of the platform.")


async def _person_for(tx: Statements, person_id: str, actor: Actor) -> Row:
    person = await sessions.locked_person(tx, person_id)
    if person is None:
        raise NotFound("No such person.", person_id=person_id)
    _require_may_invite(actor, person["role"])
    return person


def _require_may_invite(actor: Actor, role: str) -> None:
    if actor.kind != "system" and role not in MAY_INVITE.get(actor.role or "", frozenset()):
        raise Forbidden("You may not look after people of this role.", role=role)


def _require_role_fits(role: str, kind: str) -> None:
    if role not in ROLES_OF[kind]:
        raise Conflict("An organisation of this kind has no such role.", role=role, kind=kind)
