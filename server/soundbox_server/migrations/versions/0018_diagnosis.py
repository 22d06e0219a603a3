"""What went over the broker, what boxes say of themselves, and their logs."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

_OVER = sa.text("expires_at_ms IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "mqtt_message",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("direction", sa.String(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("payload", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("direction IN ('up', 'down')", name="mqtt_message_direction"),
        sa.CheckConstraint("outcome IN ('read', 'unreadable', 'sent', 'not_sent')", name="mqtt_message_outcome"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("mqtt_message_by_device", "mqtt_message", ["device_id", "id"])
    op.create_table(
        "device_event",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("said_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("device_event_by_device", "device_event", ["device_id", "id"])
    op.create_table(
        "device_log",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("said_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("level IN ('debug', 'info', 'warning', 'error')", name="device_log_level"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("device_log_by_device", "device_log", ["device_id", "id"])
    op.create_table(
        "device_log_file",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("command_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("received_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('receiving', 'whole', 'damaged', 'expired')", name="device_log_file_state"),
        sa.CheckConstraint("received_bytes BETWEEN 0 AND size_bytes", name="device_log_file_within_its_size"),
        sa.CheckConstraint("state <> 'whole' OR received_bytes = size_bytes", name="device_log_file_is_whole"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.ForeignKeyConstraint(["command_id"], ["device_command.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("command_id"),
    )
    op.create_index("device_log_file_by_device", "device_log_file", ["device_id", "id"])
    op.create_index(
        "device_log_file_over", "device_log_file", ["expires_at_ms"], sqlite_where=_OVER, postgresql_where=_OVER
    )
    op.create_table(
        "retention_mark",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("through_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("kind"),
    )
