"""Reference 002's API for points of sale: its paths, its words, and its envelope `{code, data}` or `{code, message}`.

Translation only. Amounts are whole rupiah: a fraction, or the form of one (33000.0), is refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements
from soundbox_server.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    InvalidAmount,
    InvalidPaymentType,
    NotFound,
    PartnerTimeout,
    TransactionNotFound,
)
from soundbox_server.fields import Email, Id, Name, OrderCode, Whole
from soundbox_server.http import BESIDE_THE_ERROR, ErrorForm, Reader, answer, problems, request_id
from soundbox_server.merchants.tills import till_of
from soundbox_server.payments.cash import take_cash
from soundbox_server.payments.charging import Order, Pending, find_charge, place_at
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.methods import CEILING_IDR, MOST_IDR, Payer, PaymentMethod
from soundbox_server.payments.models import Payment
from soundbox_server.payments.pictures import USUAL_PX
from soundbox_server.payments.qr_routes import IfNoneMatch, Size, drawn, show_picture, waiting_payload
from soundbox_server.payments.state import OPEN
from soundbox_server.payments.tenants import payment_of

router = APIRouter(tags=["pos"])
testing = APIRouter(tags=["pos"])  # served where the provider is the simulator

M = PaymentMethod
METHODS: Mapping[str, PaymentMethod] = {
    "qris": M.QRIS_DYNAMIC, "gopay": M.GOPAY, "ovo": M.OVO, "dana": M.DANA, "shopeepay": M.SHOPEEPAY,
    "linkaja": M.LINKAJA, "va_bca": M.VA_BCA, "va_bni": M.VA_BNI, "va_bri": M.VA_BRI, "va_mandiri": M.VA_MANDIRI,
    "credit_card": M.CARD_HOSTED, "cash": M.CASH,
}  # fmt: skip
_UNASKED = {M.QRIS_STATIC.value: "qris", M.WALLET.value: "wallet"}
_WORDS = {method.value: word for word, method in METHODS.items()} | _UNASKED
# What was given back, or taken back, is no money of the merchant's any more, and the reference has one word for that.
STATUS = {
    "created": "pending", "awaiting_payment": "pending", "needs_review": "pending", "paid": "paid",
    "partially_refunded": "paid", "disputed": "paid", "refunded": "canceled", "reversed": "canceled",
    "cancelled": "canceled", "expired": "expired", "failed": "failed",
}  # fmt: skip

ERRORS = ErrorForm(
    name="PosError",
    paths=("/api/v1/pos",),
    schema={
        "type": "object",
        "title": "PosError",
        "description": "Reference 002's error: `code` is the HTTP status, `error` is the code to program against.",
        "required": ["code", "message", "error", "details", "request_id", "timestamp"],
        "properties": {
            "code": {"type": "integer"},
            "message": {"type": "string"},
            "error": {"type": "string"},
            "details": {"type": "object"},
            **BESIDE_THE_ERROR,
        },
    },
    say=lambda problem: {
        "code": problem["status"],
        "message": problem["message"],
        "error": problem["code"],
        **{name: problem[name] for name in ("details", "errors", "request_id", "timestamp") if name in problem},
    },
)


def _bounds_of_methods(schema: dict[str, Any]) -> None:
    """For the description: what depends on the method."""
    for_ovo = {"properties": {"customer_phone": {"type": "string"}}, "required": ["customer_phone"]}
    schema["allOf"] = [
        {
            "if": {"properties": {"method": {"const": "qris"}}},
            "then": {"properties": {"amount": {"maximum": CEILING_IDR}}},
        },
        {"if": {"properties": {"method": {"const": "ovo"}}}, "then": for_ovo},
    ]


WebAddress = Annotated[str, Field(pattern=r"^https?://[!-~]{1,480}$")]
Phone = Annotated[str, Field(pattern=r"^\+62[0-9]{8,13}$", examples=["+6281234567890"])]


class NewPayment(BaseModel):
    """What is to be paid. `order_code` is the merchant's own name for it: asked again, it is answered again."""

    model_config = ConfigDict(extra="ignore", strict=True, json_schema_extra=_bounds_of_methods)

    order_code: Annotated[OrderCode, Field(examples=["TRX-MC01-BRN-251013-5UJW"])]
    method: Annotated[
        Literal[
            "qris", "gopay", "ovo", "dana", "shopeepay", "linkaja", "va_bca", "va_bni", "va_bri", "va_mandiri",
            "credit_card", "cash",
        ],
        Field(examples=["qris"]),
    ]  # fmt: skip
    amount: Whole = Field(
        examples=[33000], description="whole rupiah", json_schema_extra={"minimum": 1, "maximum": MOST_IDR}
    )
    currency: Literal["IDR"] = "IDR"
    customer_name: Name | None = None
    customer_email: Email | None = None
    customer_phone: Annotated[Phone | None, Field(description="OVO asks the payer there")] = None
    success_url: WebAddress | None = None
    failure_url: WebAddress | None = None
    terminal_id: Annotated[
        Id | None, Field(description="ours: the till whose box speaks; default: the merchant's default one")
    ] = None


class Extra(BaseModel):
    """What the provider calls it. Only what there is."""

    provider: str
    provider_reference: str | None = None
    qr_string: str | None = None


class CreatedPayment(BaseModel):
    """Of what a payer needs only what the method has."""

    reference_id: str
    transaction_id: str
    external_id: str
    order_code: str
    status: Literal["pending", "paid", "failed", "expired", "canceled"]
    method: str
    amount: int
    currency: Literal["IDR"]
    channel_code: Literal["QR_CODE", "EWALLET", "VIRTUAL_ACCOUNT", "CARDS", "CASH"]
    expires_at: AwareDatetime | None = None
    paid_at: AwareDatetime | None = None
    qr_string: str | None = None
    qr_url: str | None = None
    checkout_url: str | None = None
    va_number: str | None = None
    biller_code: str | None = None
    extra: Extra | None = None


class Created(BaseModel):
    code: Literal[200]
    data: CreatedPayment


_CREATED: dict[int | str, dict[str, Any]] = {
    200: {"model": Created},
    **problems(InvalidAmount, InvalidPaymentType, Forbidden, NotFound, Conflict, GatewayError, PartnerTimeout),
}


@router.post("/api/v1/pos/payments", responses=_CREATED)
async def create_payment(
    request: Request, asked: NewPayment, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """Ask a customer for money. An order_code stands for one payment: the same one again gets the same answer, another
    amount under it is a conflict. Cash is paid at once, and no box speaks of it."""
    trace_id = request_id(request)

    async def order_of(tx: Statements) -> Order:
        return await _order(tx, asked, organisation_id=caller.organisation_id, actor=actor, trace_id=trace_id)

    if asked.method == "cash":

        async def take(tx: Statements) -> Response:
            return await once.answer(tx, lambda: _take_cash(tx, order_of))

        taken: Response = await request.app.state.database.write(take)
        return taken
    desk: ChargeDesk = request.app.state.charge_desk
    base = request.app.state.public_url
    return await desk.issue(order_of, show=lambda pending: _created(pending, base), once=once)


async def _order(tx: Statements, asked: NewPayment, *, organisation_id: str, actor: Actor, trace_id: str) -> Order:
    till = await till_of(tx, organisation_id, terminal_id=asked.terminal_id)
    method = METHODS[asked.method]
    if method is not M.CASH:
        await place_at(tx, till.merchant_id, terminal_id=till.terminal_id)
    order = Order(
        merchant_id=till.merchant_id,
        outlet_id=till.outlet_id,
        terminal_id=till.terminal_id,
        amount=asked.amount,
        source="pos",
        trace_id=trace_id,
        method=method.value,
        order_code=asked.order_code,
        payer=Payer(
            name=asked.customer_name,
            phone=asked.customer_phone,
            email=asked.customer_email,
            success_url=asked.success_url,
            failure_url=asked.failure_url,
        ),
    )
    details = {"order_code": asked.order_code, "amount": asked.amount, "method": asked.method}
    await record(tx, actor, "transaction.asked", ("merchant", till.merchant_id), details=details)
    return order


async def _take_cash(tx: Statements, order_of: Any) -> Response:
    now_ms = clock.now_ms()
    order: Order = await order_of(tx)
    payment_id, was_there = await take_cash(tx, order, paid_at_ms=now_ms, now_ms=now_ms)
    paid_at_ms = now_ms
    if was_there:
        (row,) = await tx.fetch("SELECT paid_at_ms FROM payment WHERE id = $1", payment_id)
        paid_at_ms = row["paid_at_ms"]
    return _ok(
        {
            "reference_id": payment_id,
            "transaction_id": payment_id,
            "external_id": order.order_code,
            "order_code": order.order_code,
            "status": "paid",
            "method": "cash",
            "amount": order.amount,
            "currency": "IDR",
            "channel_code": "CASH",
            "paid_at": rfc3339(paid_at_ms),
        }
    )


def qr_url(pending: Pending, base: str) -> str | None:
    """Where the payer's QR is to be seen: at the provider's, else at ours, for whoever may see the payment."""
    ours = f"{base}/api/v1/pos/payments/{pending.payment_id}/qr.png" if pending.qr_payload else None
    return pending.actions.get("qr_image_url") or ours


def _created(pending: Pending, base: str) -> Response:
    given = pending.actions
    shown = {
        "reference_id": pending.payment_id,
        "transaction_id": pending.payment_id,
        "external_id": pending.order_code,
        "order_code": pending.order_code,
        "status": STATUS[pending.payment_state],
        "method": _WORDS[pending.method],
        "amount": pending.amount,
        "currency": "IDR",
        "channel_code": _channel(pending.method),
        "expires_at": rfc3339(pending.expires_at_ms),
        "qr_string": given.get("qr_payload"),
        "qr_url": qr_url(pending, base),
        "checkout_url": given.get("checkout_url") or given.get("deeplink"),
        "va_number": given.get("va_number"),
        "biller_code": given.get("biller_code"),
        "extra": _there(
            {
                "provider": pending.provider,
                "provider_reference": pending.provider_reference,
                "qr_string": given.get("qr_payload"),
            }
        ),
    }
    return _ok(_there(shown))


def _there(shown: Mapping[str, object]) -> dict[str, object]:
    """What there is: the reference leaves out what a method has not."""
    return {name: value for name, value in shown.items() if value is not None}


def _channel(method: str) -> str:
    if method.startswith("qris"):
        return "QR_CODE"
    if method.startswith("va_"):
        return "VIRTUAL_ACCOUNT"
    return {M.CARD_HOSTED.value: "CARDS", M.CASH.value: "CASH"}.get(method, "EWALLET")


class PaymentStatus(BaseModel):
    reference_id: str
    external_id: str | None
    order_code: str | None
    status: Literal["pending", "paid", "failed", "expired", "canceled"]
    amount: int
    currency: Literal["IDR"]
    paid_at: AwareDatetime | None
    payment_method: Annotated[str, Field(examples=["QRIS"])]
    channel_code: Literal["QR_CODE", "EWALLET", "VIRTUAL_ACCOUNT", "CARDS", "CASH"]
    expires_at: AwareDatetime


class Status(BaseModel):
    code: Literal[200]
    data: PaymentStatus


@router.get("/api/v1/pos/payments/{reference_id}", responses={200: {"model": Status}, **problems(TransactionNotFound)})
async def get_payment(reference_id: Id, caller: Caller, session: Reader) -> Response:
    """Where a payment stands: what we know by now, without asking the provider."""
    payment = await payment_of(session, reference_id, organisation_id=caller.organisation_id)
    return _ok(_status(payment))


@router.get(
    "/api/v1/pos/payments/{reference_id}/qr.png", response_class=Response,
    responses=drawn("image/png") | problems(TransactionNotFound, Conflict),
)  # fmt: skip
async def get_qr_picture(
    reference_id: Id, caller: Caller, session: Reader, size: Size = USUAL_PX, if_none_match: IfNoneMatch = None
) -> Response:
    """What the customer scans, for as long as the payment waits for them."""
    payment = await payment_of(session, reference_id, organisation_id=caller.organisation_id)
    return await show_picture(await waiting_payload(session, payment.id), "png", size, if_none_match)


def _status(payment: Payment) -> dict[str, object]:
    return {
        "reference_id": payment.id,
        "external_id": payment.order_code,
        "order_code": payment.order_code,
        "status": STATUS[payment.state],
        "amount": payment.amount,
        "currency": "IDR",
        "paid_at": rfc3339_or_none(payment.paid_at_ms),
        "payment_method": _WORDS[payment.method].upper(),
        "channel_code": _channel(payment.method),
        "expires_at": rfc3339(payment.expires_at_ms),
    }


class Simulation(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    amount: Annotated[
        int | None,
        Field(ge=1, le=CEILING_IDR, examples=[33000], description="what the customer pays; default: what is asked"),
    ] = None


class SimulationDone(BaseModel):
    status: Literal["SUCCEEDED"]
    message: str


class Simulated(BaseModel):
    code: Literal[200]
    data: SimulationDone


@testing.post(
    "/api/v1/pos/payments/{reference_id}/simulate",
    responses={200: {"model": Simulated}, **problems(TransactionNotFound, Conflict, GatewayError, PartnerTimeout)},
)
async def simulate_payment(
    request: Request, reference_id: Id, caller: Caller, actor: Acting, wanted: Simulation
) -> Response:
    """In the sandbox the customer pays. The simulator then reports it as any provider does, by a signed callback: a
    moment later the payment is paid, or, with another amount, put aside for review."""
    async with db.reading(request.app.state.database) as session:
        payment = await payment_of(session, reference_id, organisation_id=caller.organisation_id)
        if payment.method == M.CASH or payment.state not in OPEN:
            raise Conflict("Only a payment that waits for its customer is paid.", status=STATUS[payment.state])
        charge = await find_charge(await db.statements(session), reference_id)
    simulator = request.app.state.simulator
    if simulator is None or charge.provider != simulator.name:
        raise Conflict("This payment's provider is not the simulator.", provider=charge.provider)
    await simulator.pay(charge.reference, amount_idr=wanted.amount)
    details = {"amount": wanted.amount or payment.amount}

    async def note(tx: Statements) -> None:
        await record(tx, actor, "transaction.simulated", ("transaction", reference_id), details=details)

    await request.app.state.database.write(note)
    return _ok({"status": "SUCCEEDED", "message": "Payment simulated successfully"})


def _ok(data: Mapping[str, object]) -> Response:
    return answer({"code": 200, "data": data})
