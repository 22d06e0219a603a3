"""When in a month a shop earns most: the weeks of several whole months, compared with each other.

Each of a month's four weeks (days 1-7, 8-14, 15-21, 22 to the end) is its revenue per day over that of its month, so
that growth is not mistaken for a season. The best week is the one with the highest mean over the months. How far it is
to be trusted is ε², the share of all differences that the week explains beyond what chance would, times n / (n + 1) for
n months. Where that is nothing, no week is named.
"""

from calendar import monthrange
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import fmean

from soundbox_server.scoring.facts import number

MONTHS, FEWEST_MONTHS = 6, 2
LOOKS_BACK_DAYS = 31 * (MONTHS + 1)
_BEGINS = (1, 8, 15, 22)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """`week` is 1 to 4, or None; `confidence` is 0 to 1; `above_percent` is how far the week lies above a month's
    mean. `begins` and `ends` are the next such week."""

    months: int
    week: int | None = None
    confidence: float = 0.0
    above_percent: float = 0.0
    begins: date | None = None
    ends: date | None = None


def best_week(revenue: Mapping[int, int], *, today: date) -> Timing:
    """`revenue` is by the number of the day since 1970, in whole rupiah."""
    months = [shares for month in _whole_months(revenue, today) if (shares := _shares(revenue, month)) is not None]
    if len(months) < FEWEST_MONTHS:
        return Timing(months=len(months))
    confidence = round(_explained(months) * len(months) / (len(months) + 1), 2)
    if confidence <= 0:
        return Timing(months=len(months))
    means = [fmean(month[week] for month in months) for week in range(4)]
    best = means.index(max(means))
    begins, ends = _next(best, today)
    return Timing(
        months=len(months), week=best + 1, confidence=confidence, above_percent=round(100 * (means[best] - 1), 1),
        begins=begins, ends=ends,
    )  # fmt: skip


def _whole_months(revenue: Mapping[int, int], today: date) -> list[date]:
    """The first days of the last months that are over and in whose first week the shop traded already."""
    began = min((day for day, idr in revenue.items() if idr > 0), default=None)
    months: list[date] = []
    month = today.replace(day=1)
    for _ in range(MONTHS):
        month = (month - timedelta(days=1)).replace(day=1)
        if began is not None and began < number(month) + 7:
            months.append(month)
    return months


def _shares(revenue: Mapping[int, int], month: date) -> list[float] | None:
    """What each week earned a day, over what the month did; None for a month without revenue."""
    first, length = number(month), monthrange(month.year, month.month)[1]
    total = sum(revenue.get(first + day, 0) for day in range(length))
    if not total:
        return None
    ends = (*(begin - 1 for begin in _BEGINS[1:]), length)
    return [
        fmean(revenue.get(first + day, 0) for day in range(begin - 1, end)) * length / total
        for begin, end in zip(_BEGINS, ends, strict=True)
    ]


def _explained(months: Sequence[Sequence[float]]) -> float:
    """ε² of a one-way analysis of variance: 1 when all months are alike, 0 when the week says nothing."""
    cells = [share for month in months for share in month]
    mean = fmean(cells)
    total = sum((share - mean) ** 2 for share in cells)
    if total < 1e-9:
        return 0.0
    weeks = [fmean(month[week] for month in months) for week in range(4)]
    between = len(months) * sum((week - mean) ** 2 for week in weeks)
    within = (total - between) / (len(cells) - 4)
    return max(0.0, min(1.0, (between - 3 * within) / total))


def _next(week: int, today: date) -> tuple[date, date]:
    """That week of this month unless it is over, else of the next."""
    month = today.replace(day=1)
    for _ in range(2):
        length = monthrange(month.year, month.month)[1]
        ends = month.replace(day=_BEGINS[week + 1] - 1 if week < 3 else length)
        if ends >= today:
            break
        month += timedelta(days=length)
    return month.replace(day=_BEGINS[week]), ends
