"""Our own model: what it rests on, and what nobody can gain by."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS
from soundbox_server.scoring import soundbox_v2
from soundbox_server.scoring.assessing import assess
from soundbox_server.scoring.facts import Trade, Transaction, jakarta_number, monday_of, soundbox_facts
from soundbox_server.scoring.soundbox_v2 import Facts
from soundbox_server.scoring.state import Component, Model

TODAY = jakarta_number(1_779_530_400_000)  # 2026-05-23, a Saturday
AS_OF_MS = TODAY * DAY_MS - JAKARTA_AHEAD_MS + 10 * 3_600_000
STEADY = Facts(
    history_days=90, payments=300, paid_idr=9_000_000, weeks_idr=(700_000,) * 12, last_idr=2_800_000,
    before_idr=2_800_000, settled=10, settled_ms=10 * DAY_MS,
)  # fmt: skip


def sale(days_ago: int, amount: int = 50_000, **other: Any) -> Transaction:
    """Paid at noon in Jakarta so many days before the scoring day, and paid out a day later."""
    at_ms = (TODAY - days_ago) * DAY_MS - JAKARTA_AHEAD_MS + 12 * 3_600_000
    told = {"at": _rfc3339(at_ms), "amount": amount, "type": "QRIS", "status": "Success",
            "settled_at": _rfc3339(at_ms + DAY_MS)}  # fmt: skip
    return Transaction.model_validate(told | other)


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def points(*transactions: Transaction) -> int | None:
    return soundbox_v2.score(facts(*transactions)).score


def facts(*transactions: Transaction) -> Facts:
    return soundbox_facts(Trade(transactions=list(transactions)), as_of_ms=AS_OF_MS)


SALES = st.lists(
    st.builds(
        sale,
        st.integers(-1, 100),
        st.integers(1_000, 5_000_000),
        status=st.sampled_from(["Success", "Success", "Success", "Refunded", "Pending", "Failed"]),
    ),
    max_size=60,
)


def test_a_steady_shop_earns_the_points_of_the_formulas() -> None:
    score = soundbox_v2.score(STEADY)

    # 100 · ln(101) / ln(1001) is 66.8; growth of nothing is 50.
    assert dict(score.components or {}) == {
        Component.VOLUME: 67, Component.CONSISTENCY: 100, Component.GROWTH: 50, Component.REFUNDS: 100,
        Component.SETTLEMENT: 100,
    }  # fmt: skip
    assert (score.score, score.risk_band) == (82, "Low")
    assert score.limits is not None
    assert (score.limits.min, score.limits.max) == (3_600_000, 5_400_000)


@pytest.mark.parametrize(("history_days", "payments"), [(29, 300), (90, 19)])
def test_a_short_history_is_no_score(history_days: int, payments: int) -> None:
    score = soundbox_v2.score(replace(STEADY, history_days=history_days, payments=payments))

    assert score.score is score.limits is score.components is score.risk_band is None
    assert score.missing == {"history_days": (history_days, 30), "payments": (payments, 20)}


def test_thirty_days_and_twenty_payments_are_enough() -> None:
    assert points(*(sale(days) for days in range(11, 31))) is not None
    assert points(*(sale(days) for days in range(10, 30))) is None


@given(st.integers(0, 10_000))
def test_points_for_volume_are_the_rounded_logarithm(payments: int) -> None:
    score = soundbox_v2.score(replace(STEADY, payments=max(20, payments)))

    with localcontext(prec=60):
        exact = 100 * (1 + Decimal(max(20, payments)) / 3).ln() / Decimal(1001).ln()
        assert (score.components or {})[Component.VOLUME] == min(100, int(exact + Decimal("0.5")))


def test_weeks_are_whole_and_silent_ones_are_zero() -> None:
    monday = monday_of(TODAY)
    last_sunday = TODAY - (monday - 1)

    weeks = facts(sale(last_sunday), sale(last_sunday - 1), sale(last_sunday + 83), sale(last_sunday + 84)).weeks_idr

    assert weeks == (50_000, *[0] * 10, 50_000)  # this week has begun, and the thirteenth is too long ago


@settings(max_examples=60)
@given(SALES, st.lists(st.builds(sale, st.integers(1, 90), st.integers(1, 10**9), type=st.just("CASH")), max_size=40))
def test_cash_changes_no_score(sales: list[Transaction], cash: list[Transaction]) -> None:
    assert soundbox_v2.score(facts(*sales, *cash)).score == points(*sales)


@settings(max_examples=60)
@given(SALES, st.lists(st.builds(sale, st.integers(1, 90), st.integers(1, 999)), max_size=200))
def test_sales_of_next_to_nothing_change_no_score(sales: list[Transaction], tiny: list[Transaction]) -> None:
    assert points(*sales, *tiny) == points(*sales)


@settings(max_examples=60)
@given(SALES, st.data())
def test_a_refund_never_raises_a_score(sales: list[Transaction], data: st.DataObject) -> None:
    given_back = [
        one.model_copy(update={"status": "Refunded"}) if one.status == "Success" and data.draw(st.booleans()) else one
        for one in sales
    ]

    before, after = points(*sales), points(*given_back)

    assert (before is None) == (after is None)
    assert before is None or after is None or after <= before


@settings(max_examples=200)
@given(
    st.builds(
        Facts, history_days=st.integers(0, 90), payments=st.integers(0, 10**6), paid_idr=st.integers(1, 10**12),
        refunded_idr=st.integers(0, 10**12), weeks_idr=st.tuples(*[st.integers(0, 10**11)] * 12),
        last_idr=st.integers(0, 10**12), before_idr=st.integers(0, 10**12), settled=st.integers(0, 10**5),
        settled_ms=st.integers(0, 10**15),
    )
)  # fmt: skip
def test_whatever_the_facts_a_score_lies_between_0_and_100(anything: Facts) -> None:
    score = soundbox_v2.score(anything)

    if score.components is not None:
        assert score.score is not None
        assert all(0 <= one <= 100 for one in (score.score, *score.components.values()))
        assert score.limits is not None
        assert 0 <= score.limits.min <= score.limits.max


def test_growth_is_bounded() -> None:
    assert [_growth(last) for last in (0, 1_400_000, 2_800_000, 4_200_000, 10**10)] == [0, 0, 50, 100, 100]


def _growth(last_idr: int) -> int:
    return (soundbox_v2.score(replace(STEADY, last_idr=last_idr)).components or {})[Component.GROWTH]


def test_the_first_days_of_a_month_do_not_crush_growth() -> None:
    steady = [sale(days) for days in range(1, 91)]
    second_of_june = Trade.model_validate(
        {"transactions": [one.model_dump() | {"at": _rfc3339(one.at + 10 * DAY_MS), "settled_at": None}
                          for one in steady]}
    )  # fmt: skip
    as_of_ms = AS_OF_MS + 10 * DAY_MS

    ours = assess(second_of_june, Model.SOUNDBOX_V2, as_of_ms=as_of_ms)
    reference = assess(second_of_june, Model.PAYBABA_V1, as_of_ms=as_of_ms)

    assert ours["components"]["growth"] == 50
    assert reference["components"]["growth"] == 0


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
def test_the_servers_time_zone_changes_nothing(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trade = Trade(transactions=[sale(days, 1_000 * days) for days in range(1, 91)])
    here = [assess(trade, model, as_of_ms=AS_OF_MS) for model in Model]

    monkeypatch.setitem(os.environ, "TZ", zone)
    time.tzset()
    try:
        there = [assess(trade, model, as_of_ms=AS_OF_MS) for model in Model]
    finally:
        monkeypatch.undo()
        time.tzset()

    assert there == here


def test_every_component_is_explained_in_both_languages() -> None:
    trade = Trade(transactions=[sale(days, 10_000 * (days % 3 + 1)) for days in range(1, 91)])

    for model in Model:
        told = assess(trade, model, as_of_ms=AS_OF_MS)
        reasons = {one["component"]: one for one in told["explanation"]}

        assert {name: one["points"] for name, one in reasons.items()} == told["components"]
        assert sum(one["weight"] for one in reasons.values()) == 100
        for one in reasons.values():
            assert set(one["value"]) == set(one["advice"]) == {"id", "en"}
            assert "{" not in "".join([*one["value"].values(), *one["advice"].values()])
