"""Databases of a test's own, on both engines."""

import asyncio
import shutil
from collections import defaultdict
from pathlib import Path

import asyncpg
import pytest

from soundbox_server.ids import new_id

# PostgreSQL takes a third of a second to make a database, and a few milliseconds to empty one: by server, those that
# tests have given back.
_FREE: defaultdict[str, list[str]] = defaultdict(list)

# What a test left goes, and what the migrations planted comes back, whatever guards the tables. Quicker than TRUNCATE,
# which makes new files. The audit log and postings refuse to be changed by anybody but a replica.
_RESTORE = """
DO $$
DECLARE name text; used boolean;
BEGIN
  SET LOCAL session_replication_role = replica;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM public.%I)', name) INTO used;
    IF used THEN EXECUTE format('DELETE FROM public.%I', name); END IF;
  END LOOP;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'planted' LOOP
    EXECUTE format('INSERT INTO public.%I SELECT * FROM planted.%I', name, name);
  END LOOP;
END $$
"""
_KEEP_PLANTED = """
DO $$
DECLARE name text; used boolean;
BEGIN
  CREATE SCHEMA planted;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM public.%I)', name) INTO used;
    IF used THEN EXECUTE format('CREATE TABLE planted.%I AS TABLE public.%I', name, name); END IF;
  END LOOP;
END $$
"""
# Columns, constraints, triggers, indexes, statistics and the database's own settings. From the catalogue itself: the
# views of information_schema take three times as long.
_SHAPE = """
SELECT md5(concat_ws(';',
  (SELECT string_agg(relname || attname || atttypid || attnotnull || coalesce(adbin::text, ''), ','
                     ORDER BY relname, attnum)
   FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
   LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
   WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped),
  (SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace),
  (SELECT string_agg(oid::text || tgenabled::text, ',' ORDER BY oid) FROM pg_trigger),
  (SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_class
   WHERE relnamespace = 'public'::regnamespace AND relkind = 'i'),
  (SELECT string_agg(oid::text || relpages || ' ' || reltuples, ',' ORDER BY oid) FROM pg_class
   WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'),
  (SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
   WHERE datname = current_database())))
"""
# Nothing takes away what a test's rows leave in its tables' pages: where that is much, a new database is quicker.
_MOST_PAGES = 2_000
_PAGES = """
SELECT sum(pg_relation_size(oid)) / current_setting('block_size')::int FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_SHAPES: dict[str, str] = {}


def fresh_database(request: pytest.FixtureRequest, engine: str, folder: Path) -> str:
    """The URL of a migrated database that nobody else uses."""
    if engine == "sqlite":
        path = folder / "home" / "soundbox.db"
        path.parent.mkdir()
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        return f"sqlite:///{path}"
    server, template = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres")
    name = _FREE[server].pop() if _FREE[server] else asyncio.run(_made(server, template))
    request.addfinalizer(lambda: asyncio.run(_give_back(server, name)))
    return named(server, name)


def named(url: str, name: str) -> str:
    return url.replace("/postgres?", f"/{name}?")


async def create(server: str, name: str, *, template: str = "template1") -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await connection.close()


async def _made(server: str, template: str) -> str:
    name = new_id("test").replace("-", "_")
    await create(server, name, template=template)
    connection = await asyncpg.connect(named(server, name))
    try:
        await connection.execute(_KEEP_PLANTED)
        _SHAPES[name] = await connection.fetchval(_SHAPE)
    finally:
        await connection.close()
    return name


async def _give_back(server: str, name: str) -> None:
    """Make it as new, for the next test; one that somebody still uses, or whose tables were changed or have grown, is
    left alone."""
    connection = await asyncpg.connect(named(server, name))
    try:
        if await connection.fetchval(_OTHERS) or await connection.fetchval(_SHAPE) != _SHAPES[name]:
            return
        if await connection.fetchval(_PAGES) > _MOST_PAGES:
            return
        await connection.execute(_RESTORE)
    finally:
        await connection.close()
    _FREE[server].append(name)
