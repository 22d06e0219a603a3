"""Bring a database to the newest form. The Alembic configuration is built here, so a wheel needs no ini file."""

import re
from functools import cache
from itertools import groupby
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

import soundbox_server.access.models
import soundbox_server.advice.models
import soundbox_server.alerts.models
import soundbox_server.announcements.models
import soundbox_server.audit.models
import soundbox_server.broker.models
import soundbox_server.checkout.models
import soundbox_server.commands.models
import soundbox_server.device_config.models
import soundbox_server.devices.models
import soundbox_server.diagnosis.models
import soundbox_server.exports.models
import soundbox_server.fees.models
import soundbox_server.idempotency
import soundbox_server.ledger.models
import soundbox_server.lending.models
import soundbox_server.merchants.models
import soundbox_server.outbox.models
import soundbox_server.partners.models
import soundbox_server.payments.models
import soundbox_server.payouts.models
import soundbox_server.pos.models
import soundbox_server.privacy.models
import soundbox_server.providers.models
import soundbox_server.reconciliation.models
import soundbox_server.revenue.models
import soundbox_server.scoring.models
import soundbox_server.settlements.models
import soundbox_server.wallets.models
import soundbox_server.webhooks.models  # noqa: F401 - each import puts its tables into Base.metadata
from soundbox_server.db import Base, Database

_ADVISORY_LOCK = 7_265_102  # PostgreSQL: two processes that start together must not both migrate


def config(connection: Connection | None = None) -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    made.attributes["connection"] = connection
    made.attributes["metadata"] = Base.metadata
    return made


@cache
def newest() -> str:
    """The revision this code expects. Looking reads every migration."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    assert revision is not None
    return revision


async def upgrade(database: Database) -> None:
    """Idempotent, and safe to start in several processes at once."""
    if database.dialect == "sqlite":
        async with database.engine.execution_options(soundbox_writes=True).connect() as connection:
            await _upgrade_sqlite(connection)
        return
    # An engine without the product's timeouts: a migration takes what it takes, and a second one waits for the first.
    patient = create_async_engine(database.url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    async with patient.begin() as connection:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        await connection.run_sync(_upgrade)
        await connection.run_sync(_shorten_lists)


async def _upgrade_sqlite(connection: AsyncConnection) -> None:
    """SQLite changes a table by making it anew, which takes the rows that others refer to away for a moment. So foreign
    keys are not watched meanwhile, and all of them are checked before the commit."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.execute("PRAGMA foreign_keys=OFF")  # has no effect within a transaction
    try:
        async with connection.begin():
            await connection.run_sync(_upgrade)
            broken = (await connection.execute(text("PRAGMA foreign_key_check"))).all()
            if broken:
                raise RuntimeError(f"The migration would leave rows that refer to nothing: {broken[:3]}")
    finally:
        await driver.execute("PRAGMA foreign_keys=ON")


def _upgrade(connection: Connection) -> None:
    command.upgrade(config(connection), "head")


_LISTS = """
SELECT conrelid::regclass::text AS its_table, quote_ident(conname) AS name, pg_get_constraintdef(oid) AS said
FROM pg_constraint
WHERE contype = 'c' AND connamespace = current_schema()::regnamespace AND pg_get_constraintdef(oid) LIKE '%ARRAY[%'
ORDER BY conrelid, conname
"""
_LIST = re.compile(r"\(ARRAY\[((?:'[\w.:-]+'::character varying(?:, )?)+)\]\)::text\[\]")


def _shorten_lists(connection: Connection) -> None:
    """PostgreSQL keeps `state IN (…)` as a value and a cast for each word, and reads all of it anew for each statement
    that writes the table. Written as one literal the list guards the same (decision 0015)."""
    found = connection.execute(text(_LISTS)).all()
    for table, lists in groupby(found, key=lambda row: row.its_table):
        changes = [
            f"DROP CONSTRAINT {row.name}, ADD CONSTRAINT {row.name} {shorter}"
            for row in lists
            if (shorter := _LIST.sub(_as_literal, row.said)) != row.said
        ]
        if changes:
            connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(changes)}")


def _as_literal(found: re.Match[str]) -> str:
    words = re.findall(r"'([^']+)'::character varying", found[1])
    quoted = ",".join(f'"{word}"' for word in words)  # or a word `null` would stand for nothing
    return f"'{{{quoted}}}'::text[]"


async def current(database: Database) -> str | None:
    """The revision of the database, or None for an empty one."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(_current)


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
