from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.partners.state import LicenseState, TokenState

_LICENSE_STATES = ", ".join(f"'{state}'" for state in LicenseState)
_TOKEN_STATES = ", ".join(f"'{state}'" for state in TokenState)
_RESERVED = text("state = 'reserved'")


class License(Base):
    """The right of one partner to charge for one merchant, perhaps at one till, paid for in tokens.

    The key is an identifier, readable by its owner and by staff. `tokens_taken` is what left the balance so far, net of
    what came back: the balance is what the ledger says was issued less that, and is only looked at under this row's
    lock. A license without an organisation belongs to nobody yet.
    """

    __tablename__ = "license"
    __table_args__ = (
        CheckConstraint(f"state IN ({_LICENSE_STATES})", name="license_state"),
        CheckConstraint("price_per_token > 0", name="license_price"),
        CheckConstraint("tokens_taken >= 0", name="license_tokens_taken"),
        CheckConstraint("terminal_id IS NULL OR merchant_id IS NOT NULL", name="license_terminal_has_merchant"),
        CheckConstraint("assigned_to IS NULL OR organisation_id IS NOT NULL", name="license_assigned_has_owner"),
        CheckConstraint("state <> 'trial' OR trial_expires_at_ms IS NOT NULL", name="license_trial_ends"),
        Index("license_of_organisation", "organisation_id", "id"),
        Index("license_of_merchant", "merchant_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    organisation_id: Mapped[str | None] = mapped_column(ForeignKey("organisation.id"))
    assigned_to: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    merchant_id: Mapped[str | None] = mapped_column(ForeignKey("merchant.id"))
    terminal_id: Mapped[str | None] = mapped_column(ForeignKey("terminal.id"))
    price_per_token: Mapped[int] = mapped_column(BigInteger)
    tokens_taken: Mapped[int] = mapped_column(BigInteger, server_default="0")
    state: Mapped[str]
    trial_expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    device_name: Mapped[str | None]
    device_serial_number: Mapped[str | None]
    device_model: Mapped[str | None]
    device_notes: Mapped[str | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class TokenUse(Base):
    """Tokens that left a license's balance: set aside for a payment until it is issued, or used at once."""

    __tablename__ = "token_use"
    __table_args__ = (
        CheckConstraint(f"state IN ({_TOKEN_STATES})", name="token_use_state"),
        CheckConstraint("tokens > 0", name="token_use_tokens"),
        CheckConstraint("new_balance >= 0 AND new_balance = previous_balance - tokens", name="token_use_balances"),
        CheckConstraint("(state = 'reserved') = (ended_at_ms IS NULL)", name="token_use_ended_has_a_time"),
        CheckConstraint("state = 'used' OR payment_id IS NOT NULL", name="token_use_reserved_for_a_payment"),
        UniqueConstraint("payment_id", name="token_use_once"),
        Index("token_use_of_license", "license_id", "id"),
        Index("token_use_reserved", "id", sqlite_where=_RESERVED, postgresql_where=_RESERVED),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    license_id: Mapped[str] = mapped_column(ForeignKey("license.id"))
    payment_id: Mapped[str | None] = mapped_column(ForeignKey("payment.id"))
    tokens: Mapped[int] = mapped_column(BigInteger)
    previous_balance: Mapped[int] = mapped_column(BigInteger)
    new_balance: Mapped[int] = mapped_column(BigInteger)
    purpose: Mapped[str]
    facts: Mapped[str | None]  # JSON, as the partner gave it
    state: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    ended_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class PartnerPayment(Base):
    """A payment that a partner asked for, by the partner's own name of it.

    Of several `number`s of one transaction_id the highest counts: the ones before it failed before anything was issued.
    `webhook_url` hears of it; `facts` is JSON of what else was said: description, items, customer.
    """

    __tablename__ = "partner_payment"
    __table_args__ = (
        UniqueConstraint("organisation_id", "transaction_id", "number", name="partner_payment_transaction"),
        CheckConstraint("payment_type IN ('qris', 'checkout_page')", name="partner_payment_type"),
        CheckConstraint("number > 0", name="partner_payment_number"),
    )

    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))
    license_id: Mapped[str] = mapped_column(ForeignKey("license.id"), index=True)
    transaction_id: Mapped[str]
    number: Mapped[int]
    payment_type: Mapped[str]
    session_id: Mapped[str] = mapped_column(ForeignKey("payment_session.id"))
    webhook_url: Mapped[str | None]
    facts: Mapped[str | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class TokenTopup(Base):
    """Tokens that a partner wants to buy: issued by the capture of its payment, which promised them."""

    __tablename__ = "token_topup"
    __table_args__ = (
        CheckConstraint("tokens_requested > 0 AND bonus_tokens >= 0", name="token_topup_tokens"),
        Index("token_topup_of_organisation", "organisation_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))
    license_id: Mapped[str] = mapped_column(ForeignKey("license.id"), index=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"), unique=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("payment_session.id"))
    tokens_requested: Mapped[int] = mapped_column(BigInteger)
    bonus_tokens: Mapped[int] = mapped_column(BigInteger)
    price_per_token: Mapped[int] = mapped_column(BigInteger)
    payment_method: Mapped[str]
    requested_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
