"""Charging at a provider, whatever the method and the door: stored first, then asked, then answered, each step durable
before the next.

Two transactions with the provider's call between them. A crash or a lost answer leaves an attempt that the next
request, or the worker, resumes by query: the provider is never asked to charge twice.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import orjson

from soundbox_server.db import Row, Statements
from soundbox_server.errors import (
    Conflict,
    DuplicateRequest,
    Forbidden,
    GatewayError,
    IdempotencyKeyReused,
    InvalidAmount,
    NotFound,
    SoundboxError,
)
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.payments import qris
from soundbox_server.payments.asking import watch
from soundbox_server.payments.figures import count_answer
from soundbox_server.payments.methods import Payer, Source, ceiling_idr
from soundbox_server.payments.state import AttemptState, PaymentState, before
from soundbox_server.payments.timeline import insert_steps
from soundbox_server.providers.base import (
    Charge,
    ChargeRequest,
    ChargeState,
    ChargeStatus,
    Gateway,
    MerchantIdentity,
    Method,
    PaymentReport,
    ProviderRefused,
    ProviderUnknown,
)
from soundbox_server.providers.calls import Exchange, keeping_exchanges
from soundbox_server.providers.registry import Gateways

LONGEST_QR = 512  # EMVCo's ceiling
LEASE_MS = 30_000  # how long one process may take to get the provider's answer
MOST_ATTEMPTS = 3  # of one payment: a box waits half a minute, and not for a tour of all providers

UNANSWERED = before(AttemptState.ACTIVE)
_ENDED = (PaymentState.FAILED, PaymentState.EXPIRED, PaymentState.CANCELLED, PaymentState.NEEDS_REVIEW)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be paid, where and how. `trace_id` follows the payment to the ack of its announcement.

    `device_id` with `request_id`, and `order_code` within its merchant, each stand for one payment. `description` has
    at most 200 characters. `life_ms` is how long the payer has, where the method's own is not meant; `promised` is
    booked beside the money once it comes.
    """

    merchant_id: str
    outlet_id: str
    terminal_id: str
    amount: int
    source: Source
    trace_id: str
    method: str = Method.QRIS_DYNAMIC
    currency: str = "IDR"
    device_id: str | None = None
    request_id: str | None = None
    order_code: str | None = None
    description: str | None = None
    payer: Payer = field(default_factory=Payer)
    life_ms: int | None = None
    promised: tuple[ledger.Posting, ...] = ()
    credit_account: str | None = None  # of the ledger: the money is for it, and costs nothing


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A payment and the attempt that asks for its charge.

    Once the provider answered, `actions` holds what the payer needs, by the names of `Charge`: qr_payload,
    qr_image_url, va_number, biller_code, checkout_url, deeplink; `qr_payload` is there by itself too.
    """

    payment_id: str
    attempt_id: str
    reference: str
    provider: str
    merchant_id: str
    terminal_id: str
    device_id: str | None
    request_id: str | None
    order_code: str | None
    description: str | None
    source: Source
    method: Method
    amount: int
    payment_state: str
    attempt_state: str
    provider_reference: str | None
    qr_payload: str | None
    actions: Mapping[str, str]
    payer: Payer
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
    def answered(self) -> bool:
        """The provider issued what the payer needs. A payment can be paid before we heard of that."""
        return bool(self.actions) or self.attempt_state == AttemptState.ACTIVE

    @property
    def ended(self) -> bool:
        """Without a charge, and nobody will ask for one any more."""
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
            method=self.method,
            payer_name=self.payer.name,
            payer_phone=self.payer.phone,
            payer_email=self.payer.email,
            success_url=self.payer.success_url,
            failure_url=self.payer.failure_url,
        )


def require_amount(amount: int, *, currency: str, method: str) -> None:
    """Raise InvalidAmount for what this method can never take."""
    if currency != "IDR":
        raise InvalidAmount("Only IDR can be asked for.", currency=currency)
    most = ceiling_idr(method)
    if not 1 <= amount <= most:
        raise InvalidAmount(f"The amount must be from 1 to {most} rupiah.", amount=amount)


async def place_at(tx: Statements, merchant_id: str, *, terminal_id: str | None = None) -> tuple[str, str]:
    """The outlet and terminal where this merchant's payment is made: the one named, or its default terminal.

    Raises NotFound for another merchant's, Forbidden where the merchant or the place takes no payments.
    """
    rows = await tx.fetch(
        "SELECT t.id, t.outlet_id, m.status, t.status AS terminal_status, o.status AS outlet_status "
        "FROM terminal t JOIN merchant m ON m.id = t.merchant_id JOIN outlet o ON o.id = t.outlet_id "
        "WHERE t.merchant_id = $1 AND " + ("t.is_default" if terminal_id is None else "t.id = $2"),
        *((merchant_id,) if terminal_id is None else (merchant_id, terminal_id)),
    )
    if not rows:
        raise NotFound("No such terminal.", terminal_id=terminal_id)
    require_open(rows[0])
    return rows[0]["outlet_id"], rows[0]["id"]


def require_open(place: Row) -> None:
    """Raise Forbidden unless a payment may begin here: a row with status, terminal_status and outlet_status."""
    if place["status"] != "approved":
        raise Forbidden("This merchant is not approved to take payments.")
    if "disabled" in (place["terminal_status"], place["outlet_status"]):
        raise Forbidden("This terminal is disabled.")


async def open_charge(tx: Statements, order: Order, *, provider: str, life_ms: int, now_ms: int) -> Pending:
    """Store the payment and its attempt, or find the one that this request or order made before.

    Raises IdempotencyKeyReused for a request_id, Conflict for an order_code, that stands for another amount, method or
    terminal; DuplicateRequest while the first answer is still under way; InvalidAmount. Where the merchant and the
    terminal may take payments is the caller's to look at.
    """
    payment_id, found = await store_payment(tx, order, life_ms=life_ms, now_ms=now_ms)
    if found:
        return await _resume(tx, payment_id, source=order.source, now_ms=now_ms)
    # Over MQTT the worker takes the lease when it asks.
    leased = order.source != "mqtt"
    await insert_attempt(tx, payment_id, provider=provider, number=1, leased=leased, now_ms=now_ms)
    return await find_charge(tx, payment_id)


async def store_payment(tx: Statements, order: Order, *, life_ms: int, now_ms: int) -> tuple[str, bool]:
    """The payment's row alone, without an attempt, which is all that cash needs: its id, and whether it was there
    before. Raises as `open_charge` does."""
    require_amount(order.amount, currency=order.currency, method=order.method)
    payment_id = new_id("txn")
    made = await tx.fetch(
        "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, device_id, request_id, source, method, "
        "order_code, description, payer, qr_mode, amount, currency, state, late, expires_at_ms, created_at_ms, "
        "trace_id, promised) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'IDR', 'created', $14, "
        "$15, $16, $17, $18) ON CONFLICT DO NOTHING RETURNING id",
        payment_id, order.merchant_id, order.outlet_id, order.terminal_id, order.device_id, order.request_id,
        order.source, str(order.method), order.order_code, order.description, _payer_as_json(order.payer),
        "dynamic" if order.method == Method.QRIS_DYNAMIC else "none", order.amount, False, now_ms + life_ms, now_ms,
        order.trace_id, _promised_as_json(order.promised),
    )  # fmt: skip
    if not made:
        return await _made_before(tx, order), True
    if order.credit_account is not None:
        await tx.execute("UPDATE payment SET credit_account = $2 WHERE id = $1", payment_id, order.credit_account)
    step = (new_id("pev"), payment_id, now_ms, "payment.created", "created", order.source, order.device_id)
    await insert_steps(tx, [step])
    return payment_id, False


_MADE = "SELECT id, merchant_id, amount, method, terminal_id, order_code FROM payment WHERE "


async def _made_before(tx: Statements, order: Order) -> str:
    """The payment that this request or order stands for, locked until the commit."""
    same = (order.merchant_id, order.amount, order.method, order.terminal_id, order.order_code)
    if order.device_id is not None and order.request_id is not None:
        by_request = _MADE + "device_id = $1 AND request_id = $2 " + tx.lock("payment")
        if found := await tx.fetch(by_request, order.device_id, order.request_id):
            if _facts(found[0]) != same:
                raise IdempotencyKeyReused(
                    "This request_id was used for another amount or terminal.", request_id=order.request_id
                )
            return str(found[0]["id"])
    by_order = _MADE + "merchant_id = $1 AND order_code = $2 " + tx.lock("payment")
    (found_one,) = await tx.fetch(by_order, order.merchant_id, order.order_code)
    if _facts(found_one) != same:
        raise Conflict("This order_code belongs to another payment.", order_code=order.order_code)
    return str(found_one["id"])


def _facts(row: Row) -> tuple[object, ...]:
    return row["merchant_id"], row["amount"], row["method"], row["terminal_id"], row["order_code"]


async def insert_attempt(
    tx: Statements,
    payment_id: str,
    *,
    provider: str,
    number: int,
    leased: bool,
    now_ms: int,
    method: str | None = None,
) -> str:
    """A charge to be made, which is asked about by and by. Returns its id."""
    attempt_id = new_id("att")
    await tx.execute(
        "INSERT INTO payment_attempt (id, payment_id, number, provider, reference, state, lease_until_ms, "
        "created_at_ms, method) VALUES ($1, $2, $3, $4, $5, 'new', $6, $7, $8)",
        attempt_id, payment_id, number, provider, new_id("ref"), now_ms + LEASE_MS if leased else 0, now_ms, method,
    )  # fmt: skip
    await watch(tx, attempt_id, now_ms=now_ms)
    return attempt_id


FIND = """
SELECT p.id AS payment_id, p.merchant_id, p.terminal_id, p.device_id, p.request_id, p.order_code, p.description,
       p.source, coalesce(a.method, p.method) AS method, p.payer, p.amount, p.state AS payment_state, p.expires_at_ms,
       p.created_at_ms, p.trace_id,
       a.id AS attempt_id, a.reference, a.provider, a.state AS attempt_state, a.provider_reference, a.qr_payload,
       a.actions, a.error_code, a.lease_until_ms, m.merchant_code, m.brand_name, m.city, m.postal_code, m.mcc, m.nmid,
       m.criteria
FROM payment p JOIN payment_attempt a ON a.payment_id = p.id JOIN merchant m ON m.id = p.merchant_id
"""


async def find_charge(tx: Statements, payment_id: str) -> Pending:
    """The payment with its latest attempt."""
    return pending_of(await _latest(tx, payment_id))


async def _latest(tx: Statements, payment_id: str) -> Row:
    rows = await tx.fetch(FIND + "WHERE p.id = $1 ORDER BY a.number DESC LIMIT 1", payment_id)
    return rows[0]


def pending_of(row: Row, *, resumed: bool = False) -> Pending:
    """A row of `FIND`."""
    actions = orjson.loads(row["actions"]) if row["actions"] else {}
    return Pending(
        payment_id=row["payment_id"],
        attempt_id=row["attempt_id"],
        reference=row["reference"],
        provider=row["provider"],
        merchant_id=row["merchant_id"],
        terminal_id=row["terminal_id"],
        device_id=row["device_id"],
        request_id=row["request_id"],
        order_code=row["order_code"],
        description=row["description"],
        source=row["source"],
        method=Method(row["method"]),
        amount=row["amount"],
        payment_state=row["payment_state"],
        attempt_state=row["attempt_state"],
        provider_reference=row["provider_reference"],
        qr_payload=row["qr_payload"],
        actions=actions | ({"qr_payload": row["qr_payload"]} if row["qr_payload"] else {}),
        payer=Payer(**orjson.loads(row["payer"])) if row["payer"] else Payer(),
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


async def _resume(tx: Statements, payment_id: str, *, source: Source, now_ms: int) -> Pending:
    """What this request led to so far. Over HTTP whoever asks takes the lease on an answer that is still missing; over
    MQTT only the worker does, or a repeated question would hold up its own answer."""
    found = await _latest(tx, payment_id)
    pending = pending_of(found)
    if pending.answered or pending.ended or source == "mqtt":
        return pending
    if found["lease_until_ms"] > now_ms:
        raise DuplicateRequest("This request is still being answered. Ask again in a moment.")
    await take_lease(tx, [pending.attempt_id], now_ms=now_ms)
    return replace(pending, resumed=True)


async def take_lease(tx: Statements, attempt_ids: Sequence[str], *, now_ms: int) -> None:
    """Whoever takes it may ask the provider; nobody else does until it ends."""
    await tx.many(
        "UPDATE payment_attempt SET lease_until_ms = $2, "
        "state = CASE WHEN state = 'new' THEN 'submitted' ELSE state END WHERE id = $1",
        [(attempt_id, now_ms + LEASE_MS) for attempt_id in attempt_ids],
    )


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What the provider said: a charge, or why there is none.

    `unknown` leaves the attempt to be queried later, `lost` says that its charge can be shown to nobody any more: a new
    reference may be taken at the same provider. `exchanges` are what went over the wire.
    """

    pending: Pending
    charge: Charge | None = None
    report: PaymentReport | None = None  # the customer was faster: to be taken like a callback
    error: SoundboxError | None = None
    unknown: bool = False
    lost: bool = False
    exchanges: Sequence[Exchange] = ()

    @property
    def elsewhere(self) -> bool:
        """Nothing was charged, for sure: another provider may be asked."""
        return isinstance(self.error, ProviderRefused) and not self.unknown


def first_provider(gateways: Gateways, order: Order, *, resting: Collection[str]) -> str:
    """Who is asked first. Raises InvalidPaymentType or InvalidAmount where nobody can be."""
    require_amount(order.amount, currency=order.currency, method=order.method)
    return gateways.candidates(order.merchant_id, Method(order.method), order.amount, resting=resting)[0]


async def candidates_for(gateways: Gateways, pending: Pending) -> Sequence[str]:
    """Who may be asked for this payment; nobody, where what could be asked is no longer configured."""
    try:
        resting = await gateways.resting()
        return gateways.candidates(pending.merchant_id, pending.method, pending.amount, resting=resting)
    except SoundboxError:
        return ()


async def ask(gateways: Gateways, pending: Pending) -> Answered:
    """One question to the provider of this attempt, outside any transaction."""
    try:
        gateway = gateways.get(pending.provider)
    except ProviderRefused as error:  # its account is gone; what it was asked before stays open
        return Answered(pending=pending, error=error, unknown=pending.resumed)
    with keeping_exchanges() as exchanges:
        answered = await ask_provider(gateway, pending)
    return replace(answered, exchanges=exchanges)


async def ask_provider(gateway: Gateway, pending: Pending) -> Answered:
    """Whoever was asked before is queried, and charged only if that says that nothing was."""
    try:
        if pending.resumed:
            status = await _query(gateway, pending)
            if status.state != "not_found":
                return await _as_found(gateway, pending, status)
        return Answered(pending=pending, charge=_checked(await gateway.create(pending.charge_request()), pending))
    except ProviderUnknown as error:
        return Answered(pending=pending, error=error, unknown=True)
    except SoundboxError as error:
        return Answered(pending=pending, error=error)


async def _query(gateway: Gateway, pending: Pending) -> ChargeStatus:
    """Only "not found" says that nothing was charged: a refusal to answer leaves it open."""
    try:
        return await gateway.query(
            pending.reference, method=pending.method, provider_transaction_id=pending.provider_reference
        )
    except ProviderRefused as error:
        raise ProviderUnknown("The provider did not say where this charge stands.") from error


_OVER: frozenset[ChargeState] = frozenset({"failed", "expired", "cancelled"})


async def _as_found(gateway: Gateway, pending: Pending, status: ChargeStatus) -> Answered:
    """A charge that was made before we lost its answer."""
    if status.state in _OVER:
        over = ProviderRefused("The provider ended this charge.", state=status.state)
        return Answered(pending=pending, error=over)
    if status.charge is not None:
        return Answered(pending=pending, charge=_checked(status.charge, pending), report=status.report)
    if status.state == "paid":
        paid = Conflict("This payment is paid, and the provider does not repeat what it issued.")
        return Answered(pending=pending, report=status.report, error=paid, unknown=status.report is None)
    return await _give_up(gateway, pending)


async def _give_up(gateway: Gateway, pending: Pending) -> Answered:
    """The provider has the charge and does not repeat what to show, as SNAP's query does not: nobody ever saw it.

    It is cancelled, so that a new reference can be taken. What could reach the payer by another way, a wallet's push,
    stays unknown unless the provider says that it is cancelled.
    """
    try:
        await gateway.cancel(
            pending.reference, method=pending.method, provider_transaction_id=pending.provider_reference
        )
    except ProviderRefused as error:
        if pending.method not in (Method.QRIS_DYNAMIC, Method.CARD_HOSTED):
            raise ProviderUnknown("The provider neither shows this charge nor ends it.") from error
    lost = GatewayError("The provider's answer was lost.", reference=pending.reference)
    return Answered(pending=pending, error=lost, lost=True)


def _checked(charge: Charge, pending: Pending) -> Charge:
    """A QR that a customer's app would refuse, or that asks for other money, is worse than none."""
    if charge.amount_idr != pending.amount:
        raise GatewayError("The provider issued a charge over another amount.", reference=pending.reference)
    if charge.qr_payload or pending.method is Method.QRIS_DYNAMIC:
        _check_qr(charge, pending)
    if not actions_of(charge) and pending.method is not Method.OVO:  # OVO asks the payer on their own phone
        raise GatewayError("The provider issued nothing to pay by.", reference=pending.reference)
    return charge


def _check_qr(charge: Charge, pending: Pending) -> None:
    if not charge.qr_payload and charge.qr_image_url and pending.device_id is None:
        return  # a picture of the provider's, where no box has to draw it
    decoded = qris.decode(charge.qr_payload)
    if not decoded.valid or qris.amount_idr(decoded) != pending.amount or len(charge.qr_payload) > LONGEST_QR:
        raise GatewayError("The provider issued a QR that does not fit the payment.", reference=pending.reference)
    if decoded.qris is not None and qris.is_transfer(decoded.qris):
        raise GatewayError("The provider issued a transfer's QR, which pays no merchant.", reference=pending.reference)


def actions_of(charge: Charge) -> dict[str, str]:
    """What the payer needs, by the names of `Charge`."""
    given = {
        "qr_payload": charge.qr_payload,
        "qr_image_url": charge.qr_image_url,
        "va_number": charge.va_number,
        "biller_code": charge.biller_code,
        "checkout_url": charge.checkout_url,
        "deeplink": charge.deeplink,
    }
    return {name: value for name, value in given.items() if value}


async def record_answer(tx: Statements, answered: Answered, *, now_ms: int, candidates: Sequence[str] = ()) -> Pending:
    """Store what the provider said. A payment that was paid meanwhile stays paid.

    After a definite failure the next of `candidates` that was not asked yet gets an attempt of its own: the answer
    carries another `attempt_id` then, and that one is to be asked now.
    """
    pending = answered.pending
    issued = answered.charge is not None
    tx.after_commit.append(partial(count_answer, pending.provider, issued=issued, unknown=answered.unknown))
    await tx.fetch("SELECT id FROM payment WHERE id = $1 " + tx.lock("payment"), pending.payment_id)
    if answered.charge is not None:
        await _record_charge(tx, pending, answered, answered.charge, now_ms=now_ms)
    elif answered.unknown:
        await tx.execute(
            "UPDATE payment_attempt SET state = 'unknown', error_code = $2, lease_until_ms = $3, raw_request = $4, "
            f"raw_response = $5 WHERE id = $1 AND state IN ({UNANSWERED})",
            pending.attempt_id, answered.error.code if answered.error else None, now_ms + 1_000,
            *_as_evidence(answered.exchanges),
        )  # fmt: skip
    else:
        await _record_failure(tx, answered, candidates=candidates, now_ms=now_ms)
    return await find_charge(tx, pending.payment_id)


async def _record_charge(tx: Statements, pending: Pending, answered: Answered, charge: Charge, *, now_ms: int) -> None:
    actions: dict[str, Any] = {name: said for name, said in actions_of(charge).items() if name != "qr_payload"}
    await tx.execute(
        "UPDATE payment_attempt SET "
        f"state = CASE WHEN state IN ({UNANSWERED}) THEN 'active' ELSE state END, "
        "provider_reference = $2, qr_payload = $3, actions = $4, raw_request = $5, raw_response = $6, "
        "answered_at_ms = $7, error_code = NULL WHERE id = $1",
        pending.attempt_id, charge.provider_transaction_id or None, charge.qr_payload or None,
        orjson.dumps(actions).decode() if actions else None, *_as_evidence(answered.exchanges), now_ms,
    )  # fmt: skip
    waiting = await tx.fetch(
        "UPDATE payment SET state = 'awaiting_payment', expires_at_ms = $2 WHERE id = $1 AND state = 'created' "
        "RETURNING id",
        pending.payment_id,
        charge.expires_at_ms,
    )
    if waiting:
        kind = "payment.qr_issued" if charge.qr_payload else "payment.charge_issued"
        await _step(tx, pending, kind, PaymentState.AWAITING_PAYMENT, now_ms=now_ms)


async def _record_failure(tx: Statements, answered: Answered, *, candidates: Sequence[str], now_ms: int) -> None:
    """The attempt failed; the payment does only if nobody else is to be asked."""
    pending, code = answered.pending, answered.error.code if answered.error else "GATEWAY_ERROR"
    ours = await tx.fetch(
        "UPDATE payment_attempt SET state = 'failed', error_code = $2, answered_at_ms = $3, raw_request = $4, "
        f"raw_response = $5 WHERE id = $1 AND state IN ({UNANSWERED}) RETURNING id",
        pending.attempt_id, code, now_ms, *_as_evidence(answered.exchanges),
    )  # fmt: skip
    if not ours:
        return  # somebody else was answered, or the payment is over
    following = await _next_provider(tx, answered, candidates=candidates)
    if following is not None:
        number, provider = following
        attempt_id = await insert_attempt(
            tx, pending.payment_id, provider=provider, number=number, leased=True, now_ms=now_ms
        )
        await tx.execute("UPDATE payment SET current_attempt_id = $2 WHERE id = $1", pending.payment_id, attempt_id)
        await _step(tx, pending, "payment.asked_again", pending.payment_state, detail=code, now_ms=now_ms)
        return
    failed = await tx.fetch(
        "UPDATE payment SET state = 'failed' WHERE id = $1 AND state = 'created' RETURNING id", pending.payment_id
    )
    if failed:
        await _step(tx, pending, "payment.failed", PaymentState.FAILED, detail=code, now_ms=now_ms)


async def _next_provider(tx: Statements, answered: Answered, *, candidates: Sequence[str]) -> tuple[int, str] | None:
    """The next attempt's number and provider, where there may be one."""
    rows = await tx.fetch(
        "SELECT a.provider, p.state FROM payment_attempt a JOIN payment p ON p.id = a.payment_id "
        "WHERE a.payment_id = $1",
        answered.pending.payment_id,
    )
    if len(rows) >= MOST_ATTEMPTS or rows[0]["state"] != PaymentState.CREATED:
        return None
    asked = {row["provider"] for row in rows}
    others = [name for name in candidates if name not in asked]
    if answered.lost:
        return len(rows) + 1, answered.pending.provider
    if answered.elsewhere and others:
        return len(rows) + 1, others[0]
    return None


async def _step(
    tx: Statements, pending: Pending, kind: str, state: str, *, now_ms: int, detail: str | None = None
) -> None:
    await insert_steps(tx, [(new_id("pev"), pending.payment_id, now_ms, kind, state, pending.provider, detail)])


def _as_evidence(exchanges: Sequence[Exchange]) -> tuple[bytes | None, bytes | None]:
    """What was asked and what came back, each as JSON with one entry for a question; secrets are out of it already."""
    if not exchanges:
        return None, None
    asked = [{"asked": one.asked, "body": _text(one.request)} for one in exchanges]
    said = [{"status": one.status, "failure": one.failure, "body": _text(one.response)} for one in exchanges]
    return orjson.dumps(asked), orjson.dumps(said)


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def stored_failure(pending: Pending) -> SoundboxError:
    """The failure that this request's payment ended with."""
    return GatewayError(
        "The provider refused this payment.", transaction_id=pending.payment_id, code=pending.error_code
    )


def _payer_as_json(payer: Payer) -> str | None:
    given = {name: value for name, value in vars(payer).items() if value is not None}
    return orjson.dumps(given).decode() if given else None


def _promised_as_json(promised: Sequence[ledger.Posting]) -> str | None:
    return msgspec.json.encode(promised).decode() if promised else None


def promised_of(stored: str | None) -> tuple[ledger.Posting, ...]:
    """What a payment's row says is booked beside its money."""
    return msgspec.json.decode(stored, type=tuple[ledger.Posting, ...]) if stored else ()
