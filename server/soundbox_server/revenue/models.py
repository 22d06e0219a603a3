from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class DailyRevenue(Base):
    """What one till took through one provider on one day in Jakarta, and what went back on that day.

    Kept by till, although merchants ask: two payments at once at one till wait for its box anyway, so that no callback
    waits for another one's row here.
    """

    __tablename__ = "daily_revenue"
    __table_args__ = (Index("daily_revenue_by_merchant", "merchant_id", "day"), {"sqlite_with_rowid": False})

    day: Mapped[str] = mapped_column(primary_key=True)  # 2026-05-23
    terminal_id: Mapped[str] = mapped_column(ForeignKey("terminal.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    payments: Mapped[int] = mapped_column(BigInteger)
    gross_amount: Mapped[int] = mapped_column(BigInteger)
    fee_amount: Mapped[int] = mapped_column(BigInteger)
    refunds: Mapped[int] = mapped_column(BigInteger)
    refunded_amount: Mapped[int] = mapped_column(BigInteger)
    reversals: Mapped[int] = mapped_column(BigInteger)
    reversed_amount: Mapped[int] = mapped_column(BigInteger)
    fee_returned: Mapped[int] = mapped_column(BigInteger)
    wallet_amount: Mapped[int] = mapped_column(BigInteger, server_default="0")  # of the gross: it went to a wallet
