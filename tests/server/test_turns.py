"""Writers of one SQLite file take turns, and a frozen one does not hold up the others for ever."""

import asyncio
import fcntl
import sqlite3
import threading
from pathlib import Path

import pytest

from soundbox_server import db
from soundbox_server.db import Database, Statements

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS i FROM n"


async def _bump(tx: Statements) -> int:
    rows = await tx.fetch("UPDATE credential_revision SET revision = revision + 1 WHERE id = 1 RETURNING revision")
    return int(rows[0]["revision"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_writer_frozen_in_its_turn_is_waited_for_and_then_passed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.2)
    first = await database.write(_bump)

    with Path(f"{database.url.database}-turn").open("r+") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        second = await database.write(_bump)
    third = await database.write(_bump)

    assert [second, third] == [first + 1, first + 2]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_write_that_need_not_last_waits_for_no_disk_and_the_next_one_does(database: Database) -> None:
    async def waits(tx: Statements) -> int:
        return int((await tx.fetch("PRAGMA synchronous"))[0][0])

    async def fail(tx: Statements) -> None:
        raise ValueError("not this time")

    assert await database.write(waits, lasting=False) == 1  # NORMAL
    with pytest.raises(ValueError, match="not this time"):
        await database.write(fail, lasting=False)
    assert await database.write(waits) == 2  # FULL


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_long_look_keeps_no_short_one_waiting_and_no_stop(database: Database) -> None:
    other = Database(database.url.render_as_string())
    looks = [asyncio.create_task(other.read_at_leisure(lambda tx: tx.fetch(ENDLESS))) for _ in range(8)]
    async with asyncio.timeout(20):
        short = await other.read(lambda tx: tx.fetch("SELECT 1 AS one"))
        await other.close()
    ended = await asyncio.gather(*looks, return_exceptions=True)

    assert short[0]["one"] == 1
    assert all(isinstance(one, asyncio.CancelledError | sqlite3.OperationalError) for one in ended)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_look_that_begins_as_all_is_closed_ends_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, opening, closing = Database(database.url.render_as_string()), threading.Event(), threading.Event()

    def open_late(path: str, *, shared: bool = False) -> sqlite3.Connection:
        opening.set()
        assert closing.wait(20)
        return open_at_once(path, shared=shared)

    open_at_once = db._open_sqlite
    monkeypatch.setattr(db, "_open_sqlite", open_late)
    look = asyncio.create_task(other.read(lambda tx: tx.fetch(ENDLESS)))
    await asyncio.to_thread(opening.wait, 20)
    threading.Timer(0.1, closing.set).start()  # when the loop waits for the reader
    await other.close()

    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        await look
