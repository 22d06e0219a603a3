"""`paybaba-v1`: reference 000's own arithmetic, its faults included, so that its scores can be compared with.

Three calendar months back; every transaction counts whatever became of it; a month that has just begun is held against
a whole one. Pure: the same facts are the same score, wherever and whenever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the model looks at, summed up over its window; amounts in whole rupiah.

    `daily_idr` is the revenue of each day that has a row, `month_idr` that of the month so far, `month_before_idr` that
    of the whole month before it.
    """

    transactions: int = 0
    successful: int = 0
    refunded: int = 0
    revenue_idr: int = 0
    daily_idr: tuple[int, ...] = ()
    month_idr: int = 0
    month_before_idr: int = 0
    settled: int = 0
    settled_ms: int = 0
    signs: Signs = NO_SIGNS


def score(facts: Facts) -> Score:
    """No transactions, no score."""
    if facts.transactions == 0:
        return Score(
            model=Model.PAYBABA_V1, score=None, risk_band=None, limits=None, components=None,
            metrics=_metrics(facts), missing={"transactions": (0, 1)},
        )  # fmt: skip
    components = {
        Component.VOLUME: min(100, facts.transactions),
        Component.CONSISTENCY: _consistency(facts),
        Component.GROWTH: half_up(within(0, 50 + Fraction(5, 2) * _growth(facts), 100)),
        Component.REFUNDS: refund_points(percent(facts.refunded, facts.successful)),
        Component.SETTLEMENT: settlement_points(mean_days(facts.settled, facts.settled_ms)),
    }
    total = weighted(components)
    return Score(
        model=Model.PAYBABA_V1,
        score=total,
        risk_band=band(total),
        limits=limits(Fraction(facts.revenue_idr, 3), band(total)),
        components=components,
        metrics=_metrics(facts),
    )


def _consistency(facts: Facts) -> int:
    # Fewer than two days, or days without revenue, vary by nothing: so the reference has it.
    if len(facts.daily_idr) < 2 or sum(facts.daily_idr) == 0:
        return 100
    return steadiness(facts.daily_idr)


def _growth(facts: Facts) -> int | Fraction:
    return change_percent(facts.month_idr, facts.month_before_idr)


def _metrics(facts: Facts) -> Mapping[str, float | int]:
    return {
        "avgMonthlyRevenue": half_up(Fraction(facts.revenue_idr, 3)),
        "revenueVolatility": volatility(facts.daily_idr) if len(facts.daily_idr) > 1 else 0.0,
        "growthPercentageMoM": shown(_growth(facts)),
        "refundRatePercentage": shown(percent(facts.refunded, facts.successful)),
        "avgSettlementDays": shown(mean_days(facts.settled, facts.settled_ms)),
        "transactionCount3m": facts.transactions,
    }
