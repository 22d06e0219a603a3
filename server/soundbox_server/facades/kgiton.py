"""Reference 003 as its published SDKs call it: payments for partners, license keys, tokens, and the partner's account.

Translation only. Where the SDK's documents and its code disagree, the code is what is answered here.
"""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller, scopes_of
from soundbox_server.access.models import PersonProfile
from soundbox_server.audit.service import Actor, record
from soundbox_server.checkout.service import Presentation, page_url, picture_url
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Row, Statements, statements
from soundbox_server.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    InsufficientTokens,
    InvalidAmount,
    InvalidLicense,
    InvalidPaymentType,
    LicenseExpired,
    NotFound,
    PartnerTimeout,
    TransactionNotFound,
)
from soundbox_server.facades.envelopes import error_form, said, says
from soundbox_server.facades.mstore import WebAddress
from soundbox_server.facades.paybaba import as_stored
from soundbox_server.fields import Id, Name, Whole
from soundbox_server.http import Reader, Session, problems, request_id
from soundbox_server.idempotency import Once
from soundbox_server.partners import keys, licenses, tokens
from soundbox_server.partners.jobs import settle_one
from soundbox_server.partners.licenses import License
from soundbox_server.partners.payments import LEAST_IDR, Asked, Case, find
from soundbox_server.payments.charging import Pending, require_amount
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.methods import CEILING_IDR, Payer, PaymentMethod

router = APIRouter(tags=["partners"])

ERRORS = error_form("PartnerApiError", ("/api/partner", "/api/license", "/api/user", "/api/topup", "/api/admin"))
QRIS_MINUTES, CHECKOUT_MINUTES, MOST_MINUTES = 30, 120, 1_440
STATUS = {
    "created": "pending", "awaiting_payment": "pending", "needs_review": "pending", "paid": "paid",
    "partially_refunded": "paid", "refunded": "paid", "disputed": "paid", "reversed": "failed", "cancelled": "failed",
    "expired": "expired", "failed": "failed",
}  # fmt: skip
_NO_STORE = {"Cache-Control": "no-store"}

TransactionName = Annotated[str, Field(pattern=r"^[!-~]([ -~]{0,98}[!-~])?$", examples=["TRX-2026-001"])]
LicenseKey = Annotated[
    str, Field(pattern=r"^[ -~]{1,64}$", examples=["7K2MX-9QD3A-B8VT5-EWN46-HJRCZ"], description="5×5")
]
LicensePath = Annotated[str, Path(pattern=r"^[ -~]{1,64}$", description="XXXXX-XXXXX-XXXXX-XXXXX-XXXXX")]
Contact = Annotated[str, Field(max_length=254, pattern=r"^[^\x00]*$")]
Amount = Annotated[Whole, Field(examples=[50000], json_schema_extra={"minimum": LEAST_IDR, "maximum": CEILING_IDR})]


class PartnerBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Item(PartnerBody):
    """One line of what is shown on the page."""

    id: Annotated[str | None, Field(max_length=64)] = None
    name: Name
    price: Annotated[int, Field(ge=0, le=1_000_000_000, examples=[100000])]
    quantity: Annotated[int, Field(ge=1, le=1_000_000, examples=[1])]


class NewPayment(PartnerBody):
    """What a partner asks for. `transaction_id` stands for one payment: asked again, it is answered again."""

    transaction_id: TransactionName
    amount: Amount
    license_key: LicenseKey
    payment_type: Annotated[
        str, Field(pattern=r"^[A-Za-z_]{1,20}$", examples=["qris"], description="qris or checkout_page, in any case")
    ] = "checkout_page"
    description: Annotated[str | None, Field(max_length=200, pattern=r"^[^\x00]*$")] = None
    back_url: WebAddress | None = None
    expiry_minutes: Annotated[
        int | None, Field(ge=1, le=MOST_MINUTES, description="default: 30 for qris, 120 for checkout_page")
    ] = None
    items: Annotated[list[Item], Field(max_length=100)] | None = None
    customer_name: Name | None = None
    customer_email: Contact | None = None
    customer_phone: Contact | None = None
    webhook_url: WebAddress | None = None


class NewQris(PartnerBody):
    """The older call: no license is named, so one of the caller's that has a token is used."""

    transaction_id: TransactionName
    amount: Amount
    description: Annotated[str | None, Field(max_length=200, pattern=r"^[^\x00]*$")] = None


class Qris(BaseModel):
    qr_content: str | None
    qr_image_url: str | None


class PaymentData(BaseModel):
    success: Literal[True]
    payment_id: str
    transaction_id: str
    payment_type: Literal["qris", "checkout_page"]
    amount: int
    status: Literal["pending", "paid", "expired", "failed"]
    gateway_provider: str
    gateway_transaction_id: str | None
    payment_url: str | None
    qris: Qris | None
    expires_at: AwareDatetime


class StatusData(BaseModel):
    transaction_id: str
    payment_id: str
    status: Literal["pending", "paid", "expired", "failed"]
    amount: int
    payment_type: Literal["qris", "checkout_page"]
    paid_at: AwareDatetime | None
    expires_at: AwareDatetime
    gateway_transaction_id: str | None


_GENERATED = says(PaymentData) | problems(
    InsufficientTokens, InvalidLicense, LicenseExpired, InvalidAmount, InvalidPaymentType, Forbidden, Conflict,
    GatewayError,
)  # fmt: skip


@router.post("/api/partner/payment/generate", responses=_GENERATED)
async def generate(request: Request, asked: NewPayment, caller: Caller, actor: Acting, once: AskedOnce) -> Response:
    """A QR, or the address of a page to pay at, for one token of the license. The same transaction_id is never charged
    twice: an answer that was lost is given again, and an attempt whose outcome is unknown (502) is carried on."""
    kind = asked.payment_type.lower()
    if kind not in ("qris", "checkout_page"):
        raise InvalidPaymentType("The payment_type is qris or checkout_page.", payment_type=asked.payment_type)
    items = [item.model_dump(exclude_none=True) for item in asked.items or ()]
    minutes = asked.expiry_minutes or (QRIS_MINUTES if kind == "qris" else CHECKOUT_MINUTES)
    wanted = Asked(
        organisation_id=caller.organisation_id,
        transaction_id=asked.transaction_id,
        amount=asked.amount,
        payment_type="qris" if kind == "qris" else "checkout_page",
        license_key=asked.license_key,
        life_ms=minutes * 60_000,
        presentation=Presentation(
            description=asked.description, customer_name=asked.customer_name, items=items, back_url=asked.back_url
        ),
        payer=Payer(name=asked.customer_name, phone=asked.customer_phone, email=asked.customer_email),
        webhook_url=asked.webhook_url,
        facts=asked.model_dump(include={"description", "customer_name", "customer_email", "customer_phone"}),
        trace_id=request_id(request),
    )
    return await _issue(request, wanted, actor, once)


@router.post("/api/partner/payment/qris", responses=_GENERATED)
async def generate_qris(request: Request, asked: NewQris, caller: Caller, actor: Acting, once: AskedOnce) -> Response:
    """A QR without naming a license: the oldest of the caller's that has a token pays for it."""
    wanted = Asked(
        organisation_id=caller.organisation_id,
        transaction_id=asked.transaction_id,
        amount=asked.amount,
        payment_type="qris",
        license_key=None,
        life_ms=QRIS_MINUTES * 60_000,
        presentation=Presentation(description=asked.description),
        trace_id=request_id(request),
    )
    return await _issue(request, wanted, actor, once)


async def _issue(request: Request, asked: Asked, actor: Actor, once: Once) -> Response:
    state = request.app.state
    if asked.amount < LEAST_IDR:
        raise InvalidAmount(f"The amount must be at least {LEAST_IDR} rupiah.", amount=asked.amount)
    require_amount(asked.amount, currency="IDR", method=PaymentMethod.QRIS_DYNAMIC.value)
    desk: ChargeDesk = state.charge_desk
    case = Case(asked=asked, actor=actor, ring=state.sealing_ring, reach=state.webhook_reach, now_ms=clock.now_ms())

    def show(pending: Pending) -> Response:
        return said(_payment(case, pending, state.public_url), "Payment generated")

    try:
        return await desk.issue(case.order_of, once=once, show=show, opened=case.opened, issued=case.issued)
    except PartnerTimeout as unknown:
        # The token stays set aside: the same transaction_id carries this very attempt on.
        raise GatewayError(
            "The payment gateway did not answer. Ask again with the same transaction_id.", **unknown.facts
        ) from unknown
    except GatewayError:
        await _give_back(request, asked)
        raise


async def _give_back(request: Request, asked: Asked) -> None:
    """Nothing was issued, for sure: the token goes back before the answer leaves."""
    database = request.app.state.database

    async def payment_id(tx: Statements) -> str | None:
        try:
            found, _ = await find(tx, organisation_id=asked.organisation_id, transaction_id=asked.transaction_id)
        except TransactionNotFound:
            return None
        return str(found["payment_id"])

    if (refused := await database.read(payment_id)) is not None:
        await settle_one(database, refused)


def _payment(case: Case, pending: Pending, public_url: str) -> dict[str, Any]:
    is_qris = case.asked.payment_type == "qris"
    shown = {
        "qr_content": pending.qr_payload,
        "qr_image_url": pending.actions.get("qr_image_url") or _picture(case, pending, public_url),
    }
    return {
        "success": True,
        "payment_id": pending.payment_id,
        "transaction_id": case.asked.transaction_id,
        "payment_type": case.asked.payment_type,
        "amount": pending.amount,
        "status": STATUS[pending.payment_state],
        "gateway_provider": pending.provider,
        "gateway_transaction_id": pending.provider_reference or pending.reference,
        "payment_url": None if is_qris else page_url(public_url, case.session_id),
        "qris": shown if is_qris else None,
        "expires_at": rfc3339(pending.expires_at_ms),
    }


def _picture(case: Case, pending: Pending, public_url: str) -> str | None:
    return picture_url(public_url, case.session_id) if pending.qr_payload else None


@router.get(
    "/api/partner/payment/status/{transaction_id:path}", responses=says(StatusData) | problems(TransactionNotFound)
)
async def payment_status(
    transaction_id: Annotated[str, Path(pattern=r"^[!-~]([ -~]{0,98}[!-~])?$")], session: Reader, caller: Caller
) -> Response:
    """Where a payment stands, by the partner's own name of it, whatever signs that has: the SDK does not escape it."""
    found, pending = await find(
        await statements(session), organisation_id=caller.organisation_id, transaction_id=transaction_id
    )
    data = {
        "transaction_id": transaction_id,
        "payment_id": pending.payment_id,
        "status": STATUS[pending.payment_state],
        "amount": pending.amount,
        "payment_type": found["payment_type"],
        "paid_at": rfc3339_or_none(found["paid_at_ms"]),
        "expires_at": rfc3339(pending.expires_at_ms),
        "gateway_transaction_id": pending.provider_reference or pending.reference,
    }
    return said(data)


# License keys


class LicenseData(BaseModel):
    id: str
    key: str
    price_per_token: int
    token_balance: int
    status: Literal["active", "inactive", "trial"]
    assigned_to: str | None
    referred_by_user_id: str | None
    trial_expires_at: AwareDatetime | None
    device_name: str | None
    device_serial_number: str | None
    device_model: str | None
    device_notes: str | None
    subscription_status: Literal["active", "expired"] | None
    subscription_expires_at: AwareDatetime | None
    merchant_id: str | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class ValidationData(BaseModel):
    license_key: str
    exists: bool
    is_valid: bool
    valid: bool
    is_assigned: bool
    status: Literal["active", "inactive", "trial", "not_found"]
    token_balance: int
    price_per_token: int
    device_name: str | None
    device_model: str | None
    subscription_status: Literal["active", "expired"] | None
    subscription_valid: bool
    trial_expires_at: AwareDatetime | None
    message: str


class OwnershipData(BaseModel):
    license_key: str
    exists: bool
    is_assigned: bool
    is_owner: bool
    owner_user_id: str | None
    assigned_to_user_id: str | None
    status: Literal["active", "inactive", "trial", "not_found"]
    token_balance: int
    is_valid: bool


def license_data(license: License) -> dict[str, Any]:
    return {
        "id": license.id,
        "key": license.key,
        "price_per_token": license.price_per_token,
        "token_balance": license.balance,
        "status": _status(license),
        "assigned_to": license.assigned_to or license.organisation_id,
        "referred_by_user_id": None,
        "trial_expires_at": rfc3339_or_none(license.trial_expires_at_ms),
        "device_name": license.device_name,
        "device_serial_number": license.device_serial_number,
        "device_model": license.device_model,
        "device_notes": license.device_notes,
        "subscription_status": _subscription(license),
        "subscription_expires_at": rfc3339_or_none(license.expires_at_ms),
        "merchant_id": license.merchant_id,
        "created_at": rfc3339(license.created_at_ms),
        "updated_at": rfc3339(license.updated_at_ms or license.created_at_ms),
    }


def _status(license: License) -> str:
    """The SDK knows three; a revoked one is for its users like one that is switched off."""
    return license.state.value if license.state.value in ("active", "trial") else "inactive"


def _subscription(license: License) -> str | None:
    if license.expires_at_ms is None:
        return None
    return "expired" if license.expires_at_ms <= clock.now_ms() else "active"


@router.get("/api/license/validate/{license_key}", responses=says(ValidationData))
async def validate_license(request: Request, license_key: LicensePath) -> Response:
    """Whether a key is good, for whoever knows it. One that nobody made is answered too: it does not exist."""
    found = await request.app.state.database.read(lambda tx: licenses.find(tx, license_key))
    valid = found is not None and found.valid(clock.now_ms())
    data = {
        "license_key": licenses.readable_key(license_key),
        "exists": found is not None,
        "is_valid": valid,
        "valid": valid,
        "is_assigned": found is not None and found.organisation_id is not None,
        "status": _status(found) if found else "not_found",
        "token_balance": found.balance if found else 0,
        "price_per_token": found.price_per_token if found else 0,
        "device_name": found.device_name if found else None,
        "device_model": found.device_model if found else None,
        "subscription_status": _subscription(found) if found else None,
        "subscription_valid": found is not None and not found.expired(clock.now_ms()),
        "trial_expires_at": rfc3339_or_none(found.trial_expires_at_ms) if found else None,
        "message": "License key is valid" if valid else "License key is not valid",
    }
    return said(data, str(data["message"]))


@router.get("/api/license/validate-ownership/{license_key}", responses=says(OwnershipData))
async def validate_ownership(request: Request, license_key: LicensePath, caller: Caller) -> Response:
    """Whether a key is the caller's. Of somebody else's no more is told than that it is not."""
    found = await request.app.state.database.read(lambda tx: licenses.find(tx, license_key))
    own = found if found is not None and found.organisation_id == caller.organisation_id else None
    owner = (own.assigned_to or own.organisation_id) if own else None
    data = {
        "license_key": licenses.readable_key(license_key),
        "exists": found is not None,
        "is_assigned": found is not None and found.organisation_id is not None,
        "is_owner": own is not None,
        "owner_user_id": owner,
        "assigned_to_user_id": owner,
        "status": _status(found) if found else "not_found",
        "token_balance": own.balance if own else 0,
        "is_valid": own is not None and own.valid(clock.now_ms()),
    }
    return said(data)


@router.get("/api/license/key/{license_key}", responses=says(LicenseData) | problems(InvalidLicense))
async def get_license(request: Request, license_key: LicensePath, caller: Caller) -> Response:
    """One of the caller's license keys."""
    own = await request.app.state.database.read(
        lambda tx: licenses.owned(tx, license_key, organisation_id=caller.organisation_id)
    )
    return said(license_data(own))


@router.get("/api/admin/license-keys/{license_id}", responses=says(LicenseData) | problems(NotFound))
async def get_license_as_staff(request: Request, license_id: Id) -> Response:
    """Any license, as reference 003's administrators read it. What staff do with them is at /admin/license-keys."""
    return said(license_data(await request.app.state.database.read(lambda tx: licenses.get(tx, license_id))))


# The partner's own account


class UserData(BaseModel):
    id: str
    name: str
    email: str
    role: Literal["user"]
    api_key: None
    phone_number: str | None
    referral_code: str
    referred_by: str | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    license_keys: list[LicenseData]


class BalanceRow(BaseModel):
    id: str
    license_key: str
    token_balance: int
    price_per_token: int
    status: Literal["active", "inactive", "trial"]


class BalanceData(BaseModel):
    license_keys: list[BalanceRow]
    total_balance: int


class StatsData(BaseModel):
    """Of this week in Jakarta, Monday first."""

    weekly_usage: Annotated[list[int], Field(min_length=7, max_length=7)]
    weekly_labels: Annotated[list[str], Field(min_length=7, max_length=7)]
    total_this_week: int
    avg_daily_usage: float
    est_days_remaining: int | None


class UsageRow(BaseModel):
    id: str
    tokens_used: int
    previous_balance: int
    new_balance: int
    purpose: str
    metadata: Any
    created_at: AwareDatetime


class UsagePage(BaseModel):
    page: int
    limit: int
    total: int
    totalPages: int  # noqa: N815


class Usage(BaseModel):
    license_key: str
    current_balance: int
    weekly_usage: int
    avg_daily_usage: float
    usage_history: list[UsageRow]


class UsageData(Usage):
    """The SDK hands on `data` alone, and its users look for `data.data` and `data.pagination` there: both are there."""

    success: Literal[True]
    data: Usage
    pagination: UsagePage


class UsedData(BaseModel):
    license_key: str
    previous_balance: int
    new_balance: int
    tokens_used: int


class UseToken(PartnerBody):
    purpose: Annotated[str | None, Field(max_length=200, pattern=r"^[^\x00]*$", examples=["print a receipt"])] = None
    metadata: Annotated[dict[str, JsonValue] | None, AfterValidator(as_stored)] = None


class AssignLicense(PartnerBody):
    license_key: LicenseKey


class KeyData(BaseModel):
    api_key: str
    webhook_secret: str
    created_at: AwareDatetime


class RevokedData(BaseModel):
    revoked: int


LABELS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


@router.get("/api/user/profile", responses=says(UserData) | problems(Forbidden))
async def profile(session: Reader, caller: Caller) -> Response:
    """Whom the caller is, or acts for by an API key, with the license keys of the organisation. The API key itself is
    shown once, when it is made."""
    person = await keys.person_of(session, caller)
    told = await session.get(PersonProfile, person.id)
    own = await licenses.of_organisation(await statements(session), caller.organisation_id)
    data = {
        "id": person.id,
        "name": person.name,
        "email": person.email,
        "role": "user",
        "api_key": None,
        "phone_number": told.phone_number if told else None,
        "referral_code": told.referral_code if told else "",
        "referred_by": told.referred_by if told else None,
        "created_at": rfc3339(person.created_at_ms),
        "updated_at": rfc3339(person.created_at_ms),
        "license_keys": [license_data(license) for license in own],
    }
    return said(data)


@router.get("/api/user/token-balance", responses=says(BalanceData))
async def token_balance(request: Request, caller: Caller) -> Response:
    """What is left on each of the caller's license keys, and together."""
    own = await _own(request, caller.organisation_id)
    rows = [
        {
            "id": license.id,
            "license_key": license.key,
            "token_balance": license.balance,
            "price_per_token": license.price_per_token,
            "status": _status(license),
        }
        for license in own
    ]
    return said({"license_keys": rows, "total_balance": sum(license.balance for license in own)})


async def _own(request: Request, organisation_id: str) -> list[License]:
    own: list[License] = await request.app.state.database.read(lambda tx: licenses.of_organisation(tx, organisation_id))
    return own


@router.get("/api/user/token-usage-stats", responses=says(StatsData))
async def token_usage_stats(request: Request, caller: Caller) -> Response:
    """Tokens used on each day of this week, of all license keys, and how long they last at this pace."""
    own, now_ms = await _own(request, caller.organisation_id), clock.now_ms()
    week = await request.app.state.database.read(
        lambda tx: tokens.week_of(tx, [license.id for license in own], now_ms=now_ms)
    )
    data = {
        "weekly_usage": list(week.days),
        "weekly_labels": LABELS,
        "total_this_week": week.total,
        "avg_daily_usage": week.average,
        "est_days_remaining": week.days_left(sum(license.balance for license in own)),
    }
    return said(data)


class PageAsked(BaseModel):
    model_config = ConfigDict(extra="ignore")

    page: int = Field(1, ge=1, le=100_000)
    limit: int = Field(20, ge=1, le=100, description="rows a page")


@router.get("/api/user/license/{license_key}/usage", responses=says(UsageData) | problems(InvalidLicense))
async def license_usage(
    request: Request, license_key: LicensePath, caller: Caller, asked: Annotated[PageAsked, Query()]
) -> Response:
    """What the tokens of one license key were used for, the newest first."""
    now_ms = clock.now_ms()

    async def read(tx: Statements) -> dict[str, Any]:
        own = await licenses.owned(tx, license_key, organisation_id=caller.organisation_id)
        week = await tokens.week_of(tx, [own.id], now_ms=now_ms)
        rows, total = await tokens.history(tx, own.id, page=asked.page, limit=asked.limit)
        usage = {
            "license_key": own.key,
            "current_balance": own.balance,
            "weekly_usage": week.total,
            "avg_daily_usage": week.average,
            "usage_history": [_use(row) for row in rows],
        }
        pagination = {
            "page": asked.page, "limit": asked.limit, "total": total, "totalPages": -(-total // asked.limit),
        }  # fmt: skip
        return {**usage, "success": True, "data": usage, "pagination": pagination}

    return said(await request.app.state.database.read(read))


def _use(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "tokens_used": row["tokens"],
        "previous_balance": row["previous_balance"],
        "new_balance": row["new_balance"],
        "purpose": row["purpose"],
        "metadata": orjson.loads(row["facts"]) if row["facts"] else None,
        "created_at": rfc3339(row["created_at_ms"]),
    }


@router.post(
    "/api/user/license-keys/{license_key}/use-token",
    responses=says(UsedData) | problems(InvalidLicense, LicenseExpired, InsufficientTokens),
)
async def use_token(
    request: Request, license_key: LicensePath, caller: Caller, actor: Acting, once: AskedOnce,
    asked: UseToken | None = None,
) -> Response:  # fmt: skip
    """Use one token for something of the partner's own. Each call uses one: only an Idempotency-Key tells a repetition
    from another wish."""
    wanted, now_ms = asked or UseToken(), clock.now_ms()

    async def deed(tx: Statements) -> Response:
        own = await licenses.owned(tx, license_key, organisation_id=caller.organisation_id)
        license = await licenses.lock(tx, own.id)
        if license.expired(now_ms) or not license.valid(now_ms):
            raise LicenseExpired("This license is over, or switched off.", status=license.state.value)
        used = await tokens.use_now(
            tx, license, purpose=wanted.purpose or "Token usage", facts=wanted.metadata, now_ms=now_ms
        )
        await record(tx, actor, "license.token_used", ("license", license.id), details={"token_use": used.id})
        data = {
            "license_key": license.key, "previous_balance": used.previous_balance, "new_balance": used.new_balance,
            "tokens_used": used.tokens,
        }  # fmt: skip
        return said(data, "Token used")

    answered: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: deed(tx)))
    return answered


@router.post("/api/user/assign-license", responses=says(LicenseData) | problems(InvalidLicense))
async def assign_license(
    request: Request, asked: AssignLicense, session: Session, caller: Caller, actor: Acting
) -> Response:
    """Take a license whose key one knows and that is nobody's yet. One's own once more changes nothing."""
    person = await keys.person_of(session, caller)
    taken = await licenses.claim(
        await statements(session), asked.license_key, organisation_id=caller.organisation_id, person_id=person.id,
        actor=actor, now_ms=clock.now_ms(),
    )  # fmt: skip
    return said(license_data(taken), "License assigned")


@router.post("/api/user/regenerate-api-key", responses=says(KeyData))
async def regenerate_api_key(request: Request, caller: Caller, actor: Acting) -> Response:
    """An API key, and the secret that signs what we tell the partner's webhooks; both are shown this once. The key
    before stops working at once. Whoever asks with a key that may do less gets one that may do no more."""
    state, now_ms = request.app.state, clock.now_ms()
    scopes = scopes_of(state.policy, state.scopes, "partner")
    if caller.api_key_id is not None:
        scopes &= caller.scopes
    issued = await state.database.write(
        lambda tx: keys.regenerate(tx, caller, scopes=scopes, ring=state.sealing_ring, actor=actor, now_ms=now_ms)
    )
    data = {
        "api_key": issued.api_key, "webhook_secret": issued.webhook_secret, "created_at": rfc3339(issued.created_at_ms)
    }  # fmt: skip
    return said(data, "API key generated. It is shown this once.", headers=_NO_STORE)


@router.post("/api/user/revoke-api-key", responses=says(RevokedData))
async def revoke_api_key(request: Request, caller: Caller, actor: Acting) -> Response:
    """The organisation's API key stops working at once."""
    now_ms = clock.now_ms()
    revoked = await request.app.state.database.write(
        lambda tx: keys.revoke(tx, caller.organisation_id, actor=actor, now_ms=now_ms)
    )
    return said({"revoked": revoked}, "API key revoked")
