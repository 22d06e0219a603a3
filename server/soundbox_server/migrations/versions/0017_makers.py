"""Boxes of other makers: how each box is spoken to, what is sent unsigned or never confirmed, and when a box that can
prove nothing may ask for its settings."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_STATES = (
    "state IN ('queued', 'sent', 'delivered', 'succeeded', 'failed', 'rejected', 'expired', 'timeout', 'cancelled', "
    "'unconfirmed')"
)


def upgrade() -> None:
    op.add_column("device", sa.Column("codec", sa.String(), server_default="native", nullable=False))
    op.add_column("device_presence", sa.Column("has_display", sa.Boolean(), server_default=sa.true(), nullable=False))
    for name in ("unsigned", "unconfirmed"):
        op.add_column("outbox_message", sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table("device_command") as command:
        command.drop_constraint("device_command_state", type_="check")
        command.create_check_constraint("device_command_state", _STATES)
    op.create_table(
        "config_window",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("closes_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_by", sa.String(), nullable=True),
        sa.Column("imei", sa.String(), nullable=True),
        sa.Column("iccid", sa.String(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("grants", sa.Integer(), nullable=False),
        sa.Column("granted_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.PrimaryKeyConstraint("device_id"),
    )
