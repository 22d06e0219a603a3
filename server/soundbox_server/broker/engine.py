"""One broker process: started, watched, told to reload, and started again whenever it ends."""

import asyncio
import fcntl
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from soundbox_server.broker import tether
from soundbox_server.broker.health import HealthBoard
from soundbox_server.clock import now_ms

log: FilteringBoundLogger = structlog.get_logger()

_LONGEST_LOG_LINE = 64 * 1024


class BrokerStartError(Exception):
    """Nothing was started, and trying again would not help; the message says what to change."""


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, and how long they are waited for; all in seconds."""

    poll: float = 0.25  # asking the database whether credentials changed
    settle: float = 0.25  # changes that come together share a reload
    between_reloads: float = 1.0  # each reload stalls the broker's only thread; removals do not wait for this
    reconcile: float = 60.0  # comparing everything although no change was announced
    certificate: float = 10.0  # looking whether another certificate was put in place, or is needed
    database: float = 5.0  # waiting for an answer of the database
    probe: float = 5.0  # asking a running broker for a login
    probe_while_starting: float = 0.05
    first_restart: float = 0.2  # doubles with each restart …
    longest_restart: float = 10.0  # … up to this …
    steady_after: float = 30.0  # … and begins anew after a run of this length
    stop: float = 10.0  # for writing its sessions to disk before it is killed


class Engine:
    """Keeps one broker process running. `ready` is set while the running process has answered a login.

    `ask` logs in at it: True when it let us in; OSError while it does not answer. `before_restart` is told how the last
    one ended, and may remove what would end the next one too. `open_files` bounds what it may open, clients included.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        board: HealthBoard,
        ask: Callable[[], Awaitable[bool]],
        pace: Pace,
        before_restart: Callable[[str], None] | None = None,
        open_files: int = 0,
    ) -> None:
        self._command = command
        self._board = board
        self._ask = ask
        self._open_files = open_files
        self._pace = pace
        self._before_restart = before_restart
        self._process: asyncio.subprocess.Process | None = None
        self._reload_owed = False
        self._reloading = asyncio.Lock()
        self._asking = asyncio.Lock()  # a second login under the same name would cut off the first
        self._started = asyncio.Event()
        self.ready = asyncio.Event()

    async def keep_running(self) -> None:
        """Run the process, again and again. Ends only by being cancelled, and then the process has ended too."""
        try:
            await self._run_for_ever()
        finally:
            self._board.note(pid=None, since_ms=None, answering=False)

    async def watch(self) -> None:
        """Ask for a login now and then. This is how readiness is seen, and a broker that runs but does not answer."""
        while True:
            await self._look()
            with suppress(TimeoutError):  # a new process is looked at without waiting for the next turn
                async with asyncio.timeout(
                    self._pace.probe if self.ready.is_set() else self._pace.probe_while_starting
                ):
                    await self._started.wait()
            self._started.clear()

    async def reload(self) -> bool:
        """Have the process read its files again. True when the running process has done so; False when it will, at its
        start or as soon as it answers."""
        async with self._reloading:
            process = self._process
            if process is None or not self.ready.is_set():
                # SIGHUP ends a Mosquitto that has not set its signal handlers yet; a starting one is asked later.
                self._reload_owed = True
                return False
            self._reload_owed = False
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)
            self._board.note(reloads=self._board.health.reloads + 1)
            # Mosquitto reloads at the end of the loop turn in which the signal came, and a login takes two turns,
            # one to accept and one to read: an answered login was checked against the new files.
            if await self._answers():
                return True
            self._reload_owed = True
            return False

    @property
    def reload_owed(self) -> bool:
        return self._reload_owed

    async def _run_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        delay = self._pace.first_restart
        while True:
            started = loop.time()
            ending = await self._run_once()
            if loop.time() - started >= self._pace.steady_after:
                delay = self._pace.first_restart
            restarts = self._board.health.restarts + 1
            log.error("broker_ended", ending=ending, restarts=restarts, again_in_s=delay)
            self._board.note_error(ending, pid=None, since_ms=None, answering=False, restarts=restarts)
            if self._before_restart is not None:
                self._before_restart(ending)
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._pace.longest_restart)

    async def _run_once(self) -> str:
        """Start the process and wait for its end; says how it ended."""
        self._reload_owed = False  # it reads what is there now
        try:
            process = await self._start()
        except OSError as error:
            return f"could not be started: {error}"
        self._process = process
        self._started.set()
        self._board.note(pid=process.pid)
        last_words: list[str] = []
        try:
            await self._pass_on_log(process, last_words)
            code = await process.wait()
        finally:
            self.ready.clear()
            self._process = None
            await self._end(process)
        return _how_it_ended(code, last_words)

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(tether.__file__), self._tied_to(), *map(str, self._command)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LOG_LINE,
            start_new_session=True,  # Ctrl-C is for the supervisor, which then ends the broker in its own order
        )

    def _tied_to(self) -> str:
        return f"{os.getpid()}:{self._open_files}" if self._open_files else str(os.getpid())

    async def _pass_on_log(self, process: asyncio.subprocess.Process, last_words: list[str]) -> None:
        """Until the process closes its log. An unread pipe would fill and block the broker."""
        if process.stderr is None:
            raise RuntimeError("the broker was started without a pipe for its log")
        async for line in _lines(process.stderr):
            if line.startswith("Error"):
                last_words.append(line)
                del last_words[:-3]
            _level_of(line)("broker_says", line=line)

    async def _look(self) -> None:
        """One login, and what follows from it."""
        was_ready = self.ready.is_set()
        asked = self._process
        answers = asked is not None and await self._answers()
        process = self._process
        if process is None or process is not asked:
            return  # it ended meanwhile: the answer was another one's
        if not answers:
            if was_ready:
                self._note_silence(process.pid)
            return
        self.ready.set()
        if not was_ready:
            log.info("broker_ready", pid=process.pid, port=self._board.health.port, engine=self._board.health.engine)
        self._board.note(answering=True, since_ms=self._board.health.since_ms or now_ms())
        if self._reload_owed:
            await self.reload()

    def _note_silence(self, pid: int) -> None:
        """A broker that hangs is reported, not killed: under great load that would throw everybody out for nothing."""
        if not self._board.health.answering:
            self._board.note()
            return
        log.error("broker_does_not_answer", pid=pid)
        self._board.note_error("the broker runs but does not answer a login", answering=False)

    async def _answers(self) -> bool:
        async with self._asking:
            try:
                return await self._ask()
            except OSError:
                return False  # starting, frozen or gone: the caller decides what that means

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        # Its last log lines are read away: a full pipe must not keep it from ending.
        drain = asyncio.ensure_future(_discard(process.stderr))
        try:
            await asyncio.wait_for(process.wait(), self._pace.stop)
        except TimeoutError:
            log.error("broker_killed", pid=process.pid, waited_s=self._pace.stop)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        finally:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)


async def run_until(stop: asyncio.Event, *works: Coroutine[Any, Any, None]) -> None:
    """Run these endless works side by side until `stop` is set or one of them fails, then end them all."""
    tasks = [asyncio.create_task(work) for work in works]
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(stopped, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def require_loopback(host: str) -> None:
    """The plain listener carries passwords in the open. Raises BrokerStartError when others could reach it."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host != "localhost":
        raise BrokerStartError(f"the plain MQTT listener is for this machine only (127.0.0.1), not for {host}")


def require_free_port(host: str, port: int) -> None:
    """Raises BrokerStartError when something listens there already. Asked first, for a clear message."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise BrokerStartError(f"MQTT port {port} on {host} cannot be used: {error.strerror}") from error


@contextmanager
def only_supervisor(home: Path) -> Iterator[None]:
    """Hold the copy's broker folder. Two supervisors would overwrite each other's files; the lock ends with us."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "broker.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise BrokerStartError(f"a broker is supervised in {home} already") from busy
        yield


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            raw = await reader.readline()
        except ValueError:  # longer than the limit: the reader has dropped it, the next line is whole again
            continue
        if not raw:
            return
        if line := raw.decode(errors="replace").strip():
            yield line


async def _discard(reader: asyncio.StreamReader | None) -> None:
    while reader is not None and await reader.read(_LONGEST_LOG_LINE):
        pass


def _level_of(line: str) -> Callable[..., Any]:
    """Connects and disconnects are the normal noise of a fleet. A taken-over session is not: it may be a clone."""
    if line.startswith("Error"):
        return log.error
    if line.startswith("Warning") or "already connected, closing old connection" in line:
        return log.warning
    return log.debug


def _how_it_ended(code: int, last_words: list[str]) -> str:
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return f"{how}: {' '.join(last_words)}" if last_words else how
