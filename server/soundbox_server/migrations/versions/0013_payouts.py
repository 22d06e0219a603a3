"""Merchants' money on its way to their banks; providers' statements; the nightly look at the books."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

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
    _payouts()
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
            f"provider_statement_line_{of}",
            "provider_statement_line",
            [f"{of}_id"],
            sqlite_where=where,
            postgresql_where=where,
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
        sa.CheckConstraint(
            "(state = 'open') = (ended_at_ms IS NULL)", name="reconciliation_difference_ended_has_a_time"
        ),
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
            name,
            "reconciliation_difference",
            [column],
            unique=True,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_index("reconciliation_difference_of", "reconciliation_difference", ["statement_id", "id"])
    still_open = sa.text("state = 'open'")
    op.create_index(
        "reconciliation_difference_open",
        "reconciliation_difference",
        ["id"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )


def _payouts() -> None:
    op.create_table(
        "payout",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("settlement_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("bank", sa.String(), nullable=True),
        sa.Column("rail", sa.String(), nullable=True),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("bank_payout_id", sa.String(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("account_reference", sa.String(), nullable=True),
        sa.Column("account_type", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("paid_reference", sa.String(), nullable=True),
        sa.Column("note", sa.String(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("marked_by", sa.String(), nullable=True),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("ask_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("raw_response", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("submitted_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reversed_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('created', 'submitted', 'unknown', 'succeeded', 'failed', 'reversed')", name="payout_state_known"
        ),
        sa.CheckConstraint("mode IN ('merchant_direct', 'manual')", name="payout_mode_known"),
        sa.CheckConstraint("rail IN ('bi_fast', 'skn', 'rtgs')", name="payout_rail_known"),
        sa.CheckConstraint("amount > 0", name="payout_amount_positive"),
        sa.CheckConstraint("(mode = 'manual') = (bank IS NULL)", name="payout_by_a_bank_or_by_hand"),
        sa.CheckConstraint("mode <> 'manual' OR state NOT IN ('submitted', 'unknown')", name="payout_by_hand_is_known"),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'reversed')) = (finished_at_ms IS NOT NULL)",
            name="payout_ended_has_a_time",
        ),
        sa.CheckConstraint("(state = 'reversed') = (reversed_at_ms IS NOT NULL)", name="payout_reversed_has_a_time"),
        sa.CheckConstraint(
            "mode <> 'manual' OR state NOT IN ('succeeded', 'reversed') "
            "OR (paid_reference IS NOT NULL AND note IS NOT NULL AND marked_by IS NOT NULL)",
            name="payout_by_hand_is_somebodys",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("reference", name="payout_reference"),
        sa.UniqueConstraint("settlement_id", "number", name="payout_number"),
        sa.ForeignKeyConstraint(["settlement_id"], ["settlement.id"]),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
    )
    lives = sa.text("state IN ('created', 'submitted', 'unknown', 'succeeded')")
    op.create_index(
        "payout_one_at_a_time", "payout", ["settlement_id"], unique=True, sqlite_where=lives, postgresql_where=lives
    )
    due = sa.text("ask_at_ms IS NOT NULL")
    op.create_index("payout_due", "payout", ["ask_at_ms"], sqlite_where=due, postgresql_where=due)
    op.create_index("payout_by_merchant", "payout", ["merchant_id", "id"])
    op.create_table(
        "payout_event",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("bank", sa.String(), nullable=False),
        sa.Column("event_key", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("payout_id", sa.String(), nullable=True),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('applied', 'duplicate', 'ignored', 'needs_review', 'orphan')",
            name="payout_event_outcome_known",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("bank", "event_key", "body_sha256", name="payout_event_once"),
        sa.ForeignKeyConstraint(["payout_id"], ["payout.id"]),
    )
    op.create_index("payout_event_of", "payout_event", ["payout_id", "id"])
