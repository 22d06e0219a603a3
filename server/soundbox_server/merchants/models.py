from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.fees.state import FeeCategory
from soundbox_server.merchants.state import (
    AccountChangeState,
    AnnouncementPolicy,
    DocumentState,
    MerchantState,
    PlaceState,
)

_MERCHANT_STATES = ", ".join(f"'{state}'" for state in MerchantState)
_DOCUMENT_STATES = ", ".join(f"'{state}'" for state in DocumentState)
_CHANGE_STATES = ", ".join(f"'{state}'" for state in AccountChangeState)
_PLACE_STATES = ", ".join(f"'{state}'" for state in PlaceState)
_FEE_CATEGORIES = ", ".join(f"'{category}'" for category in FeeCategory)
_ANNOUNCEMENT_POLICIES = ", ".join(f"'{policy}'" for policy in AnnouncementPolicy)
_DEFAULT = text("is_default")
_WAITING = text("state IN ('requested', 'approved')")


class Merchant(Base):
    """An organisation's selling profile. Only an approved one issues QR and is announced.

    What every QR carries may still be missing while the merchant is looked at, and is there once it is approved.
    """

    __tablename__ = "merchant"
    __table_args__ = (
        CheckConstraint(f"status IN ({_MERCHANT_STATES})", name="merchant_status"),
        CheckConstraint("payout_mode IN ('merchant_direct', 'manual')", name="merchant_payout_mode"),
        CheckConstraint("late_policy IN ('accept', 'refund')", name="merchant_late_policy"),
        CheckConstraint(f"announcement_policy IN ({_ANNOUNCEMENT_POLICIES})", name="merchant_announcement_policy"),
        CheckConstraint(f"fee_category IN ({_FEE_CATEGORIES})", name="merchant_fee_category"),
        CheckConstraint(
            "status IN ('pending', 'rejected') OR (city IS NOT NULL AND postal_code IS NOT NULL AND mcc IS NOT NULL "
            "AND nmid IS NOT NULL AND criteria IS NOT NULL AND fee_profile_id IS NOT NULL)",
            name="merchant_whole_when_approved",
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"), index=True)
    merchant_code: Mapped[str] = mapped_column(unique=True)
    legal_name: Mapped[str]
    brand_name: Mapped[str]
    city: Mapped[str | None]
    postal_code: Mapped[str | None]
    mcc: Mapped[str | None]
    nmid: Mapped[str | None]
    criteria: Mapped[str | None]
    fee_profile_id: Mapped[str | None] = mapped_column(ForeignKey("fee_profile.id"))
    owner_email: Mapped[str | None]
    settlement_account_reference: Mapped[str | None]
    settlement_account_type: Mapped[str | None]
    payout_mode: Mapped[str]
    status: Mapped[str]
    status_reason: Mapped[str | None]
    approved_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # the first time: from then on money may be waiting
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    # What becomes of money that comes after its QR has ended: kept and announced, or given back unsaid.
    late_policy: Mapped[str] = mapped_column(server_default="accept")
    announcement_policy: Mapped[str] = mapped_column(server_default="terminal")  # which boxes say its payments
    fee_category: Mapped[str | None]  # where the rule book has a rate of its own, whatever the criteria
    erased_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # forgotten: only what the law keeps is left


class MerchantDocument(Base):
    """A paper that a merchant showed: a file of ours, named by its hash, or an address that we never open."""

    __tablename__ = "merchant_document"
    __table_args__ = (
        CheckConstraint(f"verification_status IN ({_DOCUMENT_STATES})", name="merchant_document_status"),
        CheckConstraint("(document_url IS NULL) <> (sha256 IS NULL)", name="merchant_document_is_somewhere"),
        Index("merchant_document_by_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    document_type: Mapped[str]
    document_url: Mapped[str | None]
    sha256: Mapped[str | None]
    media_type: Mapped[str | None]
    size_bytes: Mapped[int | None]
    verification_status: Mapped[str]
    reason: Mapped[str | None]
    shown_by: Mapped[str | None]
    checked_by: Mapped[str | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    checked_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class AccountChange(Base):
    """Where a merchant that may have money waiting wants to be paid from now on: two people, then a hold."""

    __tablename__ = "merchant_account_change"
    __table_args__ = (
        CheckConstraint(f"state IN ({_CHANGE_STATES})", name="account_change_state_known"),
        CheckConstraint(
            "state NOT IN ('approved', 'applied') OR (decided_by <> requested_by AND effective_at_ms IS NOT NULL)",
            name="account_change_by_two_people",
        ),
        Index(
            "account_change_one_at_a_time",
            "merchant_id",
            unique=True,
            sqlite_where=_WAITING,
            postgresql_where=_WAITING,
        ),
        Index("account_change_by_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    account_reference: Mapped[str | None]
    account_type: Mapped[str | None]
    state: Mapped[str]
    reason: Mapped[str | None]
    requested_by: Mapped[str]
    requested_at_ms: Mapped[int] = mapped_column(BigInteger)
    decided_by: Mapped[str | None]
    decided_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    effective_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class Outlet(Base):
    __tablename__ = "outlet"
    __table_args__ = (
        UniqueConstraint("merchant_id", "outlet_code"),
        CheckConstraint(f"status IN ({_PLACE_STATES})", name="outlet_status"),
        Index("outlet_default", "merchant_id", unique=True, sqlite_where=_DEFAULT, postgresql_where=_DEFAULT),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    outlet_code: Mapped[str]
    name: Mapped[str]
    address: Mapped[str]
    status: Mapped[str]
    is_default: Mapped[bool] = mapped_column(server_default=false(), default=False)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class Terminal(Base):
    """A till. `partner_reference` is what a provider calls the static QR that stands on it."""

    __tablename__ = "terminal"
    __table_args__ = (
        UniqueConstraint("outlet_id", "terminal_code"),
        CheckConstraint("qr_mode IN ('static', 'dynamic')", name="terminal_qr_mode"),
        CheckConstraint(f"status IN ({_PLACE_STATES})", name="terminal_status"),
        Index("terminal_default", "merchant_id", unique=True, sqlite_where=_DEFAULT, postgresql_where=_DEFAULT),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    outlet_id: Mapped[str] = mapped_column(ForeignKey("outlet.id"))
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"), index=True)
    terminal_code: Mapped[str]
    qr_mode: Mapped[str]
    partner_reference: Mapped[str | None] = mapped_column(unique=True)
    status: Mapped[str]
    is_default: Mapped[bool] = mapped_column(server_default=false(), default=False)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int | None] = mapped_column(BigInteger)
