"""Which rate a payment has: the nearest rule of the day on which it was paid."""

import pytest

from soundbox_server.fees.mdr import PROFILE, facts, standard_versions
from soundbox_server.fees.terms import Payee, Rate, Rule, Terms, Tier, Version, fee, read_rules, write


def standard() -> Terms:
    versions = [
        Version(number, day, tuple(read_rules(write(rules))), ())
        for number, (day, rules) in enumerate(standard_versions(), 1)
    ]
    return Terms(PROFILE, tuple(versions))


def mdr(amount: int, day: str, *, criteria: str | None = None, category: str | None = None) -> int | None:
    rate = standard().rate(Payee("mer", category, criteria), day=day, amount=amount)
    return None if rate is None else fee(amount, rate.bps)


@pytest.mark.parametrize(
    ("criteria", "day", "amount", "expected"),
    [
        ("UMI", "2024-12-01", 500_000, 0),
        ("UMI", "2024-12-01", 500_001, 1_500),  # 0.3% of the whole amount, and not of what is above
        ("UMI", "2024-11-30", 500_000, 1_500),
        ("UMI", "2024-11-30", 100_000, 0),
        ("UMI", "2023-10-01", 200_000, 600),
        ("UMI", "2023-08-31", 10_000, 30),
        ("UMI", "2023-07-10", 10_000, 30),
        ("UMI", "2023-06-30", 10_000, None),
        ("UBE", "2025-01-01", 50, 0),  # 0.35 rupiah
        ("UBE", "2025-01-01", 72, 1),  # 0.504 rupiah
        ("UKE", "2025-01-01", 50_000, 350),
        ("URE", "2020-01-01", 50_000, 350),
        ("UME", "2019-12-31", 50_000, None),
    ],
)
def test_the_criterias_rate_is_the_days(criteria: str, day: str, amount: int, expected: int | None) -> None:
    assert mdr(amount, day, criteria=criteria) == expected


@pytest.mark.parametrize(
    ("category", "day", "bps"),
    [
        ("education", "2026-05-23", 60), ("SPBU", "2026-05-23", 40), ("G2P", "2026-05-23", 0),
        ("P2G", "2026-05-23", 0), ("nonprofit_donation", "2026-05-23", 0), ("BLU", "2021-05-31", 70),
        ("BLU", "2021-06-01", 40), ("PSO", "2025-03-14", 40), ("PSO", "2025-03-15", 0),
    ],
)  # fmt: skip
def test_a_category_goes_before_the_criteria(category: str, day: str, bps: int) -> None:
    assert mdr(1_000_000, day, category=category, criteria="UBE") == bps * 100


def test_a_merchants_own_rule_goes_before_all_others() -> None:
    rules = (
        Rule(bps=90), Rule(criteria=("UKE",), bps=70), Rule(category=("SPBU",), bps=40), Rule(merchant=("mer",), bps=5),
    )  # fmt: skip
    terms = Terms("fee", (Version(3, "2026-01-01", rules, ()),))

    def bps(payee: Payee) -> int | None:
        rate = terms.rate(payee, day="2026-01-01", amount=1)
        return rate and rate.bps

    assert bps(Payee("mer", "SPBU", "UKE")) == 5
    assert bps(Payee("other", "SPBU", "UKE")) == 40
    assert bps(Payee("other", None, "UKE")) == 70
    assert bps(Payee("other", "education", "UBE")) == 90
    assert terms.rate(Payee("mer", None, None), day="2026-01-01", amount=1) == Rate(5, "fee/3")


def test_a_tier_holds_up_to_and_including_its_max() -> None:
    rule = Rule(tiers=(Tier(0, 100), Tier(30, 200), Tier(70)))

    assert [rule.rate(amount) for amount in (1, 100, 101, 200, 201)] == [0, 0, 30, 30, 70]


def test_half_a_rupiah_is_rounded_up() -> None:
    assert [fee(amount, 50) for amount in (99, 100, 101, 299, 300)] == [0, 1, 1, 1, 2]


def test_the_file_names_a_source_for_every_fact() -> None:
    assert all(rule["source"] for rule in facts()["rules"])
    assert [day for day, _ in standard_versions()] == [
        "2020-01-01", "2021-06-01", "2023-07-01", "2023-09-01", "2024-12-01", "2025-03-15",
    ]  # fmt: skip
