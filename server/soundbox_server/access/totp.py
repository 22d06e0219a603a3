"""A second factor: codes of an authenticator app (RFC 6238, SHA-1, 6 digits, 30 s), and recovery codes for its loss."""

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from soundbox_server.access.service import sha256
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, MfaRequired
from soundbox_server.seal import Ring, seal, unseal

STEP_S = 30
DRIFT_STEPS = 1
SECRET_BYTES = 20
RECOVERY_CODES = 10
ISSUER = "QRIS Soundbox"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: sixteen of them are 80 bits


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What goes into an authenticator app. Shown this once."""

    secret: str  # base32
    otpauth_uri: str


async def enrol(tx: Statements, person_id: str, *, email: str, ring: Ring, now_ms: int) -> Enrolment:
    """A new secret that comes into force when it is confirmed. Raises Conflict while one is in force."""
    secret = secrets.token_bytes(SECRET_BYTES)
    stored = await tx.fetch(
        "INSERT INTO totp_secret (person_id, sealed, created_at_ms, last_step) VALUES ($1, $2, $3, 0) "
        "ON CONFLICT (person_id) DO UPDATE SET sealed = excluded.sealed, created_at_ms = excluded.created_at_ms "
        "WHERE totp_secret.confirmed_at_ms IS NULL RETURNING person_id",
        person_id,
        seal(ring, person_id, secret),
        now_ms,
    )
    if not stored:
        raise Conflict("A second factor is in force already. Remove it first.")
    uri = _totp(secret).get_provisioning_uri(email, ISSUER)
    return Enrolment(secret=_base32_in(uri), otpauth_uri=uri)


def _base32_in(uri: str) -> str:
    return uri.partition("secret=")[2].partition("&")[0]


async def confirm(tx: Statements, person_id: str, code: str, *, ring: Ring, now_ms: int) -> list[str]:
    """Put the secret into force with its first code; returns the recovery codes, shown once. Raises MfaRequired."""
    step = await _matching_step(tx, person_id, code, ring=ring, now_ms=now_ms, confirmed=False)
    confirmed = await tx.fetch(
        "UPDATE totp_secret SET confirmed_at_ms = $2, last_step = $3 WHERE person_id = $1 AND confirmed_at_ms IS NULL "
        "RETURNING person_id",
        person_id,
        now_ms,
        step or 0,
    ) if step else ()  # fmt: skip
    if not confirmed:
        raise MfaRequired("The code does not fit. Is the clock of your device right?")
    codes = ["".join(secrets.choice(_ALPHABET) for _ in range(16)) for _ in range(RECOVERY_CODES)]
    await tx.execute("DELETE FROM recovery_code WHERE person_id = $1", person_id)
    await tx.many(
        "INSERT INTO recovery_code (code_sha256, person_id) VALUES ($1, $2)",
        [(sha256(code), person_id) for code in codes],
    )
    return ["-".join(code[at : at + 4] for at in range(0, 16, 4)) for code in codes]


async def use_code(tx: Statements, person_id: str, code: str, *, ring: Ring, now_ms: int) -> bool:
    """Whether the code is good now. A code is good once: of two logins with the same one, one gets in."""
    step = await _matching_step(tx, person_id, code, ring=ring, now_ms=now_ms, confirmed=True)
    if step is None:
        return False
    used = await tx.fetch(
        "UPDATE totp_secret SET last_step = $2 WHERE person_id = $1 AND last_step < $2 RETURNING person_id",
        person_id,
        step,
    )
    return bool(used)


async def _matching_step(
    tx: Statements, person_id: str, code: str, *, ring: Ring, now_ms: int, confirmed: bool
) -> int | None:
    condition = "IS NOT NULL" if confirmed else "IS NULL"
    found = await tx.fetch(
        f"SELECT sealed FROM totp_secret WHERE person_id = $1 AND confirmed_at_ms {condition}", person_id
    )
    if not found:
        return None
    totp, now = _totp(unseal(ring, person_id, found[0]["sealed"])), now_ms // 1000 // STEP_S
    return next(
        (
            step
            for step in range(now - DRIFT_STEPS, now + DRIFT_STEPS + 1)
            if secrets.compare_digest(totp.generate(step * STEP_S), code.encode())
        ),
        None,
    )


async def use_recovery_code(tx: Statements, person_id: str, code: str, *, now_ms: int) -> bool:
    """Whether this recovery code was still unused. Forgives upper case, blanks and dashes."""
    plain = code.lower().replace("-", "").replace(" ", "")
    used = await tx.fetch(
        "UPDATE recovery_code SET used_at_ms = $3 WHERE code_sha256 = $1 AND person_id = $2 AND used_at_ms IS NULL "
        "RETURNING person_id",
        sha256(plain),
        person_id,
        now_ms,
    )
    return bool(used)


async def remove(tx: Statements, person_id: str) -> bool:
    """Take the second factor and its recovery codes away. False when there was none."""
    await tx.execute("DELETE FROM recovery_code WHERE person_id = $1", person_id)
    return bool(await tx.fetch("DELETE FROM totp_secret WHERE person_id = $1 RETURNING person_id", person_id))


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, 6, SHA1(), STEP_S)  # noqa: S303 - what authenticator apps speak; HMAC needs no more of it
