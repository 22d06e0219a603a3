"""Reference 003's top-ups: tokens bought by QRIS, at a page, or by transfer to a virtual account."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, Field

from soundbox_server import clock, db
from soundbox_server.access import limits
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.access.limits import MINUTE_MS
from soundbox_server.audit.service import record
from soundbox_server.checkout.service import page_url, picture_url
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Row, Statements
from soundbox_server.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    InvalidAmount,
    InvalidLicense,
    InvalidPaymentType,
    NotFound,
    PartnerTimeout,
    PaymentsClosed,
)
from soundbox_server.facades.envelopes import said, says
from soundbox_server.facades.kgiton import CHECKOUT_MINUTES, QRIS_MINUTES, Contact, LicenseKey, PageAsked, PartnerBody
from soundbox_server.fields import Id, Name
from soundbox_server.http import problems, request_id
from soundbox_server.idempotency import Once
from soundbox_server.ids import new_id
from soundbox_server.partners import keys, topups
from soundbox_server.partners.topups import Case, Tier, Wanted
from soundbox_server.payments.asking import questions_of
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.methods import Payer, PaymentMethod
from soundbox_server.payments.state import OPEN
from soundbox_server.payments.withdrawal import withdraw
from soundbox_server.providers.base import Method

router = APIRouter(prefix="/api/topup", tags=["partners"])

Kind = Literal["checkout", "va", "qris"]
M = PaymentMethod
# The SDK's names, what they are called, and how they are charged; without a method nobody can charge them yet.
METHODS: Mapping[str, tuple[str, Kind, PaymentMethod | None]] = {
    "checkout_page": ("Checkout page", "checkout", M.QRIS_DYNAMIC),
    "qris": ("QRIS", "qris", M.QRIS_DYNAMIC),
    "va_bri": ("Virtual account BRI", "va", M.VA_BRI),
    "va_bni": ("Virtual account BNI", "va", M.VA_BNI),
    "va_bca": ("Virtual account BCA", "va", M.VA_BCA),
    "va_mandiri": ("Virtual account Mandiri", "va", M.VA_MANDIRI),
    "va_permata": ("Virtual account Permata", "va", None),
    "va_bsi": ("Virtual account BSI", "va", None),
    "va_cimb": ("Virtual account CIMB Niaga", "va", None),
    "va_sinarmas": ("Virtual account Sinarmas", "va", None),
    "va_muamalat": ("Virtual account Muamalat", "va", None),
    "va_indomaret": ("Indomaret", "va", None),
    "va_alfamart": ("Alfamart", "va", None),
}
STATUS = {
    "created": "pending", "awaiting_payment": "pending", "needs_review": "pending", "paid": "success",
    "partially_refunded": "success", "disputed": "success", "refunded": "cancelled", "reversed": "cancelled",
    "cancelled": "cancelled", "expired": "expired", "failed": "failed",
}  # fmt: skip
Word = Literal["success", "failed", "pending", "expired", "cancelled"]
SYNCS_PER_MINUTE = 10  # of one top-up: anybody who knows its id may ask, and each asks the provider


class MethodData(BaseModel):
    id: str
    name: str
    description: str
    type: Kind
    enabled: bool


class TierData(BaseModel):
    id: str
    min_tokens: int
    max_tokens: int | None
    bonus_tokens: int
    bonus_percentage: float


class NewTopup(PartnerBody):
    license_key: LicenseKey
    token_count: Annotated[int, Field(ge=1, le=100_000, examples=[500])]
    payment_method: Annotated[str, Field(pattern=r"^[A-Za-z_]{1,30}$", examples=["qris"])] = "checkout_page"
    customer_name: Name | None = None
    customer_email: Contact | None = None
    customer_phone: Contact | None = None


class VirtualAccount(BaseModel):
    number: str
    name: str
    bank: str


class TopupQris(BaseModel):
    """Here the SDK says qr_string, where a payment's is qr_content."""

    qr_string: str | None
    qr_image_url: str | None


class TopupData(BaseModel):
    transaction_id: str
    license_key: str
    tokens_requested: int
    bonus_tokens: int
    total_tokens: int
    amount_to_pay: int
    price_per_token: int
    status: Word
    payment_method: str
    gateway_provider: str
    payment_url: str | None
    virtual_account: VirtualAccount | None
    qris: TopupQris | None
    gateway_transaction_id: str | None
    expires_at: AwareDatetime


class StatusData(BaseModel):
    transaction_id: str
    amount: int
    tokens_added: int
    bonus_tokens: int
    total_tokens: int
    status: Word
    payment_method: str
    created_at: AwareDatetime
    paid_at: AwareDatetime | None


class HistoryRow(BaseModel):
    id: str
    user_id: str | None
    license_key: str
    amount: int
    tokens_added: int
    status: Word
    payment_reference: str | None
    payment_method: str
    gateway_provider: str | None
    gateway_transaction_id: str | None
    gateway_va_number: str | None
    gateway_channel: str
    gateway_payment_url: str | None
    expires_at: AwareDatetime
    created_at: AwareDatetime


class SyncData(BaseModel):
    transaction_id: str
    status: Word
    previous_status: Word
    payment_method: str
    updated: bool
    gateway_status: str | None


class CancelledData(BaseModel):
    transaction_id: str
    status: Word


@router.get("/payment-methods", responses=says(list[MethodData]))
async def payment_methods(request: Request, caller: Caller) -> Response:
    """Every method that the SDK knows; enabled are those that a provider of ours offers now."""
    offered: set[Method] = set()
    for gateway in request.app.state.payment_gateways().values():
        offered |= gateway.capabilities.methods
    rows = [
        {
            "id": named,
            "name": name,
            "description": f"Pay with {name}",
            "type": kind,
            "enabled": method is not None and method.value in offered,
        }
        for named, (name, kind, method) in METHODS.items()
    ]
    return said(rows)


@router.get("/bonus-tiers", responses=says(list[TierData]))
async def bonus_tiers(request: Request, caller: Caller) -> Response:
    """How many tokens come besides, by how many are bought at once."""
    tiers: Sequence[Tier] = request.app.state.bonus_tiers
    rows = [
        {
            "id": f"tier_{number}",
            "min_tokens": tier.min_tokens,
            "max_tokens": tiers[number].min_tokens - 1 if number < len(tiers) else None,
            "bonus_tokens": tier.bonus_tokens,
            "bonus_percentage": round(100 * tier.bonus_tokens / tier.min_tokens, 2),
        }
        for number, tier in enumerate(tiers, 1)
    ]
    return said(rows)


@router.post(
    "/request",
    responses=says(TopupData)
    | problems(InvalidLicense, InvalidAmount, InvalidPaymentType, Forbidden, Conflict, GatewayError, PaymentsClosed),
)
async def request_topup(request: Request, asked: NewTopup, caller: Caller, actor: Acting, once: AskedOnce) -> Response:
    """Buy tokens for a license key. They are there once the platform has the money, and not before."""
    named = asked.payment_method.lower()
    _, kind, method = METHODS.get(named, ("", "va", None))
    if method is None:
        raise InvalidPaymentType("Nobody offers this payment_method here.", payment_method=asked.payment_method)
    async with db.reading(request.app.state.database) as session:  # and let go before a provider is asked
        person_id = (await keys.person_of(session, caller)).id
    minutes = {"qris": QRIS_MINUTES, "checkout": CHECKOUT_MINUTES}.get(kind)
    wanted = Wanted(
        topup_id=_topup_id(once),
        organisation_id=caller.organisation_id,
        license_key=asked.license_key,
        tokens=asked.token_count,
        method=method.value,
        named=named,
        life_ms=minutes * 60_000 if minutes else None,
        payer=Payer(name=asked.customer_name, phone=asked.customer_phone, email=asked.customer_email),
        trace_id=request_id(request),
    )
    state = request.app.state
    case = Case(wanted=wanted, tiers=state.bonus_tiers, requested_by=person_id, actor=actor, now_ms=clock.now_ms())
    desk: ChargeDesk = state.charge_desk
    try:
        return await desk.issue(
            case.order_of, once=once, show=lambda pending: _issued(case, pending, state.public_url),
            opened=case.opened,
        )  # fmt: skip
    except PartnerTimeout as unknown:
        raise GatewayError("The payment gateway did not answer. Ask again in a moment.", **unknown.facts) from unknown


def _topup_id(once: Once) -> str:
    """Of an Idempotency-Key it is made anew, so that a retry finds its payment."""
    if once.key is None:
        return new_id("tpu")
    return "tpu_" + hashlib.sha256(" ".join(once.row).encode()).hexdigest()[:40]


def _issued(case: Case, pending: Pending, public_url: str) -> Response:
    wanted, license = case.wanted, case.license
    assert license is not None
    data = {
        "transaction_id": wanted.topup_id,
        "license_key": license.key,
        "tokens_requested": wanted.tokens,
        "bonus_tokens": case.bonus_tokens,
        "total_tokens": wanted.tokens + case.bonus_tokens,
        "amount_to_pay": pending.amount,
        "price_per_token": pending.amount // wanted.tokens,
        "status": STATUS[pending.payment_state],
        "payment_method": wanted.named,
        "gateway_provider": pending.provider,
        "payment_url": page_url(public_url, case.session_id) if wanted.named == "checkout_page" else None,
        "virtual_account": _account(wanted.named, pending),
        "qris": _qris(case, pending, public_url) if wanted.named == "qris" else None,
        "gateway_transaction_id": pending.provider_reference or pending.reference,
        "expires_at": rfc3339(pending.expires_at_ms),
    }
    return said(data, "Top-up requested")


def _account(named: str, pending: Pending) -> dict[str, str] | None:
    number = pending.actions.get("va_number")
    if number is None:
        return None
    return {"number": number, "name": pending.merchant_name, "bank": named.removeprefix("va_").upper()}


def _qris(case: Case, pending: Pending, public_url: str) -> dict[str, str | None]:
    ours = picture_url(public_url, case.session_id) if pending.qr_payload else None
    return {"qr_string": pending.qr_payload, "qr_image_url": pending.actions.get("qr_image_url") or ours}


@router.get("/check/{topup_id}", responses=says(StatusData) | problems(NotFound))
async def check_topup(request: Request, topup_id: Id) -> Response:
    """Where a top-up stands, for whoever knows its id: the SDK asks without a key until it is not pending any more."""
    return said(_standing(await request.app.state.database.read(lambda tx: topups.get(tx, topup_id))))


@router.get("/status/{topup_id}", responses=says(StatusData) | problems(NotFound))
async def topup_status(request: Request, topup_id: Id, caller: Caller) -> Response:
    """Where one of the caller's top-ups stands."""
    return said(_standing(await _own(request, topup_id, caller.organisation_id)))


async def _own(request: Request, topup_id: str, organisation_id: str) -> Row:
    found: Row = await request.app.state.database.read(
        lambda tx: topups.get(tx, topup_id, organisation_id=organisation_id)
    )
    return found


def _standing(row: Row) -> dict[str, Any]:
    return {
        "transaction_id": row["id"],
        "amount": row["amount"],
        "tokens_added": row["tokens_requested"],
        "bonus_tokens": row["bonus_tokens"],
        "total_tokens": row["tokens_requested"] + row["bonus_tokens"],
        "status": STATUS[row["state"]],
        "payment_method": row["payment_method"],
        "created_at": rfc3339(row["created_at_ms"]),
        "paid_at": rfc3339_or_none(row["paid_at_ms"]),
    }


@router.get("/history", responses=says(list[HistoryRow]))
async def topup_history(request: Request, caller: Caller, asked: Annotated[PageAsked, Query()]) -> Response:
    """The caller's top-ups, the newest first: a plain list, as the SDK's code wants it."""
    rows = await request.app.state.database.read(
        lambda tx: topups.history(tx, caller.organisation_id, page=asked.page, limit=asked.limit)
    )
    return said([_row(row, request.app.state.public_url) for row in rows])


def _row(row: Row, public_url: str) -> dict[str, Any]:
    actions = topups.actions_of(row)
    return {
        "id": row["id"],
        "user_id": row["requested_by"],
        "license_key": row["key"],
        "amount": row["amount"],
        "tokens_added": row["tokens_requested"] + row["bonus_tokens"],
        "status": STATUS[row["state"]],
        "payment_reference": row["reference"],
        "payment_method": row["payment_method"],
        "gateway_provider": row["provider"],
        "gateway_transaction_id": row["provider_reference"] or row["reference"],
        "gateway_va_number": actions.get("va_number"),
        "gateway_channel": row["payment_method"].upper(),
        "gateway_payment_url": (
            page_url(public_url, row["session_id"]) if row["payment_method"] == "checkout_page" else None
        ),
        "expires_at": rfc3339(row["expires_at_ms"]),
        "created_at": rfc3339(row["created_at_ms"]),
    }


@router.post("/cancel/{topup_id}", responses=says(CancelledData) | problems(NotFound, Conflict, GatewayError))
async def cancel_topup(request: Request, topup_id: Id, caller: Caller, actor: Acting) -> Response:
    """Withdraw a top-up that nobody has paid, at the provider first. One that is paid or over is a conflict."""
    state = request.app.state
    found = await _own(request, topup_id, caller.organisation_id)
    questions = await state.database.read(lambda tx: questions_of(tx, found["payment_id"]))
    try:
        await withdraw(state.database, state.inquiry, questions, by=str(actor.id))
    except PartnerTimeout as unknown:
        raise GatewayError("The payment gateway did not answer. Ask again in a moment.", **unknown.facts) from unknown

    async def note(tx: Statements) -> None:
        await record(tx, actor, "token_topup.cancelled", ("token_topup", topup_id))

    await state.database.write(note)
    return said({"transaction_id": topup_id, "status": "cancelled"}, "Top-up cancelled")


@router.post("/sync/{topup_id}", responses=says(SyncData) | problems(NotFound, GatewayError))
async def sync_topup(request: Request, topup_id: Id) -> Response:
    """Ask the provider where a top-up stands, and take its word like a callback's. Open to whoever knows the id, as one
    of the SDKs asks without a key."""
    state, now_ms = request.app.state, clock.now_ms()
    before = await state.database.read(lambda tx: topups.get(tx, topup_id))
    limits.require(
        await state.database.write(
            lambda tx: limits.rate_limit(
                tx, f"topup-sync:{topup_id}", limit=SYNCS_PER_MINUTE, window_ms=MINUTE_MS, now_ms=now_ms
            )
        )
    )
    said_by_gateway = None
    if before["state"] in OPEN:
        asked = await state.database.read(lambda tx: questions_of(tx, before["payment_id"]))
        try:
            said_by_gateway = (await state.inquiry.ask(asked[-1])).state
        except PartnerTimeout as unknown:
            raise GatewayError("The payment gateway did not answer.", **unknown.facts) from unknown
    after = await state.database.read(lambda tx: topups.get(tx, topup_id))
    data = {
        "transaction_id": topup_id,
        "status": STATUS[after["state"]],
        "previous_status": STATUS[before["state"]],
        "payment_method": after["payment_method"],
        "updated": STATUS[after["state"]] != STATUS[before["state"]],
        "gateway_status": said_by_gateway,
    }
    return said(data)
