from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class AuditEntry(Base):
    """Who did what to what, written in the deed's own transaction. The database refuses to change or delete one."""

    __tablename__ = "audit_entry"
    __table_args__ = (
        CheckConstraint("outcome IN ('success', 'failed', 'denied')", name="audit_outcome_known"),
        CheckConstraint("actor_kind IN ('person', 'api_key', 'device', 'system')", name="audit_actor_known"),
        Index("audit_entry_by_subject", "subject_kind", "subject_id", "id"),
        Index("audit_entry_by_actor", "actor_id", "id"),
        Index("audit_entry_by_organisation", "organisation_id", "id"),
        Index("audit_entry_by_action", "action", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    actor_kind: Mapped[str]
    actor_id: Mapped[str | None]
    organisation_id: Mapped[str | None]
    role: Mapped[str | None]
    ip: Mapped[str | None]
    action: Mapped[str]
    subject_kind: Mapped[str]
    subject_id: Mapped[str | None]
    outcome: Mapped[str]
    details: Mapped[str]  # canonical JSON, hashed as it stands
    request_id: Mapped[str | None]


class AuditUnlinked(Base):
    """Entries that the chain does not hold yet. A row lives here from its entry's commit to the next linking."""

    __tablename__ = "audit_unlinked"

    entry_id: Mapped[str] = mapped_column(ForeignKey("audit_entry.id"), primary_key=True)


class AuditLink(Base):
    """One link of the hash chain: h = SHA-256(previous hash, then the canonical row), in hex."""

    __tablename__ = "audit_link"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    entry_id: Mapped[str] = mapped_column(ForeignKey("audit_entry.id"), unique=True)
    hash: Mapped[str]
