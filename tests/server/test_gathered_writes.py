"""Writes that travel together to PostgreSQL leave what they would have left one by one, on both databases."""

from itertools import product

import pytest

from soundbox_server.db import Database, Statements, statements, transaction

INSERT = (
    "INSERT INTO fee_profile (id, name, version_id, version, created_at_ms) VALUES ($1, 'x', 'y', $2, $3) "
    "ON CONFLICT DO NOTHING"
)
ROWS = [(f"fee_{n}", n + 1, 7) for n in range(3)]


async def _versions(database: Database) -> dict[str, int]:
    async def work(tx: Statements) -> dict[str, int]:
        rows = await tx.fetch("SELECT id, version FROM fee_profile WHERE created_at_ms = 7")
        return {row["id"]: row["version"] for row in rows}

    return await database.read(work)


@pytest.mark.parametrize("independent", [False, True])
async def test_many_rows_and_single_rows_arrive_whole_and_once(database: Database, independent: bool) -> None:
    async def work(tx: Statements) -> None:
        tx.independent_writes = independent
        await tx.many(INSERT, [*ROWS, ROWS[0]])
        await tx.execute(INSERT, "fee_alone", 50, 7)
        await tx.many("UPDATE credential_revision SET revision = $1 WHERE id = $2", [(41, 1)])

    await database.write(work)

    assert await _versions(database) == {"fee_0": 1, "fee_1": 2, "fee_2": 3, "fee_alone": 50}


async def test_a_later_read_sees_what_was_written_before_it(database: Database) -> None:
    async def work(tx: Statements) -> int:
        tx.independent_writes = True
        await tx.many(INSERT, ROWS)
        return int((await tx.fetch("SELECT count(*) AS n FROM fee_profile WHERE created_at_ms = 7"))[0]["n"])

    assert await database.write(work) == len(ROWS)


async def test_a_forbidden_row_takes_its_companions_with_it(database: Database) -> None:
    async def work(tx: Statements) -> None:
        tx.independent_writes = True
        await tx.execute(INSERT, "fee_fine", 50, 7)
        await tx.execute(
            "INSERT INTO fee_profile (id, name, version_id, version, created_at_ms) VALUES ('bad', 'x', 'y', $1, 7)", 0
        )

    with pytest.raises(Exception, match=r"fee_profile_counts_from_one|CHECK"):
        await database.write(work)

    assert await _versions(database) == {}


async def test_a_sessions_writes_never_wait(database: Database) -> None:
    async with transaction(database) as session:
        tx = await statements(session)
        tx.independent_writes = True
        await tx.many(INSERT, ROWS)

    assert len(await _versions(database)) == len(ROWS)


@pytest.mark.parametrize("independent", [False, True])
async def test_many_locked_rows_are_each_updated_with_their_own_values(database: Database, independent: bool) -> None:
    async def work(tx: Statements) -> None:
        tx.independent_writes = independent
        await tx.many(INSERT, ROWS)
        await tx.fetch(
            f"SELECT id FROM fee_profile WHERE id {tx.among(1)} {tx.lock('fee_profile')}", ["fee_0", "fee_2"]
        )
        await tx.many(
            "UPDATE fee_profile SET version = $2 + version WHERE id = $1", [("fee_2", 40), ("fee_0", 20)], locked=True
        )

    await database.write(work)

    assert await _versions(database) == {"fee_0": 21, "fee_1": 2, "fee_2": 43}


async def test_whatever_is_written_together_comes_back_as_it_was(database: Database) -> None:
    """Every mix of three of what an array in a text is made of, and of what it is not."""
    pieces = ("", '"', "\\", ",", "{", "}", " ", "NULL", "'", "\n", "?", "$1", "é", "😀")
    texts = ["".join(mix) for mix in product(pieces, repeat=3)]
    rows = [
        (n, text if n % 7 else None, n % 2 == 0, text.encode() if n % 5 else None, -n if n % 3 else None, n / 8)
        for n, text in enumerate(texts)
    ]
    bytes_type = "BLOB" if database.dialect == "sqlite" else "BYTEA"

    async def work(tx: Statements) -> list[tuple[object, ...]]:
        await tx.execute(
            f"CREATE TABLE shapes (id BIGINT, said TEXT, flag BOOLEAN, bytes {bytes_type}, number BIGINT, "
            "part DOUBLE PRECISION)"
        )
        insert = "INSERT INTO shapes (id, said, flag, bytes, number, part) VALUES ($1, $2, $3, $4, $5, $6)"
        await tx.many(insert, rows)
        found = await tx.fetch("SELECT id, said, flag, bytes, number, part FROM shapes ORDER BY id")
        return [(row[0], row[1], bool(row[2]), row[3], row[4], row[5]) for row in found]

    assert await database.write(work) == rows


async def test_what_no_column_takes_is_refused_and_not_written(database: Database) -> None:
    with pytest.raises(Exception, match=r"no element of an array|type .object. is not supported|type"):
        await database.write(lambda tx: tx.many(INSERT, [("fee_0", 1, 7), ("fee_1", object(), 7)]))

    assert await _versions(database) == {}
