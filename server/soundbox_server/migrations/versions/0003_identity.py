"""People in full: states, sessions, one-time tokens, second factors, API keys, counted tries, and mail that is due."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ROLE_FITS = (
    "organisation_kind = 'platform' AND role IN ('finance', 'operator', 'platform_admin', 'support') OR "
    "organisation_kind = 'merchant' AND role IN ('merchant_owner', 'merchant_staff') OR "
    "organisation_kind = 'partner' AND role IN ('partner') OR "
    "organisation_kind = 'bank' AND role IN ('bank')"
)


def upgrade() -> None:
    op.create_index("organisation_with_kind", "organisation", ["id", "kind"], unique=True)
    _people()
    _sessions()
    _second_factors()
    _api_keys()
    op.create_table(
        "rate_counter",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("resets_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("blocked_until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("rate_counter_ending", "rate_counter", ["resets_at_ms"])
    letter = sa.text("transport <> 'mqtt' AND state IN ('queued', 'published')")
    op.create_index(
        "outbox_letter_due", "outbox_message", ["transport", "due_at_ms"], sqlite_where=letter, postgresql_where=letter
    )


def _people() -> None:
    """A new table, filled from the old one: SQLite changes neither constraints nor NOT NULL of a standing one."""
    op.drop_index("ix_person_organisation_id", "person")
    op.rename_table("person", "person_before")
    op.create_table(
        "person",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("organisation_kind", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id", "organisation_kind"], ["organisation.id", "organisation.kind"],
            name="person_organisation",
        ),
        sa.CheckConstraint(_ROLE_FITS, name="person_role_fits"),
        sa.CheckConstraint("state IN ('invited', 'active', 'disabled')", name="person_state_known"),
        sa.CheckConstraint("state <> 'active' OR password_hash IS NOT NULL", name="person_active_has_password"),
        sa.CheckConstraint("email = lower(email)", name="person_email_lower"),
        sa.CheckConstraint("language IN ('id', 'en')", name="person_language_known"),
        sa.PrimaryKeyConstraint("id", name="person_key"),
        sa.UniqueConstraint("email", name="person_email_once"),
    )  # fmt: skip
    op.create_index("ix_person_organisation_id", "person", ["organisation_id"])
    op.execute(
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "password_hash, created_at_ms) SELECT p.id, p.organisation_id, o.kind, lower(p.email), p.name, p.role, "
        "'active', 'id', p.password_hash, p.created_at_ms FROM person_before p "
        "JOIN organisation o ON o.id = p.organisation_id"
    )
    op.drop_table("person_before")


def _sessions() -> None:
    op.create_table(
        "login_session",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ip", sa.String(), nullable=True),
        sa.Column("user_agent", sa.String(), nullable=True),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.CheckConstraint("kind IN ('token', 'browser', 'partner')", name="login_session_kind_known"),
        sa.CheckConstraint("(ended_at_ms IS NULL) = (end_reason IS NULL)", name="login_session_end_has_reason"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("login_session_of_person", "login_session", ["person_id", "id"])
    op.create_index("login_session_expiring", "login_session", ["expires_at_ms"])
    op.create_table(
        "session_secret",
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["login_session.id"]),
        sa.PrimaryKeyConstraint("secret_sha256"),
    )
    op.create_index("ix_session_secret_session_id", "session_secret", ["session_id"])
    op.create_table(
        "one_time_token",
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.CheckConstraint("purpose IN ('invitation', 'password_reset')", name="one_time_token_purpose_known"),
        sa.PrimaryKeyConstraint("token_sha256"),
    )
    op.create_index("ix_one_time_token_person_id", "one_time_token", ["person_id"])
    op.create_index("one_time_token_expiring", "one_time_token", ["expires_at_ms"])


def _second_factors() -> None:
    op.create_table(
        "totp_secret",
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("person_id"),
    )
    op.create_table(
        "recovery_code",
        sa.Column("code_sha256", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("code_sha256"),
    )
    op.create_index("ix_recovery_code_person_id", "recovery_code", ["person_id"])


def _api_keys() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("organisation_kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("key_sha256", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organisation_id", "organisation_kind"], ["organisation.id", "organisation.kind"],
            name="api_key_organisation",
        ),
        sa.ForeignKeyConstraint(["created_by"], ["person.id"]),
        sa.CheckConstraint(_ROLE_FITS, name="api_key_role_fits"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key_sha256"),
    )  # fmt: skip
    op.create_index("api_key_of_organisation", "api_key", ["organisation_id", "name"])
    op.create_index("ix_api_key_created_by", "api_key", ["created_by"])
