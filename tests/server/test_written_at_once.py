"""Work that looks first and writes at once leaves what it would have left under locks, whoever else writes."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from soundbox_server.db import Database, Statements

CREATED = "INSERT INTO fee_profile (id, name, version, version_id, created_at_ms) VALUES ($1, 'price', $2, $1, 7)"


@pytest.fixture
async def elsewhere(database: Database) -> AsyncIterator[Database]:
    """The same database, as another process has it open."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        yield other
    finally:
        await other.close()


async def add(database: Database, bps: int) -> None:
    await database.write(lambda tx: _add(tx, bps))


async def raise_price(tx: Statements, *, by: int) -> int:
    """Looks at the price, raises it and keeps a copy. The price it saw."""
    tx.independent_writes = True
    sql = f"SELECT version, {tx.version('f')} AS row_version FROM fee_profile f WHERE id = $1 {tx.lock('f')}"
    (row,) = await tx.fetch(sql, "fee_price")
    raised, versions = [("fee_price", row["version"] + by)], [row["row_version"]]
    await tx.many("UPDATE fee_profile SET version = $2 WHERE id = $1", raised, locked=True, versions=versions)
    await tx.execute(CREATED, f"fee_{row['version'] + by}", row["version"] + by)
    return int(row["version"])


async def prices(database: Database) -> dict[str, int]:
    async def look(tx: Statements) -> dict[str, int]:
        rows = await tx.fetch("SELECT id, version FROM fee_profile WHERE created_at_ms = 7 ORDER BY id")
        return {row["id"]: row["version"] for row in rows}

    return await database.read(look)


async def _add(tx: Statements, bps: int) -> None:
    await tx.execute(CREATED, "fee_price", bps)


async def test_what_was_looked_at_is_changed_and_told_once(database: Database) -> None:
    await add(database, 100)
    told: list[str] = []

    async def work(tx: Statements) -> int:
        tx.after_commit.append(lambda: told.append("committed"))
        return await raise_price(tx, by=10)

    assert await database.write(work, at_once=True) == 100
    assert await prices(database) == {"fee_110": 110, "fee_price": 110}
    assert told == ["committed"]


async def test_a_row_that_changed_after_the_look_is_looked_at_again(database: Database, elsewhere: Database) -> None:
    await add(database, 100)
    tried: list[bool] = []

    async def work(tx: Statements) -> int:
        tried.append(tx.at_once)
        seen = await raise_price(tx, by=10)
        if tx.at_once:  # with locks nobody comes between
            await elsewhere.write(lambda other: raise_price(other, by=5))
        return seen

    seen = await database.write(work, at_once=True)

    assert tried == ([True, False] if database.dialect == "postgresql" else [False])
    assert seen == (105 if True in tried else 100)
    assert await prices(database) == (
        {"fee_105": 105, "fee_115": 115, "fee_price": 115} if True in tried else {"fee_110": 110, "fee_price": 110}
    )


async def test_a_row_that_somebody_holds_is_waited_for_and_looked_at_again(
    database: Database, elsewhere: Database
) -> None:
    await add(database, 100)
    held, let_go = asyncio.Event(), asyncio.Event()

    async def hold(tx: Statements) -> None:
        await raise_price(tx, by=5)
        if tx.dialect == "postgresql":
            await tx.fetch("SELECT 1")  # sends what waits
            held.set()
            await let_go.wait()

    async def work(tx: Statements) -> int:
        let_go.set()
        return await raise_price(tx, by=10)

    holding = asyncio.create_task(elsewhere.write(hold))
    await asyncio.wait([holding, asyncio.create_task(held.wait())], return_when=asyncio.FIRST_COMPLETED)
    seen = await database.write(work, at_once=True)
    await holding

    assert seen == 105
    assert await prices(database) == {"fee_105": 105, "fee_115": 115, "fee_price": 115}


async def test_work_that_reads_what_it_wrote_is_done_under_locks(database: Database) -> None:
    async def work(tx: Statements) -> int:
        tx.independent_writes = True
        await _add(tx, 100)
        return int((await tx.fetch("SELECT version FROM fee_profile WHERE id = 'fee_price'"))[0]["version"])

    assert await database.write(work, at_once=True) == 100
    assert await prices(database) == {"fee_price": 100}


async def test_a_fetch_that_writes_is_done_under_locks_with_the_rest(database: Database) -> None:
    async def work(tx: Statements) -> None:
        await tx.fetch(CREATED + " RETURNING id", "fee_price", 100)
        raise RuntimeError("after all not")

    with pytest.raises(RuntimeError):
        await database.write(work, at_once=True)

    assert await prices(database) == {}


async def test_a_forbidden_row_takes_the_whole_statement_with_it(database: Database) -> None:
    await add(database, 5)

    with pytest.raises(Exception, match=r"fee_profile_counts_from_one|CHECK"):
        await database.write(lambda tx: raise_price(tx, by=-10), at_once=True)

    assert await prices(database) == {"fee_price": 5}


async def test_after_a_lost_race_locks_are_taken_for_a_while(database: Database, elsewhere: Database) -> None:
    await add(database, 100)
    tried: list[bool] = []

    async def work(tx: Statements) -> None:
        tried.append(tx.at_once)
        await raise_price(tx, by=10)
        if tx.at_once:
            await elsewhere.write(lambda other: raise_price(other, by=5))

    await database.write(work, at_once=True)
    await database.write(work, at_once=True)

    assert tried == ([True, False, False] if database.dialect == "postgresql" else [False, False])


async def test_many_at_once_in_two_processes_count_every_raise(database: Database, elsewhere: Database) -> None:
    await add(database, 1)

    doors = [database, elsewhere] * 20
    seen = await asyncio.gather(*(door.write(lambda tx: raise_price(tx, by=1), at_once=True) for door in doors))

    assert sorted(seen) == list(range(1, 41))
    assert (await prices(database))["fee_price"] == 41
