from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.exports.state import UNFINISHED, ExportState

_STATES = ", ".join(f"'{state}'" for state in ExportState)
_UNFINISHED = text(f"state IN ({', '.join(repr(state.value) for state in UNFINISHED)})")
_THEIRS = text("organisation_id IS NOT NULL")


class ExportJob(Base):
    """A file somebody asked for. `attempt` fences whoever writes it: a writer that slept too long writes for nobody."""

    __tablename__ = "export_job"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="export_state_known"),
        CheckConstraint("format IN ('csv', 'jsonl', 'pdf')", name="export_format"),
        CheckConstraint("state <> 'done' OR (sha256 IS NOT NULL AND expires_at_ms IS NOT NULL)", name="export_whole"),
        Index("export_of_organisation", "organisation_id", "id", sqlite_where=_THEIRS, postgresql_where=_THEIRS),
        Index("export_unfinished", "id", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    format: Mapped[str]
    with_bom: Mapped[bool]
    filters: Mapped[str]  # JSON, as they were asked
    state: Mapped[str]
    requested_by: Mapped[str]
    organisation_id: Mapped[str | None] = mapped_column(ForeignKey("organisation.id"))  # that asked of itself
    requested_at_ms: Mapped[int] = mapped_column(BigInteger)
    owner: Mapped[str | None]
    attempt: Mapped[int]
    lease_until_ms: Mapped[int] = mapped_column(BigInteger)
    rows_done: Mapped[int] = mapped_column(BigInteger)
    rows_total: Mapped[int | None] = mapped_column(BigInteger)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None]
    failure: Mapped[str | None]
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)
