"""What a payment costs the merchant: basis points of the whole amount, half-up to whole rupiah."""

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.fees.models import FeeProfile

BASIS_POINTS = 10_000


def fee(amount: int, bps: int) -> int:
    """Whole rupiah: 50,000 at 70 bps is 350; exactly half a rupiah rounds up."""
    return (amount * bps + BASIS_POINTS // 2) // BASIS_POINTS


async def has_rule(session: AsyncSession, fee_profile_id: str | None) -> bool:
    """Whether it is said what payments of a merchant with this profile cost."""
    return fee_profile_id is not None and await session.get(FeeProfile, fee_profile_id) is not None
