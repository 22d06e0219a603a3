"""Does somebody stand in front of this box? It speaks four digits, and whoever hears them repeats them here.

A box that is bound to the wrong terminal announces another shop's money, so it is asked before it is bound or unbound.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from soundbox_server.announcements.service import KeyOf
from soundbox_server.commands import service
from soundbox_server.commands.kinds import KINDS
from soundbox_server.db import Statements
from soundbox_server.devices.state import DeviceState, require
from soundbox_server.errors import Conflict, NotFound, RateLimited
from soundbox_server.ids import new_id

DIGITS = 4
TRIES = 3
LIFE_MS = 300_000
# Four digits and three tries: without a limit on challenges, patience would find every code.
MOST_BEGUN, WITHIN_MS = 5, 900_000

Purpose = Literal["bind", "unbind"]


@dataclass(frozen=True, kw_only=True)
class Challenge:
    id: str
    device_id: str
    command_id: str
    expires_at_ms: int


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How this process asks: `key` hashes the codes, the rest is for the command that speaks them."""

    key: bytes
    key_of: KeyOf
    owner: str


async def begin_bind(
    tx: Statements, asking: Asking, *, device_id: str, terminal_id: str, by: str | None, trace_id: str, now_ms: int
) -> Challenge | None:
    """Have the box speak a code before it is put at this terminal; None when it stands there already. What would
    refuse the binding refuses it here, before the box says a word."""
    state, standing = await _look(tx, device_id)
    if standing == terminal_id:
        return None
    if standing is not None:
        raise Conflict("This device is bound to another terminal. Unbind it first.", terminal_id=standing)
    require(state, DeviceState.BOUND)
    if not await tx.fetch("SELECT id FROM terminal WHERE id = $1", terminal_id):
        raise NotFound("No such terminal.", terminal_id=terminal_id)
    return await _begin(tx, asking, "bind", device_id, terminal_id, by=by, trace_id=trace_id, now_ms=now_ms)


async def begin_unbind(
    tx: Statements, asking: Asking, *, device_id: str, by: str | None, trace_id: str, now_ms: int
) -> Challenge:
    """Have the box speak a code before it is taken from its terminal. Raises Conflict when it stands nowhere."""
    _, standing = await _look(tx, device_id)
    if standing is None:
        raise Conflict("This device is not bound.")
    return await _begin(tx, asking, "unbind", device_id, standing, by=by, trace_id=trace_id, now_ms=now_ms)


_LOOK = """
SELECT d.state, b.terminal_id FROM device d
LEFT JOIN device_binding b ON b.device_id = d.id AND b.unbound_at_ms IS NULL WHERE d.id = $1 {lock}
"""


async def _look(tx: Statements, device_id: str) -> tuple[str, str | None]:
    """Its state and its terminal; the row stays locked, so challenges of one box begin and end one after another."""
    rows = await tx.fetch(_LOOK.format(lock=tx.lock("d")), device_id)
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    return rows[0]["state"], rows[0]["terminal_id"]


async def _begin(
    tx: Statements,
    asking: Asking,
    purpose: Purpose,
    device_id: str,
    terminal_id: str,
    *,
    by: str | None,
    trace_id: str,
    now_ms: int,
) -> Challenge:
    await _require_online(tx, device_id)
    await _require_patience(tx, device_id, now_ms=now_ms)
    code, challenge_id = f"{secrets.randbelow(10**DIGITS):0{DIGITS}d}", new_id("chl")
    order = service.Order(
        device_id=device_id,
        kind=KINDS["speak_code"],
        payload={"code": code},
        shown={"code": "*" * DIGITS},  # it is to be heard at the box, not read beside it
        requested_by=by,
        trace_id=trace_id,
    )
    command_id = await service.give(tx, order, key_of=asking.key_of, owner=asking.owner, now_ms=now_ms)
    await tx.execute(
        "UPDATE possession_challenge SET state = 'superseded', finished_at_ms = $2 "
        "WHERE device_id = $1 AND state = 'open'",
        device_id,
        now_ms,
    )
    await tx.execute(
        "INSERT INTO possession_challenge (id, device_id, command_id, purpose, terminal_id, code_hmac, state, "
        "failures, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, 'open', 0, $7, $8)",
        challenge_id, device_id, command_id, purpose, terminal_id, _hashed(asking.key, challenge_id, code), now_ms,
        now_ms + LIFE_MS,
    )  # fmt: skip
    return Challenge(id=challenge_id, device_id=device_id, command_id=command_id, expires_at_ms=now_ms + LIFE_MS)


async def _require_online(tx: Statements, device_id: str) -> None:
    rows = await tx.fetch("SELECT online FROM device_presence WHERE device_id = $1", device_id)
    if not rows or not rows[0]["online"]:
        raise Conflict(
            "This device is offline, so it cannot speak a code. Switch it on, or send possession: waived with a reason."
        )


async def _require_patience(tx: Statements, device_id: str, *, now_ms: int) -> None:
    rows = await tx.fetch(
        "SELECT count(*) AS n FROM possession_challenge WHERE device_id = $1 AND created_at_ms > $2",
        device_id,
        now_ms - WITHIN_MS,
    )
    if rows[0]["n"] >= MOST_BEGUN:
        raise RateLimited("This device was asked to speak a code too often. Wait a quarter of an hour.")


class Outcome(StrEnum):
    PASSED = "passed"
    WRONG = "wrong"
    BURNT = "burnt"  # wrong once too often: this challenge is over


@dataclass(frozen=True, kw_only=True)
class Answered:
    outcome: Outcome
    terminal_id: str
    tries_left: int


_CHALLENGE = """
SELECT terminal_id, code_hmac, state, failures, expires_at_ms FROM possession_challenge
WHERE id = $1 AND device_id = $2 AND purpose = $3
"""


async def answer(
    tx: Statements, *, device_id: str, challenge_id: str, purpose: Purpose, code: str, key: bytes, now_ms: int
) -> Answered:
    """Compare what was heard with what was spoken. A wrong code is a result and not an error, so that it is counted.

    Raises NotFound, and Conflict for a challenge that is over.
    """
    await _look(tx, device_id)
    rows = await tx.fetch(_CHALLENGE, challenge_id, device_id, purpose)
    if not rows:
        raise NotFound("No such challenge of this device.", challenge_id=challenge_id)
    challenge = rows[0]
    if challenge["state"] != "open" or challenge["expires_at_ms"] <= now_ms:
        raise Conflict("This challenge is over. Begin again.", challenge_id=challenge_id)
    fits = hmac.compare_digest(challenge["code_hmac"], _hashed(key, challenge_id, code))
    failures = challenge["failures"] + (not fits)
    state = "passed" if fits else "failed" if failures >= TRIES else "open"
    await tx.execute(
        "UPDATE possession_challenge SET state = $2, failures = $3, finished_at_ms = $4 WHERE id = $1",
        challenge_id,
        state,
        failures,
        None if state == "open" else now_ms,
    )
    outcome = {"passed": Outcome.PASSED, "failed": Outcome.BURNT, "open": Outcome.WRONG}[state]
    return Answered(outcome=outcome, terminal_id=challenge["terminal_id"], tries_left=TRIES - failures)


def _hashed(key: bytes, challenge_id: str, code: str) -> str:
    """Ten thousand codes are soon tried out, so a plain hash would tell the code to whoever reads the database."""
    return hmac.digest(key, f"{challenge_id}/{code}".encode(), hashlib.sha256).hex()
