"""What boxes are to be like, commands for many of them, tags, and when they could be reached."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0015"

_UNDER_WAY = sa.text("state IN ('waiting', 'running')")
_RUNNING = sa.text("ended_at_ms IS NULL")
_TO_DO = sa.text("state IN ('pending', 'pushed', 'drifted')")


def upgrade() -> None:
    op.create_table(
        "config_layer",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("subject_id", sa.String(), nullable=False),
        sa.Column("settings", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_by", sa.String(), nullable=True),
        sa.CheckConstraint("scope IN ('fleet', 'merchant', 'device')", name="config_layer_scope"),
        sa.CheckConstraint("scope <> 'fleet' OR subject_id = 'fleet'", name="config_layer_one_fleet"),
        sa.PrimaryKeyConstraint("scope", "subject_id"),
    )
    op.create_table(
        "device_config",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("config", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("built_from", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("pushed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("acked_version", sa.BigInteger(), nullable=True),
        sa.Column("acked_status", sa.String(), nullable=True),
        sa.Column("acked_sha256", sa.String(), nullable=True),
        sa.Column("acked_errors", sa.String(), nullable=True),
        sa.Column("acked_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reported_version", sa.BigInteger(), nullable=True),
        sa.Column("reported_sha256", sa.String(), nullable=True),
        sa.Column("reported_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('none', 'pending', 'pushed', 'applied', 'rejected', 'unanswered', 'drifted', 'cleared')",
            name="device_config_state",
        ),
        sa.CheckConstraint("(version = 0) = (state = 'none')", name="device_config_none_has_no_version"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.PrimaryKeyConstraint("device_id"),
    )
    op.create_index(
        "device_config_to_do", "device_config", ["state", "device_id"], sqlite_where=_TO_DO, postgresql_where=_TO_DO
    )
    op.add_column("device", sa.Column("tags", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "command_batch",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("payload", sa.String(), nullable=False),
        sa.Column("filter", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("fleet_wide", sa.Boolean(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("asked_by_person", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("decide_by_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'done', 'refused', 'lapsed', 'stopped')", name="command_batch_state"
        ),
        sa.CheckConstraint(
            "NOT fleet_wide OR state IN ('waiting', 'refused', 'lapsed') "
            "OR (decided_by IS NOT NULL AND decided_by <> asked_by_person)",
            name="command_batch_by_two_people",
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "command_batch_under_way", "command_batch", ["state", "id"],
        sqlite_where=_UNDER_WAY, postgresql_where=_UNDER_WAY,
    )  # fmt: skip
    op.create_table(
        "command_batch_target",
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("command_id", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'given', 'refused', 'stopped')", name="command_batch_target_state"),
        sa.CheckConstraint("(state = 'given') = (command_id IS NOT NULL)", name="command_batch_target_has_its_command"),
        sa.ForeignKeyConstraint(["batch_id"], ["command_batch.id"]),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.ForeignKeyConstraint(["command_id"], ["device_command.id"]),
        sa.PrimaryKeyConstraint("batch_id", "device_id"),
    )
    with op.batch_alter_table("device_presence") as presence:
        presence.add_column(sa.Column("heartbeat_s", sa.Integer(), nullable=True))
        presence.add_column(sa.Column("session_at_ms", sa.BigInteger(), nullable=True))
        presence.add_column(sa.Column("said_at_ms", sa.BigInteger(), nullable=True))
        presence.add_column(sa.Column("offline_reason", sa.String(), nullable=True))
        presence.add_column(sa.Column("window_began_ms", sa.BigInteger(), nullable=False, server_default="0"))
        presence.add_column(sa.Column("births", sa.Integer(), nullable=False, server_default="0"))
        presence.add_column(sa.Column("strays", sa.Integer(), nullable=False, server_default="0"))
        presence.add_column(sa.Column("quarantine", sa.String(), nullable=True))
        presence.create_check_constraint("device_presence_quarantine", "quarantine IN ('cloned', 'flapping')")
        presence.create_check_constraint("device_presence_quarantined_is_offline", "quarantine IS NULL OR NOT online")
    op.create_table(
        "device_online",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("began_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(), nullable=True),
        sa.CheckConstraint("ended_at_ms >= began_at_ms", name="device_online_ends_after_it_began"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "device_online_once", "device_online", ["device_id"], unique=True,
        sqlite_where=_RUNNING, postgresql_where=_RUNNING,
    )  # fmt: skip
    op.create_index("device_online_by_device", "device_online", ["device_id", "began_at_ms"])
