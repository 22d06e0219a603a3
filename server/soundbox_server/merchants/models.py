from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class Merchant(Base):
    """An organisation's selling profile. Only an approved one issues QR and is announced."""

    __tablename__ = "merchant"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'approved', 'rejected')", name="merchant_status"),
        CheckConstraint("payout_mode IN ('merchant_direct', 'manual')", name="merchant_payout_mode"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"), index=True)
    merchant_code: Mapped[str] = mapped_column(unique=True)
    legal_name: Mapped[str]
    brand_name: Mapped[str]
    city: Mapped[str]
    postal_code: Mapped[str]
    mcc: Mapped[str]
    nmid: Mapped[str]
    criteria: Mapped[str]
    fee_profile_id: Mapped[str] = mapped_column(ForeignKey("fee_profile.id"))
    settlement_account_reference: Mapped[str | None]
    settlement_account_type: Mapped[str | None]
    payout_mode: Mapped[str]
    status: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Outlet(Base):
    __tablename__ = "outlet"
    __table_args__ = (UniqueConstraint("merchant_id", "outlet_code"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    outlet_code: Mapped[str]
    name: Mapped[str]
    address: Mapped[str]
    status: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Terminal(Base):
    """A till. `partner_reference` is what a provider calls the static QR that stands on it."""

    __tablename__ = "terminal"
    __table_args__ = (
        UniqueConstraint("outlet_id", "terminal_code"),
        CheckConstraint("qr_mode IN ('static', 'dynamic')", name="terminal_qr_mode"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    outlet_id: Mapped[str] = mapped_column(ForeignKey("outlet.id"))
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"), index=True)
    terminal_code: Mapped[str]
    qr_mode: Mapped[str]
    partner_reference: Mapped[str | None] = mapped_column(unique=True)
    status: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
