"""Scores that stay as they were given, early warnings, and the nights on which everybody was scored."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

_OPEN = sa.text("state = 'open'")


def upgrade() -> None:
    op.create_table(
        "credit_score",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("scored_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("risk_band", sa.String(), nullable=True),
        sa.Column("min_limit_idr", sa.BigInteger(), nullable=True),
        sa.Column("max_limit_idr", sa.BigInteger(), nullable=True),
        sa.Column("inputs", sa.String(), nullable=False),
        sa.Column("metrics", sa.String(), nullable=False),
        sa.Column("reasons", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("model IN ('paybaba-v1', 'soundbox-v2')", name="credit_score_model"),
        sa.CheckConstraint("risk_band IN ('Low', 'Medium', 'High')", name="credit_score_band"),
        sa.CheckConstraint("score BETWEEN 0 AND 100", name="credit_score_range"),
        sa.CheckConstraint(
            "(score IS NULL) = (risk_band IS NULL) AND (score IS NULL) = (min_limit_idr IS NULL) "
            "AND (score IS NULL) = (max_limit_idr IS NULL)",
            name="credit_score_whole",
        ),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("merchant_id", "model", "scored_at_ms", name="credit_score_once"),
    )
    op.create_table(
        "early_warning",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value_hundredths", sa.BigInteger(), nullable=False),
        sa.Column("threshold_hundredths", sa.Integer(), nullable=False),
        sa.Column("deviation_hundredths", sa.BigInteger(), nullable=False),
        sa.Column("detected_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "type IN ('revenue_drop', 'refund_spike', 'settlement_delay', 'transaction_drop', 'score_drop')",
            name="early_warning_type",
        ),
        sa.CheckConstraint("severity IN ('Low', 'Medium', 'Critical')", name="early_warning_severity"),
        sa.CheckConstraint("state IN ('open', 'resolved')", name="early_warning_state"),
        sa.CheckConstraint("(state = 'resolved') = (resolved_at_ms IS NOT NULL)", name="early_warning_end_has_a_time"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "early_warning_one_open", "early_warning", ["merchant_id", "type"], unique=True,
        sqlite_where=_OPEN, postgresql_where=_OPEN,
    )  # fmt: skip
    op.create_index("early_warning_by_merchant", "early_warning", ["merchant_id", "id"])
    op.create_table(
        "early_warning_threshold",
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("hundredths", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "type IN ('revenue_drop', 'refund_spike', 'settlement_delay', 'transaction_drop', 'score_drop')",
            name="early_warning_threshold_type",
        ),
        sa.CheckConstraint("hundredths > 0", name="early_warning_threshold_positive"),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.PrimaryKeyConstraint("organisation_id", "type"),
    )
    op.create_table(
        "scoring_run",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("merchants", sa.Integer(), nullable=True),
        sa.CheckConstraint("(merchants IS NULL) = (finished_at_ms IS NULL)", name="scoring_run_ended_has_a_time"),
        sa.PrimaryKeyConstraint("day", "model"),
    )
    _keep_scores()


def _keep_scores() -> None:
    """A score that was given stays: the database itself refuses to change or delete it."""
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER credit_score_{deed.lower()}_refused BEFORE {deed} ON credit_score "
                f"BEGIN SELECT RAISE(ABORT, 'scores are append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_score_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'scores are append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER credit_score_refused BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_score "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_score_change()"
    )
