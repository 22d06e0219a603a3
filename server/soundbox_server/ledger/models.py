from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base

_CAPTURE = text("kind = 'capture'")


class Journal(Base):
    """One booked event. A payment is captured at most once; a suspense journal belongs to one provider event."""

    __tablename__ = "journal"
    __table_args__ = (
        CheckConstraint("kind IN ('capture', 'suspense')", name="journal_kind"),
        Index("journal_captured_once", "payment_id", unique=True, sqlite_where=_CAPTURE, postgresql_where=_CAPTURE),
        Index("journal_payment", "payment_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    payment_id: Mapped[str | None]
    provider_event_id: Mapped[str | None] = mapped_column(unique=True)
    money_key: Mapped[str | None] = mapped_column(unique=True)
    booked_at_ms: Mapped[int] = mapped_column(BigInteger)


class Posting(Base):
    """One positive amount that moved from one account to another. Triggers refuse to change or delete a row."""

    __tablename__ = "posting"
    __table_args__ = (
        CheckConstraint("amount > 0", name="posting_amount_positive"),
        CheckConstraint("source <> destination", name="posting_moves"),
        CheckConstraint("unit IN ('IDR', 'TOKEN')", name="posting_unit"),
        Index("posting_source", "source", "id"),
        Index("posting_destination", "destination", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    journal_id: Mapped[str] = mapped_column(ForeignKey("journal.id"), index=True)
    source: Mapped[str]
    destination: Mapped[str]
    unit: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
