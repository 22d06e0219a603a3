"""Alerts, idempotency keys, exports, and the registry of merchants in full."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _alerts()
    _idempotency()
    _merchants()
    _places()
    _documents()
    _account_changes()
    _first_fee_profile()
    for name in ("label", "notes"):
        op.add_column("device", sa.Column(name, sa.String(), nullable=True))
    op.create_index("audit_entry_by_action", "audit_entry", ["action", "id"])


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
        sa.Column("key_sha256", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("media_type", sa.String(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(status IS NULL) = (body IS NULL)", name="idempotency_answer_is_whole"),
        sa.PrimaryKeyConstraint("scope", "key_sha256"),
    )
    op.create_index("idempotency_key_expiring", "idempotency_key", ["expires_at_ms"])


def _merchants() -> None:
    with op.batch_alter_table("merchant") as merchant:
        for name in ("city", "postal_code", "mcc", "nmid", "criteria", "fee_profile_id"):
            merchant.alter_column(name, existing_type=sa.String(), nullable=True)
        merchant.add_column(sa.Column("owner_email", sa.String(), nullable=True))
        merchant.add_column(sa.Column("status_reason", sa.String(), nullable=True))
        merchant.add_column(sa.Column("approved_at_ms", sa.BigInteger(), nullable=True))
        merchant.add_column(sa.Column("updated_at_ms", sa.BigInteger(), nullable=True))
        merchant.drop_constraint("merchant_status", type_="check")
        merchant.create_check_constraint(
            "merchant_status", "status IN ('pending', 'approved', 'suspended', 'rejected')"
        )
        merchant.create_check_constraint(
            "merchant_whole_when_approved",
            "status IN ('pending', 'rejected') OR (city IS NOT NULL AND postal_code IS NOT NULL AND mcc IS NOT NULL "
            "AND nmid IS NOT NULL AND criteria IS NOT NULL AND fee_profile_id IS NOT NULL)",
        )
    op.execute("UPDATE merchant SET approved_at_ms = created_at_ms WHERE status = 'approved'")


def _places() -> None:
    for table in ("outlet", "terminal"):
        with op.batch_alter_table(table) as place:
            place.add_column(sa.Column("is_default", sa.Boolean(), server_default=sa.false(), nullable=False))
            place.add_column(sa.Column("updated_at_ms", sa.BigInteger(), nullable=True))
            place.create_check_constraint(f"{table}_status", "status IN ('active', 'disabled')")
    op.execute(
        "UPDATE outlet SET is_default = TRUE WHERE id = (SELECT o.id FROM outlet o "
        "WHERE o.merchant_id = outlet.merchant_id ORDER BY o.created_at_ms, o.id LIMIT 1)"
    )
    op.execute(
        "UPDATE terminal SET is_default = TRUE WHERE id = (SELECT t.id FROM terminal t JOIN outlet o "
        "ON o.id = t.outlet_id AND o.is_default WHERE t.merchant_id = terminal.merchant_id "
        "ORDER BY t.created_at_ms, t.id LIMIT 1)"
    )
    default = sa.text("is_default")
    for table in ("outlet", "terminal"):
        op.create_index(
            f"{table}_default", table, ["merchant_id"], unique=True, sqlite_where=default, postgresql_where=default
        )


def _documents() -> None:
    op.create_table(
        "merchant_document",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("document_type", sa.String(), nullable=False),
        sa.Column("document_url", sa.String(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("media_type", sa.String(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=True),
        sa.Column("verification_status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("shown_by", sa.String(), nullable=True),
        sa.Column("checked_by", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("checked_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "verification_status IN ('pending', 'verified', 'refused')", name="merchant_document_status"
        ),
        sa.CheckConstraint("(document_url IS NULL) <> (sha256 IS NULL)", name="merchant_document_is_somewhere"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("merchant_document_by_merchant", "merchant_document", ["merchant_id", "id"])


def _account_changes() -> None:
    op.create_table(
        "merchant_account_change",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("account_reference", sa.String(), nullable=True),
        sa.Column("account_type", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("effective_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('requested', 'approved', 'applied', 'refused')", name="account_change_state_known"
        ),
        sa.CheckConstraint(
            "state NOT IN ('approved', 'applied') OR (decided_by <> requested_by AND effective_at_ms IS NOT NULL)",
            name="account_change_by_two_people",
        ),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    waiting = sa.text("state IN ('requested', 'approved')")
    op.create_index(
        "account_change_one_at_a_time", "merchant_account_change", ["merchant_id"], unique=True,
        sqlite_where=waiting, postgresql_where=waiting,
    )  # fmt: skip
    op.create_index("account_change_by_merchant", "merchant_account_change", ["merchant_id", "id"])


def _first_fee_profile() -> None:
    """What most merchants pay: without it a fresh installation could approve nobody."""
    op.execute(
        "INSERT INTO fee_profile (id, version, bps, created_at_ms) VALUES ('fee_basic', 1, 70, 0) ON CONFLICT DO NOTHING"
    )
