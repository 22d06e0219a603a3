from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.scoring.state import Model, RiskBand, WarningSeverity, WarningState, WarningType


def _among(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


_OPEN = text("state = 'open'")


class CreditScore(Base):
    """What a model said of a merchant at a moment. Triggers refuse to change or delete a row.

    `inputs` is JSON of the facts that the model looked at: from them the same score is computed again. Without enough
    history there is no score, and `reasons` tells what is missing.
    """

    __tablename__ = "credit_score"
    __table_args__ = (
        CheckConstraint(f"model IN ({_among(Model)})", name="credit_score_model"),
        CheckConstraint(f"risk_band IN ({_among(RiskBand)})", name="credit_score_band"),
        CheckConstraint("score BETWEEN 0 AND 100", name="credit_score_range"),
        CheckConstraint(
            "(score IS NULL) = (risk_band IS NULL) AND (score IS NULL) = (min_limit_idr IS NULL) "
            "AND (score IS NULL) = (max_limit_idr IS NULL)",
            name="credit_score_whole",
        ),
        UniqueConstraint("merchant_id", "model", "scored_at_ms", name="credit_score_once"),
        Index("credit_score_by_creation", "created_at_ms"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    model: Mapped[str]
    version: Mapped[int]
    scored_at_ms: Mapped[int] = mapped_column(BigInteger)  # the moment that was looked at
    score: Mapped[int | None]
    risk_band: Mapped[str | None]
    min_limit_idr: Mapped[int | None] = mapped_column(BigInteger)
    max_limit_idr: Mapped[int | None] = mapped_column(BigInteger)
    inputs: Mapped[str]
    metrics: Mapped[str]
    reasons: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class EarlyWarning(Base):
    """A sign that a merchant's trade goes wrong: one of a type stands at a time, and ends by itself.

    `judged_for` is the bank by whose own thresholds it is one; nobody where it is one by the platform's.
    """

    __tablename__ = "early_warning"
    __table_args__ = (
        CheckConstraint(f"type IN ({_among(WarningType)})", name="early_warning_type"),
        CheckConstraint(f"severity IN ({_among(WarningSeverity)})", name="early_warning_severity"),
        CheckConstraint(f"state IN ({_among(WarningState)})", name="early_warning_state"),
        CheckConstraint("(state = 'resolved') = (resolved_at_ms IS NOT NULL)", name="early_warning_end_has_a_time"),
        Index(
            "early_warning_one_open",
            "merchant_id",
            "judged_for",
            "type",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        Index("early_warning_by_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    type: Mapped[str]
    severity: Mapped[str]
    state: Mapped[str]
    metric: Mapped[str]
    value_hundredths: Mapped[int] = mapped_column(BigInteger)  # 3050 is 30.5
    threshold_hundredths: Mapped[int]
    deviation_hundredths: Mapped[int] = mapped_column(BigInteger)  # how far beyond the threshold, in % of it
    detected_at_ms: Mapped[int] = mapped_column(BigInteger)
    seen_at_ms: Mapped[int] = mapped_column(BigInteger)
    resolved_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    judged_for: Mapped[str] = mapped_column(server_default="")


class EarlyWarningThreshold(Base):
    """From where on a bank calls it a warning, where that is not where everybody does."""

    __tablename__ = "early_warning_threshold"
    __table_args__ = (
        CheckConstraint(f"type IN ({_among(WarningType)})", name="early_warning_threshold_type"),
        CheckConstraint("hundredths > 0", name="early_warning_threshold_positive"),
    )

    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"), primary_key=True)
    type: Mapped[str] = mapped_column(primary_key=True)
    hundredths: Mapped[int]


class ThresholdChange(Base):
    """A bank said from where on it is a warning to it: `thresholds` is JSON of all that it said, in hundredths.

    From its first one on a bank has warnings of its own. `judged_at_ms` is when they were brought in line with it.
    """

    __tablename__ = "early_warning_threshold_change"
    __table_args__ = (
        CheckConstraint("version > 0", name="early_warning_threshold_change_counts"),
        Index(
            "early_warning_threshold_change_due", "id", sqlite_where=text("judged_at_ms IS NULL"),
            postgresql_where=text("judged_at_ms IS NULL"),
        ),
        UniqueConstraint("organisation_id", "version", name="early_warning_threshold_change_version"),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))
    version: Mapped[int]
    thresholds: Mapped[str]
    changed_by: Mapped[str | None]
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)
    judged_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class ScoringRun(Base):
    """The nightly scoring of everybody by one model. Whoever began it and died leaves it to another."""

    __tablename__ = "scoring_run"
    __table_args__ = (
        CheckConstraint("(merchants IS NULL) = (finished_at_ms IS NULL)", name="scoring_run_ended_has_a_time"),
    )

    day: Mapped[str] = mapped_column(primary_key=True)  # 2026-05-23, in Jakarta
    model: Mapped[str] = mapped_column(primary_key=True)
    started_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    merchants: Mapped[int | None]
