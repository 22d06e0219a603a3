"""The sandbox's own little database: one SQLite file, one connection, one thread beside the event loop."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from soundbox_server.sandbox.faults import Faults

Result = TypeVar("Result")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charge (
    reference TEXT PRIMARY KEY,
    transaction_id TEXT NOT NULL UNIQUE,
    amount_idr INTEGER NOT NULL CHECK (amount_idr > 0),
    qr_payload TEXT NOT NULL UNIQUE,
    callback_url TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    pays_itself_at_ms INTEGER,
    paid_at_ms INTEGER,
    paid_amount_idr INTEGER CHECK (paid_amount_idr > 0),
    issuer TEXT,
    rrn TEXT UNIQUE,
    method TEXT NOT NULL DEFAULT 'qris_dynamic',
    return_url TEXT,
    CHECK ((paid_at_ms IS NULL) = (paid_amount_idr IS NULL) AND (paid_at_ms IS NULL) = (rrn IS NULL))
);
CREATE INDEX IF NOT EXISTS charge_by_birth ON charge (created_at_ms);
CREATE INDEX IF NOT EXISTS charge_pays_itself ON charge (pays_itself_at_ms) WHERE paid_at_ms IS NULL;
CREATE TABLE IF NOT EXISTS callback (
    event_id TEXT PRIMARY KEY,
    reference TEXT NOT NULL REFERENCES charge (reference),
    status TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    due_at_ms INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_answer INTEGER,
    delivered_at_ms INTEGER
);
CREATE INDEX IF NOT EXISTS callback_due ON callback (due_at_ms) WHERE due_at_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS callback_of_charge ON callback (reference);
CREATE TABLE IF NOT EXISTS static_qr (
    reference TEXT PRIMARY KEY,
    qr_payload TEXT NOT NULL UNIQUE,
    callback_url TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS fate (
    reference TEXT NOT NULL REFERENCES charge (reference),
    kind TEXT NOT NULL CHECK (kind IN ('cancelled', 'reversed', 'disputed')),
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (reference, kind)
);
CREATE TABLE IF NOT EXISTS refund (
    refund_reference TEXT PRIMARY KEY,
    refund_id TEXT NOT NULL UNIQUE,
    reference TEXT NOT NULL REFERENCES charge (reference),
    amount_idr INTEGER NOT NULL CHECK (amount_idr > 0),
    reason TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'succeeded')),
    created_at_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS refund_of_charge ON refund (reference);
CREATE TABLE IF NOT EXISTS transfer (
    reference TEXT PRIMARY KEY,
    transfer_id TEXT NOT NULL UNIQUE,
    amount_idr INTEGER NOT NULL CHECK (amount_idr > 0),
    account TEXT NOT NULL,
    account_type TEXT,
    beneficiary TEXT NOT NULL,
    rail TEXT NOT NULL,
    callback_url TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed', 'reversed')),
    created_at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS transfer_event (
    event_id TEXT PRIMARY KEY,
    reference TEXT NOT NULL REFERENCES transfer (reference),
    status TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    due_at_ms INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_answer INTEGER,
    delivered_at_ms INTEGER
);
CREATE INDEX IF NOT EXISTS transfer_event_due ON transfer_event (due_at_ms) WHERE due_at_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS faults (id INTEGER PRIMARY KEY CHECK (id = 1), switches BLOB NOT NULL);
"""


class Store:
    """Holds the connection; `run` gives it to one function at a time, inside a transaction of its own."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")
            raise
        return result


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[Store]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-store") as thread:
        connection = await loop.run_in_executor(thread, _connect, path)
        try:
            yield Store(connection, thread)
        finally:
            await loop.run_in_executor(thread, connection.close)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # survives a killed process; play money may miss a power cut
    connection.execute("PRAGMA foreign_keys = ON")
    connection.executescript(_SCHEMA)
    _add_methods(connection)
    return connection


def _add_methods(connection: sqlite3.Connection) -> None:
    """To a file of the time when every charge was a QR."""
    there = {column["name"] for column in connection.execute("PRAGMA table_info(charge)")}
    if "method" not in there:
        connection.execute("ALTER TABLE charge ADD COLUMN method TEXT NOT NULL DEFAULT 'qris_dynamic'")
        connection.execute("ALTER TABLE charge ADD COLUMN return_url TEXT")


def read_faults(connection: sqlite3.Connection) -> Faults:
    row = connection.execute("SELECT switches FROM faults").fetchone()
    return msgspec.json.decode(row["switches"], type=Faults) if row else Faults()


def write_faults(connection: sqlite3.Connection, faults: Faults) -> None:
    connection.execute("INSERT OR REPLACE INTO faults (id, switches) VALUES (1, ?)", (msgspec.json.encode(faults),))


def take_fault(connection: sqlite3.Connection, counter: str) -> bool:
    """Whether a fault that counts down strikes now; if so, it is one fewer."""
    faults = read_faults(connection)
    left: int = getattr(faults, counter)
    if left > 0:
        write_faults(connection, msgspec.structs.replace(faults, **{counter: left - 1}))
    return left > 0
