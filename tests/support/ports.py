"""Ports that nothing else takes between their choice and their use.

The kernel gives outgoing connections the ports from 32768 on, so ours lie below. Each test process has a slice of its
own and goes round in it; another run on the same machine has the same slices, so each port that was given out lately is
locked for all of them.
"""

import fcntl
import os
import random
import socket
import tempfile
from collections import deque
from io import FileIO
from pathlib import Path

LOWEST, SLICES, PORTS_A_SLICE = 12_000, 20, 1_000
HELD = 100  # of which most are in use by then

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_lowest = LOWEST + _worker % SLICES * PORTS_A_SLICE
_taken = random.randrange(PORTS_A_SLICE)
_locks = Path(tempfile.gettempdir()) / f"soundbox-ports-{os.getuid()}"
_held: deque[FileIO] = deque()


def free_port() -> int:
    """A port of this machine's loopback that nobody listens at, and nobody is about to."""
    global _taken
    for _ in range(PORTS_A_SLICE):
        _taken = (_taken + 1) % PORTS_A_SLICE
        if _is_ours(_lowest + _taken):
            return _lowest + _taken
    raise AssertionError(f"no free port from {_lowest} to {_lowest + PORTS_A_SLICE - 1}")


def _is_ours(port: int) -> bool:
    _locks.mkdir(mode=0o700, exist_ok=True)
    lock = FileIO(_locks / str(port), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        lock.close()
        return False
    _held.append(lock)
    if len(_held) > HELD:
        _held.popleft().close()
    return True
