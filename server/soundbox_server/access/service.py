"""Who somebody is: passwords, access tokens, and the roles that routes ask for."""

import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.access.models import Organisation, Person
from soundbox_server.errors import Unauthenticated

ISSUER = "soundbox"
AUDIENCE = "soundbox-api"
LEEWAY_S = 30
_CLAIMS = ["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "org", "role"]

_passwords = PasswordHash((Argon2Hasher(time_cost=3, memory_cost=64 * 1024, parallelism=4),))
# A hash takes 64 MiB and all it can get of a core: at most two at once, and never on the event loop.
hashing = ThreadPoolExecutor(2, thread_name_prefix="argon2")


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who makes a request: a person with one role in one organisation."""

    person_id: str
    organisation_id: str
    role: str


def hash_password(password: str) -> str:
    """argon2id, 64 MiB, t=3, p=4. Takes about 0.1 s: run it in `hashing`."""
    return _passwords.hash(password)


def check_password(password: str, hashed: str | None) -> bool:
    """Takes the same time whether somebody has this hash or nobody does: run it in `hashing`."""
    fits = _passwords.verify(password, hashed or _nobody())
    return fits and hashed is not None


@lru_cache(maxsize=1)
def _nobody() -> str:
    """The hash of a password that nobody has: unknown people cost as much time as known ones."""
    return _passwords.hash(secrets.token_urlsafe(16))


async def find_person(session: AsyncSession, email: str) -> tuple[Person, Organisation] | None:
    found = await session.execute(
        select(Person, Organisation).join(Organisation, Organisation.id == Person.organisation_id)
        .where(Person.email == email.strip().lower())
    )  # fmt: skip
    row = found.one_or_none()
    return None if row is None else (row[0], row[1])


def access_token(principal: Principal, *, key: Ed25519PrivateKey, now_s: int, life_s: int) -> str:
    """A signed token (EdDSA, `typ` at+jwt) that proves the principal until it expires."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": principal.person_id,
        "org": principal.organisation_id,
        "role": principal.role,
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + life_s,
        "jti": secrets.token_urlsafe(12),
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": key_id(key)})


def read_access_token(token: str, *, key: Ed25519PrivateKey) -> Principal:
    """The principal of a token we signed. Raises Unauthenticated; headers that name other keys are never followed."""
    try:
        header = jwt.get_unverified_header(token)
        if header.get("typ") != "at+jwt" or header.get("kid") != key_id(key):
            raise Unauthenticated("This is no access token of ours.")
        claims = jwt.decode(
            token, key.public_key(), algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER, leeway=LEEWAY_S,
            options={"require": _CLAIMS},
        )  # fmt: skip
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("The access token has expired. Log in again.") from None
    except (jwt.InvalidTokenError, ValueError):
        raise Unauthenticated("The access token is not valid.") from None
    return Principal(person_id=claims["sub"], organisation_id=claims["org"], role=claims["role"])


def key_id(key: Ed25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]
