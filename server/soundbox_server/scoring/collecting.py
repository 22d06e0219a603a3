"""What the models look at, summed up by the database: everybody's facts in one pass, not a query each.

The sums are those of `facts.py` to the rupiah. A payment's day is the Jakarta day on which it was paid; money that went
back is held against the payment it came from. All of it whole numbers, divided by nobody but the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone

from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS, jakarta_day
from soundbox_server.db import Row, Statements
from soundbox_server.revenue.service import CASH, WALLET
from soundbox_server.scoring import paybaba_v1, soundbox_v2
from soundbox_server.scoring.early_warning import NEWEST_ROWS, ROWS_BEFORE, WITHIN_DAYS, Signs
from soundbox_server.scoring.facts import jakarta_number, monday_of, months_before, number, revenue_signs
from soundbox_server.scoring.soundbox_v2 import PERIOD_DAYS, SMALLEST_IDR, WEEKS, WINDOW_DAYS

_JAKARTA = timezone(timedelta(milliseconds=JAKARTA_AHEAD_MS))
_DAY = f"((p.paid_at_ms + {JAKARTA_AHEAD_MS}) / {DAY_MS})"


def _sum(what: str, where: str = "") -> str:
    only = f" FILTER (WHERE {where})" if where else ""
    return f"CAST(coalesce(sum({what}){only}, 0) AS BIGINT)"


def _of(tx: Statements, column: str, merchant_ids: Sequence[str] | None, parameter: int) -> str:
    """Only of these merchants; of everybody when there is no list."""
    return "" if merchant_ids is None else f"AND {column} {tx.among(parameter)}"


def _listed(merchant_ids: Sequence[str] | None) -> tuple[object, ...]:
    return () if merchant_ids is None else (list(merchant_ids),)


async def soundbox_facts(
    tx: Statements, *, as_of_ms: int, merchant_ids: Sequence[str] | None = None
) -> dict[str, soundbox_v2.Facts]:
    """By merchant, the facts of `soundbox-v2` of everybody who was paid within its window."""
    today = jakarta_number(as_of_ms)
    first = today - WINDOW_DAYS
    paid = await tx.fetch(
        _soundbox_sql(tx, today, merchant_ids), _begin_ms(first), _begin_ms(today), SMALLEST_IDR,
        *_listed(merchant_ids),
    )  # fmt: skip
    settled = await _settled(tx, first, today, as_of_ms=as_of_ms, merchant_ids=merchant_ids)
    cash = await _cash(tx, first, today, merchant_ids=merchant_ids)
    by_merchant = {row["merchant_id"]: row for row in paid}
    return {
        merchant_id: _soundbox(
            by_merchant.get(merchant_id), settled.get(merchant_id), cash.get(merchant_id, (0, 0)), today
        )
        for merchant_id in sorted({*by_merchant, *cash})
    }


def _soundbox_sql(tx: Statements, today: int, merchant_ids: Sequence[str] | None) -> str:
    """One row a merchant, from one row a day, from one look at each payment of the window."""
    monday, last = monday_of(today), today - 1
    weeks = ", ".join(
        f"{_sum('idr', f'day >= {begins} AND day < {begins + 7}')} AS week{n}"
        for n, begins in enumerate(range(monday - 7 * WEEKS, monday, 7))
    )
    near = f"day > {last - WITHIN_DAYS}"
    newest = f"{near} AND place <= {NEWEST_ROWS}"
    before = f"{near} AND place > {NEWEST_ROWS} AND place <= {NEWEST_ROWS + ROWS_BEFORE}"
    middle, began = today - WINDOW_DAYS + WINDOW_DAYS // 2, last - NEWEST_ROWS
    return f"""
WITH days AS (
  SELECT p.merchant_id, {_DAY} AS day, count(*) AS n, {_sum("p.paid_amount")} AS idr,
         {_sum("CASE WHEN p.state = 'reversed' THEN p.paid_amount ELSE p.refunded_amount END")} AS back
  FROM payment p
  WHERE p.paid_at_ms >= $1 AND p.paid_at_ms < $2 AND p.paid_amount >= $3
        AND p.method NOT IN ('{CASH}', '{WALLET}') AND p.credit_account IS NULL
        {_of(tx, "p.merchant_id", merchant_ids, 4)}
  GROUP BY 1, 2
), placed AS (
  SELECT days.*, row_number() OVER (PARTITION BY merchant_id ORDER BY day DESC) AS place FROM days
)
SELECT merchant_id, min(day) AS first_day, {_sum("n")} AS payments, {_sum("idr")} AS paid, {_sum("back")} AS back,
       {weeks},
       {_sum("idr", f"day >= {today - PERIOD_DAYS}")} AS last,
       {_sum("idr", f"day >= {today - 2 * PERIOD_DAYS} AND day < {today - PERIOD_DAYS}")} AS before,
       count(*) FILTER (WHERE {newest}) AS newest_rows, {_sum("idr", newest)} AS newest,
       count(*) FILTER (WHERE {before}) AS rows_before, {_sum("idr", before)} AS rows_before_idr,
       {_sum("n", f"day > {began}")} AS last_payments,
       {_sum("n", f"day > {began - ROWS_BEFORE} AND day <= {began}")} AS payments_before,
       {_sum("idr", f"day < {middle}")} AS first_paid, {_sum("back", f"day < {middle}")} AS first_back
FROM placed GROUP BY merchant_id
"""


async def _settled(
    tx: Statements, first: int, today: int, *, as_of_ms: int, merchant_ids: Sequence[str] | None
) -> Mapping[str, Row]:
    """How long payouts took, of the payments of the window that were paid out by then."""
    rows = await tx.fetch(
        f"SELECT s.merchant_id, count(*) AS n, {_sum('s.changed_at_ms - i.at_ms')} AS took, "
        "max(s.changed_at_ms - i.at_ms) AS longest "
        "FROM settlement s JOIN settlement_item i ON i.settlement_id = s.id "
        "WHERE s.state = 'paid' AND s.changed_at_ms <= $4 AND i.kind = 'payment' AND i.at_ms >= $1 AND i.at_ms < $2 "
        f"AND i.gross_amount >= $3 {_of(tx, 's.merchant_id', merchant_ids, 5)} GROUP BY s.merchant_id",
        _begin_ms(first), _begin_ms(today), SMALLEST_IDR, as_of_ms, *_listed(merchant_ids),
    )  # fmt: skip
    return {row["merchant_id"]: row for row in rows}


async def _cash(
    tx: Statements, first: int, today: int, *, merchant_ids: Sequence[str] | None
) -> Mapping[str, tuple[int, int]]:
    rows = await tx.fetch(
        f"SELECT r.merchant_id, {_sum('r.payments')} AS n, {_sum('r.gross_amount')} AS idr FROM daily_revenue r "
        f"WHERE r.day >= $1 AND r.day < $2 AND r.provider = '{CASH}' {_of(tx, 'r.merchant_id', merchant_ids, 3)} "
        "GROUP BY r.merchant_id",
        jakarta_day(_begin_ms(first)), jakarta_day(_begin_ms(today)), *_listed(merchant_ids),
    )  # fmt: skip
    return {row["merchant_id"]: (row["n"], row["idr"]) for row in rows if row["n"]}


def _soundbox(paid: Row | None, settled: Row | None, cash: tuple[int, int], today: int) -> soundbox_v2.Facts:
    if paid is None:
        return soundbox_v2.Facts(cash_payments=cash[0], cash_idr=cash[1])
    n, took, longest = (0, 0, 0) if settled is None else (settled["n"], settled["took"], settled["longest"])
    first_half = (paid["first_paid"], paid["first_back"])
    return soundbox_v2.Facts(
        history_days=today - paid["first_day"],
        payments=paid["payments"],
        paid_idr=paid["paid"],
        refunded_idr=paid["back"],
        weeks_idr=tuple(paid[f"week{week}"] for week in range(WEEKS)),
        last_idr=paid["last"],
        before_idr=paid["before"],
        settled=n,
        settled_ms=took,
        cash_payments=cash[0],
        cash_idr=cash[1],
        signs=Signs(
            newest_rows=paid["newest_rows"],
            newest_idr=paid["newest"],
            rows_before=paid["rows_before"],
            before_idr=paid["rows_before_idr"],
            last_payments=paid["last_payments"],
            payments_before=paid["payments_before"],
            window_payments=paid["payments"],
            first_half=first_half,
            second_half=(paid["paid"] - first_half[0], paid["back"] - first_half[1]),
            settled=n,
            settled_ms=took,
            settled_longest_ms=longest,
        ),
    )


async def paybaba_facts(
    tx: Statements, *, as_of_ms: int, merchant_ids: Sequence[str] | None = None
) -> dict[str, paybaba_v1.Facts]:
    """By merchant, the facts of `paybaba-v1` of everybody who asked for a payment within its window, in Jakarta."""
    as_of = datetime.fromtimestamp(as_of_ms / 1000, _JAKARTA)
    start = months_before(as_of, 3)
    start_ms = _ms(start)
    month = as_of.date().replace(day=1)
    month_before = (month - timedelta(days=1)).replace(day=1)
    rows = await tx.fetch(
        _paybaba_sql(tx, number(as_of.date()), merchant_ids), start_ms, as_of_ms, (start_ms + as_of_ms) // 2,
        _begin_ms(number(month)), _begin_ms(number(month_before)), *_listed(merchant_ids),
    )  # fmt: skip
    settled = await _paybaba_settled(tx, start_ms, as_of_ms, merchant_ids=merchant_ids)
    days = await _daily(tx, start.date(), as_of.date(), merchant_ids=merchant_ids)
    return {
        row["merchant_id"]: _paybaba(
            row, settled.get(row["merchant_id"]), days.get(row["merchant_id"], {}), number(as_of.date())
        )
        for row in rows
    }


# What reference 000's words are for our states: `facades/paybaba.py` says why.
_SUCCESS = "p.state IN ('paid', 'partially_refunded', 'disputed')"
_REFUNDED = "p.state IN ('refunded', 'reversed')"


def _paybaba_sql(tx: Statements, today: int, merchant_ids: Sequence[str] | None) -> str:
    at, early, late = "p.created_at_ms", "p.created_at_ms < $3", "p.created_at_ms >= $3"
    began = _begin_ms(today - NEWEST_ROWS + 1)
    return f"""
SELECT p.merchant_id, count(*) AS n, count(*) FILTER (WHERE {_SUCCESS}) AS successful,
       count(*) FILTER (WHERE {_REFUNDED}) AS refunded, {_sum("p.amount", _SUCCESS)} AS revenue,
       {_sum("p.amount", f"{_SUCCESS} AND {at} >= $4")} AS month,
       {_sum("p.amount", f"{_SUCCESS} AND {at} >= $5 AND {at} < $4")} AS month_before,
       count(*) FILTER (WHERE {_SUCCESS} AND {early}) AS first_successful,
       count(*) FILTER (WHERE {_REFUNDED} AND {early}) AS first_refunded,
       count(*) FILTER (WHERE {_SUCCESS} AND {late}) AS then_successful,
       count(*) FILTER (WHERE {_REFUNDED} AND {late}) AS then_refunded,
       count(*) FILTER (WHERE {at} >= {began}) AS last_payments,
       count(*) FILTER (WHERE {at} >= {began - ROWS_BEFORE * DAY_MS} AND {at} < {began}) AS payments_before
FROM payment p WHERE {at} >= $1 AND {at} <= $2 {_of(tx, "p.merchant_id", merchant_ids, 6)}
GROUP BY p.merchant_id
"""


async def _paybaba_settled(
    tx: Statements, start_ms: int, as_of_ms: int, *, merchant_ids: Sequence[str] | None
) -> Mapping[str, Row]:
    """As the reference has it: from the asking to the payout. Cash is settled the moment it is paid."""
    inside = "p.created_at_ms >= $1 AND p.created_at_ms <= $2"
    whose = _of(tx, "p.merchant_id", merchant_ids, 3)
    rows = await tx.fetch(
        f"SELECT merchant_id, count(*) AS n, {_sum('took')} AS took, max(took) AS longest FROM ("
        "SELECT p.merchant_id, s.changed_at_ms - p.created_at_ms AS took FROM payment p "
        "JOIN settlement_item i ON i.payment_id = p.id AND i.kind = 'payment' "
        "JOIN settlement s ON s.id = i.settlement_id AND s.state = 'paid' AND s.changed_at_ms <= $2 "
        f"WHERE {inside} {whose} UNION ALL "
        "SELECT p.merchant_id, p.paid_at_ms - p.created_at_ms FROM payment p "
        f"WHERE {inside} AND p.method = '{CASH}' AND p.paid_at_ms <= $2 {whose}) t GROUP BY merchant_id",
        start_ms, as_of_ms, *_listed(merchant_ids),
    )  # fmt: skip
    return {row["merchant_id"]: row for row in rows}


async def _daily(
    tx: Statements, first: date, last: date, *, merchant_ids: Sequence[str] | None
) -> Mapping[str, Mapping[int, int]]:
    """Revenue by merchant and number of the day, as it was kept day by day."""
    rows = await tx.fetch(
        f"SELECT r.merchant_id, r.day, {_sum('r.gross_amount')} AS idr FROM daily_revenue r "
        f"WHERE r.day >= $1 AND r.day <= $2 {_of(tx, 'r.merchant_id', merchant_ids, 3)} GROUP BY r.merchant_id, r.day",
        first.isoformat(), last.isoformat(), *_listed(merchant_ids),
    )  # fmt: skip
    days: dict[str, dict[int, int]] = {}
    for row in rows:
        days.setdefault(row["merchant_id"], {})[number(date.fromisoformat(row["day"]))] = row["idr"]
    return days


def _paybaba(row: Row, settled: Row | None, days: Mapping[int, int], today: int) -> paybaba_v1.Facts:
    n, took, longest = (0, 0, 0) if settled is None else (settled["n"], settled["took"], settled["longest"])
    return paybaba_v1.Facts(
        transactions=row["n"],
        successful=row["successful"],
        refunded=row["refunded"],
        revenue_idr=row["revenue"],
        daily_idr=tuple(_in_order(days)),
        month_idr=row["month"],
        month_before_idr=row["month_before"],
        settled=n,
        settled_ms=took,
        signs=Signs(
            **revenue_signs(days, last_day=today),
            last_payments=row["last_payments"],
            payments_before=row["payments_before"],
            window_payments=row["n"],
            first_half=(row["first_successful"], row["first_refunded"]),
            second_half=(row["then_successful"], row["then_refunded"]),
            settled=n,
            settled_ms=took,
            settled_longest_ms=longest,
        ),
    )


def _in_order(days: Mapping[int, int]) -> Iterable[int]:
    return (days[day] for day in sorted(days))


def _begin_ms(day: int) -> int:
    """The moment at which the day of that number begins in Jakarta."""
    return day * DAY_MS - JAKARTA_AHEAD_MS


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
