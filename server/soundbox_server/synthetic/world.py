"""A world of made-up shops of which it is known what becomes of them.

Shops grow, stay, have seasons, or differ much from day to day; some fall from a day on and default some weeks later, a
few of them at once, a few while they make believe.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from soundbox_server.scoring.soundbox_v2 import WINDOW_DAYS
from soundbox_server.scoring.state import RiskBand, WarningType
from soundbox_server.synthetic.shops import Character, Fall, MakeBelieve, Product

FIRST_DAY = 20_094  # 2025-01-06, a Monday
WEEKS = 44
MERCHANTS, SEED = 200, 1
# Of a hundred shops. Those of the last three kinds default.
MIX = {"growing": 18, "steady": 36, "seasonal": 14, "noisy": 12, "failing": 13, "sudden": 3, "gamed": 4}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A shop of the world and what becomes of it. A twin is what a gamed shop would be without its make-believe; it is
    compared with that shop, and counts nowhere else."""

    merchant_id: str
    kind: str
    seed: str
    character: Character
    is_twin: bool = False

    @property
    def default_day(self) -> int | None:
        return None if self.character.fall is None else self.character.fall.default_day

    @property
    def well_until(self) -> int | None:
        """The day on which it begins to fall; None for a shop that never does."""
        return None if self.character.fall is None else self.character.fall.day

    def is_there(self, day: int) -> bool:
        return self.default_day is None or day < self.default_day


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a model said of a shop as of the beginning of a day."""

    subject: Subject
    day: int
    score: int | None
    band: RiskBand | None
    warnings: frozenset[WarningType]


@dataclass(frozen=True, kw_only=True)
class World:
    """`every_days` is how often everybody is scored."""

    subjects: Sequence[Subject]
    last_day: int
    every_days: int = 7

    @property
    def days(self) -> range:
        """As of which there are scores: from the first full window on."""
        return range(FIRST_DAY + WINDOW_DAYS + 1, self.last_day + 1, self.every_days)


def population(
    *,
    merchants: int = MERCHANTS,
    seed: int = SEED,
    weeks: int = WEEKS,
    every_days: int = 7,
    mix: Mapping[str, int] = MIX,
) -> World:
    """So many shops, twins not counted, in shares that do not depend on the seed."""
    subjects: list[Subject] = []
    last_day = FIRST_DAY + 7 * weeks
    for n in range(merchants):
        kind = _kind(n, merchants, mix)
        chances = random.Random(f"{seed}/{n}")  # noqa: S311
        subject = Subject(
            merchant_id=f"mer_{n:05d}", kind=kind, seed=f"{seed}/{n}/trade",
            character=_character(kind, last_day, chances),
        )  # fmt: skip
        subjects.append(subject)
        if subject.character.make_believe is not None:
            honest = replace(subject.character, make_believe=None)
            subjects.append(replace(subject, merchant_id=f"mer_{n:05d}_twin", character=honest, is_twin=True))
    return World(subjects=subjects, last_day=last_day, every_days=every_days)


def _kind(n: int, merchants: int, mix: Mapping[str, int]) -> str:
    """The n-th shop's kind: each has its share of the whole."""
    left = (n + 0.5) / merchants * sum(mix.values())
    for kind, share in mix.items():
        if left < share:
            return kind
        left -= share
    raise AssertionError("the shares are all there is")


def _character(kind: str, last_day: int, chances: random.Random) -> Character:
    scale = chances.lognormvariate(0, 0.5)
    menu = tuple(
        Product(name, max(1_000, round(price * scale / 500) * 500), weight)
        for name, price, weight in (("A", 8_000, 6), ("B", 18_000, 5), ("C", 35_000, 3), ("D", 90_000, 1))
    )
    plain = Character(
        payments_a_day=min(14.0, max(1.5, chances.lognormvariate(1.4, 0.5))),
        menu=menu,
        week=tuple(chances.uniform(0.75, 1.25) for _ in range(7)),
        growth_a_month=chances.uniform(-0.015, 0.015),
        chance=chances.uniform(0.1, 0.25),
        cash_share=chances.uniform(0.1, 0.5),
        refund_share=chances.uniform(0.0, 0.02),
        late_payouts=chances.uniform(0.0, 0.06),
    )
    fall_day = chances.randrange(FIRST_DAY + WINDOW_DAYS + 40, last_day - 45)
    match kind:
        case "growing":
            return replace(plain, growth_a_month=chances.uniform(0.03, 0.1))
        case "seasonal":
            season, best = chances.uniform(0.25, 0.5), chances.randrange(365)
            return replace(plain, season=season, best_day=best, fasting=chances.uniform(0.7, 1.5))
        case "noisy":
            return replace(plain, chance=chances.uniform(0.5, 0.8))
        case "failing" | "gamed":
            fall = Fall(
                day=fall_day, half_life_days=chances.uniform(12, 45),
                default_day=min(last_day, fall_day + chances.randrange(35, 75)), refunds=chances.uniform(1, 6),
                late_payouts=chances.uniform(0, 0.4),
            )  # fmt: skip
            believe = MakeBelieve(day=fall_day, one_rupiah=8, cash=6) if kind == "gamed" else None
            return replace(plain, fall=fall, make_believe=believe)
        case "sudden":
            fall = Fall(day=fall_day, half_life_days=1.5, default_day=fall_day + chances.randrange(2, 7))
            return replace(plain, fall=fall)
    return plain
