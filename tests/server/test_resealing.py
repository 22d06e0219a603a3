"""Sealed secrets carried over to a new key, on both databases, beside a product that goes on writing."""

import pytest
from sqlalchemy import Column, MetaData, Table, Text, select

from soundbox_server.db import Database, reading, transaction
from soundbox_server.resealing import count_by_key, reseal, sealed_columns
from soundbox_server.seal import SEALED, Ring, key_id, seal, unseal

OLD, NEW, LOST = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
METADATA = MetaData()
VAULT = Table("vault", METADATA, Column("id", Text, primary_key=True), Column("secret", Text, info=SEALED))


@pytest.fixture
async def vault(database: Database) -> Database:
    async with database.engine.execution_options(soundbox_writes=True).begin() as connection:
        await connection.run_sync(METADATA.create_all)
    return database


async def put(database: Database, secrets: dict[str, str | None]) -> None:
    async with transaction(database) as session:
        await session.execute(VAULT.insert(), [{"id": key, "secret": sealed} for key, sealed in secrets.items()])


async def everything(database: Database) -> dict[str, str | None]:
    async with reading(database) as session:
        return {row.id: row.secret for row in await session.execute(select(VAULT))}


async def test_every_secret_comes_under_the_newest_key_and_says_the_same(vault: Database) -> None:
    rows = [f"row_{number:03}" for number in range(25)]
    await put(vault, {row: seal(Ring((OLD,)), row, row.encode()) for row in rows})
    await put(vault, {"row_999": None, "row_500": seal(Ring((NEW,)), "row_500", b"row_500")})
    untouched = (await everything(vault))["row_500"]

    (done,) = await reseal(vault, METADATA, Ring((NEW, OLD)), batch=10)

    assert (done.column, done.rows, done.unreadable) == ("vault.secret", 25, [])
    found = await everything(vault)
    assert found.pop("row_999") is None
    assert found["row_500"] == untouched
    assert {row: unseal(Ring((NEW,)), row, sealed or "") for row, sealed in found.items()} == {
        row: row.encode() for row in (*rows, "row_500")
    }


async def test_a_second_run_finds_nothing_to_do(vault: Database) -> None:
    await put(vault, {"row_1": seal(Ring((OLD,)), "row_1", b"x")})
    await reseal(vault, METADATA, Ring((NEW, OLD)))
    before = await everything(vault)

    (done,) = await reseal(vault, METADATA, Ring((NEW, OLD)))

    assert done.rows == 0
    assert await everything(vault) == before


async def test_what_no_key_opens_is_named_and_left_as_it_is(vault: Database) -> None:
    lost = seal(Ring((LOST,)), "row_1", b"x")
    await put(vault, {"row_1": lost, "row_2": seal(Ring((OLD,)), "row_2", b"y"), "row_3": "not sealed at all"})

    (done,) = await reseal(vault, METADATA, Ring((NEW, OLD)), batch=1)

    assert (done.rows, done.unreadable) == (1, ["row_1", "row_3"])
    assert (await everything(vault))["row_1"] == lost


async def test_the_count_tells_which_keys_are_still_needed(vault: Database) -> None:
    await put(vault, {"row_1": seal(Ring((OLD,)), "row_1", b"x"), "row_2": seal(Ring((NEW,)), "row_2", b"y")})
    await put(vault, {"row_3": None, "row_4": "not sealed"})

    assert await count_by_key(vault, METADATA) == {"vault.secret": {key_id(OLD): 1, key_id(NEW): 1, "?": 1}}


def test_what_could_not_be_resealed_is_refused_when_it_is_declared() -> None:
    twice, keyless = MetaData(), MetaData()
    Table("twice", twice, Column("id", Text, primary_key=True), *(Column(n, Text, info=SEALED) for n in "ab"))
    Table("keyless", keyless, *(Column(n, Text, primary_key=True) for n in "ab"), Column("c", Text, info=SEALED))

    for metadata in (twice, keyless):
        with pytest.raises(ValueError, match="sealed column"):
            sealed_columns(metadata)
