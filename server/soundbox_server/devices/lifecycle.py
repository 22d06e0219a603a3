"""A box taken out of service for a while or for good: the broker ends its session, and HTTP refuses its token."""

from dataclasses import dataclass

from soundbox_server.db import Statements
from soundbox_server.devices.credentials import revoke_all
from soundbox_server.devices.presence import go_offline, return_to_service
from soundbox_server.devices.service import credentials_changed, end_what_waits
from soundbox_server.devices.state import DeviceState, require
from soundbox_server.errors import NotFound


@dataclass(frozen=True, kw_only=True)
class Move:
    """What a verb did; `before` and `after` are the same when there was nothing to do."""

    device_id: str
    before: DeviceState
    after: DeviceState
    serial_number: str

    @property
    def changed(self) -> bool:
        return self.before != self.after


async def suspend(tx: Statements, device_id: str, *, reason: str, now_ms: int) -> Move:
    """Out of service until resumed: its binding and its credentials stay, and open nothing meanwhile."""
    await _forget_codes(tx, device_id)
    move = await _look(tx, device_id, DeviceState.SUSPENDED)
    if move.changed:
        await _take_out_of_service(tx, move, reason=reason, why_unsent="device_suspended", now_ms=now_ms)
        await credentials_changed(tx, now_ms=now_ms)
    return move


async def resume(tx: Statements, device_id: str, *, now_ms: int) -> Move:
    """Back to where it stood. One that is in service already stays as it is; a revoked one raises IllegalTransition."""
    rows = await tx.fetch(_STANDING + tx.lock("d"), device_id)
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    before, back = DeviceState(rows[0]["state"]), _where_it_stood(rows[0]["key_version"], rows[0]["terminal_id"])
    move = Move(device_id=device_id, before=before, after=back, serial_number=rows[0]["serial_number"])
    if before == back:
        return move
    require(before, back)
    await _set_state(tx, move, reason=None)
    await return_to_service(tx, device_id)
    await credentials_changed(tx, now_ms=now_ms)
    return move


async def revoke(tx: Statements, device_id: str, *, reason: str, now_ms: int) -> Move:
    """Stolen, lost or sold: every credential and code is worth nothing from this commit on, and it stands nowhere.

    There is no way back but retirement. A box that only lost its credentials gets a new activation code instead.
    """
    await _forget_codes(tx, device_id)
    move = await _look(tx, device_id, DeviceState.REVOKED)
    if move.changed:
        await revoke_all(tx, device_id)
        await _end_binding(tx, device_id, now_ms=now_ms)
        await _take_out_of_service(tx, move, reason=reason, why_unsent="device_revoked", now_ms=now_ms)
        await credentials_changed(tx, now_ms=now_ms)
    return move


async def retire(tx: Statements, device_id: str, *, reason: str) -> Move:
    """A revoked box leaves the fleet. Its record stays, so its id and serial number are never given out again."""
    move = await _look(tx, device_id, DeviceState.RETIRED)
    if move.changed:
        await _set_state(tx, move, reason=reason)
    return move


_STANDING = """
SELECT d.state, d.key_version, d.serial_number, b.terminal_id
FROM device d LEFT JOIN device_binding b ON b.device_id = d.id AND b.unbound_at_ms IS NULL WHERE d.id = $1
"""


def _where_it_stood(key_version: int, terminal_id: str | None) -> DeviceState:
    if not key_version:
        return DeviceState.REGISTERED
    return DeviceState.BOUND if terminal_id else DeviceState.ACTIVATED


async def _look(tx: Statements, device_id: str, wanted: DeviceState) -> Move:
    """The move to this state, the box's row locked. Raises NotFound, or IllegalTransition for one that may not be."""
    rows = await tx.fetch("SELECT state, serial_number FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    before = DeviceState(rows[0]["state"])
    if before != wanted:
        require(before, wanted)
    return Move(device_id=device_id, before=before, after=wanted, serial_number=rows[0]["serial_number"])


async def _set_state(tx: Statements, move: Move, *, reason: str | None) -> None:
    await tx.execute(
        "UPDATE device SET state = $2, state_reason = $3 WHERE id = $1", move.device_id, move.after.value, reason
    )


async def _take_out_of_service(tx: Statements, move: Move, *, reason: str, why_unsent: str, now_ms: int) -> None:
    """Its session's end will not be heard of: nothing that a box out of service says counts, its last will neither."""
    await _set_state(tx, move, reason=reason)
    await go_offline(tx, [move.device_id], reason="out_of_service", at_ms=now_ms)  # presence first, as births lock it
    await end_what_waits(tx, move.device_id, reason=why_unsent, now_ms=now_ms)


async def _forget_codes(tx: Statements, device_id: str) -> None:
    """Before the box's row is locked, as activation does: the other order would deadlock with one under way."""
    await tx.execute("DELETE FROM activation_code WHERE device_id = $1 AND consumed_at_ms IS NULL", device_id)


async def _end_binding(tx: Statements, device_id: str, *, now_ms: int) -> None:
    await tx.execute(
        "UPDATE device_binding SET unbound_at_ms = $2 WHERE device_id = $1 AND unbound_at_ms IS NULL",
        device_id,
        now_ms,
    )
