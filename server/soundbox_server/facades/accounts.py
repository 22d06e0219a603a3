"""References 000 and 003 at one login: `/api/auth`, with answers that both their clients read.

Whoever registers with a company's name is a merchant, as in reference 000, and else a partner, as in reference 003.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from soundbox_server import clock, db
from soundbox_server.access import limits, one_time, sessions
from soundbox_server.access.auth import Acting, Caller, client_ip
from soundbox_server.access.limits import HOUR_MS, network
from soundbox_server.access.login import Try
from soundbox_server.access.passwords import LONGEST, SHORTEST, in_thread, require_strong
from soundbox_server.access.people import ADDRESS
from soundbox_server.access.registration import Registered, Registration, register
from soundbox_server.access.routes import enter, request_reset, set_password, stranger, tokens
from soundbox_server.access.sessions import Opened
from soundbox_server.access.state import ROLES_OF
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, LinkExpired, MfaRequired, Unauthenticated, ValidationFailed, WeakPassword
from soundbox_server.facades.envelopes import error_form, said, says
from soundbox_server.fields import City, Name, Text
from soundbox_server.http import problems, request_id
from soundbox_server.merchants.service import create as create_merchant

router = APIRouter(prefix="/api/auth", tags=["merchants"])

EVERYBODY: frozenset[str] = frozenset().union(*ROLES_OF.values())
ERRORS = error_form("AccountError", ("/api/auth",), invalid="Validasi gagal")
_NO_STORE = {"Cache-Control": "no-store"}

Email = Annotated[
    str, Field(max_length=254, pattern=ADDRESS, examples=["merchant.a@example.com"]), AfterValidator(str.lower)
]
Password = Annotated[str, Field(max_length=LONGEST, examples=["paper kite over the harbour"])]
NewPassword = Annotated[str, Field(min_length=SHORTEST, max_length=LONGEST, examples=["paper kite over the harbour"])]
Phone = Annotated[str, Field(pattern=r"^(\+62|0)[0-9]{9,12}$", examples=["081234567890"])]
Token = Annotated[str, Field(min_length=1, max_length=100, examples=["q7c0l3Jv9mXcT1h2ZbK8wPq4sN6yRr5eUaVdGfBiOoE"])]


class _Body(BaseModel):
    """Fields that other systems' clients send besides are not looked at."""

    model_config = ConfigDict(extra="ignore")


def _given(name: str) -> dict[str, Any]:
    """For the description: this one is there, and not null."""
    return {"required": [name], "properties": {name: {"type": "string"}}}


class Login(_Body):
    email: Annotated[str, Field(max_length=254, pattern=r"^[^\x00]*$", examples=["merchant.a@example.com"])]
    password: Password
    totp: Annotated[str | None, Field(max_length=10)] = None
    recovery_code: Annotated[str | None, Field(max_length=40)] = None


class Register(_Body):
    """Reference 003 says name, phone_number and referral_code; reference 000 companyName, fullName, city, address and
    phoneNumber."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"anyOf": [_given("name"), _given("fullName")]},
    )

    email: Email
    password: NewPassword
    name: Name | None = None
    fullName: Name | None = None  # noqa: N815
    companyName: Name | None = None  # noqa: N815
    city: City | None = None
    address: Text | None = None
    phone_number: Phone | None = None
    phoneNumber: Phone | None = None  # noqa: N815
    referral_code: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9]{1,20}$")] = None

    @model_validator(mode="after")
    def _has_a_name(self) -> "Register":
        if self.name is None and self.fullName is None:
            raise ValueError("say a name or a fullName")
        return self

    @property
    def persons_name(self) -> str:
        return str(self.name or self.fullName)


class Refresh(_Body):
    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"anyOf": [_given("refreshToken"), _given("refresh_token")]}
    )

    refreshToken: Token | None = None  # noqa: N815
    refresh_token: Token | None = None


class ForgotPassword(_Body):
    email: Annotated[str, Field(max_length=254, pattern=r"^[^\x00]*$", examples=["merchant.a@example.com"])]


class ResetPassword(_Body):
    """The token out of the mail; reference 000 and the SDKs of reference 003 name the fields differently."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "allOf": [
                {"anyOf": [_given("resetToken"), _given("token")]},
                {"anyOf": [_given("newPassword"), _given("new_password"), _given("password")]},
            ],
        },
    )

    resetToken: Token | None = None  # noqa: N815
    token: Token | None = None
    newPassword: NewPassword | None = None  # noqa: N815
    new_password: NewPassword | None = None
    password: NewPassword | None = None
    confirmPassword: Annotated[str | None, Field(max_length=LONGEST)] = None  # noqa: N815


class UserView(BaseModel):
    id: str
    userId: str  # noqa: N815
    email: str
    name: str
    fullName: str  # noqa: N815
    companyName: str  # noqa: N815
    role: str
    phone_number: str | None
    referral_code: str
    referred_by: str | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class TokensData(BaseModel):
    """The same tokens by both references' names."""

    accessToken: str  # noqa: N815
    access_token: str
    refreshToken: str  # noqa: N815
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    expires_at: AwareDatetime
    must_enrol_totp: bool
    user: UserView


class RegisteredData(BaseModel):
    message: str
    userId: str  # noqa: N815
    email: str
    companyName: str  # noqa: N815
    user: UserView


class MessageData(BaseModel):
    message: str


@router.post("/login", responses=says(TokensData) | problems(Unauthenticated, MfaRequired))
async def log_in(request: Request, asked: Login) -> Response:
    """Tokens for the right password. Unknown people and wrong passwords get the same answer in the same time; too many
    tries get 429. A partner's token lives 24 hours, everybody else's is carried on by its refresh token."""
    tried = Try(
        door="api", roles=EVERYBODY, email=asked.email, totp=asked.totp, recovery_code=asked.recovery_code,
        ip=client_ip(request), user_agent=request.headers.get("user-agent"), request_id=request_id(request),
    )  # fmt: skip
    opened = await enter(request, tried, asked.password)
    return said(await _opened(request, opened), "Login berhasil", headers=_NO_STORE)


@router.post("/register", status_code=201, responses=says(RegisteredData, 201) | problems(WeakPassword, Conflict))
async def register_oneself(request: Request, asked: Register) -> Response:
    """An account of one's own: a merchant's with a companyName, whose merchant staff approve before it takes payments,
    else a partner's, who is given license keys or takes the one it knows."""
    state, actor, now_ms = request.app.state, stranger(request), clock.now_ms()
    counter = f"register:{network(actor.ip)}"
    most = 4 * state.limits.resets_per_hour
    limits.require(
        await state.database.write(
            lambda tx: limits.rate_limit(tx, counter, limit=most, window_ms=HOUR_MS, now_ms=now_ms)
        )
    )
    require_strong(asked.password, email=asked.email, name=asked.persons_name)
    hashed = await in_thread(state.passwords.hash, asked.password)
    new = Registration(
        kind="partner" if asked.companyName is None else "merchant",
        organisation_name=asked.companyName or asked.persons_name,
        email=asked.email,
        name=asked.persons_name,
        phone_number=asked.phoneNumber or asked.phone_number,
        address=asked.address,
        referral_code=asked.referral_code,
    )
    async with db.transaction(state.database) as session:
        made: Registered = await register(await db.statements(session), new, hashed, actor=actor, now_ms=now_ms)
        if asked.companyName is not None:
            facts = {
                "legal_name": asked.companyName, "brand_name": asked.companyName, "city": asked.city,
                "owner_email": asked.email, "payout_mode": "merchant_direct", "criteria": "UMI",
            }  # fmt: skip
            await create_merchant(session, facts, organisation_id=made.organisation_id, now_ms=now_ms)
    user = await _user(request, made.person_id)
    message = "Registrasi berhasil"
    data = {
        "message": message, "userId": made.person_id, "email": new.email, "companyName": new.organisation_name,
        "user": user,
    }  # fmt: skip
    return said(data, message, status=201)


@router.post("/refresh", responses=says(TokensData) | problems(Unauthenticated))
async def refresh(request: Request, asked: Refresh) -> Response:
    """The next pair of tokens. A refresh token works once: its second use ends the session."""
    state, now_ms, actor = request.app.state, clock.now_ms(), stranger(request)
    token = asked.refreshToken or asked.refresh_token
    if token is None:
        raise ValidationFailed("Send the refreshToken.", field="refreshToken")
    opened = await state.database.write(
        lambda tx: sessions.refresh(
            tx, token, roles=EVERYBODY, life_ms=state.refresh_life_ms, actor=actor, now_ms=now_ms
        )
    )
    if opened is None:
        raise Unauthenticated("The refresh token is not valid any more. Log in again.")
    return said(await _opened(request, opened), "Token diperbarui", headers=_NO_STORE)


@router.post("/logout", responses=says(MessageData))
async def log_out(request: Request, caller: Caller, actor: Acting) -> Response:
    """End this session: its tokens stop working at once."""
    now_ms, session_id = clock.now_ms(), str(caller.session_id)

    async def work(tx: Statements) -> None:
        await sessions.end(tx, [session_id], reason="logout", now_ms=now_ms)
        await record(tx, actor, "api.logout", ("session", session_id))

    await request.app.state.database.write(work)
    return said({"message": "Logout berhasil"}, "Logout berhasil")


RESET_ASKED = "Jika alamat e-mail ini terdaftar, tautan untuk mengatur ulang kata sandi sudah dikirim."


@router.post("/forgot-password", responses=says(MessageData))
async def forgot_password(request: Request, asked: ForgotPassword) -> Response:
    """A mail with a link, if there is somebody of this address. The answer is the same if not, and never holds the
    token."""
    await request_reset(request, asked.email)
    return said({"message": RESET_ASKED}, RESET_ASKED)


@router.post("/request-password-reset", responses=says(MessageData))
async def request_password_reset(request: Request, asked: ForgotPassword) -> Response:
    """The same by reference 000's name."""
    return await forgot_password(request, asked)


@router.post("/reset-password", responses=says(MessageData) | problems(LinkExpired, WeakPassword))
async def reset_password(request: Request, asked: ResetPassword) -> Response:
    """Set a password with the token out of a mail. It works once, and every session ends."""
    token, password = asked.resetToken or asked.token, asked.newPassword or asked.new_password or asked.password
    if token is None or password is None:
        raise ValidationFailed("Send the resetToken and the newPassword.", field="resetToken")
    if asked.confirmPassword not in (None, password):
        await _require_link(request, token)
        raise ValidationFailed("The two passwords differ.", field="confirmPassword")
    await set_password(request, token, password)
    return said({"message": "Kata sandi diperbarui"}, "Kata sandi diperbarui")


async def _require_link(request: Request, token: str) -> None:
    """A link that is over is over, whatever was typed beside it."""
    now_ms = clock.now_ms()
    if await request.app.state.database.read(lambda tx: one_time.owner_of_token(tx, token, now_ms=now_ms)) is None:
        raise LinkExpired(one_time.LINK_IS_OVER)


async def _opened(request: Request, opened: Opened) -> dict[str, Any]:
    given = tokens(request, opened)
    return {
        "accessToken": given["access_token"],
        "access_token": given["access_token"],
        "refreshToken": given["refresh_token"],
        "refresh_token": given["refresh_token"],
        "token_type": given["token_type"],
        "expires_in": given["expires_in"],
        "expires_at": rfc3339(clock.now_ms() + given["expires_in"] * 1_000),
        "must_enrol_totp": given["must_enrol_totp"],
        "user": await _user(request, opened.person["id"]),
    }


async def _user(request: Request, person_id: str) -> dict[str, Any]:
    (row,) = await request.app.state.database.read(lambda tx: tx.fetch(_USER, person_id))
    return {
        "id": row["id"],
        "userId": row["id"],
        "email": row["email"],
        "name": row["name"],
        "fullName": row["name"],
        "companyName": row["company"],
        "role": row["role"],
        "phone_number": row["phone_number"],
        "referral_code": row["referral_code"] or "",
        "referred_by": row["referred_by"],
        "created_at": rfc3339(row["created_at_ms"]),
        "updated_at": rfc3339(row["created_at_ms"]),
    }


_USER = """
SELECT p.id, p.email, p.name, p.role, p.created_at_ms, o.name AS company, f.phone_number, f.referral_code, f.referred_by
FROM person p JOIN organisation o ON o.id = p.organisation_id LEFT JOIN person_profile f ON f.person_id = p.id
WHERE p.id = $1
"""
