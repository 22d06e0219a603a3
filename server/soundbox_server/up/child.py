"""One process of the copy: started, started again when it ends, and ended with us whatever happens to us."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from soundbox_server.broker import tether

FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 15.0
STEADY_AFTER_S = 30.0
LAST_WORDS = 6
LOG_LIMIT_BYTES = 8 * 1024 * 1024
_LONGEST_LINE = 1024 * 1024


class Child:
    """A command kept running. Its stderr (and its stdout, unless `on_line` reads that) goes to the log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        say: Callable[[str], None],
        on_line: Callable[[str], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._command = command
        self._environment = environment
        self._log = log
        self._say = say
        self._on_line = on_line
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep_running(), name=self.name)

    async def end(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL to all that is left of its process group after `patience_s`."""
        self._ending = True
        if self._keeping is None:
            return
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
        else:
            self._keeping.cancel()  # it waits for its next start, which must not come
        _, late = await asyncio.wait([self._keeping], timeout=patience_s)
        if process is not None:
            if late:
                self._say(f"{self.name} did not end within {patience_s:g} s and was killed.")
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait([self._keeping])

    async def _keep_running(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), FIRST_RESTART_S
        while True:
            started = loop.time()
            how = await self._run_once()
            if self._on_end is not None:
                self._on_end()
            if self._ending:
                return
            pause_s = FIRST_RESTART_S if loop.time() - started >= STEADY_AFTER_S else pause_s
            self.restarts += 1
            self._say(f"{self.name} {how}; again in {pause_s:g} s. {self._log}:")
            for line in self._last_words():
                self._say(f"    {line}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RESTART_S)

    async def _run_once(self) -> str:
        """Start, wait for the end, and say how it ended."""
        self._make_room()
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid()), *self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self._on_line else log,
                stderr=log,
                env=dict(self._environment),
                limit=_LONGEST_LINE,
                start_new_session=True,  # Ctrl-C is for us, who end the others in order
            )
        self._process = process
        if self._ending:  # it was told to end while it was being started
            process.terminate()
        if process.stdout is not None and self._on_line is not None:
            await _read(process.stdout, self._on_line)
        code = await process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _make_room(self) -> None:
        """One older log is kept; a copy that runs for months must not fill the disk."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.old"))

    def _last_words(self) -> list[str]:
        """What the run that has just ended wrote last."""
        with self._log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - 16_384))
            return log.read().decode(errors="replace").strip().splitlines()[-LAST_WORDS:]


async def _read(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    while True:
        try:
            raw = await stream.readline()
        except ValueError:  # longer than anything a child of ours writes: dropped, the next line is whole again
            continue
        if not raw:
            return
        on_line(raw.decode(errors="replace").rstrip("\n"))
