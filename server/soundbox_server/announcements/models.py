from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class AnnouncementDigest(Base):
    """A box that is to be told what it missed, once the acks it kept are in. One row for each box, gone when it was
    looked at; what is told is in the outbox, whose rows say what was counted."""

    __tablename__ = "announcement_digest"

    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    above_seq: Mapped[int | None] = mapped_column(BigInteger)  # what its birth says it had; None: it does not say
    born_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # None: no birth, payments were reported too late
    due_at_ms: Mapped[int] = mapped_column(BigInteger)
