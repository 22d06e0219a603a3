"""What a payment costs the merchant: basis points of the whole amount, half-up to whole rupiah."""

BASIS_POINTS = 10_000


def fee(amount: int, bps: int) -> int:
    """Whole rupiah: 50,000 at 70 bps is 350; exactly half a rupiah rounds up."""
    return (amount * bps + BASIS_POINTS // 2) // BASIS_POINTS
