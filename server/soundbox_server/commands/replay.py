"""The last payment once more, for a customer who did not hear it: a new announcement that names what it repeats."""

from dataclasses import dataclass

from soundbox_server.announcements.service import Announced, Telling, queue_payment_announcement
from soundbox_server.codecs.choice import CODECS, require_command
from soundbox_server.commands import service
from soundbox_server.commands.service import Order
from soundbox_server.db import Row, Statements
from soundbox_server.devices.state import DeviceState
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.ids import lowest_id

PRESSED_AGAIN_MS = 10_000  # how long a box's button has no further effect
SLACK_MS = 120_000  # between the clocks of two machines of ours

_LAST = """
SELECT m.id, p.id AS payment_id, p.terminal_id, p.paid_amount, p.paid_at_ms, merchant.brand_name,
       merchant.announcement_policy
FROM outbox_message m JOIN payment p ON p.id = m.subject_id JOIN merchant ON merchant.id = p.merchant_id
WHERE m.recipient_id = $1 AND m.kind = 'payment_success' AND m.original_id IS NULL AND m.state <> 'suppressed'
  AND p.state = 'paid' AND m.id >= $4
  AND (p.terminal_id = $2 OR (p.outlet_id = $3 AND merchant.announcement_policy = 'outlet'))
ORDER BY m.id DESC LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What was queued, and what it repeats."""

    event_id: str
    repeats: str
    payment_id: str


async def replay_last(tx: Statements, order: Order, *, telling: Telling, now_ms: int) -> str:
    """Queue it and return the command's id. The command is done with that: what becomes of the announcement is among
    the box's notifications. Raises NotFound, Conflict for a box that has nothing to repeat where it stands, and
    CapabilityNotSupported for one that would say it as if it were another payment."""
    box = await _lock_box(tx, order.device_id)
    if box is None:
        raise NotFound("No such device.", device_id=order.device_id)
    require_command(CODECS[box["codec"]], order.kind.name)
    if box["state"] != DeviceState.BOUND:
        raise Conflict("This device stands at no terminal.", state=box["state"])
    again = await _say_again(tx, box, trace_id=order.trace_id, telling=telling, now_ms=now_ms)
    if again is None:
        raise Conflict("This device was told of no payment at its terminal.")
    result = {"event_id": again.event_id, "repeats": again.repeats, "transaction_id": again.payment_id}
    return await service.note_done(tx, order, result=result, now_ms=now_ms)


async def replay_pressed(
    tx: Statements, device_id: str, *, trace_id: str, telling: Telling, now_ms: int
) -> Replay | None:
    """Somebody pressed the box's button. None when there is nothing to repeat, or the last replay is not ten seconds
    old: a button is pressed twice, and its event may come twice."""
    box = await _lock_box(tx, device_id)
    if box is None or box["state"] != DeviceState.BOUND or await _just_replayed(tx, device_id, now_ms=now_ms):
        return None
    return await _say_again(tx, box, trace_id=trace_id, telling=telling, now_ms=now_ms)


async def _lock_box(tx: Statements, device_id: str) -> Row | None:
    rows = await tx.fetch(
        "SELECT d.id, d.state, d.codec, b.terminal_id, b.outlet_id, b.bound_at_ms FROM device d "
        f"LEFT JOIN device_binding b ON b.device_id = d.id AND b.unbound_at_ms IS NULL WHERE d.id = $1 {tx.lock('d')}",
        device_id,
    )
    return rows[0] if rows else None


async def _just_replayed(tx: Statements, device_id: str, *, now_ms: int) -> bool:
    return bool(
        await tx.fetch(
            "SELECT 1 FROM outbox_message WHERE recipient_id = $1 AND id >= $2 AND original_id IS NOT NULL "
            "AND kind = 'payment_success' AND created_at_ms > $3 LIMIT 1",
            device_id,
            lowest_id("ann", now_ms - PRESSED_AGAIN_MS - SLACK_MS),
            now_ms - PRESSED_AGAIN_MS,
        )
    )


async def _say_again(tx: Statements, box: Row, *, trace_id: str, telling: Telling, now_ms: int) -> Replay | None:
    """Queue the last payment that a locked box was told of where it stands, and that is still paid."""
    since = lowest_id("ann", box["bound_at_ms"] - SLACK_MS)  # what it was told elsewhere is not walked through
    told = await tx.fetch(_LAST, box["id"], box["terminal_id"], box["outlet_id"], since)
    if not told:
        return None
    last = told[0]
    again = Announced(
        payment_id=last["payment_id"],
        terminal_id=last["terminal_id"],
        merchant_name=last["brand_name"],
        amount=last["paid_amount"],
        paid_at_ms=last["paid_at_ms"],
        trace_id=trace_id,
        original_id=last["id"],
        device_id=box["id"],
        policy=last["announcement_policy"],
    )
    await queue_payment_announcement(tx, [again], telling=telling, now_ms=now_ms)
    queued = await tx.fetch(
        "SELECT id FROM outbox_message WHERE recipient_id = $1 AND original_id = $2 ORDER BY id DESC LIMIT 1",
        box["id"],
        last["id"],
    )
    return Replay(event_id=queued[0]["id"], repeats=last["id"], payment_id=last["payment_id"])
