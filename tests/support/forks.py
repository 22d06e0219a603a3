"""Processes of the product that start at once: forked from one that has imported all of it.

Importing costs a process two to three seconds of processor time, and the tests start hundreds. What the processes do is
the same, and how the product is really started has tests of its own (tests/journeys/test_up.py, tests/server/cli).
"""

import asyncio
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["soundbox_server.cli", "soundbox_server.app", "soundbox_server.worker", "soundbox_server.sandbox.app"]
)


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
    process = _forks.Process(target=_run, args=(tuple(arguments), dict(environment), log), daemon=True)
    process.start()
    return Forked(process)


def _run(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    from soundbox_server import cli, failpoints

    out, nothing = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), os.open(os.devnull, os.O_RDONLY)
    for source, fd in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, fd)
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(failpoints)  # reads the environment as it is imported
    sys.argv = ["soundbox", *arguments]
    cli.main()
