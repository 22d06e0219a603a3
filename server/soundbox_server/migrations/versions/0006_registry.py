"""Alerts, idempotency keys, exports, and the registry of merchants in full."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"


def upgrade() -> None:
    _alerts()
    _idempotency()


def _alerts() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("subject_kind", sa.String(), nullable=False),
        sa.Column("subject_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("facts", sa.String(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("raised_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_raised_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("acknowledged_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_by", sa.String(), nullable=True),
        sa.Column("resolved_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("resolved_by", sa.String(), nullable=True),
        sa.Column("note", sa.String(), nullable=True),
        sa.CheckConstraint("state IN ('open', 'acknowledged', 'resolved')", name="alert_state_known"),
        sa.CheckConstraint("severity IN ('info', 'warning', 'critical')", name="alert_severity_known"),
        sa.CheckConstraint("(state = 'resolved') = (resolved_at_ms IS NOT NULL)", name="alert_resolved_has_a_time"),
        sa.PrimaryKeyConstraint("id"),
    )
    standing = sa.text("state <> 'resolved'")
    op.create_index(
        "alert_stands_once", "alert", ["kind", "subject_kind", "subject_id"], unique=True,
        sqlite_where=standing, postgresql_where=standing,
    )  # fmt: skip
    op.create_index("alert_by_subject", "alert", ["subject_kind", "subject_id", "id"])


def _idempotency() -> None:
    op.create_table(
        "idempotency_key",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("media_type", sa.String(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(status IS NULL) = (body IS NULL)", name="idempotency_answer_is_whole"),
        sa.PrimaryKeyConstraint("scope", "key"),
    )
    op.create_index("idempotency_key_expiring", "idempotency_key", ["expires_at_ms"])
