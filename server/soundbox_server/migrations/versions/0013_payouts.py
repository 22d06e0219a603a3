"""Providers' statements, where they and our books disagree, and the nightly look at the books."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0010"

_REASONS = (
    "reason IN ('not_in_statement', 'reference_unknown', 'twice_in_statement', 'amount', 'fee', 'kept_apart', "
    "'not_paid', 'paid_elsewhere', 'not_done')"
)


def upgrade() -> None:
    op.create_table(
        "ledger_check",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("findings", sa.Integer(), nullable=True),
        sa.Column("report", sa.String(), nullable=True),
        sa.CheckConstraint("(findings IS NULL) = (finished_at_ms IS NULL)", name="ledger_check_done_is_whole"),
        sa.PrimaryKeyConstraint("day"),
    )
    _statements()
    _differences()


def _statements() -> None:
    op.create_table(
        "statement_mapping",
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("columns", sa.String(), nullable=False),
        sa.Column("updated_by", sa.String(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("provider"),
    )
    op.create_table(
        "provider_statement",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("day_from", sa.String(), nullable=False),
        sa.Column("day_to", sa.String(), nullable=False),
        sa.Column("file_name", sa.String(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("columns", sa.String(), nullable=False),
        sa.Column("payments", sa.Integer(), nullable=False),
        sa.Column("paid_amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_amount", sa.BigInteger(), nullable=True),
        sa.Column("refunds", sa.Integer(), nullable=False),
        sa.Column("refunded_amount", sa.BigInteger(), nullable=False),
        sa.Column("matched", sa.Integer(), nullable=False),
        sa.Column("imported_by", sa.String(), nullable=False),
        sa.Column("imported_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("day_from <= day_to", name="provider_statement_days"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("provider", "sha256", name="provider_statement_once"),
    )
    op.create_index("provider_statement_days_of", "provider_statement", ["provider", "day_to"])
    op.create_table(
        "provider_statement_line",
        sa.Column("statement_id", sa.String(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=True),
        sa.Column("provider_reference", sa.String(), nullable=True),
        sa.Column("rrn", sa.String(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("fee", sa.BigInteger(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=True),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("refund_id", sa.String(), nullable=True),
        sa.CheckConstraint("kind IN ('payment', 'refund')", name="provider_statement_line_kind"),
        sa.CheckConstraint("amount > 0", name="provider_statement_line_amount"),
        sa.PrimaryKeyConstraint("statement_id", "line"),
        sa.ForeignKeyConstraint(["statement_id"], ["provider_statement.id"]),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.ForeignKeyConstraint(["refund_id"], ["refund.id"]),
        sqlite_with_rowid=False,
    )
    for of in ("payment", "refund"):
        where = sa.text(f"{of}_id IS NOT NULL")
        op.create_index(
            f"provider_statement_line_{of}", "provider_statement_line", [f"{of}_id"], sqlite_where=where, postgresql_where=where
        )


def _differences() -> None:
    op.create_table(
        "reconciliation_difference",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("statement_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("reference", sa.String(), nullable=True),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("refund_id", sa.String(), nullable=True),
        sa.Column("our_amount", sa.BigInteger(), nullable=True),
        sa.Column("their_amount", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("settlement", sa.String(), nullable=True),
        sa.Column("note", sa.String(), nullable=True),
        sa.Column("settled_by", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('missing', 'extra', 'different')", name="reconciliation_difference_kind"),
        sa.CheckConstraint(_REASONS, name="reconciliation_difference_reason"),
        sa.CheckConstraint("state IN ('open', 'settled', 'cleared')", name="reconciliation_difference_state"),
        sa.CheckConstraint(
            "settlement IN ('corrected_by_provider', 'corrected_here', 'written_off')",
            name="reconciliation_difference_settlement",
        ),
        sa.CheckConstraint("(state = 'open') = (ended_at_ms IS NULL)", name="reconciliation_difference_ended_has_a_time"),
        sa.CheckConstraint(
            "(state = 'settled') = (settlement IS NOT NULL AND note IS NOT NULL AND settled_by IS NOT NULL)",
            name="reconciliation_difference_settled_is_whole",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["statement_id"], ["provider_statement.id"]),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.ForeignKeyConstraint(["refund_id"], ["refund.id"]),
    )
    for name, column, where in (
        ("reconciliation_missing_payment", "payment_id", "kind = 'missing' AND refund_id IS NULL"),
        ("reconciliation_missing_refund", "refund_id", "kind = 'missing' AND refund_id IS NOT NULL"),
    ):
        op.create_index(
            name, "reconciliation_difference", [column], unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
    op.create_index("reconciliation_difference_of", "reconciliation_difference", ["statement_id", "id"])
    still_open = sa.text("state = 'open'")
    op.create_index(
        "reconciliation_difference_open", "reconciliation_difference", ["id"], sqlite_where=still_open, postgresql_where=still_open
    )
