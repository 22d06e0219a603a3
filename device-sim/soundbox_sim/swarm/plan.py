"""A scenario becomes a plan: which box is what, and what happens when. All of it comes from the seed.

The same scenario, fleet, duration and seed give the same plan, to the millisecond; what the network makes of it is the
network's.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any, Literal

from soundbox_sim.swarm.scenarios import CABLE, Link, Scenario

HOUR_S = 3_600
AMOUNTS = (1_000, 2_500_000)
EVERYBODY = -1
COMMANDS = ("set_volume", "play_test", "identify", "daily_total", "refresh_config")

Kind = Literal["payment", "command", "power_cut", "line_lost", "storm", "broker_restart"]
Twist = Literal["", "repeated", "forged", "failed"]
TWISTS: tuple[Twist, ...] = ("repeated", "forged", "failed")
"""Callbacks as they should not be: told again and again; signed by somebody else; of a payment that failed."""


@dataclass(frozen=True, slots=True)
class Nature:
    """What a box is like for the whole run. `phase`: where in its interval its heartbeats fall, 0 to 1."""

    link: Link
    skew_ms: int
    has_clock: bool
    phase: float


@dataclass(frozen=True, slots=True, order=True)
class Happening:
    """Something that happens `at_ms` from the start, to a box or to EVERYBODY.

    A payment has an amount and a twist; a command a name and a payload; a power cut how long it lasts.
    """

    at_ms: int
    kind: Kind
    box: int = EVERYBODY
    amount_idr: int = 0
    twist: Twist = ""
    name: str = ""
    volume: int = 0
    off_ms: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    natures: tuple[Nature, ...]
    happenings: tuple[Happening, ...]

    @property
    def sha256(self) -> str:
        """Names the plan: two runs with the same one went through the same."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


def draw(scenario: Scenario, *, boxes: int, duration_s: float, seed: int) -> Plan:
    """Each kind of thing has a stream of its own, so that more payments do not move the power cuts."""

    def stream(name: str) -> Random:
        return Random(f"{seed}/{name}")  # noqa: S311 - faults, no secrets

    thousands, hours = boxes / 1_000, boxes / HOUR_S
    often = (
        ("payments", scenario.payments * thousands, _payment),
        ("commands", scenario.commands * thousands, _command),
        ("power", scenario.power_cuts * hours, _power_cut),
        ("lines", scenario.lost_lines * hours, _lost_line),
    )
    moments = [_often(rate, duration_s, stream(name), partial(make, scenario, boxes)) for name, rate, make in often]
    once = [Happening(int(share * duration_s * 1000), "storm") for share in scenario.storms]
    once += [Happening(int(share * duration_s * 1000), "broker_restart") for share in scenario.broker_restarts]
    natures = stream("natures")
    return Plan(
        natures=tuple(_nature(scenario, natures) for _ in range(boxes)),
        happenings=tuple(heapq.merge(*moments, sorted(once))),
    )


def with_rates(
    scenario: Scenario, *, boxes: int, payments_per_s: float | None, commands_per_s: float | None
) -> Scenario:
    """The same with so many payments and commands a second from the whole fleet."""
    changed: dict[str, Any] = {}
    if payments_per_s is not None:
        changed["payments"] = payments_per_s * 1_000 / boxes
    if commands_per_s is not None:
        changed["commands"] = commands_per_s * 1_000 / boxes
    return replace(scenario, **changed)


def _nature(scenario: Scenario, random: Random) -> Nature:
    slow, clock = random.random() < scenario.slow, random.random()
    has_clock = clock >= scenario.clockless
    skewed = has_clock and clock < scenario.clockless + scenario.skewed
    skew_ms = random.randint(*scenario.skew_s) * 1000
    return Nature(scenario.link if slow else CABLE, skew_ms if skewed else 0, has_clock, random.random())


Make = Callable[[int, Random], Happening]


def _often(rate: float, duration_s: float, random: Random, make: Make) -> Iterator[Happening]:
    """So many a second on average, at moments that know nothing of each other."""
    at_s = 0.0
    while rate > 0 and (at_s := at_s + random.expovariate(rate)) < duration_s:
        yield make(int(at_s * 1000), random)


def _payment(scenario: Scenario, boxes: int, at_ms: int, random: Random) -> Happening:
    box, amount, twisted = random.randrange(boxes), random.randint(*AMOUNTS), random.random() < scenario.twisted
    return Happening(at_ms, "payment", box, amount_idr=amount, twist=random.choice(TWISTS) if twisted else "")


def _command(scenario: Scenario, boxes: int, at_ms: int, random: Random) -> Happening:
    return Happening(
        at_ms, "command", random.randrange(boxes), name=random.choice(COMMANDS), volume=random.randint(20, 100)
    )


def _power_cut(scenario: Scenario, boxes: int, at_ms: int, random: Random) -> Happening:
    return Happening(at_ms, "power_cut", random.randrange(boxes), off_ms=int(random.uniform(*scenario.off_s) * 1000))


def _lost_line(scenario: Scenario, boxes: int, at_ms: int, random: Random) -> Happening:
    return Happening(at_ms, "line_lost", random.randrange(boxes))
