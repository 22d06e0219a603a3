"""One command for many boxes: found by a filter, given in groups, followed to its end. The fleet takes two people.

The boxes are fixed when it is asked for, so that who approves knows for whom, and a box that comes later is not caught.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from soundbox_server.announcements.service import KeyOf
from soundbox_server.commands import service
from soundbox_server.commands.kinds import KINDS, Kind
from soundbox_server.commands.state import OPEN, BatchState, require_batch
from soundbox_server.db import Row, Statements
from soundbox_server.devices.state import IN_SERVICE
from soundbox_server.errors import Conflict, Forbidden, NotFound, SoundboxError
from soundbox_server.ids import new_id

log = structlog.get_logger()

DECIDE_WITHIN_MS = 24 * 3_600_000
MANY = 10  # beyond that whoever asks has to say how many they expect
TOGETHER = 50
B = BatchState
_IN_SERVICE = ", ".join(f"'{state}'" for state in IN_SERVICE)
_OPEN = ", ".join(f"'{state}'" for state in OPEN)
_MATCHES = {
    "vendor": "d.vendor = {}",
    "model": "d.model = {}",
    "firmware": "p.firmware_version = {}",
    "tag": "d.tags LIKE '% ' || {} || ' %'",
    "merchant_id": "b.merchant_id = {}",
    "outlet_id": "b.outlet_id = {}",
    "city": "lower(m.city) = lower({})",
}
FILTERS = tuple(_MATCHES)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """`count` is how many boxes whoever asks expects; `person` stands behind it, also when a key asks."""

    kind: Kind
    payload: Mapping[str, Any]
    filter: Mapping[str, str]
    count: int | None
    by: str
    person: str
    trace_id: str


_FOUND = """
FROM device d
LEFT JOIN device_binding b ON b.device_id = d.id AND b.unbound_at_ms IS NULL
LEFT JOIN merchant m ON m.id = b.merchant_id
LEFT JOIN device_presence p ON p.device_id = d.id
WHERE {matches}
"""


async def ask(tx: Statements, asked: Asked, *, now_ms: int) -> str:
    """Find the boxes and begin, or wait for a second person when it is the fleet; returns the batch's id.

    The fleet is what no filter narrows, and what leaves out less than half of more than ten boxes. Raises Conflict
    when nothing is found, or more than ten and not as many as expected.
    """
    found, args = _found(asked.filter, first=1)
    total = (await tx.fetch(f"SELECT count(*) AS n {found}", *args))[0]["n"]
    if not total:
        raise Conflict("There is no box in service like that.")
    if total > MANY and asked.count != total:
        raise Conflict("These are many boxes. Say how many you expect: send count.", count=total)
    everyone = (await tx.fetch(f"SELECT count(*) AS n FROM device d WHERE d.state IN ({_IN_SERVICE})"))[0]["n"]
    fleet_wide = not asked.filter or (total > MANY and total * 2 > everyone)
    batch_id = new_id("cbt")
    await tx.execute(
        "INSERT INTO command_batch (id, name, payload, filter, state, fleet_wide, total, requested_by, "
        "asked_by_person, created_at_ms, decide_by_ms, trace_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        batch_id, asked.kind.name, _json(asked.payload), _json(asked.filter),
        (B.WAITING if fleet_wide else B.RUNNING).value, fleet_wide, total, asked.by, asked.person, now_ms,
        now_ms + DECIDE_WITHIN_MS, asked.trace_id,
    )  # fmt: skip
    found, args = _found(asked.filter, first=2)
    await tx.fetch(
        "INSERT INTO command_batch_target (batch_id, device_id, state) "
        f"SELECT $1, d.id, 'waiting' {found} RETURNING device_id",
        batch_id,
        *args,
    )
    return batch_id


def _found(wanted: Mapping[str, str], *, first: int) -> tuple[str, list[str]]:
    """The boxes as SQL, whose parameters begin with this number."""
    matches = [_MATCHES[name].format(f"${number}") for number, name in enumerate(wanted, first)]
    return _FOUND.format(matches=" AND ".join([f"d.state IN ({_IN_SERVICE})", *matches])), list(wanted.values())


async def approve(tx: Statements, batch_id: str, *, by: str, now_ms: int) -> None:
    """The second person agrees, and it begins. Raises Forbidden for whoever asked for it."""
    batch = await _lock(tx, batch_id)
    state = require_batch(batch["state"], B.RUNNING)
    if batch["asked_by_person"] == by:
        raise Forbidden("Somebody other than who asked for it must approve a command for the fleet.")
    if batch["decide_by_ms"] <= now_ms:
        raise Conflict("Nobody approved it within a day. Ask again.")
    await _decide(tx, batch_id, state, by=by, reason=None, now_ms=now_ms)


async def refuse(tx: Statements, batch_id: str, *, by: str, reason: str, now_ms: int) -> None:
    """It will not be done. Anybody may say so, also who asked for it."""
    batch = await _lock(tx, batch_id)
    await _decide(tx, batch_id, require_batch(batch["state"], B.REFUSED), by=by, reason=reason, now_ms=now_ms)
    await _stop_waiting(tx, batch_id)


async def stop(tx: Statements, batch_id: str, *, reason: str | None, now_ms: int) -> None:
    """Whoever has not got it yet will not, whether it was to be given or waits for a box that is away. What was sent
    goes on, each command to its own end."""
    batch = await _lock(tx, batch_id)
    state = require_batch(batch["state"], B.STOPPED)
    await tx.execute(
        "UPDATE command_batch SET state = $2, reason = $3, finished_at_ms = $4 WHERE id = $1",
        batch_id, state.value, reason, now_ms,
    )  # fmt: skip
    await _stop_waiting(tx, batch_id)
    given = await tx.fetch(
        "SELECT t.command_id FROM command_batch_target t JOIN device_command c ON c.id = t.command_id "
        "WHERE t.batch_id = $1 AND c.state = 'queued' ORDER BY t.command_id",
        batch_id,
    )
    await service.cancel_unsent(tx, [row["command_id"] for row in given], now_ms=now_ms)


async def _lock(tx: Statements, batch_id: str) -> Row:
    rows = await tx.fetch(
        "SELECT state, asked_by_person, decide_by_ms FROM command_batch WHERE id = $1 " + tx.lock("command_batch"),
        batch_id,
    )
    if not rows:
        raise NotFound("No such batch.", batch_id=batch_id)
    return rows[0]


async def _decide(
    tx: Statements, batch_id: str, state: BatchState, *, by: str, reason: str | None, now_ms: int
) -> None:
    await tx.execute(
        "UPDATE command_batch SET state = $2, decided_by = $3, decided_at_ms = $4, reason = $5, finished_at_ms = $6 "
        "WHERE id = $1",
        batch_id, state.value, by, now_ms, reason, None if state is B.RUNNING else now_ms,
    )  # fmt: skip


async def _stop_waiting(tx: Statements, batch_id: str) -> None:
    await tx.execute(
        "UPDATE command_batch_target SET state = 'stopped' WHERE batch_id = $1 AND state = 'waiting'", batch_id
    )


async def any_under_way(tx: Statements) -> bool:
    return bool(await tx.fetch("SELECT id FROM command_batch WHERE state IN ('waiting', 'running') LIMIT 1"))


async def lapse(tx: Statements, *, now_ms: int) -> None:
    """What nobody decided within a day."""
    over = await tx.fetch(
        "UPDATE command_batch SET state = 'lapsed', finished_at_ms = $1 WHERE state = 'waiting' "
        "AND decide_by_ms <= $1 RETURNING id",
        now_ms,
    )
    for row in over:
        await _stop_waiting(tx, row["id"])


async def give_some(tx: Statements, *, key_of: KeyOf, owner: str, now_ms: int) -> int:
    """Give the next boxes of a running batch their command; returns how many there were. One whose box cannot have it
    is refused alone. The batch's row is locked, so nobody stops it half-way."""
    running = await tx.fetch(
        "SELECT b.id, b.name, b.payload, b.requested_by, b.trace_id FROM command_batch b WHERE b.state = 'running' "
        "AND EXISTS (SELECT 1 FROM command_batch_target t WHERE t.batch_id = b.id AND t.state = 'waiting') "
        f"ORDER BY b.id LIMIT 1 {tx.lock('b', skip=True)}"
    )
    if not running:
        return 0
    batch = running[0]
    targets = await tx.fetch(
        "SELECT device_id FROM command_batch_target WHERE batch_id = $1 AND state = 'waiting' "
        "ORDER BY device_id LIMIT $2",
        batch["id"],
        TOGETHER,
    )
    for target in targets:
        await _give_one(tx, batch, target["device_id"], key_of=key_of, owner=owner, now_ms=now_ms)
    return len(targets)


async def _give_one(tx: Statements, batch: Row, device_id: str, *, key_of: KeyOf, owner: str, now_ms: int) -> None:
    order = service.Order(
        device_id=device_id,
        kind=KINDS[batch["name"]],
        payload=json.loads(batch["payload"]),
        requested_by=batch["requested_by"],
        trace_id=batch["trace_id"],
    )
    try:
        command_id = await service.give(tx, order, key_of=key_of, owner=owner, now_ms=now_ms)
    except SoundboxError as refusal:  # raised before anything is written
        await _settle(tx, batch["id"], device_id, "refused", None, refusal.message)
        return
    await _settle(tx, batch["id"], device_id, "given", command_id, None)


async def _settle(
    tx: Statements, batch_id: str, device_id: str, state: str, command_id: str | None, reason: str | None
) -> None:
    await tx.execute(
        "UPDATE command_batch_target SET state = $3, command_id = $4, reason = $5 "
        "WHERE batch_id = $1 AND device_id = $2",
        batch_id, device_id, state, command_id, reason,
    )  # fmt: skip


async def end_finished(tx: Statements, *, now_ms: int) -> None:
    """Batches of which every box's command has come to its end."""
    done = await tx.fetch(
        "UPDATE command_batch SET state = 'done', finished_at_ms = $1 WHERE state = 'running' AND NOT EXISTS ("
        "SELECT 1 FROM command_batch_target t LEFT JOIN device_command c ON c.id = t.command_id "
        f"WHERE t.batch_id = command_batch.id AND (t.state = 'waiting' OR c.state IN ({_OPEN}))) RETURNING id, total",
        now_ms,
    )
    for row in done:
        log.info("command_batch.done", batch_id=row["id"], total=row["total"])


async def progress(tx: Statements, batch_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """batch id → how many of its boxes stand where: waiting, refused, stopped, or in a state of their command."""
    rows = await tx.fetch(
        "SELECT t.batch_id, coalesce(c.state, t.state) AS state, count(*) AS n FROM command_batch_target t "
        f"LEFT JOIN device_command c ON c.id = t.command_id WHERE t.batch_id {tx.among(1)} "
        "GROUP BY t.batch_id, coalesce(c.state, t.state)",
        sorted(set(batch_ids)),
    )
    counted: dict[str, dict[str, int]] = {batch_id: {} for batch_id in batch_ids}
    for row in rows:
        counted[row["batch_id"]][row["state"]] = row["n"]
    return counted


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
