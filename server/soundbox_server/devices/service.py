"""Boxes: registered, activated with a one-time code, bound to a terminal, and what they last said of themselves."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_protocol.messages import Heartbeat
from soundbox_protocol.provisioning import code_secret
from soundbox_protocol.topics import DEVICE_ID_PATTERN
from soundbox_server.alerts.service import clear
from soundbox_server.codecs import choice
from soundbox_server.db import Statements, statements
from soundbox_server.devices import presence
from soundbox_server.devices.models import Device, DeviceBinding
from soundbox_server.devices.presence import Session as Session
from soundbox_server.devices.presence import take_sessions as take_sessions
from soundbox_server.devices.state import IN_SERVICE, MAY_ACTIVATE, DeviceState, require
from soundbox_server.errors import CapabilityNotSupported, Conflict, NotFound, ValidationFailed
from soundbox_server.ids import new_id
from soundbox_server.merchants.models import Terminal
from soundbox_server.outbox import service as outbox
from soundbox_server.uplinks import Uplink

CODE_LENGTH = 10
CODE_LIFE_MS = 24 * 3_600_000
CODE_FAILURES = 5
_CODE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32: no I, L, O, U to misread
WRONG_CODE = "The activation code does not fit this serial number."
_IN_SERVICE = ", ".join(f"'{state}'" for state in IN_SERVICE)
_BY_CODE = choice.listed("activates_by_code")
_MAY_ACTIVATE = ", ".join(f"'{state}'" for state in MAY_ACTIVATE)


def new_activation_code() -> str:
    return "".join(secrets.choice(_CODE_ALPHABET) for _ in range(CODE_LENGTH))


def code_sha256(code: str) -> str:
    """Forgives lower case, dashes, blanks, and the letters that Crockford's alphabet leaves out."""
    return code_secret(code).hex()


async def register(
    tx: Statements, *, serial_number: str, vendor: str, model: str, now_ms: int, device_id: str | None = None
) -> tuple[str, str]:
    """A new box and its one-time activation code, which is shown once: (device_id, code). Conflict if it is known."""
    device_id, codec = device_id or new_id("dev"), choice.codec_of(vendor, model)
    if not DEVICE_ID_PATTERN.match(device_id):
        raise ValidationFailed("A device id has 3 to 32 of a-z, 0-9, _ and -, and is not the hub's (hub-…, provision).")
    choice.require_serial(codec, serial_number)
    stored = await tx.fetch(
        "INSERT INTO device (id, serial_number, vendor, model, state, key_version, last_seq, created_at_ms, codec) "
        "VALUES ($1, $2, $3, $4, 'registered', 0, 0, $5, $6) ON CONFLICT DO NOTHING RETURNING id",
        device_id,
        serial_number,
        vendor,
        model,
        now_ms,
        codec.name,
    )
    if not stored:
        raise Conflict("A device with this id or serial number exists already.", serial_number=serial_number)
    return device_id, await issue_code(tx, device_id, now_ms=now_ms)


async def issue_code(tx: Statements, device_id: str, *, now_ms: int) -> str:
    """A fresh activation code; earlier ones of this box stop working."""
    code = new_activation_code()
    await tx.execute("DELETE FROM activation_code WHERE device_id = $1 AND consumed_at_ms IS NULL", device_id)
    await tx.execute(
        "INSERT INTO activation_code (code_sha256, device_id, expires_at_ms, failures, created_at_ms) "
        "VALUES ($1, $2, $3, 0, $4)",
        code_sha256(code),
        device_id,
        now_ms + CODE_LIFE_MS,
        now_ms,
    )
    return code


async def issue_new_code(tx: Statements, device_id: str, *, now_ms: int) -> str:
    """Another code for a box whose first one was lost, burnt or used up by an answer that never arrived. The box keeps
    working with what it has until it activates again. Raises NotFound, Conflict for a box out of service, or
    CapabilityNotSupported for another maker's."""
    rows = await tx.fetch("SELECT state, codec FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    if rows[0]["state"] not in MAY_ACTIVATE:
        raise Conflict("This device is out of service.", state=rows[0]["state"])
    if not choice.CODECS[rows[0]["codec"]].traits.activates_by_code:
        raise CapabilityNotSupported("A box of this model knows no codes. Open a config window.", device_id=device_id)
    return await issue_code(tx, device_id, now_ms=now_ms)


@dataclass(frozen=True, kw_only=True)
class Activated:
    """What a box takes home; token and password are shown once and stored as hashes."""

    device_id: str
    device_token: str
    broker_password: str
    key_version: int


async def activate(
    tx: Statements, *, code: str, serial_number: str, hash_password: Callable[[str], str], now_ms: int
) -> Activated | None:
    """What `activate_by_hash` does, for a code as somebody typed it."""
    return await activate_by_hash(
        tx, code_hash=code_sha256(code), serial_number=serial_number, hash_password=hash_password, now_ms=now_ms
    )


async def activate_by_hash(
    tx: Statements, *, code_hash: str, serial_number: str, hash_password: Callable[[str], str], now_ms: int
) -> Activated | None:
    """Consume the code and hand out new credentials and a new announcement key; None when the code does not fit.

    A refusal is a result and not an error, so that the failure it counts is committed.
    """
    used = await tx.fetch(
        "UPDATE activation_code SET consumed_at_ms = $3 WHERE code_sha256 = $1 AND consumed_at_ms IS NULL "
        "AND expires_at_ms > $3 AND failures < $4 AND device_id = "
        f"(SELECT id FROM device WHERE serial_number = $2 AND state IN ({_MAY_ACTIVATE}) AND codec IN ({_BY_CODE})) "
        "RETURNING device_id",
        code_hash,
        serial_number,
        now_ms,
        CODE_FAILURES,
    )
    if not used:
        await count_failure(tx, serial_number)
        return None
    return await hand_out(tx, used[0]["device_id"], hash_password=hash_password, now_ms=now_ms)


async def count_failure(tx: Statements, serial_number: str) -> None:
    """Somebody tried this box's codes in vain; five times burn one."""
    await tx.execute(
        "UPDATE activation_code SET failures = failures + 1 WHERE consumed_at_ms IS NULL "
        "AND device_id = (SELECT id FROM device WHERE serial_number = $1)",
        serial_number,
    )


async def hand_out(tx: Statements, device_id: str, *, hash_password: Callable[[str], str], now_ms: int) -> Activated:
    """New credentials for a box that has shown to be the one; those before are worth nothing from this commit on."""
    rows = await tx.fetch("SELECT state, key_version FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    state, key_version = rows[0]["state"], rows[0]["key_version"] + 1
    after = require(state, DeviceState.BOUND if state == DeviceState.BOUND else DeviceState.ACTIVATED)
    token, password = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    await tx.execute(
        "UPDATE device SET state = $2, key_version = $3, last_seq = 0, activated_at_ms = $4 WHERE id = $1",
        device_id,
        after.value,
        key_version,
        now_ms,
    )
    await tx.execute(
        "UPDATE device_credential SET state = 'superseded', expires_at_ms = NULL WHERE device_id = $1 "
        "AND state IN ('active', 'superseded')",
        device_id,
    )
    await tx.execute("DELETE FROM device_credential WHERE device_id = $1 AND state = 'issued'", device_id)
    for kind in ("device.credential_overdue", "device.ahead_of_hub"):
        await clear(tx, kind, ("device", device_id), now_ms=now_ms)
    await tx.execute(
        "INSERT INTO device_credential (id, device_id, token_sha256, broker_hash, state, created_at_ms) "
        "VALUES ($1, $2, $3, $4, 'active', $5)",
        new_id("cred"),
        device_id,
        hashlib.sha256(token.encode()).hexdigest(),
        hash_password(password),
        now_ms,
    )
    # Its journal begins anew, so nothing signed under the old key or numbered in the old row may still reach it.
    # Presence before messages, as births lock them.
    await presence.begin_anew(tx, device_id, at_ms=now_ms)
    await end_what_waits(tx, device_id, reason="activated_again", now_ms=now_ms)
    await outbox.ask_no_more(tx, device_id, reason="activated_again", now_ms=now_ms)
    await credentials_changed(tx, now_ms=now_ms)
    return Activated(device_id=device_id, device_token=token, broker_password=password, key_version=key_version)


async def end_what_waits(tx: Statements, device_id: str, *, reason: str, now_ms: int) -> None:
    """What still waited for this box will never be sent; operators see why."""
    await tx.execute(
        "UPDATE outbox_message SET state = 'expired', reason = $3, due_at_ms = NULL, finished_at_ms = $2 "
        "WHERE recipient_id = $1 AND state IN ('queued', 'published') AND finished_at_ms IS NULL",
        device_id,
        now_ms,
        reason,
    )


async def credentials_changed(tx: Statements, *, now_ms: int) -> None:
    """The broker has to learn of something. Last in the transaction: the one row is locked until the commit."""
    await tx.execute("UPDATE credential_revision SET revision = revision + 1, changed_at_ms = $1 WHERE id = 1", now_ms)


async def bind(session: AsyncSession, *, device_id: str, terminal_id: str, now_ms: int) -> DeviceBinding:
    """Put an activated box at a terminal. The same terminal again changes nothing; another one needs unbind first."""
    device = await session.get(Device, device_id, with_for_update=True)
    if device is None:
        raise NotFound("No such device.", device_id=device_id)
    terminal = await session.get(Terminal, terminal_id)
    if terminal is None:
        raise NotFound("No such terminal.", terminal_id=terminal_id)
    if device.state == DeviceState.SUSPENDED:
        raise Conflict("This device is suspended. Resume it first.")
    standing = await _binding_in_force(session, device_id)
    if standing is not None:
        if standing.terminal_id == terminal_id:
            return standing
        raise Conflict("This device is bound to another terminal. Unbind it first.", terminal_id=standing.terminal_id)
    device.state = require(device.state, DeviceState.BOUND)
    binding = DeviceBinding(
        id=new_id("bnd"),
        device_id=device_id,
        merchant_id=terminal.merchant_id,
        outlet_id=terminal.outlet_id,
        terminal_id=terminal_id,
        bound_at_ms=now_ms,
        unbound_at_ms=None,
    )
    session.add(binding)
    return binding


async def unbind(session: AsyncSession, *, device_id: str, now_ms: int) -> None:
    """Take a box away from its terminal: no other shop shall hear this one's payments. Raises Conflict when it stands
    nowhere."""
    device = await session.get(Device, device_id, with_for_update=True)
    if device is None:
        raise NotFound("No such device.", device_id=device_id)
    standing = await _binding_in_force(session, device_id)
    if standing is None:
        raise Conflict("This device is not bound.")
    standing.unbound_at_ms = now_ms
    if device.state != DeviceState.SUSPENDED:  # taken from its terminal, it is no less suspended
        device.state = require(device.state, DeviceState.ACTIVATED)
    await outbox.end_announcements(await statements(session), device_id, reason="device_moved", now_ms=now_ms)


async def _binding_in_force(session: AsyncSession, device_id: str) -> DeviceBinding | None:
    found = await session.scalars(
        select(DeviceBinding).where(DeviceBinding.device_id == device_id, DeviceBinding.unbound_at_ms.is_(None))
    )
    return found.one_or_none()


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """A heartbeat, whichever door it came through; None is what the box did not say."""

    device_id: str
    payload: bytes
    source: str  # http | mqtt
    received_at_ms: int
    firmware_version: str | None
    network_strength: int | None
    battery_level: int | None
    state: str | None
    volume: int | None
    config_sha256: str | None = None
    verifies_signatures: bool = True  # until a birth says more


def vitals(uplink: Uplink[Heartbeat], *, source: str) -> Vitals:
    """A heartbeat message as it is recorded."""
    beat = uplink.message
    return Vitals(
        device_id=uplink.device_id,
        payload=uplink.payload,
        source=source,
        received_at_ms=uplink.received_at_ms,
        firmware_version=beat.firmware_version,
        network_strength=beat.network_strength,
        battery_level=beat.battery_level,
        state=beat.state,
        volume=beat.volume,
        config_sha256=beat.config_sha256,
    )


_LATEST = """
INSERT INTO device_presence (device_id, online, session_epoch, last_seen_at_ms, changed_at_ms, firmware_version,
                             max_payload_bytes, verifies_signatures, network_strength, battery_level, state, volume,
                             heartbeat_at_ms)
VALUES ($1, $9, 0, $2, $2, $3, 512, $10, $4, $5, $6, $7, $8)
ON CONFLICT (device_id) DO UPDATE SET
  last_seen_at_ms = excluded.last_seen_at_ms,
  firmware_version = coalesce(excluded.firmware_version, device_presence.firmware_version),
  network_strength = coalesce(excluded.network_strength, device_presence.network_strength),
  battery_level = coalesce(excluded.battery_level, device_presence.battery_level),
  state = coalesce(excluded.state, device_presence.state),
  volume = coalesce(excluded.volume, device_presence.volume),
  heartbeat_at_ms = excluded.heartbeat_at_ms
"""


async def take_heartbeats(tx: Statements, heartbeats: Sequence[Vitals]) -> None:
    """All go into the history; of each box the newest becomes its latest state."""
    if not heartbeats:
        return
    await tx.many(
        "INSERT INTO device_heartbeat (id, device_id, received_at_ms, source, payload) VALUES ($1, $2, $3, $4, $5)",
        [
            (new_id("hbt"), beat.device_id, beat.received_at_ms, beat.source, beat.payload)
            for beat in sorted(heartbeats, key=lambda beat: beat.device_id)
        ],
    )
    latest = {beat.device_id: beat for beat in heartbeats}
    await tx.many(_LATEST, [_latest_row(latest[device_id]) for device_id in sorted(latest)])
    await presence.heard_of(tx, sorted(latest), at_ms=max(beat.received_at_ms for beat in heartbeats))


def _latest_row(beat: Vitals) -> tuple[object, ...]:
    return (
        beat.device_id, beat.received_at_ms, beat.firmware_version, beat.network_strength, beat.battery_level,
        beat.state, beat.volume, beat.received_at_ms, False, beat.verifies_signatures,
    )  # fmt: skip


async def in_service(tx: Statements, device_ids: Sequence[str]) -> set[str]:
    """Those of these ids that are boxes in service."""
    rows = await tx.fetch(
        f"SELECT id FROM device WHERE id {tx.among(1)} AND state IN ({_IN_SERVICE})", sorted(set(device_ids))
    )
    return {row["id"] for row in rows}


async def key_versions(tx: Statements, device_ids: Sequence[str]) -> dict[str, int]:
    """device id -> version of its announcement key."""
    rows = await tx.fetch(f"SELECT id, key_version FROM device WHERE id {tx.among(1)}", sorted(set(device_ids)))
    return {row["id"]: row["key_version"] for row in rows}


async def broker_users(tx: Statements) -> tuple[int, list[tuple[str, str]]]:
    """What the broker's password file should hold: (revision, [(device id, $7$ hash)])."""
    return await _users(tx, "c.device_id", choice.NATIVE)


async def legacy_users(tx: Statements) -> tuple[int, list[tuple[str, str]]]:
    """The same for the broker of boxes that cannot do TLS: (revision, [(serial number, $7$ hash)])."""
    return await _users(tx, "d.serial_number", choice.QF100)


async def _users(tx: Statements, name: str, codec: choice.Codec) -> tuple[int, list[tuple[str, str]]]:
    revision = await credential_revision(tx)
    rows = await tx.fetch(
        f"SELECT {name} AS name, c.broker_hash FROM device_credential c JOIN device d ON d.id = c.device_id "
        f"WHERE c.state = 'active' AND d.state IN ({_IN_SERVICE}) AND d.codec = $1 ORDER BY {name}",
        codec.name,
    )
    return revision, [(row["name"], row["broker_hash"]) for row in rows]


async def credential_revision(tx: Statements) -> int:
    rows = await tx.fetch("SELECT revision FROM credential_revision WHERE id = 1")
    return int(rows[0]["revision"])


async def online_among(tx: Statements, device_ids: Sequence[str]) -> list[str]:
    """Those of these boxes that are online."""
    rows = await tx.fetch(
        f"SELECT device_id FROM device_presence WHERE device_id {tx.among(1)} AND online", sorted(set(device_ids))
    )
    return [row["device_id"] for row in rows]


async def count_online(tx: Statements) -> int:
    rows = await tx.fetch("SELECT count(*) AS n FROM device_presence WHERE online")
    return int(rows[0]["n"])
