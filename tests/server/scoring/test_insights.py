"""Seasons and products: told from the figures, trusted as far as these go, and not at all from too few."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from soundbox_server.scoring import telling
from soundbox_server.scoring.facts import number
from soundbox_server.scoring.products import Sold, insights
from soundbox_server.scoring.seasons import best_week

TODAY = date(2026, 5, 23)


def trade(weeks: tuple[int, int, int, int], *, months: int = 4, growth: float = 1.0) -> dict[int, int]:
    """Revenue of each day by the week of its month, growing from month to month, up to yesterday."""
    day, revenue = date(2026, 5 - months, 1), {}
    while day < TODAY:
        week = min(3, (day.day - 1) // 7)
        revenue[number(day)] = round(weeks[week] * growth ** (day.month - 1))
        day += timedelta(days=1)
    return revenue


def test_the_week_that_earns_most_is_found_and_dated() -> None:
    timing = best_week(trade((100, 100, 100, 180)), today=TODAY)

    assert (timing.week, timing.months) == (4, 4)
    assert (timing.begins, timing.ends) == (date(2026, 5, 22), date(2026, 5, 31))
    assert timing.confidence == 0.8  # all months alike: 4 / (4 + 1)
    assert timing.above_percent > 30
    assert "minggu ke-4" in telling.why_then(timing, "id")


def test_another_shop_has_another_week() -> None:
    timing = best_week(trade((180, 100, 100, 100)), today=TODAY)

    assert (timing.week, timing.begins, timing.ends) == (1, date(2026, 6, 1), date(2026, 6, 7))


def test_growth_is_not_mistaken_for_a_season() -> None:
    assert best_week(trade((100, 100, 100, 100), growth=1.5), today=TODAY).week is None


def test_fewer_months_are_trusted_less_and_one_not_at_all() -> None:
    two, one = (best_week(trade((100, 100, 100, 180), months=months), today=TODAY) for months in (2, 1))

    assert two.confidence == 0.67
    assert (one.week, one.confidence, one.months) == (None, 0, 1)
    assert "Not enough history" in telling.why_then(one, "en")


@given(st.dictionaries(st.integers(number(date(2025, 10, 1)), number(TODAY)), st.integers(0, 10**9), max_size=200))
def test_whatever_the_trade_a_week_is_named_only_with_confidence(revenue: dict[int, int]) -> None:
    timing = best_week(revenue, today=TODAY)

    assert 0 <= timing.confidence < 1
    assert (timing.week is None) == (timing.confidence == 0) == (timing.begins is None)
    assert timing.ends is None or timing.ends >= TODAY


def test_the_best_sellers_come_first_with_their_growth_and_stock() -> None:
    sold = [Sold(name="Kopi", pieces=28, days_ago=10), Sold(name="Kopi", pieces=14, days_ago=30)]
    sold += [Sold(name="Teh", pieces=30, days_ago=40), Sold(name="Roti", pieces=5, days_ago=1)]
    sold += [Sold(name="Lama", pieces=999, days_ago=90)]

    found = insights(sold)

    assert [(one.name, one.pieces, one.growth_percent, one.stock) for one in found.products] == [
        ("Kopi", 42, 100.0, 14), ("Teh", 30, -100.0, 0), ("Roti", 5, None, 3),
    ]  # fmt: skip
    assert found.confidence == 0.39  # 77 pieces of 200
    assert telling.reason(found.products[0], "en") == "42 sold in three months, +100 % over the last 28 days"
    assert telling.stock_advice(found, "id") == "Siapkan untuk dua minggu: Kopi 14, Roti 3."
    assert "Kopi" in (telling.opportunity(found, "en") or "")


def test_a_few_pieces_tell_nothing() -> None:
    found = insights([Sold(name="Kopi", pieces=19, days_ago=1)])

    assert (list(found.products), found.confidence) == ([], 0)
    assert telling.performance(found, "en") == ("Not enough history: 19 pieces sold in three months, 20 are needed.")
    assert telling.stock_advice(found, "id") is telling.opportunity(found, "id") is None
