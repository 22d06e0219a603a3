"""What was sold, and what tills did while they were offline."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0008"

_KINDS = "kind IN ('transaction', 'payment', 'void')"


def upgrade() -> None:
    op.create_table(
        "sale",
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("order_code", sa.String(), nullable=False),
        sa.Column("product_name", sa.String(), nullable=True),
        sa.Column("items", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("merchant_id", "order_code"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
    )
    op.create_table(
        "offline_item",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("offline_reference", sa.String(), nullable=False),
        sa.Column("offline_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=True),
        sa.Column("facts", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(_KINDS, name="offline_item_kind"),
        sa.CheckConstraint("state IN ('draft', 'paid', 'void')", name="offline_item_state"),
        sa.CheckConstraint(
            "(kind = 'transaction') = (state IS NOT NULL)", name="offline_item_transactions_have_a_state"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("merchant_id", "kind", "offline_reference", name="offline_item_once"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
    )
    op.create_index("offline_item_offline_id", "offline_item", ["merchant_id", "offline_id"])
    _conflicts()


def _conflicts() -> None:
    op.create_table(
        "offline_conflict",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("offline_reference", sa.String(), nullable=False),
        sa.Column("offline_id", sa.String(), nullable=False),
        sa.Column("conflict_type", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("local_data", sa.String(), nullable=False),
        sa.Column("local_sha256", sa.String(), nullable=False),
        sa.Column("server_data", sa.String(), nullable=True),
        sa.Column("resolution_strategy", sa.String(), nullable=True),
        sa.Column("resolution_reason", sa.String(), nullable=True),
        sa.Column("resolved_by", sa.String(), nullable=True),
        sa.Column("resolved_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(_KINDS, name="offline_conflict_kind"),
        sa.CheckConstraint(
            "conflict_type IN ('duplicate', 'data_mismatch', 'constraint_violation')", name="offline_conflict_type"
        ),
        sa.CheckConstraint(
            "resolution_strategy IN ('keep_server', 'keep_local', 'merge')", name="offline_conflict_resolution"
        ),
        sa.CheckConstraint(
            "(resolution_strategy IS NULL) = (resolved_at_ms IS NULL)", name="offline_conflict_resolved_has_a_time"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("merchant_id", "local_sha256", name="offline_conflict_once"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["terminal_id"], ["terminal.id"]),
    )
    op.create_index("offline_conflict_of_merchant", "offline_conflict", ["merchant_id", "id"])
