"""What the model is told: numbers and categories of these shapes, and nothing else.

No name, no free text, no identifier has a place here. Products are P1 to P5; their names stay in the database.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from soundbox_server.advice.state import Use
from soundbox_server.scoring.early_warning import NEWEST_ROWS, ROWS_BEFORE
from soundbox_server.scoring.models import EarlyWarning
from soundbox_server.scoring.points import WEIGHTS, Score
from soundbox_server.scoring.products import PERIOD_DAYS, STOCK_DAYS, WINDOW_DAYS, Insights, Sold, insights
from soundbox_server.scoring.seasons import FEWEST_MONTHS, Timing
from soundbox_server.scoring.state import Component, Model, RiskBand, WarningSeverity, WarningType

PROMPT_VERSION = 1
MONTHS_LOOKED_AT = 3
_UNITS = {
    WarningType.REVENUE_DROP: "percent",
    WarningType.REFUND_SPIKE: "percentage points",
    WarningType.SETTLEMENT_DELAY: "days",
    WarningType.TRANSACTION_DROP: "percent",
    WarningType.SCORE_DROP: "points",
}


@dataclass(frozen=True, kw_only=True)
class ScoreFacts:
    """A score and its components; `points` are of 100 each, and `weights` in %."""

    model: Model
    score: int
    out_of: int
    risk_band: RiskBand
    months: int
    points: Mapping[Component, int]
    weights: Mapping[Component, int]
    strongest: Component
    weakest: Component
    transactions: int
    revenue_variation_percent: float
    revenue_growth_percent: float
    refund_percent: float
    settlement_days: float


@dataclass(frozen=True, kw_only=True)
class WarningFacts:
    """A warning that stands: the last days against those before them."""

    warning: WarningType
    severity: WarningSeverity
    unit: str
    value: float
    threshold: float
    beyond_threshold_percent: float
    last_days: int
    days_before: int


@dataclass(frozen=True, kw_only=True)
class TimingFacts:
    """The week of the month in which most is earned, or None where no week stands out."""

    whole_months: int
    weeks: int
    best_week: int | None
    above_mean_percent: float
    confidence_percent: int


@dataclass(frozen=True, kw_only=True)
class ProductFacts:
    product: str  # P1 to P5
    pieces: int
    last: int
    before: int
    growth_percent: float | None
    grows: bool
    stock_pieces: int


@dataclass(frozen=True, kw_only=True)
class SalesFacts:
    """What sold best, up to yesterday; `last` and `before` are of so many days each."""

    pieces: int
    window_days: int
    months: int
    period_days: int
    period_weeks: int
    stock_days: int
    stock_weeks: int
    products: Sequence[ProductFacts]


Facts = ScoreFacts | WarningFacts | TimingFacts | SalesFacts
USES: Mapping[type[Facts], Use] = {
    ScoreFacts: Use.SCORE, WarningFacts: Use.WARNING, TimingFacts: Use.TIMING, SalesFacts: Use.PRODUCTS
}  # fmt: skip


def of_score(given: Score) -> ScoreFacts | None:
    """None without a score: there is nothing to explain."""
    if given.score is None or given.risk_band is None or given.components is None:
        return None
    points, metrics = dict(given.components), given.metrics
    return ScoreFacts(
        model=given.model,
        score=given.score,
        out_of=100,
        risk_band=given.risk_band,
        months=MONTHS_LOOKED_AT,
        points=points,
        weights=WEIGHTS,
        strongest=max(points, key=lambda name: points[name]),
        weakest=min(points, key=lambda name: points[name]),
        transactions=int(metrics["transactionCount3m"]),
        revenue_variation_percent=float(metrics["revenueVolatility"]),
        revenue_growth_percent=float(metrics["growthPercentageMoM"]),
        refund_percent=float(metrics["refundRatePercentage"]),
        settlement_days=float(metrics["avgSettlementDays"]),
    )


def of_warning(standing: EarlyWarning) -> WarningFacts:
    kind = WarningType(standing.type)
    return WarningFacts(
        warning=kind,
        severity=WarningSeverity(standing.severity),
        unit=_UNITS[kind],
        value=standing.value_hundredths / 100,
        threshold=standing.threshold_hundredths / 100,
        beyond_threshold_percent=standing.deviation_hundredths / 100,
        last_days=NEWEST_ROWS,
        days_before=ROWS_BEFORE,
    )


def of_timing(timing: Timing) -> TimingFacts | None:
    """None without enough history."""
    if timing.months < FEWEST_MONTHS:
        return None
    return TimingFacts(
        whole_months=timing.months,
        weeks=4,
        best_week=timing.week,
        above_mean_percent=timing.above_percent,
        confidence_percent=round(100 * timing.confidence),
    )


def of_sales(sold: Sequence[Sold]) -> tuple[SalesFacts | None, list[str]]:
    """None without enough history; and the names that P1, P2 … stand for.

    Up to yesterday, and whole days only: what is written in the morning still holds in the evening.
    """
    whole = [replace(one, days_ago=one.days_ago - 1) for one in sold if 1 <= one.days_ago < WINDOW_DAYS]
    found = insights(whole)
    if not found.products:
        return None, []
    return _sales(found), [one.name for one in found.products]


def _sales(found: Insights) -> SalesFacts:
    return SalesFacts(
        pieces=found.pieces,
        window_days=WINDOW_DAYS,
        months=MONTHS_LOOKED_AT,
        period_days=PERIOD_DAYS,
        period_weeks=PERIOD_DAYS // 7,
        stock_days=STOCK_DAYS,
        stock_weeks=STOCK_DAYS // 7,
        products=[
            ProductFacts(
                product=f"P{number}",
                pieces=one.pieces,
                last=one.last,
                before=one.before,
                growth_percent=one.growth_percent,
                grows=one.grows,
                stock_pieces=one.stock,
            )
            for number, one in enumerate(found.products, start=1)
        ],
    )


def spelled(facts: Facts) -> str:
    """As JSON, always the same for the same figures."""
    return orjson.dumps(facts, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()


def digest(facts: Facts) -> str:
    """By which a text is found again: of the same use, prompt and figures."""
    return hashlib.sha256(f"{USES[type(facts)]} {PROMPT_VERSION} {spelled(facts)}".encode()).hexdigest()


def numbers(facts: Facts) -> set[float]:
    """Every number there is in the input."""
    return set(_numbers(asdict(facts)))


def _numbers(part: Any) -> Iterator[float]:
    if isinstance(part, dict):
        for inner in part.values():
            yield from _numbers(inner)
    elif isinstance(part, list | tuple):
        for inner in part:
            yield from _numbers(inner)
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield part


_BY_COMPONENT = ("points", "weights")


def from_input(use: Use, told: Mapping[str, Any]) -> Facts:
    """The facts that were stored with a wish."""
    if use is Use.PRODUCTS:
        return SalesFacts(**{**told, "products": [ProductFacts(**one) for one in told["products"]]})
    if use is Use.SCORE:
        by_component = {name: {Component(key): value for key, value in told[name].items()} for name in _BY_COMPONENT}
        return ScoreFacts(**{**told, **by_component})
    return WarningFacts(**told) if use is Use.WARNING else TimingFacts(**told)
