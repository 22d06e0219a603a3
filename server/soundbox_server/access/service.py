"""Who somebody is: principals, and the access tokens that prove them."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.access.models import ApiKey, LoginSession, Person, TotpSecret
from soundbox_server.access.state import PersonState
from soundbox_server.errors import Unauthenticated

ISSUER = "soundbox"
AUDIENCE = "soundbox-api"
LEEWAY_S = 30
KEY_PREFIX = "sbk_"
_CLAIMS = ["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "org", "role", "sid"]


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who makes a request: a person in one of their sessions, or an API key; with one role in one organisation."""

    person_id: str | None
    organisation_id: str
    role: str
    session_id: str | None = None
    api_key_id: str | None = None
    scopes: frozenset[str] = frozenset()  # of an API key
    has_totp: bool = False


PublicKeys = Mapping[str, Ed25519PublicKey]


def public_keys(keys: Sequence[Ed25519PrivateKey]) -> PublicKeys:
    """What proves access tokens, by key id: today's signing key and, during a rotation, those before it."""
    return {key_id(key): key.public_key() for key in keys}


def key_id(key: Ed25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]


def access_token(principal: Principal, *, key: Ed25519PrivateKey, now_s: int, life_s: int) -> str:
    """A signed token (EdDSA, `typ` at+jwt) that proves the principal's session until it expires."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": principal.person_id,
        "org": principal.organisation_id,
        "role": principal.role,
        "sid": principal.session_id,
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + life_s,
        "jti": secrets.token_urlsafe(12),
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": key_id(key)})


def session_of_token(token: str, *, keys: PublicKeys) -> str:
    """The id of the session that a token of ours was made for. Raises Unauthenticated.

    The key is chosen by `kid` among those we hold. Headers that carry or point at other keys are never looked at.
    """
    try:
        header = jwt.get_unverified_header(token)
        key = keys.get(str(header.get("kid")))
        if header.get("typ") != "at+jwt" or key is None:
            raise Unauthenticated("This is no access token of ours.")
        claims = jwt.decode(
            token, key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER, leeway=LEEWAY_S,
            options={"require": _CLAIMS},
        )  # fmt: skip
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("The access token has expired. Refresh it, or log in again.") from None
    except (jwt.InvalidTokenError, ValueError):
        raise Unauthenticated("The access token is not valid.") from None
    return str(claims["sid"])


async def principal_of_session(session: AsyncSession, session_id: str, *, now_ms: int) -> Principal | None:
    """Who a session belongs to now; None once it has ended or the person is disabled.

    Role and organisation are today's, whatever they were when a token was made.
    """
    found = await session.execute(
        select(Person.id, Person.organisation_id, Person.role, TotpSecret.confirmed_at_ms)
        .join(LoginSession, LoginSession.person_id == Person.id)
        .outerjoin(TotpSecret, TotpSecret.person_id == Person.id)
        .where(LoginSession.id == session_id, LoginSession.ended_at_ms.is_(None), LoginSession.expires_at_ms > now_ms)
        .where(Person.state == PersonState.ACTIVE.value)
    )
    row = found.one_or_none()
    if row is None:
        return None
    return Principal(
        person_id=row.id,
        organisation_id=row.organisation_id,
        role=row.role,
        session_id=session_id,
        has_totp=row.confirmed_at_ms is not None,
    )


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    principal: Principal
    last_used_at_ms: int | None


async def principal_of_key(session: AsyncSession, key: str, *, now_ms: int) -> KnownKey | None:
    """Whom an API key speaks for; None for a key that is unknown, revoked or past its time."""
    row = await session.scalar(select(ApiKey).where(ApiKey.key_sha256 == sha256(key), ApiKey.revoked_at_ms.is_(None)))
    if row is None or (row.expires_at_ms is not None and row.expires_at_ms <= now_ms):
        return None
    principal = Principal(
        person_id=None,
        organisation_id=row.organisation_id,
        role=row.role,
        api_key_id=row.id,
        scopes=frozenset(row.scopes.split()),
    )
    return KnownKey(principal=principal, last_used_at_ms=row.last_used_at_ms)


def sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """256 random bits. Only their SHA-256 is stored: there is nothing to guess that a slow hash would protect."""
    return secrets.token_urlsafe(32)
