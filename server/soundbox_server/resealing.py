"""The database's sealed secrets: under which keys they are, and carrying them over to the newest one."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, MetaData, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.db import Database, reading, transaction
from soundbox_server.seal import CannotUnseal, Ring, seal, sealed_key_id, sealed_prefix, unseal

BATCH = 100


@dataclass
class Resealed:
    """What one run did to one column. `unreadable` names the rows whose secret no key of the ring opens."""

    column: str
    rows: int = 0
    unreadable: list[str] = field(default_factory=list)


def sealed_columns(metadata: MetaData) -> list[Column[Any]]:
    """The columns declared with `info=SEALED`. Raises ValueError for what could not be resealed.

    The row's key is what a secret is bound to: so it is one column, and a table has one sealed column, or the two of a
    row could be exchanged unnoticed.
    """
    found = [column for table in metadata.sorted_tables for column in table.columns if column.info.get("sealed")]
    if len({column.table for column in found}) < len(found):
        raise ValueError("a table has one sealed column at most")
    if any(len(column.table.primary_key.columns) != 1 for column in found):
        raise ValueError("a sealed column needs a table with one key column")
    return found


async def count_by_key(database: Database, metadata: MetaData) -> dict[str, dict[str, int]]:
    """For each sealed column, how many secrets are under each key id."""
    counts: dict[str, dict[str, int]] = {}
    async with reading(database) as session:
        for column in sealed_columns(metadata):
            of_column = counts.setdefault(str(column), {})
            for text in await session.scalars(select(column).where(column.is_not(None))):
                key = sealed_key_id(text)
                of_column[key] = of_column.get(key, 0) + 1
    return counts


async def reseal(database: Database, metadata: MetaData, ring: Ring, *, batch: int = BATCH) -> list[Resealed]:
    """Bring every secret under the ring's first key, a batch in each transaction. Safe to stop and to repeat, and
    safe beside a running product: whoever seals meanwhile uses that key already."""
    return [await _reseal_column(database, column, ring, batch=batch) for column in sealed_columns(metadata)]


async def _reseal_column(database: Database, column: Column[Any], ring: Ring, *, batch: int) -> Resealed:
    done, after = Resealed(str(column)), ""
    while True:
        async with transaction(database) as session:
            last = await _reseal_batch(session, column, ring, after=after, batch=batch, done=done)
        if last is None:
            return done
        after = last


async def _reseal_batch(
    session: AsyncSession, column: Column[Any], ring: Ring, *, after: str, batch: int, done: Resealed
) -> str | None:
    """The next rows in the order of their keys; returns the last one's key, or None when there were none left."""
    table, row_id, newest = column.table, column.table.primary_key.columns[0], sealed_prefix(ring.keys[0])
    rows = (
        await session.execute(
            select(row_id, column)
            .where(row_id > after, column.is_not(None), func.substr(column, 1, len(newest)) != newest)
            .order_by(row_id)
            .limit(batch)
            .with_for_update()
        )
    ).all()
    for key, sealed in rows:
        try:
            plaintext = unseal(ring, key, sealed)
        except CannotUnseal:
            done.unreadable.append(key)
            continue
        await session.execute(update(table).where(row_id == key).values({column: seal(ring, key, plaintext)}))
        done.rows += 1
    return rows[-1][0] if rows else None
