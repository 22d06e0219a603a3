"""The start: one payment's whole way."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "credential_revision",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name="credential_revision_is_one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "device",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("serial_number", sa.String(), nullable=False),
        sa.Column("vendor", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id NOT LIKE 'hub-%'", name="device_id_not_the_hubs"),
        sa.CheckConstraint(
            "state IN ('registered', 'activated', 'bound', 'suspended', 'revoked', 'retired')",
            name="device_state_known",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("serial_number"),
    )
    op.create_table(
        "fee_profile",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("bps", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("bps BETWEEN 0 AND 10000", name="fee_profile_bps"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("provider_event_id", sa.String(), nullable=True),
        sa.Column("money_key", sa.String(), nullable=True),
        sa.Column("booked_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('capture', 'suspense')", name="journal_kind"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("journal", schema=None) as batch_op:
        batch_op.create_index(
            "journal_captured_once",
            ["payment_id"],
            unique=True,
            sqlite_where=sa.text("kind = 'capture'"),
            postgresql_where=sa.text("kind = 'capture'"),
        )
        batch_op.create_index(
            "journal_event",
            ["provider_event_id"],
            unique=True,
            sqlite_where=sa.text("kind = 'suspense'"),
            postgresql_where=sa.text("kind = 'suspense'"),
        )
        batch_op.create_index(
            "journal_money",
            ["money_key"],
            unique=True,
            sqlite_where=sa.text("money_key IS NOT NULL"),
            postgresql_where=sa.text("money_key IS NOT NULL"),
        )
        batch_op.create_index(
            "journal_suspense",
            ["payment_id"],
            unique=False,
            sqlite_where=sa.text("kind = 'suspense'"),
            postgresql_where=sa.text("kind = 'suspense'"),
        )

    op.create_table(
        "organisation",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('platform', 'merchant', 'partner', 'bank')", name="organisation_kind"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "outbox_message",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("transport", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("recipient_id", sa.String(), nullable=False),
        sa.Column("subject_id", sa.String(), nullable=True),
        sa.Column("original_id", sa.String(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("published_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("played_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'published', 'sent', 'received', 'played', 'duplicate', 'stale_skipped', 'rejected', 'failed', 'expired', 'suppressed', 'digested')",
            name="outbox_state_known",
        ),
        sa.CheckConstraint("attempt >= 0", name="outbox_attempt_counts_up"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("outbox_message", schema=None) as batch_op:
        batch_op.create_index(
            "outbox_announced_once",
            ["subject_id", "recipient_id"],
            unique=True,
            sqlite_where=sa.text("kind = 'payment_success' AND original_id IS NULL"),
            postgresql_where=sa.text("kind = 'payment_success' AND original_id IS NULL"),
        )
        batch_op.create_index(
            "outbox_due",
            ["due_at_ms"],
            unique=False,
            sqlite_where=sa.text("state IN ('queued', 'published')"),
            postgresql_where=sa.text("state IN ('queued', 'published')"),
        )
        batch_op.create_index(
            "outbox_expiring",
            ["expires_at_ms"],
            unique=False,
            sqlite_where=sa.text("state IN ('queued', 'published', 'received')"),
            postgresql_where=sa.text("state IN ('queued', 'published', 'received')"),
        )
        batch_op.create_index("outbox_recipient", ["recipient_id", "id"], unique=False)

    op.create_table(
        "poison_message",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("poison_message", schema=None) as batch_op:
        batch_op.create_index("poison_message_by_device", ["device_id", "id"], unique=False)

    op.create_table(
        "provider_event",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("event_key", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("payment_id", sa.String(), nullable=True),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('applied', 'duplicate', 'ignored', 'needs_review', 'orphan')",
            name="provider_event_outcome_known",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("provider", "event_key", "body_sha256", name="provider_event_once"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("provider_event", schema=None) as batch_op:
        batch_op.create_index("provider_event_payment", ["payment_id"], unique=False)

    op.create_table(
        "activation_code",
        sa.Column("code_sha256", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("consumed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
        sa.PrimaryKeyConstraint("code_sha256"),
    )
    with op.batch_alter_table("activation_code", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_activation_code_device_id"), ["device_id"], unique=False)

    op.create_table(
        "device_credential",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.Column("broker_hash", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('issued', 'active', 'superseded', 'revoked')", name="device_credential_state"),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_sha256"),
    )
    with op.batch_alter_table("device_credential", schema=None) as batch_op:
        batch_op.create_index(
            "device_credential_in_force",
            ["device_id"],
            unique=True,
            sqlite_where=sa.text("state = 'active'"),
            postgresql_where=sa.text("state = 'active'"),
        )

    op.create_table(
        "device_heartbeat",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("device_heartbeat", schema=None) as batch_op:
        batch_op.create_index("device_heartbeat_by_device", ["device_id", "id"], unique=False)

    op.create_table(
        "device_presence",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("session_epoch", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("firmware_version", sa.String(), nullable=True),
        sa.Column("max_payload_bytes", sa.Integer(), nullable=False),
        sa.Column("verifies_signatures", sa.Boolean(), nullable=False),
        sa.Column("network_strength", sa.Integer(), nullable=True),
        sa.Column("battery_level", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(), nullable=True),
        sa.Column("volume", sa.Integer(), nullable=True),
        sa.Column("heartbeat_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
        sa.PrimaryKeyConstraint("device_id"),
    )
    op.create_table(
        "merchant",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("merchant_code", sa.String(), nullable=False),
        sa.Column("legal_name", sa.String(), nullable=False),
        sa.Column("brand_name", sa.String(), nullable=False),
        sa.Column("city", sa.String(), nullable=False),
        sa.Column("postal_code", sa.String(), nullable=False),
        sa.Column("mcc", sa.String(), nullable=False),
        sa.Column("nmid", sa.String(), nullable=False),
        sa.Column("criteria", sa.String(), nullable=False),
        sa.Column("fee_profile_id", sa.String(), nullable=False),
        sa.Column("settlement_account_reference", sa.String(), nullable=True),
        sa.Column("settlement_account_type", sa.String(), nullable=True),
        sa.Column("payout_mode", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("payout_mode IN ('merchant_direct', 'manual')", name="merchant_payout_mode"),
        sa.CheckConstraint("status IN ('pending', 'approved', 'rejected')", name="merchant_status"),
        sa.ForeignKeyConstraint(
            ["fee_profile_id"],
            ["fee_profile.id"],
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisation.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("merchant_code"),
    )
    with op.batch_alter_table("merchant", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_merchant_organisation_id"), ["organisation_id"], unique=False)

    op.create_table(
        "person",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "role IN ('platform_admin', 'operator', 'finance', 'support', 'merchant_owner', 'merchant_staff', 'bank', 'partner')",
            name="person_role",
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisation.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("email"),
    )
    with op.batch_alter_table("person", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_person_organisation_id"), ["organisation_id"], unique=False)

    op.create_table(
        "posting",
        sa.Column("journal_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("unit IN ('IDR', 'TOKEN')", name="posting_unit"),
        sa.CheckConstraint("amount > 0", name="posting_amount_positive"),
        sa.CheckConstraint("source <> destination", name="posting_moves"),
        sa.ForeignKeyConstraint(
            ["journal_id"],
            ["journal.id"],
        ),
        sa.PrimaryKeyConstraint("journal_id", "position"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outlet",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("outlet_code", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("merchant_id", "outlet_code"),
    )
    op.create_table(
        "terminal",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("outlet_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("terminal_code", sa.String(), nullable=False),
        sa.Column("qr_mode", sa.String(), nullable=False),
        sa.Column("partner_reference", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("qr_mode IN ('static', 'dynamic')", name="terminal_qr_mode"),
        sa.ForeignKeyConstraint(
            ["merchant_id"],
            ["merchant.id"],
        ),
        sa.ForeignKeyConstraint(
            ["outlet_id"],
            ["outlet.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("outlet_id", "terminal_code"),
        sa.UniqueConstraint("partner_reference"),
    )
    with op.batch_alter_table("terminal", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_terminal_merchant_id"), ["merchant_id"], unique=False)

    op.create_table(
        "device_binding",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("outlet_id", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=False),
        sa.Column("bound_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("unbound_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
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
    with op.batch_alter_table("device_binding", schema=None) as batch_op:
        batch_op.create_index(
            "device_binding_terminal",
            ["terminal_id"],
            unique=False,
            sqlite_where=sa.text("unbound_at_ms IS NULL"),
            postgresql_where=sa.text("unbound_at_ms IS NULL"),
        )
        batch_op.create_index(
            "device_bound_once",
            ["device_id"],
            unique=True,
            sqlite_where=sa.text("unbound_at_ms IS NULL"),
            postgresql_where=sa.text("unbound_at_ms IS NULL"),
        )

    op.create_table(
        "payment",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("outlet_id", sa.String(), nullable=False),
        sa.Column("terminal_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("request_door", sa.String(), nullable=False),
        sa.Column("qr_mode", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("review_reason", sa.String(), nullable=True),
        sa.Column("fee_amount", sa.BigInteger(), nullable=True),
        sa.Column("fee_bps", sa.Integer(), nullable=True),
        sa.Column("fee_version", sa.String(), nullable=True),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.Column("rrn", sa.String(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("captured_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.CheckConstraint("(state = 'paid') = (paid_at_ms IS NOT NULL)", name="payment_paid_has_a_time"),
        sa.CheckConstraint("currency = 'IDR'", name="payment_currency"),
        sa.CheckConstraint(
            "state IN ('created', 'awaiting_payment', 'paid', 'expired', 'cancelled', 'failed', 'needs_review')",
            name="payment_state_known",
        ),
        sa.CheckConstraint("amount > 0", name="payment_amount_positive"),
        sa.CheckConstraint("fee_amount BETWEEN 0 AND amount", name="payment_fee_within_amount"),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
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
        sa.UniqueConstraint("device_id", "request_id", name="payment_one_per_device_request"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("payment", schema=None) as batch_op:
        batch_op.create_index("payment_merchant", ["merchant_id", "id"], unique=False)
        batch_op.create_index(
            "payment_open",
            ["expires_at_ms"],
            unique=False,
            sqlite_where=sa.text("state IN ('created', 'awaiting_payment')"),
            postgresql_where=sa.text("state IN ('created', 'awaiting_payment')"),
        )

    op.create_table(
        "payment_attempt",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("provider_reference", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("qr_payload", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("raw_request", sa.LargeBinary(), nullable=True),
        sa.Column("raw_response", sa.LargeBinary(), nullable=True),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("answered_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('new', 'submitted', 'active', 'unknown', 'succeeded', 'failed', 'expired')",
            name="payment_attempt_state_known",
        ),
        sa.ForeignKeyConstraint(
            ["payment_id"],
            ["payment.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("provider", "reference", name="payment_attempt_reference"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("payment_attempt", schema=None) as batch_op:
        batch_op.create_index("payment_attempt_payment", ["payment_id"], unique=False)

    op.create_table(
        "payment_event",
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["payment_id"],
            ["payment.id"],
        ),
        sa.PrimaryKeyConstraint("payment_id", "id"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO credential_revision (id, revision) VALUES (1, 0)")
    _keep_postings()


def _keep_postings() -> None:
    """The ledger only grows: the database itself refuses to change or delete what was booked."""
    if op.get_bind().dialect.name == "sqlite":
        for table in ("journal", "posting"):
            for deed in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_{deed.lower()}_refused BEFORE {deed} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
    )
    for table in ("journal", "posting"):
        op.execute(
            f"CREATE TRIGGER {table}_refused BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
