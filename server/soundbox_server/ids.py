"""Prefixed, sortable, unguessable ids: `txn_` + a 26-character ULID in lower case (Crockford base32)."""

import os
import re
import threading
import time
from collections.abc import Iterator

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # ten bits at a time: this sits on the payment path

REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class _Randomness:
    """80 random bits at a time out of a larger draw: a system call for each would be a twentieth of a callback."""

    def __init__(self) -> None:
        self._pool: Iterator[int] = iter(())
        self._last = 0
        self._lock = threading.Lock()  # ids are made in the database's thread as well

    def forget(self) -> None:
        self._pool = iter(())

    def next_bits(self) -> int:
        """48 bits of milliseconds and 80 random ones; larger than every one before it in this process."""
        with self._lock:
            bits = (time.time_ns() // 1_000_000 << 80) | self._draw()
            if bits <= self._last:  # within one millisecond: a random step onwards keeps the order and tells nothing
                bits = self._last + 1 + (self._draw() >> 16)
            self._last = bits
            return bits

    def _draw(self) -> int:
        for drawn in self._pool:
            return drawn
        raw = os.urandom(10 * 256)
        self._pool = iter([int.from_bytes(raw[at : at + 10], "big") for at in range(0, len(raw), 10)])
        return next(self._pool)


_randomness = _Randomness()
os.register_at_fork(after_in_child=_randomness.forget)  # or a child would draw the same


def new_id(prefix: str) -> str:
    """Ids sort by birth, also within a millisecond of one process, and cannot be guessed."""
    bits = _randomness.next_bits()
    pairs = _PAIRS
    return (
        f"{prefix}_"
        + pairs[bits >> 120 & 1023]
        + pairs[bits >> 110 & 1023]
        + pairs[bits >> 100 & 1023]
        + pairs[bits >> 90 & 1023]
        + pairs[bits >> 80 & 1023]
        + pairs[bits >> 70 & 1023]
        + pairs[bits >> 60 & 1023]
        + pairs[bits >> 50 & 1023]
        + pairs[bits >> 40 & 1023]
        + pairs[bits >> 30 & 1023]
        + pairs[bits >> 20 & 1023]
        + pairs[bits >> 10 & 1023]
        + pairs[bits & 1023]
    )


def lowest_id(prefix: str, at_ms: int) -> str:
    """No id that was born at this millisecond or later sorts before this one."""
    bits = max(0, min(at_ms, (1 << 48) - 1)) << 80
    return f"{prefix}_" + "".join(_PAIRS[bits >> shift & 1023] for shift in range(120, -1, -10))
