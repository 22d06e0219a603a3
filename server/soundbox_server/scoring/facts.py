"""From single transactions to what a model looks at: in a file, or in the test that proves the SQL.

The form of a file: `{as_of, timezone, transactions: [{at, amount, type, status, settled_at}], daily_revenue: [{date,
revenue}], scores: [{at, score}]}`. Times carry their zone, amounts are whole rupiah. What lies after `as_of` is unseen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS
from soundbox_server.fields import Day, Moment
from soundbox_server.scoring import paybaba_v1, soundbox_v2
from soundbox_server.scoring.early_warning import NEWEST_ROWS, ROWS_BEFORE, WITHIN_DAYS, Signs
from soundbox_server.scoring.soundbox_v2 import PERIOD_DAYS, SMALLEST_IDR, WEEKS, WINDOW_DAYS

JAKARTA = "Asia/Jakarta"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MONDAY = 4  # 1970-01-05 was one

Status = Literal["Success", "Pending", "Failed", "Refunded"]


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a folder, a path that leads out, a name that nobody knows
        raise ValueError("no such time zone") from None
    return name


TimeZone = Annotated[str, AfterValidator(_known_zone)]


def _word(value: object) -> object:
    return value.strip().capitalize() if isinstance(value, str) else value


class Transaction(BaseModel):
    """`type` is QRIS, CASH, WALLET or another method; no provider confirms cash, nor what goes from wallet to wallet. A
    status Refunded was paid and went back."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    at: Moment
    amount: Annotated[int, Field(gt=0)]
    type: Annotated[str, Field(min_length=1), AfterValidator(str.upper)]
    status: Annotated[Status, BeforeValidator(_word)]
    settled_at: Moment | None = None


class DayRevenue(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    date: Day
    revenue: Annotated[int, Field(ge=0)]


class PastScore(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    at: Moment
    score: Annotated[int, Field(ge=0, le=100)]


def _one_row_a_day(rows: list[DayRevenue] | None) -> list[DayRevenue] | None:
    for day, times in Counter(row.date for row in rows or ()).items():
        if times > 1:
            raise ValueError(f"{day} has {times} rows")
    return rows


class Trade(BaseModel):
    """A merchant's trade as a file tells it. Without `daily_revenue` it is summed up from the transactions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    as_of: Moment | None = None
    timezone: TimeZone | None = None
    transactions: list[Transaction]
    daily_revenue: Annotated[list[DayRevenue] | None, AfterValidator(_one_row_a_day)] = None
    scores: list[PastScore] = []


@dataclass(frozen=True, kw_only=True)
class _Days:
    """Sums by the number of a day since 1970: what early warning compares."""

    revenue: Mapping[int, int]
    payments: Mapping[int, int]


def paybaba_facts(trade: Trade, *, as_of_ms: int, timezone: str) -> paybaba_v1.Facts:
    """The facts of the reference's model: days and months of that time zone, three months back from that very hour."""
    zone = ZoneInfo(timezone)
    start = months_before(_local(as_of_ms, zone), 3)
    start_ms, today = _ms(start), _local(as_of_ms, zone).date()
    seen = [one for one in trade.transactions if one.at <= as_of_ms]
    inside = [one for one in seen if one.at >= start_ms]
    successful = [one for one in inside if one.status == "Success"]
    settled = [one.settled_at - one.at for one in inside if one.settled_at is not None and one.settled_at <= as_of_ms]
    days = _paybaba_days(trade, seen, zone)
    first_of_month = today.replace(day=1)
    first_before = (first_of_month - timedelta(days=1)).replace(day=1)
    middle_ms = (start_ms + as_of_ms) // 2

    def sold(first: date, end: date) -> int:
        taken = (one for one in seen if one.status == "Success")
        return sum(one.amount for one in taken if first <= _local(one.at, zone).date() < end)

    def count_half(half: Iterable[Transaction]) -> tuple[int, int]:
        told = Counter(one.status for one in half)
        return told["Success"], told["Refunded"]

    return paybaba_v1.Facts(
        transactions=len(inside),
        successful=len(successful),
        refunded=sum(one.status == "Refunded" for one in inside),
        revenue_idr=sum(one.amount for one in successful),
        daily_idr=tuple(
            revenue for day, revenue in sorted(days.revenue.items()) if number(start.date()) <= day <= number(today)
        ),
        month_idr=sold(first_of_month, today + timedelta(days=1)),
        month_before_idr=sold(first_before, first_of_month),
        settled=len(settled),
        settled_ms=sum(settled),
        signs=_signs(
            days, last_day=number(today), window=len(inside), settled=settled,
            first_half=count_half(one for one in inside if one.at < middle_ms),
            second_half=count_half(one for one in inside if one.at >= middle_ms),
        ),
    )  # fmt: skip


def _paybaba_days(trade: Trade, seen: Sequence[Transaction], zone: tzinfo) -> _Days:
    payments: Counter[int] = Counter(number(_local(one.at, zone).date()) for one in seen)
    if trade.daily_revenue is not None:
        given = {number(date.fromisoformat(row.date)): row.revenue for row in trade.daily_revenue}
        return _Days(revenue=given, payments=payments)
    revenue: Counter[int] = Counter()
    for one in seen:
        if one.status == "Success":
            revenue[number(_local(one.at, zone).date())] += one.amount
    return _Days(revenue=revenue, payments=payments)


def soundbox_facts(trade: Trade, *, as_of_ms: int) -> soundbox_v2.Facts:
    """The facts of our own model: the 90 full days in Jakarta before the day of `as_of_ms`, provider-confirmed."""
    today = jakarta_number(as_of_ms)
    first = today - WINDOW_DAYS
    taken = [
        one for one in trade.transactions
        if one.status in ("Success", "Refunded") and first <= jakarta_number(one.at) < today
    ]  # fmt: skip
    cash = [one for one in taken if one.type == "CASH"]
    paid = [one for one in taken if one.type not in ("CASH", "WALLET") and one.amount >= SMALLEST_IDR]
    settled = [one.settled_at - one.at for one in paid if one.settled_at is not None and one.settled_at <= as_of_ms]
    monday = monday_of(today)

    def summed(lies: Callable[[int], bool]) -> int:
        return sum(one.amount for one in paid if lies(jakarta_number(one.at)))

    def half(from_day: int, to_day: int) -> tuple[int, int]:
        inside = [one for one in paid if from_day <= jakarta_number(one.at) < to_day]
        return sum(one.amount for one in inside), sum(one.amount for one in inside if one.status == "Refunded")

    revenue: Counter[int] = Counter()
    for one in paid:
        revenue[jakarta_number(one.at)] += one.amount
    days = _Days(revenue=revenue, payments=Counter(jakarta_number(one.at) for one in paid))
    middle = first + WINDOW_DAYS // 2
    return soundbox_v2.Facts(
        history_days=today - min((jakarta_number(one.at) for one in paid), default=today),
        payments=len(paid),
        paid_idr=sum(one.amount for one in paid),
        refunded_idr=sum(one.amount for one in paid if one.status == "Refunded"),
        weeks_idr=tuple(
            summed(lambda day, begins=monday - 7 * back: begins <= day < begins + 7)  # type: ignore[misc]
            for back in range(WEEKS, 0, -1)
        ),
        last_idr=summed(lambda day: day >= today - PERIOD_DAYS),
        before_idr=summed(lambda day: today - 2 * PERIOD_DAYS <= day < today - PERIOD_DAYS),
        settled=len(settled),
        settled_ms=sum(settled),
        cash_payments=len(cash),
        cash_idr=sum(one.amount for one in cash),
        signs=_signs(
            days, last_day=today - 1, window=len(paid), settled=settled, first_half=half(first, middle),
            second_half=half(middle, today),
        ),
    )  # fmt: skip


def _signs(
    days: _Days,
    *,
    last_day: int,
    window: int,
    settled: Sequence[int],
    first_half: tuple[int, int],
    second_half: tuple[int, int],
) -> Signs:
    began = last_day - NEWEST_ROWS
    return Signs(
        **revenue_signs(days.revenue, last_day=last_day),
        last_payments=sum(n for day, n in days.payments.items() if began < day <= last_day),
        payments_before=sum(n for day, n in days.payments.items() if began - ROWS_BEFORE < day <= began),
        window_payments=window,
        first_half=first_half,
        second_half=second_half,
        settled=len(settled),
        settled_ms=sum(settled),
        settled_longest_ms=max(settled, default=0),
    )


def revenue_signs(revenue: Mapping[int, int], *, last_day: int) -> dict[str, int]:
    """Of the newest ten days with revenue and of those before them, by number of the day: how many, and how much."""
    near = sorted((day for day in revenue if last_day - WITHIN_DAYS < day <= last_day), reverse=True)
    newest, before = near[:NEWEST_ROWS], near[NEWEST_ROWS : NEWEST_ROWS + ROWS_BEFORE]
    return {
        "newest_rows": len(newest),
        "newest_idr": sum(revenue[day] for day in newest),
        "rows_before": len(before),
        "before_idr": sum(revenue[day] for day in before),
    }


def jakarta_number(at_ms: int) -> int:
    """The day in Jakarta, counted from 1970."""
    return (at_ms + JAKARTA_AHEAD_MS) // DAY_MS


def monday_of(day: int) -> int:
    """The Monday of that day's week."""
    return day - (day - _MONDAY) % 7


def _local(at_ms: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def number(day: date) -> int:
    return day.toordinal() - _EPOCH_DAY


def months_before(moment: datetime, months: int) -> datetime:
    """The same day and hour so many months earlier. A day that month lacks runs over into the next: of 31 May it is
    3 March, as in the reference."""
    index = moment.year * 12 + moment.month - 1 - months
    first = moment.replace(year=index // 12, month=index % 12 + 1, day=1)
    return first + timedelta(days=moment.day - 1)
