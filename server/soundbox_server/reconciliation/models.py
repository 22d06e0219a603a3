from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.reconciliation.state import (
    DifferenceKind,
    DifferenceReason,
    DifferenceState,
    LineKind,
    Settlement,
)

_LINES = ", ".join(f"'{kind}'" for kind in LineKind)
_KINDS = ", ".join(f"'{kind}'" for kind in DifferenceKind)
_REASONS = ", ".join(f"'{reason}'" for reason in DifferenceReason)
_STATES = ", ".join(f"'{state}'" for state in DifferenceState)
_SETTLEMENTS = ", ".join(f"'{settlement}'" for settlement in Settlement)
_OF_PAYMENT = text("payment_id IS NOT NULL")
_OF_REFUND = text("refund_id IS NOT NULL")
_MISSING_PAYMENT = text("kind = 'missing' AND refund_id IS NULL")
_MISSING_REFUND = text("kind = 'missing' AND refund_id IS NOT NULL")
_OPEN = text("state = 'open'")


class StatementMapping(Base):
    """Which columns of a provider's statements say what: JSON of `statements.Mapping`."""

    __tablename__ = "statement_mapping"

    provider: Mapped[str] = mapped_column(primary_key=True)
    columns: Mapped[str]
    updated_by: Mapped[str]
    updated_at_ms: Mapped[int] = mapped_column(BigInteger)


class ProviderStatement(Base):
    """A file in which a provider lists what it took for us, from `day_from` to `day_to` in Jakarta, both included.

    `columns` is the mapping that it was read by. The same file is imported once.
    """

    __tablename__ = "provider_statement"
    __table_args__ = (
        CheckConstraint("day_from <= day_to", name="provider_statement_days"),
        UniqueConstraint("provider", "sha256", name="provider_statement_once"),
        Index("provider_statement_days_of", "provider", "day_to"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str]
    day_from: Mapped[str]  # 2026-05-23
    day_to: Mapped[str]
    file_name: Mapped[str | None]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[str]
    payments: Mapped[int]
    paid_amount: Mapped[int] = mapped_column(BigInteger)
    fee_amount: Mapped[int | None] = mapped_column(BigInteger)
    refunds: Mapped[int]
    refunded_amount: Mapped[int] = mapped_column(BigInteger)
    matched: Mapped[int]  # lines that say what we say
    imported_by: Mapped[str]
    imported_at_ms: Mapped[int] = mapped_column(BigInteger)


class StatementLine(Base):
    """One line of it, and what it is to us."""

    __tablename__ = "provider_statement_line"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_LINES})", name="provider_statement_line_kind"),
        CheckConstraint("amount > 0", name="provider_statement_line_amount"),
        Index("provider_statement_line_payment", "payment_id", sqlite_where=_OF_PAYMENT, postgresql_where=_OF_PAYMENT),
        Index("provider_statement_line_refund", "refund_id", sqlite_where=_OF_REFUND, postgresql_where=_OF_REFUND),
        {"sqlite_with_rowid": False},
    )

    statement_id: Mapped[str] = mapped_column(ForeignKey("provider_statement.id"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    reference: Mapped[str | None]
    provider_reference: Mapped[str | None]
    rrn: Mapped[str | None]
    amount: Mapped[int] = mapped_column(BigInteger)
    fee: Mapped[int | None] = mapped_column(BigInteger)
    at_ms: Mapped[int | None] = mapped_column(BigInteger)
    payment_id: Mapped[str | None] = mapped_column(ForeignKey("payment.id"))
    refund_id: Mapped[str | None] = mapped_column(ForeignKey("refund.id"))


class Difference(Base):
    """What a statement and our books disagree about, until an operator settles it or a later statement clears it."""

    __tablename__ = "reconciliation_difference"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_KINDS})", name="reconciliation_difference_kind"),
        CheckConstraint(f"reason IN ({_REASONS})", name="reconciliation_difference_reason"),
        CheckConstraint(f"state IN ({_STATES})", name="reconciliation_difference_state"),
        CheckConstraint(f"settlement IN ({_SETTLEMENTS})", name="reconciliation_difference_settlement"),
        CheckConstraint("(state = 'open') = (ended_at_ms IS NULL)", name="reconciliation_difference_ended_has_a_time"),
        CheckConstraint(
            "(state = 'settled') = (settlement IS NOT NULL AND note IS NOT NULL AND settled_by IS NOT NULL)",
            name="reconciliation_difference_settled_is_whole",
        ),
        Index(
            "reconciliation_missing_payment", "payment_id", unique=True,
            sqlite_where=_MISSING_PAYMENT, postgresql_where=_MISSING_PAYMENT,
        ),
        Index(
            "reconciliation_missing_refund", "refund_id", unique=True,
            sqlite_where=_MISSING_REFUND, postgresql_where=_MISSING_REFUND,
        ),
        Index("reconciliation_difference_of", "statement_id", "id"),
        Index("reconciliation_difference_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(primary_key=True)
    statement_id: Mapped[str] = mapped_column(ForeignKey("provider_statement.id"))
    provider: Mapped[str]
    day: Mapped[str]
    kind: Mapped[str]
    reason: Mapped[str]
    line: Mapped[int | None]
    reference: Mapped[str | None]
    payment_id: Mapped[str | None] = mapped_column(ForeignKey("payment.id"))
    refund_id: Mapped[str | None] = mapped_column(ForeignKey("refund.id"))
    our_amount: Mapped[int | None] = mapped_column(BigInteger)
    their_amount: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str]
    settlement: Mapped[str | None]
    note: Mapped[str | None]
    settled_by: Mapped[str | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    ended_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class LedgerCheck(Base):
    """One night's comparison of the ledger with what payments say. `findings` is None until it is done."""

    __tablename__ = "ledger_check"
    __table_args__ = (
        CheckConstraint("(findings IS NULL) = (finished_at_ms IS NULL)", name="ledger_check_done_is_whole"),
    )

    day: Mapped[str] = mapped_column(primary_key=True)
    started_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    findings: Mapped[int | None]
    report: Mapped[str | None]  # JSON: the first of them
