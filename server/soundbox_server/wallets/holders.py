"""Organisations that register themselves: a merchant with its till, an owner who may log in, and an empty wallet."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import db
from soundbox_server.access import people
from soundbox_server.access.people import Invitation
from soundbox_server.audit.service import SYSTEM, Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.merchants import service as merchants
from soundbox_server.wallets import service
from soundbox_server.wallets.service import Wallet


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Who registers. `password_hash` is made off the loop, before the transaction."""

    organisation: str
    email: str  # lower case
    category: str | None
    password_hash: str


async def register(session: AsyncSession, new: Registration, *, ip: str | None, request_id: str, now_ms: int) -> Wallet:
    """The organisation's default wallet, with nothing in it. Its merchant waits to be approved: until then it is paid
    from wallet to wallet, and issues no QR. Raises Conflict for an e-mail address that is known."""
    facts = {
        "brand_name": new.organisation,
        "legal_name": new.organisation,
        "owner_email": new.email,
        "payout_mode": "merchant_direct",
    }
    merchant = await merchants.create(session, facts, organisation_id=None, now_ms=now_ms)
    organisation_id = merchant.organisation_id
    tx = await db.statements(session)
    owner = Invitation(
        organisation_id=organisation_id, email=new.email, name=new.organisation, role="merchant_owner", language="id"
    )
    person_id = await people.add(tx, owner, actor=SYSTEM, now_ms=now_ms)
    await tx.execute(
        "UPDATE person SET password_hash = $2, state = 'active' WHERE id = $1", person_id, new.password_hash
    )
    actor = Actor(
        kind="person", id=person_id, organisation_id=organisation_id, role="merchant_owner", ip=ip,
        request_id=request_id,
    )  # fmt: skip
    await record(tx, actor, "organisation.registered", ("organisation", organisation_id))
    await service.make_holder(tx, organisation_id, category=new.category, now_ms=now_ms)
    return await service.open_wallet(tx, organisation_id, actor=actor, now_ms=now_ms)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """An organisation as its people see it."""

    name: str
    email: str | None  # of who asks; None for a program
    category: str | None
    wallets: list[Wallet]

    @property
    def default(self) -> Wallet | None:
        return next((wallet for wallet in self.wallets if wallet.is_default), None)


async def profile_of(tx: Statements, organisation_id: str, *, person_id: str | None) -> Profile:
    rows = await tx.fetch(
        "SELECT o.name, h.category, (SELECT p.email FROM person p WHERE p.id = $2) AS email FROM organisation o "
        "LEFT JOIN wallet_holder h ON h.organisation_id = o.id WHERE o.id = $1",
        organisation_id,
        person_id,
    )
    return Profile(
        name=rows[0]["name"],
        email=rows[0]["email"],
        category=rows[0]["category"],
        wallets=await service.wallets_of(tx, organisation_id),
    )


async def change(
    tx: Statements, organisation_id: str, *, name: str | None, category: str | None, actor: Actor, now_ms: int
) -> None:
    """What it is called here, and what it does. What its boxes and QR say is its merchant's, which is looked at."""
    await service.make_holder(tx, organisation_id, now_ms=now_ms)
    (before,) = await _names(tx, organisation_id)
    after = {"name": name or before["name"], "category": category or before["category"]}
    await tx.execute("UPDATE organisation SET name = $2 WHERE id = $1", organisation_id, after["name"])
    await tx.execute(
        "UPDATE wallet_holder SET category = $2 WHERE organisation_id = $1", organisation_id, after["category"]
    )
    changed = {field: {"from": before[field], "to": after[field]} for field in after if before[field] != after[field]}
    if changed:
        await record(tx, actor, "organisation.changed", ("organisation", organisation_id), details=changed)


async def _names(tx: Statements, organisation_id: str) -> list[Row]:
    await service.holder(tx, organisation_id)
    rows = await tx.fetch(
        "SELECT o.name, h.category FROM organisation o JOIN wallet_holder h ON h.organisation_id = o.id "
        "WHERE o.id = $1",
        organisation_id,
    )
    return list(rows)
