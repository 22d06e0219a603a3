"""A fleet to try things with: merchants, terminals with a static QR each, and a box in service at every one.

Written straight into the database, because thousands of activations over HTTP say nothing that one does not say.
Development only: whoever reads the roster can be every box of it, and the provider.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from soundbox_server import seal, seed
from soundbox_server.broker.passwords import hash_password
from soundbox_server.db import Database, Statements
from soundbox_server.devices import presence
from soundbox_server.devices import service as devices
from soundbox_server.errors import Forbidden, ValidationFailed
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.seal import base64url
from soundbox_server.settings import Settings

MOST = 50_000
TILLS_PER_MERCHANT = 25
TOGETHER = 500  # boxes in one transaction
OPERATOR = "operator@demo.test"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One box of the fleet as it left its activation, and what the QR at its terminal is called."""

    device_id: str
    terminal_id: str
    password: str
    token: str
    announcement_key: str
    static_reference: str


@dataclass(frozen=True)
class _Post:
    """Where box number `n` stands. The names are made of the number, so that planting again finds them."""

    n: int

    @property
    def device_id(self) -> str:
        return f"flt_{self.n:05d}"

    @property
    def terminal_id(self) -> str:
        return f"term_flt_{self.n:05d}"

    @property
    def reference(self) -> str:
        return f"flt-{self.n:05d}"

    @property
    def merchant(self) -> int:
        return (self.n - 1) // TILLS_PER_MERCHANT + 1

    @property
    def merchant_id(self) -> str:
        return f"mer_flt_{self.merchant:04d}"

    @property
    def outlet_id(self) -> str:
        return f"out_flt_{self.merchant:04d}"

    @property
    def organisation_id(self) -> str:
        return f"org_flt_{self.merchant:04d}"


async def plant(database: Database, settings: Settings, *, boxes: int, now_ms: int) -> dict[str, Any]:
    """The demo world and a fleet of so many boxes beside it; returns the roster that `soundbox-sim fleet` reads.

    Planting again activates the same boxes anew: their passwords, tokens and keys are other ones. Raises Forbidden in
    production and ValidationFailed for a fleet that is too large.
    """
    if settings.environment == "production":
        raise Forbidden("A fleet with known passwords is not planted in production.")
    if not 1 <= boxes <= MOST:
        raise ValidationFailed(f"A fleet has 1 to {MOST} boxes.")
    await seed.plant(database, settings, now_ms=now_ms, boxes=0)
    key_of = partial(seal.announcement_key, settings.master)
    members: list[Member] = []
    for posts in _groups(boxes):
        wanted = [(post, secrets.token_urlsafe(32), secrets.token_urlsafe(32)) for post in posts]
        hashes = await asyncio.to_thread(_hashed, [password for _, password, _ in wanted])

        async def work(tx: Statements, wanted: Any = wanted, hashes: list[str] = hashes) -> dict[str, int]:
            return await _put_into_service(tx, wanted, hashes, now_ms)

        versions = await database.write(work)
        members += [
            Member(
                device_id=post.device_id,
                terminal_id=post.terminal_id,
                password=password,
                token=token,
                announcement_key=base64url(key_of(post.device_id, versions[post.device_id])),
                static_reference=post.reference,
            )
            for post, password, token in wanted
        ]
    return {
        "server": settings.public_url,
        "broker_host": settings.broker_host,
        "broker_port": settings.broker_port,
        "announcement_life_s": settings.announcement_life_s,
        "acquirer": {"partner_id": "sandbox", "secret": settings.secrets_of("sandbox")[0].decode()},
        "operator": {"email": OPERATOR, "password": seed.PASSWORD},
        "devices": [asdict(member) for member in members],
    }


def _groups(boxes: int) -> Iterator[list[_Post]]:
    for first in range(1, boxes + 1, TOGETHER):
        yield [_Post(n) for n in range(first, min(first + TOGETHER, boxes + 1))]


def _hashed(passwords: Sequence[str]) -> list[str]:
    return [hash_password(password) for password in passwords]


async def _put_into_service(
    tx: Statements, wanted: Sequence[tuple[_Post, str, str]], hashes: Sequence[str], now_ms: int
) -> dict[str, int]:
    """Device -> the version of its announcement key."""
    posts = [post for post, _, _ in wanted]
    await _plant_merchants(tx, {post.merchant: post for post in posts}.values(), now_ms)
    await _plant_tills(tx, posts, now_ms)
    ids = [post.device_id for post in posts]
    await _end_earlier_life(tx, ids, now_ms)
    await tx.many(
        "INSERT INTO device_credential (id, device_id, token_sha256, broker_hash, state, created_at_ms) "
        "VALUES ($1, $2, $3, $4, 'active', $5)",
        [
            (new_id("cred"), post.device_id, hashlib.sha256(token.encode()).hexdigest(), hashed, now_ms)
            for (post, _, token), hashed in zip(wanted, hashes, strict=True)
        ],
    )
    await tx.execute(f"UPDATE device SET key_version = key_version + 1, last_seq = 0 WHERE id {tx.among(1)}", ids)
    rows = await tx.fetch(f"SELECT id, key_version FROM device WHERE id {tx.among(1)}", ids)
    await devices.credentials_changed(tx, now_ms=now_ms)
    return {row["id"]: row["key_version"] for row in rows}


async def _plant_merchants(tx: Statements, firsts: Iterable[_Post], now_ms: int) -> None:
    merchants = list(firsts)
    await tx.many(
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, 'merchant', $2, $3) "
        "ON CONFLICT DO NOTHING",
        [(post.organisation_id, f"Warung {post.merchant}", now_ms) for post in merchants],
    )
    await tx.many(
        "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, "
        "nmid, criteria, fee_profile_id, payout_mode, status, approved_at_ms, created_at_ms) VALUES ($1, $2, $1, $3, "
        "$3, 'JAKARTA', '10110', '5812', $4, 'UMI', 'fee_basic', 'manual', 'approved', $5, $5) ON CONFLICT DO NOTHING",
        [
            (post.merchant_id, post.organisation_id, f"Warung {post.merchant}", f"ID20{post.merchant:011d}", now_ms)
            for post in merchants
        ],
    )
    await tx.many(
        "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, is_default, created_at_ms) "
        "VALUES ($1, $2, 'main', $3, 'Jl. Contoh 1, Jakarta', 'active', $4, $5) ON CONFLICT DO NOTHING",
        [(post.outlet_id, post.merchant_id, f"Warung {post.merchant}", True, now_ms) for post in merchants],
    )


async def _plant_tills(tx: Statements, posts: Sequence[_Post], now_ms: int) -> None:
    await tx.many(
        "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, created_at_ms) "
        "VALUES ($1, $2, $3, $1, 'static', 'active', $4) ON CONFLICT DO NOTHING",
        [(post.terminal_id, post.outlet_id, post.merchant_id, now_ms) for post in posts],
    )
    await tx.many(
        "INSERT INTO static_qr (id, merchant_id, terminal_id, provider, partner_reference, kind, state, created_at_ms) "
        "VALUES ($1, $2, $3, 'sandbox', $4, 'payment', 'active', $5) ON CONFLICT DO NOTHING",
        [(f"sqr_{post.reference}", post.merchant_id, post.terminal_id, post.reference, now_ms) for post in posts],
    )
    await tx.many(
        "INSERT INTO device (id, serial_number, vendor, model, state, key_version, last_seq, created_at_ms) "
        "VALUES ($1, $2, 'native', 'sbx-1', 'bound', 0, 0, $3) ON CONFLICT DO NOTHING",
        [(post.device_id, f"FLT-{post.n:05d}", now_ms) for post in posts],
    )
    await tx.many(
        "INSERT INTO device_binding (id, device_id, merchant_id, outlet_id, terminal_id, bound_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        [
            (f"bnd_{post.device_id}", post.device_id, post.merchant_id, post.outlet_id, post.terminal_id, now_ms)
            for post in posts
        ],
    )


async def _end_earlier_life(tx: Statements, ids: Sequence[str], now_ms: int) -> None:
    """As another activation does: what was handed out before opens nothing, and epochs and numbers begin anew."""
    known = await tx.fetch(
        f"SELECT DISTINCT device_id FROM device_credential WHERE device_id {tx.among(1)} ORDER BY device_id", list(ids)
    )
    for row in known:
        await devices.end_what_waits(tx, row["device_id"], reason="activated_again", now_ms=now_ms)
        await outbox.ask_no_more(tx, row["device_id"], reason="activated_again", now_ms=now_ms)
        await presence.begin_anew(tx, row["device_id"], at_ms=now_ms)
    await tx.execute(f"DELETE FROM device_credential WHERE state = 'issued' AND device_id {tx.among(1)}", list(ids))
    await tx.execute(
        "UPDATE device_credential SET state = 'superseded', expires_at_ms = NULL "
        f"WHERE state IN ('active', 'superseded') AND device_id {tx.among(1)}",
        list(ids),
    )
