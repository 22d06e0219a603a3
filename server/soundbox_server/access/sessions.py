"""Sessions: opened by a login, carried on by refresh tokens that work once each, and ended at once for everybody."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from soundbox_server.access.service import new_secret, sha256
from soundbox_server.access.state import PersonState
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import NotFound
from soundbox_server.ids import new_id

REFRESH_PREFIX = "sbr_"
PARTNER_LIFE_MS = 24 * 3_600_000  # their SDK cannot refresh: the access token lives as long as the session
USER_AGENT_LENGTH = 200

EndReason = Literal[
    "logout", "revoked", "refresh_reused", "password_changed", "password_set", "totp_changed", "person_disabled"
]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A session, and the refresh token that carries it on: shown this once."""

    session_id: str
    person: Row  # id, organisation_id, email, name, role, language
    refresh_token: str
    refresh_life_ms: int
    has_totp: bool


_PERSON = """
SELECT p.id, p.organisation_id, p.organisation_kind, p.email, p.name, p.role, p.state, p.language, p.password_hash,
       t.confirmed_at_ms AS totp_since_ms
FROM person p LEFT JOIN totp_secret t ON t.person_id = p.id
WHERE p.id = $1
"""


async def locked_person(tx: Statements, person_id: str) -> Row | None:
    """Locked against everything that changes what this person may do, as long as this transaction lasts."""
    found = await tx.fetch(_PERSON + tx.lock("p"), person_id)
    return found[0] if found else None


async def open_session(
    tx: Statements, person: Row, *, life_ms: int, ip: str | None, user_agent: str | None, now_ms: int
) -> Opened:
    """A new session of a person whom the caller has locked and found active."""
    session_id, kind = new_id("ses"), "partner" if person["role"] == "partner" else "token"
    life_ms = _life_ms(person, life_ms)
    await tx.execute(
        "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms, ip, "
        "user_agent) VALUES ($1, $2, $7, $3, $3, $4, $5, $6)",
        session_id, person["id"], now_ms, now_ms + life_ms, ip, user_agent and user_agent[:USER_AGENT_LENGTH], kind,
    )  # fmt: skip
    token = await _new_refresh_token(tx, session_id, life_ms=life_ms, now_ms=now_ms)
    return _opened(session_id, person, token, life_ms)


def _life_ms(person: Row, life_ms: int) -> int:
    return PARTNER_LIFE_MS if person["role"] == "partner" else life_ms


async def _new_refresh_token(tx: Statements, session_id: str, *, life_ms: int, now_ms: int) -> str:
    token = REFRESH_PREFIX + new_secret()
    await tx.execute(
        "INSERT INTO session_secret (secret_sha256, session_id, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4)",
        sha256(token), session_id, now_ms, now_ms + life_ms,
    )  # fmt: skip
    return token


def _opened(session_id: str, person: Row, token: str, life_ms: int) -> Opened:
    return Opened(
        session_id=session_id,
        person=person,
        refresh_token=token,
        refresh_life_ms=life_ms,
        has_totp=person["totp_since_ms"] is not None,
    )


async def refresh(
    tx: Statements, token: str, *, roles: frozenset[str], life_ms: int, actor: Actor, now_ms: int
) -> Opened | None:
    """Trade a refresh token for the next one. None for a token that does not work at this door: that is a result and
    not an error, because a second use ends the session, and that must be committed.

    There is no grace: whoever uses a token twice may be two.
    """
    hashed = sha256(token)
    found = await tx.fetch(
        "SELECT s.id, s.person_id, s.ended_at_ms FROM session_secret k JOIN login_session s ON s.id = k.session_id "
        "JOIN person p ON p.id = s.person_id "
        f"WHERE k.secret_sha256 = $1 AND k.expires_at_ms > $2 AND p.role {tx.among(3)} {tx.lock('s')}",
        hashed,
        now_ms,
        sorted(roles),
    )
    if not found or found[0]["ended_at_ms"] is not None:
        return None
    session_id, person_id = found[0]["id"], found[0]["person_id"]
    used = await tx.fetch(
        "UPDATE session_secret SET used_at_ms = $2 WHERE secret_sha256 = $1 AND used_at_ms IS NULL "
        "RETURNING session_id",
        hashed,
        now_ms,
    )
    person = (await tx.fetch(_PERSON, person_id))[0]
    if not used:
        await end(tx, [session_id], reason="refresh_reused", now_ms=now_ms)
        who = Actor(kind="person", id=person_id, organisation_id=person["organisation_id"], role=person["role"],
                    ip=actor.ip, request_id=actor.request_id)  # fmt: skip
        await record(tx, who, "session.refresh_reused", ("session", session_id), outcome="denied")
        return None
    if person["state"] != PersonState.ACTIVE:
        return None
    life_ms = _life_ms(person, life_ms)
    await tx.execute(
        "UPDATE login_session SET last_used_at_ms = $2, expires_at_ms = $3 WHERE id = $1",
        session_id, now_ms, now_ms + life_ms,
    )  # fmt: skip
    following = await _new_refresh_token(tx, session_id, life_ms=life_ms, now_ms=now_ms)
    return _opened(session_id, person, following, life_ms)


async def end(tx: Statements, session_ids: Sequence[str], *, reason: EndReason, now_ms: int) -> int:
    """End these sessions: their access tokens and refresh tokens stop working with this commit."""
    ended = await tx.fetch(
        f"UPDATE login_session SET ended_at_ms = $2, end_reason = $3 WHERE id {tx.among(1)} AND ended_at_ms IS NULL "
        "RETURNING id",
        list(session_ids),
        now_ms,
        reason,
    )
    return len(ended)


async def end_all_of(tx: Statements, person_id: str, *, reason: EndReason, now_ms: int, but: str | None = None) -> int:
    """End every session of a person, but for the one the request came with. Returns how many."""
    alive = await tx.fetch(
        "SELECT id FROM login_session WHERE person_id = $1 AND ended_at_ms IS NULL AND expires_at_ms > $2 "
        f"ORDER BY id {tx.lock('login_session')}",
        person_id,
        now_ms,
    )
    return await end(tx, [row["id"] for row in alive if row["id"] != but], reason=reason, now_ms=now_ms)


async def revoke(tx: Statements, session_id: str, *, actor: Actor, now_ms: int) -> None:
    """End one of the actor's own sessions. Raises NotFound for anybody else's."""
    own = await tx.fetch("SELECT id FROM login_session WHERE id = $1 AND person_id = $2", session_id, actor.id)
    if not own:
        raise NotFound("No such session.", session_id=session_id)
    if await end(tx, [session_id], reason="revoked", now_ms=now_ms):
        await record(tx, actor, "session.revoked", ("session", session_id))


async def forget_expired(tx: Statements, *, now_ms: int, kept_ms: int) -> None:
    """Delete what has been over for so long: sessions with their secrets, tokens out of mails, counters."""
    before = now_ms - kept_ms
    old = "SELECT id FROM login_session WHERE expires_at_ms < $1"
    await tx.execute(f"DELETE FROM session_secret WHERE session_id IN ({old})", before)
    await tx.execute("DELETE FROM session_secret WHERE expires_at_ms < $1", before)
    await tx.execute("DELETE FROM login_session WHERE expires_at_ms < $1", before)
    await tx.execute("DELETE FROM one_time_token WHERE expires_at_ms < $1", before)
    await tx.execute("DELETE FROM rate_counter WHERE resets_at_ms < $1", now_ms)
