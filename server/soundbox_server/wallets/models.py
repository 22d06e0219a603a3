from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.wallets.state import PENDING, Direction, EntryKind, InvoiceState, SessionState, WithdrawalState


def _among(states: Iterable[str]) -> str:
    return ", ".join(f"'{state}'" for state in states)


_DEFAULT = text("is_default")
_PENDING = text(f"state IN ({_among(PENDING)})")
_DUE = text("ask_at_ms IS NOT NULL")


class WalletHolder(Base):
    """An organisation that holds wallets, and what proves that it is its owner who spends from them.

    `pin_tries` are wrong ones in a row, each counted before it was compared; nobody may try before
    `pin_locked_until_ms`.
    """

    __tablename__ = "wallet_holder"
    __table_args__ = (CheckConstraint("pin_tries >= 0", name="wallet_holder_tries"),)

    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"), primary_key=True)
    category: Mapped[str | None]
    pin_hash: Mapped[str | None]
    pin_tries: Mapped[int]
    pin_locked_until_ms: Mapped[int] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Wallet(Base):
    """A named view of the ledger's account `wallet:<id>`. What is in it is the sum of that account's postings, and is
    looked at under this row's lock before anything leaves it. Only an organisation's default one pays."""

    __tablename__ = "wallet"
    __table_args__ = (
        Index("wallet_default", "organisation_id", unique=True, sqlite_where=_DEFAULT, postgresql_where=_DEFAULT),
        Index("wallet_of_organisation", "organisation_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("wallet_holder.organisation_id"))
    is_default: Mapped[bool]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int] = mapped_column(BigInteger)


class WalletSession(Base):
    """A sum that is asked for, to be paid once from another wallet before its time is over. The id is its trace id.

    `total_amount` is what the payer pays, `amount` with the service fee; the fee is the payee's to hand on.
    """

    __tablename__ = "wallet_session"
    __table_args__ = (
        CheckConstraint(f"state IN ({_among(SessionState)})", name="wallet_session_state_known"),
        CheckConstraint("amount > 0 AND fee_amount >= 0", name="wallet_session_amounts"),
        CheckConstraint("total_amount = amount + fee_amount", name="wallet_session_total"),
        CheckConstraint("payer_wallet_id <> wallet_id", name="wallet_session_pays_somebody_else"),
        CheckConstraint(
            "(state = 'success') = (payment_id IS NOT NULL AND payer_wallet_id IS NOT NULL AND paid_at_ms IS NOT NULL)",
            name="wallet_session_paid_is_whole",
        ),
        UniqueConstraint("payment_id", name="wallet_session_payment"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    wallet_id: Mapped[str] = mapped_column(ForeignKey("wallet.id"), index=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    outlet_id: Mapped[str] = mapped_column(ForeignKey("outlet.id"))
    terminal_id: Mapped[str] = mapped_column(ForeignKey("terminal.id"))
    amount: Mapped[int] = mapped_column(BigInteger)
    fee_percent: Mapped[int]
    fee_amount: Mapped[int] = mapped_column(BigInteger)
    total_amount: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str]
    payer_wallet_id: Mapped[str | None] = mapped_column(ForeignKey("wallet.id"), index=True)
    payment_id: Mapped[str | None] = mapped_column(ForeignKey("payment.id"))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    paid_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class WalletEntry(Base):
    """A line of a wallet's list: something that moved its money, or is to. Where that stands is told by what it tells
    of: the session or the withdrawal of its trace id, or the payment that has it as order_code at `merchant_id`."""

    __tablename__ = "wallet_entry"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_among(EntryKind)})", name="wallet_entry_kind"),
        CheckConstraint(f"direction IN ({_among(Direction)})", name="wallet_entry_direction"),
        CheckConstraint("total_amount > 0", name="wallet_entry_amount_positive"),
        UniqueConstraint("wallet_id", "trace_id", "kind", "direction", name="wallet_entry_once"),
        Index("wallet_entry_of_organisation", "organisation_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("wallet_holder.organisation_id"))
    wallet_id: Mapped[str] = mapped_column(ForeignKey("wallet.id"))
    kind: Mapped[str]
    direction: Mapped[str]
    trace_id: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    fee_percent: Mapped[int]
    total_amount: Mapped[int] = mapped_column(BigInteger)
    counterparty: Mapped[str | None]
    merchant_id: Mapped[str | None] = mapped_column(ForeignKey("merchant.id"))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class WalletWithdrawal(Base):
    """Money on its way from a wallet to its organisation's bank account. `reference` is ours, and stands before the
    bank is asked. One that is on its way blocks another, which is a key of the table."""

    __tablename__ = "wallet_withdrawal"
    __table_args__ = (
        CheckConstraint(f"state IN ({_among(WithdrawalState)})", name="wallet_withdrawal_state_known"),
        CheckConstraint("amount > 0", name="wallet_withdrawal_amount_positive"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'reversed')) = (finished_at_ms IS NOT NULL)",
            name="wallet_withdrawal_ended_has_a_time",
        ),
        UniqueConstraint("reference", name="wallet_withdrawal_reference"),
        Index(
            "wallet_withdrawal_one_at_a_time",
            "wallet_id",
            unique=True,
            sqlite_where=_PENDING,
            postgresql_where=_PENDING,
        ),
        Index("wallet_withdrawal_due", "ask_at_ms", sqlite_where=_DUE, postgresql_where=_DUE),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    wallet_id: Mapped[str] = mapped_column(ForeignKey("wallet.id"))
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    amount: Mapped[int] = mapped_column(BigInteger)
    bank: Mapped[str]
    rail: Mapped[str | None]
    reference: Mapped[str]
    bank_payout_id: Mapped[str | None]
    account_reference: Mapped[str]
    account_type: Mapped[str | None]
    state: Mapped[str]
    error_code: Mapped[str | None]
    requested_by: Mapped[str]
    asks: Mapped[int]
    ask_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    lease_until_ms: Mapped[int] = mapped_column(BigInteger)
    raw_response: Mapped[bytes | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class WalletInvoice(Base):
    """A bill that was mailed to somebody with a link and a one-time password. It is paid by QRIS at the till; `charges`
    counts the QR that were issued for it, for one that ended unpaid is followed by another."""

    __tablename__ = "wallet_invoice"
    __table_args__ = (
        CheckConstraint(f"state IN ({_among(InvoiceState)})", name="wallet_invoice_state_known"),
        CheckConstraint("amount > 0", name="wallet_invoice_amount_positive"),
        Index("wallet_invoice_of_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    outlet_id: Mapped[str] = mapped_column(ForeignKey("outlet.id"))
    terminal_id: Mapped[str] = mapped_column(ForeignKey("terminal.id"))
    email: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str | None]
    otp_hash: Mapped[str]
    otp_tries: Mapped[int]
    state: Mapped[str]
    charges: Mapped[int]
    created_by: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
