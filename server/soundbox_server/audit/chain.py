"""The hash chain over the audit log: h = SHA-256(hash before ‖ canonical row).

Entries commit without it, so that no deed waits for another. One process links them each second, in the order of their
ids; a second one that tries finds them linked already. Whoever changes, removes or slips in an entry later breaks the
chain from there on. Cutting off its end is seen only by somebody who kept an earlier head: every linking logs it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from soundbox_server.db import Row, Statements

BEFORE_THE_FIRST = bytes(32)
MOST_AT_ONCE = 500

_COLUMNS = (
    "id", "at_ms", "actor_kind", "actor_id", "organisation_id", "role", "ip", "action", "subject_kind", "subject_id",
    "outcome", "details", "request_id",
)  # fmt: skip
_ENTRY = ", ".join(f"e.{column}" for column in _COLUMNS)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last link: its position (the first is 1; 0 is before it) and hash in hex."""

    position: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class Break:
    """Where the chain does not hold, and why."""

    position: int
    entry_id: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A verified part of the chain: its new head, how many links it has, and the first break if there is one."""

    head: Head
    links: int
    broken: Break | None


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Entries outside the chain. `waiting` ones are linked within a second; `hidden` ones nobody will ever link."""

    waiting: int
    oldest_at_ms: int | None
    hidden: int


START = Head(position=0, hash=BEFORE_THE_FIRST.hex())


async def link(tx: Statements) -> Head | None:
    """Link what waits, at most 500 entries; returns the new head, None when nothing waited."""
    waiting = await tx.fetch(
        f"SELECT e.entry_id FROM audit_unlinked e ORDER BY e.entry_id LIMIT {MOST_AT_ONCE} {tx.lock('e')}"
    )
    if not waiting:
        return None
    entries = await tx.fetch(
        f"SELECT {_ENTRY} FROM audit_entry e WHERE e.id {tx.among(1)} ORDER BY e.id", [row[0] for row in waiting]
    )
    head = await last_link(tx)
    links: list[tuple[int, str, str]] = []
    for entry in entries:
        head = Head(position=head.position + 1, hash=_hash(head, entry))
        links.append((head.position, entry["id"], head.hash))
    await tx.many("INSERT INTO audit_link (position, entry_id, hash) VALUES ($1, $2, $3)", links)
    await tx.many("DELETE FROM audit_unlinked WHERE entry_id = $1", [(entry_id,) for _, entry_id, _ in links])
    return head


async def last_link(tx: Statements) -> Head:
    rows = await tx.fetch("SELECT position, hash FROM audit_link ORDER BY position DESC LIMIT 1")
    return Head(position=rows[0]["position"], hash=rows[0]["hash"]) if rows else START


async def verify(tx: Statements, after: Head = START, *, most: int = MOST_AT_ONCE) -> Stretch:
    """Work through the links after this head. Call again with the new head until a stretch has no links."""
    rows = await tx.fetch(
        f"SELECT l.position, l.entry_id, l.hash, {_ENTRY} "
        "FROM audit_link l LEFT JOIN audit_entry e ON e.id = l.entry_id "
        f"WHERE l.position > $1 ORDER BY l.position LIMIT {int(most)}",
        after.position,
    )
    head = after
    for number, row in enumerate(rows):
        if why := _why_broken(head, row):
            broken = Break(position=head.position + 1, entry_id=row["entry_id"], why=why)
            return Stretch(head=head, links=number, broken=broken)
        head = Head(position=row["position"], hash=row["hash"])
    return Stretch(head=head, links=len(rows), broken=None)


def _why_broken(head: Head, row: Row) -> str | None:
    if row["position"] != head.position + 1:
        return f"link {head.position + 1} is missing"
    if row["id"] is None:
        return "the entry was removed"
    if row["hash"] != _hash(head, row):
        return "the entry, or the link itself, was changed"
    return None


async def tail(tx: Statements) -> Tail:
    """What the chain does not hold."""
    waiting = await tx.fetch(
        "SELECT count(*), min(e.at_ms) FROM audit_unlinked u JOIN audit_entry e ON e.id = u.entry_id"
    )
    hidden = await tx.fetch(
        "SELECT count(*) FROM audit_entry e WHERE NOT EXISTS (SELECT 1 FROM audit_link l WHERE l.entry_id = e.id) "
        "AND NOT EXISTS (SELECT 1 FROM audit_unlinked u WHERE u.entry_id = e.id)"
    )
    return Tail(waiting=waiting[0][0], oldest_at_ms=waiting[0][1], hidden=hidden[0][0])


def _hash(before: Head, entry: Row) -> str:
    return hashlib.sha256(bytes.fromhex(before.hash) + canonical(entry)).hexdigest()


def canonical(entry: Row) -> bytes:
    """The row as bytes: a compact JSON array of its columns in the table's order."""
    values: Sequence[object] = [entry[column] for column in _COLUMNS]
    return orjson.dumps(values)
