"""Whether scores foresee who fails: in a small world, and in reports whose figures are known beforehand."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from soundbox_server.db import Database
from soundbox_server.scoring.points import band
from soundbox_server.scoring.state import Model, WarningType
from soundbox_server.synthetic import backtest
from soundbox_server.synthetic.report import report, told
from soundbox_server.synthetic.shops import Character, Fall, MakeBelieve, Product, trade
from soundbox_server.synthetic.world import FIRST_DAY, MERCHANTS, MIX, Seen, Subject, World, population

MENU = (Product("Soto", 20_000, 1),)
SHOP = Character(payments_a_day=10, menu=MENU, cash_share=0.0, unpaid_share=0.0)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_falling_score_comes_before_the_default_and_make_believe_brings_nothing(database: Database) -> None:
    world = population(merchants=20, weeks=32, every_days=14, mix={"steady": 11, "failing": 7, "gamed": 2})

    found = await backtest.run(database, world)

    ours, theirs = (found["models"][model] for model in ("soundbox-v2", "paybaba-v1"))
    assert found["defaults"] == 9
    assert ours["auc"]["30_days_before"]["auc"] > 0.6
    assert ours["signals"]["score_fell"]["share_foretold"] >= 0.6
    assert ours["signals"]["score_fell"]["share_foretold"] > theirs["signals"]["score_fell"]["share_foretold"]
    assert ours["signals"]["either"]["share_foretold"] >= 0.75
    assert ours["signals"]["either"]["days_before"]["median"] >= 14
    assert ours["signals"]["any_warning"]["false_alarms"]["share_of_weeks"] <= 0.3
    assert ours["gaming"]["most_points_gained"] == 0
    assert theirs["gaming"]["mean_points_gained"] > 3
    assert len(told(found)) > 20


def world_of(*subjects: Subject) -> World:
    return World(subjects=subjects, last_day=FIRST_DAY + 300, every_days=7)


def subject(name: str, *, falls: int | None = None, defaults: int = 0) -> Subject:
    fall = None if falls is None else Fall(day=falls, half_life_days=20, default_day=defaults)
    kind = "steady" if falls is None else "failing"
    return Subject(merchant_id=name, kind=kind, seed=name, character=replace(SHOP, fall=fall))


def seen(one: Subject, day: int, score: int | None, *warnings: WarningType) -> Seen:
    found = None if score is None else band(score)
    return Seen(subject=one, day=day, score=score, band=found, warnings=frozenset(warnings))


def of_ours(*rows: Seen) -> Mapping[str, Any]:
    subjects = {row.subject.merchant_id: row.subject for row in rows}
    found = report(world_of(*subjects.values()), {Model.SOUNDBOX_V2: rows})["models"]["soundbox-v2"]
    assert isinstance(found, dict)
    return found


def test_who_defaults_is_compared_with_who_does_not_as_of_the_same_day() -> None:
    day = FIRST_DAY + 140
    fails = subject("fails", falls=day - 10, defaults=day + 30)
    well, tied, low, elsewhen = (subject(name) for name in ("well", "tied", "low", "elsewhen"))

    found = of_ours(
        seen(fails, day, 60), seen(well, day, 80), seen(tied, day, 60), seen(low, day, 50), seen(elsewhen, day + 7, 90),
        seen(fails, day + 7, 20),
    )  # fmt: skip

    assert found["auc"]["30_days_before"] == {"auc": 0.5, "pairs": 3, "left_out": 0}
    assert found["auc"]["60_days_before"] == {"auc": None, "pairs": 0, "left_out": 1}


def test_a_sign_counts_from_the_day_on_which_a_shop_began_to_fall() -> None:
    day, drop = FIRST_DAY + 140, WarningType.REVENUE_DROP
    first = subject("first", falls=day, defaults=day + 50)
    second = subject("second", falls=day, defaults=day + 30)
    unseen = subject("unseen", falls=day, defaults=day + 20)
    well = subject("well")

    found = of_ours(
        seen(first, day - 7, 80, drop), seen(first, day, 80), seen(first, day + 7, 80, drop),
        seen(second, day + 7, 80, drop), seen(second, day + 14, 60), seen(unseen, day, 80),
        seen(well, day, 70, drop), seen(well, day + 7, 70), seen(well, day + 14, 70, drop), seen(well, day + 21, 70),
    )  # fmt: skip

    drops = found["signals"]["revenue_drop"]
    assert (drops["foretold"], drops["defaults"], drops["share_foretold"]) == (2, 3, 0.667)
    assert drops["days_before"] == {"lower_quartile": 28.0, "median": 33.0, "upper_quartile": 38.0}
    # Of five weeks in which a shop was well there was a warning in three; one of them began after a week without.
    assert drops["false_alarms"] == {"share_of_weeks": 0.6, "begun_a_year": round(365 / 35, 2)}
    assert found["signals"]["score_fell"]["foretold"] == 1
    assert found["signals"]["either"]["foretold"] == 2


def test_bands_are_held_against_what_came_of_them() -> None:
    day = world_of().days[0]
    fails, well = subject("fails", falls=day + 20, defaults=day + 59), subject("well")

    found = of_ours(
        seen(fails, day, 70), seen(fails, day + 7, 40), seen(well, day, 65), seen(well, day + 28, 85),
        seen(well, FIRST_DAY + 280, 30),
    )  # fmt: skip

    # A week later is not counted again, and what was said last was not followed for long enough.
    assert found["calibration"] == {
        "Low": {"scores": 1, "defaults": 0, "share": 0.0}, "Medium": {"scores": 2, "defaults": 1, "share": 0.5},
        "High": {"scores": 0, "defaults": 0, "share": None}, "none": {"scores": 0, "defaults": 0, "share": None},
    }  # fmt: skip
    assert found["stability"] == {"mean_points_a_month": 20.0, "other_band_a_month": 1.0}


def test_a_seed_is_a_world() -> None:
    first, again, other = population(seed=3), population(seed=3), population(seed=4)

    assert first == again
    assert first != other
    assert sum(not one.is_twin for one in first.subjects) == MERCHANTS
    kinds = [one.kind for one in first.subjects if not one.is_twin]
    assert {kind: kinds.count(kind) * 100 // len(kinds) for kind in set(kinds)} == MIX


def test_days_have_chances_of_their_own() -> None:
    longer = list(trade(SHOP, seed="x", first_day=FIRST_DAY, days=20))
    shorter = list(trade(SHOP, seed="x", first_day=FIRST_DAY, days=10))

    assert longer[: len(shorter)] == shorter
    assert 60 < len(shorter) < 140
    assert sorted(one.at_ms for one in longer) == [one.at_ms for one in longer]


def test_make_believe_is_beside_what_a_shop_really_sells() -> None:
    false = replace(SHOP, make_believe=MakeBelieve(day=FIRST_DAY + 5, one_rupiah=3, cash=2))

    honest = list(trade(SHOP, seed="x", first_day=FIRST_DAY, days=10))
    gamed = list(trade(false, seed="x", first_day=FIRST_DAY, days=10))

    assert [one for one in gamed if one.amount > 1 and not one.is_cash] == honest
    assert len(gamed) - len(honest) == 5 * (3 + 2)
