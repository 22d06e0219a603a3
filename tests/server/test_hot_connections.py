"""PostgreSQL's hot connections: a few for everybody, used again while they are whole, and never after they broke."""

import asyncio
import os
import signal

import asyncpg
import pytest

from soundbox_server.db import HOT_CONNECTIONS, LEAVE_TIMEOUT_S, Database, Statements, is_away

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer's thread


async def backend(tx: Statements) -> int:
    """The server process at the other end."""
    return int((await tx.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"])


async def test_one_after_the_other_share_a_connection(database: Database) -> None:
    first, second = await database.write(backend), await database.write(backend)

    assert first == second


async def test_more_writers_than_connections_all_have_their_turn(database: Database) -> None:
    backends = await asyncio.gather(*(database.write(backend) for _ in range(5 * HOT_CONNECTIONS)))

    assert len(backends) == 5 * HOT_CONNECTIONS
    assert len(set(backends)) <= HOT_CONNECTIONS


async def test_work_that_raises_leaves_its_connection_to_the_next(database: Database) -> None:
    async def fail(tx: Statements) -> None:
        pids.append(await backend(tx))
        raise ValueError("not this time")

    pids: list[int] = []
    with pytest.raises(ValueError, match="not this time"):
        await database.write(fail)

    assert await database.write(backend) == pids[0]


async def test_a_write_that_is_cut_off_in_a_statement_does_not_lend_its_connection_on(database: Database) -> None:
    began: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hang(tx: Statements) -> None:
        began.set_result(await backend(tx))
        await tx.fetch("SELECT 1 FROM pg_sleep(60)")

    writing = asyncio.create_task(database.write(hang))
    cut_off = await began
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert await database.write(backend) != cut_off


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_connection_that_the_server_ended_is_replaced(database: Database, at_once: bool) -> None:
    ended = await database.write(backend)

    async def end(tx: Statements) -> None:
        await tx.fetch("SELECT pg_terminate_backend($1)", ended)

    other = Database(database.url.render_as_string(hide_password=False))
    try:
        await other.write(end)
    finally:
        await other.close()
    try:
        found = await database.write(backend, at_once=at_once)
    except Exception as error:  # whoever finds out is told so, once
        if not is_away(error):
            raise
        found = await database.write(backend, at_once=at_once)

    assert found != ended


async def test_a_write_that_need_not_last_waits_for_no_disk_and_the_others_do(database: Database) -> None:
    async def waits(tx: Statements) -> str:
        return str((await tx.fetch("SELECT current_setting('synchronous_commit') AS waits"))[0]["waits"])

    assert await database.write(waits, lasting=False) == "off"
    assert await database.write(waits) == "on"


async def test_a_frozen_server_is_left_without_a_word(database: Database) -> None:
    frozen = [await database.write(backend), await database.read(backend)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(LEAVE_TIMEOUT_S + 5):
            await database.close()
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


async def test_reading_is_done_again_where_the_server_had_ended_the_connection(database: Database) -> None:
    ended = await database.read(backend)
    await database.write(lambda tx: tx.fetch("SELECT pg_terminate_backend($1)", ended))

    assert await database.read(backend) != ended


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_reading_is_done_again_however_the_driver_says_that_the_connection_is_gone(
    database: Database, error: Exception
) -> None:
    tries = [error]

    async def look(tx: Statements) -> int:
        if tries:
            raise tries.pop()
        return await backend(tx)

    assert await database.read(look) > 0
