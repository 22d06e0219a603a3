"""The database: one table base, one way to open a transaction, and a short cut for the hot paths.

Three doors lead in, and each is one transaction:

- `transaction(database)`: an `AsyncSession` that writes (SQLite: `BEGIN IMMEDIATE`, so that it looks after locking);
- `reading(database)`: an `AsyncSession` that only reads;
- `database.write(work)`: the hot path. `work` is a coroutine function that speaks raw SQL through `Statements`.

Raw SQL on the hot path because a statement costs 0.45 ms through SQLAlchemy and aiosqlite, 0.25 ms through SQLAlchemy
and asyncpg, 0.08 ms through asyncpg alone, and 0.01 ms through sqlite3 in the thread that owns the connection
(decision 0001). On SQLite the whole coroutine therefore runs inside that thread: its awaits never wait.
Services that both kinds of door call take `Statements`; a session lends them with `statements(session)`.
"""

import asyncio
import contextlib
import contextvars
import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar, cast

import asyncpg
import orjson
import structlog
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

log = structlog.get_logger()

Result = TypeVar("Result")
Dialect = Literal["sqlite", "postgresql"]

BUSY_TIMEOUT_S = 10.0  # SQLite: how long a writer waits for the writer before it
TURN_LOOK_S = 0.0003
STEPS_BETWEEN_LOOKS = 100_000  # SQLite: about a millisecond of reading, before it asks whether to end
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 5_000
CLIENT_TIMEOUT_S = 10.0  # for a server that is frozen or unreachable, which enforces no timeout of its own
LEAVE_TIMEOUT_S = 2.0
HOT_CONNECTIONS = 4
READING_CONNECTIONS = 4
LOCKS_AFTER_A_RACE_S = 1.0  # where somebody else writes the same rows, locks cost less than trying again
# with_for_update=…: a row that keeps its key. Rows that refer to it, a payment being made say, need not wait.
KEY_STAYS: dict[str, bool] = {"key_share": True}


class Base(DeclarativeBase):
    pass


class Row(Protocol):
    """A row by position or by name (asyncpg.Record and sqlite3.Row both are)."""

    def __getitem__(self, key: Any, /) -> Any: ...


Query = tuple[str, Sequence[object]]  # SQL and its parameters


class Statements:
    """Raw SQL inside one transaction, written once for both databases: parameters are $1, $2, …"""

    dialect: Dialect
    # For work of which no two writes touch the same row or need each other's order: PostgreSQL may get them together.
    independent_writes = False
    # Nothing that is read here is locked (`Database.write`): the rows that the writes rest on are told with `versions`.
    at_once = False

    def __init__(self) -> None:
        self.queued: list[Any] = []  # what the door publishes straight after its commit (outbox/service.py)
        self.after_commit: list[Callable[[], None]] = []  # log lines and figures: said only of what is true

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        raise NotImplementedError

    async def fetch_all(self, *queries: Query) -> Sequence[Sequence[Row]]:
        """Queries of which none needs another's locks, in one journey. Rows of numbers, texts and booleans, read by
        name. At once, a query may read what the ones before it found: q0, q1, …"""
        return [await self.fetch(sql, *args) for sql, args in queries]

    async def many(
        self,
        sql: str,
        rows: Sequence[Sequence[object]],
        *,
        locked: bool = False,
        versions: Sequence[object] | None = None,
    ) -> None:
        """One statement for each row of parameters, sent together. `locked`: an UPDATE by id of rows that this
        transaction has locked, no row twice, so that their order does not matter. `versions`: which ones it saw, where
        the rows it has locked are those it looked at."""
        raise NotImplementedError

    async def execute(self, sql: str, *args: object) -> None:
        await self.many(sql, [args])

    def among(self, parameter: int) -> str:
        """`column {among(1)}`: the column is one of the strings in the list parameter."""
        if self.dialect == "sqlite":
            return f"IN (SELECT value FROM json_each(${parameter}))"
        return f"= ANY(${parameter}::text[])"

    def lock(self, table: str, *, skip: bool = False) -> str:
        """FOR UPDATE where rows are locked; SQLite has locked the whole database already."""
        if self.dialect == "sqlite":
            return ""
        # NO KEY: no key ever changes, and rows that refer to this one need not wait for its payment
        return f"FOR NO KEY UPDATE OF {table}" + (" SKIP LOCKED" if skip else "")

    def version(self, table: str) -> str:
        """What to select of a row, for `versions`."""
        return "NULL"

    def require_locks(self) -> None:
        """What follows needs locks, or reads what it wrote."""


class _NeedsLocks(Exception):
    """This work cannot be done at once."""


class _Postgres(Statements):
    """Independent writes wait until something is read or the work ends, and then travel as one statement: each
    statement costs a round trip, and each execution a start of the executor.
    """

    dialect: Dialect = "postgresql"

    def __init__(self, connection: Any, *, gathers: bool = False) -> None:
        """`gathers`: whoever opened it calls `flush` before the commit."""
        super().__init__()
        self._connection = connection
        self._gathers = gathers
        self._waiting: list[tuple[str, list[object]]] = []

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        await self.flush()
        return cast(Sequence[Row], await self._connection.fetch(sql, *args))

    async def fetch_all(self, *queries: Query) -> Sequence[Sequence[Row]]:
        await self.flush()
        args = [value for _, values in queries for value in values]
        (found,) = await self._connection.fetch(_together(tuple(sql for sql, _ in queries)), *args)
        return [_from_json(rows) for rows in found]

    async def many(
        self,
        sql: str,
        rows: Sequence[Sequence[object]],
        *,
        locked: bool = False,
        versions: Sequence[object] | None = None,
    ) -> None:
        if not rows:
            return
        if len(rows) == 1:
            self._waiting.append((sql, list(rows[0])))
        elif (together := await self._as_arrays(sql, locked=locked)) is not None:
            self._waiting.append((together, [_array(column) for column in zip(*rows, strict=True)]))
        else:
            await self.flush()
            await self._connection.executemany(sql, rows)
        if not (self._gathers and self.independent_writes):
            await self.flush()

    async def flush(self) -> None:
        """Send what waits. What it violates is raised here."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            sql = _one_statement(tuple(sql for sql, _ in waiting))
            await self._connection.fetch(sql, *(value for _, values in waiting for value in values))

    async def _as_arrays(self, sql: str, *, locked: bool) -> str | None:
        if (sql, locked) not in _ARRAYS:
            types = [kind.name for kind in (await self._connection.prepare(sql)).get_parameters()]
            _ARRAYS[sql, locked] = _from_arrays(sql, types, locked=locked)
        return _ARRAYS[sql, locked]


class _AtOnce(_Postgres):
    """A transaction of one statement: it looks without locks, and its writes say what they saw. A row that is no longer
    what it was undoes them all.
    """

    at_once = True
    independent_writes = True

    def __init__(self, connection: Any) -> None:
        super().__init__(connection, gathers=True)
        self._standing: list[tuple[int, int]] = []  # which part of the statement updates how many rows

    def lock(self, table: str, *, skip: bool = False) -> str:
        return ""

    def version(self, table: str) -> str:
        return f"{table}.xmin::text::bigint"  # the transaction that wrote this version of the row

    def require_locks(self) -> None:
        raise _NeedsLocks

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        if not sql.lstrip().startswith("SELECT"):
            raise _NeedsLocks  # it would be committed by itself
        return await super().fetch(sql, *args)

    async def flush(self) -> None:
        if self._waiting:
            raise _NeedsLocks  # what is read next should see it

    async def many(
        self,
        sql: str,
        rows: Sequence[Sequence[object]],
        *,
        locked: bool = False,
        versions: Sequence[object] | None = None,
    ) -> None:
        if rows and versions is not None:
            self._standing.append((len(self._waiting), len(rows)))
            sql = _if_it_stands(sql, parameter=len(rows[0]) + 1)
            # By id, as everybody locks.
            rows = sorted(((*row, version) for row, version in zip(rows, versions, strict=True)), key=_id)
        await super().many(sql, rows, locked=locked)

    async def write(self) -> None:
        """Send everything. Raises asyncpg.PostgresError when nothing was written."""
        if not self._waiting:
            return
        sql = _one_statement(
            (*(sql for sql, _ in self._waiting), _all_stand(tuple(part for part, _ in self._standing)))
        )
        values = [value for _, values in self._waiting for value in values]
        await self._connection.fetch(sql, *values, *(count for _, count in self._standing))

    @property
    def rests_on_versions(self) -> bool:
        return bool(self._standing)

    async def _as_arrays(self, sql: str, *, locked: bool) -> str:
        if (together := await super()._as_arrays(sql, locked=locked)) is None:
            raise _NeedsLocks
        return together


def _id(row: Sequence[object]) -> str:
    return str(row[0])


@lru_cache(maxsize=64)
def _if_it_stands(sql: str, *, parameter: int) -> str:
    table = sql.split(maxsplit=2)[1]
    return f"{sql.rstrip()} AND {table}.xmin = ${parameter}::xid RETURNING 1"


@lru_cache(maxsize=64)
def _all_stand(parts: tuple[int, ...]) -> str:
    """Divides by zero unless these parts of a WITH have updated as many rows as the parameters say.

    As the main query it makes PostgreSQL carry out these parts first, in this order, and so lock in it.
    """
    return "SELECT " + ", ".join(
        f"1 / ((SELECT count(*) FROM w{part}) = ${n}::bigint)::int" for n, part in enumerate(parts, 1)
    )


_ARRAYS: dict[tuple[str, bool], str | None] = {}
_VALUES = re.compile(r"VALUES\s*\(([^)]*)\)")
_WHERE_ID = re.compile(r"WHERE id = \$1\s*(AND .*)?\Z")
_PARAMETER = re.compile(r"\$(\d+)")


def _from_arrays(sql: str, types: Sequence[str], *, locked: bool) -> str | None:
    """An INSERT or UPDATE of one row as one of many, whose parameters are arrays; None for what cannot be so written.

    An UPDATE only of rows that are `locked` already: row by row it locks in the order of the rows, as one it does not.
    """
    names = ", ".join(f"a{n}" for n in range(1, len(types) + 1))
    arrays = ", ".join(f"${n}::text::{kind}[]" for n, kind in enumerate(types, 1))
    rows = f"FROM unnest({arrays}) AS r({names})"
    if locked and (found := _WHERE_ID.search(sql)):
        return _of_row(sql[: found.start()]) + f"{rows} WHERE id = r.a1 {_of_row(found[1] or '')}"
    found = _VALUES.search(sql)
    if found is None or "(" in found[1] or "DO UPDATE" in sql:
        return None
    return f"{sql[: found.start()]}SELECT {_of_row(found[1])} {rows}{sql[found.end() :]}"


def _array(values: Sequence[object]) -> str:
    """An array as PostgreSQL reads it from a text. The driver asks of each element whether it is an array itself, which
    takes longer than all the rest."""
    kinds = set(map(type, values))
    if kinds == {str}:
        text = '","'.join(cast(Sequence[str], values))
        if "\\" not in text and text.count('"') == 2 * (len(values) - 1):
            return f'{{"{text}"}}'
    elif kinds == {int}:
        return f"{{{','.join(map(str, values))}}}"
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    if isinstance(value, (bool, int, float)):
        return str(value)
    raise TypeError(f"no element of an array in the database: {type(value).__name__}")


def _of_row(sql: str) -> str:
    return _PARAMETER.sub(r"r.a\1", sql)


@lru_cache(maxsize=512)
def _one_statement(parts: tuple[str, ...]) -> str:
    """Statements joined as parts of one WITH, their parameters counted on."""
    *first, last = _counted_through(parts)
    return ("WITH " + ", ".join(f"w{n} AS ({sql})" for n, sql in enumerate(first)) + " " if first else "") + last


@lru_cache(maxsize=64)
def _together(queries: tuple[str, ...]) -> str:
    named = [f"q{n} AS MATERIALIZED ({sql})" for n, sql in enumerate(_counted_through(queries))]
    found = [f"(SELECT json_agg(q{n}) FROM q{n})" for n in range(len(queries))]
    return f"WITH {', '.join(named)} SELECT {', '.join(found)}"


def _counted_through(parts: Sequence[str]) -> list[str]:
    """The parts, each one's parameters counted on from those before it."""
    counted, before = [], 0
    for sql in parts:
        counted.append(_counted_on(sql, before))
        before += max((int(n) for n in _PARAMETER.findall(sql)), default=0)
    return counted


def _from_json(rows: str | None) -> Sequence[Row]:
    return cast(Sequence[Row], orjson.loads(rows)) if rows else ()


def _counted_on(sql: str, before: int) -> str:
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + before}", sql)


@lru_cache(maxsize=512)
def _numbered(sql: str) -> str:
    return re.sub(r"\$(\d+)", r"?\1", sql)


def _plain(args: Sequence[object]) -> Sequence[object]:
    if list in map(type, args):
        return [json.dumps(value) if type(value) is list else value for value in args]
    return args


class _SqliteInThread(Statements):
    """Runs in the thread that owns the connection, so nothing here ever waits for the event loop."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        return cast(Sequence[Row], self._connection.execute(_numbered(sql), _plain(args)).fetchall())

    async def many(
        self,
        sql: str,
        rows: Sequence[Sequence[object]],
        *,
        locked: bool = False,
        versions: Sequence[object] | None = None,
    ) -> None:
        self._connection.executemany(_numbered(sql), [_plain(row) for row in rows])


class _SqliteOfSession(Statements):
    """The same, over the aiosqlite connection of an AsyncSession."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self._connection = connection

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        async with self._connection.execute(_numbered(sql), _plain(args)) as cursor:
            names = [column[0] for column in cursor.description or ()]
            return [_NamedRow(names, row) for row in await cursor.fetchall()]

    async def many(
        self,
        sql: str,
        rows: Sequence[Sequence[object]],
        *,
        locked: bool = False,
        versions: Sequence[object] | None = None,
    ) -> None:
        async with self._connection.executemany(_numbered(sql), [_plain(row) for row in rows]):
            pass


class _NamedRow(tuple[Any, ...]):
    _names: list[str]

    def __new__(cls, names: list[str], values: Sequence[Any]) -> "_NamedRow":
        row = super().__new__(cls, values)
        row._names = names
        return row

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._names.index(key) if isinstance(key, str) else key)


# Planning the hot paths' statements costs more than running them, and their plans never differ. They find rows by key,
# in the order they are written in: a plan made while a table was small would else read all of it, until somebody
# analyses the table.
_BY_KEY = {
    "plan_cache_mode": "force_generic_plan",
    "join_collapse_limit": "1",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_ONLY_READS = {"default_transaction_read_only": "on"}
_NO_WAIT_FOR_DISK = {"synchronous_commit": "off"}  # a server that loses its power loses the last commits, none in part


class _HotConnections:
    """Connections that are opened when they are needed and stay open: a callback after a quiet hour finds one, and its
    statements planned. asyncpg's own pool starts a task each time one is given back, and resets it with a journey:
    our statements leave no session state behind.
    """

    def __init__(self, url: URL, *, most: int, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self._url = url
        self._settings = settings
        self._idle: list[Any] = []
        self._places = asyncio.Semaphore(most)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One for a transaction. Raises TimeoutError when all are taken for too long."""
        if self._places.locked():
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                await self._places.acquire()
        else:
            await self._places.acquire()
        try:
            connection = self._idle_one() or await self._open()
            try:
                yield connection
            except BaseException as error:
                # Whoever was cut off in the middle of a statement leaves a connection that nobody can use.
                if not isinstance(error, Exception) or is_away(error) or connection.is_in_transaction():
                    connection.terminate()
                raise
            finally:
                if not connection.is_closed():
                    self._idle.append(connection)
        finally:
            self._places.release()

    def _idle_one(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    async def _open(self) -> Any:
        return await asyncpg.connect(
            self._url.set(drivername="postgresql").render_as_string(hide_password=False),
            max_cached_statement_lifetime=0,
            command_timeout=CLIENT_TIMEOUT_S,
            timeout=CLIENT_TIMEOUT_S,
            server_settings={
                "jit": "off",
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                **self._settings,
            },
        )

    async def close(self) -> None:
        connections, self._idle = self._idle, []
        await asyncio.gather(*map(_take_leave, connections))

    def drop(self) -> None:
        """Close what lies idle without a word to the server, which may be gone."""
        while self._idle:
            self._idle.pop().terminate()


async def _take_leave(connection: Any) -> None:
    """Close it. Where a server does not answer to that in time, the driver has left it without a word."""
    try:
        await connection.close(timeout=LEAVE_TIMEOUT_S)
    except (TimeoutError, OSError, asyncpg.PostgresError) as error:
        log.warning("database.left_without_a_word", error=repr(error))


Work = Callable[[Statements], Coroutine[Any, Any, Result]]
_Done = tuple[Result, list[Callable[[], None]]]  # and what is to be told after the commit


class Database:
    """An open database. `close()` it; the process that opened it owns it."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.dialect: Dialect = "sqlite" if self.url.get_backend_name() == "sqlite" else "postgresql"
        self.engine = _open_engine(self.url)
        self.sessions = async_sessionmaker(
            self.engine.execution_options(soundbox_writes=True), expire_on_commit=False, autoflush=True
        )
        self.readers = async_sessionmaker(self.engine, expire_on_commit=False)
        self._hot = _HotConnections(self.url, most=HOT_CONNECTIONS, settings=_BY_KEY)
        self._hasty = _HotConnections(self.url, most=2, settings=_BY_KEY | _NO_WAIT_FOR_DISK)
        self._readers = _HotConnections(self.url, most=READING_CONNECTIONS, settings=_ONLY_READS)
        on_sqlite = self.dialect == "sqlite"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer") if on_sqlite else None
        self._sqlite: sqlite3.Connection | None = None
        self._looking = ThreadPoolExecutor(READING_CONNECTIONS, thread_name_prefix="sqlite-reader")  # begun when used
        self._at_leisure = ThreadPoolExecutor(1, thread_name_prefix="sqlite-at-leisure")
        self._looked_through: list[sqlite3.Connection] = []  # those that nobody reads through now
        self._closing = False
        self._turns: int | None = None
        self._locks_until = 0.0

    async def write(self, work: Work[Result], *, at_once: bool = False, lasting: bool = True) -> Result:
        """Run the work in one transaction and commit it. Raises what the work or the commit raises.

        `at_once`: work whose writes are independent and name the `versions` they rest on. PostgreSQL then gets them
        without BEGIN and COMMIT, unless somebody else was quicker: the work is done anew, with locks.
        Not `lasting`: the commit does not wait for the disk, and a machine that loses its power may lose it, wholly and
        together with what was so committed after it. Whatever lasts is written after all that came before it.
        """
        if self._thread is not None:
            context = contextvars.copy_context()  # log lines of the work carry what the caller bound
            loop = asyncio.get_running_loop()
            result, after_commit = await loop.run_in_executor(
                self._thread, context.run, self._write_sqlite, work, lasting
            )
            _tell(after_commit)
            return result
        async with (self._hot if lasting else self._hasty).connection() as connection:
            done = await self._write_at_once(connection, work) if at_once else None
            result, after_commit = done or await _write_with_locks(connection, work)
        _tell(after_commit)
        return result

    async def _write_at_once(self, connection: Any, work: Work[Result]) -> _Done[Result] | None:
        """None when nothing was written and the work needs locks."""
        if time.monotonic() < self._locks_until:
            return None
        tx = _AtOnce(connection)
        try:
            result = await work(tx)
            await tx.write()
        except _NeedsLocks:
            return None
        except asyncpg.PostgresError as error:  # the server's own word that it wrote nothing
            if is_away(error):
                raise
            if tx.rests_on_versions:
                self._locks_until = time.monotonic() + LOCKS_AFTER_A_RACE_S
            return None
        return result, tx.after_commit

    async def write_at_leisure(self, work: Work[Result]) -> Result:
        """The same through a connection without the product's time limits: for what an operator does by hand and reads
        whole tables."""
        if self._thread is not None:
            return await self.write(work)
        url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(url, timeout=CLIENT_TIMEOUT_S)
        try:
            async with connection.transaction():
                return await work(_Postgres(connection))
        finally:
            await connection.close()

    async def read(self, work: Work[Result]) -> Result:
        """Run work that only reads: it never waits for the writer's thread. On PostgreSQL each of its statements sees
        what was committed when it began, as in a transaction, so that none is begun: that would take four journeys."""
        if self.dialect == "sqlite":
            return await self._in_thread(self._looking, work)
        try:
            async with self._readers.connection() as connection:
                return await work(_Postgres(connection))
        except _CONNECTION_GONE as error:
            if not is_away(error):
                raise
            # It may have lain idle while the server was started anew; reading again does no harm.
            self._readers.drop()
            async with self._readers.connection() as connection:
                return await work(_Postgres(connection))

    async def read_at_leisure(self, work: Work[Result]) -> Result:
        """The same for work that only reads: it keeps nobody waiting, however long it takes, but others like it."""
        if self.dialect == "sqlite":
            return await self._in_thread(self._at_leisure, work)
        return await self.write_at_leisure(work)

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Work[Result]) -> Result:
        context, loop = contextvars.copy_context(), asyncio.get_running_loop()
        return await loop.run_in_executor(threads, context.run, self._read_sqlite, work)

    def _write_sqlite(self, work: Work[Result], lasting: bool) -> _Done[Result]:
        connection = self._sqlite = self._sqlite or _open_sqlite(str(self.url.database))
        with self._turn(), contextlib.nullcontext() if lasting else _no_wait_for_disk(connection):
            connection.execute("BEGIN IMMEDIATE")
            try:
                tx = _SqliteInThread(connection)
                result = _run_to_the_end(work(tx))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result, tx.after_commit

    def _read_sqlite(self, work: Work[Result]) -> Result:
        """In one of the readers' threads, through a connection that another of them may have opened."""
        try:
            connection = self._looked_through.pop()
        except IndexError:
            connection = _open_sqlite(str(self.url.database), shared=True)
            connection.execute("PRAGMA query_only=ON")
            connection.set_progress_handler(lambda: self._closing, STEPS_BETWEEN_LOOKS)
        try:
            connection.execute("BEGIN")  # a look at one moment
            return _run_to_the_end(work(_SqliteInThread(connection)))
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._looked_through.append(connection)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the other processes' hot writers, looking more often than SQLite's own waiting does. It guards
        nothing, BEGIN IMMEDIATE does: a writer frozen in its turn holds us up no longer than SQLite would."""
        if self._turns is None:
            self._turns = os.open(f"{self.url.database}-turn", os.O_RDWR | os.O_CREAT, 0o600)
        ours = _wait_for_lock(self._turns, within_s=BUSY_TIMEOUT_S)
        try:
            yield
        finally:
            if ours:
                fcntl.flock(self._turns, fcntl.LOCK_UN)

    async def close(self) -> None:
        for connections in (self._hot, self._hasty, self._readers):
            await connections.close()
        if self._thread is not None:
            self._thread.submit(self._close_sqlite)
            self._thread.shutdown(wait=True)
        self._closing = True  # what is still read ends by itself, wherever it is: nobody waits for what it would find
        for threads in (self._looking, self._at_leisure):
            threads.shutdown(wait=True, cancel_futures=True)
        while self._looked_through:
            self._looked_through.pop().close()
        await self.engine.dispose()

    def _close_sqlite(self) -> None:
        if self._sqlite is not None:
            self._sqlite.close()
            self._sqlite = None
        if self._turns is not None:
            os.close(self._turns)
            self._turns = None


async def _write_with_locks(connection: Any, work: Work[Result]) -> _Done[Result]:
    async with connection.transaction():
        tx = _Postgres(connection, gathers=True)
        result = await work(tx)
        await tx.flush()
    return result, tx.after_commit


# Trouble of the database and no fault of the work: the same work may succeed later.
_PASSING = (
    asyncpg.TransactionRollbackError,  # deadlock, serialisation
    asyncpg.ObjectNotInPrerequisiteStateError,  # lock not granted in time
)
_CONNECTION_GONE = (
    ConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what its own states make of a connection that ended between two statements
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,  # the server's last word on a connection that lay idle
    asyncpg.CrashShutdownError,
)
_AWAY = (
    *_CONNECTION_GONE,
    OSError,  # TimeoutError is such
    asyncpg.InsufficientResourcesError,  # disk, memory, connections
    asyncpg.OperatorInterventionError,  # shut down, starting up, statement cancelled
)
_SQLITE_AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}


def will_pass(error: BaseException) -> bool:
    """Whether the same work may succeed when it is tried again later."""
    return is_away(error) or isinstance(error, _PASSING)


def is_away(error: BaseException) -> bool:
    """Whether the database takes nothing from anybody now: trying each piece by itself would only wait longer."""
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _SQLITE_AWAY  # the low byte names the kind
    # asyncpg says of a value that does not fit that it is an interface error: it is the value that is wrong.
    return isinstance(error, _AWAY) and not isinstance(error, ValueError)


def root_cause(error: BaseException) -> BaseException:
    """The driver's own error below what SQLAlchemy wraps around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def violated(error: IntegrityError) -> str:
    """What a row collided with: the key's name on PostgreSQL, its columns on SQLite. Both hold the columns' names."""
    cause = root_cause(error)
    return str(getattr(cause, "constraint_name", None) or cause)


def _wait_for_lock(file: int, *, within_s: float) -> bool:
    """Whether the file's lock became ours in time. Runs in the writer's thread, where waiting holds up nobody else."""
    ends = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends:
                return False
            time.sleep(TURN_LOOK_S)
        else:
            return True


@contextlib.contextmanager
def _no_wait_for_disk(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("PRAGMA synchronous=NORMAL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous=FULL")


def _tell(after_commit: Sequence[Callable[[], None]]) -> None:
    for tell in after_commit:
        try:
            tell()
        except Exception:  # it is committed whatever becomes of a log line
            log.exception("database.not_told")


def _run_to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        work.send(None)
    except StopIteration as done:
        return cast(Result, done.value)
    work.close()
    raise RuntimeError("a hot transaction waited for something other than its database")


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[AsyncSession]:
    """Commit when the block ends, roll back when it raises. Doors open it; services never do."""
    async with database.sessions() as session, session.begin():
        yield session


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[AsyncSession]:
    """A look at one moment of the database."""
    async with database.readers() as session:
        yield session


async def statements(session: AsyncSession) -> Statements:
    """Raw SQL inside the session's own transaction."""
    await session.flush()
    await session.execute(text("SELECT 1"))  # the drivers begin their transaction with the first statement
    raw = await (await session.connection()).get_raw_connection()
    if session.get_bind().dialect.name == "sqlite":
        return _SqliteOfSession(raw.driver_connection)
    return _Postgres(raw.driver_connection)


def _open_engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        url = url.set(drivername="sqlite+aiosqlite")
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(url, pool_size=8, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine.sync_engine, "connect", _configure_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        pool_size=8,
        max_overflow=4,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "timeout": CLIENT_TIMEOUT_S,
            "command_timeout": CLIENT_TIMEOUT_S,
            "server_settings": {"lock_timeout": str(LOCK_TIMEOUT_MS), "statement_timeout": str(STATEMENT_TIMEOUT_MS)},
        },
    )


PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA recursive_triggers=ON",  # without it REPLACE deletes a posting past the trigger that refuses it
    "PRAGMA wal_autocheckpoint=4000",  # a checkpoint syncs the database file too; the default makes it come too often
)


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late, after the reads
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("soundbox_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _open_sqlite(path: str, *, shared: bool = False) -> sqlite3.Connection:
    """`shared`: one thread after the other uses it."""
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=BUSY_TIMEOUT_S, cached_statements=512, check_same_thread=not shared
    )
    connection.row_factory = sqlite3.Row
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection
