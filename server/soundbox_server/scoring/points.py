"""What both models share: exact arithmetic, weights, bands and limits.

Nothing here is a float until it is shown: a score is computed again years later, elsewhere, to the same number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

from soundbox_server.clock import DAY_MS
from soundbox_server.scoring.state import Component, Model, RiskBand

WEIGHTS: dict[Component, int] = {
    Component.VOLUME: 25,
    Component.CONSISTENCY: 25,
    Component.GROWTH: 20,
    Component.REFUNDS: 10,
    Component.SETTLEMENT: 20,
}
_FACTORS = {RiskBand.LOW: Fraction(3, 2), RiskBand.MEDIUM: Fraction(1), RiskBand.HIGH: Fraction(1, 2)}
_LEAST, _MOST = Fraction(4, 5), Fraction(6, 5)

Number = int | Fraction


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be lent, in whole rupiah."""

    min: int
    max: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model says of a merchant. Without a `score` there is none, and `missing` tells what it takes to get one:
    how much there is, and how much there has to be."""

    model: Model
    score: int | None
    risk_band: RiskBand | None
    limits: Limits | None
    components: Mapping[Component, int] | None
    metrics: Mapping[str, float | int]
    missing: Mapping[str, tuple[int, int]] | None = None


def half_up(value: Number) -> int:
    """To the next whole number; a half goes up, whatever the sign."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def within(least: int, value: Number, most: int) -> Number:
    return min(max(value, least), most)


def weighted(components: Mapping[Component, int]) -> int:
    return half_up(Fraction(sum(WEIGHTS[name] * points for name, points in components.items()), 100))


def band(score: int) -> RiskBand:
    if score >= 80:
        return RiskBand.LOW
    return RiskBand.MEDIUM if score >= 60 else RiskBand.HIGH


def limits(average_month: Number, risk_band: RiskBand) -> Limits:
    base = average_month * _FACTORS[risk_band]
    return Limits(min=half_up(base * _LEAST), max=half_up(base * _MOST))


def steadiness(amounts: Sequence[int]) -> int:
    """100 · (1 − σ / mean), σ of the population, not below 0 and rounded half-up: exactly, by whole numbers alone.

    With n amounts, sum s and sum of squares q it is 100 − 100·√(n·q − s²) / s. Nothing at all is not steady: 0.
    """
    total, spread = _spread(amounts)
    if total == 0:
        return 0
    return max(0, (201 * total - _ceil_sqrt(40_000 * spread)) // (2 * total))


def volatility(amounts: Sequence[int]) -> float:
    """σ / mean in %, at most 100, for showing."""
    total, spread = _spread(amounts)
    return min(100.0, round(100 * isqrt(spread * 10**12) / 10**6 / total, 2)) if total else 0.0


def _spread(amounts: Sequence[int]) -> tuple[int, int]:
    total = sum(amounts)
    return total, len(amounts) * sum(amount * amount for amount in amounts) - total * total


def _ceil_sqrt(value: int) -> int:
    return isqrt(value - 1) + 1 if value > 0 else 0


def settlement_points(days: Number) -> int:
    """By the mean of the days from payment to payout."""
    if days <= 1:
        return 100
    if days <= 3:
        return half_up(max(50, 100 - 15 * days))
    if days <= 7:
        return half_up(max(0, 50 - 10 * (days - 3)))
    return 0


def refund_points(percent: Number) -> int:
    return half_up(within(0, 100 - 20 * percent, 100))


def mean_days(count: int, total_ms: int) -> Number:
    return Fraction(total_ms, count * DAY_MS) if count else 0


def percent(part: int, whole: int) -> Number:
    return Fraction(100 * part, whole) if whole else 0


def change_percent(now: int, before: int) -> Number:
    """What has become of it, in %; 0 where there was nothing before."""
    return percent(now - before, before)


def shown(value: Number) -> float:
    """For people: two decimals."""
    return half_up(value * 100) / 100
