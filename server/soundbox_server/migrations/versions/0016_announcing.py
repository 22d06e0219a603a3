"""Who hears of a payment, what boxes missed and are told of, and what they say of their clocks."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"

_UNTOLD = sa.text(
    "kind IN ('payment_success', 'payment_digest') AND state IN ('expired', 'stale_skipped') AND original_id IS NULL"
)
_ACTIVE = sa.text("unbound_at_ms IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("merchant") as merchant:
        merchant.add_column(sa.Column("announcement_policy", sa.String(), nullable=False, server_default="terminal"))
        merchant.create_check_constraint(
            "merchant_announcement_policy", "announcement_policy IN ('terminal', 'primary', 'outlet')"
        )
    op.create_index(
        "device_binding_outlet", "device_binding", ["outlet_id"], sqlite_where=_ACTIVE, postgresql_where=_ACTIVE
    )
    op.add_column("device", sa.Column("activated_at_ms", sa.BigInteger(), nullable=True))
    for name in ("has_clock", "takes_digests"):
        op.add_column("device_presence", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("device_presence", sa.Column("time_asked_at_ms", sa.BigInteger(), nullable=True))
    op.add_column("outbox_message", sa.Column("digest_id", sa.String(), nullable=True))
    op.create_index(
        "outbox_untold", "outbox_message", ["recipient_id", "id"], sqlite_where=_UNTOLD, postgresql_where=_UNTOLD
    )
    op.create_table(
        "announcement_digest",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("above_seq", sa.BigInteger(), nullable=True),
        sa.Column("born_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.PrimaryKeyConstraint("device_id"),
    )
