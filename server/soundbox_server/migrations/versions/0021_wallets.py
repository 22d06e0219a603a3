"""Organisations that hold wallets, what is paid between them, withdrawals and invoices."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

_KEEPS_ROWID_AWAY = {"sqlite_with_rowid": False}


def upgrade() -> None:
    _payments()
    _journals()
    _holders()
    _sessions()
    _withdrawals()
    _invoices()


def _payments() -> None:
    with op.batch_alter_table("payment", table_kwargs=_KEEPS_ROWID_AWAY) as payment:
        payment.add_column(sa.Column("credit_account", sa.String(), nullable=True))
        payment.drop_constraint("payment_method_known", type_="check")
        payment.create_check_constraint(
            "payment_method_known",
            "method IN ('qris_dynamic', 'qris_static', 'gopay', 'ovo', 'dana', 'shopeepay', 'linkaja', 'va_bca', "
            "'va_bni', 'va_bri', 'va_mandiri', 'card_hosted', 'cash', 'wallet')",
        )


def _journals() -> None:
    """SQLite makes the table anew, which takes the triggers that protect it away."""
    with op.batch_alter_table("journal", table_kwargs=_KEEPS_ROWID_AWAY) as journal:
        journal.drop_constraint("journal_kind", type_="check")
        journal.create_check_constraint(
            "journal_kind",
            "kind IN ('capture', 'suspense', 'refund', 'release', 'reversal', 'settlement', 'payout', "
            "'payout_reversal', 'promised', 'token', 'withdrawal')",
        )
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER journal_{deed.lower()}_refused BEFORE {deed} ON journal "
                f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
    for name, end in (("posting_into_wallet", "destination"), ("posting_out_of_wallet", "source")):
        of_wallets = sa.text(f"substr({end}, 1, 7) = 'wallet:'")
        op.create_index(name, "posting", [end], sqlite_where=of_wallets, postgresql_where=of_wallets)


def _holders() -> None:
    op.create_table(
        "wallet_holder",
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("category", sa.String(), nullable=True),
        sa.Column("pin_hash", sa.String(), nullable=True),
        sa.Column("pin_tries", sa.Integer(), nullable=False),
        sa.Column("pin_locked_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("pin_tries >= 0", name="wallet_holder_tries"),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisation.id"],
        ),
        sa.PrimaryKeyConstraint("organisation_id"),
    )
    op.create_table(
        "wallet",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["wallet_holder.organisation_id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "wallet_default",
        "wallet",
        ["organisation_id"],
        unique=True,
        sqlite_where=sa.text("is_default"),
        postgresql_where=sa.text("is_default"),
    )
    op.create_index("wallet_of_organisation", "wallet", ["organisation_id", "id"], unique=False)


def _sessions() -> None:
    op.create_table(
        "wallet_session",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("wallet_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("outlet_id", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_percent", sa.Integer(), nullable=False),
        sa.Column("fee_amount", sa.BigInteger(), nullable=False),
        sa.Column("total_amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("payer_wallet_id", sa.String(), nullable=True),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(state = 'success') = (payment_id IS NOT NULL AND payer_wallet_id IS NOT NULL AND paid_at_ms IS NOT NULL)",
            name="wallet_session_paid_is_whole",
        ),
        sa.CheckConstraint("state IN ('initiated', 'success')", name="wallet_session_state_known"),
        sa.CheckConstraint("amount > 0 AND fee_amount >= 0", name="wallet_session_amounts"),
        sa.CheckConstraint("payer_wallet_id <> wallet_id", name="wallet_session_pays_somebody_else"),
        sa.CheckConstraint("total_amount = amount + fee_amount", name="wallet_session_total"),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
        ),
        sa.ForeignKeyConstraint(
            ["outlet_id"],
            ["outlet.id"],
        ),
        sa.ForeignKeyConstraint(
            ["payer_wallet_id"],
            ["wallet.id"],
        ),
        sa.ForeignKeyConstraint(
            ["payment_id"],
            ["payment.id"],
        ),
        sa.ForeignKeyConstraint(
            ["terminal_id"],
            ["terminal.id"],
        ),
        sa.ForeignKeyConstraint(
            ["wallet_id"],
            ["wallet.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("payment_id", name="wallet_session_payment"),
    )
    op.create_index(op.f("ix_wallet_session_payer_wallet_id"), "wallet_session", ["payer_wallet_id"], unique=False)
    op.create_index(op.f("ix_wallet_session_wallet_id"), "wallet_session", ["wallet_id"], unique=False)
    op.create_table(
        "wallet_entry",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("wallet_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("direction", sa.String(), nullable=False),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_percent", sa.Integer(), nullable=False),
        sa.Column("total_amount", sa.BigInteger(), nullable=False),
        sa.Column("counterparty", sa.String(), nullable=True),
        sa.Column("merchant_id", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("direction IN ('credit', 'debit')", name="wallet_entry_direction"),
        sa.CheckConstraint("kind IN ('payment', 'topup', 'withdrawal', 'refund')", name="wallet_entry_kind"),
        sa.CheckConstraint("total_amount > 0", name="wallet_entry_amount_positive"),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["wallet_holder.organisation_id"],
        ),
        sa.ForeignKeyConstraint(
            ["wallet_id"],
            ["wallet.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("wallet_id", "trace_id", "kind", "direction", name="wallet_entry_once"),
    )
    op.create_index("wallet_entry_of_organisation", "wallet_entry", ["organisation_id", "id"], unique=False)


def _withdrawals() -> None:
    op.create_table(
        "wallet_withdrawal",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("wallet_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("bank", sa.String(), nullable=False),
        sa.Column("rail", sa.String(), nullable=True),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("bank_payout_id", sa.String(), nullable=True),
        sa.Column("account_reference", sa.String(), nullable=False),
        sa.Column("account_type", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("ask_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("raw_response", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'reversed')) = (finished_at_ms IS NOT NULL)",
            name="wallet_withdrawal_ended_has_a_time",
        ),
        sa.CheckConstraint(
            "state IN ('created', 'submitted', 'unknown', 'succeeded', 'failed', 'reversed')",
            name="wallet_withdrawal_state_known",
        ),
        sa.CheckConstraint("amount > 0", name="wallet_withdrawal_amount_positive"),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
        ),
        sa.ForeignKeyConstraint(
            ["wallet_id"],
            ["wallet.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("reference", name="wallet_withdrawal_reference"),
    )
    op.create_index(
        "wallet_withdrawal_due",
        "wallet_withdrawal",
        ["ask_at_ms"],
        unique=False,
        sqlite_where=sa.text("ask_at_ms IS NOT NULL"),
        postgresql_where=sa.text("ask_at_ms IS NOT NULL"),
    )
    op.create_index(
        "wallet_withdrawal_one_at_a_time",
        "wallet_withdrawal",
        ["wallet_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('created', 'submitted', 'unknown')"),
        postgresql_where=sa.text("state IN ('created', 'submitted', 'unknown')"),
    )


def _invoices() -> None:
    op.create_table(
        "wallet_invoice",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("outlet_id", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("otp_hash", sa.String(), nullable=False),
        sa.Column("otp_tries", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("charges", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'locked')", name="wallet_invoice_state_known"),
        sa.CheckConstraint("amount > 0", name="wallet_invoice_amount_positive"),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
        ),
        sa.ForeignKeyConstraint(
            ["outlet_id"],
            ["outlet.id"],
        ),
        sa.ForeignKeyConstraint(
            ["terminal_id"],
            ["terminal.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("wallet_invoice_of_merchant", "wallet_invoice", ["merchant_id", "id"], unique=False)
