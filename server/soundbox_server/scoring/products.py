"""What sells: the five products most sold in three months, how they grow, and what to have in stock.

Growth is the last 28 days against the 28 before, in pieces. Fewer than twenty pieces tell nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soundbox_server.scoring.points import change_percent, shown

WINDOW_DAYS, PERIOD_DAYS, STOCK_DAYS = 90, 28, 14
MOST_SHOWN, FEWEST_PIECES, SURE_PIECES = 5, 20, 200
GROWING_PERCENT = 20


@dataclass(frozen=True, kw_only=True)
class Sold:
    """Pieces of one product, so many days before today."""

    name: str
    pieces: int
    days_ago: int


@dataclass(frozen=True, kw_only=True)
class Product:
    """`growth_percent` is None for what was not sold before. `stock` is what 14 days at the last 28 days' pace take."""

    name: str
    pieces: int
    last: int
    before: int
    growth_percent: float | None
    stock: int

    @property
    def grows(self) -> bool:
        return self.last > 0 and (self.growth_percent is None or self.growth_percent >= GROWING_PERCENT)


@dataclass(frozen=True, kw_only=True)
class Insights:
    """`confidence` is 0 to 1: the more pieces it rests on, the surer. Without enough there are no products."""

    pieces: int
    products: Sequence[Product]
    confidence: float


def insights(sold: Iterable[Sold]) -> Insights:
    window = [one for one in sold if 0 <= one.days_ago < WINDOW_DAYS]
    total: Counter[str] = Counter()
    last: Counter[str] = Counter()
    before: Counter[str] = Counter()
    for one in window:
        total[one.name] += one.pieces
        if one.days_ago < PERIOD_DAYS:
            last[one.name] += one.pieces
        elif one.days_ago < 2 * PERIOD_DAYS:
            before[one.name] += one.pieces
    pieces = total.total()
    if pieces < FEWEST_PIECES:
        return Insights(pieces=pieces, products=(), confidence=0.0)
    best = sorted(total, key=lambda name: (-total[name], name))[:MOST_SHOWN]
    return Insights(
        pieces=pieces,
        products=[_product(name, total[name], last[name], before[name]) for name in best],
        confidence=round(min(1.0, pieces / SURE_PIECES), 2),
    )


def _product(name: str, pieces: int, last: int, before: int) -> Product:
    growth = shown(change_percent(last, before)) if before else None
    return Product(
        name=name, pieces=pieces, last=last, before=before, growth_percent=growth,
        stock=-(-last * STOCK_DAYS // PERIOD_DAYS),
    )  # fmt: skip
