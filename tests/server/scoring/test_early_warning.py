"""Warnings: their conditions, all of them strict, and how bad they are."""

from fractions import Fraction
from typing import Any

import pytest

from soundbox_server.clock import DAY_MS
from soundbox_server.scoring.early_warning import Signs, judge, measure
from soundbox_server.scoring.state import WarningType

T = WarningType


def told(*, scores: tuple[int, ...] = (), **signs: Any) -> list[tuple[str, str]]:
    return [(one.type.value, one.severity.value) for one in judge(measure(Signs(**signs), scores=scores))]


def _revenue(newest: int) -> dict[str, int]:
    return {"newest_rows": 10, "newest_idr": newest * 10, "rows_before": 20, "before_idr": 100 * 20}


def _payments(last: int) -> dict[str, int]:
    return {"last_payments": last * 10, "payments_before": 100 * 20}


def _settled(days: float, longest: float = 0) -> dict[str, int]:
    return {"settled": 10, "settled_ms": round(10 * days * DAY_MS), "settled_longest_ms": round(longest * DAY_MS)}


def _refunds(first: int, second: int) -> dict[str, Any]:
    return {"window_payments": 50, "first_half": (100, first), "second_half": (100, second)}


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        (_revenue(70), []),
        (_revenue(69), [("revenue_drop", "Low")]),
        (_revenue(60), [("revenue_drop", "Low")]),
        (_revenue(59), [("revenue_drop", "Medium")]),
        (_revenue(49), [("revenue_drop", "Critical")]),
        (_revenue(200), []),
        (_payments(75), []),
        (_payments(74), [("transaction_drop", "Low")]),
        (_payments(59), [("transaction_drop", "Medium")]),
        (_payments(0), [("transaction_drop", "Critical")]),
        (_refunds(2, 7), []),
        (_refunds(2, 8), [("refund_spike", "Low")]),
        (_refunds(2, 13), [("refund_spike", "Medium")]),
        (_refunds(2, 18), [("refund_spike", "Critical")]),
        (_settled(3), []),
        (_settled(3.1), [("settlement_delay", "Low")]),
        (_settled(5.1), [("settlement_delay", "Medium")]),
        (_settled(3.1, longest=7.1), [("settlement_delay", "Critical")]),
        ({"scores": (80, 65)}, []),
        ({"scores": (99, 80, 64)}, [("score_drop", "Low")]),
        ({"scores": (80, 59)}, [("score_drop", "Medium")]),
        ({"scores": (80, 49)}, [("score_drop", "Critical")]),
        ({"scores": (80,)}, []),
    ],
)
def test_a_warning_begins_just_beyond_its_threshold(signs: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert told(**signs) == expected


def test_too_little_warns_of_nothing() -> None:
    assert told(newest_rows=9, newest_idr=0, rows_before=0, before_idr=0) == []
    assert told(**_refunds(0, 50) | {"window_payments": 49}) == []
    assert told(**_settled(20, longest=20) | {"settled": 9}) == []


def test_a_bank_may_look_more_closely() -> None:
    measures = measure(Signs(**_revenue(85)))

    (warning,) = judge(measures, {T.REVENUE_DROP: Fraction(10)})

    assert judge(measures) == []
    assert (warning.value, warning.threshold, warning.deviation) == (15.0, 10.0, 50.0)
