"""The doors of one's own account: log in and out, refresh, passwords, second factor, sessions. The same for operators
and merchants, each at their own address.
"""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from soundbox_server import clock, db
from soundbox_server.access import account, limits, login, one_time, service, sessions
from soundbox_server.access.auth import Acting, Caller, client_ip, must_enrol
from soundbox_server.access.limits import HOUR_MS, MINUTE_MS
from soundbox_server.access.login import Refused, Try
from soundbox_server.access.models import LoginSession, Organisation, Person
from soundbox_server.access.passwords import LONGEST, SHORTEST, in_thread, require_strong
from soundbox_server.access.people import VISIBLE
from soundbox_server.access.service import Principal
from soundbox_server.access.sessions import Opened
from soundbox_server.access.state import MERCHANTS, STAFF
from soundbox_server.answers import Time, TypedDict, answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import rfc3339
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, LinkExpired, MfaRequired, Unauthenticated, WeakPassword
from soundbox_server.fields import Id
from soundbox_server.http import Reader, envelope, problems, request_id
from soundbox_server.paging import Listing, Page, Rows, page

WRONG_LOGIN = "E-mail address or password is wrong."

Email = Annotated[str, Field(max_length=254, pattern=VISIBLE, examples=["operator@demo.test"])]
Password = Annotated[str, Field(max_length=LONGEST, examples=["correct horse battery staple"])]
NewPassword = Annotated[str, Field(min_length=SHORTEST, max_length=LONGEST, examples=["paper kite over the harbour"])]
Code = Annotated[str | None, Field(max_length=10, examples=["492039"])]
RecoveryCode = Annotated[str | None, Field(max_length=40, examples=["7k2m-x0qd-93ab-vt5e"])]
Token = Annotated[str, Field(examples=["q7c0l3Jv9mXcT1h2ZbK8wPq4sN6yRr5eUaVdGfBiOoE"], max_length=100)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Login(_Body):
    email: Email
    password: Password
    totp: Code = None
    recovery_code: RecoveryCode = None


class Refresh(_Body):
    refresh_token: Token


class ForgotPassword(_Body):
    email: Email


class ResetPassword(_Body):
    token: Token
    password: NewPassword


class ChangePassword(_Body):
    password: Password
    new_password: NewPassword


class EnrolTotp(_Body):
    password: Password


class ConfirmTotp(_Body):
    code: Annotated[str, Field(max_length=10, examples=["492039"])]


class RemoveTotp(_Body):
    password: Password
    totp: Code = None
    recovery_code: RecoveryCode = None


class UserView(TypedDict):
    id: str
    email: str
    name: str
    role: str
    language: str


class TokensView(TypedDict):
    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    session_id: str
    must_enrol_totp: bool
    user: UserView


class LoggedOutView(TypedDict):
    logged_out: bool


class MessageView(TypedDict):
    message: str


class PasswordSetView(TypedDict):
    password_set: bool


class PasswordChangedView(PasswordSetView):
    sessions_ended: int


class EnrolmentView(TypedDict):
    secret: str
    otpauth_uri: str


class FactorView(TypedDict):
    totp: bool


class RecoveryView(FactorView):
    recovery_codes: list[str]


class SessionView(TypedDict):
    id: str
    kind: str
    current: bool
    created_at: Time
    last_used_at: Time
    expires_at: Time
    ip: str | None
    user_agent: str | None


class EndedView(TypedDict):
    id: str
    revoked: bool


class OnesOrganisationView(TypedDict):
    id: str
    kind: str
    name: str


class MeView(TypedDict):
    person: UserView | None
    organisation: OnesOrganisationView
    role: str
    session_id: str | None
    api_key_id: str | None
    scopes: list[str]
    totp: bool


def own_doors(door: str, roles: frozenset[str], *, tag: str) -> APIRouter:
    """The account's doors under `/{door}`, for people of these roles."""
    router = APIRouter(prefix=f"/{door}", tags=[tag])

    @router.post("/login", responses=answers(TokensView) | problems(Unauthenticated, MfaRequired))
    async def log_in(request: Request, asked: Login) -> Response:
        """Tokens for the right password, and where there is a second factor for its code. Unknown people and wrong
        passwords get the same answer in the same time; too many tries get 429."""
        tried = Try(
            door=door, roles=roles, email=asked.email, totp=asked.totp, recovery_code=asked.recovery_code,
            ip=client_ip(request), user_agent=request.headers.get("user-agent"), request_id=request_id(request),
        )  # fmt: skip
        return envelope(request, tokens(request, await enter(request, tried, asked.password)), headers=NO_STORE)

    @router.post("/refresh", responses=answers(TokensView) | problems(Unauthenticated))
    async def refresh(request: Request, asked: Refresh) -> Response:
        """The next pair of tokens. A refresh token works once: its second use ends the session."""
        state, now_ms = request.app.state, clock.now_ms()
        life_ms, actor = state.refresh_life_ms, stranger(request)
        opened = await state.database.write(
            lambda tx: sessions.refresh(
                tx, asked.refresh_token, roles=roles, life_ms=life_ms, actor=actor, now_ms=now_ms
            )
        )
        if opened is None:
            raise Unauthenticated("The refresh token is not valid any more. Log in again.")
        return envelope(request, tokens(request, opened), headers=NO_STORE)

    @router.post("/logout", responses=answers(LoggedOutView))
    async def log_out(request: Request, caller: Caller, actor: Acting) -> Response:
        """End this session: its tokens stop working at once."""
        now_ms, session_id = clock.now_ms(), str(caller.session_id)

        async def work(tx: Statements) -> None:
            await sessions.end(tx, [session_id], reason="logout", now_ms=now_ms)
            await record(tx, actor, f"{door}.logout", ("session", session_id))

        await request.app.state.database.write(work)
        return envelope(request, {"logged_out": True})

    @router.post("/forgot-password", status_code=202, responses=answers(MessageView, status=202))
    async def forgot_password(request: Request, asked: ForgotPassword) -> Response:
        """A mail with a link, if there is somebody of this address. The answer is the same if not."""
        await request_reset(request, asked.email)
        return envelope(request, {"message": "If this address is known, a mail is on its way."}, status=202)

    @router.post("/reset-password", responses=answers(PasswordSetView) | problems(LinkExpired, WeakPassword))
    async def reset_password(request: Request, asked: ResetPassword) -> Response:
        """Set a password with the token out of an invitation or a reset mail. The token works once."""
        await set_password(request, asked.token, asked.password)
        return envelope(request, {"password_set": True})

    @router.post("/password", responses=answers(PasswordChangedView) | problems(WeakPassword))
    async def change_password(request: Request, asked: ChangePassword, caller: Caller, actor: Acting) -> Response:
        """Another password, with the old one. All other sessions end."""
        state, now_ms = request.app.state, clock.now_ms()
        person = await _person(request, caller)
        require_strong(asked.new_password, email=person.email, name=person.name)
        proved = await prove(request, caller, asked.password)
        hashed = await in_thread(state.passwords.hash, asked.new_password)
        ended = await state.database.write(
            lambda tx: account.change_password(tx, proved, hashed, actor=actor, now_ms=now_ms)
        )
        return envelope(request, {"password_set": True, "sessions_ended": ended})

    @router.post("/totp", status_code=201, responses=answers(EnrolmentView, status=201) | problems(Conflict))
    async def enrol_totp(request: Request, asked: EnrolTotp, caller: Caller, actor: Acting) -> Response:
        """A secret for an authenticator app, shown this once. It is in force once confirmed."""
        state, now_ms = request.app.state, clock.now_ms()
        proved = await prove(request, caller, asked.password)
        enrolment = await state.database.write(
            lambda tx: account.enrol_totp(tx, proved, ring=state.sealing_ring, actor=actor, now_ms=now_ms)
        )
        data = {"secret": enrolment.secret, "otpauth_uri": enrolment.otpauth_uri}
        return envelope(request, data, status=201, headers=NO_STORE)

    @router.post("/totp/confirm", responses=answers(RecoveryView) | problems(MfaRequired))
    async def confirm_totp(request: Request, asked: ConfirmTotp, caller: Caller, actor: Acting) -> Response:
        """Put the second factor into force with a code of it; the recovery codes are shown this once."""
        state, now_ms, person_id = request.app.state, clock.now_ms(), str(caller.person_id)
        codes = await state.database.write(
            lambda tx: account.confirm_totp(
                tx, person_id, caller.session_id, asked.code, ring=state.sealing_ring, actor=actor, now_ms=now_ms
            )
        )
        return envelope(request, {"totp": True, "recovery_codes": codes}, headers=NO_STORE)

    @router.post("/totp/remove", responses=answers(FactorView) | problems(Conflict, MfaRequired))
    async def remove_totp(request: Request, asked: RemoveTotp, caller: Caller, actor: Acting) -> Response:
        """Remove the second factor with the password and a code, for instance to set up another device."""
        state, now_ms = request.app.state, clock.now_ms()
        proved = await prove(request, caller, asked.password)
        await state.database.write(
            lambda tx: account.remove_totp(
                tx, proved, code=asked.totp, recovery_code=asked.recovery_code, ring=state.sealing_ring, actor=actor,
                now_ms=now_ms,
            )
        )  # fmt: skip
        return envelope(request, {"totp": False})

    @router.get("/sessions", responses=pages(SessionView))
    async def list_sessions(
        request: Request, session: Reader, caller: Caller, asked: Annotated[Page, Query()]
    ) -> Response:
        """One's own sessions that are still open, newest first."""

        def ones_own(_asked: Page) -> Rows:
            return select(LoginSession).where(
                LoginSession.person_id == caller.person_id,
                LoginSession.ended_at_ms.is_(None),
                LoginSession.expires_at_ms > clock.now_ms(),
            )

        show = partial(_session, caller=caller)
        listing = Listing(asked=Page, key=(LoginSession.id,), select=ones_own, show=show)
        return await page(request, session, listing, asked)

    @router.delete("/sessions/{session_id}", responses=answers(EndedView))
    async def revoke_session(request: Request, session_id: Id, actor: Acting) -> Response:
        """End one of one's own sessions."""
        now_ms = clock.now_ms()
        await request.app.state.database.write(lambda tx: sessions.revoke(tx, session_id, actor=actor, now_ms=now_ms))
        return envelope(request, {"id": session_id, "revoked": True})

    return router


NO_STORE = {"Cache-Control": "no-store"}
admin_account = own_doors("admin", STAFF, tag="operators")
merchant_account = own_doors("merchant", MERCHANTS, tag="merchants")


@admin_account.get("/me", responses=answers(MeView))
async def me(request: Request, session: Reader, caller: Caller) -> Response:
    """Who I am: for an API key, whom it speaks for."""
    organisation = await session.get_one(Organisation, caller.organisation_id)
    person = await session.get(Person, caller.person_id) if caller.person_id else None
    data: MeView = {
        "person": None if person is None else _user(person.id, person.email, person.name, person.role, person.language),
        "organisation": {"id": organisation.id, "kind": organisation.kind, "name": organisation.name},
        "role": caller.role,
        "session_id": caller.session_id,
        "api_key_id": caller.api_key_id,
        "scopes": sorted(caller.scopes),
        "totp": caller.has_totp,
    }
    return envelope(request, data)


async def enter(request: Request, tried: Try, password: str) -> Opened:
    """A session for the right password and second factor. Raises RateLimited, MfaRequired or Unauthenticated."""
    state, now_ms = request.app.state, clock.now_ms()
    standing = limits.require(
        await state.database.write(lambda tx: login.count(tx, tried, allowed=state.limits, now_ms=now_ms))
    )
    async with db.reading(state.database) as session:  # closed before hashing: that takes long
        seen = await login.look_up(session, tried.email)
    hashed = seen.password_hash if seen else None
    fits = await in_thread(state.passwords.fits, password, hashed)
    rehashed = None
    if fits and hashed and state.passwords.is_stale(hashed):
        rehashed = await in_thread(state.passwords.hash, password)
    now_ms = clock.now_ms()
    outcome: Opened | Refused = await state.database.write(
        lambda tx: login.let_in(
            tx, tried, seen, fits=fits, rehashed=rehashed, ring=state.sealing_ring, allowed=state.limits,
            life_ms=state.refresh_life_ms, now_ms=now_ms,
        )
    )  # fmt: skip
    if isinstance(outcome, Refused):
        refusal = (
            MfaRequired("Send a fresh code of your second factor.") if outcome.mfa else Unauthenticated(WRONG_LOGIN)
        )
        refusal.headers = standing.headers
        raise refusal
    return outcome


def tokens(request: Request, opened: Opened) -> TokensView:
    """What an opened session is proved with."""
    state, person = request.app.state, opened.person
    principal = Principal(
        person_id=person["id"],
        organisation_id=person["organisation_id"],
        role=person["role"],
        session_id=opened.session_id,
    )
    is_partner = person["role"] == "partner"
    life_s = sessions.PARTNER_LIFE_MS // 1000 if is_partner else state.access_life_s
    return {
        "access_token": service.access_token(
            principal, key=state.token_key, now_s=clock.now_ms() // 1000, life_s=life_s
        ),
        "token_type": "Bearer",
        "expires_in": life_s,
        "refresh_token": opened.refresh_token,
        "refresh_expires_in": opened.refresh_life_ms // 1000,
        "session_id": opened.session_id,
        "must_enrol_totp": must_enrol(role=person["role"], has_totp=opened.has_totp, required=state.require_totp),
        "user": _user(person["id"], person["email"], person["name"], person["role"], person["language"]),
    }


def _user(person_id: str, email: str, name: str, role: str, language: str) -> UserView:
    return {"id": person_id, "email": email, "name": name, "role": role, "language": language}


def stranger(request: Request) -> Actor:
    """Somebody before they have proved who they are."""
    return Actor(kind="person", ip=client_ip(request), request_id=request_id(request))


async def _count_reset(
    tx: Statements, allowed: limits.Limits, email: str, ip: str | None, now_ms: int
) -> limits.Standing:
    count = partial(limits.rate_limit, tx, window_ms=HOUR_MS, now_ms=now_ms)
    by_address = await count(f"reset:{limits.network(ip)}", limit=4 * allowed.resets_per_hour)
    if not by_address.allowed:
        return by_address
    return await count(f"reset:{service.sha256(email.strip().lower())[:32]}", limit=allowed.resets_per_hour)


async def request_reset(request: Request, email: str) -> None:
    """A mail with a link, if there is somebody of this address: whoever asks cannot tell. Raises RateLimited."""
    state, actor, now_ms = request.app.state, stranger(request), clock.now_ms()

    async def work(tx: Statements) -> limits.Standing:
        standing = await _count_reset(tx, state.limits, email, actor.ip, now_ms)
        if standing.allowed:
            await one_time.request_reset(tx, email, desk=state.mail_desk, actor=actor, now_ms=now_ms)
        return standing

    limits.require(await state.database.write(work))


async def set_password(request: Request, token: str, password: str) -> None:
    """Set a password with a mail's token. Raises RateLimited, LinkExpired and WeakPassword.

    Nothing is hashed for a token that is none: that would let strangers keep our cores busy."""
    state, actor, now_ms = request.app.state, stranger(request), clock.now_ms()
    limits.require(
        await state.database.write(
            lambda tx: limits.rate_limit(
                tx, f"login:{limits.network(actor.ip)}", limit=state.limits.logins_per_minute, window_ms=MINUTE_MS,
                now_ms=now_ms,
            )
        )
    )  # fmt: skip
    owner = await state.database.read(lambda tx: one_time.owner_of_token(tx, token, now_ms=now_ms))
    if owner is None:
        raise LinkExpired(one_time.LINK_IS_OVER)
    require_strong(password, email=owner["email"], name=owner["name"])
    hashed = await in_thread(state.passwords.hash, password)
    await state.database.write(lambda tx: one_time.set_password(tx, token, hashed, actor=actor, now_ms=clock.now_ms()))


async def _person(request: Request, caller: Principal) -> Person:
    async with db.reading(request.app.state.database) as session:
        return await session.get_one(Person, caller.person_id)


async def prove(request: Request, caller: Principal, password: str) -> account.Proved:
    """That the caller knows the password of the account. Raises RateLimited and Unauthenticated."""
    state, now_ms, person_id = request.app.state, clock.now_ms(), str(caller.person_id)
    limits.require(
        await state.database.write(lambda tx: account.count_proof(tx, person_id, allowed=state.limits, now_ms=now_ms))
    )
    person = await _person(request, caller)
    if not await in_thread(state.passwords.fits, password, person.password_hash):
        raise Unauthenticated("The password is wrong.")
    return account.Proved(
        person_id=person_id, session_id=str(caller.session_id), password_hash=str(person.password_hash)
    )


def _session(row: LoginSession, *, caller: Principal) -> SessionView:
    return {
        "id": row.id,
        "kind": row.kind,
        "current": row.id == caller.session_id,
        "created_at": rfc3339(row.created_at_ms),
        "last_used_at": rfc3339(row.last_used_at_ms),
        "expires_at": rfc3339(row.expires_at_ms),
        "ip": row.ip,
        "user_agent": row.user_agent,
    }
