"""Asked twice, done once: a caller who did not hear the answer repeats the request with its Idempotency-Key.

The key's row is written in the transaction of the deed it guards and holds the answer, so that the deed and the answer
exist together or not at all. A door calls `once.answer(tx, deed)` inside its own transaction; one that asks somebody
else in between calls `begin` in the first transaction and `keep` or `release` in the last.

An answer may hold what is shown once, an activation code say. It is sealed under the caller's own key, of which only
the hash is kept: whoever reads the database does not read it.
"""

import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column
from starlette.responses import Response

from soundbox_server import clock, seal
from soundbox_server.db import Base, Database, Statements
from soundbox_server.errors import DuplicateRequest, IdempotencyKeyReused, ValidationFailed

KEPT_MS = 72 * 3_600_000
HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
PURGE_LIMIT = 1_000

KEY = r"^[!-~]{1,255}$"


class IdempotencyKey(Base):
    """One request of one caller at one door. Without a status it is still being answered, until its lease ends."""

    __tablename__ = "idempotency_key"
    __table_args__ = (
        CheckConstraint("(status IS NULL) = (body IS NULL)", name="idempotency_answer_is_whole"),
        Index("idempotency_key_expiring", "expires_at_ms"),
    )

    scope: Mapped[str] = mapped_column(primary_key=True)
    key_sha256: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    lease_until_ms: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[int | None]
    media_type: Mapped[str | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True, kw_only=True)
class Once:
    """A request that is done once. Without a key it is done each time it is asked for."""

    scope: str
    key: str | None
    body_sha256: str

    @property
    def row(self) -> tuple[str, str]:
        """The key's row."""
        return self.scope, hashlib.sha256((self.key or "").encode()).hexdigest()

    async def answer(self, tx: Statements, deed: Callable[[], Awaitable[Response]]) -> Response:
        """What the deed answers now, or, byte for byte, what it answered when this key came first.

        Raises IdempotencyKeyReused for another body, DuplicateRequest while the first is still under way. What the deed
        raises leaves no trace: the key may be used again.
        """
        if (stored := await begin(tx, self, now_ms=clock.now_ms())) is not None:
            return stored
        response = await deed()
        await keep(tx, self, response)
        return response


def once(key: str | None, *, principal: str, method: str, path: str, body: bytes) -> Once:
    """`principal` names the caller, so that nobody gets another's answer. Raises ValidationFailed for a bad key."""
    if key is not None and not re.fullmatch(KEY, key):
        raise ValidationFailed("The key has 1 to 255 visible ASCII characters.", field=HEADER)
    return Once(scope=f"{principal} {method} {path}", key=key, body_sha256=hashlib.sha256(body).hexdigest())


_CLAIM = """
INSERT INTO idempotency_key (scope, key_sha256, body_sha256, lease_until_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (scope, key_sha256) DO NOTHING RETURNING scope
"""
_FIND = """
SELECT body_sha256, lease_until_ms, status, media_type, body FROM idempotency_key
WHERE scope = $1 AND key_sha256 = $2
"""


async def begin(tx: Statements, once: Once, *, now_ms: int, lease_ms: int = 0) -> Response | None:
    """The stored answer of this request, or None: then it is the caller's to answer, for `lease_ms` if it commits
    before it has the answer."""
    if once.key is None:
        return None
    try:
        claimed = await tx.fetch(
            _CLAIM, *once.row, once.body_sha256, now_ms + lease_ms, now_ms + KEPT_MS
        )  # waits for a transaction that holds the same key
        if claimed:
            return None
        rows = await tx.fetch(_FIND + tx.lock("idempotency_key"), *once.row)
    except asyncpg.LockNotAvailableError:
        raise _under_way() from None
    if not rows:
        raise _under_way()  # it ended between two statements of ours: the next try finds out how
    found = rows[0]
    if found["body_sha256"] != once.body_sha256:
        raise IdempotencyKeyReused("This Idempotency-Key was used for another request body.")
    if found["status"] is not None:
        return Response(
            _opened(once, found["body"]), found["status"], {REPLAYED: "true"}, media_type=found["media_type"]
        )
    if found["lease_until_ms"] > now_ms:
        raise _under_way()
    await tx.execute(
        "UPDATE idempotency_key SET lease_until_ms = $3 WHERE scope = $1 AND key_sha256 = $2",
        *once.row, now_ms + lease_ms,
    )  # fmt: skip
    return None


async def is_same(tx: Statements, once: Once, *, now_ms: int) -> bool:
    """Whether this key comes for the first time, or with the body that it came with before: for those who repeat what
    they say until it is taken, and to whom no answer is kept."""
    claimed = await tx.fetch(_CLAIM, *once.row, once.body_sha256, now_ms, now_ms + KEPT_MS)
    if claimed:
        return True
    rows = await tx.fetch(_FIND, *once.row)
    return not rows or bool(rows[0]["body_sha256"] == once.body_sha256)


async def keep(tx: Statements, once: Once, response: Response) -> None:
    """Store the answer beside the deed."""
    if once.key is None:
        return
    await tx.execute(
        "UPDATE idempotency_key SET status = $3, media_type = $4, body = $5 WHERE scope = $1 AND key_sha256 = $2",
        *once.row, response.status_code, response.media_type, _sealed(once, bytes(response.body)),
    )  # fmt: skip


async def release(tx: Statements, once: Once) -> None:
    """There is no answer to keep: whoever repeats the request begins again."""
    if once.key is not None:
        await tx.execute(
            "DELETE FROM idempotency_key WHERE scope = $1 AND key_sha256 = $2 AND status IS NULL", *once.row
        )


async def purge(tx: Statements, *, now_ms: int) -> int:
    """Forget what is older than 72 hours; returns how many keys went, at most a thousand at a time."""
    rows = await tx.fetch(
        "DELETE FROM idempotency_key WHERE (scope, key_sha256) IN "
        "(SELECT scope, key_sha256 FROM idempotency_key WHERE expires_at_ms <= $1 ORDER BY expires_at_ms LIMIT $2) "
        "RETURNING scope",
        now_ms,
        PURGE_LIMIT,
    )
    return len(rows)


async def purge_keys(database: Database) -> None:
    """Forget every key that is older than 72 hours."""
    while await database.write(lambda tx: purge(tx, now_ms=clock.now_ms())) == PURGE_LIMIT:
        pass


def _sealed(once: Once, body: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + _cipher(once).encrypt(nonce, body, once.body_sha256.encode())


def _opened(once: Once, sealed: bytes) -> bytes:
    return _cipher(once).decrypt(sealed[:12], sealed[12:], once.body_sha256.encode())


def _cipher(once: Once) -> AESGCM:
    return AESGCM(seal.derive((once.key or "").encode(), f"soundbox/idempotency/v1/{once.scope}"))


def _under_way() -> DuplicateRequest:
    return DuplicateRequest("A request with this Idempotency-Key is still being answered. Try again in a moment.")
