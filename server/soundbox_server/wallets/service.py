"""Wallets: opened, looked at under their locks, and what their lists tell.

Order of locks, the same in every process: a session, a withdrawal or an invoice, then wallets by id, then the payment,
boxes and sums. What is in a wallet is asked of the ledger once its row is locked, so nothing leaves that is not there;
what comes in needs no lock.
"""

from collections.abc import Collection
from dataclasses import dataclass

from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, InsufficientBalance, NotFound
from soundbox_server.ids import new_id
from soundbox_server.ledger.service import in_wallet
from soundbox_server.wallets.state import Direction, EntryKind

MOST_WALLETS = 20  # of one organisation: each is asked for its balance when they are shown


def new_code(kind: str) -> str:
    """As the reference writes them: wllt-01k9x3m8z6f1q4v7c2b5n0t8rj."""
    return new_id(kind).replace("_", "-")


def account(wallet_id: str) -> str:
    """What the ledger calls it."""
    return f"wallet:{wallet_id}"


def user_code(organisation_id: str) -> str:
    """What the reference calls an organisation: usr-01k9x3m8z6f1q4v7c2b5n0t8rj."""
    return f"usr-{organisation_id.partition('_')[2]}"


@dataclass(frozen=True, kw_only=True)
class Wallet:
    """A wallet and what is in it, in whole rupiah."""

    id: str
    organisation_id: str
    is_default: bool
    updated_at_ms: int
    balance: int


async def make_holder(tx: Statements, organisation_id: str, *, category: str | None = None, now_ms: int) -> None:
    """From now on this organisation may have wallets; if it could before, nothing changes."""
    await tx.execute(
        "INSERT INTO wallet_holder (organisation_id, category, pin_tries, pin_locked_until_ms, created_at_ms) "
        "VALUES ($1, $2, 0, 0, $3) ON CONFLICT (organisation_id) DO NOTHING",
        organisation_id, category, now_ms,
    )  # fmt: skip


async def holder(tx: Statements, organisation_id: str) -> Row | None:
    """Its organisation_id, category, pin_hash, pin_tries and pin_locked_until_ms, locked until the commit."""
    rows = await tx.fetch(
        "SELECT organisation_id, category, pin_hash, pin_tries, pin_locked_until_ms FROM wallet_holder "
        f"WHERE organisation_id = $1 {tx.lock('wallet_holder')}",
        organisation_id,
    )
    return rows[0] if rows else None


async def open_wallet(tx: Statements, organisation_id: str, *, actor: Actor, now_ms: int) -> Wallet:
    """An empty wallet; an organisation's first is the one that pays. Raises Conflict where there are too many."""
    await make_holder(tx, organisation_id, now_ms=now_ms)
    await holder(tx, organisation_id)
    rows = await tx.fetch("SELECT count(*) AS n FROM wallet WHERE organisation_id = $1", organisation_id)
    if rows[0]["n"] >= MOST_WALLETS:
        raise Conflict(f"An organisation has {MOST_WALLETS} wallets at most.")
    wallet_id, is_default = new_code("wllt"), rows[0]["n"] == 0
    await tx.execute(
        "INSERT INTO wallet (id, organisation_id, is_default, created_at_ms, updated_at_ms) "
        "VALUES ($1, $2, $3, $4, $4)",
        wallet_id, organisation_id, is_default, now_ms,
    )  # fmt: skip
    await record(tx, actor, "wallet.opened", ("wallet", wallet_id), details={"default": is_default})
    return Wallet(id=wallet_id, organisation_id=organisation_id, is_default=is_default, updated_at_ms=now_ms, balance=0)


_WALLET = "SELECT id, organisation_id, is_default, updated_at_ms FROM wallet "


async def wallets_of(tx: Statements, organisation_id: str) -> list[Wallet]:
    """All of an organisation, the default one first."""
    rows = await tx.fetch(_WALLET + "WHERE organisation_id = $1 ORDER BY is_default DESC, id", organisation_id)
    return [await with_balance(tx, row) for row in rows]


async def with_balance(tx: Statements, row: Row) -> Wallet:
    """The wallet of this row and what is in it now."""
    return Wallet(
        id=row["id"],
        organisation_id=row["organisation_id"],
        is_default=bool(row["is_default"]),
        updated_at_ms=row["updated_at_ms"],
        balance=await in_wallet(tx, account(row["id"])),
    )


async def own(tx: Statements, wallet_id: str, *, organisation_id: str) -> Row:
    """Raises NotFound, also for another organisation's."""
    rows = await tx.fetch(_WALLET + "WHERE id = $1 AND organisation_id = $2", wallet_id, organisation_id)
    if not rows:
        raise NotFound("No such wallet.", wallet_code=wallet_id)
    return rows[0]


async def lock(tx: Statements, wallet_ids: Collection[str]) -> dict[str, Row]:
    """These wallets, nothing of which anybody else can spend until the commit."""
    rows = await tx.fetch(f"{_WALLET} WHERE id {tx.among(1)} ORDER BY id {tx.lock('wallet')}", sorted(set(wallet_ids)))
    return {row["id"]: row for row in rows}


async def require_balance(tx: Statements, wallet_id: str, amount: int) -> int:
    """What a locked wallet holds. Raises InsufficientBalance where it is less than this."""
    balance = await in_wallet(tx, account(wallet_id))
    if balance < amount:
        raise InsufficientBalance("There is not enough in this wallet.", balance=balance, amount=amount)
    return balance


async def touch(tx: Statements, wallet_ids: Collection[str], *, now_ms: int) -> None:
    """Something moved in them; they are locked."""
    await tx.many("UPDATE wallet SET updated_at_ms = $2 WHERE id = $1", [(one, now_ms) for one in sorted(wallet_ids)])


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of a wallet's list; see `models.WalletEntry`."""

    organisation_id: str
    wallet_id: str
    kind: EntryKind
    direction: Direction
    trace_id: str
    amount: int
    total_amount: int
    fee_percent: int = 0
    counterparty: str | None = None
    merchant_id: str | None = None


async def enter(tx: Statements, entry: Entry, *, now_ms: int) -> str:
    """Write it down; returns its id. One that stands already stays as it is."""
    entry_id = new_code("txn")
    await tx.execute(
        "INSERT INTO wallet_entry (id, organisation_id, wallet_id, kind, direction, trace_id, amount, fee_percent, "
        "total_amount, counterparty, merchant_id, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
        "$12) ON CONFLICT (wallet_id, trace_id, kind, direction) DO NOTHING",
        entry_id, entry.organisation_id, entry.wallet_id, entry.kind.value, entry.direction.value, entry.trace_id,
        entry.amount, entry.fee_percent, entry.total_amount, entry.counterparty, entry.merchant_id, now_ms,
    )  # fmt: skip
    return entry_id
