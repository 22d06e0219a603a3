"""Signs that a merchant's trade goes wrong, before it has: measured from sums, judged by thresholds.

A pure function of what was summed up. Every comparison is strict: a fall of exactly 30 % is no warning yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from soundbox_server.clock import DAY_MS
from soundbox_server.scoring.points import Number, mean_days, percent, shown
from soundbox_server.scoring.state import WarningSeverity, WarningType

NEWEST_ROWS, ROWS_BEFORE, WITHIN_DAYS = 10, 20, 30
FEWEST_PAYMENTS = 50  # in the window, before a share of refunds says anything
FEWEST_SETTLED = 10

T = WarningType
# Above the first it is Medium, above the second Critical. A delay's second step looks at the longest of all.
STEPS: dict[WarningType, tuple[int, int]] = {
    T.REVENUE_DROP: (40, 50),
    T.REFUND_SPIKE: (10, 15),
    T.SETTLEMENT_DELAY: (5, 7),
    T.TRANSACTION_DROP: (40, 50),
    T.SCORE_DROP: (20, 30),
}
METRICS = {
    T.REVENUE_DROP: "revenue_drop_percent",
    T.REFUND_SPIKE: "refund_rate_rise_points",
    T.SETTLEMENT_DELAY: "average_settlement_days",
    T.TRANSACTION_DROP: "transaction_drop_percent",
    T.SCORE_DROP: "score_drop_points",
}
DEFAULTS: dict[WarningType, Fraction] = {
    T.REVENUE_DROP: Fraction(30),
    T.REFUND_SPIKE: Fraction(5),
    T.SETTLEMENT_DELAY: Fraction(3),
    T.TRANSACTION_DROP: Fraction(25),
    T.SCORE_DROP: Fraction(15),
}
Thresholds = Mapping[WarningType, Fraction]


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Sums that warnings are measured from.

    Of the newest ten days with revenue and of up to twenty before them, within thirty days; of the last ten days and
    the twenty before, whether or not there was trade; of both halves of the scoring window, in amounts or in
    transactions, as the model counts refunds; and of what was settled, from payment to payout.
    """

    newest_rows: int = 0
    newest_idr: int = 0
    rows_before: int = 0
    before_idr: int = 0
    last_payments: int = 0
    payments_before: int = 0
    window_payments: int = 0
    first_half: tuple[int, int] = (0, 0)  # taken, and of that given back
    second_half: tuple[int, int] = (0, 0)
    settled: int = 0
    settled_ms: int = 0
    settled_longest_ms: int = 0


NO_SIGNS = Signs()


@dataclass(frozen=True, kw_only=True)
class Warning:
    """`deviation` is by how much % the value lies beyond the threshold."""

    type: WarningType
    severity: WarningSeverity
    metric: str
    value: float
    threshold: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What there is to judge; a sign that cannot be told from so little is left out."""

    values: Mapping[WarningType, Number]
    longest_settlement_days: Number = field(default=0)


def measure(signs: Signs, *, scores: Sequence[int] = ()) -> Measures:
    """`scores` are oldest first, the one that counts last."""
    found: dict[WarningType, Number | None] = {
        T.REVENUE_DROP: _fall(
            signs.newest_idr, signs.newest_rows, signs.before_idr, signs.rows_before
        ) if signs.newest_rows + signs.rows_before >= NEWEST_ROWS else None,
        T.REFUND_SPIKE: _refund_rise(signs),
        T.SETTLEMENT_DELAY: (
            mean_days(signs.settled, signs.settled_ms) if signs.settled >= FEWEST_SETTLED else None
        ),
        T.TRANSACTION_DROP: _fall(signs.last_payments, NEWEST_ROWS, signs.payments_before, ROWS_BEFORE),
        T.SCORE_DROP: scores[-2] - scores[-1] if len(scores) > 1 else None,
    }  # fmt: skip
    return Measures(
        values={name: value for name, value in found.items() if value is not None},
        longest_settlement_days=Fraction(signs.settled_longest_ms, DAY_MS),
    )


def _fall(now: int, now_of: int, before: int, before_of: int) -> Number | None:
    """By how much % the mean fell; None where there is nothing to compare with."""
    if not now_of or not before_of or before <= 0:
        return None
    return 100 - Fraction(100 * now * before_of, now_of * before)


def _refund_rise(signs: Signs) -> Number | None:
    if signs.window_payments < FEWEST_PAYMENTS:
        return None
    (taken, back), (then_taken, then_back) = signs.first_half, signs.second_half
    return percent(then_back, then_taken) - percent(back, taken)


def judge(measures: Measures, thresholds: Thresholds = DEFAULTS) -> list[Warning]:
    """The warnings that these measures call for, in the order of their types."""
    return [
        _warning(name, measures.values[name], _threshold(name, thresholds), measures)
        for name in T
        if name in measures.values and measures.values[name] > _threshold(name, thresholds)
    ]


def _threshold(name: WarningType, thresholds: Thresholds) -> Fraction:
    return thresholds.get(name, DEFAULTS[name])


def _warning(name: WarningType, value: Number, threshold: Fraction, measures: Measures) -> Warning:
    medium, critical = STEPS[name]
    worst = measures.longest_settlement_days if name is T.SETTLEMENT_DELAY else value
    severity = WarningSeverity.MEDIUM if value > medium else WarningSeverity.LOW
    if worst > critical:
        severity = WarningSeverity.CRITICAL
    return Warning(
        type=name,
        severity=severity,
        metric=METRICS[name],
        value=shown(value),
        threshold=shown(threshold),
        deviation=shown(100 * (value - threshold) / threshold) if threshold else 0.0,
    )
