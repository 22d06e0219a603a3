"""Partners that charge for merchants: license keys, tokens, their payments and top-ups; payments as payers see them."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

_KEEPS_ROWID_AWAY = {"sqlite_with_rowid": False}
_PROMISED = sa.text("kind = 'promised'")
_ISSUED = sa.text("unit = 'TOKEN' AND source = 'token_issue'")
_RESERVED = sa.text("state = 'reserved'")


def upgrade() -> None:
    _ledger()
    op.add_column("payment", sa.Column("promised", sa.String(), nullable=True))
    op.create_table(
        "person_profile",
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("phone_number", sa.String(), nullable=True),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("referral_code", sa.String(), nullable=False),
        sa.Column("referred_by", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.ForeignKeyConstraint(["referred_by"], ["person.id"]),
        sa.PrimaryKeyConstraint("person_id"),
        sa.UniqueConstraint("referral_code"),
    )
    _sessions()
    _licenses()
    _payments()


def _ledger() -> None:
    """SQLite makes the table anew, which takes the triggers that protect it away."""
    with op.batch_alter_table("journal", table_kwargs=_KEEPS_ROWID_AWAY) as journal:
        journal.drop_constraint("journal_kind", type_="check")
        journal.create_check_constraint(
            "journal_kind",
            "kind IN ('capture', 'suspense', 'refund', 'release', 'reversal', 'settlement', 'payout', "
            "'payout_reversal', 'promised', 'token')",
        )
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER journal_{deed.lower()}_refused BEFORE {deed} ON journal "
                f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
    op.create_index(
        "journal_promised_once", "journal", ["payment_id"], unique=True, sqlite_where=_PROMISED,
        postgresql_where=_PROMISED,
    )  # fmt: skip
    op.create_index("posting_tokens_issued", "posting", ["destination"], sqlite_where=_ISSUED, postgresql_where=_ISSUED)


def _sessions() -> None:
    op.create_table(
        "payment_session",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("customer_name", sa.String(), nullable=True),
        sa.Column("items", sa.String(), nullable=True),
        sa.Column("back_url", sa.String(), nullable=True),
        sa.Column("success_url", sa.String(), nullable=True),
        sa.Column("failure_url", sa.String(), nullable=True),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("language IN ('id', 'en')", name="payment_session_language"),
        sa.CheckConstraint("expires_at_ms > created_at_ms", name="payment_session_lives"),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("trace_id"),
        sa.UniqueConstraint("payment_id"),
    )
    op.create_index("payment_session_of_organisation", "payment_session", ["organisation_id", "id"])


def _licenses() -> None:
    op.create_table(
        "license",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=True),
        sa.Column("assigned_to", sa.String(), nullable=True),
        sa.Column("merchant_id", sa.String(), nullable=True),
        sa.Column("terminal_id", sa.String(), nullable=True),
        sa.Column("price_per_token", sa.BigInteger(), nullable=False),
        sa.Column("tokens_taken", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("trial_expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("device_name", sa.String(), nullable=True),
        sa.Column("device_serial_number", sa.String(), nullable=True),
        sa.Column("device_model", sa.String(), nullable=True),
        sa.Column("device_notes", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('active', 'trial', 'inactive', 'revoked')", name="license_state"),
        sa.CheckConstraint("price_per_token > 0", name="license_price"),
        sa.CheckConstraint("tokens_taken >= 0", name="license_tokens_taken"),
        sa.CheckConstraint("terminal_id IS NULL OR merchant_id IS NOT NULL", name="license_terminal_has_merchant"),
        sa.CheckConstraint("assigned_to IS NULL OR organisation_id IS NOT NULL", name="license_assigned_has_owner"),
        sa.CheckConstraint("state <> 'trial' OR trial_expires_at_ms IS NOT NULL", name="license_trial_ends"),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.ForeignKeyConstraint(["assigned_to"], ["person.id"]),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["terminal_id"], ["terminal.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("license_of_organisation", "license", ["organisation_id", "id"])
    op.create_index("license_of_merchant", "license", ["merchant_id"])
    op.create_table(
        "token_use",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("license_id", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("previous_balance", sa.BigInteger(), nullable=False),
        sa.Column("new_balance", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("facts", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('reserved', 'used', 'voided')", name="token_use_state"),
        sa.CheckConstraint("tokens > 0", name="token_use_tokens"),
        sa.CheckConstraint("new_balance >= 0 AND new_balance = previous_balance - tokens", name="token_use_balances"),
        sa.CheckConstraint("(state = 'reserved') = (ended_at_ms IS NULL)", name="token_use_ended_has_a_time"),
        sa.CheckConstraint("state = 'used' OR payment_id IS NOT NULL", name="token_use_reserved_for_a_payment"),
        sa.ForeignKeyConstraint(["license_id"], ["license.id"]),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("payment_id", name="token_use_once"),
    )
    op.create_index("token_use_of_license", "token_use", ["license_id", "id"])
    op.create_index("token_use_reserved", "token_use", ["id"], sqlite_where=_RESERVED, postgresql_where=_RESERVED)


def _payments() -> None:
    op.create_table(
        "partner_payment",
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("license_id", sa.String(), nullable=False),
        sa.Column("transaction_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("payment_type", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("webhook_url", sa.String(), nullable=True),
        sa.Column("facts", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("payment_type IN ('qris', 'checkout_page')", name="partner_payment_type"),
        sa.CheckConstraint("number > 0", name="partner_payment_number"),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.ForeignKeyConstraint(["license_id"], ["license.id"]),
        sa.ForeignKeyConstraint(["session_id"], ["payment_session.id"]),
        sa.PrimaryKeyConstraint("payment_id"),
        sa.UniqueConstraint("organisation_id", "transaction_id", "number", name="partner_payment_transaction"),
    )
    op.create_index("ix_partner_payment_license_id", "partner_payment", ["license_id"])
    op.create_table(
        "token_topup",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("license_id", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("tokens_requested", sa.BigInteger(), nullable=False),
        sa.Column("bonus_tokens", sa.BigInteger(), nullable=False),
        sa.Column("price_per_token", sa.BigInteger(), nullable=False),
        sa.Column("payment_method", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("tokens_requested > 0 AND bonus_tokens >= 0", name="token_topup_tokens"),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.ForeignKeyConstraint(["license_id"], ["license.id"]),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.ForeignKeyConstraint(["session_id"], ["payment_session.id"]),
        sa.ForeignKeyConstraint(["requested_by"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("payment_id"),
    )
    op.create_index("token_topup_of_organisation", "token_topup", ["organisation_id", "id"])
    op.create_index("ix_token_topup_license_id", "token_topup", ["license_id"])
