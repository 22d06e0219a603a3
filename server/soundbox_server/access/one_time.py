"""Setting a password by a mail's token: for the invited, and for those who forgot theirs."""

from typing import Literal

from soundbox_server.access import sessions
from soundbox_server.access.mails import Addressee, Desk, with_link
from soundbox_server.access.service import new_secret, sha256
from soundbox_server.access.state import PersonState
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import LinkExpired
from soundbox_server.mail.service import queue_mail

Purpose = Literal["invitation", "password_reset"]
LIFE_MS: dict[Purpose, int] = {"invitation": 24 * 3_600_000, "password_reset": 30 * 60_000}


async def issue_token(tx: Statements, person_id: str, *, purpose: Purpose, now_ms: int) -> str:
    """A token that sets this person's password once. Earlier ones stop working."""
    await void_tokens(tx, person_id, now_ms)
    token = new_secret()
    await tx.execute(
        "INSERT INTO one_time_token (token_sha256, person_id, purpose, created_at_ms, expires_at_ms) "
        "VALUES ($1, $2, $3, $4, $5)",
        sha256(token), person_id, purpose, now_ms, now_ms + LIFE_MS[purpose],
    )  # fmt: skip
    return token


async def void_tokens(tx: Statements, person_id: str, now_ms: int) -> None:
    await tx.execute(
        "UPDATE one_time_token SET used_at_ms = $2 WHERE person_id = $1 AND used_at_ms IS NULL", person_id, now_ms
    )


async def mail_token(
    tx: Statements, person: Addressee, *, purpose: Purpose, desk: Desk, trace_id: str, now_ms: int
) -> None:
    """Write to somebody with a fresh token. The mail is worthless when the token is, so they expire together."""
    token = await issue_token(tx, person.id, purpose=purpose, now_ms=now_ms)
    await queue_mail(
        tx, with_link(purpose, person, desk.link(person.organisation_kind, token)),
        ring=desk.ring, owner=desk.owner, trace_id=trace_id, now_ms=now_ms, expires_at_ms=now_ms + LIFE_MS[purpose],
    )  # fmt: skip


async def request_reset(tx: Statements, email: str, *, desk: Desk, actor: Actor, now_ms: int) -> None:
    """Mail a token to an active person of this address. Nobody learns whether there is one."""
    found = await tx.fetch(
        "SELECT id, organisation_id, organisation_kind, email, name, role, language FROM person "
        f"WHERE email = $1 AND state = 'active' {tx.lock('person')}",
        email.strip().lower(),
    )
    if not found:
        return
    person = found[0]
    await mail_token(
        tx, Addressee.of(person), purpose="password_reset", desk=desk, trace_id=actor.request_id or "", now_ms=now_ms
    )
    await record(tx, _as(person, actor), "password.reset_requested", ("person", person["id"]))


async def owner_of_token(tx: Statements, token: str, *, now_ms: int) -> Row | None:
    """email and name of whom a token is for, while it works."""
    found = await tx.fetch(
        "SELECT p.id, p.email, p.name FROM one_time_token t JOIN person p ON p.id = t.person_id "
        "WHERE t.token_sha256 = $1 AND t.used_at_ms IS NULL AND t.expires_at_ms > $2 AND p.state <> 'disabled'",
        sha256(token),
        now_ms,
    )
    return found[0] if found else None


LINK_IS_OVER = "This link has expired or was used. Ask for a new one."


async def set_password(tx: Statements, token: str, hashed: str, *, actor: Actor, now_ms: int) -> None:
    """Spend the token: the password is set, the invited become active, and every session ends.

    Raises LinkExpired for a token that does not work any more; of those who bring it at once, one succeeds.
    """
    owner = await owner_of_token(tx, token, now_ms=now_ms)
    person = await sessions.locked_person(tx, owner["id"]) if owner else None  # before the token, as everywhere
    used = await tx.fetch(
        "UPDATE one_time_token SET used_at_ms = $2 WHERE token_sha256 = $1 AND used_at_ms IS NULL "
        "AND expires_at_ms > $2 RETURNING person_id",
        sha256(token),
        now_ms,
    )
    if not used or person is None or person["state"] == PersonState.DISABLED:
        raise LinkExpired(LINK_IS_OVER)
    await tx.execute("UPDATE person SET password_hash = $2, state = 'active' WHERE id = $1", person["id"], hashed)
    await void_tokens(tx, person["id"], now_ms)
    ended = await sessions.end_all_of(tx, person["id"], reason="password_set", now_ms=now_ms)
    action = "person.activated" if person["state"] == PersonState.INVITED else "password.reset"
    await record(tx, _as(person, actor), action, ("person", person["id"]), details={"sessions_ended": ended})


def _as(person: Row, actor: Actor) -> Actor:
    """Who has the token is taken for the person."""
    return Actor(
        kind="person", id=person["id"], organisation_id=person["organisation_id"], role=person["role"], ip=actor.ip,
        request_id=actor.request_id,
    )  # fmt: skip
