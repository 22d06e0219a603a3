"""A box's credentials while it has them: whose token this is, and how a new one takes the old one's place.

The broker knows one password a box, so a rotation has two phases. The hub issues; the box puts the new credential
beside the old one on its disk, and says so; only then does the broker's password change. Cut anywhere, the box holds
one that works: it tries the new one, then the old one.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from soundbox_server.codecs import choice
from soundbox_server.db import Row, Statements
from soundbox_server.devices.service import credentials_changed
from soundbox_server.devices.state import IN_SERVICE, CredentialState
from soundbox_server.errors import Conflict, DeviceUnauthorized, NotFound
from soundbox_server.ids import new_id

OVERLAP_MS = 24 * 3_600_000
_IN_SERVICE = ", ".join(f"'{state}'" for state in IN_SERVICE)
NOT_KNOWN = "The device token is missing or not valid."


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token that works now, and what its use tells."""

    device_id: str
    device_state: str
    credential_id: str
    state: str
    first_use: bool
    rotate: bool  # an operator wants this credential replaced


_KNOWN = f"""
SELECT c.token_sha256, c.device_id, d.state AS device_state, c.id, c.state, c.first_used_at_ms, c.rotate_asked_at_ms
FROM device_credential c JOIN device d ON d.id = c.device_id
WHERE c.token_sha256 {{among}} AND d.state IN ({_IN_SERVICE}) AND (
  c.state = 'active'
  OR (c.state = 'superseded' AND c.expires_at_ms > $2 AND NOT EXISTS (
    SELECT 1 FROM device_credential n
    WHERE n.device_id = c.device_id AND n.state = 'active' AND n.first_used_at_ms IS NOT NULL)))
"""


async def known_tokens(tx: Statements, token_hashes: Sequence[str], *, now_ms: int) -> dict[str, Token]:
    """token hash -> what it proves. A superseded token works until its successor's first use, or for a day."""
    rows = await tx.fetch(_KNOWN.format(among=tx.among(1)), sorted(set(token_hashes)), now_ms)
    return {row["token_sha256"]: _token(row) for row in rows}


def _token(row: Row) -> Token:
    active = row["state"] == CredentialState.ACTIVE
    return Token(
        device_id=row["device_id"],
        device_state=row["device_state"],
        credential_id=row["id"],
        state=row["state"],
        first_use=active and row["first_used_at_ms"] is None,
        rotate=active and row["rotate_asked_at_ms"] is not None,
    )


async def note_first_use(tx: Statements, credential_ids: Sequence[str], *, now_ms: int) -> None:
    """From now on the token before each of these is worth nothing."""
    await tx.many(
        "UPDATE device_credential SET first_used_at_ms = $2 WHERE id = $1 AND first_used_at_ms IS NULL",
        [(credential_id, now_ms) for credential_id in sorted(set(credential_ids))],
    )


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A new credential, shown once and good for nothing until it is confirmed."""

    device_id: str
    credential_id: str
    device_token: str
    broker_password: str


async def issue(tx: Statements, device_id: str, *, hash_password: Callable[[str], str], now_ms: int) -> Issued:
    """First phase: a new credential beside the one in force. Asked again, the unconfirmed one before it is forgotten:
    only hashes are stored, so it could not be shown a second time. Raises DeviceUnauthorized for a box out of service.
    """
    await _lock_in_service(tx, device_id)
    token, password = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    credential_id = new_id("cred")
    await tx.execute("DELETE FROM device_credential WHERE device_id = $1 AND state = 'issued'", device_id)
    await tx.execute(
        "INSERT INTO device_credential (id, device_id, token_sha256, broker_hash, state, created_at_ms) "
        "VALUES ($1, $2, $3, $4, 'issued', $5)",
        credential_id, device_id, sha256(token), hash_password(password), now_ms,
    )  # fmt: skip
    return Issued(device_id=device_id, credential_id=credential_id, device_token=token, broker_password=password)


async def confirm(tx: Statements, device_id: str, credential_id: str, *, now_ms: int) -> bool:
    """Second phase: the box has stored it, so it takes the old one's place, at the broker too. True when this call did
    it, False when it was so already. Raises NotFound for one that was never this box's or was forgotten, and Conflict
    for one that has had its time: then the box begins anew with what it has.
    """
    await _lock_in_service(tx, device_id)
    rows = await tx.fetch(
        "SELECT state FROM device_credential WHERE id = $1 AND device_id = $2", credential_id, device_id
    )
    if not rows:
        raise NotFound("No such credential. Ask for a new one.", credential_id=credential_id)
    state = rows[0]["state"]
    if state == CredentialState.ACTIVE:
        return False
    if state != CredentialState.ISSUED:
        raise Conflict(
            "This credential has been replaced. Ask for a new one.", credential_id=credential_id, state=state
        )
    await tx.execute(
        "UPDATE device_credential SET state = 'superseded', expires_at_ms = $2 "
        "WHERE device_id = $1 AND state = 'active'",
        device_id,
        now_ms + OVERLAP_MS,
    )
    await tx.execute("UPDATE device_credential SET state = 'active' WHERE id = $1", credential_id)
    await credentials_changed(tx, now_ms=now_ms)
    return True


async def _lock_in_service(tx: Statements, device_id: str) -> None:
    rows = await tx.fetch("SELECT state FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    if not rows or rows[0]["state"] not in IN_SERVICE:
        raise DeviceUnauthorized(NOT_KNOWN)


async def device_refreshing(tx: Statements, token_hash: str, *, confirms: str | None, now_ms: int) -> str:
    """Whose token this is at the refresh door: any that works, and an issued one to confirm itself. Raises
    DeviceUnauthorized."""
    known = (await known_tokens(tx, [token_hash], now_ms=now_ms)).get(token_hash)
    if known is not None:
        if known.first_use:
            await note_first_use(tx, [known.credential_id], now_ms=now_ms)
        return known.device_id
    rows = await tx.fetch(
        "SELECT device_id FROM device_credential WHERE token_sha256 = $1 AND id = $2 AND state = 'issued'",
        token_hash,
        confirms,
    )
    if not rows:
        raise DeviceUnauthorized(NOT_KNOWN)
    return str(rows[0]["device_id"])


@dataclass(frozen=True, kw_only=True)
class Rotation:
    device_id: str
    credential_id: str
    asked_at_ms: int
    by_ms: int | None


async def ask_rotation(tx: Statements, device_id: str, *, by_ms: int | None, now_ms: int) -> Rotation:
    """The box is told to refresh its credential with its next heartbeat. With `by_ms`, one still in force then is
    revoked. Raises NotFound, Conflict for a box that holds none: that one needs an activation code, and
    CapabilityNotSupported for another maker's."""
    rows = await tx.fetch("SELECT state, codec FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    choice.require_command(choice.CODECS[rows[0]["codec"]], "rotate_credential")
    marked = await tx.fetch(
        "UPDATE device_credential SET rotate_asked_at_ms = $2, rotate_by_ms = $3 "
        "WHERE device_id = $1 AND state = 'active' RETURNING id",
        device_id,
        now_ms,
        by_ms,
    )
    if not marked:
        raise Conflict("This device holds no credential. Give it a new activation code.", state=rows[0]["state"])
    return Rotation(device_id=device_id, credential_id=marked[0]["id"], asked_at_ms=now_ms, by_ms=by_ms)


_OVERDUE = """
SELECT c.id, c.device_id FROM device_credential c JOIN device d ON d.id = c.device_id
WHERE c.state = 'active' AND c.rotate_by_ms <= $1 ORDER BY c.device_id LIMIT 100 {lock}
"""


async def revoke_overdue(tx: Statements, *, now_ms: int) -> list[tuple[str, str]]:
    """End credentials that were to be rotated by now and were not: [(device id, credential id)]. Those boxes need an
    activation code; what they stand for and where stays."""
    rows = await tx.fetch(_OVERDUE.format(lock=tx.lock("d")), now_ms)
    ended = [(row["device_id"], row["id"]) for row in rows]
    for device_id, _ in ended:
        await revoke_all(tx, device_id)
    if ended:
        await credentials_changed(tx, now_ms=now_ms)
    return ended


async def revoke_all(tx: Statements, device_id: str) -> None:
    """Nothing this box ever got opens anything any more. The caller says `credentials_changed` last."""
    await tx.execute(
        "UPDATE device_credential SET state = 'revoked', expires_at_ms = NULL, rotate_by_ms = NULL "
        "WHERE device_id = $1 AND state <> 'revoked'",
        device_id,
    )
