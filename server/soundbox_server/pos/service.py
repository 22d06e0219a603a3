"""What tills sold while they were offline, taken over once they are back.

The till's own reference is the key: a batch that comes twice, whole or in parts, is taken over once. Item by item what
fits is booked, and what does not becomes a conflict that somebody resolves; nothing is booked twice or lost meanwhile.
One batch of a merchant at a time: the merchant's row is locked first.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import orjson

from soundbox_server.clock import rfc3339
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, IllegalTransition, NotFound
from soundbox_server.ids import new_id
from soundbox_server.merchants.tills import Till
from soundbox_server.payments.cash import take_cash, take_cash_back
from soundbox_server.payments.charging import Order
from soundbox_server.payments.methods import MOST_IDR, PaymentMethod
from soundbox_server.pos.state import AFTER, ConflictType, ItemKind, Resolution, SaleState, require_resolution

CLOCK_AHEAD_MS = 5 * 60_000  # a till whose clock is further ahead has a wrong one
OLDEST_MS = 30 * 86_400_000  # sales that waited longer are looked at by a person
SALE = 1  # type_transaction

Facts = Mapping[str, str | int | None]
# What no resolution moves: who rang it up, and on what.
_BESIDE_THE_MONEY = {"device_id", "id_user_apps"}


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a till did. `offline_reference` names the transaction it is, pays or voids.

    `facts` are the till's words, for a transaction: branch_code, payment_method, type_transaction, subtotal,
    discount_total, tax_total, grand_total, device_id, id_user_apps; for a payment: payment_method, amount; for a void:
    reason. `state` is a transaction's; None where its words for it contradict each other.
    """

    kind: ItemKind
    offline_id: str
    offline_reference: str
    created_at_device_ms: int
    facts: dict[str, str | int | None]
    state: SaleState | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(orjson.dumps(msgspec.to_builtins(self), option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one item. `error` is there where it was not taken over, or only as it was before."""

    item: Item
    success: bool
    item_id: str | None = None
    payment_id: str | None = None
    error: str | None = None
    conflict: "Found | None" = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A conflict that stands."""

    id: str
    type: ConflictType
    reason: str


@dataclass
class _Known:
    """An item that we took over."""

    id: str
    offline_id: str
    state: SaleState | None
    created_at_device_ms: int
    facts: Facts
    payment_id: str | None

    def told(self) -> dict[str, object]:
        """For whoever compares it with what the till says."""
        return {
            "id": self.id,
            "offline_id": self.offline_id,
            "status": self.state,
            "created_at_device": rfc3339(self.created_at_device_ms),
            "payment_id": self.payment_id,
            **self.facts,
        }


@dataclass
class _Book:
    """What we have of what a batch speaks of, as the batch changes it."""

    till: Till
    trace_id: str
    now_ms: int
    outlets: Mapping[str, tuple[str, str]]
    items: dict[tuple[str, str], _Known] = field(default_factory=dict)
    references: dict[tuple[str, str], str] = field(default_factory=dict)  # by kind and offline_id
    conflicts: dict[str, Row] = field(default_factory=dict)


async def sync(tx: Statements, items: Sequence[Item], *, till: Till, trace_id: str, now_ms: int) -> list[Outcome]:
    """Take over what fits; one outcome for each item, in their order. `till` is where what names no branch was sold.

    Transactions go before their payments, and these before voids, whatever order they came in.
    """
    book = await _open_book(tx, items, till=till, trace_id=trace_id, now_ms=now_ms)
    outcomes: dict[int, Outcome] = {}
    for kind in ItemKind:
        for at, item in enumerate(items):
            if item.kind is kind:
                outcomes[at] = await _take(tx, book, item)
    return [outcomes[at] for at in range(len(items))]


async def resolve(
    tx: Statements,
    conflict_id: str,
    *,
    organisation_id: str,
    resolution: Resolution,
    reason: str | None,
    by: str | None,
    trace_id: str,
    now_ms: int,
) -> str:
    """Put a conflict right; returns the type of what was in conflict.

    Raises NotFound for another organisation's, IllegalTransition once it is resolved, and Conflict for a resolution
    that its type does not know, or that a rule of ours still forbids.
    """
    found = await _conflict(tx, conflict_id, organisation_id)
    till = Till(merchant_id=found["merchant_id"], outlet_id=found["outlet_id"], terminal_id=found["terminal_id"])
    item = msgspec.json.decode(found["local_data"], type=Item)
    book = await _open_book(tx, [item], till=till, trace_id=trace_id, now_ms=now_ms)
    standing = book.conflicts[item.sha256]
    if standing["resolved_at_ms"] is not None:
        raise IllegalTransition("This conflict is resolved.", resolution=standing["resolution_strategy"])
    strategy = require_resolution(standing["conflict_type"], resolution)
    if resolution is Resolution.KEEP_LOCAL:
        await _keep_local(tx, book, item)
    elif resolution is Resolution.MERGE:
        await _merge(tx, book, item)
    await tx.execute(
        "UPDATE offline_conflict SET resolution_strategy = $2, resolution_reason = $3, resolved_by = $4, "
        "resolved_at_ms = $5 WHERE id = $1",
        conflict_id, strategy, reason, by, now_ms,
    )  # fmt: skip
    return str(standing["conflict_type"])


async def _conflict(tx: Statements, conflict_id: str, organisation_id: str) -> Row:
    rows = await tx.fetch(
        "SELECT c.merchant_id, c.terminal_id, t.outlet_id, c.local_data FROM offline_conflict c "
        "JOIN merchant m ON m.id = c.merchant_id JOIN terminal t ON t.id = c.terminal_id "
        "WHERE c.id = $1 AND m.organisation_id = $2 AND m.erased_at_ms IS NULL",
        conflict_id,
        organisation_id,
    )
    if not rows:
        raise NotFound("No such conflict.", conflict_id=conflict_id)
    return rows[0]


async def conflict(tx: Statements, conflict_id: str) -> Row:
    """A conflict's whole row."""
    (row,) = await tx.fetch(
        "SELECT id, kind, offline_reference, offline_id, conflict_type, reason, local_data, server_data, "
        "resolution_strategy, resolution_reason, resolved_by, resolved_at_ms, created_at_ms FROM offline_conflict "
        "WHERE id = $1",
        conflict_id,
    )
    return row


# What we have


async def _open_book(tx: Statements, items: Sequence[Item], *, till: Till, trace_id: str, now_ms: int) -> _Book:
    """Lock the merchant, then look."""
    await tx.fetch("SELECT id FROM merchant WHERE id = $1 " + tx.lock("merchant"), till.merchant_id)
    book = _Book(till=till, trace_id=trace_id, now_ms=now_ms, outlets=await _outlets(tx, till.merchant_id))
    references = sorted({item.offline_reference for item in items})
    ids = sorted({item.offline_id for item in items})
    for row in await tx.fetch(
        "SELECT id, kind, offline_reference, offline_id, state, facts, payment_id FROM offline_item "
        f"WHERE merchant_id = $1 AND (offline_reference {tx.among(2)} OR offline_id {tx.among(3)})",
        till.merchant_id, references, ids,
    ):  # fmt: skip
        _remember(book, row["kind"], row["offline_reference"], _known(row))
    for row in await tx.fetch(
        "SELECT id, conflict_type, reason, local_sha256, resolution_strategy, resolved_at_ms FROM offline_conflict "
        f"WHERE merchant_id = $1 AND local_sha256 {tx.among(2)}",
        till.merchant_id,
        sorted({item.sha256 for item in items}),
    ):
        book.conflicts[row["local_sha256"]] = row
    return book


async def _outlets(tx: Statements, merchant_id: str) -> dict[str, tuple[str, str]]:
    """(outlet, terminal) by branch: an outlet's default till, else its first."""
    rows = await tx.fetch(
        "SELECT o.outlet_code, o.id, t.id AS terminal_id FROM outlet o JOIN terminal t ON t.outlet_id = o.id "
        "WHERE o.merchant_id = $1 ORDER BY t.is_default, t.id DESC",
        merchant_id,
    )
    return {row["outlet_code"]: (row["id"], row["terminal_id"]) for row in rows}


def _known(row: Row) -> _Known:
    facts = orjson.loads(row["facts"])
    return _Known(
        id=row["id"],
        offline_id=row["offline_id"],
        state=SaleState(row["state"]) if row["state"] else None,
        created_at_device_ms=facts.pop("created_at_device_ms"),
        facts=facts,
        payment_id=row["payment_id"],
    )


def _remember(book: _Book, kind: str, reference: str, known: _Known) -> None:
    book.items[kind, reference] = known
    book.references[kind, known.offline_id] = reference


# One item


async def _take(tx: Statements, book: _Book, item: Item) -> Outcome:
    key, decided = (item.kind, item.offline_reference), book.conflicts.get(item.sha256)
    known = book.items.get(key)
    if decided is not None and decided["resolved_at_ms"] is not None:
        return _as_resolved(item, known, decided)
    if known is not None and _says_nothing_new(known, item):
        return _taken(item, known)
    if (verdict := _judge(book, item, known)) is not None:
        return await _set_aside(tx, book, item, known, *verdict)
    known = await _apply(tx, book, item, known)
    if decided is not None:  # what it violated was put right meanwhile
        await tx.execute(
            "UPDATE offline_conflict SET resolution_strategy = 'keep_local', resolved_at_ms = $2 WHERE id = $1",
            decided["id"],
            book.now_ms,
        )
    return _taken(item, known)


def _taken(item: Item, known: _Known) -> Outcome:
    return Outcome(item=item, success=True, item_id=known.id, payment_id=known.payment_id)


def _as_resolved(item: Item, known: _Known | None, decided: Row) -> Outcome:
    if known is not None:
        return _taken(item, known)
    return Outcome(item=item, success=False, error=f"given up: {decided['reason']}")


def _says_nothing_new(known: _Known, item: Item) -> bool:
    """The same word again, or an older one of a sale that has gone on."""
    if known.offline_id != item.offline_id or _differences(known, item):
        return False
    return item.kind is not ItemKind.TRANSACTION or (item.state is not None and not _goes_on(known, item.state))


def _goes_on(known: _Known, state: SaleState) -> bool:
    return known.state is not None and state in AFTER[known.state]


def _judge(book: _Book, item: Item, known: _Known | None) -> tuple[ConflictType, str] | None:
    """Why an item is not taken over."""
    if known is None:
        if (reference := book.references.get((item.kind, item.offline_id))) is not None:
            return ConflictType.DATA_MISMATCH, f"this offline_id stands for {reference}"
    elif different := _differences(known, item):
        return ConflictType.DATA_MISMATCH, f"differs in {', '.join(different)}"
    elif known.offline_id != item.offline_id:
        return ConflictType.DUPLICATE, f"taken over before as {known.offline_id}"
    violated = _violation(book, item)
    if violated is None and book.now_ms - item.created_at_device_ms > OLDEST_MS:
        violated = "older than 30 days"
    return None if violated is None else (ConflictType.CONSTRAINT_VIOLATION, violated)


def _differences(known: _Known, item: Item) -> list[str]:
    """Names of the facts about money and time that do not agree."""
    facts = item.facts.keys() - _BESIDE_THE_MONEY
    different = sorted(name for name in facts if known.facts.get(name) != item.facts[name])
    return different + ["created_at_device"] * (known.created_at_device_ms != item.created_at_device_ms)


def _violation(book: _Book, item: Item) -> str | None:
    """The rule of ours that an item breaks."""
    if item.kind is ItemKind.TRANSACTION:
        return _violation_by_transaction(book, item)
    sale = book.items.get((ItemKind.TRANSACTION, item.offline_reference))
    if sale is None:
        return "no such transaction"
    if item.kind is ItemKind.VOID:
        return None
    if item.facts["payment_method"] != PaymentMethod.CASH:
        return "only cash is taken offline"
    if item.facts["amount"] != sale.facts["grand_total"]:
        return "the amount is not the transaction's grand_total"
    return "the transaction is void" if sale.state is SaleState.VOID else None


def _violation_by_transaction(book: _Book, item: Item) -> str | None:
    facts, total = item.facts, item.facts["grand_total"]
    if item.state is None:
        return "status and payment_status contradict each other"
    if facts["payment_method"] != PaymentMethod.CASH:
        return "only cash is taken offline"
    if facts["type_transaction"] not in (None, SALE):
        return "only sales are taken offline"
    if not isinstance(total, int) or not 1 <= total <= MOST_IDR:
        return f"grand_total must be from 1 to {MOST_IDR} rupiah"
    if facts["subtotal"] is not None and _sum(facts) != total:
        return "subtotal - discount_total + tax_total is not grand_total"
    if facts["branch_code"] is not None and facts["branch_code"] not in book.outlets:
        return "no such branch_code"
    return None


def _sum(facts: Facts) -> int:
    return int(facts["subtotal"] or 0) - int(facts["discount_total"] or 0) + int(facts["tax_total"] or 0)


async def _apply(tx: Statements, book: _Book, item: Item, known: _Known | None) -> _Known:
    """Take an item over that fits: for the first time, or because its sale has gone on."""
    if known is None:
        known = await _insert(tx, book, item)
    if item.kind is ItemKind.TRANSACTION:
        if item.state is not None and item.state is not known.state:
            await _move(tx, book, known, item.state, item)
        return known
    sale = book.items[ItemKind.TRANSACTION, item.offline_reference]
    wanted = SaleState.PAID if item.kind is ItemKind.PAYMENT else SaleState.VOID
    if _goes_on(sale, wanted):
        await _move(tx, book, sale, wanted, item)
    known.payment_id = sale.payment_id
    await _store(tx, book, known)
    return known


async def _insert(tx: Statements, book: _Book, item: Item) -> _Known:
    """A transaction begins as a draft, whatever it is by now; what makes it more is done next."""
    known = _Known(
        id=new_id("ofi"),
        offline_id=item.offline_id,
        state=SaleState.DRAFT if item.kind is ItemKind.TRANSACTION else None,
        created_at_device_ms=item.created_at_device_ms,
        facts=item.facts,
        payment_id=None,
    )
    await tx.execute(
        "INSERT INTO offline_item (id, merchant_id, kind, offline_reference, offline_id, state, facts, received_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        known.id, book.till.merchant_id, item.kind.value, item.offline_reference, item.offline_id, known.state,
        _facts_as_json(known), book.now_ms,
    )  # fmt: skip
    _remember(book, item.kind, item.offline_reference, known)
    return known


async def _move(tx: Statements, book: _Book, sale: _Known, wanted: SaleState, told: Item) -> None:
    """A transaction goes on: its cash is booked, or given back."""
    if wanted is SaleState.PAID:
        sale.payment_id = await _book_cash(tx, book, sale, told)
    elif sale.state is SaleState.PAID and sale.payment_id is not None:
        await take_cash_back(tx, sale.payment_id, source="pos", now_ms=book.now_ms)
    sale.state = wanted
    await _store(tx, book, sale)


async def _book_cash(tx: Statements, book: _Book, sale: _Known, told: Item) -> str:
    outlet_id, terminal_id = book.till.outlet_id, book.till.terminal_id
    branch = sale.facts["branch_code"]
    if isinstance(branch, str) and book.outlets[branch][0] != outlet_id:
        outlet_id, terminal_id = book.outlets[branch]
    ahead = told.created_at_device_ms > book.now_ms + CLOCK_AHEAD_MS
    order = Order(
        merchant_id=book.till.merchant_id,
        outlet_id=outlet_id,
        terminal_id=terminal_id,
        amount=int(sale.facts["grand_total"] or 0),
        source="pos",
        trace_id=book.trace_id,
        method=PaymentMethod.CASH,
    )
    payment_id, _ = await take_cash(
        tx,
        order,
        paid_at_ms=book.now_ms if ahead else told.created_at_device_ms,
        note="till_clock_ahead" if ahead else None,
        now_ms=book.now_ms,
    )
    return payment_id


async def _store(tx: Statements, book: _Book, known: _Known) -> None:
    await tx.execute(
        "UPDATE offline_item SET offline_id = $2, state = $3, facts = $4, payment_id = $5, changed_at_ms = $6 "
        "WHERE id = $1",
        known.id, known.offline_id, known.state, _facts_as_json(known), known.payment_id, book.now_ms,
    )  # fmt: skip


def _facts_as_json(known: _Known) -> str:
    return orjson.dumps({**known.facts, "created_at_device_ms": known.created_at_device_ms}).decode()


# Conflicts


async def _set_aside(
    tx: Statements, book: _Book, item: Item, known: _Known | None, kind: ConflictType, reason: str
) -> Outcome:
    """Keep what was said for somebody to decide about: once, however often the till says it."""
    standing = book.conflicts.get(item.sha256)
    found = Found(id=new_id("ofc") if standing is None else standing["id"], type=kind, reason=reason)
    if standing is None:
        await tx.execute(
            "INSERT INTO offline_conflict (id, merchant_id, terminal_id, kind, offline_reference, offline_id, "
            "conflict_type, reason, local_data, local_sha256, server_data, created_at_ms) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            found.id, book.till.merchant_id, book.till.terminal_id, item.kind.value, item.offline_reference,
            item.offline_id, kind.value, reason, msgspec.json.encode(item).decode(), item.sha256,
            None if known is None else orjson.dumps(known.told()).decode(), book.now_ms,
        )  # fmt: skip
    return Outcome(
        item=item,
        success=kind is ConflictType.DUPLICATE,  # its sale is with us
        item_id=known.id if known else None,
        payment_id=known.payment_id if known else None,
        error=reason,
        conflict=found,
    )


async def _keep_local(tx: Statements, book: _Book, item: Item) -> None:
    """What the till said holds. Raises Conflict for what a rule of ours forbids all the same."""
    if (violated := _violation(book, item)) is not None:
        raise Conflict(f"It still cannot be taken over: {violated}.")
    known = book.items.get((item.kind, item.offline_reference))
    if known is not None and _differences(known, item):
        if known.state is SaleState.PAID and known.payment_id is not None:
            await take_cash_back(tx, known.payment_id, source="pos", now_ms=book.now_ms)
        if known.state is not None:
            known.state, known.payment_id = SaleState.DRAFT, None
        known.facts, known.created_at_device_ms = item.facts, item.created_at_device_ms
    if known is not None:
        known.offline_id = item.offline_id
        await _store(tx, book, known)
    await _apply(tx, book, item, known)


async def _merge(tx: Statements, book: _Book, item: Item) -> None:
    """Take over what is not about the money."""
    known = book.items.get((item.kind, item.offline_reference))
    if known is None:
        raise Conflict("There is nothing to merge it with.")
    known.facts = {**known.facts, **{name: item.facts[name] for name in _BESIDE_THE_MONEY & item.facts.keys()}}
    await _store(tx, book, known)
