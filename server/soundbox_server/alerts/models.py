from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.alerts.state import AlertState, Severity
from soundbox_server.db import Base

_STATES = ", ".join(f"'{state}'" for state in AlertState)
_SEVERITIES = ", ".join(f"'{severity}'" for severity in Severity)
_STANDING = text("state <> 'resolved'")


class Alert(Base):
    """Something an operator must look at. While it stands, the same trouble of the same subject only counts up."""

    __tablename__ = "alert"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="alert_state_known"),
        CheckConstraint(f"severity IN ({_SEVERITIES})", name="alert_severity_known"),
        CheckConstraint("(state = 'resolved') = (resolved_at_ms IS NOT NULL)", name="alert_resolved_has_a_time"),
        Index(
            "alert_stands_once",
            *("kind", "subject_kind", "subject_id"),
            unique=True,
            sqlite_where=_STANDING,
            postgresql_where=_STANDING,
        ),
        Index("alert_by_subject", "subject_kind", "subject_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    severity: Mapped[str]
    subject_kind: Mapped[str]
    subject_id: Mapped[str]
    state: Mapped[str]
    facts: Mapped[str]  # JSON: of the last time
    times: Mapped[int]
    raised_at_ms: Mapped[int] = mapped_column(BigInteger)
    last_raised_at_ms: Mapped[int] = mapped_column(BigInteger)
    acknowledged_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    acknowledged_by: Mapped[str | None]
    resolved_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    resolved_by: Mapped[str | None]  # nobody: the cause went away
    note: Mapped[str | None]
