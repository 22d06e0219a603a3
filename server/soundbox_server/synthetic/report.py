"""What a back-test comes to: whether scores tell who will default from who will not, how early, and at what price."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, quantiles
from typing import Any

from soundbox_server.scoring.state import Model, RiskBand, WarningType
from soundbox_server.synthetic.world import FIRST_DAY, Seen, Subject, World

AHEAD_DAYS = (14, 30, 60)
FELL_POINTS, FELL_WITHIN_DAYS = 10, 28  # what a falling score is
FOLLOWED_DAYS = 60  # after a score, whether a default came
MONTH_DAYS = 28

Signal = Callable[[Seen], bool]


def report(world: World, seen: Mapping[Model, Sequence[Seen]]) -> dict[str, Any]:
    """Both models side by side; shares are 0 to 1, rounded to three digits."""
    kinds: dict[str, int] = defaultdict(int)
    for subject in _counted(world.subjects):
        kinds[subject.kind] += 1
    return {
        "merchants": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "defaults": sum(subject.default_day is not None for subject in _counted(world.subjects)),
        "days": world.last_day - FIRST_DAY,
        "every_days": world.every_days,
        "models": {model.value: _of_model(world, rows) for model, rows in seen.items()},
    }


def _of_model(world: World, rows: Sequence[Seen]) -> dict[str, Any]:
    counted = [row for row in rows if not row.subject.is_twin]
    fell = _fallen(counted)
    signals: dict[str, Signal] = {
        "any_warning": lambda row: bool(row.warnings),
        "score_fell": lambda row: (row.subject.merchant_id, row.day) in fell,
        "either": lambda row: bool(row.warnings) or (row.subject.merchant_id, row.day) in fell,
        **{kind.value: _has(kind) for kind in WarningType},
    }
    return {
        "auc": {f"{ahead}_days_before": _auc(counted, ahead) for ahead in AHEAD_DAYS},
        "signals": {name: _signal(world, counted, signal) for name, signal in signals.items()},
        "calibration": _calibration(world, counted),
        "stability": _stability(counted),
        "gaming": _gaming(rows),
    }


def _counted(subjects: Iterable[Subject]) -> list[Subject]:
    return [subject for subject in subjects if not subject.is_twin]


def _has(kind: WarningType) -> Signal:
    return lambda row: kind in row.warnings


def _by_shop(rows: Iterable[Seen]) -> Mapping[str, list[Seen]]:
    found: dict[str, list[Seen]] = defaultdict(list)
    for row in rows:
        found[row.subject.merchant_id].append(row)
    return found


def _fallen(rows: Sequence[Seen]) -> set[tuple[str, int]]:
    """Where a score lies ten points or more below the best of the last four weeks."""
    found = set()
    for merchant_id, history in _by_shop(rows).items():
        for row in history:
            near = [
                one.score for one in history
                if one.score is not None and row.day - FELL_WITHIN_DAYS <= one.day < row.day
            ]  # fmt: skip
            if row.score is not None and near and max(near) - row.score >= FELL_POINTS:
                found.add((merchant_id, row.day))
    return found


def _auc(rows: Sequence[Seen], ahead_days: int) -> dict[str, float | int | None]:
    """How often a shop that defaults so many days later has the lower score, of all pairs with one that never does as
    of the same day; a tie is half. Shops without a score are left out, and counted."""
    by_day: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if row.subject.default_day is None and row.score is not None:
            by_day[row.day].append(row.score)
    pairs, lower, left_out = 0, 0.0, 0
    for history in _by_shop(rows).values():
        default_day = history[0].subject.default_day
        if default_day is None:
            continue
        early = [row for row in history if row.day <= default_day - ahead_days]
        if not early or early[-1].score is None:
            left_out += 1
            continue
        score, others = early[-1].score, by_day[early[-1].day]
        pairs += len(others)
        lower += sum(1.0 if score < other else 0.5 if score == other else 0.0 for other in others)
    return {"auc": round(lower / pairs, 3) if pairs else None, "pairs": pairs, "left_out": left_out}


def _signal(world: World, rows: Sequence[Seen], signal: Signal) -> dict[str, Any]:
    """How many of those that default it foretold, how many days before, and what it costs in false alarms: of weeks in
    which a shop was well, and begun anew per well shop and year."""
    leads, defaults, weeks, alarms, begun = [], 0, 0, 0, 0
    for history in _by_shop(rows).values():
        subject = history[0].subject
        well = [row for row in history if subject.well_until is None or row.day < subject.well_until]
        weeks += len(well)
        alarms += sum(signal(row) for row in well)
        begun += sum(signal(row) and not signal(before) for before, row in pairwise(well))
        if subject.default_day is not None and subject.well_until is not None:
            defaults += 1
            told = [row.day for row in history if row.day >= subject.well_until and signal(row)]
            leads += [subject.default_day - told[0]] if told else []
    return {
        "foretold": len(leads),
        "defaults": defaults,
        "share_foretold": _share(len(leads), defaults),
        "days_before": _quartiles(leads),
        "false_alarms": {
            "share_of_weeks": _share(alarms, weeks),
            "begun_a_year": round(begun * 365 / (weeks * world.every_days), 2) if weeks else None,
        },
    }


def _quartiles(values: Sequence[int]) -> dict[str, float] | None:
    if len(values) < 2:
        return None
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return {"lower_quartile": round(lower, 1), "median": round(middle, 1), "upper_quartile": round(upper, 1)}


def _calibration(world: World, rows: Sequence[Seen]) -> dict[str, dict[str, float | int | None]]:
    """Of scores four weeks apart: in which share of each band a default followed within sixty days."""
    first = world.days[0]
    found: dict[str, list[bool]] = {name: [] for name in (*(band.value for band in RiskBand), "none")}
    for row in rows:
        if (row.day - first) % MONTH_DAYS >= world.every_days or row.day + FOLLOWED_DAYS > world.last_day:
            continue
        default_day = row.subject.default_day
        defaults = default_day is not None and default_day <= row.day + FOLLOWED_DAYS
        found["none" if row.band is None else row.band.value].append(defaults)
    return {
        band: {"scores": len(some), "defaults": sum(some), "share": _share(sum(some), len(some))}
        for band, some in found.items()
    }


def _stability(rows: Sequence[Seen]) -> dict[str, float | None]:
    """Of shops that are well, from one month to the next: by how many points, and how often another band."""
    steps: list[int] = []
    changed = 0
    for history in _by_shop(rows).values():
        until = history[0].subject.well_until
        well = {row.day: row for row in history if row.score is not None and (until is None or row.day < until)}
        for day, row in well.items():
            before = well.get(day - MONTH_DAYS)
            if before is not None and before.score is not None and row.score is not None:
                steps.append(abs(row.score - before.score))
                changed += row.band is not before.band
    return {
        "mean_points_a_month": round(fmean(steps), 2) if steps else None,
        "other_band_a_month": _share(changed, len(steps)),
    }


def _gaming(rows: Sequence[Seen]) -> dict[str, float | int | None]:
    """Of shops that make believe, against what they would be without it: how many points it brought them."""
    honest = {(row.subject.seed, row.day): row.score for row in rows if row.subject.is_twin}
    gained = [
        row.score - twin
        for row in rows
        if not row.subject.is_twin and row.subject.kind == "gamed" and row.score is not None
        and row.subject.well_until is not None and row.day > row.subject.well_until
        and (twin := honest.get((row.subject.seed, row.day))) is not None
    ]  # fmt: skip
    return {
        "scores": len(gained),
        "mean_points_gained": round(fmean(gained), 2) if gained else None,
        "most_points_gained": max(gained, default=None),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def told(found: Mapping[str, Any]) -> list[str]:
    """The report as a table."""
    models = found["models"]
    lines = [
        f"{found['merchants']} merchants over {found['days']} days, {found['payments']} payments, "
        f"{found['defaults']} defaults; scored every {found['every_days']} days",
        f"{'':44}" + "".join(f"{model:>16}" for model in models),
    ]

    def line(what: str, value: Callable[[Mapping[str, Any]], object]) -> None:
        lines.append(f"{what:44}" + "".join(f"{_shown(value(one)):>16}" for one in models.values()))

    for ahead in AHEAD_DAYS:
        line(f"AUC {ahead} days before the default", lambda one, key=f"{ahead}_days_before": one["auc"][key]["auc"])  # type: ignore[misc]
    for name in ("score_fell", "any_warning", "either", *(kind.value for kind in WarningType)):
        line(f"{name}: share foretold", lambda one, key=name: one["signals"][key]["share_foretold"])  # type: ignore[misc]
        line("  days before (quartiles)", lambda one, key=name: _days(one["signals"][key]["days_before"]))  # type: ignore[misc]
        line(
            "  false alarms: share of weeks, begun a year",
            lambda one, key=name: _false(one["signals"][key]["false_alarms"]),  # type: ignore[misc]
        )
    for band in (*RiskBand, "none"):
        line(
            f"band {band}: scores, defaults in {FOLLOWED_DAYS} days",
            lambda one, key=str(band): _band(one["calibration"][key]),  # type: ignore[misc]
        )
    line("points moved a month, well shops", lambda one: one["stability"]["mean_points_a_month"])
    line("another band a month, well shops", lambda one: one["stability"]["other_band_a_month"])
    line("points gained by make-believe, mean", lambda one: one["gaming"]["mean_points_gained"])
    return lines


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _days(quartiles: Mapping[str, float] | None) -> str:
    return "-" if quartiles is None else " ".join(f"{days:g}" for days in quartiles.values())


def _false(alarms: Mapping[str, float | None]) -> str:
    return f"{_shown(alarms['share_of_weeks'])} {_shown(alarms['begun_a_year'])}"


def _band(one: Mapping[str, float | int | None]) -> str:
    return f"{one['scores']} {_shown(one['share'])}"
