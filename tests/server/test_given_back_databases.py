"""What a test did to its PostgreSQL database is not there for the next one."""

import asyncpg
import pytest
from support import databases


@pytest.mark.parametrize(
    "meddled",
    [
        "DROP TRIGGER audit_entry_refused ON audit_entry",
        "ALTER TABLE posting ADD CONSTRAINT posting_odd CHECK (amount <> 1003)",
        "DROP INDEX outbox_due",
        "ALTER TABLE merchant ADD COLUMN odd int",
        'ALTER DATABASE "{name}" SET synchronous_commit = off',
        "VACUUM ANALYZE merchant",
        "INSERT INTO organisation (id, kind, name, created_at_ms) "
        "SELECT n::text, 'bank', repeat('o', 1500), 1 FROM generate_series(1, 15000) n",
    ],
)
async def test_what_was_rebuilt_counted_or_blown_up_is_given_to_nobody(
    postgres: str, migrated_postgres: str, meddled: str
) -> None:
    name = await databases._made(postgres, migrated_postgres)
    connection = await asyncpg.connect(databases.named(postgres, name))
    await connection.execute(meddled.format(name=name))
    await connection.close()

    await databases._give_back(postgres, name)

    assert name not in databases._FREE[postgres]


async def test_what_was_only_written_is_taken_away_and_given_on(postgres: str, migrated_postgres: str) -> None:
    name = await databases._made(postgres, migrated_postgres)
    connection = await asyncpg.connect(databases.named(postgres, name))
    await connection.execute("INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('o', 'bank', 'o', 1)")
    await connection.close()

    await databases._give_back(postgres, name)

    assert name in databases._FREE[postgres]
    connection = await asyncpg.connect(databases.named(postgres, name))
    left = await connection.fetchval("SELECT count(*) FROM organisation WHERE id = 'o'")
    await connection.close()
    assert left == 0
