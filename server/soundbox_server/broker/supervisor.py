"""`soundbox broker`: a Mosquitto that runs, and knows exactly the devices the database knows.

The database is asked often for one number, the revision of its device credentials. When it moved, names and hashes are
read, the password file is written anew and Mosquitto is told to read it. While the database is away the last file
stays.
"""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from soundbox_server.broker.acl import acl_text
from soundbox_server.broker.engine import (
    BrokerStartError,
    Engine,
    Pace,
    only_supervisor,
    require_free_port,
    require_loopback,
    run_until,
)
from soundbox_server.broker.health import Health, HealthBoard
from soundbox_server.broker.legacy import LegacySetup, legacy_engine, legacy_lines
from soundbox_server.broker.mosquitto import (
    BrokerFiles,
    config_text,
    files_in,
    mosquitto_version,
    password_text,
    remove_leftovers,
    run_as,
    write_atomically,
)
from soundbox_server.broker.passwords import hash_password, is_hash
from soundbox_server.broker.probe import login
from soundbox_server.broker.provisioning import provisioning_engine
from soundbox_server.broker.tls import ServedCertificate, TlsSetup
from soundbox_server.broker.users import SUPERVISOR_USER, hub_password, hub_users, is_device_user, is_legacy_user

log: FilteringBoundLogger = structlog.get_logger()
T = TypeVar("T")

LoadUsers = Callable[[], Awaitable[tuple[int, list[tuple[str, str]]]]]
Revision = Callable[[], Awaitable[int]]


async def supervise(
    *,
    home: Path,
    host: str,
    port: int,
    mosquitto: Path,
    load_users: LoadUsers,
    revision: Revision,
    master_key: bytes,
    stop: asyncio.Event,
    tls: TlsSetup | None = None,
    legacy: LegacySetup | None = None,
    shards: int = 1,
    pace: Pace | None = None,
) -> None:
    """Run Mosquitto on host:port, with its files under `home`, until `stop` is set. With `tls` boxes come in from
    elsewhere too, and with its `provision_port` a second Mosquitto takes in those that have no name yet; with `legacy`
    a third one takes in other makers' boxes.

    `load_users` returns (revision, [(device id, "$7$…" hash)]), `revision` the same number cheaply; either may raise
    while the database is away. Raises BrokerStartError when the port is taken, a second supervisor runs in this home,
    or the program is no Mosquitto 2. Call it in the main thread: Linux ends the broker with the thread that started it.
    """
    pace = pace or Pace()
    require_loopback(host)
    engine_name = f"mosquitto {await _supported_version(mosquitto)}"
    with only_supervisor(home):
        require_free_port(host, port)
        files = files_in(home)
        board = HealthBoard(home, Health(engine=engine_name, host=host, port=port, supervisor_pid=os.getpid()))
        password = hub_password(master_key, SUPERVISOR_USER)
        engine = Engine(
            (mosquitto, "-c", files.config),
            board=board,
            ask=functools.partial(login, host, port, user=SUPERVISOR_USER, password=password),
            pace=pace,
            before_restart=functools.partial(_set_broken_sessions_aside, files),
        )
        roster = Roster(files, _hub_lines(master_key, shards), engine=engine, board=board, pace=pace)
        await asyncio.to_thread(_write_fixed_files, files, host=host, port=port, tls=tls, shards=shards)
        served = None if tls is None else await _served(files, tls, board)
        second = None
        if tls is not None and tls.provision_port:
            second = await provisioning_engine(
                home=home, mosquitto=mosquitto, engine_name=engine_name, tls=tls, hub=(host, port),
                master_key=master_key, pace=pace,
            )  # fmt: skip
        await roster.write_first(load_users)
        log.info("broker_starting", engine=engine_name, host=host, port=port)
        works = [engine.keep_running(), engine.watch(), roster.follow(load_users, revision)]
        if second is not None:
            works += [_run_behind(engine, second), second.watch()]
        if legacy is not None:
            third, third_board = await legacy_engine(
                home=home, mosquitto=mosquitto, engine_name=engine_name, legacy=legacy, hub=(host, port),
                master_key=master_key, pace=pace,
            )  # fmt: skip
            theirs = Roster(
                files.legacy, legacy_lines(master_key), engine=third, board=third_board, pace=pace,
                is_user=is_legacy_user,
            )  # fmt: skip
            await theirs.write_first(legacy.load_users)
            works += [_run_behind(engine, third), third.watch(), theirs.follow(legacy.load_users, revision)]
        if served is not None:
            works.append(served.follow([engine, second] if second else [engine], every_s=pace.certificate))
        await run_until(stop, *works)
        log.info("broker_stopped")


async def _served(files: BrokerFiles, tls: TlsSetup, board: HealthBoard) -> ServedCertificate:
    require_free_port(tls.listener.host, tls.listener.port)
    served = ServedCertificate(files, tls, board=board)
    await asyncio.to_thread(served.put_first)
    return served


async def _run_behind(first: Engine, second: Engine) -> None:
    """The second broker's bridge would else begin with a refusal, and wait after it."""
    await first.ready.wait()
    await second.keep_running()


class Roster:
    """Who may log in: as the database has it, as the file has it, and whether the broker has read that."""

    def __init__(
        self,
        files: BrokerFiles,
        hub_lines: list[tuple[str, str]],
        *,
        engine: Engine,
        board: HealthBoard,
        pace: Pace,
        is_user: Callable[[str], bool] = is_device_user,
    ) -> None:
        self._files = files
        self._hub_lines = hub_lines
        self._is_user = is_user
        self._engine = engine
        self._board = board
        self._pace = pace
        self._wanted: tuple[int, dict[str, str]] | None = None
        self._written: tuple[int, dict[str, str]] | None = None
        self._refused: frozenset[str] = frozenset()
        self._changed_at: float | None = None
        self._reloaded_at = float("-inf")
        self._database_away = False

    async def write_first(self, load_users: LoadUsers) -> None:
        """The file Mosquitto starts with. Without a database: the hub, and the devices of the last one."""
        loaded = await self._ask(load_users)
        if loaded is not None:
            self._wanted = self._checked(loaded)
            await self._write()
        else:
            last = await asyncio.to_thread(_devices_in, self._files.passwords, self._is_user)
            await asyncio.to_thread(write_atomically, self._files.passwords, self._text(last))

    async def follow(self, load_users: LoadUsers, revision: Revision) -> None:
        """Carry every change of the database to the broker."""
        loop = asyncio.get_running_loop()
        compared_at = loop.time()
        while True:
            seen = await self._ask(revision)
            overdue = loop.time() - compared_at >= self._pace.reconcile
            moved = seen is not None and (self._wanted is None or seen != self._wanted[0])
            if moved or (overdue and seen is not None):
                loaded = await self._ask(load_users)
                self._wanted = self._wanted if loaded is None else self._checked(loaded)
            if moved or overdue:  # a worker that sees the file differ moves the number to have it looked at
                compared_at = loop.time()
                await self._mend_file()
            await self._apply_when_due(loop.time())
            self._note_applied()
            await asyncio.sleep(self._pace.poll)

    async def _apply_when_due(self, now: float) -> None:
        if self._wanted is None:
            return
        if self._written is not None and self._written[1] == self._wanted[1]:
            self._written = self._wanted  # the number moved, the names did not: nothing to reload
            self._changed_at = None
            return
        self._changed_at = now if self._changed_at is None else self._changed_at
        if self._removes_somebody() or self._is_due(now):
            await self._write()
            self._changed_at = None
            self._reloaded_at = now
            await self._engine.reload()

    def _removes_somebody(self) -> bool:
        """A revoked device is cut off at once; everybody else can wait for the others."""
        if self._written is None or self._wanted is None:
            return False
        return not self._written[1].keys() <= self._wanted[1].keys()

    def _is_due(self, now: float) -> bool:
        settled = self._changed_at is not None and now - self._changed_at >= self._pace.settle
        return settled and now - self._reloaded_at >= self._pace.between_reloads

    async def _write(self) -> None:
        if self._wanted is None:
            return
        await asyncio.to_thread(write_atomically, self._files.passwords, self._text(self._wanted[1]))
        self._written = self._wanted
        self._board.note(users=len(self._wanted[1]))
        log.info("broker_users_written", revision=self._wanted[0], users=len(self._wanted[1]))

    async def _mend_file(self) -> None:
        """Somebody else may have touched the file; the database is right."""
        if self._written is None:
            return
        on_disk = await asyncio.to_thread(_read_or_none, self._files.passwords)
        if on_disk != self._text(self._written[1]):
            log.warning("broker_users_differ", file=str(self._files.passwords))
            self._written = None  # nothing is known to be in place: write and reload

    def _note_applied(self) -> None:
        """Only what the running broker has read counts as applied."""
        if self._written is None or not self._engine.ready.is_set() or self._engine.reload_owed:
            return
        if self._board.health.applied_revision != self._written[0]:
            self._board.note(applied_revision=self._written[0])

    def _text(self, devices: dict[str, str]) -> str:
        return password_text([*self._hub_lines, *sorted(devices.items())])

    def _checked(self, loaded: tuple[int, list[tuple[str, str]]]) -> tuple[int, dict[str, str]]:
        """Leave out what must not reach the file. One bad row must not keep a revocation from the others."""
        number, rows = loaded
        devices = {name: hashed for name, hashed in rows if self._is_user(name) and is_hash(hashed)}
        refused = frozenset(name for name, _ in rows) - devices.keys()
        if refused - self._refused:
            log.error("broker_users_refused", names=sorted(refused))
            self._board.note_error(f"refused as broker users: {', '.join(sorted(refused))}")
        self._refused = refused
        return number, devices

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """The database's answer, or None while it gives none: the broker goes on with what it has."""
        try:
            async with asyncio.timeout(self._pace.database):
                answer = await question()
        except Exception as error:  # whichever driver it is: no failure of the database may stop the broker
            if not self._database_away:
                log.exception("broker_database_away")
                self._board.note_error(f"device credentials cannot be read: {error!r}")
            self._database_away = True
            return None
        if self._database_away:
            log.info("broker_database_back")
        self._database_away = False
        return answer


def _hub_lines(master_key: bytes, shards: int) -> list[tuple[str, str]]:
    """Hashed once per start: with a fresh salt at each write the file would differ although nothing changed."""
    return [(user, hash_password(hub_password(master_key, user))) for user in hub_users(shards)]


def _write_fixed_files(files: BrokerFiles, *, host: str, port: int, tls: TlsSetup | None, shards: int) -> None:
    for folder in (files.folder, files.data, files.tls):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (files.passwords, files.acl, files.config, files.served):
        remove_leftovers(path)
    listener = tls.listener if tls else None
    write_atomically(files.acl, acl_text(shards=shards))
    write_atomically(files.config, config_text(files, host=host, port=port, tls=listener, run_as=run_as()))


def _set_broken_sessions_aside(files: BrokerFiles, ending: str) -> None:
    """A damaged session file would end every start. Nothing in it is the only copy: boxes and hub subscribe anew, and
    what was not acknowledged by its receiver is sent again."""
    if "Unable to restore persistent database" in ending:
        broken = files.sessions.replace(files.sessions.with_suffix(".broken"))
        log.error("broker_sessions_set_aside", file=str(broken))


async def _supported_version(mosquitto: Path) -> str:
    try:
        version = await mosquitto_version(mosquitto)
    except (OSError, ValueError) as error:
        raise BrokerStartError(f"{mosquitto} cannot be used as broker: {error}") from error
    text = ".".join(map(str, version))
    if version[0] != 2:  # 1.x does not read $7$ hashes; 3.0 is to drop password_file and acl_file
        raise BrokerStartError(f"{mosquitto} is Mosquitto {text}; 2.0 or 2.1 is needed")
    return text


def _devices_in(passwords: Path, is_user: Callable[[str], bool]) -> dict[str, str]:
    """The devices of a password file written before; none when there is no file."""
    lines = (line.partition(":") for line in (_read_or_none(passwords) or "").splitlines())
    return {name: hashed for name, _, hashed in lines if is_user(name) and is_hash(hashed)}


def _read_or_none(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
