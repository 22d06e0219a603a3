from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.commands.state import OPEN, BatchState, CommandState
from soundbox_server.db import Base

_STATES = ", ".join(f"'{state}'" for state in CommandState)
_BATCH_STATES = ", ".join(f"'{state}'" for state in BatchState)
_OPEN = text("state IN (" + ", ".join(f"'{state}'" for state in OPEN) + ")")
_UNANSWERED = text("state = 'open'")
_UNDER_WAY = text("state IN ('waiting', 'running')")


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


class CommandBatch(Base):
    """One command for every box that a filter found when it was asked for. The whole fleet takes two people.

    `asked_by_person` is who stands behind it, also when a key of theirs asked.
    """

    __tablename__ = "command_batch"
    __table_args__ = (
        CheckConstraint(f"state IN ({_BATCH_STATES})", name="command_batch_state"),
        CheckConstraint(
            "NOT fleet_wide OR state IN ('waiting', 'refused', 'lapsed') "
            "OR (decided_by IS NOT NULL AND decided_by <> asked_by_person)",
            name="command_batch_by_two_people",
        ),
        Index("command_batch_under_way", "state", "id", sqlite_where=_UNDER_WAY, postgresql_where=_UNDER_WAY),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    payload: Mapped[str]
    filter: Mapped[str]
    state: Mapped[str]
    fleet_wide: Mapped[bool]
    total: Mapped[int]
    requested_by: Mapped[str]
    asked_by_person: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    decide_by_ms: Mapped[int] = mapped_column(BigInteger)
    decided_by: Mapped[str | None]
    decided_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[str | None]
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    trace_id: Mapped[str]


class CommandBatchTarget(Base):
    """A box that a batch is for: its command once it was given, or why it was not."""

    __tablename__ = "command_batch_target"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'given', 'refused', 'stopped')", name="command_batch_target_state"),
        CheckConstraint("(state = 'given') = (command_id IS NOT NULL)", name="command_batch_target_has_its_command"),
    )

    batch_id: Mapped[str] = mapped_column(ForeignKey("command_batch.id"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    state: Mapped[str]
    command_id: Mapped[str | None] = mapped_column(ForeignKey("device_command.id"))
    reason: Mapped[str | None]


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
