"""Texts that a machine wrote: what was wanted, what was asked and answered, and how often on a day. And warnings by a
bank's own thresholds."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"

_WAITS = sa.text("state = 'waiting'")
_OPEN = sa.text("state = 'open'")
_UNJUDGED = sa.text("judged_at_ms IS NULL")
_USES = "use IN ('score', 'warning', 'timing', 'products')"


def upgrade() -> None:
    op.create_index("credit_score_by_creation", "credit_score", ["created_at_ms"])
    op.create_table(
        "advice_text",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("use", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("prompt_version", sa.Integer(), nullable=False),
        sa.Column("input", sa.String(), nullable=False),
        sa.Column("answer", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("tokens_in", sa.Integer(), nullable=True),
        sa.Column("tokens_out", sa.Integer(), nullable=True),
        sa.Column("took_ms", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(_USES, name="advice_text_use"),
        sa.CheckConstraint("verdict IN ('accepted', 'refused', 'failed')", name="advice_text_verdict"),
        sa.CheckConstraint("(verdict = 'accepted') = (reason IS NULL)", name="advice_text_refused_why"),
        sa.CheckConstraint("verdict = 'failed' OR answer IS NOT NULL", name="advice_text_has_an_answer"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("advice_text_by_merchant", "advice_text", ["merchant_id", "id"])
    op.create_table(
        "advice_wish",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("use", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("input", sa.String(), nullable=False),
        sa.Column("names", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("text_id", sa.String(), nullable=True),
        sa.CheckConstraint(_USES, name="advice_wish_use"),
        sa.CheckConstraint("state IN ('waiting', 'written', 'given_up')", name="advice_wish_state"),
        sa.CheckConstraint("(state = 'written') = (text_id IS NOT NULL)", name="advice_wish_written_has_a_text"),
        sa.CheckConstraint("tries >= 0", name="advice_wish_counts_up"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["text_id"], ["advice_text.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("merchant_id", "use", "digest", name="advice_wish_once"),
    )
    op.create_index("advice_wish_due", "advice_wish", ["due_at_ms"], sqlite_where=_WAITS, postgresql_where=_WAITS)
    op.create_table(
        "advice_look",
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("score_id", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["score_id"], ["credit_score.id"]),
        sa.PrimaryKeyConstraint("merchant_id"),
    )
    op.create_table(
        "advice_budget",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )
    _keep_texts()
    _judge_for_banks()


def _judge_for_banks() -> None:
    op.add_column("early_warning", sa.Column("judged_for", sa.String(), nullable=False, server_default=""))
    op.drop_index("early_warning_one_open", "early_warning")
    op.create_index(
        "early_warning_one_open", "early_warning", ["merchant_id", "judged_for", "type"], unique=True,
        sqlite_where=_OPEN, postgresql_where=_OPEN,
    )  # fmt: skip
    op.create_table(
        "early_warning_threshold_change",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("thresholds", sa.String(), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("judged_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("version > 0", name="early_warning_threshold_change_counts"),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("organisation_id", "version", name="early_warning_threshold_change_version"),
    )
    op.create_index(
        "early_warning_threshold_change_due", "early_warning_threshold_change", ["id"], sqlite_where=_UNJUDGED,
        postgresql_where=_UNJUDGED,
    )  # fmt: skip


def _keep_texts() -> None:
    """What a machine said stays as it was said: the database itself refuses to change or delete it."""
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER advice_text_{deed.lower()}_refused BEFORE {deed} ON advice_text "
                f"BEGIN SELECT RAISE(ABORT, 'texts of a machine are append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_advice_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'texts of a machine are append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER advice_text_refused BEFORE UPDATE OR DELETE OR TRUNCATE ON advice_text "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_advice_change()"
    )
