"""Payments as their merchants may see them: those of the merchants of one organisation, and nobody else's."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.errors import TransactionNotFound
from soundbox_server.merchants.models import Merchant
from soundbox_server.payments.models import Payment


async def merchants_of(session: AsyncSession, organisation_id: str) -> list[str]:
    """The ids of an organisation's merchants."""
    return list(await session.scalars(select(Merchant.id).where(Merchant.organisation_id == organisation_id)))


async def payment_of(session: AsyncSession, payment_id: str, *, organisation_id: str) -> Payment:
    """One payment. Raises TransactionNotFound, also for another organisation's."""
    payment = await session.scalar(
        select(Payment).join(Merchant, Merchant.id == Payment.merchant_id)
        .where(Payment.id == payment_id, Merchant.organisation_id == organisation_id)
    )  # fmt: skip
    if payment is None:
        raise TransactionNotFound("No such transaction.", transaction_id=payment_id)
    return payment
