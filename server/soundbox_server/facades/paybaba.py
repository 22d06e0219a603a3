"""Reference 000's transactions: its paths, its words, and its envelope `{success, message, data}`.

Translation only. Amounts are whole rupiah. Whatever a merchant was paid through other doors is in its list as well.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import ColumnElement, Select, and_, func, select

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
from soundbox_server.facades.mstore import qr_url
from soundbox_server.fields import Id, Moment, Name, Whole
from soundbox_server.http import BESIDE_THE_ERROR, ErrorForm, Reader, answer, problems, request_id
from soundbox_server.idempotency import Once
from soundbox_server.ids import new_id
from soundbox_server.ledger.models import Journal
from soundbox_server.merchants.tills import till_of
from soundbox_server.paging import CURSOR, between, encode_cursor
from soundbox_server.payments.asking import questions_of
from soundbox_server.payments.cash import take_cash
from soundbox_server.payments.charging import Order, Pending, place_at
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.methods import CEILING_IDR, MOST_IDR, PaymentMethod
from soundbox_server.payments.models import Payment, PaymentAttempt, Refund
from soundbox_server.payments.tenants import merchants_of, payment_of
from soundbox_server.pos.models import Sale
from soundbox_server.pos.sales import keep_sale
from soundbox_server.settlements.models import Settlement, SettlementItem
from soundbox_server.settlements.state import SettlementState

router = APIRouter(tags=["merchants"])

# What a bank took back is gone like what was refunded; what is argued about is the merchant's until that ends.
STATUS = {
    "created": "Pending", "awaiting_payment": "Pending", "needs_review": "Pending", "paid": "Success",
    "partially_refunded": "Success", "disputed": "Success", "refunded": "Refunded", "reversed": "Refunded",
    "cancelled": "Failed", "expired": "Failed", "failed": "Failed",
}  # fmt: skip
Word = Literal["Pending", "Success", "Failed", "Refunded"]

ERRORS = ErrorForm(
    name="MerchantApiError",
    paths=("/api/transactions", "/api/merchant", "/api/bank"),
    schema={
        "type": "object",
        "title": "MerchantApiError",
        "description": "Reference 000's error, with the code to program against.",
        "required": ["success", "message", "code", "request_id", "timestamp"],
        "properties": {
            "success": {"const": False},
            "message": {"type": "string"},
            "code": {"type": "string"},
            **BESIDE_THE_ERROR,
        },
    },
    say=lambda problem: {
        "success": False,
        # The reference's clients look for this very text.
        "message": "Validasi gagal" if "errors" in problem else problem["message"],
        **{name: problem[name] for name in ("code", "errors", "request_id", "timestamp") if name in problem},
    },
)


def as_stored(value: JsonValue) -> JsonValue:
    """An integer beyond 64 bits becomes what the reference's programs, which know doubles alone, would have read.
    ValueError for half a character."""
    if isinstance(value, dict):
        return {str(as_stored(name)): as_stored(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_stored(inner) for inner in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 2**1023 else None
    if isinstance(value, str):
        value.encode()
    return value


class Product(BaseModel):
    """One line of what was sold; `price` and `unitPrice` are two names of the same."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: Annotated[str | None, Field(max_length=64, examples=["SKU-001"])] = None
    name: Annotated[str, Field(min_length=1, max_length=200, examples=["Produk ABC"])]
    type: Annotated[str | None, Field(max_length=64)] = None
    quantity: Annotated[int, Field(ge=1, le=1_000_000, examples=[2])]
    price: Annotated[int | None, Field(ge=0, le=MOST_IDR)] = None
    unitPrice: Annotated[int | None, Field(ge=0, le=MOST_IDR, examples=[25000])] = None  # noqa: N815
    details: Annotated[JsonValue, AfterValidator(as_stored)] = None


class NewTransaction(BaseModel):
    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "if": {"properties": {"type": {"const": "QRIS"}}},
            "then": {"properties": {"amount": {"maximum": CEILING_IDR}}},
        },
    )

    type: Annotated[Literal["QRIS", "CASH"], Field(examples=["QRIS"])]
    amount: Whole = Field(
        examples=[50000], description="whole rupiah", json_schema_extra={"minimum": 1, "maximum": MOST_IDR}
    )
    description: Annotated[str | None, Field(max_length=200, pattern=r"^[^\x00]*$")] = None
    productName: Annotated[Name | None, Field(examples=["Produk ABC"])] = None  # noqa: N815
    productInfo: Annotated[list[Product], Field(max_length=100)] = []  # noqa: N815


class IssuedTransaction(BaseModel):
    transactionId: str  # noqa: N815
    amount: int
    status: Word
    qrCode: str | None  # noqa: N815
    qrisUrl: str | None  # noqa: N815
    expiredTime: AwareDatetime  # noqa: N815
    productInfo: list[dict[str, Any]]  # noqa: N815


class TransactionRow(BaseModel):
    transactionId: str  # noqa: N815
    merchantId: str  # noqa: N815
    type: str
    paymentMethod: str  # noqa: N815
    amount: int
    status: Word
    feeAmount: int | None  # noqa: N815
    netAmount: int | None  # noqa: N815
    refundStatus: Literal["None", "Requested", "Processed", "Rejected"]  # noqa: N815
    refundAmount: int  # noqa: N815
    chargebackFlag: bool  # noqa: N815
    description: str | None
    productName: str | None  # noqa: N815
    productInfo: list[dict[str, Any]]  # noqa: N815
    settlementDate: AwareDatetime | None  # noqa: N815
    createdAt: AwareDatetime  # noqa: N815
    paidAt: AwareDatetime | None  # noqa: N815
    expiredTime: AwareDatetime  # noqa: N815


class WholeTransaction(TransactionRow):
    qrCode: str | None  # noqa: N815


class CreatedTransaction(BaseModel):
    success: Literal[True]
    message: str
    data: IssuedTransaction | TransactionRow


class OneTransaction(BaseModel):
    success: Literal[True]
    data: WholeTransaction


class Pagination(BaseModel):
    total: int
    page: int
    limit: int
    pages: int
    nextCursor: str | None  # noqa: N815


class Transactions(BaseModel):
    success: Literal[True]
    data: list[TransactionRow]
    pagination: Pagination


class CheckedStatus(BaseModel):
    transactionId: str  # noqa: N815
    status: Word
    amount: int
    paidAt: AwareDatetime | None  # noqa: N815
    gatewayStatus: str | None  # noqa: N815


class Checked(BaseModel):
    success: Literal[True]
    data: CheckedStatus


@router.post(
    "/api/transactions/create",
    status_code=201,
    responses={
        201: {"model": CreatedTransaction},
        **problems(InvalidAmount, InvalidPaymentType, Forbidden, NotFound, Conflict, GatewayError, PartnerTimeout),
    },
)
async def create_transaction(
    request: Request, asked: NewTransaction, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """A QRIS to be paid at the merchant's default terminal, or cash that was paid."""
    items = [line.model_dump(exclude_unset=True) for line in asked.productInfo]
    order_code, trace_id = _order_code(once), request_id(request)

    async def order_of(tx: Statements) -> Order:
        return await _order(
            tx, asked, items, order_code=order_code, organisation_id=caller.organisation_id, actor=actor,
            trace_id=trace_id,
        )  # fmt: skip

    if asked.type == "QRIS":
        desk: ChargeDesk = request.app.state.charge_desk
        base = request.app.state.public_url
        return await desk.issue(order_of, show=lambda pending: _issued(pending, items, base), once=once)

    async def take(tx: Statements) -> Response:
        return await once.answer(tx, lambda: _take_cash(tx, asked, items, order_of))

    taken: Response = await request.app.state.database.write(take)
    return taken


def _order_code(once: Once) -> str:
    """The reference has none. Of an Idempotency-Key it is made anew, so that a retry finds its payment."""
    if once.key is None:
        return new_id("ord")
    return "ord_" + hashlib.sha256(" ".join(once.row).encode()).hexdigest()[:40]


async def _order(
    tx: Statements,
    asked: NewTransaction,
    items: Sequence[dict[str, Any]],
    *,
    order_code: str,
    organisation_id: str,
    actor: Actor,
    trace_id: str,
) -> Order:
    till = await till_of(tx, organisation_id)
    method = PaymentMethod.QRIS_DYNAMIC if asked.type == "QRIS" else PaymentMethod.CASH
    if method is PaymentMethod.QRIS_DYNAMIC:
        await place_at(tx, till.merchant_id, terminal_id=till.terminal_id)
    await keep_sale(
        tx, merchant_id=till.merchant_id, order_code=order_code, product_name=asked.productName, items=items,
        now_ms=clock.now_ms(),
    )  # fmt: skip
    details = {"order_code": order_code, "amount": asked.amount, "method": method.value}
    await record(tx, actor, "transaction.asked", ("merchant", till.merchant_id), details=details)
    return Order(
        merchant_id=till.merchant_id,
        outlet_id=till.outlet_id,
        terminal_id=till.terminal_id,
        amount=asked.amount,
        source="api",
        trace_id=trace_id,
        method=method.value,
        order_code=order_code,
        description=asked.description,
    )


def _issued(pending: Pending, items: Sequence[dict[str, Any]], base: str) -> Response:
    data = {
        "transactionId": pending.payment_id,
        "amount": pending.amount,
        "status": STATUS[pending.payment_state],
        "qrCode": pending.qr_payload,
        "qrisUrl": qr_url(pending, base),
        "expiredTime": rfc3339(pending.expires_at_ms),
        "productInfo": items,
    }
    return answer({"success": True, "message": "Transaksi berhasil dibuat", "data": data}, 201)


async def _take_cash(tx: Statements, asked: NewTransaction, items: Sequence[dict[str, Any]], order_of: Any) -> Response:
    now_ms = clock.now_ms()
    order: Order = await order_of(tx)
    payment_id, _ = await take_cash(tx, order, paid_at_ms=now_ms, now_ms=now_ms)
    data = {
        "transactionId": payment_id,
        "merchantId": order.merchant_id,
        "type": "CASH",
        "paymentMethod": "CASH",
        "amount": order.amount,
        "status": "Success",
        "feeAmount": 0,
        "netAmount": order.amount,
        "refundStatus": "None",
        "refundAmount": 0,
        "chargebackFlag": False,
        "description": order.description,
        "productName": asked.productName,
        "productInfo": items,
        "settlementDate": rfc3339(now_ms),
        "createdAt": rfc3339(now_ms),
        "paidAt": rfc3339(now_ms),
        "expiredTime": rfc3339(now_ms),
    }
    return answer({"success": True, "message": "Transaksi berhasil dibuat", "data": data}, 201)


class TransactionsAsked(BaseModel):
    """Page by page as the reference has it, or by cursor, which stays stable while payments arrive."""

    model_config = ConfigDict(extra="ignore")

    page: int = Field(1, ge=1, le=100_000)
    limit: int = Field(20, ge=1, le=100, description="rows a page")
    cursor: str | None = Field(None, pattern=CURSOR, description="nextCursor of the page before; instead of page")
    status: Word | None = None
    type: Literal["QRIS", "CASH"] | None = None
    startDate: Moment | None = None  # noqa: N815
    endDate: Moment | None = None  # noqa: N815


@router.get("/api/transactions", responses={200: {"model": Transactions}})
async def list_transactions(session: Reader, caller: Caller, asked: Annotated[TransactionsAsked, Query()]) -> Response:
    """The merchant's payments, newest first, whatever door they came through."""
    wanted = _wanted(asked, await merchants_of(session, caller.organisation_id))
    total = await session.scalar(select(func.count()).select_from(wanted.with_only_columns(Payment.id).subquery())) or 0
    query = _with_all(wanted).order_by(Payment.id.desc()).limit(asked.limit + 1)
    if asked.cursor is not None:
        query = query.where(Payment.id < asked.cursor.removeprefix("~"))
    else:
        query = query.offset((asked.page - 1) * asked.limit)
    found = (await session.execute(query)).all()
    rows = [_row(*one) for one in found[: asked.limit]]
    pagination = {
        "total": total,
        "page": asked.page,
        "limit": asked.limit,
        "pages": -(-total // asked.limit),
        "nextCursor": encode_cursor(found[asked.limit - 1][0].id) if len(found) > asked.limit else None,
    }
    return answer({"success": True, "data": rows, "pagination": pagination})


def _wanted(asked: TransactionsAsked, merchants: Sequence[str]) -> Select[Any]:
    query: Select[Any] = select(Payment).where(Payment.merchant_id.in_(merchants))
    if asked.status is not None:
        query = query.where(Payment.state.in_([state for state, word in STATUS.items() if word == asked.status]))
    if asked.type is not None:
        query = query.where(_of_type(asked.type))
    return between(
        query, at=Payment.created_at_ms, id_=Payment.id, prefix="txn", from_ms=asked.startDate, to_ms=asked.endDate
    )


def _of_type(kind: str) -> ColumnElement[bool]:
    if kind == "CASH":
        return Payment.method == PaymentMethod.CASH.value
    return Payment.method.in_([PaymentMethod.QRIS_DYNAMIC.value, PaymentMethod.QRIS_STATIC.value])


def _with_all(query: Select[Any]) -> Select[Any]:
    """Each payment with what was sold, the state of its last refund, and when it was paid out to the merchant."""
    same = and_(Sale.merchant_id == Payment.merchant_id, Sale.order_code == Payment.order_code)
    refund = (
        select(Refund.state).where(Refund.payment_id == Payment.id, Refund.from_suspense.is_(False))
        .order_by(Refund.id.desc()).limit(1).scalar_subquery()
    )  # fmt: skip
    paid_out = (
        select(Settlement.changed_at_ms).join(SettlementItem, SettlementItem.settlement_id == Settlement.id)
        .join(Journal, Journal.id == SettlementItem.journal_id)
        .where(Journal.payment_id == Payment.id, Journal.kind == "capture")
        .where(Settlement.state == SettlementState.PAID.value)
        .limit(1).scalar_subquery()
    )  # fmt: skip
    return query.outerjoin(Sale, same).add_columns(Sale, refund, paid_out)


@router.get(
    "/api/transactions/{transaction_id}",
    responses={200: {"model": OneTransaction}, **problems(TransactionNotFound)},
)
async def get_transaction(transaction_id: Id, session: Reader, caller: Caller) -> Response:
    """One payment of the merchant's, with what its customer scans."""
    payment = await payment_of(session, transaction_id, organisation_id=caller.organisation_id)
    found = (await session.execute(_with_all(select(Payment).where(Payment.id == payment.id)))).one()
    qr_payload = await session.scalar(
        select(PaymentAttempt.qr_payload).where(PaymentAttempt.payment_id == payment.id)
        .order_by(PaymentAttempt.number.desc()).limit(1)
    )  # fmt: skip
    return answer({"success": True, "data": _row(*found) | {"qrCode": qr_payload}})


@router.get(
    "/api/transactions/{transaction_id}/check-status",
    responses={200: {"model": Checked}, **problems(TransactionNotFound, GatewayError, PartnerTimeout)},
)
async def check_status(request: Request, transaction_id: Id, caller: Caller, actor: Acting) -> Response:
    """Ask the provider where a payment stands, and take its word like a callback's. Cash has nobody to ask."""
    database, inquiry = request.app.state.database, request.app.state.inquiry
    async with db.reading(database) as session:
        await payment_of(session, transaction_id, organisation_id=caller.organisation_id)
        asked = await questions_of(await db.statements(session), transaction_id)
    status = await inquiry.ask(asked[-1]) if asked else None
    details = {"provider": asked[-1].provider if asked else None, "status": status and status.state}

    async def note(tx: Statements) -> None:
        await record(tx, actor, "transaction.status_checked", ("transaction", transaction_id), details=details)

    await database.write(note)
    async with db.reading(database) as session:
        payment = await payment_of(session, transaction_id, organisation_id=caller.organisation_id)
    data = {
        "transactionId": payment.id,
        "status": STATUS[payment.state],
        "amount": payment.amount,
        "paidAt": rfc3339_or_none(payment.paid_at_ms),
        "gatewayStatus": None if status is None else status.state,
    }
    return answer({"success": True, "data": data})


def _row(payment: Payment, sale: Sale | None, refund_state: str | None, paid_out_at_ms: int | None) -> dict[str, Any]:
    is_cash = payment.method == PaymentMethod.CASH
    return {
        "transactionId": payment.id,
        "merchantId": payment.merchant_id,
        "type": "QRIS" if payment.method.startswith("qris") else payment.method.upper(),
        "paymentMethod": "QRIS" if payment.method.startswith("qris") else payment.method.upper(),
        "amount": payment.amount,
        "status": STATUS[payment.state],
        "feeAmount": payment.fee_amount,
        "netAmount": None if payment.fee_amount is None else (payment.paid_amount or 0) - payment.fee_amount,
        **_given_back(payment, refund_state),
        "description": payment.description,
        "productName": sale.product_name if sale else None,
        "productInfo": orjson.loads(sale.items) if sale else [],
        "settlementDate": rfc3339_or_none(payment.paid_at_ms if is_cash else paid_out_at_ms),
        "createdAt": rfc3339(payment.created_at_ms),
        "paidAt": rfc3339_or_none(payment.paid_at_ms),
        "expiredTime": rfc3339(payment.expires_at_ms),
    }


_REFUNDS = {"done": "Processed", "failed": "Rejected"}


def _given_back(payment: Payment, refund_state: str | None) -> Mapping[str, object]:
    back = payment.paid_amount if payment.state == "reversed" else payment.refunded_amount
    return {
        "refundStatus": "Processed" if payment.state == "reversed" else _refund_status(refund_state),
        "refundAmount": back,
        "chargebackFlag": payment.state in ("disputed", "reversed"),
    }


def _refund_status(refund_state: str | None) -> str:
    return "None" if refund_state is None else _REFUNDS.get(refund_state, "Requested")
