"""What a person does with their own account once logged in: password, second factor."""

from dataclasses import dataclass

from soundbox_server.access import limits, login, one_time, sessions, totp
from soundbox_server.access.limits import Limits, Standing
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, MfaRequired, Unauthenticated
from soundbox_server.seal import Ring


async def count_proof(tx: Statements, person_id: str, *, allowed: Limits, now_ms: int) -> Standing:
    """Count a try at one's own password: whoever has a stolen access token guesses no faster here than at the login."""
    return await limits.rate_limit(
        tx, f"password:{person_id}", limit=allowed.login_failures, window_ms=allowed.login_window_ms,
        delay_ms=allowed.login_delay_ms, now_ms=now_ms,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Proved:
    """A person's password was right, compared with this hash."""

    person_id: str
    session_id: str
    password_hash: str


async def _still(tx: Statements, proved: Proved) -> Row:
    person = await sessions.locked_person(tx, proved.person_id)
    if person is None or person["password_hash"] != proved.password_hash:
        raise Unauthenticated("The password was changed in this moment.")
    await limits.forget(tx, f"password:{proved.person_id}")
    return person


async def change_password(tx: Statements, proved: Proved, hashed: str, *, actor: Actor, now_ms: int) -> int:
    """Set another password and end every other session. Returns how many."""
    await _still(tx, proved)
    await tx.execute("UPDATE person SET password_hash = $2 WHERE id = $1", proved.person_id, hashed)
    await one_time.void_tokens(tx, proved.person_id, now_ms)
    ended = await sessions.end_all_of(
        tx, proved.person_id, reason="password_changed", now_ms=now_ms, but=proved.session_id
    )
    await record(tx, actor, "password.changed", ("person", proved.person_id), details={"sessions_ended": ended})
    return ended


async def change_email(tx: Statements, proved: Proved, email: str, *, actor: Actor, now_ms: int) -> None:
    """Log in with another address from now on, in lower case; links that went to the old one are over. Raises Conflict
    for one that is known."""
    person = await _still(tx, proved)
    if email == person["email"]:
        return
    taken = await tx.fetch("SELECT id FROM person WHERE email = $1", email)
    if taken:
        raise Conflict("Somebody with this e-mail address exists already.")
    await tx.execute("UPDATE person SET email = $2 WHERE id = $1", proved.person_id, email)
    await one_time.void_tokens(tx, proved.person_id, now_ms)
    details = {"email": {"from": login.masked(person["email"]), "to": login.masked(email)}}
    await record(tx, actor, "person.email_changed", ("person", proved.person_id), details=details)


async def still(tx: Statements, proved: Proved) -> None:
    """That the password is the one that was proved, until the commit. Raises Unauthenticated."""
    await _still(tx, proved)


async def enrol_totp(tx: Statements, proved: Proved, *, ring: Ring, actor: Actor, now_ms: int) -> totp.Enrolment:
    """A secret to put into an authenticator app; in force once confirmed. Raises Conflict while one is."""
    person = await _still(tx, proved)
    enrolment = await totp.enrol(tx, proved.person_id, email=person["email"], ring=ring, now_ms=now_ms)
    await record(tx, actor, "totp.enrolled", ("person", proved.person_id))
    return enrolment


async def confirm_totp(
    tx: Statements, person_id: str, session_id: str | None, code: str, *, ring: Ring, actor: Actor, now_ms: int
) -> list[str]:
    """Put it into force; sessions that were opened without it end, but for this one. Returns the recovery codes."""
    await sessions.locked_person(tx, person_id)
    codes = await totp.confirm(tx, person_id, code, ring=ring, now_ms=now_ms)
    await sessions.end_all_of(tx, person_id, reason="totp_changed", now_ms=now_ms, but=session_id)
    await record(tx, actor, "totp.confirmed", ("person", person_id))
    return codes


async def remove_totp(
    tx: Statements,
    proved: Proved,
    *,
    code: str | None,
    recovery_code: str | None,
    ring: Ring,
    actor: Actor,
    now_ms: int,
) -> None:
    """Remove the second factor with the password and a code of it. Raises Conflict and MfaRequired."""
    person = await _still(tx, proved)
    if person["totp_since_ms"] is None:
        raise Conflict("There is no second factor.")
    if not await login.prove(tx, proved.person_id, code, recovery_code, ring=ring, now_ms=now_ms):
        raise MfaRequired("The code does not fit, or was used before.")
    await totp.remove(tx, proved.person_id)
    await record(tx, actor, "totp.removed", ("person", proved.person_id))
