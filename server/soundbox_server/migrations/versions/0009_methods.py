"""Payments by any method and through any door, each attempt at its own provider."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"

_METHODS = (
    "'qris_dynamic', 'qris_static', 'gopay', 'ovo', 'dana', 'shopeepay', 'linkaja', 'va_bca', 'va_bni', 'va_bri', "
    "'va_mandiri', 'card_hosted', 'cash'"
)
_ORDERED = sa.text("order_code IS NOT NULL")


def upgrade() -> None:
    with op.batch_alter_table("payment", table_kwargs={"sqlite_with_rowid": False}) as payment:
        payment.alter_column("request_door", new_column_name="source", existing_type=sa.String())
        payment.add_column(sa.Column("method", sa.String(), server_default="qris_dynamic", nullable=False))
        payment.add_column(sa.Column("order_code", sa.String(), nullable=True))
        payment.add_column(sa.Column("description", sa.String(), nullable=True))
        payment.add_column(sa.Column("payer", sa.String(), nullable=True))
        payment.add_column(sa.Column("current_attempt_id", sa.String(), nullable=True))
    op.execute("UPDATE payment SET source = 'device' WHERE source = 'http'")
    with op.batch_alter_table("payment", table_kwargs={"sqlite_with_rowid": False}) as payment:
        payment.create_check_constraint("payment_method_known", f"method IN ({_METHODS})")
        payment.create_check_constraint(
            "payment_source_known", "source IN ('mqtt', 'device', 'pos', 'api', 'callback')"
        )
        payment.create_check_constraint("payment_description_length", "length(description) <= 200")
    op.create_index(
        "payment_order", "payment", ["merchant_id", "order_code"], unique=True,
        sqlite_where=_ORDERED, postgresql_where=_ORDERED,
    )  # fmt: skip
    with op.batch_alter_table("payment_attempt", table_kwargs={"sqlite_with_rowid": False}) as attempt:
        attempt.add_column(sa.Column("number", sa.Integer(), server_default="1", nullable=False))
        attempt.add_column(sa.Column("actions", sa.String(), nullable=True))
        attempt.drop_index("payment_attempt_payment")
        attempt.create_unique_constraint("payment_attempt_number", ["payment_id", "number"])
    _providers()


def _providers() -> None:
    op.create_table(
        "provider_credential",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=True),
        sa.Column("names", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("provider_credential_once", "provider_credential", ["account"], unique=True)
    op.create_index("provider_credential_merchant", "provider_credential", ["merchant_id"])
    op.create_table(
        "provider_route",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=True),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("primary_provider", sa.String(), nullable=False),
        sa.Column("fallback_provider", sa.String(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.CheckConstraint("fallback_provider <> primary_provider", name="provider_route_two_providers"),
        sa.CheckConstraint("owner = coalesce(merchant_id, '-')", name="provider_route_owner"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("provider_route_once", "provider_route", ["owner", "method"], unique=True)
