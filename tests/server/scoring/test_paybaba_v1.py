"""The reference's model: its check values, and its arithmetic at the edges."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_server.clock import DAY_MS
from soundbox_server.scoring import paybaba_v1
from soundbox_server.scoring.assessing import assess
from soundbox_server.scoring.facts import Trade, paybaba_facts
from soundbox_server.scoring.paybaba_v1 import Facts
from soundbox_server.scoring.points import half_up, settlement_points, steadiness
from soundbox_server.scoring.state import Component, Model

AS_OF = datetime(2026, 3, 15, 12, tzinfo=UTC)


def sale(at: datetime, amount: int = 50_000, *, status: str = "Success", days: float | None = 1) -> dict[str, Any]:
    settled = None if days is None else (at + timedelta(days=days)).isoformat()
    return {"at": at.isoformat(), "amount": amount, "type": "QRIS", "status": status, "settled_at": settled}


def assessed(*transactions: dict[str, Any], as_of: datetime = AS_OF, zone: str = "UTC", **other: Any) -> dict[str, Any]:
    trade = Trade.model_validate({"transactions": list(transactions)} | other)
    return assess(trade, Model.PAYBABA_V1, as_of_ms=ms(as_of), timezone=zone)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def two_a_day() -> list[dict[str, Any]]:
    begin = datetime(2026, 1, 1, 8, tzinfo=UTC)
    return [sale(begin + timedelta(days=day, hours=hour)) for day in range(74) for hour in (0, 2)]


def test_two_equal_sales_every_day_score_80() -> None:
    told = assessed(*two_a_day())

    assert list(told["components"].values()) == [100, 100, 0, 100, 100]
    assert (told["score"], told["risk_band"]) == (80, "Low")
    assert told["limits"] == {"min": 2_960_000, "max": 4_440_000}
    assert told["metrics"]["transactionCount3m"] == 148


def test_a_single_cash_sale_of_today_scores_65() -> None:
    cash = {"at": "2026-03-15T09:00:00Z", "amount": 10_000, "type": "CASH", "status": "Success",
            "settled_at": "2026-03-15T09:00:00Z"}  # fmt: skip

    told = assessed(cash)

    assert list(told["components"].values()) == [1, 100, 50, 100, 100]
    assert (told["score"], told["risk_band"]) == (65, "Medium")
    assert told["limits"] == {"min": 2_667, "max": 4_000}


def test_without_transactions_there_is_no_score() -> None:
    told = assessed()

    assert told["score"] is told["components"] is told["limits"] is None
    assert told["not_enough_history"] == {"transactions": {"have": 0, "need": 1}}


def test_a_day_that_the_month_lacks_runs_over_into_the_next() -> None:
    may, first = datetime(2026, 5, 31, 12, tzinfo=UTC), datetime(2026, 3, 3, 12, tzinfo=UTC)
    trade = Trade.model_validate({"transactions": [sale(first), sale(first - timedelta(milliseconds=1))]})

    assert paybaba_facts(trade, as_of_ms=ms(may), timezone="UTC").transactions == 1


def test_every_status_counts_and_only_success_is_revenue() -> None:
    all_of_them = [sale(AS_OF - timedelta(days=1), 1_000, status=status, days=None)
                   for status in ("Success", "Pending", "Failed", "Refunded")]  # fmt: skip
    trade = Trade.model_validate({"transactions": all_of_them})

    facts = paybaba_facts(trade, as_of_ms=ms(AS_OF), timezone="UTC")

    assert (facts.transactions, facts.successful, facts.refunded, facts.revenue_idr) == (4, 1, 1, 1_000)


def test_given_daily_revenue_is_taken_as_it_is() -> None:
    rows = [{"date": "2026-03-01", "revenue": 100}, {"date": "2026-03-02", "revenue": 300}]

    told = assessed(sale(AS_OF), daily_revenue=rows)

    assert told["components"]["consistency"] == 50  # σ is 100, the mean 200
    assert told["metrics"]["revenueVolatility"] == 50.0


def test_months_are_those_of_the_time_zone_that_was_asked_for() -> None:
    new_year = datetime(2026, 2, 28, 18, tzinfo=UTC)  # 1 March in Jakarta
    transactions = [sale(new_year, 1_000), sale(datetime(2026, 2, 10, tzinfo=UTC), 1_000)]

    assert assessed(*transactions, zone="UTC")["components"]["growth"] == 0
    assert assessed(*transactions, zone="Asia/Jakarta")["components"]["growth"] == 50


def test_what_comes_after_the_moment_of_scoring_is_unseen() -> None:
    later = sale(AS_OF + timedelta(seconds=1))
    settled_later = sale(AS_OF - timedelta(hours=1), days=20)

    told = assessed(settled_later, later)

    assert told["metrics"]["transactionCount3m"] == 1
    assert told["metrics"]["avgSettlementDays"] == 0


@pytest.mark.parametrize(
    ("days", "points"),
    [(0, 100), (1, 100), (1.01, 85), (2, 70), (3, 55), (3.01, 50), (5, 30), (7, 10), (7.01, 0), (30, 0)],
)
def test_payouts_that_take_longer_cost_points_in_steps(days: float, points: int) -> None:
    facts = Facts(transactions=1, settled=1, settled_ms=round(days * DAY_MS))

    assert (paybaba_v1.score(facts).components or {})[Component.SETTLEMENT] == points


@given(st.integers(-(10**6), 10**6), st.integers(1, 1000))
def test_a_half_goes_up(numerator: int, denominator: int) -> None:
    from fractions import Fraction
    from math import floor

    assert half_up(Fraction(numerator, denominator)) == floor(Fraction(numerator, denominator) + Fraction(1, 2))


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=90))
def test_steadiness_is_what_the_standard_deviation_says(amounts: list[int]) -> None:
    from statistics import mean, pstdev

    points = steadiness(amounts)

    expected = 0.0 if not sum(amounts) else max(0.0, 100 - 100 * pstdev(amounts) / mean(amounts))
    assert abs(points - expected) <= 0.5 + 1e-9


@given(st.integers(0, 40 * DAY_MS), st.integers(0, 40 * DAY_MS))
def test_slower_payouts_never_earn_more(one: int, other: int) -> None:
    from fractions import Fraction

    quick, slow = sorted((one, other))

    assert settlement_points(Fraction(quick, DAY_MS)) >= settlement_points(Fraction(slow, DAY_MS))
