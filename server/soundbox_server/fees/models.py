from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class FeeProfile(Base):
    """What merchants pay for their payments, and when they are paid: a row of versions, of which each holds from a day
    on. `version` and `version_id` are the latest one's, whether or not its day has come."""

    __tablename__ = "fee_profile"
    __table_args__ = (CheckConstraint("version >= 1", name="fee_profile_counts_from_one"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    version_id: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    refund_returns_fee: Mapped[bool] = mapped_column(server_default=false(), default=False)


class FeeVersion(Base):
    """The terms of a profile from a day in Jakarta on, until the next version's day. Triggers refuse to change a row
    or to delete one. `rules` and `windows` are JSON: `fees/terms.py` reads them."""

    __tablename__ = "fee_version"
    __table_args__ = (
        CheckConstraint("version >= 1", name="fee_version_counts_from_one"),
        CheckConstraint("length(effective_from) = 10", name="fee_version_from_a_day"),
        UniqueConstraint("id", name="fee_version_id"),
    )

    fee_profile_id: Mapped[str] = mapped_column(ForeignKey("fee_profile.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[str]
    effective_from: Mapped[str]  # 2026-05-23
    rules: Mapped[str]
    windows: Mapped[str]
    reason: Mapped[str | None]
    added_by: Mapped[str | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
