"""Credentials that change in two phases, devices that are suspended for a reason, and what brokers say they let in."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_UNCONFIRMED = sa.text("state = 'issued'")
_DUE = sa.text("state = 'active' AND rotate_by_ms IS NOT NULL")


def upgrade() -> None:
    for name in ("batch_id", "state_reason"):
        op.add_column("device", sa.Column(name, sa.String(), nullable=True))
    for name in ("first_used_at_ms", "expires_at_ms", "rotate_asked_at_ms", "rotate_by_ms"):
        op.add_column("device_credential", sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_index(
        "device_credential_unconfirmed", "device_credential", ["device_id"], unique=True,
        sqlite_where=_UNCONFIRMED, postgresql_where=_UNCONFIRMED,
    )  # fmt: skip
    op.create_index(
        "device_credential_overdue", "device_credential", ["rotate_by_ms"],
        sqlite_where=_DUE, postgresql_where=_DUE,
    )  # fmt: skip
    op.add_column("credential_revision", sa.Column("changed_at_ms", sa.BigInteger(), nullable=True))
    op.create_table(
        "broker_report",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=True),
        sa.Column("users", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("reported_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard"),
    )
