"""Ports that nothing else takes between their choice and their use.

The kernel gives outgoing connections the ports from 32768 on, so ours lie below. Each test process has a slice of its
own and goes round in it, beginning somewhere: another run on the same machine is likely elsewhere.
"""

import os
import random
import socket

LOWEST, SLICES, PORTS_A_SLICE = 12_000, 20, 1_000

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_lowest = LOWEST + _worker % SLICES * PORTS_A_SLICE
_taken = random.randrange(PORTS_A_SLICE)


def free_port() -> int:
    """A port of this machine's loopback that nobody listens at."""
    global _taken
    for _ in range(PORTS_A_SLICE):
        _taken = (_taken + 1) % PORTS_A_SLICE
        if _is_free(_lowest + _taken):
            return _lowest + _taken
    raise AssertionError(f"no free port from {_lowest} to {_lowest + PORTS_A_SLICE - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
