"""Who may be the one: a named lease that ends with its holder, however the holder ends.

PostgreSQL: a session advisory lock on a connection of its own. SQLite: flock on a file, since all processes share a
machine. Neither needs a clock or a heartbeat, so nobody can hold a lease it believes lost or lose one it believes held.
"""

import asyncio
import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

import asyncpg

from soundbox_server.db import Database

CONNECT_TIMEOUT_S = 5.0
PROBE_EVERY_S = 2.0
_KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}


class Lease:
    """One held lease. `lost` is set when it ended without `release`; stop what it allowed at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self._file: int | None = None
        self._connection: Any = None
        self._watch: asyncio.Task[None] | None = None

    def hold(self, connection: Any) -> None:
        """Keep the lock's connection, and look after it: a server that fell silent may have given the lock away."""
        self._connection = connection
        connection.add_termination_listener(lambda _connection: self.lost.set())
        self._watch = asyncio.create_task(self._look_after(connection))

    async def _look_after(self, connection: Any) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            try:
                await connection.fetchval("SELECT 1", timeout=CONNECT_TIMEOUT_S)
            except Exception:  # whatever it is, we cannot know that the lock is still ours
                self.lost.set()
                connection.terminate()
                return

    async def release(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            if not connection.is_closed():
                await connection.close(timeout=CONNECT_TIMEOUT_S)


async def try_lease(database: Database, name: str, *, folder: Path) -> Lease | None:
    """The lease, or None while somebody else holds it. `folder` holds the lock files of a SQLite installation."""
    if database.dialect == "sqlite":
        return _try_file(name, folder)
    return await _try_advisory(database, name)


def _try_file(name: str, folder: Path) -> Lease | None:
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    lease = Lease(name)
    lease._file = file
    return lease


async def _try_advisory(database: Database, name: str) -> Lease | None:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url, server_settings=_KEEPALIVES, timeout=CONNECT_TIMEOUT_S)
    key = int.from_bytes(hashlib.sha256(f"soundbox/lease/{name}".encode()).digest()[:8], "big", signed=True)
    try:
        held = await connection.fetchval("SELECT pg_try_advisory_lock($1)", key, timeout=CONNECT_TIMEOUT_S)
    except BaseException:
        connection.terminate()
        raise
    if not held:
        await connection.close()
        return None
    lease = Lease(name)
    lease.hold(connection)
    return lease
