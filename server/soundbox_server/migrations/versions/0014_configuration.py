"""What boxes are to be like: layers, and each box's document."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0010"

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
