from sqlalchemy import BigInteger, CheckConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class FeeProfile(Base):
    """What a merchant pays for each payment: basis points of the whole amount, half-up to whole rupiah."""

    __tablename__ = "fee_profile"
    __table_args__ = (CheckConstraint("bps BETWEEN 0 AND 10000", name="fee_profile_bps"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    bps: Mapped[int]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    refund_returns_fee: Mapped[bool] = mapped_column(server_default=false(), default=False)
