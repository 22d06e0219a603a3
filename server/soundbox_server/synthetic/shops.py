"""Shops that never were, and what they sold: believable trade from a seed, the same whenever and wherever it is made.

A day's payments follow the shop's size, the days of the week, payday, the fasting month, its growth, and chance; from
some day on a shop may fall, or make believe. Days are numbers since 1970, in Jakarta.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate

import msgspec

from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS

_EPOCH = date(1970, 1, 1)
_MONDAY = 4  # 1970-01-05 was one
_MINUTE_MS = 60_000
# The fasting month begins about this day, and a lunar year later again.
_FASTING, _LUNAR_YEAR, _FASTING_DAYS = 20_502, 354.367, 30
_EVEN_WEEK = (1.0,) * 7
_HOURS = tuple(accumulate((0, 0, 0, 0, 0, 0, 1, 3, 4, 4, 5, 7, 9, 7, 5, 5, 6, 8, 9, 7, 4, 2, 0, 0)))
_QUANTITIES, _LINES = (1, 1, 1, 2, 2, 3), (1, 1, 2)


@dataclass(frozen=True)
class Product:
    """`weight` is how often it is bought, against the others."""

    name: str
    price_idr: int
    weight: int


@dataclass(frozen=True, kw_only=True)
class Fall:
    """From `day` on the shop loses half of its customers in each `half_life_days`, gives back more of what it takes,
    and has trouble with its account. `default_day` is when it no longer pays what it owes."""

    day: int
    half_life_days: float
    default_day: int
    refunds: float = 4.0  # times as many
    late_payouts: float = 0.1


@dataclass(frozen=True, kw_only=True)
class MakeBelieve:
    """From `day` on: sales of one rupiah to itself, and cash that nobody saw, so many of each a day."""

    day: int
    one_rupiah: int
    cash: int


@dataclass(frozen=True, kw_only=True)
class Character:
    """How a shop trades. Shares are 0 to 1. `chance` is how far one day differs from the next (the σ of a logarithm),
    `season` how far a year's best day lies above its mean, `best_day` of the year."""

    payments_a_day: float
    menu: Sequence[Product]
    week: Sequence[float] = _EVEN_WEEK  # Monday first
    growth_a_month: float = 0.0
    chance: float = 0.15
    payday: float = 1.15
    fasting: float = 1.1
    season: float = 0.0
    best_day: int = 180
    cash_share: float = 0.2
    refund_share: float = 0.01
    unpaid_share: float = 0.03
    late_payouts: float = 0.0  # the share of its payouts that its bank refuses at first
    fall: Fall | None = None
    make_believe: MakeBelieve | None = None


class Line(msgspec.Struct, frozen=True):
    product: Product
    quantity: int


class Sale(msgspec.Struct, frozen=True, kw_only=True):
    """One that was asked for at `at_ms` and paid some seconds later, or never. What went back did so the same day."""

    at_ms: int
    paid_at_ms: int | None
    amount: int
    is_cash: bool = False
    refunded_idr: int = 0
    lines: tuple[Line, ...] = ()


def trade(character: Character, *, seed: str, first_day: int, days: int) -> Iterator[Sale]:
    """What the shop sold on these days, in order of time. Each day has chances of its own: longer trade begins with the
    same days."""
    for day in range(first_day, first_day + days):
        chances = random.Random(f"{seed}/{day}")  # noqa: S311 - it has to come out the same again
        sales = [*_real(character, day, first_day, chances), *_made_up(character, day, chances)]
        yield from sorted(sales, key=lambda sale: sale.at_ms)


def expected(character: Character, day: int, *, first_day: int) -> float:
    """How many payments that day brings, but for chance."""
    calendar_day = _EPOCH + timedelta(days=day)
    found: float = character.payments_a_day * (1 + character.growth_a_month) ** ((day - first_day) / 30)
    found *= character.week[(day - _MONDAY) % 7]
    if calendar_day.day >= 25 or calendar_day.day <= 3:
        found *= character.payday
    if (day - _FASTING) % _LUNAR_YEAR < _FASTING_DAYS:
        found *= character.fasting
    if character.season:
        found *= 1 + character.season * math.cos(math.tau * (day - character.best_day) / 365.25)
    if character.fall is not None and day >= character.fall.day:
        found *= 0.5 ** ((day - character.fall.day) / character.fall.half_life_days)
    return found


def late_payouts(character: Character, day: int) -> float:
    """The share of that day's payouts that the bank refuses at first."""
    if character.fall is not None and day >= character.fall.day:
        return character.fall.late_payouts
    return character.late_payouts


def _real(character: Character, day: int, first_day: int, chances: random.Random) -> Iterator[Sale]:
    mean = expected(character, day, first_day=first_day) * chances.lognormvariate(0, character.chance)
    bought = list(accumulate(product.weight for product in character.menu))
    falls = character.fall is not None and day >= character.fall.day
    refunds = character.refund_share * (character.fall.refunds if falls and character.fall else 1)
    for _ in range(_count(mean, chances)):
        lines = tuple(
            Line(product, _one_of(_QUANTITIES, chances))
            for product in chances.choices(character.menu, cum_weights=bought, k=_one_of(_LINES, chances))
        )
        yield _sale(character, _moment(day, chances), lines, refunds, chances)


def _sale(character: Character, at_ms: int, lines: tuple[Line, ...], refunds: float, chances: random.Random) -> Sale:
    amount = sum(line.product.price_idr * line.quantity for line in lines)
    if chances.random() < character.cash_share:
        return Sale(at_ms=at_ms, paid_at_ms=at_ms, amount=amount, is_cash=True, lines=lines)
    if chances.random() < character.unpaid_share:
        return Sale(at_ms=at_ms, paid_at_ms=None, amount=amount, lines=lines)
    back = 0
    if chances.random() < refunds:
        first = lines[0].product.price_idr * lines[0].quantity
        back = amount if chances.random() < 0.6 else first
    paid_at_ms = at_ms + 4_000 + int(51_000 * chances.random())
    return Sale(at_ms=at_ms, paid_at_ms=paid_at_ms, amount=amount, refunded_idr=back, lines=lines)


def _made_up(character: Character, day: int, chances: random.Random) -> Iterator[Sale]:
    false = character.make_believe
    if false is None or day < false.day:
        return
    for _ in range(false.one_rupiah):
        at_ms = _moment(day, chances)
        yield Sale(at_ms=at_ms, paid_at_ms=at_ms + 5_000, amount=1)
    best = max(product.price_idr for product in character.menu)
    for _ in range(false.cash):
        at_ms = _moment(day, chances)
        yield Sale(at_ms=at_ms, paid_at_ms=at_ms, amount=2 * best, is_cash=True)


def _moment(day: int, chances: random.Random) -> int:
    """Some time of that day, when shops have customers."""
    hour = bisect_right(_HOURS, chances.random() * _HOURS[-1])
    return day * DAY_MS - JAKARTA_AHEAD_MS + hour * 60 * _MINUTE_MS + int(58 * _MINUTE_MS * chances.random())


def _one_of(values: Sequence[int], chances: random.Random) -> int:
    return values[int(len(values) * chances.random())]


def _count(mean: float, chances: random.Random) -> int:
    """Customers who come by themselves: as many as a Poisson distribution of this mean gives."""
    if mean > 40:
        return max(0, round(chances.gauss(mean, math.sqrt(mean))))
    bound, count, product = math.exp(-mean), 0, chances.random()
    while product > bound:
        count, product = count + 1, product * chances.random()
    return count
