"""A payment's whole life: refunds, reversals, disputes, decisions about money in suspense, and each day's revenue."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0009"

_KEEPS_ROWID_AWAY = {"sqlite_with_rowid": False}


def upgrade() -> None:
    _payments()
    _journals()
    _refunds()
    _watches()
    _revenue()
    op.add_column("provider_event", sa.Column("report", sa.String(), nullable=True))
    orphans = sa.text("outcome = 'orphan'")
    op.create_index(
        "provider_event_orphan", "provider_event", ["provider", "reference"],
        sqlite_where=orphans, postgresql_where=orphans,
    )  # fmt: skip
    with op.batch_alter_table("merchant") as merchant:
        merchant.add_column(sa.Column("late_policy", sa.String(), server_default="accept", nullable=False))
        merchant.create_check_constraint("merchant_late_policy", "late_policy IN ('accept', 'refund')")
    op.add_column(
        "fee_profile", sa.Column("refund_returns_fee", sa.Boolean(), server_default=sa.false(), nullable=False)
    )


def _payments() -> None:
    with op.batch_alter_table("payment", table_kwargs=_KEEPS_ROWID_AWAY) as payment:
        payment.add_column(sa.Column("paid_amount", sa.BigInteger(), nullable=True))
        payment.add_column(sa.Column("refunded_amount", sa.BigInteger(), server_default="0", nullable=False))
        payment.add_column(sa.Column("resolution", sa.String(), nullable=True))
        payment.add_column(sa.Column("reversed_at_ms", sa.BigInteger(), nullable=True))
        for name in ("payment_state_known", "payment_paid_has_a_time", "payment_fee_within_amount"):
            payment.drop_constraint(name, type_="check")
    op.execute("UPDATE payment SET paid_amount = amount WHERE paid_at_ms IS NOT NULL")
    with op.batch_alter_table("payment", table_kwargs=_KEEPS_ROWID_AWAY) as payment:
        payment.create_check_constraint(
            "payment_state_known",
            "state IN ('created', 'awaiting_payment', 'paid', 'partially_refunded', 'refunded', 'expired', "
            "'cancelled', 'failed', 'needs_review', 'reversed', 'disputed')",
        )
        payment.create_check_constraint(
            "payment_paid_has_a_time",
            "(state NOT IN ('paid', 'partially_refunded', 'reversed', 'disputed') OR paid_at_ms IS NOT NULL) "
            "AND (state IN ('paid', 'partially_refunded', 'refunded', 'reversed', 'disputed') OR paid_at_ms IS NULL)",
        )
        payment.create_check_constraint("payment_paid_is_whole", "(paid_amount IS NULL) = (paid_at_ms IS NULL)")
        payment.create_check_constraint("payment_fee_within_amount", "fee_amount BETWEEN 0 AND paid_amount")
        payment.create_check_constraint(
            "payment_refunds_within_paid", "refunded_amount BETWEEN 0 AND coalesce(paid_amount, 0)"
        )
        payment.create_check_constraint(
            "payment_reversed_has_a_time", "(state = 'reversed') = (reversed_at_ms IS NOT NULL)"
        )
        payment.create_check_constraint("payment_resolution", "resolution IN ('accepted', 'refunded', 'rejected')")
    review = sa.text("review_reason IS NOT NULL")
    op.create_index("payment_in_review", "payment", ["id"], sqlite_where=review, postgresql_where=review)
    named = sa.text("provider_reference IS NOT NULL")
    op.create_index(
        "payment_attempt_provider_reference", "payment_attempt", ["provider", "provider_reference"],
        sqlite_where=named, postgresql_where=named,
    )  # fmt: skip


def _journals() -> None:
    """SQLite makes the table anew, which takes the triggers that protect it away."""
    with op.batch_alter_table("journal", table_kwargs=_KEEPS_ROWID_AWAY) as journal:
        journal.drop_constraint("journal_kind", type_="check")
        journal.create_check_constraint(
            "journal_kind", "kind IN ('capture', 'suspense', 'refund', 'release', 'reversal')"
        )
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER journal_{deed.lower()}_refused BEFORE {deed} ON journal "
                f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
    later = sa.text("kind NOT IN ('capture', 'suspense')")
    op.create_index("journal_later", "journal", ["payment_id"], sqlite_where=later, postgresql_where=later)


def _refunds() -> None:
    op.create_table(
        "refund",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=True),
        sa.Column("provider", sa.String(), nullable=True),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("provider_refund_id", sa.String(), nullable=True),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_returned", sa.BigInteger(), nullable=False),
        sa.Column("returns_fee", sa.Boolean(), nullable=False),
        sa.Column("from_suspense", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("ask_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("raw_response", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("submitted_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('requested', 'submitted', 'unknown', 'done', 'failed')", name="refund_state_known"
        ),
        sa.CheckConstraint("origin IN ('person', 'late_policy', 'review', 'provider')", name="refund_origin"),
        sa.CheckConstraint("amount > 0", name="refund_amount_positive"),
        sa.CheckConstraint("fee_returned BETWEEN 0 AND amount", name="refund_fee_within_amount"),
        sa.CheckConstraint(
            "(state IN ('done', 'failed')) = (finished_at_ms IS NOT NULL)", name="refund_ended_has_a_time"
        ),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.ForeignKeyConstraint(["attempt_id"], ["payment_attempt.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("reference", name="refund_reference"),
    )
    op.create_index("refund_by_payment", "refund", ["payment_id", "id"])
    due = sa.text("ask_at_ms IS NOT NULL")
    op.create_index("refund_due", "refund", ["ask_at_ms"], sqlite_where=due, postgresql_where=due)


def _watches() -> None:
    op.create_table(
        "charge_watch",
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("ask_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["payment_attempt.id"]),
        sa.PrimaryKeyConstraint("attempt_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("charge_watch_due", "charge_watch", ["ask_at_ms"])
    op.execute(
        "INSERT INTO charge_watch (attempt_id, asks, ask_at_ms) "
        "SELECT id, 0, created_at_ms FROM payment_attempt WHERE state IN ('new', 'submitted', 'active', 'unknown')"
    )


def _revenue() -> None:
    op.create_table(
        "daily_revenue",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("payments", sa.BigInteger(), nullable=False),
        sa.Column("gross_amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_amount", sa.BigInteger(), nullable=False),
        sa.Column("refunds", sa.BigInteger(), nullable=False),
        sa.Column("refunded_amount", sa.BigInteger(), nullable=False),
        sa.Column("reversals", sa.BigInteger(), nullable=False),
        sa.Column("reversed_amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_returned", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["terminal_id"], ["terminal.id"]),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("day", "terminal_id", "provider"),
        sqlite_with_rowid=False,
    )
    op.create_index("daily_revenue_by_merchant", "daily_revenue", ["merchant_id", "day"])
