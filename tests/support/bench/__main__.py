"""`scripts/bench`: how fast the product is, told as a ratio to the least that could be called the same work."""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from support.bench import grown
from support.bench.measure import QUICK, SMOKE, Figures, Plan, Round, Summary, installation
from support.bench.scoring import scoring
from support.bench.settling import settling

Ratio = Callable[[Round], float]


def main() -> None:
    options = _options()
    plan = QUICK if options.quick else SMOKE if options.smoke else Plan()
    given = {name: getattr(options, name) for name in ("rounds", "payments", "connections") if getattr(options, name)}
    if "payments" in given:
        given["baseline_calls"] = 3 * given["payments"]
    kinds = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    if options.grown:
        _grown(options, kinds)
        return
    if options.settlement:
        rounds = options.rounds or 3
        settled = [asyncio.run(settling(kind, payments=options.settlement, rounds=rounds)) for kind in kinds]
        as_json = msgspec.json.format(msgspec.json.encode(settled)).decode()
        print(as_json if options.json else "\n\n".join(one.table() for one in settled))
        return
    if options.scoring:
        rounds = options.rounds or 3
        scored = [asyncio.run(scoring(kind, payments=options.scoring, rounds=rounds)) for kind in kinds]
        as_json = msgspec.json.format(msgspec.json.encode(scored)).decode()
        print(as_json if options.json else "\n\n".join(one.table() for one in scored))
        return
    found = [asyncio.run(measured(replace(plan, **given), kind)) for kind in kinds]
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print("\n\n".join(table(figures) for figures in found))


def _grown(options: Any, kinds: Sequence[str]) -> None:
    small, large = options.grown
    rounds, callbacks = options.rounds or 5, options.payments or 1_600
    found = [
        asyncio.run(grown.measured(kind, small=small, large=large, rounds=rounds, callbacks=callbacks))
        for kind in kinds
    ]
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print("\n\n".join(grown.table(one) for one in found))


async def measured(plan: Plan, kind: str) -> Figures:
    """All runs on one database. The first round warms everything up and is not kept, unless it is the only one."""
    figures = Figures(kind)
    async with installation(plan, kind) as bench:
        for n in range(plan.rounds):
            figures.rounds.append(await bench.round(product_first=n % 2 == 1))
            figures.beats_http.append(await bench.beats_http())
            figures.beats_mqtt.append(await bench.beats_mqtt())
            print(f"{kind}: round {n + 1} of {plan.rounds}: {_line(figures.rounds[-1])}", file=sys.stderr)
        await bench.begin_creating()
        figures.creates = [await bench.create() for _ in range(plan.rounds)]
    if plan.rounds > 1:
        del figures.rounds[0], figures.beats_http[0], figures.beats_mqtt[0], figures.creates[0]
    return figures


RATIOS: dict[str, Ratio] = {
    "unloaded p50": lambda r: r.product_alone.heard_p50_ms / r.baseline_alone.heard_p50_ms,
    "unloaded p99": lambda r: r.product_alone.heard_p99_ms / r.baseline_alone.heard_p99_ms,
    "loaded p50": lambda r: r.product_loaded.heard_p50_ms / r.baseline_loaded.heard_p50_ms,
    "throughput": lambda r: r.product_loaded.per_s / r.baseline_loaded.per_s,
}


def table(figures: Figures) -> str:
    """The medians over the rounds; each ratio is the median of the rounds' own ratios."""
    rounds = figures.rounds
    lines = [f"{figures.database}: median of {len(rounds)} rounds", f"{'':34}{'baseline':>12}{'product':>12}"]
    for name, load in (("unloaded", "alone"), ("loaded", "loaded")):
        for what, label in (
            ("heard_p50_ms", "callback to box, p50 ms"),
            ("heard_p99_ms", "callback to box, p99 ms"),
            ("answered_p50_ms", "callback to answer, p50 ms"),
        ):
            lines.append(f"{name + ', ' + label:34}{_both(rounds, load, what)}")
    lines.append(f"{'loaded, callbacks/s':34}{_both(rounds, 'loaded', 'per_s')}")
    lines += [f"ratio, {name + ':':27}{_median(rounds, ratio):12.2f}" for name, ratio in RATIOS.items()]
    lines.append(f"{'heartbeats/s over HTTP:':34}{statistics.median(b.per_s for b in figures.beats_http):12.0f}")
    lines.append(f"{'heartbeats/s over MQTT:':34}{statistics.median(b.per_s for b in figures.beats_mqtt):12.0f}")
    lost = sum(b.sent - b.recorded for b in figures.beats_mqtt)
    lines.append(f"{'  lost (they travel at QoS 0):':34}{lost:12}")
    lines.append(f"{'dynamic QR/s over HTTP:':34}{statistics.median(c.per_s for c in figures.creates):12.0f}")
    lines.append(f"{'  answered, p50 ms:':34}{statistics.median(c.p50_ms for c in figures.creates):12.1f}")
    for name in ("baseline", "product"):
        lines.append(f"processor time per callback, {name}: {_cpu([getattr(r, f'{name}_loaded') for r in rounds])}")
    return "\n".join(lines)


def _both(rounds: Sequence[Round], load: str, what: str) -> str:
    def value(name: str) -> float:
        return statistics.median(float(getattr(getattr(one, f"{name}_{load}"), what)) for one in rounds)

    return "".join(f"{value(name):12.2f}" for name in ("baseline", "product"))


def _cpu(summaries: Sequence[Summary]) -> str:
    names = [name for name in summaries[0].cpu_us if any(summary.cpu_us[name] for summary in summaries)]
    return ", ".join(f"{name} {statistics.median(s.cpu_us[name] for s in summaries):.0f} us" for name in names)


def _line(one: Round) -> str:
    return ", ".join(f"{name} {ratio(one):.2f}" for name, ratio in RATIOS.items())


def _median(rounds: Sequence[Round], ratio: Ratio) -> float:
    return statistics.median(ratio(one) for one in rounds)


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="under a minute; its figures wobble")
    parser.add_argument("--smoke", action="store_true", help="a few seconds: only shows that everything works")
    parser.add_argument("--rounds", type=int, help="of baseline and product in turn; the first only warms up")
    parser.add_argument("--payments", type=int, help="callbacks of one loaded run")
    parser.add_argument("--connections", type=int, help="callbacks under way at once in a loaded run")
    parser.add_argument(
        "--grown", nargs=2, type=int, metavar=("SMALL", "LARGE"),
        help="instead: what a callback costs where so many payments were made before; 100000 1000000 takes minutes",
    )  # fmt: skip
    parser.add_argument(
        "--settlement", type=int, metavar="PAYMENTS", help="instead: settle a day of so many, beside raw SQL"
    )
    parser.add_argument(
        "--scoring", type=int, metavar="PAYMENTS", help="instead: score 10,000 merchants of so many, beside raw SQL"
    )
    parser.add_argument("--json", action="store_true", help="every round's figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
