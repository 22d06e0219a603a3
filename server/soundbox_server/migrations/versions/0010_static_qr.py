"""QR that hang at terminals, and by which names their payments are known."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "static_qr",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("partner_reference", sa.String(), nullable=False),
        sa.Column("provider_reference", sa.String(), nullable=True),
        sa.Column("qr_payload", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('payment', 'transfer')", name="static_qr_kind"),
        sa.CheckConstraint("state IN ('active', 'retired')", name="static_qr_state_known"),
        sa.CheckConstraint("(state = 'retired') = (retired_at_ms IS NOT NULL)", name="static_qr_retired_has_a_time"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["terminal_id"], ["terminal.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("provider", "partner_reference", name="static_qr_partner_reference"),
        sqlite_with_rowid=False,
    )
    op.create_index("static_qr_terminal", "static_qr", ["terminal_id", "id"])
    op.create_table(
        "static_transfer",
        sa.Column("static_qr_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("rrn", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["static_qr_id"], ["static_qr.id"]),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.PrimaryKeyConstraint("static_qr_id", "name"),
        sqlite_with_rowid=False,
    )
