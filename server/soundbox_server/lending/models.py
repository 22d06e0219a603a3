from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.lending.state import ConsentEventKind, ConsentScope, LoanState, LookedAt, Side
from soundbox_server.scoring.state import Model, RiskBand


def _among(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


class BankConsent(Base):
    """What a merchant lets a bank see, and until when. There is one row of a merchant and a bank, as it stands now;
    how it came to stand so is in `bank_consent_event`."""

    __tablename__ = "bank_consent"
    __table_args__ = (
        CheckConstraint(f"scope IN ({_among(ConsentScope)})", name="bank_consent_scope"),
        CheckConstraint("expires_at_ms > granted_at_ms", name="bank_consent_lasts"),
        UniqueConstraint("organisation_id", "merchant_id", name="bank_consent_of_bank"),
        Index("bank_consent_of_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))  # the bank
    scope: Mapped[str]
    granted_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)  # from this moment on it holds no more
    withdrawn_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class BankConsentEvent(Base):
    """A consent that was granted or withdrawn. Triggers refuse to change or delete a row."""

    __tablename__ = "bank_consent_event"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_among(ConsentEventKind)})", name="bank_consent_event_kind"),
        CheckConstraint(f"scope IN ({_among(ConsentScope)})", name="bank_consent_event_scope"),
        Index("bank_consent_event_of_consent", "consent_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    consent_id: Mapped[str] = mapped_column(ForeignKey("bank_consent.id"))
    kind: Mapped[str]
    scope: Mapped[str]
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    actor_kind: Mapped[str]
    actor_id: Mapped[str | None]
    at_ms: Mapped[int] = mapped_column(BigInteger)


class BankLook(Base):
    """Somebody of a bank who was shown something of a merchant: written before they see it. Triggers refuse to change
    or delete a row."""

    __tablename__ = "bank_look"
    __table_args__ = (
        CheckConstraint(f"what IN ({_among(LookedAt)})", name="bank_look_what"),
        Index("bank_look_at_merchant", "merchant_id", "id"),
        Index("bank_look_of_bank", "organisation_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))  # the bank
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    actor_kind: Mapped[str]
    actor_id: Mapped[str | None]
    what: Mapped[str]
    request_id: Mapped[str | None]


class LoanApplication(Base):
    """A merchant's wish for a loan of a bank, by either of them, up to the money that was handed over.

    The score is as it was when the application was submitted; none where there was not enough history for one.
    """

    __tablename__ = "loan_application"
    __table_args__ = (
        CheckConstraint(f"state IN ({_among(LoanState)})", name="loan_application_state"),
        CheckConstraint(f"made_by_side IN ({_among(Side)})", name="loan_application_side"),
        CheckConstraint(f"score_model IN ({_among(Model)})", name="loan_application_model"),
        CheckConstraint(f"risk_band IN ({_among(RiskBand)})", name="loan_application_band"),
        CheckConstraint("amount_idr > 0", name="loan_application_amount"),
        CheckConstraint("tenor_months BETWEEN 1 AND 360", name="loan_application_tenor"),
        CheckConstraint("interest_bps BETWEEN 0 AND 10000", name="loan_application_interest"),
        CheckConstraint("recommended_amount_idr > 0 AND approved_amount_idr > 0", name="loan_application_offers"),
        CheckConstraint(
            "state IN ('draft', 'withdrawn') OR submitted_at_ms IS NOT NULL", name="loan_application_submitted"
        ),
        CheckConstraint(
            "(decided_by IS NULL) = (decided_at_ms IS NULL) AND (decided_by IS NULL) = (decision_reason IS NULL)",
            name="loan_application_decision_whole",
        ),
        CheckConstraint(
            "state NOT IN ('approved', 'rejected', 'disbursed') "
            "OR (decided_by IS NOT NULL AND decided_by <> made_by AND decided_by <> submitted_by)",
            name="loan_application_decided_by_another",
        ),
        CheckConstraint(
            "state NOT IN ('approved', 'disbursed') OR (approved_amount_idr IS NOT NULL AND interest_bps IS NOT NULL)",
            name="loan_application_approved_whole",
        ),
        CheckConstraint(
            "(state = 'disbursed') = (disbursed_on IS NOT NULL AND disbursed_amount_idr IS NOT NULL "
            "AND disbursement_reference IS NOT NULL AND disbursed_by IS NOT NULL)",
            name="loan_application_disbursed_whole",
        ),
        CheckConstraint(
            "disbursed_amount_idr > 0 AND disbursed_amount_idr <= approved_amount_idr",
            name="loan_application_disbursed_amount",
        ),
        Index("loan_application_of_merchant", "merchant_id", "id"),
        Index("loan_application_of_bank", "organisation_id", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))  # the bank
    made_by_side: Mapped[str]
    made_by: Mapped[str]  # a person or an API key
    state: Mapped[str]
    amount_idr: Mapped[int] = mapped_column(BigInteger)
    tenor_months: Mapped[int]
    interest_bps: Mapped[int | None]  # a year; 1250 is 12.5 %
    purpose: Mapped[str | None]
    recommended_amount_idr: Mapped[int | None] = mapped_column(BigInteger)
    credit_score_id: Mapped[str | None] = mapped_column(ForeignKey("credit_score.id"))
    score: Mapped[int | None]
    risk_band: Mapped[str | None]
    score_model: Mapped[str | None]
    score_version: Mapped[int | None]
    submitted_by: Mapped[str | None]
    submitted_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    reviewed_by: Mapped[str | None]
    reviewed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    decided_by: Mapped[str | None]
    decided_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    decision_reason: Mapped[str | None]
    approved_amount_idr: Mapped[int | None] = mapped_column(BigInteger)
    disbursed_by: Mapped[str | None]
    disbursed_on: Mapped[str | None]  # 2026-05-23, in Jakarta
    disbursed_amount_idr: Mapped[int | None] = mapped_column(BigInteger)
    disbursement_reference: Mapped[str | None]
    withdrawn_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)
