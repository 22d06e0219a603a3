"""Prefixed, sortable, unguessable ids: `txn_` + a 26-character ULID in lower case (Crockford base32)."""

import os
import re
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # ten bits at a time: this sits on the payment path
_LOW_40, _RANDOM_BITS = (1 << 40) - 1, 80

FOLLOWED_MS = 60_000  # less than what a search by time allows for (paging.CLOCK_SLACK_MS)

REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class _Ulids:
    """48 bits of milliseconds and 80 random ones, each larger than every one before it in this process.

    Only a clock that is set back by more than a minute is followed: rows are found by their ids' times (`lowest_id`),
    and would be looked for in vain until a clock that was once far ahead is passed again.
    """

    def __init__(self) -> None:
        self._drawn: list[int] = []  # out of one larger draw: a system call for each would be a twentieth of a callback
        self._ms = 0
        self._time = ""
        self._random = 0
        self._lock = threading.Lock()  # ids are made in the database's thread as well

    def forget(self) -> None:
        self._drawn = []

    def next(self) -> tuple[str, int]:
        """The time as ten characters, and the random bits."""
        with self._lock:
            ms, random = time.time_ns() // 1_000_000, self._draw()
            if self._ms - FOLLOWED_MS < ms <= self._ms:
                # Within one millisecond a random step onwards keeps the order and tells nothing.
                ms, random = self._ms, self._random + 1 + (random >> 16)
                if random >> _RANDOM_BITS:
                    ms, random = ms + 1, random & (1 << _RANDOM_BITS) - 1
            if ms != self._ms:
                self._ms, self._time = ms, "".join(_PAIRS[ms >> shift & 1023] for shift in (40, 30, 20, 10, 0))
            self._random = random
            return self._time, random

    def _draw(self) -> int:
        if not self._drawn:
            raw = os.urandom(10 * 256)
            self._drawn = [int.from_bytes(raw[at : at + 10], "big") for at in range(0, len(raw), 10)]
        return self._drawn.pop()


_ulids = _Ulids()
os.register_at_fork(after_in_child=_ulids.forget)  # or a child would draw the same


def new_id(prefix: str) -> str:
    """Ids sort by birth, also within a millisecond of one process, and cannot be guessed."""
    born, random = _ulids.next()
    high, low, pairs = random >> 40, random & _LOW_40, _PAIRS
    return (
        f"{prefix}_{born}{pairs[high >> 30]}{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"
        f"{pairs[low >> 30]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
    )


def lowest_id(prefix: str, at_ms: int) -> str:
    """No id that was born at this millisecond or later sorts before this one."""
    return id_of(prefix, at_ms, 0)


def id_of(prefix: str, at_ms: int, random: int) -> str:
    """The id that is made of this moment and these 80 bits: of what is told as if it had been born then."""
    bits = max(0, min(at_ms, (1 << 48) - 1)) << _RANDOM_BITS | random
    return f"{prefix}_" + "".join(_PAIRS[bits >> shift & 1023] for shift in range(120, -1, -10))
