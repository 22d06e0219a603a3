"""Asking a provider for a dynamic QR: stored first, then asked, then answered, each step durable before the next.

Two transactions with the provider's call between them. A crash or a lost answer leaves an attempt that the next
request, or the worker, resumes by query: the provider is never asked to charge twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from soundbox_protocol.messages import DynamicQrResponse, encode
from soundbox_protocol.signing import sign, signed_length
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.announcements.service import KeyOf
from soundbox_server.db import Row, Statements
from soundbox_server.errors import (
    DeviceNotBound,
    DuplicateRequest,
    Forbidden,
    GatewayError,
    IdempotencyKeyReused,
    InvalidAmount,
    SoundboxError,
)
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery
from soundbox_server.payments import qris
from soundbox_server.payments.service import insert_steps
from soundbox_server.payments.state import AttemptState, PaymentState, before
from soundbox_server.providers.base import (
    Charge,
    ChargeRequest,
    ChargeStatus,
    MerchantIdentity,
    PaymentReport,
    Provider,
    ProviderRefused,
    ProviderUnknown,
)

CEILING_IDR = 10_000_000  # QRIS: the most one payment may be
LONGEST_QR = 512  # EMVCo's ceiling
LEASE_MS = 30_000  # how long one process may take to get the provider's answer
REQUEST_LIFE_MS = 30_000  # a box's question over MQTT that is older is answered with a failure

Door = Literal["http", "mqtt"]

_UNANSWERED = before(AttemptState.ACTIVE)
_ENDED = (PaymentState.FAILED, PaymentState.EXPIRED, PaymentState.CANCELLED, PaymentState.NEEDS_REVIEW)


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


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A payment and the attempt that asks for its QR; `qr_payload` is there once the provider answered."""

    payment_id: str
    attempt_id: str
    reference: str
    provider: str
    device_id: str
    request_id: str
    door: Door
    amount: int
    payment_state: str
    attempt_state: str
    qr_payload: str | None
    error_code: str | None
    expires_at_ms: int
    created_at_ms: int
    merchant_name: str
    city: str
    postal_code: str
    mcc: str
    nmid: str
    criteria: str
    merchant_code: str
    trace_id: str
    resumed: bool = False  # somebody asked the provider before: query, do not create

    @property
    def ended(self) -> bool:
        """Without a QR, and nobody will ask for one any more."""
        return self.payment_state in _ENDED

    def charge_request(self) -> ChargeRequest:
        return ChargeRequest(
            reference=self.reference,
            amount_idr=self.amount,
            expires_at_ms=self.expires_at_ms,
            merchant=MerchantIdentity(
                merchant_id=self.merchant_code,
                name=self.merchant_name,
                city=self.city,
                postal_code=self.postal_code,
                mcc=self.mcc,
                criteria=self.criteria,
                nmid=self.nmid,
            ),
        )


async def open_payment(tx: Statements, ask: Ask, *, provider: str, qr_life_ms: int, now_ms: int) -> Pending:
    """Store the payment and its attempt, or find the one this request made before.

    The same request_id with another amount or terminal raises IdempotencyKeyReused; one whose answer is still under
    way raises DuplicateRequest.
    """
    _require_amount(ask)
    place = await _place_of(tx, ask)
    payment_id = new_id("txn")
    await tx.execute(
        "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, device_id, request_id, request_door, qr_mode, "
        "amount, currency, state, late, expires_at_ms, created_at_ms, trace_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, 'dynamic', $8, 'IDR', 'created', $9, $10, $11, $12) "
        "ON CONFLICT (device_id, request_id) DO NOTHING",
        payment_id, place["merchant_id"], place["outlet_id"], ask.terminal_id, ask.device_id, ask.request_id, ask.door,
        ask.amount, False, now_ms + qr_life_ms, now_ms, ask.trace_id,
    )  # fmt: skip
    stored = await tx.fetch(
        "SELECT id, amount, terminal_id FROM payment WHERE device_id = $1 AND request_id = $2 " + tx.lock("payment"),
        ask.device_id,
        ask.request_id,
    )
    if stored[0]["id"] == payment_id:
        await _insert_attempt(tx, payment_id, ask, provider=provider, now_ms=now_ms)
        return await _find(tx, payment_id)
    if (stored[0]["amount"], stored[0]["terminal_id"]) != (ask.amount, ask.terminal_id):
        raise IdempotencyKeyReused(
            "This request_id was used for another amount or terminal.", request_id=ask.request_id
        )
    return await _resume(tx, stored[0]["id"], door=ask.door, now_ms=now_ms)


def _require_amount(ask: Ask) -> None:
    if ask.currency != "IDR":
        raise InvalidAmount("Only IDR can be asked for.", currency=ask.currency)
    if not 1 <= ask.amount <= CEILING_IDR:
        raise InvalidAmount(f"The amount must be from 1 to {CEILING_IDR} rupiah.", amount=ask.amount)


async def _place_of(tx: Statements, ask: Ask) -> Row:
    """Where the box stands, or why it may not ask."""
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
    if rows[0]["status"] != "approved":
        raise Forbidden("This merchant is not approved to take payments.")
    if "disabled" in (rows[0]["terminal_status"], rows[0]["outlet_status"]):
        raise Forbidden("This terminal is disabled.")
    return rows[0]


async def _insert_attempt(tx: Statements, payment_id: str, ask: Ask, *, provider: str, now_ms: int) -> None:
    await tx.execute(
        "INSERT INTO payment_attempt (id, payment_id, provider, reference, state, lease_until_ms, created_at_ms) "
        "VALUES ($1, $2, $3, $4, 'new', $5, $6)",
        new_id("att"),
        payment_id,
        provider,
        new_id("ref"),
        now_ms + LEASE_MS if ask.door == "http" else 0,  # over MQTT the worker takes the lease when it asks
        now_ms,
    )
    await insert_steps(tx, [(new_id("pev"), payment_id, now_ms, "payment.created", "created", ask.door, ask.device_id)])


_FIND = """
SELECT p.id AS payment_id, p.device_id, p.request_id, p.request_door, p.amount, p.state AS payment_state,
       p.expires_at_ms, p.created_at_ms, p.trace_id,
       a.id AS attempt_id, a.reference, a.provider, a.state AS attempt_state, a.qr_payload, a.error_code,
       a.lease_until_ms, m.merchant_code, m.brand_name, m.city, m.postal_code, m.mcc, m.nmid, m.criteria
FROM payment p JOIN payment_attempt a ON a.payment_id = p.id JOIN merchant m ON m.id = p.merchant_id
"""


async def _find(tx: Statements, payment_id: str) -> Pending:
    rows = await tx.fetch(_FIND + "WHERE p.id = $1", payment_id)
    return _pending(rows[0])


def _pending(row: Row, *, resumed: bool = False) -> Pending:
    return Pending(
        payment_id=row["payment_id"],
        attempt_id=row["attempt_id"],
        reference=row["reference"],
        provider=row["provider"],
        device_id=row["device_id"],
        request_id=row["request_id"],
        door=row["request_door"],
        amount=row["amount"],
        payment_state=row["payment_state"],
        attempt_state=row["attempt_state"],
        qr_payload=row["qr_payload"],
        error_code=row["error_code"],
        expires_at_ms=row["expires_at_ms"],
        created_at_ms=row["created_at_ms"],
        merchant_name=row["brand_name"],
        city=row["city"],
        postal_code=row["postal_code"],
        mcc=row["mcc"],
        nmid=row["nmid"],
        criteria=row["criteria"],
        merchant_code=row["merchant_code"],
        trace_id=row["trace_id"],
        resumed=resumed,
    )


async def _resume(tx: Statements, payment_id: str, *, door: Door, now_ms: int) -> Pending:
    """What this request led to so far. Over HTTP whoever asks takes the lease on an answer that is still missing; over
    MQTT only the worker does (`claim_unanswered`), or a repeated question would hold up its own answer."""
    rows = await tx.fetch(_FIND + "WHERE p.id = $1", payment_id)
    found = rows[0]
    answered = found["qr_payload"] is not None or found["payment_state"] in _ENDED
    if answered or door == "mqtt":
        return _pending(found)
    if found["lease_until_ms"] > now_ms:
        raise DuplicateRequest("This request is still being answered. Ask again with the same request_id.")
    await _take_lease(tx, [found["attempt_id"]], now_ms=now_ms)
    return _pending(found, resumed=True)


async def _take_lease(tx: Statements, attempt_ids: Sequence[str], *, now_ms: int) -> None:
    await tx.many(
        "UPDATE payment_attempt SET lease_until_ms = $2, "
        "state = CASE WHEN state = 'new' THEN 'submitted' ELSE state END WHERE id = $1",
        [(attempt_id, now_ms + LEASE_MS) for attempt_id in attempt_ids],
    )


async def claim_unanswered(tx: Statements, *, now_ms: int, limit: int) -> list[Pending]:
    """Boxes' questions over MQTT that no process is asking the provider about right now, oldest first."""
    rows = await tx.fetch(
        _FIND
        + f"WHERE a.state IN ({_UNANSWERED}) AND a.lease_until_ms <= $1 AND p.request_door = 'mqtt' "
        + f"ORDER BY a.id LIMIT $2 {tx.lock('a', skip=True)}",
        now_ms,
        limit,
    )
    await _take_lease(tx, [row["attempt_id"] for row in rows], now_ms=now_ms)
    # A lease taken before means that somebody asked, and we do not know how it ended.
    return [_pending(row, resumed=row["lease_until_ms"] > 0) for row in rows]


async def end_leases(tx: Statements, *, now_ms: int) -> None:
    """Boxes' questions over MQTT that a process was asking the provider about when it ended: to be resumed now.

    A lease is as long as a box waits, so that nobody would otherwise resume in time.
    """
    await tx.execute(
        f"UPDATE payment_attempt SET lease_until_ms = $1 WHERE state IN ({_UNANSWERED}) "
        "AND lease_until_ms > $1 AND payment_id IN (SELECT id FROM payment WHERE request_door = 'mqtt')",
        now_ms,
    )


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What the provider said: a charge, or why there is none. `unknown` leaves the attempt to be queried later."""

    pending: Pending
    charge: Charge | None = None
    report: PaymentReport | None = None  # the customer was faster: to be taken like a callback
    error: SoundboxError | None = None
    unknown: bool = False


async def ask_provider(provider: Provider, pending: Pending) -> Answered:
    """One question to the provider, outside any transaction. Whoever was asked before is queried, not charged again."""
    try:
        if pending.resumed:
            status = await _query(provider, pending)
            if status.charge is not None:
                return Answered(pending=pending, charge=_checked(status.charge, pending), report=status.report)
        return Answered(pending=pending, charge=_checked(await provider.create(pending.charge_request()), pending))
    except ProviderUnknown as error:
        return Answered(pending=pending, error=error, unknown=True)
    except SoundboxError as error:
        return Answered(pending=pending, error=error)


async def _query(provider: Provider, pending: Pending) -> ChargeStatus:
    """Only "not found" says that nothing was charged: a refusal to answer leaves it open."""
    try:
        return await provider.query(pending.reference)
    except ProviderRefused as error:
        raise ProviderUnknown("The provider did not say where this charge stands.") from error


def _checked(charge: Charge, pending: Pending) -> Charge:
    """A QR that a customer's app would refuse, or that asks for other money, is worse than none."""
    decoded = qris.decode(charge.qr_payload)
    if not decoded.valid or qris.amount_idr(decoded) != pending.amount or len(charge.qr_payload) > LONGEST_QR:
        raise GatewayError("The provider issued a QR that does not fit the payment.", reference=pending.reference)
    return charge


async def record_answer(tx: Statements, answered: Answered, *, now_ms: int) -> Pending:
    """Store what the provider said. A payment that was paid meanwhile stays paid."""
    pending = answered.pending
    await tx.fetch("SELECT id FROM payment WHERE id = $1 " + tx.lock("payment"), pending.payment_id)
    if answered.charge is not None:
        await _record_charge(tx, pending, answered.charge, now_ms=now_ms)
    elif answered.unknown:
        await tx.execute(
            "UPDATE payment_attempt SET state = 'unknown', error_code = $2, lease_until_ms = $3 "
            f"WHERE id = $1 AND state IN ({_UNANSWERED})",
            pending.attempt_id, answered.error.code if answered.error else None, now_ms + 1_000,
        )  # fmt: skip
    else:
        await _record_failure(tx, pending, answered.error, now_ms=now_ms)
    return await _find(tx, pending.payment_id)


async def _record_charge(tx: Statements, pending: Pending, charge: Charge, *, now_ms: int) -> None:
    await tx.execute(
        "UPDATE payment_attempt SET "
        f"state = CASE WHEN state IN ({_UNANSWERED}) THEN 'active' ELSE state END, "
        "provider_reference = $2, qr_payload = $3, raw_request = $4, raw_response = $5, answered_at_ms = $6, "
        "error_code = NULL WHERE id = $1",
        pending.attempt_id, charge.provider_transaction_id, charge.qr_payload,
        orjson.dumps(pending.charge_request()), charge.body, now_ms,
    )  # fmt: skip
    waiting = await tx.fetch(
        "UPDATE payment SET state = 'awaiting_payment', expires_at_ms = $2 WHERE id = $1 AND state = 'created' "
        "RETURNING id",
        pending.payment_id,
        charge.expires_at_ms,
    )
    if waiting:
        step = (
            new_id("pev"),
            pending.payment_id,
            now_ms,
            "payment.qr_issued",
            "awaiting_payment",
            pending.provider,
            None,
        )
        await insert_steps(tx, [step])


async def _record_failure(tx: Statements, pending: Pending, error: SoundboxError | None, *, now_ms: int) -> None:
    code = error.code if error else "GATEWAY_ERROR"
    await tx.execute(
        "UPDATE payment_attempt SET state = 'failed', error_code = $2, answered_at_ms = $3 "
        f"WHERE id = $1 AND state IN ({_UNANSWERED})",
        pending.attempt_id,
        code,
        now_ms,
    )
    failed = await tx.fetch(
        "UPDATE payment SET state = 'failed' WHERE id = $1 AND state = 'created' RETURNING id", pending.payment_id
    )
    if failed:
        await insert_steps(
            tx, [(new_id("pev"), pending.payment_id, now_ms, "payment.failed", "failed", pending.provider, code)]
        )


async def answer_box(tx: Statements, pending: Pending, *, key_of: KeyOf, owner: str, now_ms: int) -> None:
    """Queue the answer to a question that came over MQTT: the QR, or the reason why there is none."""
    rows = await tx.fetch(
        "SELECT d.key_version, p.max_payload_bytes FROM device d LEFT JOIN device_presence p ON p.device_id = d.id "
        "WHERE d.id = $1",
        pending.device_id,
    )
    key = key_of(pending.device_id, rows[0]["key_version"])
    topic = downlink(pending.device_id, Downlink.DYNAMIC_QR_RESPONSE)
    body = encode(_response(pending))
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


def _response(pending: Pending) -> DynamicQrResponse:
    if pending.qr_payload is None or pending.payment_state not in (PaymentState.AWAITING_PAYMENT, PaymentState.PAID):
        return _refusal(pending.request_id, pending.error_code or "PARTNER_TIMEOUT", pending.payment_id)
    return DynamicQrResponse(
        correlation_id=pending.request_id,
        transaction_id=pending.payment_id,
        status="success",
        qr_payload=pending.qr_payload,
        expires_at=to_rfc3339(pending.expires_at_ms),
    )


def _refusal(request_id: str, code: str, payment_id: str | None = None) -> DynamicQrResponse:
    return DynamicQrResponse(correlation_id=request_id, transaction_id=payment_id, status="failed", error_code=code)


def stored_failure(pending: Pending) -> SoundboxError:
    """The failure that this request's payment ended with."""
    return GatewayError(
        "The provider refused this payment.", transaction_id=pending.payment_id, code=pending.error_code
    )
