"""`soundbox-v2`: the default model. Only money that a provider confirmed counts, and only periods that are alike are
compared; below a minimum of history there is no score.

Left out as if they had never been: cash, which anybody may claim, and payments below SMALLEST_IDR, which cost a
merchant nothing to make to itself. Days are Jakarta's. Pure: the same facts are the same score.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction

from soundbox_server.scoring.early_warning import NO_SIGNS, Signs
from soundbox_server.scoring.points import (
    Score,
    band,
    change_percent,
    half_up,
    limits,
    mean_days,
    percent,
    refund_points,
    settlement_points,
    shown,
    steadiness,
    volatility,
    weighted,
    within,
)
from soundbox_server.scoring.state import Component, Model

VERSION = 1
WINDOW_DAYS = 90
WEEKS = 12
PERIOD_DAYS = 28  # of growth: whole weeks, so that weekends weigh the same in both
FEWEST_DAYS, FEWEST_PAYMENTS = 30, 20
SMALLEST_IDR = 1_000
_MONTHS = WINDOW_DAYS // 30


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the model looks at, summed up over the 90 full days before the scoring day; amounts in whole rupiah.

    `history_days` is how many days before the scoring day the first payment of the window was. `weeks_idr` are the last
    twelve whole weeks from Monday to Sunday, oldest first, silent ones as zero. `cash_idr` is shown and never counted.
    """

    history_days: int = 0
    payments: int = 0
    paid_idr: int = 0
    refunded_idr: int = 0
    weeks_idr: tuple[int, ...] = (0,) * WEEKS
    last_idr: int = 0
    before_idr: int = 0
    settled: int = 0
    settled_ms: int = 0
    cash_payments: int = 0
    cash_idr: int = 0
    signs: Signs = NO_SIGNS


def score(facts: Facts) -> Score:
    """A score from 0 to 100, or none with what is missing for one."""
    if facts.history_days < FEWEST_DAYS or facts.payments < FEWEST_PAYMENTS:
        missing = {
            "history_days": (facts.history_days, FEWEST_DAYS), "payments": (facts.payments, FEWEST_PAYMENTS),
        }  # fmt: skip
        return Score(
            model=Model.SOUNDBOX_V2, score=None, risk_band=None, limits=None, components=None,
            metrics=_metrics(facts), missing=missing,
        )  # fmt: skip
    components = {
        Component.VOLUME: bisect_right(_FEWEST_FOR, facts.payments) - 1,
        Component.CONSISTENCY: steadiness(facts.weeks_idr),
        Component.GROWTH: half_up(50 + within(-50, _growth(facts), 50)),
        Component.REFUNDS: refund_points(percent(facts.refunded_idr, facts.paid_idr)),
        Component.SETTLEMENT: settlement_points(mean_days(facts.settled, facts.settled_ms)),
    }
    total = weighted(components)
    return Score(
        model=Model.SOUNDBOX_V2,
        score=total,
        risk_band=band(total),
        limits=limits(Fraction(facts.paid_idr, _MONTHS), band(total)),
        components=components,
        metrics=_metrics(facts),
    )


def _growth(facts: Facts) -> int | Fraction:
    return change_percent(facts.last_idr, facts.before_idr)


def _metrics(facts: Facts) -> Mapping[str, float | int]:
    return {
        "avgMonthlyRevenue": half_up(Fraction(facts.paid_idr, _MONTHS)),
        "revenueVolatility": volatility(facts.weeks_idr),
        "growthPercentageMoM": shown(_growth(facts)),
        "refundRatePercentage": shown(percent(facts.refunded_idr, facts.paid_idr)),
        "avgSettlementDays": shown(mean_days(facts.settled, facts.settled_ms)),
        "transactionCount3m": facts.payments,
        "historyDays": facts.history_days,
        "cashTransactionCount3m": facts.cash_payments,
        "cashAmount3m": facts.cash_idr,
    }


def _fewest_for() -> tuple[int, ...]:
    """For each number of points, the fewest payments in the window that bring it.

    The points are 100·ln(1 + m) / ln(1001), rounded half-up, for m payments per 30 days. Turned round and computed
    once with fifty digits, no logarithm of some machine decides about a half.
    """
    context = Context(prec=50)
    log_most = context.ln(Decimal(1001))
    fewest = [0]
    for points in range(1, 101):
        per_month = context.exp(log_most * (points - Decimal("0.5")) / 100) - 1
        fewest.append(int((per_month * _MONTHS).to_integral_value(ROUND_CEILING)))
    return tuple(fewest)


_FEWEST_FOR = _fewest_for()
