"""The migrations and the models say the same, on both engines."""

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from support.shop import execute, rows

from soundbox_server import migrate
from soundbox_server.clock import jakarta_day, now_ms
from soundbox_server.db import Base, Database


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata))


async def test_the_migrated_database_is_what_the_models_describe(database: Database) -> None:
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await migrate.upgrade(database)

    assert await migrate.current(database) == migrate.newest()


async def test_lists_of_words_are_one_literal_on_postgresql_and_guard_as_before(database: Database) -> None:
    if database.dialect == "postgresql":
        said = await rows(
            database,
            "SELECT conname AS name, pg_get_constraintdef(oid) AS said FROM pg_constraint "
            "WHERE contype = 'c' AND connamespace = 'public'::regnamespace",
        )
        lists = {row["name"]: row["said"] for row in said if "ANY" in row["said"]}
        assert not [name for name, text in lists.items() if "ARRAY['" in text]
        assert lists["outbox_state_known"].startswith("CHECK (((state)::text = ANY ('{queued,published,")

    insert = (
        "INSERT INTO alert (id, kind, subject_kind, subject_id, severity, state, facts, times, raised_at_ms, "
        "last_raised_at_ms) VALUES ($1, 'x', 'y', $1, $2, 'open', '{}', 1, 7, 7)"
    )
    await execute(database, insert, "alr_1", "warning")
    with pytest.raises(Exception, match="severity"):
        await execute(database, insert, "alr_2", "nonsense")


async def test_a_shop_that_was_there_before_the_registry_keeps_its_rows(tmp_path: Path) -> None:
    """Outlets refer to merchants and terminals to outlets while their tables are made anew."""
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    try:
        async with database.engine.execution_options(soundbox_writes=True).begin() as connection:
            await connection.run_sync(lambda old: command.upgrade(migrate.config(old), "0003"))
        await execute(
            database, "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org', 'merchant', 'T', 7)"
        )
        await execute(database, "INSERT INTO fee_profile (id, version, bps, created_at_ms) VALUES ('fee', 1, 70, 7)")
        for n in (1, 2):
            await execute(database, _OLD_MERCHANT, f"mer_{n}")
            await execute(database, _OLD_OUTLET, f"out_{n}", f"mer_{n}")
        for n in (1, 2, 3):
            await execute(database, _OLD_TERMINAL, f"term_{n}", "out_1", "mer_1", n)

        await migrate.upgrade(database)

        assert len(await rows(database, "SELECT id FROM merchant WHERE approved_at_ms = 7")) == 2
        assert [row["id"] for row in await rows(database, "SELECT id FROM outlet WHERE is_default ORDER BY id")] == [
            "out_1", "out_2",
        ]  # fmt: skip
        assert [row["id"] for row in await rows(database, "SELECT id FROM terminal WHERE is_default")] == ["term_1"]
        with pytest.raises(Exception, match="FOREIGN KEY"):
            await execute(database, "DELETE FROM merchant WHERE id = 'mer_1'")
    finally:
        await database.close()


async def test_what_merchants_paid_before_there_were_rules_is_what_they_paid_on_those_days(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    try:
        async with database.engine.execution_options(soundbox_writes=True).begin() as connection:
            await connection.run_sync(lambda old: command.upgrade(migrate.config(old), "0010"))
        await execute(
            database, "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org', 'merchant', 'T', 7)"
        )
        await execute(database, _OLD_MERCHANT, "mer_1")

        await migrate.upgrade(database)

        (profile,) = await rows(database, "SELECT id, version FROM fee_profile")
        versions = await rows(database, "SELECT version, effective_from, rules FROM fee_version ORDER BY version")
        assert (profile["id"], profile["version"]) == ("fee_basic", 2)
        assert [one["version"] for one in versions] == [1, 2]
        assert (versions[0]["effective_from"], versions[0]["rules"]) == ("1970-01-01", '[{"bps": 70}]')
        assert versions[1]["effective_from"] > jakarta_day(now_ms())
    finally:
        await database.close()


_OLD_MERCHANT = (
    "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, nmid, "
    "criteria, fee_profile_id, payout_mode, status, created_at_ms) SELECT $1, o.id, $1, 'T', 'T', 'J', '1', '5812', "
    "'ID', 'UMI', f.id, 'manual', 'approved', 7 FROM organisation o, fee_profile f"
)
_OLD_OUTLET = (
    "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, created_at_ms) "
    "VALUES ($1, $2, 'main', 'T', '', 'active', 7)"
)
_OLD_TERMINAL = (
    "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, created_at_ms) "
    "VALUES ($1, $2, $3, $1, 'dynamic', 'active', $4)"
)
