"""What others hear from us: addresses, their secrets, events on their way, and a log of every try."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

_WAITING = "state IN ('queued', 'published')"
_SOON = sa.text(f"transport = 'mqtt' AND {_WAITING} AND finished_at_ms IS NULL")
_UNFINISHED = sa.text("state IN ('queued', 'published', 'received') AND finished_at_ms IS NULL")
_LETTER = sa.text(f"transport <> 'mqtt' AND {_WAITING}")
_WEBHOOK = sa.text("transport = 'webhook'")
_HEARS = sa.text("state = 'active' AND profile = 'standard'")
_KGITON = sa.text("profile = 'kgiton'")


def upgrade() -> None:
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=True),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=True),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("events", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("failing_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('active', 'disabled')", name="webhook_endpoint_state_known"),
        sa.CheckConstraint("disabled_reason IN ('by_hand', 'gone', 'failing')", name="webhook_endpoint_reason_known"),
        sa.CheckConstraint(
            "(state = 'disabled') = (disabled_reason IS NOT NULL)", name="webhook_endpoint_disabled_why"
        ),
        sa.CheckConstraint("profile IN ('standard', 'kgiton')", name="webhook_endpoint_profile_known"),
        sa.CheckConstraint("(profile = 'kgiton') = (url IS NULL)", name="webhook_endpoint_has_an_address"),
        sa.CheckConstraint("last_seq >= 0", name="webhook_endpoint_counts_up"),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "webhook_endpoint_hears", "webhook_endpoint", ["organisation_id"], sqlite_where=_HEARS, postgresql_where=_HEARS
    )
    op.create_index("webhook_endpoint_of_organisation", "webhook_endpoint", ["organisation_id", "id"])
    op.create_index(
        "webhook_endpoint_kgiton", "webhook_endpoint", ["organisation_id"], unique=True,
        sqlite_where=_KGITON, postgresql_where=_KGITON,
    )  # fmt: skip
    op.create_table(
        "webhook_secret",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoint.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("webhook_secret_of_endpoint", "webhook_secret", ["endpoint_id", "id"])
    op.create_table(
        "webhook_target",
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=True),
        sa.Column("url", sa.String(), nullable=True),
        sa.Column("facts", sa.String(), nullable=False),
        sa.CheckConstraint("(url IS NULL) = (endpoint_id IS NULL)", name="webhook_target_is_signed"),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.id"]),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoint.id"]),
        sa.PrimaryKeyConstraint("payment_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "webhook_event",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("data", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "webhook_attempt",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("delivery_id", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("request_headers", sa.String(), nullable=False),
        sa.Column("response_headers", sa.String(), nullable=True),
        sa.Column("response_body", sa.String(), nullable=True),
        sa.CheckConstraint("status IS NOT NULL OR error IS NOT NULL", name="webhook_attempt_has_an_end"),
        sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoint.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("webhook_attempt_of_delivery", "webhook_attempt", ["delivery_id", "id"])
    op.drop_index("outbox_due", "outbox_message")
    op.create_index("outbox_due", "outbox_message", ["due_at_ms"], sqlite_where=_SOON, postgresql_where=_SOON)
    op.drop_index("outbox_expiring", "outbox_message")
    op.create_index(
        "outbox_expiring", "outbox_message", ["expires_at_ms"], sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED
    )
    op.create_index(
        "outbox_letter_recipient", "outbox_message", ["transport", "recipient_id", "due_at_ms"],
        sqlite_where=_LETTER, postgresql_where=_LETTER,
    )  # fmt: skip
    op.create_index(
        "outbox_webhook_seq", "outbox_message", ["recipient_id", "seq"],
        sqlite_where=_WEBHOOK, postgresql_where=_WEBHOOK,
    )  # fmt: skip
