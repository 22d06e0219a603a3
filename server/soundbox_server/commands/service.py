"""Commands to boxes: queued through the outbox, answered by the box itself, and ended when nobody answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from soundbox_protocol.messages import MAX_PAYLOAD_BYTES, Command, CommandAck, DynamicQrDisplay
from soundbox_protocol.times import to_rfc3339
from soundbox_server.codecs.base import Addressee, KeyOf
from soundbox_server.codecs.choice import CODECS, Codec, require_command
from soundbox_server.commands.kinds import KINDS, Kind, life_ms
from soundbox_server.commands.state import OPEN, CommandState, may_follow
from soundbox_server.db import Row, Statements
from soundbox_server.devices.state import IN_SERVICE
from soundbox_server.errors import CapabilityNotSupported, Conflict, NotFound
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery

log = structlog.get_logger()

UNCONFIRMED_DISPLAY_MS = 10_000  # the box counts from when it gets it, so it gets it at once or not at all
MOST_OPEN = 20  # of one box: whatever waits longer than that is no help to anybody
_OPEN = ", ".join(f"'{state}'" for state in OPEN)
S = CommandState


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be done. `shown` is what operators may see of a payload that holds a secret."""

    device_id: str
    kind: Kind
    payload: Mapping[str, Any]
    requested_by: str | None
    trace_id: str
    shown: Mapping[str, Any] | None = None


_BOX = """
SELECT d.state, d.serial_number, d.codec, d.key_version, p.online, p.has_display,
       coalesce(p.max_payload_bytes, {smallest}) AS max_payload_bytes,
       (SELECT count(*) FROM device_command c WHERE c.device_id = d.id AND c.state IN ({open})) AS waiting
FROM device d LEFT JOIN device_presence p ON p.device_id = d.id WHERE d.id = $1 {lock}
"""
_INSERT = """
INSERT INTO device_command (id, device_id, name, payload, state, requested_by, created_at_ms, expires_at_ms, sent_at_ms,
                            trace_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


async def give(tx: Statements, order: Order, *, key_of: KeyOf, owner: str, now_ms: int) -> str:
    """Queue a command and return its id. An offline box leaves it queued; one that is online gets it right after the
    commit. An earlier one that this makes pointless is taken back.

    Raises NotFound, Conflict for a box out of service or one that has too many waiting, and CapabilityNotSupported for
    what the box cannot do or cannot take at once: all of them before anything is written.
    """
    # Locked: activation would change the key under a command that is being signed.
    box_sql = _BOX.format(open=_OPEN, smallest=MAX_PAYLOAD_BYTES, lock=tx.lock("d"))
    rows = await tx.fetch(box_sql, order.device_id)
    if not rows:
        raise NotFound("No such device.", device_id=order.device_id)
    box = rows[0]
    if box["state"] not in IN_SERVICE:
        raise Conflict("This device is not in service.", state=box["state"])
    codec = CODECS[box["codec"]]
    _require_capable(order, codec, has_display=box["has_display"])
    pointless = await _made_pointless(tx, order)
    if box["waiting"] - len(pointless) >= MOST_OPEN:
        raise Conflict("This device has too many commands waiting already.", waiting=box["waiting"])
    to = Addressee(device_id=order.device_id, serial_number=box["serial_number"], key_version=box["key_version"])
    online = bool(box["online"]) and not codec.traits.unconfirmed
    message = _message(order, codec, to, key_of, online=online, now_ms=now_ms)
    if len(message.body) > box["max_payload_bytes"]:
        raise CapabilityNotSupported(
            "This is more than the device can take at once.", bytes=len(message.body), most=box["max_payload_bytes"]
        )
    await _supersede(tx, pointless, now_ms=now_ms)
    await _insert(
        tx, order, message.id, S.SENT if online else S.QUEUED, expires_at_ms=message.expires_at_ms or now_ms,
        sent_at_ms=now_ms if online else None, now_ms=now_ms,
    )  # fmt: skip
    await outbox.queue(tx, [message], owner=owner)
    return message.id


def _require_capable(order: Order, codec: Codec, *, has_display: bool | None) -> None:
    require_command(codec, order.kind.name)
    if order.kind.travels == "display" and has_display is not None and not has_display:
        raise CapabilityNotSupported("This device has no display.", command_name=order.kind.name)


async def _insert(
    tx: Statements,
    order: Order,
    command_id: str,
    state: CommandState,
    *,
    expires_at_ms: int,
    sent_at_ms: int | None,
    now_ms: int,
) -> None:
    shown = order.payload if order.shown is None else order.shown
    await tx.execute(
        _INSERT, command_id, order.device_id, order.kind.name, _json(shown), state.value, order.requested_by, now_ms,
        expires_at_ms, sent_at_ms, order.trace_id,
    )  # fmt: skip


async def note_done(tx: Statements, order: Order, *, result: Mapping[str, Any], now_ms: int) -> str:
    """A command that is done with the transaction that gives it; returns its id."""
    command_id = new_id("cmd")
    await _insert(tx, order, command_id, S.SUCCEEDED, expires_at_ms=now_ms, sent_at_ms=now_ms, now_ms=now_ms)
    await tx.execute(
        "UPDATE device_command SET result = $2, finished_at_ms = $3 WHERE id = $1", command_id, _json(result), now_ms
    )
    return command_id


# To a box that answers nothing: what it was told is not taken back, though nobody has noted it here yet.
_HANDED_OVER = (
    "SELECT 1 FROM outbox_message m WHERE m.id = device_command.id AND m.unconfirmed AND m.state = 'published'"
)


async def _made_pointless(tx: Statements, order: Order) -> Sequence[Row]:
    """What waits for this box and is of no use any more once this one is given; its messages are locked."""
    group = order.kind.only_the_latest
    names = [name for name, kind in KINDS.items() if group is not None and kind.only_the_latest == group]
    if not names:
        return ()
    waiting = await tx.fetch(
        f"SELECT id FROM device_command WHERE device_id = $1 AND name {tx.among(2)} AND state IN ('queued', 'sent') "
        "ORDER BY id",
        order.device_id,
        names,
    )
    ids = [row["id"] for row in waiting]
    if not ids:
        return ()
    await _lock_messages(tx, ids)
    return await tx.fetch(
        f"SELECT id, state FROM device_command WHERE id {tx.among(1)} AND state IN ('queued', 'sent') "
        f"AND NOT EXISTS ({_HANDED_OVER}) ORDER BY id {tx.lock('device_command')}",
        ids,
    )


async def _supersede(tx: Statements, pointless: Sequence[Row], *, now_ms: int) -> None:
    """One that was sent may have been heard: it is not taken back, only not sent again."""
    for row in pointless:
        state = S.CANCELLED if row["state"] == S.QUEUED else S.EXPIRED
        await tx.execute(
            "UPDATE outbox_message SET state = 'expired', reason = 'superseded', due_at_ms = NULL, "
            "finished_at_ms = $2 WHERE id = $1 AND state IN ('queued', 'published') AND finished_at_ms IS NULL",
            row["id"],
            now_ms,
        )
        await tx.execute(
            "UPDATE device_command SET state = $2, reason = 'superseded', finished_at_ms = $3 WHERE id = $1",
            row["id"],
            state.value,
            now_ms,
        )


def _life_ms(order: Order) -> int:
    return life_ms(order.kind, order.payload)


def _said(order: Order, command_id: str, now_ms: int) -> Command | DynamicQrDisplay:
    """The message that carries it: what is shown travels where everything that is shown does."""
    expires_at = to_rfc3339(now_ms + _life_ms(order))
    if order.kind.travels == "display":
        shows = "qr_payload" in order.payload
        return DynamicQrDisplay(
            command_id=command_id,
            action="show" if shows else "clear",
            qr_payload=order.payload.get("qr_payload"),
            amount=order.payload.get("amount"),
            expires_at=expires_at,
        )
    return Command(
        command_id=command_id,
        command_name=order.kind.name,
        payload=dict(order.payload),
        issued_at=to_rfc3339(now_ms),
        expires_at=expires_at,
    )


def _message(order: Order, codec: Codec, to: Addressee, key_of: KeyOf, *, online: bool, now_ms: int) -> outbox.Message:
    command_id, life_ms = new_id("cmd"), _life_ms(order)
    written = codec.message(to, _said(order, command_id, now_ms), key_of=key_of, now_ms=now_ms)
    if codec.traits.unconfirmed and order.kind.travels == "display":
        life_ms = min(life_ms, UNCONFIRMED_DISPLAY_MS)
    return outbox.Message(
        id=command_id,
        kind="command",
        recipient_id=order.device_id,
        address=written.topic,
        body=written.body,
        created_at_ms=now_ms,
        expires_at_ms=now_ms + life_ms,
        trace_id=order.trace_id,
        unsigned=codec.traits.unsigned,
        unconfirmed=codec.traits.unconfirmed,
        state=Delivery.PUBLISHED if online else Delivery.QUEUED,
    )


async def cancel(tx: Statements, *, device_id: str, command_id: str, now_ms: int) -> bool:
    """Take back what was never sent; True when this call did it, False when it was so. Raises NotFound, and Conflict
    for what is on its way already: the box may be doing it."""
    await _lock_messages(tx, [command_id])
    rows = await tx.fetch(
        "SELECT state FROM device_command WHERE id = $1 AND device_id = $2 " + tx.lock("device_command"),
        command_id,
        device_id,
    )
    if not rows:
        raise NotFound("No such command of this device.", command_id=command_id)
    if rows[0]["state"] == S.CANCELLED:
        return False
    if rows[0]["state"] != S.QUEUED:
        raise Conflict("Only a command that was not sent yet can be cancelled.", state=rows[0]["state"])
    if not await _take_back(tx, [command_id], now_ms=now_ms):
        raise Conflict("The command has just been sent.", state=S.SENT.value)
    return True


async def cancel_unsent(tx: Statements, command_ids: Sequence[str], *, now_ms: int) -> None:
    """Take back those of these that were never sent; the others go on, each to its own end."""
    await _lock_messages(tx, command_ids)
    queued = await tx.fetch(
        f"SELECT id FROM device_command WHERE id {tx.among(1)} AND state = 'queued' "
        f"ORDER BY id {tx.lock('device_command')}",
        list(command_ids),
    )
    await _take_back(tx, [row["id"] for row in queued], now_ms=now_ms)


async def _take_back(tx: Statements, command_ids: Sequence[str], *, now_ms: int) -> bool:
    """End those of these queued commands that were not sent; whether there was one. The sweep may have sent one a
    moment ago: the message's attempt says so, and its row's lock decides."""
    unsent = await tx.fetch(
        "UPDATE outbox_message SET state = 'expired', reason = 'cancelled', due_at_ms = NULL, finished_at_ms = $2 "
        f"WHERE id {tx.among(1)} AND state = 'queued' AND attempt = 0 RETURNING id",
        list(command_ids),
        now_ms,
    )
    await tx.many(
        "UPDATE device_command SET state = 'cancelled', finished_at_ms = $2 WHERE id = $1",
        [(row["id"], now_ms) for row in unsent],
    )
    return bool(unsent)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a box says became of a command."""

    command_id: str
    device_id: str
    status: str  # delivered, progress, succeeded, failed, rejected, timeout
    reason: str | None
    result: Mapping[str, Any] | None
    source: str  # http | mqtt


def answer(device_id: str, ack: CommandAck, *, source: str) -> Answer:
    """A box's word as it is recorded."""
    return Answer(
        command_id=ack.command_id,
        device_id=device_id,
        status=ack.status,
        reason=ack.reason,
        result=ack.result_payload,
        source=source,
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an answer did. `state` is None for a command that is not this box's."""

    command_id: str
    device_id: str
    state: CommandState | None
    moved: bool = False
    conflicting: bool = False
    trace_id: str | None = None


_ANSWERED = """
SELECT c.id, c.device_id, c.name, c.state, c.last_ack, c.trace_id, p.command_progress
FROM device_command c LEFT JOIN device_presence p ON p.device_id = c.device_id
WHERE c.id {among} ORDER BY c.id {lock}
"""
_MOVE = """
UPDATE device_command SET state = $2, reason = $3, last_ack = $4, result = coalesce($5, result),
  delivered_at_ms = coalesce(delivered_at_ms, $6), result_due_at_ms = $7, finished_at_ms = $8
WHERE id = $1
"""
_KEEP = """
INSERT INTO device_command_ack (command_id, status, conflicting, reason, result, source, received_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (command_id, status) DO UPDATE SET
  reason = excluded.reason, result = excluded.result, source = excluded.source, received_at_ms = excluded.received_at_ms
WHERE excluded.status = 'progress'
"""


async def take_answers(tx: Statements, answers: Sequence[Answer], *, now_ms: int) -> list[Verdict]:
    """Record what boxes say, in the order they said it. Terminal states never move: what comes later, or says
    otherwise, is kept as conflicting. An answer about another box's command changes nothing."""
    ids = sorted({answer.command_id for answer in answers})
    await _lock_messages(tx, ids)
    rows = await tx.fetch(_ANSWERED.format(among=tx.among(1), lock=tx.lock("c")), ids)
    known = {row["id"]: _Standing.of(row) for row in rows}
    verdicts = [await _take(tx, known.get(answer.command_id), answer, now_ms) for answer in answers]
    tx.after_commit.append(partial(_report, verdicts))
    return verdicts


def _report(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        facts = {"command_id": verdict.command_id, "device_id": verdict.device_id, "trace_id": verdict.trace_id}
        if verdict.state is None:
            log.warning("command.not_its_own", **facts)
        elif verdict.moved:
            log.info("command." + verdict.state.value, **facts)
        elif verdict.conflicting:
            log.warning("command.conflicting_ack", state=verdict.state.value, **facts)


async def _lock_messages(tx: Statements, ids: Sequence[str]) -> None:
    """Before the commands: a birth locks the messages first too, and may come with an answer."""
    await tx.fetch(f"SELECT id FROM outbox_message WHERE id {tx.among(1)} ORDER BY id {tx.lock('outbox_message')}", ids)


@dataclass
class _Standing:
    device_id: str
    name: str
    state: CommandState
    trace_id: str
    tells_the_end: bool

    @classmethod
    def of(cls, row: Row) -> "_Standing":
        return cls(
            device_id=row["device_id"],
            name=row["name"],
            state=S(row["state"]),
            trace_id=row["trace_id"],
            tells_the_end=bool(row["command_progress"]),
        )


async def _take(tx: Statements, standing: _Standing | None, answer: Answer, now_ms: int) -> Verdict:
    if standing is None or standing.device_id != answer.device_id:
        return Verdict(command_id=answer.command_id, device_id=answer.device_id, state=None)
    wanted = _proved(answer, standing)
    moves = may_follow(standing.state, wanted)
    conflicting = not moves and not await _is_repeat(tx, standing, answer, wanted)
    if moves:
        await _move(tx, answer, wanted, KINDS[standing.name], now_ms)
        standing.state = wanted
    await tx.execute(
        _KEEP, answer.command_id, answer.status, conflicting, answer.reason, _json_or_none(answer.result),
        answer.source, now_ms,
    )  # fmt: skip
    return Verdict(
        command_id=answer.command_id,
        device_id=answer.device_id,
        state=standing.state,
        moved=moves,
        conflicting=conflicting,
        trace_id=standing.trace_id,
    )


def _proved(answer: Answer, standing: _Standing) -> CommandState:
    """`delivered` is the end of it over HTTP, and from a box that never says more than that."""
    if answer.status == "progress":
        return S.DELIVERED
    if answer.status == "delivered" and (answer.source == "http" or not standing.tells_the_end):
        return S.SUCCEEDED
    return S(answer.status)


async def _is_repeat(tx: Statements, standing: _Standing, answer: Answer, wanted: CommandState) -> bool:
    """Whether the box said this before, when it still counted, or says what is so."""
    if standing.state == wanted:
        return True
    said = await tx.fetch(
        "SELECT conflicting FROM device_command_ack WHERE command_id = $1 AND status = $2",
        answer.command_id,
        answer.status,
    )
    return bool(said) and not said[0]["conflicting"]


_PROOF = {
    S.DELIVERED: "received",
    S.SUCCEEDED: "played",
    S.REJECTED: "rejected",
    S.FAILED: "failed",
    S.TIMEOUT: "failed",
}


async def _move(tx: Statements, answer: Answer, wanted: CommandState, kind: Kind, now_ms: int) -> None:
    delivered = wanted is S.DELIVERED
    await tx.execute(
        _MOVE, answer.command_id, wanted.value, answer.reason, answer.status, _json_or_none(answer.result), now_ms,
        now_ms + kind.result_within_ms if delivered else None, None if delivered else now_ms,
    )  # fmt: skip
    await _end_delivery(tx, answer.command_id, answer.device_id, wanted, answer.reason, now_ms)


async def _end_delivery(
    tx: Statements, command_id: str, device_id: str, state: CommandState, reason: str | None, now_ms: int
) -> None:
    """The message that carries it is not sent again, and ends as the command does."""
    answer = outbox.Answer(message_id=command_id, recipient_id=device_id, status=_PROOF[state], reason=reason)
    await outbox.acknowledge(tx, [answer], now_ms=now_ms)


_UNCONFIRMED = """
UPDATE device_command SET state = 'unconfirmed', sent_at_ms = $1, finished_at_ms = $1 WHERE id IN (
  SELECT c.id FROM device_command c JOIN outbox_message m ON m.id = c.id
  WHERE c.state = 'queued' AND m.unconfirmed AND m.state = 'published' ORDER BY c.id {lock})
"""
_SENT = """
UPDATE device_command SET state = 'sent', sent_at_ms = $1 WHERE id IN (
  SELECT c.id FROM device_command c JOIN outbox_message m ON m.id = c.id
  WHERE c.state = 'queued' AND m.attempt > 0 AND NOT m.unconfirmed ORDER BY c.id {lock})
"""
_EXPIRED = """
UPDATE device_command SET state = 'expired', finished_at_ms = $1,
  reason = (SELECT m.reason FROM outbox_message m WHERE m.id = device_command.id)
WHERE id IN (
  SELECT c.id FROM device_command c JOIN outbox_message m ON m.id = c.id
  WHERE c.state IN ('queued', 'sent') AND (m.state = 'expired' OR c.expires_at_ms <= $1) ORDER BY c.id {lock})
"""
_OVERDUE = """
SELECT c.id, c.device_id FROM device_command c JOIN outbox_message m ON m.id = c.id
WHERE c.state = 'delivered' AND c.result_due_at_ms <= $1 ORDER BY c.id LIMIT 200 {lock}
"""


async def follow_up(tx: Statements, *, now_ms: int) -> None:
    """Note what has been sent meanwhile, and end what nobody had in time and what a box had and told no end of."""
    await tx.execute(_UNCONFIRMED.format(lock=tx.lock("c", skip=True)), now_ms)
    await tx.execute(_SENT.format(lock=tx.lock("c", skip=True)), now_ms)
    await tx.execute(_EXPIRED.format(lock=tx.lock("c", skip=True)), now_ms)
    for row in await tx.fetch(_OVERDUE.format(lock=tx.lock("c, m", skip=True)), now_ms):
        await tx.execute(
            "UPDATE device_command SET state = 'timeout', reason = 'no_result', result_due_at_ms = NULL, "
            "finished_at_ms = $2 WHERE id = $1",
            row["id"],
            now_ms,
        )
        await _end_delivery(tx, row["id"], row["device_id"], S.TIMEOUT, "no_result", now_ms)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))  # a box's own integers may be longer than 64 bits


def _json_or_none(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else _json(value)
