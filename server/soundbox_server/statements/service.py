"""What stands on a merchant's statement of a settlement, beside the items."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.errors import Conflict, NotFound
from soundbox_server.merchants.models import Merchant
from soundbox_server.settlements.models import Settlement, SettlementShare
from soundbox_server.settlements.state import SettlementState


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What stands around the items."""

    settlement: Settlement
    merchant: Merchant
    shares: Sequence[SettlementShare]
    made_at_ms: int


async def settlement_of(session: AsyncSession, settlement_id: str, *, organisation_id: str | None) -> Settlement:
    """A settlement; of this organisation's merchants, where one is named. Raises NotFound."""
    query = select(Settlement).where(Settlement.id == settlement_id)
    if organisation_id is not None:
        ours = select(Merchant.id).where(Merchant.organisation_id == organisation_id)
        query = query.where(Settlement.merchant_id.in_(ours))
    found = await session.scalar(query)
    if found is None:
        raise NotFound("No such settlement.", settlement_id=settlement_id)
    return found


async def shares_of(session: AsyncSession, settlement_id: str) -> Sequence[SettlementShare]:
    found = await session.scalars(
        select(SettlementShare).where(SettlementShare.settlement_id == settlement_id).order_by(SettlementShare.provider)
    )
    return found.all()


async def facts_of(session: AsyncSession, settlement_id: str, *, organisation_id: str | None, now_ms: int) -> Facts:
    """Raises NotFound, or Conflict while its items are still being collected."""
    settlement = await settlement_of(session, settlement_id, organisation_id=organisation_id)
    if settlement.state == SettlementState.OPEN:
        raise Conflict("This settlement is still being put together.", status=settlement.state)
    return Facts(
        settlement=settlement,
        merchant=await session.get_one(Merchant, settlement.merchant_id),
        shares=await shares_of(session, settlement_id),
        made_at_ms=now_ms,
    )
