"""What a profile's versions say, as values: which rate a payment has, and when merchants are paid.

A rule names merchants, categories or criteria, or nobody; the nearest one counts: the merchant's own, then its
category's, then its criteria's, then the rule for everybody. A rate is basis points of the whole amount; with tiers, of
the first tier that the amount does not exceed. `fee` rounds half-up to whole rupiah, for each payment by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

BASIS_POINTS = 10_000
ROUNDING = "half_up"
FAR = 4


class Tier(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`max` is the largest amount it holds for; the last tier has none."""

    bps: int
    max: int | None = None


class Payee(msgspec.Struct, frozen=True):
    """Whose payment it is, as rules see it."""

    merchant_id: str
    category: str | None
    criteria: str | None


class Rule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """For whom, and at which rate: either `bps` or `tiers`."""

    merchant: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()
    bps: int | None = None
    tiers: tuple[Tier, ...] = ()
    source: str | None = None

    def distance(self, payee: Payee) -> int:
        """How near it is to this merchant: 0 is a rule of its own, FAR does not apply."""
        if payee.merchant_id in self.merchant:
            return 0
        if payee.category in self.category:
            return 1
        if payee.criteria in self.criteria:
            return 2
        return FAR if self.merchant or self.category or self.criteria else 3

    def rate(self, amount: int) -> int:
        """Basis points of this amount."""
        if self.bps is not None:
            return self.bps
        return next(tier.bps for tier in self.tiers if tier.max is None or amount <= tier.max)


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a business day that is settled together: what is paid up to the end of the cutoff's minute."""

    name: str
    cutoff: str  # 23:59, in Jakarta
    settle_after_days: int  # business days


@dataclass(frozen=True)
class Version:
    """What holds from a day on."""

    number: int
    effective_from: str
    rules: tuple[Rule, ...]
    windows: tuple[Window, ...]

    def rule_for(self, payee: Payee) -> Rule | None:
        """The nearest one that applies."""
        nearest = min(self.rules, key=lambda rule: rule.distance(payee), default=None)
        return nearest if nearest and nearest.distance(payee) < FAR else None


@dataclass(frozen=True)
class Rate:
    bps: int
    version: str  # fee_basic/6


FREE = Rate(0, "free")


@dataclass(frozen=True)
class Terms:
    """All versions of a profile, oldest first."""

    profile_id: str
    versions: tuple[Version, ...]

    def on(self, day: str) -> Version | None:
        """The version of that day in Jakarta; None before the first."""
        return next((version for version in reversed(self.versions) if version.effective_from <= day), None)

    def rate(self, payee: Payee, *, day: str, amount: int) -> Rate | None:
        """What a payment of that day costs; None where no rule says so."""
        version = self.on(day)
        rule = version.rule_for(payee) if version else None
        if version is None or rule is None:
            return None
        return Rate(rule.rate(amount), f"{self.profile_id}/{version.number}")

    def covers(self, payee: Payee, *, day: str) -> bool:
        """Whether some rule applies to this merchant on that day and on every later one."""
        now = self.on(day)
        later = [version for version in self.versions if version.effective_from > day]
        return now is not None and all(version.rule_for(payee) for version in [now, *later])


def fee(amount: int, bps: int) -> int:
    """Whole rupiah: 50,000 at 70 bps is 350; exactly half a rupiah rounds up."""
    return (amount * bps + BASIS_POINTS // 2) // BASIS_POINTS


def read_rules(text: str) -> tuple[Rule, ...]:
    return msgspec.json.decode(text, type=tuple[Rule, ...])


def read_windows(text: str) -> tuple[Window, ...]:
    return msgspec.json.decode(text, type=tuple[Window, ...])


def write(found: Sequence[Any]) -> str:
    """Rules or windows as they are stored."""
    return msgspec.json.encode(found).decode()
