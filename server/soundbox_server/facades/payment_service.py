"""Reference 004's organisations, wallets and payment sessions: its paths, its words, and its refusals `{error}`.

Translation only. Amounts are whole rupiah: a fraction, or the form of one (1000.0), is refused, and so is what is
negative. A wallet begins with nothing in it, and its PIN is its owner's to set.
"""

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from soundbox_server import clock, db
from soundbox_server.access import account as ones_own
from soundbox_server.access import limits
from soundbox_server.access.auth import Acting, AskedOnce, Caller, bearer, client_ip
from soundbox_server.access.limits import MINUTE_MS
from soundbox_server.access.login import Try
from soundbox_server.access.passwords import LONGEST, SHORTEST, in_thread, require_strong
from soundbox_server.access.people import ADDRESS, readable_address, readable_name
from soundbox_server.access.routes import NO_STORE, enter, prove, tokens
from soundbox_server.access.service import Principal
from soundbox_server.access.state import MERCHANTS
from soundbox_server.audit.service import Actor
from soundbox_server.clock import rfc3339
from soundbox_server.db import Statements
from soundbox_server.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    InsufficientBalance,
    InvalidAmount,
    InvalidPaymentType,
    InvalidPin,
    Locked,
    MerchantPayoutNotConfigured,
    MfaRequired,
    NotFound,
    PartnerTimeout,
    PaymentsClosed,
    SessionExpired,
    Unauthenticated,
    ValidationFailed,
    WeakPassword,
)
from soundbox_server.fields import Id, Name, Reason
from soundbox_server.http import BESIDE_THE_ERROR, ErrorForm, answer, problems, request_id
from soundbox_server.idempotency import Once
from soundbox_server.payments.charging import Order, Pending
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.methods import CEILING_IDR, MOST_IDR
from soundbox_server.wallets import holders, invoices, listings, pins, service, sessions, topups, withdrawals
from soundbox_server.wallets.holders import Profile, Registration
from soundbox_server.wallets.service import Wallet, user_code

router = APIRouter(tags=["wallets"])

ERRORS = ErrorForm(
    name="WalletError",
    paths=("/api/v1/org", "/api/v1/wallets", "/api/v1/txn"),
    schema={
        "type": "object",
        "title": "WalletError",
        "description": "Reference 004's error, with the code to program against.",
        "required": ["error", "code", "details", "request_id", "timestamp"],
        "properties": {
            "error": {"type": "string"},
            "code": {"type": "string"},
            "details": {"type": "object"},
            **BESIDE_THE_ERROR,
        },
    },
    say=lambda problem: {
        "error": problem["message"],
        **{name: problem[name] for name in ("code", "details", "errors", "request_id", "timestamp") if name in problem},
    },
)

Amount = Annotated[int, Field(ge=1, le=MOST_IDR, examples=[50000], description="whole rupiah")]
Pin = Annotated[str, Field(pattern=r"^[0-9]{6}$", examples=["204817"])]
Password = Annotated[str, Field(max_length=LONGEST, examples=["kuda putih tujuh awan"])]
NewPassword = Annotated[str, Field(min_length=SHORTEST, max_length=LONGEST, examples=["kuda putih tujuh awan"])]
WalletCode = Annotated[Id, Field(examples=["wllt-01k9x3m8z6f1q4v7c2b5n0t8rj"])]
Email = Annotated[str, StringConstraints(pattern=ADDRESS, max_length=254)]
Kind = Literal["credit", "debit"]
Word = Literal["initiated", "success", "pending", "failed"]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Answer(BaseModel):
    model_config = ConfigDict(populate_by_name=True)


# Organisations


class NewOrganisation(_Asked):
    organization: Annotated[Name, Field(examples=["Toko Indo"])]
    email: Annotated[Email, Field(examples=["owner@toko.test"])]
    password: NewPassword
    category: Annotated[Name | None, Field(examples=["retail"])] = None


class Registered(_Answer):
    """`pin` is there for programs that look for it, and always null: the owner sets it."""

    userCode: str  # noqa: N815
    merchant: str
    email: str
    walletCode: str  # noqa: N815
    balance: int
    pin: None


@router.post(
    "/api/v1/org/register",
    status_code=201,
    responses={201: {"model": Registered}, **problems(Conflict, WeakPassword)},
)
async def register(request: Request, asked: NewOrganisation) -> Response:
    """An organisation with its merchant, till, owner and default wallet, which is empty. The merchant waits to be
    approved; until then it is paid from wallet to wallet."""
    state, now_ms = request.app.state, clock.now_ms()
    email, name = readable_address(asked.email), readable_name(asked.organization)
    await _count_stranger(request)
    require_strong(asked.password, email=email, name=name)
    hashed = await in_thread(state.passwords.hash, asked.password)
    new = Registration(organisation=name, email=email, category=asked.category, password_hash=hashed)
    async with db.transaction(state.database) as session:
        wallet = await holders.register(
            session, new, ip=client_ip(request), request_id=request_id(request), now_ms=now_ms
        )
    said = {
        "userCode": user_code(wallet.organisation_id),
        "merchant": name,
        "email": email,
        "walletCode": wallet.id,
        "balance": wallet.balance,
        "pin": None,
    }
    return answer(said, 201)


async def _count_stranger(request: Request) -> None:
    """A hash takes a core for a while: one address makes us do so many a minute."""
    state, now_ms, key = request.app.state, clock.now_ms(), f"login:{limits.network(client_ip(request))}"
    most = state.limits.logins_per_minute
    count = partial(limits.rate_limit, key=key, limit=most, window_ms=MINUTE_MS, now_ms=now_ms)
    limits.require(await state.database.write(count))


class Login(_Asked):
    email: Annotated[str, Field(max_length=254, pattern=r"^[^\x00-\x1f]+$", examples=["owner@toko.test"])]
    password: Password
    totp: Annotated[str | None, Field(max_length=10)] = None
    recovery_code: Annotated[str | None, Field(max_length=40)] = None


class LoggedIn(_Answer):
    """`token` is a bearer token for so many seconds; `refreshToken` is for POST /merchant/refresh."""

    userCode: str  # noqa: N815
    merchant: str
    email: str
    balance: int
    walletCode: str | None  # noqa: N815
    token: str
    expiresIn: int  # noqa: N815
    refreshToken: str  # noqa: N815


@router.post("/api/v1/org/login", responses={200: {"model": LoggedIn}, **problems(Unauthenticated, MfaRequired)})
async def log_in(request: Request, asked: Login) -> Response:
    """A token for the right password. Unknown people and wrong passwords get the same answer in the same time; too many
    tries get 429."""
    tried = Try(
        door="merchant", roles=MERCHANTS, email=asked.email, totp=asked.totp, recovery_code=asked.recovery_code,
        ip=client_ip(request), user_agent=request.headers.get("user-agent"), request_id=request_id(request),
    )  # fmt: skip
    opened = await enter(request, tried, asked.password)
    organisation_id = opened.person["organisation_id"]
    profile = await request.app.state.database.read(
        lambda tx: holders.profile_of(tx, organisation_id, person_id=opened.person["id"])
    )
    given = tokens(request, opened)
    said = {
        "userCode": user_code(organisation_id),
        "merchant": profile.name,
        "email": opened.person["email"],
        "balance": profile.default.balance if profile.default else 0,
        "walletCode": profile.default.id if profile.default else None,
        "token": given["access_token"],
        "expiresIn": given["expires_in"],
        "refreshToken": given["refresh_token"],
    }
    return answer(said, headers=NO_STORE)


class WalletView(_Answer):
    code: str
    balance: int
    isDefault: bool  # noqa: N815
    userCode: str  # noqa: N815
    updatedAt: AwareDatetime  # noqa: N815


class ProfileView(_Answer):
    """`token` is the one that was presented; null for a program that asks with a key."""

    id: str = Field(alias="_id")
    merchant: str
    email: str | None
    balance: int
    wallets: list[WalletView]
    category: str | None
    token: str | None


@router.get("/api/v1/org/profile", responses={200: {"model": ProfileView}})
async def get_profile(request: Request, caller: Caller) -> Response:
    """The organisation, its wallets, and what is in them."""
    return await _profile(request, caller)


async def _profile(request: Request, caller: Principal) -> Response:
    state = request.app.state
    profile: Profile = await state.database.read(
        lambda tx: holders.profile_of(tx, caller.organisation_id, person_id=caller.person_id)
    )
    said = {
        "_id": caller.organisation_id,
        "merchant": profile.name,
        "email": profile.email,
        "balance": profile.default.balance if profile.default else 0,
        "wallets": [_wallet(wallet) for wallet in profile.wallets],
        "category": profile.category,
        "token": None if caller.session_id is None else bearer(request),
    }
    return answer(said, headers=NO_STORE)


def _wallet(wallet: Wallet) -> dict[str, object]:
    return {
        "code": wallet.id,
        "balance": wallet.balance,
        "isDefault": wallet.is_default,
        "userCode": user_code(wallet.organisation_id),
        "updatedAt": rfc3339(wallet.updated_at_ms),
    }


class ProfileChange(_Asked):
    """What is to be different. A PIN, another address and another password are set with `password`, today's."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={"dependentRequired": {name: ["password"] for name in ("pin", "email", "newPassword")}},
    )

    organization: Annotated[Name | None, Field(examples=["Toko Indo"])] = None
    category: Name | None = None
    password: Password | None = None
    pin: Pin | None = None
    email: Email | None = None
    newPassword: NewPassword | None = None  # noqa: N815


_CHANGED: dict[int | str, dict[str, Any]] = {
    200: {"model": ProfileView},
    **problems(Conflict, Unauthenticated, WeakPassword),
}


@router.put("/api/v1/org/profile", responses=_CHANGED)
async def change_profile(request: Request, asked: ProfileChange, caller: Caller, actor: Acting) -> Response:
    """Change what is named. The PIN has six digits, and spends from the organisation's wallets."""
    return await _change_profile(request, asked, caller, actor)


@router.put("/api/v1/org/put", responses=_CHANGED)
async def put_profile(request: Request, asked: ProfileChange, caller: Caller, actor: Acting) -> Response:
    """The same, at the address that the reference prints."""
    return await _change_profile(request, asked, caller, actor)


async def _change_profile(request: Request, asked: ProfileChange, caller: Principal, actor: Actor) -> Response:
    state, now_ms = request.app.state, clock.now_ms()
    name = readable_name(asked.organization) if asked.organization is not None else None
    email = readable_address(asked.email) if asked.email is not None else None
    if asked.pin is not None:
        pins.require_unguessed(asked.pin)
    hashed, proved = {}, None
    if (asked.pin, email, asked.newPassword) != (None, None, None):
        if asked.password is None:
            raise Unauthenticated("Send today's password with it.", field="password")
        if asked.newPassword is not None:
            profile = await state.database.read(
                lambda tx: holders.profile_of(tx, caller.organisation_id, person_id=caller.person_id)
            )
            require_strong(asked.newPassword, email=email or profile.email or "", name=profile.name)
        proved = await prove(request, caller, asked.password)
        secrets = {"pin": asked.pin, "password": asked.newPassword}
        hashed = {what: await in_thread(state.passwords.hash, one) for what, one in secrets.items() if one is not None}

    async def work(tx: Statements) -> None:
        if proved is not None:
            await ones_own.still(tx, proved)
        await holders.change(tx, caller.organisation_id, name=name, category=asked.category, actor=actor, now_ms=now_ms)
        if "pin" in hashed:
            await pins.set_pin(tx, caller.organisation_id, hashed["pin"], actor=actor, now_ms=now_ms)
        if proved is not None and email is not None:
            await ones_own.change_email(tx, proved, email, actor=actor, now_ms=now_ms)
        if proved is not None and "password" in hashed:
            await ones_own.change_password(tx, proved, hashed["password"], actor=actor, now_ms=now_ms)

    await state.database.write(work)
    return await _profile(request, caller)


# Wallets


class OpenedWallet(_Answer):
    newWallet: WalletView  # noqa: N815


class Wallets(_Answer):
    wallets: list[WalletView]


@router.post("/api/v1/wallets", status_code=201, responses={201: {"model": OpenedWallet}, **problems(Conflict)})
async def open_wallet(request: Request, caller: Caller, actor: Acting, once: AskedOnce) -> Response:
    """Another wallet, with nothing in it. It can be paid and cannot pay."""

    async def deed(tx: Statements) -> Response:
        wallet = await service.open_wallet(tx, caller.organisation_id, actor=actor, now_ms=clock.now_ms())
        return answer({"newWallet": _wallet(wallet)}, 201)

    return await _once(request, once, deed)


@router.get("/api/v1/wallets", responses={200: {"model": Wallets}})
async def list_wallets(request: Request, caller: Caller) -> Response:
    """The organisation's wallets, the default one first, and what is in them."""
    found = await request.app.state.database.read(lambda tx: service.wallets_of(tx, caller.organisation_id))
    return answer({"wallets": [_wallet(wallet) for wallet in found]})


async def _once(request: Request, once: Once, deed: Callable[[Statements], Coroutine[Any, Any, Response]]) -> Response:
    """One transaction, and for the same Idempotency-Key one answer."""

    async def work(tx: Statements) -> Response:
        return await once.answer(tx, lambda: deed(tx))

    done: Response = await request.app.state.database.write(work)
    return done


class Topup(_Asked):
    amount: Annotated[int, Field(ge=1, le=CEILING_IDR, examples=[100000], description="whole rupiah")]


class IssuedTopup(_Answer):
    transactionTraceId: str  # noqa: N815
    walletCode: str  # noqa: N815
    amount: int
    status: Word
    qrString: str | None  # noqa: N815
    expiresAt: AwareDatetime  # noqa: N815


@router.post(
    "/api/v1/wallets/{wallet_code}/topup",
    status_code=201,
    responses={
        201: {"model": IssuedTopup},
        **problems(
            InvalidAmount, InvalidPaymentType, Forbidden, NotFound, Conflict, GatewayError, PaymentsClosed,
            PartnerTimeout,
        ),
    },
)  # fmt: skip
async def top_up(
    request: Request, wallet_code: WalletCode, asked: Topup, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """A QRIS to be paid by anybody: its amount is in the wallet once it was."""
    trace_id = _trace_id(once)

    async def order_of(tx: Statements) -> Order:
        return await topups.topup_order(
            tx, wallet_code, trace_id=trace_id, amount=asked.amount, organisation_id=caller.organisation_id,
            request_id=request_id(request), actor=actor, now_ms=clock.now_ms(),
        )  # fmt: skip

    def show(pending: Pending) -> Response:
        status = "success" if pending.payment_state == "paid" else "pending"
        said = {
            "transactionTraceId": trace_id,
            "walletCode": wallet_code,
            "amount": pending.amount,
            "status": status,
            "qrString": pending.actions.get("qr_payload"),
            "expiresAt": rfc3339(pending.expires_at_ms),
        }
        return answer(said, 201)

    desk: ChargeDesk = request.app.state.charge_desk
    return await desk.issue(order_of, show=show, once=once)


def _trace_id(once: Once) -> str:
    """Of an Idempotency-Key it is made anew, so that a retry finds its payment."""
    if once.key is None:
        return service.new_code("txn")
    return "txn-" + hashlib.sha256(" ".join(once.row).encode()).hexdigest()[:40]


# Payments from wallet to wallet


class NewSession(_Asked):
    amount: Amount


class OpenedSession(_Answer):
    """`serviceFee` is percent; `session-time` how many seconds are left."""

    serviceFee: int  # noqa: N815
    totalAmount: int  # noqa: N815
    transactionTraceId: str  # noqa: N815
    session_time: int = Field(alias="session-time")


@router.post(
    "/api/v1/txn/payment-session/{wallet_code}",
    status_code=201,
    responses={201: {"model": OpenedSession}, **problems(InvalidAmount, Forbidden, NotFound, Conflict)},
)
async def open_session(
    request: Request, wallet_code: WalletCode, asked: NewSession, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """Ask for a sum, to be paid into this wallet from another organisation's while the session lasts."""

    async def deed(tx: Statements) -> Response:
        now_ms = clock.now_ms()
        opened = await sessions.open_session(
            tx, wallet_code, organisation_id=caller.organisation_id, amount=asked.amount,
            terms=request.app.state.wallet_terms, actor=actor, now_ms=now_ms,
        )  # fmt: skip
        said = {
            "serviceFee": opened.fee_percent,
            "totalAmount": opened.total_amount,
            "transactionTraceId": opened.trace_id,
            "session-time": (opened.expires_at_ms - now_ms) // 1000,
        }
        return answer(said, 201)

    return await _once(request, once, deed)


class AcceptedPayment(_Asked):
    fromWalletCode: WalletCode  # noqa: N815
    totalAmount: Annotated[Amount, Field(examples=[50000])]  # noqa: N815
    pin: Pin


class TransactionDetails(_Answer):
    transactionTraceId: str  # noqa: N815
    amount: int
    type: Kind
    serviceFee: int  # noqa: N815
    totalAmount: int  # noqa: N815
    status: Word
    createdAt: AwareDatetime  # noqa: N815
    code: str
    counterparty: str | None


class PaidSession(_Answer):
    message: str
    transactionDetails: TransactionDetails  # noqa: N815
    updatedBalance: int  # noqa: N815


@router.post(
    "/api/v1/txn/accept-payment/{trace_id}",
    responses={
        200: {"model": PaidSession},
        **problems(
            InsufficientBalance, InvalidAmount, InvalidPin, SessionExpired, Forbidden, NotFound, Conflict, Locked
        ),
    },
)
async def accept_payment(
    request: Request, trace_id: Id, asked: AcceptedPayment, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """Pay a session from the organisation's default wallet, with its PIN. The payee's terminal says it. A session is
    paid once, whoever accepts it how often at once; a PIN that was wrong five times is locked for a while."""
    await request.app.state.database.read(lambda tx: sessions.require_known(tx, trace_id))
    await _prove_pin(request, caller, asked.pin, actor)

    async def deed(tx: Statements) -> Response:
        paid = await sessions.accept(
            tx, trace_id, payer_wallet_id=asked.fromWalletCode, total_amount=asked.totalAmount,
            organisation_id=caller.organisation_id, telling=request.app.state.telling,
            request_id=request_id(request), actor=actor, now_ms=clock.now_ms(),
        )  # fmt: skip
        said = {
            "message": "Payment successful",
            "transactionDetails": {
                "transactionTraceId": paid.trace_id,
                "amount": paid.amount,
                "type": "debit",
                "serviceFee": paid.fee_percent,
                "totalAmount": paid.total_amount,
                "status": "success",
                "createdAt": rfc3339(paid.paid_at_ms),
                "code": paid.entry_id,
                "counterparty": paid.counterparty,
            },
            "updatedBalance": paid.balance,
        }
        return answer(said)

    response, queued = await _announced(request, _but_for_pin(once, asked), deed)
    request.app.state.publisher.publish(queued)
    return response


async def _announced(
    request: Request, once: Once, deed: Callable[[Statements], Coroutine[Any, Any, Response]]
) -> tuple[Response, list[Any]]:
    """The answer, and what is to be published now that it is committed."""

    async def work(tx: Statements) -> tuple[Response, list[Any]]:
        return await once.answer(tx, lambda: deed(tx)), tx.queued

    done: tuple[Response, list[Any]] = await request.app.state.database.write(work)
    return done


async def _prove_pin(request: Request, caller: Principal, pin: str, actor: Actor) -> None:
    """That it is the organisation's. Counted in a commit of its own before it is compared, off the loop. Raises
    InvalidPin and Locked."""
    state = request.app.state
    tried = await state.database.write(lambda tx: pins.count_try(tx, caller.organisation_id, now_ms=clock.now_ms()))
    if not await in_thread(state.passwords.fits, pin, tried.pin_hash):
        await state.database.write(lambda tx: pins.note_wrong(tx, caller.organisation_id, actor=actor))
        raise InvalidPin("The PIN is wrong.")
    await state.database.write(lambda tx: pins.forget_tries(tx, tried))


def _but_for_pin(once: Once, asked: BaseModel) -> Once:
    """A hash of a body that holds a PIN would give it away: there are only a million."""
    said = orjson.dumps(asked.model_dump(mode="json", exclude={"pin"}), option=orjson.OPT_SORT_KEYS)
    return replace(once, body_sha256=hashlib.sha256(said).hexdigest())


class Listing(_Asked):
    """`cursor` is the `nextCursor` of the page before."""

    limit: Annotated[int, Field(ge=1, le=listings.MOST)] = listings.MOST
    cursor: Annotated[str | None, Field(pattern=r"^txn-[0-9a-z]{26}$")] = None


class Transaction(TransactionDetails):
    userID: str  # noqa: N815
    walletID: str  # noqa: N815
    walletCode: str  # noqa: N815
    kind: Literal["payment", "topup", "withdrawal", "refund"]


class Transactions(_Answer):
    transactions: list[Transaction]
    nextCursor: str | None  # noqa: N815


@router.post("/api/v1/txn/transaction", responses={200: {"model": Transactions}})
async def list_transactions(request: Request, caller: Caller, asked: Listing | None = None) -> Response:
    """What the organisation's wallets were paid and paid, newest first. A session that nobody paid has failed."""
    wanted, now_ms = asked or Listing(), clock.now_ms()
    listed, following = await request.app.state.database.read(
        lambda tx: listings.entries_of(
            tx, caller.organisation_id, before=wanted.cursor, limit=wanted.limit, now_ms=now_ms
        )
    )
    return answer({"transactions": [_transaction(one) for one in listed], "nextCursor": following})


def _transaction(listed: listings.Listed) -> dict[str, object]:
    row = listed.row
    return {
        "userID": user_code(row["organisation_id"]),
        "walletID": row["wallet_id"],
        "walletCode": row["wallet_id"],
        "transactionTraceId": row["trace_id"],
        "kind": row["kind"],
        "amount": row["amount"],
        "type": row["direction"],
        "serviceFee": row["fee_percent"],
        "totalAmount": row["total_amount"],
        "code": row["id"],
        "counterparty": row["counterparty"],
        "status": listed.status,
        "createdAt": rfc3339(row["created_at_ms"]),
    }


# Money out, money back


class Withdrawal(_Asked):
    """`walletID` is another name of `walletCode`."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "anyOf": [{"required": ["walletCode"], "properties": {"walletCode": {"type": "string"}}},
                      {"required": ["walletID"], "properties": {"walletID": {"type": "string"}}}],
        },
    )  # fmt: skip

    walletCode: WalletCode | None = None  # noqa: N815
    walletID: WalletCode | None = None  # noqa: N815
    amount: Amount
    pin: Pin


class AskedWithdrawal(_Answer):
    withdrawalId: str  # noqa: N815
    walletCode: str  # noqa: N815
    amount: int
    status: Word
    updatedBalance: int  # noqa: N815


@router.post(
    "/api/v1/txn/withdraw",
    status_code=202,
    responses={
        202: {"model": AskedWithdrawal},
        **problems(InsufficientBalance, InvalidPin, Forbidden, NotFound, Conflict, MerchantPayoutNotConfigured, Locked),
    },
)
async def withdraw(request: Request, asked: Withdrawal, caller: Caller, actor: Acting, once: AskedOnce) -> Response:
    """Out of a wallet to the merchant's own bank account, with the PIN. The money leaves the wallet now; where the bank
    does not take it, it is put back. While one withdrawal of a wallet is on its way there is no other."""
    wallet_code = asked.walletCode or asked.walletID
    if wallet_code is None:
        raise ValidationFailed("Say which wallet.", field="walletCode")
    await request.app.state.database.read(
        lambda tx: service.own(tx, wallet_code, organisation_id=caller.organisation_id)
    )
    await _prove_pin(request, caller, asked.pin, actor)

    async def deed(tx: Statements) -> Response:
        withdrawal_id, left = await withdrawals.begin(
            tx, wallet_code, amount=asked.amount, bank=request.app.state.bank_name,
            organisation_id=caller.organisation_id, actor=actor, now_ms=clock.now_ms(),
        )  # fmt: skip
        said = {
            "withdrawalId": withdrawal_id,
            "walletCode": wallet_code,
            "amount": asked.amount,
            "status": "pending",
            "updatedBalance": left,
        }
        return answer(said, 202)

    return await _once(request, _but_for_pin(once, asked), deed)


class WantedRefund(_Asked):
    """Without an amount all that is left goes back."""

    pin: Pin
    amount: Amount | None = None
    reason: Reason = "Refunded by the payee."


class DoneRefund(_Answer):
    message: str
    transactionTraceId: str  # noqa: N815
    refundId: str  # noqa: N815
    amount: int
    updatedBalance: int  # noqa: N815


@router.post(
    "/api/v1/txn/refund/{trace_id}",
    responses={
        200: {"model": DoneRefund},
        **problems(InsufficientBalance, InvalidAmount, InvalidPin, NotFound, Conflict, Locked),
    },
)
async def refund(
    request: Request, trace_id: Id, asked: WantedRefund, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """The payee sends so much of a paid session back to the wallet that paid it, with the PIN. Refunds together never
    exceed what was paid; the service fee is kept."""
    await request.app.state.database.read(lambda tx: sessions.require_known(tx, trace_id, payee=caller.organisation_id))
    await _prove_pin(request, caller, asked.pin, actor)

    async def deed(tx: Statements) -> Response:
        done = await sessions.give_back(
            tx, trace_id, amount=asked.amount, reason=asked.reason, organisation_id=caller.organisation_id,
            actor=actor, now_ms=clock.now_ms(),
        )  # fmt: skip
        said = {
            "message": "Refund successful",
            "transactionTraceId": done.trace_id,
            "refundId": done.refund_id,
            "amount": done.amount,
            "updatedBalance": done.balance,
        }
        return answer(said)

    return await _once(request, _but_for_pin(once, asked), deed)


# Invoices


class NewInvoice(_Asked):
    email: Annotated[Email, Field(examples=["siti@example.test"])]
    amount: Annotated[int, Field(ge=1, le=CEILING_IDR, examples=[250000], description="whole rupiah")]
    description: Annotated[Name | None, Field(examples=["Katering 12 Mei"])] = None


class InvoiceView(_Answer):
    invoiceId: str  # noqa: N815
    email: str
    amount: int
    description: str | None
    status: Literal["open", "paid", "locked", "expired"]
    paymentLink: str  # noqa: N815
    createdAt: AwareDatetime  # noqa: N815
    expiresAt: AwareDatetime  # noqa: N815


@router.post(
    "/api/v1/txn/invoices",
    status_code=201,
    responses={201: {"model": InvoiceView}, **problems(Forbidden, NotFound, Conflict)},
)
async def send_invoice(request: Request, asked: NewInvoice, caller: Caller, actor: Acting, once: AskedOnce) -> Response:
    """Mail somebody a bill, with a link to pay it by QRIS and a one-time password that opens it."""
    state, otp = request.app.state, invoices.new_otp()
    hashed = await in_thread(state.passwords.hash, otp)
    email = readable_address(asked.email)
    bill = invoices.Bill(email=email, amount=asked.amount, description=asked.description, otp=otp, otp_hash=hashed)

    async def deed(tx: Statements) -> Response:
        now_ms = clock.now_ms()
        invoice_id, link, expires_at_ms = await invoices.send(
            tx, bill, organisation_id=caller.organisation_id, desk=state.mail_desk, actor=actor, now_ms=now_ms
        )
        said = {
            "invoiceId": invoice_id,
            "email": email,
            "amount": bill.amount,
            "description": bill.description,
            "status": "open",
            "paymentLink": link,
            "createdAt": rfc3339(now_ms),
            "expiresAt": rfc3339(expires_at_ms),
        }
        return answer(said, 201)

    return await _once(request, once, deed)


@router.get("/api/v1/txn/invoices/{invoice_id}", responses={200: {"model": InvoiceView}, **problems(NotFound)})
async def get_invoice(request: Request, invoice_id: Id, caller: Caller) -> Response:
    """Where a bill stands, for whoever sent it."""
    state, now_ms = request.app.state, clock.now_ms()

    async def look(tx: Statements) -> dict[str, object]:
        invoice = await invoices.find(tx, invoice_id)
        invoices.require_theirs(invoice, organisation_id=caller.organisation_id)
        return {
            "invoiceId": invoice["id"],
            "email": invoice["email"],
            "amount": invoice["amount"],
            "description": invoice["description"],
            "status": await invoices.status_of(tx, invoice, now_ms=now_ms),
            "paymentLink": invoices.link_to(invoice["id"], public_url=state.public_url),
            "createdAt": rfc3339(invoice["created_at_ms"]),
            "expiresAt": rfc3339(invoice["expires_at_ms"]),
        }

    return answer(await state.database.read(look))
