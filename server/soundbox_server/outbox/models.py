from sqlalchemy import BigInteger, CheckConstraint, Index, false, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.outbox.state import Delivery

_STATES = ", ".join(f"'{state}'" for state in Delivery)
# A query on SQLite gets these only if it says their very words.
_SOON = text("transport = 'mqtt' AND state IN ('queued', 'published') AND finished_at_ms IS NULL")
_UNFINISHED = text("state IN ('queued', 'published', 'received') AND finished_at_ms IS NULL")
_LETTER = text("transport <> 'mqtt' AND state IN ('queued', 'published')")
_WEBHOOK = text("transport = 'webhook'")
_MAIL = text("transport = 'mail'")
_UNTOLD = text(
    "kind IN ('payment_success', 'payment_digest') AND state IN ('expired', 'stale_skipped') AND original_id IS NULL"
)
_FIRST_TELLING = text("kind = 'payment_success' AND original_id IS NULL")


class OutboxMessage(Base):
    """One message for one recipient, and its own delivery record until the recipient answers.

    `address` is a topic, `body` the exact bytes as sent. `attempt` fences a claim: whoever sends it next must have seen
    this attempt. A message without `due_at_ms` waits for its box's birth; one without `expires_at_ms` never expires.
    One that is `unconfirmed` ends as published, with `finished_at_ms`: nobody will say more, and it is not sent again.
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
        Index("outbox_due", "due_at_ms", sqlite_where=_SOON, postgresql_where=_SOON),
        # Apart from the boxes' messages: neither sweep wades through what is due for the other.
        Index("outbox_letter_due", "transport", "due_at_ms", sqlite_where=_LETTER, postgresql_where=_LETTER),
        # Nor does what waits for one receiver hold up another's.
        Index(
            "outbox_letter_recipient",
            *("transport", "recipient_id", "due_at_ms"),
            sqlite_where=_LETTER,
            postgresql_where=_LETTER,
        ),
        Index("outbox_webhook_seq", "recipient_id", "seq", sqlite_where=_WEBHOOK, postgresql_where=_WEBHOOK),
        # To forget what ended long ago, without wading through what was said to boxes.
        Index("outbox_mail", "id", sqlite_where=_MAIL, postgresql_where=_MAIL),
        Index("outbox_expiring", "expires_at_ms", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
        Index("outbox_recipient", "recipient_id", "id"),
        # What a box never heard, to be told in one sentence when it is back (announcements/digest.py).
        Index("outbox_untold", "recipient_id", "id", sqlite_where=_UNTOLD, postgresql_where=_UNTOLD),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    transport: Mapped[str]
    kind: Mapped[str]
    recipient_id: Mapped[str]
    subject_id: Mapped[str | None]
    original_id: Mapped[str | None]
    digest_id: Mapped[str | None]  # the message that told of it together with others
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
    # Its box believes whoever reaches its topic; its box answers nothing, and would take a second copy for another one.
    unsigned: Mapped[bool] = mapped_column(server_default=false())
    unconfirmed: Mapped[bool] = mapped_column(server_default=false())
