"""Logging in, behind its door: a try is counted before its password is compared, and recorded whatever comes of it."""

import hashlib
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.access import limits, sessions, totp
from soundbox_server.access.limits import MINUTE_MS, Limits, Standing
from soundbox_server.access.models import Person
from soundbox_server.access.sessions import Opened
from soundbox_server.access.state import PersonState
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.seal import Ring


@dataclass(frozen=True, kw_only=True)
class Try:
    """Somebody at a door. `door` is its name (admin, merchant), `roles` whom it lets in."""

    door: str
    roles: frozenset[str]
    email: str
    totp: str | None = field(default=None, repr=False)
    recovery_code: str | None = field(default=None, repr=False)
    ip: str | None
    user_agent: str | None
    request_id: str

    @property
    def counter(self) -> str:
        """Hashed: what strangers type is nobody's business, and may be long."""
        who = f"{self.email.strip().lower()}|{limits.network(self.ip)}"
        return "login:" + hashlib.sha256(who.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why somebody did not get in. Only `mfa` may be told."""

    reason: str
    mfa: bool = False


async def count(tx: Statements, tried: Try, *, allowed: Limits, now_ms: int) -> Standing:
    """Count the try by address, then by person and address; the tighter of both. Commit before comparing anything."""
    if refused := await limits.refusal(tx, tried.counter, limit=allowed.login_failures, now_ms=now_ms):
        return refused
    by_address = await limits.rate_limit(
        tx, f"login:{limits.network(tried.ip)}", limit=allowed.logins_per_minute, window_ms=MINUTE_MS, now_ms=now_ms
    )
    if not by_address.allowed:
        return by_address
    by_person = await limits.rate_limit(
        tx, tried.counter, limit=allowed.login_failures, window_ms=allowed.login_window_ms,
        delay_ms=allowed.login_delay_ms, now_ms=now_ms,
    )  # fmt: skip
    return min(by_person, by_address, key=lambda standing: (standing.allowed, standing.remaining))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was read of a person before the password was compared, outside every transaction: that takes long."""

    person_id: str
    password_hash: str | None


async def look_up(session: AsyncSession, email: str) -> Seen | None:
    found = await session.execute(select(Person.id, Person.password_hash).where(Person.email == email.strip().lower()))
    row = found.one_or_none()
    return None if row is None else Seen(person_id=row.id, password_hash=row.password_hash)


async def let_in(
    tx: Statements, tried: Try, seen: Seen | None, *, fits: bool, rehashed: str | None, ring: Ring, allowed: Limits,
    life_ms: int, now_ms: int,
) -> Opened | Refused:  # fmt: skip
    """Open a session, or record why not: a refusal is a result, so that its record and the used code are committed."""
    person = await sessions.locked_person(tx, seen.person_id) if seen else None
    refused = _unfit(tried, person, seen, fits) or await _second_factor(tx, tried, person, ring, allowed, now_ms)
    if refused is not None or person is None:
        await _record_failure(tx, tried, person, refused)
        return refused or Refused(reason="unknown_email")
    if rehashed is not None:
        await tx.execute("UPDATE person SET password_hash = $2 WHERE id = $1", person["id"], rehashed)
    await limits.forget(tx, tried.counter)
    opened = await sessions.open_session(
        tx, person, life_ms=life_ms, ip=tried.ip, user_agent=tried.user_agent, now_ms=now_ms
    )
    await record(tx, _actor(tried, person), f"{tried.door}.login.success", ("session", opened.session_id))
    return opened


def _unfit(tried: Try, person: Row | None, seen: Seen | None, fits: bool) -> Refused | None:
    if person is None or seen is None:
        return Refused(reason="unknown_email")
    if not fits or person["password_hash"] != seen.password_hash:  # changed while it was compared
        return Refused(reason="wrong_password")
    if person["state"] != PersonState.ACTIVE:
        return Refused(reason="not_active")
    return None if person["role"] in tried.roles else Refused(reason="wrong_door")


async def _second_factor(
    tx: Statements, tried: Try, person: Row | None, ring: Ring, allowed: Limits, now_ms: int
) -> Refused | None:
    if person is None or person["totp_since_ms"] is None:
        return None
    if not tried.totp and not tried.recovery_code:
        return Refused(reason="totp_missing", mfa=True)
    # By person alone: with the right password in hand, many addresses would have many tries at six digits.
    counter = f"totp:{person['id']}"
    standing = await limits.rate_limit(
        tx, counter, limit=2 * allowed.login_failures, window_ms=allowed.login_window_ms,
        delay_ms=allowed.login_delay_ms, now_ms=now_ms,
    )  # fmt: skip
    if not standing.allowed:
        return Refused(reason="totp_locked", mfa=True)
    if not await prove(tx, person["id"], tried.totp, tried.recovery_code, ring=ring, now_ms=now_ms):
        return Refused(reason="totp_wrong", mfa=True)
    await limits.forget(tx, counter)
    return None


async def prove(
    tx: Statements, person_id: str, code: str | None, recovery_code: str | None, *, ring: Ring, now_ms: int
) -> bool:
    """Whether the second factor is proved; a recovery code is spent only where no other code was sent."""
    if code:
        return await totp.use_code(tx, person_id, code, ring=ring, now_ms=now_ms)
    return bool(recovery_code) and await totp.use_recovery_code(tx, person_id, str(recovery_code), now_ms=now_ms)


async def _record_failure(tx: Statements, tried: Try, person: Row | None, refused: Refused | None) -> None:
    details: dict[str, object] = {"reason": refused.reason if refused else "unknown_email"}
    if person is None:
        details["email"] = masked(tried.email)
    subject = ("person", person["id"] if person else None)
    await record(tx, _actor(tried, person), f"{tried.door}.login.failed", subject, outcome="failed", details=details)


def _actor(tried: Try, person: Row | None) -> Actor:
    return Actor(
        kind="person",
        id=person["id"] if person else None,
        organisation_id=person["organisation_id"] if person else None,
        role=person["role"] if person else None,
        ip=tried.ip,
        request_id=tried.request_id,
    )


def masked(email: str) -> str:
    """An address as it may be written down: `s***@demo.test`. What is none may be a password in the wrong field."""
    name, at, domain = email.strip().lower().rpartition("@")
    return f"{name[:1]}***@{domain}" if at and name and "." in domain else "***"
