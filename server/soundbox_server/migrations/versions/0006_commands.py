"""Commands to boxes, codes that prove who stands in front of one, and what boxes were answered over MQTT."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_OPEN = sa.text("state IN ('queued', 'sent', 'delivered')")
_UNANSWERED = sa.text("state = 'open'")


def upgrade() -> None:
    op.add_column(
        "device_presence", sa.Column("command_progress", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_table(
        "device_command",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("payload", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("last_ack", sa.String(), nullable=True),
        sa.Column("result", sa.String(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("result_due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'sent', 'delivered', 'succeeded', 'failed', 'rejected', 'expired', 'timeout', "
            "'cancelled')",
            name="device_command_state",
        ),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("device_command_by_device", "device_command", ["device_id", "id"])
    op.create_index("device_command_open", "device_command", ["device_id"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.create_table(
        "device_command_ack",
        sa.Column("command_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("conflicting", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("result", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["command_id"], ["device_command.id"]),
        sa.PrimaryKeyConstraint("command_id", "status"),
    )
    op.create_table(
        "possession_challenge",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("command_id", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=True),
        sa.Column("code_hmac", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("purpose IN ('bind', 'unbind')", name="possession_purpose"),
        sa.CheckConstraint("state IN ('open', 'passed', 'failed', 'superseded')", name="possession_state"),
        sa.ForeignKeyConstraint(["command_id"], ["device_command.id"]),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.ForeignKeyConstraint(["terminal_id"], ["terminal.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "possession_open_once", "possession_challenge", ["device_id"], unique=True,
        sqlite_where=_UNANSWERED, postgresql_where=_UNANSWERED,
    )  # fmt: skip
    op.create_index("possession_by_device", "possession_challenge", ["device_id", "created_at_ms"])
    op.create_table(
        "provision_answer",
        sa.Column("nonce", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("nonce"),
    )
