from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base

# Each index costs every callback a page of the commit: partial ones are not touched by what they leave out.
_CAPTURE = text("kind = 'capture'")
_SUSPENSE = text("kind = 'suspense'")
_LATER = text("kind NOT IN ('capture', 'suspense')")
_KEYED = text("money_key IS NOT NULL")
_PROMISED = text("kind = 'promised'")
_ISSUED = text("unit = 'TOKEN' AND source = 'token_issue'")
_INTO_WALLET = text("substr(destination, 1, 7) = 'wallet:'")
_OUT_OF_WALLET = text("substr(source, 1, 7) = 'wallet:'")
KINDS = (
    "capture", "suspense", "refund", "release", "reversal", "settlement", "payout", "payout_reversal", "promised",
    "token", "withdrawal",
)  # fmt: skip


class Journal(Base):
    """One booked event. A payment is captured at most once; a suspense journal belongs to one provider event."""

    __tablename__ = "journal"
    __table_args__ = (
        CheckConstraint(f"kind IN ({', '.join(repr(kind) for kind in KINDS)})", name="journal_kind"),
        Index("journal_captured_once", "payment_id", unique=True, sqlite_where=_CAPTURE, postgresql_where=_CAPTURE),
        Index("journal_suspense", "payment_id", sqlite_where=_SUSPENSE, postgresql_where=_SUSPENSE),
        Index("journal_later", "payment_id", sqlite_where=_LATER, postgresql_where=_LATER),
        Index("journal_event", "provider_event_id", unique=True, sqlite_where=_SUSPENSE, postgresql_where=_SUSPENSE),
        Index("journal_money", "money_key", unique=True, sqlite_where=_KEYED, postgresql_where=_KEYED),
        Index("journal_promised_once", "payment_id", unique=True, sqlite_where=_PROMISED, postgresql_where=_PROMISED),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    payment_id: Mapped[str | None]
    provider_event_id: Mapped[str | None]
    money_key: Mapped[str | None]
    booked_at_ms: Mapped[int] = mapped_column(BigInteger)


class Posting(Base):
    """One positive amount that moved from one account to another. Triggers refuse to change or delete a row."""

    __tablename__ = "posting"
    __table_args__ = (
        CheckConstraint("amount > 0", name="posting_amount_positive"),
        CheckConstraint("source <> destination", name="posting_moves"),
        CheckConstraint("unit IN ('IDR', 'TOKEN')", name="posting_unit"),
        Index("posting_tokens_issued", "destination", sqlite_where=_ISSUED, postgresql_where=_ISSUED),
        # What is in a wallet is asked before anything leaves it.
        Index("posting_into_wallet", "destination", sqlite_where=_INTO_WALLET, postgresql_where=_INTO_WALLET),
        Index("posting_out_of_wallet", "source", sqlite_where=_OUT_OF_WALLET, postgresql_where=_OUT_OF_WALLET),
        {"sqlite_with_rowid": False},
    )

    journal_id: Mapped[str] = mapped_column(ForeignKey("journal.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    source: Mapped[str]
    destination: Mapped[str]
    unit: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
