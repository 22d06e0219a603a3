from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.diagnosis.state import Direction, FileState, Level, Seen

_DIRECTIONS = ", ".join(f"'{one}'" for one in Direction)
_SEEN = ", ".join(f"'{one}'" for one in Seen)
_LEVELS = ", ".join(f"'{one}'" for one in Level)
_FILE_STATES = ", ".join(f"'{one}'" for one in FileState)
_OVER = text("expires_at_ms IS NOT NULL")


class MqttMessage(Base):
    """A message that went over the broker, as it may be shown: the newest of each box, written when there is time.

    No foreign key: it is written beside the box's row and must not wait for it.
    """

    __tablename__ = "mqtt_message"
    __table_args__ = (
        CheckConstraint(f"direction IN ({_DIRECTIONS})", name="mqtt_message_direction"),
        CheckConstraint(f"outcome IN ({_SEEN})", name="mqtt_message_outcome"),
        Index("mqtt_message_by_device", "device_id", "id"),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str]
    direction: Mapped[str]
    topic: Mapped[str]
    outcome: Mapped[str]
    payload: Mapped[str]  # what may be shown of it
    size_bytes: Mapped[int]
    message_id: Mapped[str | None]  # of the outbox, where it came from there
    attempt: Mapped[int | None]
    at_ms: Mapped[int] = mapped_column(BigInteger)


class DeviceEvent(Base):
    """Something a box wanted an operator to see. `said_at_ms` is the box's own time."""

    __tablename__ = "device_event"
    __table_args__ = (Index("device_event_by_device", "device_id", "id"), {"sqlite_with_rowid": False})

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str]
    code: Mapped[str]
    level: Mapped[str]
    detail: Mapped[str | None]
    said_at_ms: Mapped[int] = mapped_column(BigInteger)
    received_at_ms: Mapped[int] = mapped_column(BigInteger)


class DeviceLog(Base):
    """A line of a box's log, sent while somebody listened."""

    __tablename__ = "device_log"
    __table_args__ = (
        CheckConstraint(f"level IN ({_LEVELS})", name="device_log_level"),
        Index("device_log_by_device", "device_id", "id"),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str]
    level: Mapped[str]
    code: Mapped[str | None]
    detail: Mapped[str]
    said_at_ms: Mapped[int] = mapped_column(BigInteger)
    received_at_ms: Mapped[int] = mapped_column(BigInteger)


class LogFile(Base):
    """The whole log of a box, sent in pieces because a command asked for it. The file bears the row's id."""

    __tablename__ = "device_log_file"
    __table_args__ = (
        CheckConstraint(f"state IN ({_FILE_STATES})", name="device_log_file_state"),
        CheckConstraint("received_bytes BETWEEN 0 AND size_bytes", name="device_log_file_within_its_size"),
        CheckConstraint("state <> 'whole' OR received_bytes = size_bytes", name="device_log_file_is_whole"),
        Index("device_log_file_by_device", "device_id", "id"),
        Index("device_log_file_over", "expires_at_ms", sqlite_where=_OVER, postgresql_where=_OVER),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    command_id: Mapped[str] = mapped_column(ForeignKey("device_command.id"), unique=True)
    state: Mapped[str]
    size_bytes: Mapped[int]
    received_bytes: Mapped[int]
    sha256: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # None: its file is gone


class RetentionMark(Base):
    """How far something that is only emptied, and not deleted, has been walked through."""

    __tablename__ = "retention_mark"

    kind: Mapped[str] = mapped_column(primary_key=True)
    through_id: Mapped[str]
