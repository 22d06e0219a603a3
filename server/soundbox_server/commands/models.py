from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.commands.state import OPEN, CommandState
from soundbox_server.db import Base

_STATES = ", ".join(f"'{state}'" for state in CommandState)
_OPEN = text("state IN (" + ", ".join(f"'{state}'" for state in OPEN) + ")")
_UNANSWERED = text("state = 'open'")


class DeviceCommand(Base):
    """Something somebody wants a box to do. Its id is also that of the outbox message that carries it.

    `payload` is what may be shown of it, as JSON; `last_ack` the box's own last word.
    """

    __tablename__ = "device_command"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="device_command_state"),
        Index("device_command_by_device", "device_id", "id"),
        Index("device_command_open", "device_id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    name: Mapped[str]
    payload: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    last_ack: Mapped[str | None]
    result: Mapped[str | None]
    requested_by: Mapped[str | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    sent_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    delivered_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    result_due_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    trace_id: Mapped[str]


class DeviceCommandAck(Base):
    """What a box said of a command: each word once, of `progress` the newest. One that came too late to count, or that
    contradicts how the command had ended, is `conflicting`."""

    __tablename__ = "device_command_ack"

    command_id: Mapped[str] = mapped_column(ForeignKey("device_command.id"), primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    conflicting: Mapped[bool]
    reason: Mapped[str | None]
    result: Mapped[str | None]
    source: Mapped[str]
    received_at_ms: Mapped[int] = mapped_column(BigInteger)


class PossessionChallenge(Base):
    """A code that a box spoke and somebody in front of it has to repeat before the box is bound or unbound.

    Only a keyed hash of the code is kept. One open challenge a box: a new one takes the place of the last.
    """

    __tablename__ = "possession_challenge"
    __table_args__ = (
        CheckConstraint("purpose IN ('bind', 'unbind')", name="possession_purpose"),
        CheckConstraint("state IN ('open', 'passed', 'failed', 'superseded')", name="possession_state"),
        Index("possession_open_once", "device_id", unique=True, sqlite_where=_UNANSWERED, postgresql_where=_UNANSWERED),
        Index("possession_by_device", "device_id", "created_at_ms"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    command_id: Mapped[str] = mapped_column(ForeignKey("device_command.id"))
    purpose: Mapped[str]
    terminal_id: Mapped[str | None] = mapped_column(ForeignKey("terminal.id"))
    code_hmac: Mapped[str]
    state: Mapped[str]
    failures: Mapped[int]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
