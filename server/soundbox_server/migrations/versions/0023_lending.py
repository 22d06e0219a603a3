"""What merchants let banks see, who looked, loan applications, and merchants that are to be forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"

_NOT_REFUSED = sa.text("state <> 'refused'")
_HELD = sa.text("state = 'held'")


def upgrade() -> None:
    _consents()
    _looks()
    _applications()
    _erasures()
    op.add_column("merchant", sa.Column("erased_at_ms", sa.BigInteger(), nullable=True))
    _keep("bank_consent_event", "consents that were given are append-only")
    _keep("bank_look", "looks are append-only")


def _consents() -> None:
    op.create_table(
        "bank_consent",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("granted_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("expires_at_ms > granted_at_ms", name="bank_consent_lasts"),
        sa.CheckConstraint("scope IN ('score', 'full')", name="bank_consent_scope"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("organisation_id", "merchant_id", name="bank_consent_of_bank"),
    )
    op.create_index("bank_consent_of_merchant", "bank_consent", ["merchant_id", "id"])
    op.create_table(
        "bank_consent_event",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("consent_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor_kind", sa.String(), nullable=False),
        sa.Column("actor_id", sa.String(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("scope IN ('score', 'full')", name="bank_consent_event_scope"),
        sa.CheckConstraint("kind IN ('granted', 'withdrawn')", name="bank_consent_event_kind"),
        sa.ForeignKeyConstraint(["consent_id"], ["bank_consent.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("bank_consent_event_of_consent", "bank_consent_event", ["consent_id", "id"])


def _looks() -> None:
    op.create_table(
        "bank_look",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("actor_kind", sa.String(), nullable=False),
        sa.Column("actor_id", sa.String(), nullable=True),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.CheckConstraint(
            "what IN ('list', 'file', 'profile', 'credit', 'alerts', 'assessment', 'applications')",
            name="bank_look_what",
        ),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("bank_look_at_merchant", "bank_look", ["merchant_id", "id"])
    op.create_index("bank_look_of_bank", "bank_look", ["organisation_id", "id"])


def _applications() -> None:
    op.create_table(
        "loan_application",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("made_by_side", sa.String(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("amount_idr", sa.BigInteger(), nullable=False),
        sa.Column("tenor_months", sa.Integer(), nullable=False),
        sa.Column("interest_bps", sa.Integer(), nullable=True),
        sa.Column("purpose", sa.String(), nullable=True),
        sa.Column("recommended_amount_idr", sa.BigInteger(), nullable=True),
        sa.Column("credit_score_id", sa.String(), nullable=True),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("risk_band", sa.String(), nullable=True),
        sa.Column("score_model", sa.String(), nullable=True),
        sa.Column("score_version", sa.Integer(), nullable=True),
        sa.Column("submitted_by", sa.String(), nullable=True),
        sa.Column("submitted_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reviewed_by", sa.String(), nullable=True),
        sa.Column("reviewed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("decision_reason", sa.String(), nullable=True),
        sa.Column("approved_amount_idr", sa.BigInteger(), nullable=True),
        sa.Column("disbursed_by", sa.String(), nullable=True),
        sa.Column("disbursed_on", sa.String(), nullable=True),
        sa.Column("disbursed_amount_idr", sa.BigInteger(), nullable=True),
        sa.Column("disbursement_reference", sa.String(), nullable=True),
        sa.Column("withdrawn_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("tenor_months BETWEEN 1 AND 360", name="loan_application_tenor"),
        sa.CheckConstraint("recommended_amount_idr > 0 AND approved_amount_idr > 0", name="loan_application_offers"),
        sa.CheckConstraint(
            "(decided_by IS NULL) = (decided_at_ms IS NULL) AND (decided_by IS NULL) = (decision_reason IS NULL)",
            name="loan_application_decision_whole",
        ),
        sa.CheckConstraint(
            "state NOT IN ('approved', 'disbursed') OR (approved_amount_idr IS NOT NULL AND interest_bps IS NOT NULL)",
            name="loan_application_approved_whole",
        ),
        sa.CheckConstraint(
            "disbursed_amount_idr > 0 AND disbursed_amount_idr <= approved_amount_idr",
            name="loan_application_disbursed_amount",
        ),
        sa.CheckConstraint("risk_band IN ('Low', 'Medium', 'High')", name="loan_application_band"),
        sa.CheckConstraint("score_model IN ('paybaba-v1', 'soundbox-v2')", name="loan_application_model"),
        sa.CheckConstraint(
            "state NOT IN ('approved', 'rejected', 'disbursed') OR (decided_by IS NOT NULL AND decided_by <> made_by AND decided_by <> submitted_by)",
            name="loan_application_decided_by_another",
        ),
        sa.CheckConstraint(
            "state IN ('draft', 'submitted', 'under_review', 'approved', 'rejected', 'disbursed', 'withdrawn')",
            name="loan_application_state",
        ),
        sa.CheckConstraint("amount_idr > 0", name="loan_application_amount"),
        sa.CheckConstraint("interest_bps BETWEEN 0 AND 10000", name="loan_application_interest"),
        sa.CheckConstraint(
            "(state = 'disbursed') = (disbursed_on IS NOT NULL AND disbursed_amount_idr IS NOT NULL AND disbursement_reference IS NOT NULL AND disbursed_by IS NOT NULL)",
            name="loan_application_disbursed_whole",
        ),
        sa.CheckConstraint(
            "state IN ('draft', 'withdrawn') OR submitted_at_ms IS NOT NULL", name="loan_application_submitted"
        ),
        sa.CheckConstraint("made_by_side IN ('merchant', 'bank')", name="loan_application_side"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"]),
        sa.ForeignKeyConstraint(["credit_score_id"], ["credit_score.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("loan_application_of_bank", "loan_application", ["organisation_id", "merchant_id", "id"])
    op.create_index("loan_application_of_merchant", "loan_application", ["merchant_id", "id"])


def _erasures() -> None:
    op.create_table(
        "merchant_erasure",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("hold_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("erased_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'erased') = (erased_at_ms IS NOT NULL)", name="merchant_erasure_end_has_a_time"),
        sa.CheckConstraint(
            "state NOT IN ('held', 'erased') OR (decided_by <> requested_by AND hold_until_ms IS NOT NULL)",
            name="merchant_erasure_by_two_people",
        ),
        sa.CheckConstraint("state IN ('requested', 'refused', 'held', 'erased')", name="merchant_erasure_state"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "merchant_erasure_held", "merchant_erasure", ["hold_until_ms"], sqlite_where=_HELD, postgresql_where=_HELD
    )
    op.create_index(
        "merchant_erasure_once", "merchant_erasure", ["merchant_id"], unique=True,
        sqlite_where=_NOT_REFUSED, postgresql_where=_NOT_REFUSED,
    )  # fmt: skip


def _keep(table: str, refusal: str) -> None:
    """What is in it stays: the database itself refuses to change or delete a row."""
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_{deed.lower()}_refused BEFORE {deed} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION refuse_{table}_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{refusal}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_refused BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_{table}_change()"
    )
