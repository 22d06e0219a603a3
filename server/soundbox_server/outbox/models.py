from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.outbox.state import Delivery

_STATES = ", ".join(f"'{state}'" for state in Delivery)
_WAITING = text("state IN ('queued', 'published')")
_UNFINISHED = text("state IN ('queued', 'published', 'received')")
_LETTER = text("transport <> 'mqtt' AND state IN ('queued', 'published')")
_FIRST_TELLING = text("kind = 'payment_success' AND original_id IS NULL")


class OutboxMessage(Base):
    """One message for one recipient, and its own delivery record until the recipient answers.

    `address` is a topic, `body` the exact bytes as sent. `attempt` fences a claim: whoever sends it next must have seen
    this attempt. A message without `due_at_ms` waits for its box's birth; one without `expires_at_ms` never expires.
    """

    __tablename__ = "outbox_message"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="outbox_state_known"),
        CheckConstraint("attempt >= 0", name="outbox_attempt_counts_up"),
        # One announcement per payment and box, whatever raced; a replay says what it repeats.
        Index(
            "outbox_announced_once",
            "subject_id",
            "recipient_id",
            unique=True,
            sqlite_where=_FIRST_TELLING,
            postgresql_where=_FIRST_TELLING,
        ),
        Index("outbox_due", "due_at_ms", sqlite_where=_WAITING, postgresql_where=_WAITING),
        # Apart from the boxes' messages: neither sweep wades through what is due for the other.
        Index("outbox_letter_due", "transport", "due_at_ms", sqlite_where=_LETTER, postgresql_where=_LETTER),
        Index("outbox_expiring", "expires_at_ms", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
        Index("outbox_recipient", "recipient_id", "id"),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    transport: Mapped[str]
    kind: Mapped[str]
    recipient_id: Mapped[str]
    subject_id: Mapped[str | None]
    original_id: Mapped[str | None]
    seq: Mapped[int | None] = mapped_column(BigInteger)
    address: Mapped[str]
    body: Mapped[bytes]
    state: Mapped[str]
    reason: Mapped[str | None]
    owner: Mapped[str | None]
    attempt: Mapped[int]
    due_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    published_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    received_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    played_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    trace_id: Mapped[str]
