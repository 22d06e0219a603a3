"""The last payment once more, for a customer who did not hear it: a new announcement that names what it repeats."""

from soundbox_server.announcements.service import Announced, Telling, queue_payment_announcement
from soundbox_server.commands import service
from soundbox_server.commands.service import Order
from soundbox_server.db import Statements
from soundbox_server.devices.state import DeviceState
from soundbox_server.errors import Conflict, NotFound

_LAST = """
SELECT m.id, p.id AS payment_id, p.terminal_id, p.paid_amount, p.paid_at_ms, merchant.brand_name
FROM outbox_message m JOIN payment p ON p.id = m.subject_id JOIN merchant ON merchant.id = p.merchant_id
WHERE m.recipient_id = $1 AND m.kind = 'payment_success' AND m.original_id IS NULL AND m.state <> 'suppressed'
  AND p.state = 'paid' AND p.terminal_id = $2
ORDER BY m.id DESC LIMIT 1
"""


async def replay_last(tx: Statements, order: Order, *, telling: Telling, now_ms: int) -> str:
    """Queue it and return the command's id. The command is done with that: what becomes of the announcement is among
    the box's notifications. Raises NotFound, and Conflict for a box that has nothing to repeat where it stands."""
    rows = await tx.fetch(
        "SELECT d.state, b.terminal_id FROM device d LEFT JOIN device_binding b ON b.device_id = d.id "
        f"AND b.unbound_at_ms IS NULL WHERE d.id = $1 {tx.lock('d')}",
        order.device_id,
    )
    if not rows:
        raise NotFound("No such device.", device_id=order.device_id)
    if rows[0]["state"] != DeviceState.BOUND:
        raise Conflict("This device stands at no terminal.", state=rows[0]["state"])
    told = await tx.fetch(_LAST, order.device_id, rows[0]["terminal_id"])
    if not told:
        raise Conflict("This device was told of no payment at its terminal.")
    last = told[0]
    again = Announced(
        payment_id=last["payment_id"],
        terminal_id=last["terminal_id"],
        merchant_name=last["brand_name"],
        amount=last["paid_amount"],
        paid_at_ms=last["paid_at_ms"],
        trace_id=order.trace_id,
        original_id=last["id"],
        device_id=order.device_id,
    )
    await queue_payment_announcement(tx, [again], telling=telling, now_ms=now_ms)
    queued = await tx.fetch(
        "SELECT id FROM outbox_message WHERE recipient_id = $1 AND original_id = $2 ORDER BY id DESC LIMIT 1",
        order.device_id,
        last["id"],
    )
    result = {"event_id": queued[0]["id"], "repeats": last["id"], "transaction_id": last["payment_id"]}
    return await service.note_done(tx, order, result=result, now_ms=now_ms)
