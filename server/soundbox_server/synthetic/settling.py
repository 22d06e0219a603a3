"""When what shops sold was paid out: the windows of the terms, banks' open days, and payouts that a bank refused first.

The same calendar, windows and shares that real batches have; only that all of them are made at once.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import msgspec

from soundbox_server.clock import DAY_MS, jakarta_day, jakarta_ms
from soundbox_server.fees.terms import Terms
from soundbox_server.settlements.calendar import Calendar, following
from soundbox_server.settlements.shares import Share, Sums, shared_out
from soundbox_server.settlements.windows import Occurrence, windows_of

RUNS_MS = 5 * 60_000  # after midnight, of the day on which it is due
BANK_OPENS_MS, PAID_BY_MS = 9 * 3_600_000, 10 * 3_600_000
_LONGEST_WAIT_DAYS = 15


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What one journal moved of what a shop is owed, as the shop sees it: a refund's amounts are negative."""

    journal_id: str
    payment_id: str
    kind: str  # payment, or refund
    gross: int
    fee: int
    at_ms: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """All of a window. `refused_at_ms`: the bank would not pay at first."""

    window: Occurrence
    moved: Sequence[Moved]
    share: Share
    runs_at_ms: int
    paid_at_ms: int
    refused_at_ms: int | None = None


def windows(terms: Terms, calendar: Calendar, *, first_ms: int, last_ms: int) -> list[Occurrence]:
    """Those that close after the first moment, up to the one that the last moment belongs to."""
    day, last = jakarta_day(first_ms), jakarta_day(last_ms + _LONGEST_WAIT_DAYS * DAY_MS)
    found: list[Occurrence] = []
    while day <= last and not (found and found[-1].closes_at_ms > last_ms):
        found += [window for window in windows_of(terms, calendar, day) if window.closes_at_ms > first_ms]
        day = following(day)
    return found


def batches(
    moved: Iterable[Moved], within: Sequence[Occurrence], *, late_share: Callable[[int], float], seed: str, now_ms: int
) -> list[Batch]:
    """What was settled and paid out by now, oldest first; the windows after that are still to be settled.

    `late_share` of a day's payouts, but for the latest, were refused and paid some days later.
    """
    closes = [window.closes_at_ms for window in within]
    by_window = groupby(sorted(moved, key=lambda one: one.at_ms), key=lambda one: bisect_right(closes, one.at_ms))
    made: list[Batch] = []
    carried = 0
    for place, some in by_window:
        if place == len(within):
            break
        if jakarta_ms(within[place].settles_on) + PAID_BY_MS > now_ms:
            break
        batch = _batch(within[place], list(some), carried, late_share, seed, now_ms)
        carried = batch.share.carried_out
        made.append(batch)
    return made


def _batch(
    window: Occurrence, moved: list[Moved], carried: int, late_share: Callable[[int], float], seed: str, now_ms: int
) -> Batch:
    chances = random.Random(f"{seed}/{window.day}/{window.name}")  # noqa: S311
    due_ms = jakarta_ms(window.settles_on)
    paid_at_ms = due_ms + BANK_OPENS_MS + int((PAID_BY_MS - BANK_OPENS_MS) * chances.random())
    refused, wait = chances.random() < late_share(due_ms // DAY_MS), 3 + int(7 * chances.random())
    late_at_ms = paid_at_ms + wait * DAY_MS
    is_late = refused and late_at_ms <= now_ms
    return Batch(
        window=window,
        moved=moved,
        share=shared_out({"": _sums(moved)}, {"": carried} if carried else {})[""],
        runs_at_ms=max(due_ms, window.closes_at_ms) + RUNS_MS,
        paid_at_ms=late_at_ms if is_late else paid_at_ms,
        refused_at_ms=paid_at_ms if is_late else None,
    )


def _sums(moved: Sequence[Moved]) -> Sums:
    payments = [one for one in moved if one.kind == "payment"]
    others = [one for one in moved if one.kind != "payment"]
    return Sums(
        payments=len(payments),
        adjustments=len(others),
        gross_amount=sum(one.gross for one in payments),
        fee_amount=sum(one.fee for one in payments),
        adjustment_amount=sum(one.gross - one.fee for one in others),
    )
