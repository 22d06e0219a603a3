"""Processes of the product that start at once: forked from one that has imported all of it.

Importing costs a process two to three seconds of processor time, and the tests start hundreds. What the processes do is
the same, and how the product is really started has tests of its own (tests/journeys/test_up.py, tests/server/cli).
"""

import asyncio
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["support.prepared"])
_getting_ready = threading.Lock()


@dataclass(frozen=True)
class Forked:
    """What the tests use of an asyncio.subprocess.Process, and by its names."""

    process: BaseProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    async def wait(self) -> int:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        if self.returncode is None:
            loop.add_reader(self.process.sentinel, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self.process.sentinel)
        self.process.join()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()


def fork(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Forked:
    """`soundbox <arguments>` with this environment and nothing else; both outputs go to the log."""
    return _fork(arguments, environment, (Path(os.devnull), log, log))


def run(
    arguments: Sequence[str], environment: Mapping[str, str], *, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The same to its end, and what it said. It may take a minute."""
    with tempfile.TemporaryDirectory() as folder:
        asked, said, warned = (Path(folder) / name for name in ("in", "out", "err"))
        asked.write_text(stdin or "")
        process = _fork(arguments, environment, (asked, said, warned)).process
        process.join(60)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), 60)
        return subprocess.CompletedProcess(list(arguments), process.exitcode, said.read_text(), warned.read_text())


def work(job: Callable[..., None], *arguments: object, environment: Mapping[str, str]) -> Forked:
    """A process that does this, a function of `support`, in this environment, and ends."""
    return _started(_work, (job, arguments, dict(environment)))


def _fork(arguments: Sequence[str], environment: Mapping[str, str], files: tuple[Path, Path, Path]) -> Forked:
    return _started(_run, (tuple(arguments), dict(environment), files))


def _started(target: Callable[..., None], arguments: tuple[Any, ...]) -> Forked:
    _be_ready()
    process = _forks.Process(target=target, args=arguments, daemon=True)
    process.start()
    return Forked(process)


def _be_ready() -> None:
    """It finds support/ by the environment: before Python 3.13 it is told our path and does not use it. One thread at a
    time: two would undo each other's PYTHONPATH."""
    with _getting_ready:
        _server()


@cache
def _server() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setattr(tempfile, "tempdir", None)  # its folder outlives the one that a test keeps its files in
        forkserver.ensure_running()


def _work(job: Callable[..., None], arguments: tuple[object, ...], environment: Mapping[str, str]) -> None:
    _enter(environment)
    job(*arguments)


def _enter(environment: Mapping[str, str]) -> None:
    from soundbox_server import failpoints

    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(failpoints)  # reads the environment as it is imported


def _run(arguments: Sequence[str], environment: Mapping[str, str], files: tuple[Path, Path, Path]) -> None:
    from soundbox_server import cli

    asked, said, warned = files
    for path, fd, how in ((asked, 0, os.O_RDONLY), (said, 1, os.O_WRONLY), (warned, 2, os.O_WRONLY)):
        os.dup2(os.open(path, how | (0 if fd == 0 else os.O_APPEND | os.O_CREAT), 0o600), fd)
    sys.stdin = os.fdopen(0)  # multiprocessing has closed it
    _enter(environment)
    sys.argv = ["soundbox", *arguments]
    cli.main()
