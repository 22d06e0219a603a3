"""How a batch's money is parted among the providers that brought it, and what is carried on."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What moved: counts, and whole rupiah. `adjustment_amount` is what went back, never positive."""

    payments: int = 0
    adjustments: int = 0
    gross_amount: int = 0
    fee_amount: int = 0
    adjustment_amount: int = 0

    @property
    def moved(self) -> int:
        return self.gross_amount - self.fee_amount + self.adjustment_amount


@dataclass(frozen=True)
class Share:
    """One provider's part of a batch, or a whole batch: moved and carried in = paid out and carried out."""

    sums: Sums
    carried_in: int
    carried_out: int
    net_amount: int

    @classmethod
    def nothing(cls) -> "Share":
        return cls(Sums(), 0, 0, 0)

    def __add__(self, other: "Share") -> "Share":
        ours, theirs = astuple(self.sums), astuple(other.sums)
        payments, adjustments, gross, fee, adjustment = (a + b for a, b in zip(ours, theirs, strict=True))
        return Share(
            Sums(
                payments=payments, adjustments=adjustments, gross_amount=gross, fee_amount=fee,
                adjustment_amount=adjustment,
            ),
            self.carried_in + other.carried_in,
            self.carried_out + other.carried_out,
            self.net_amount + other.net_amount,
        )  # fmt: skip

    def row(self) -> tuple[int, ...]:
        """As stored: counts and sums, carried in, carried out, net."""
        return (*astuple(self.sums), self.carried_in, self.carried_out, self.net_amount)


def shared_out(moved: Mapping[str, Sums], carried: Mapping[str, int]) -> dict[str, Share]:
    """The shares by provider, of what moved and of what earlier batches carried on.

    Where all of it together is more than nothing, it is paid out, and no more: providers that brought too little pay
    nothing, and the others so much less. What each of them paid too much or too little is carried on by itself.
    """
    providers = sorted({*moved, *carried})
    sums = {provider: moved.get(provider, Sums()) for provider in providers}
    due = {provider: sums[provider].moved + carried.get(provider, 0) for provider in providers}
    paid = _paid(due)
    return {
        provider: Share(sums[provider], carried.get(provider, 0), due[provider] - paid[provider], paid[provider])
        for provider in providers
    }


def _paid(due: Mapping[str, int]) -> dict[str, int]:
    left = max(0, sum(due.values()))
    paid = {}
    for provider, amount in sorted(due.items()):
        paid[provider] = min(max(0, amount), left)
        left -= paid[provider]
    return paid
