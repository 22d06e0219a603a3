"""A box asks for a dynamic QR: where it stands, and how it hears the answer over MQTT."""

from dataclasses import dataclass
from typing import Literal

from soundbox_protocol.messages import DynamicQrResponse, encode
from soundbox_protocol.signing import sign, signed_length
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.announcements.service import KeyOf
from soundbox_server.db import Statements
from soundbox_server.errors import DeviceNotBound, SoundboxError
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery
from soundbox_server.payments.charging import (
    FIND,
    UNANSWERED,
    Order,
    Pending,
    open_charge,
    pending_of,
    require_amount,
    require_open,
    take_lease,
)
from soundbox_server.payments.state import PaymentState
from soundbox_server.providers.base import Method

REQUEST_LIFE_MS = 30_000  # a box's question over MQTT that is older is answered with a failure

Door = Literal["device", "mqtt"]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A box wants a QR. `trace_id` follows the payment to the ack of its announcement."""

    device_id: str
    terminal_id: str
    amount: int
    currency: str
    request_id: str
    door: Door
    trace_id: str


async def open_payment(tx: Statements, ask: Ask, *, provider: str, qr_life_ms: int, now_ms: int) -> Pending:
    """Store the payment and its attempt, or find the one this request made before. Raises as `order_of` and
    `open_charge` do."""
    return await open_charge(tx, await order_of(tx, ask), provider=provider, life_ms=qr_life_ms, now_ms=now_ms)


async def order_of(tx: Statements, ask: Ask) -> Order:
    """What the box asks for, at the place where it stands. Raises InvalidAmount, DeviceNotBound or Forbidden."""
    require_amount(ask.amount, currency=ask.currency, method=Method.QRIS_DYNAMIC)
    rows = await tx.fetch(
        "SELECT b.merchant_id, b.outlet_id, b.terminal_id, d.state, m.status, t.status AS terminal_status, "
        "o.status AS outlet_status FROM device_binding b JOIN device d ON d.id = b.device_id "
        "JOIN merchant m ON m.id = b.merchant_id JOIN terminal t ON t.id = b.terminal_id "
        "JOIN outlet o ON o.id = b.outlet_id "
        "WHERE b.device_id = $1 AND b.unbound_at_ms IS NULL",
        ask.device_id,
    )
    if not rows or rows[0]["terminal_id"] != ask.terminal_id or rows[0]["state"] != "bound":
        raise DeviceNotBound("This device is not bound to that terminal.", terminal_id=ask.terminal_id)
    require_open(rows[0])
    return Order(
        merchant_id=rows[0]["merchant_id"],
        outlet_id=rows[0]["outlet_id"],
        terminal_id=ask.terminal_id,
        amount=ask.amount,
        source=ask.door,
        trace_id=ask.trace_id,
        device_id=ask.device_id,
        request_id=ask.request_id,
    )


async def claim_unanswered(tx: Statements, *, now_ms: int, limit: int) -> list[Pending]:
    """Boxes' questions over MQTT that no process is asking the provider about right now, oldest first."""
    rows = await tx.fetch(
        FIND
        + f"WHERE a.state IN ({UNANSWERED}) AND a.lease_until_ms <= $1 AND p.source = 'mqtt' "
        + f"ORDER BY a.id LIMIT $2 {tx.lock('a', skip=True)}",
        now_ms,
        limit,
    )
    await take_lease(tx, [row["attempt_id"] for row in rows], now_ms=now_ms)
    # A lease taken before means that somebody asked, and we do not know how it ended.
    return [pending_of(row, resumed=row["lease_until_ms"] > 0) for row in rows]


async def end_leases(tx: Statements, *, now_ms: int) -> None:
    """Boxes' questions over MQTT that a process was asking the provider about when it ended: to be resumed now.

    A lease is as long as a box waits, so that nobody would otherwise resume in time.
    """
    await tx.execute(
        f"UPDATE payment_attempt SET lease_until_ms = $1 WHERE state IN ({UNANSWERED}) "
        "AND lease_until_ms > $1 AND payment_id IN (SELECT id FROM payment WHERE source = 'mqtt')",
        now_ms,
    )


async def answer_box(tx: Statements, pending: Pending, *, key_of: KeyOf, owner: str, now_ms: int) -> None:
    """Queue the answer to a question that came over MQTT: the QR, or the reason why there is none."""
    assert pending.device_id is not None  # a box asked
    assert pending.request_id is not None
    rows = await tx.fetch(
        "SELECT d.key_version, p.max_payload_bytes FROM device d LEFT JOIN device_presence p ON p.device_id = d.id "
        "WHERE d.id = $1",
        pending.device_id,
    )
    key = key_of(pending.device_id, rows[0]["key_version"])
    topic = downlink(pending.device_id, Downlink.DYNAMIC_QR_RESPONSE)
    body = encode(_response(pending, pending.request_id))
    if signed_length(body) > (rows[0]["max_payload_bytes"] or 512):
        body = encode(_refusal(pending.request_id, "DEVICE_CAPABILITY_NOT_SUPPORTED"))
    await _queue_response(
        tx,
        pending.device_id,
        topic,
        sign(key, topic, body),
        pending.payment_id,
        owner=owner,
        trace_id=pending.trace_id,
        now_ms=now_ms,
    )


async def refuse_box(tx: Statements, ask: Ask, error: SoundboxError, *, key_of: KeyOf, owner: str, now_ms: int) -> None:
    """Queue a refusal of a question that made no payment."""
    rows = await tx.fetch("SELECT key_version FROM device WHERE id = $1", ask.device_id)
    topic = downlink(ask.device_id, Downlink.DYNAMIC_QR_RESPONSE)
    body = encode(_refusal(ask.request_id, error.code))
    key = key_of(ask.device_id, rows[0]["key_version"])
    await _queue_response(
        tx, ask.device_id, topic, sign(key, topic, body), None, owner=owner, trace_id=ask.trace_id, now_ms=now_ms
    )


async def _queue_response(
    tx: Statements,
    device_id: str,
    topic: str,
    payload: bytes,
    payment_id: str | None,
    *,
    owner: str,
    trace_id: str,
    now_ms: int,
) -> None:
    message = outbox.Message(
        id=new_id("qrr"),
        kind="dynamic_qr_response",
        recipient_id=device_id,
        address=topic,
        body=payload,
        created_at_ms=now_ms,
        expires_at_ms=None,
        trace_id=trace_id,
        subject_id=payment_id,
        state=Delivery.SENT,
    )
    await outbox.queue(tx, [message], owner=owner)


def _response(pending: Pending, request_id: str) -> DynamicQrResponse:
    if pending.qr_payload is None or pending.payment_state not in (PaymentState.AWAITING_PAYMENT, PaymentState.PAID):
        return _refusal(request_id, pending.error_code or "PARTNER_TIMEOUT", pending.payment_id)
    return DynamicQrResponse(
        correlation_id=request_id,
        transaction_id=pending.payment_id,
        status="success",
        qr_payload=pending.qr_payload,
        expires_at=to_rfc3339(pending.expires_at_ms),
    )


def _refusal(request_id: str, code: str, payment_id: str | None = None) -> DynamicQrResponse:
    return DynamicQrResponse(correlation_id=request_id, transaction_id=payment_id, status="failed", error_code=code)
