from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.payouts.state import LIVE, EventOutcome, PayoutMode, PayoutState, Rail


def _among(states: Iterable[str]) -> str:
    return ", ".join(f"'{state}'" for state in states)


_ONE_AT_A_TIME = text(f"state IN ({_among(LIVE)})")
_DUE = text("ask_at_ms IS NOT NULL")


class Payout(Base):
    """A settlement's money on its way to its merchant. `reference` is ours, and stands before the bank is asked.

    One that lives blocks another: that is a key of the table, and so it holds whatever any process believes. The
    account is the one that it was sent to; of one that was not sent yet, it is still the merchant's to change.
    """

    __tablename__ = "payout"
    __table_args__ = (
        CheckConstraint(f"state IN ({_among(PayoutState)})", name="payout_state_known"),
        CheckConstraint(f"mode IN ({_among(PayoutMode)})", name="payout_mode_known"),
        CheckConstraint(f"rail IN ({_among(Rail)})", name="payout_rail_known"),
        CheckConstraint("amount > 0", name="payout_amount_positive"),
        CheckConstraint("(mode = 'manual') = (bank IS NULL)", name="payout_by_a_bank_or_by_hand"),
        CheckConstraint("mode <> 'manual' OR state NOT IN ('submitted', 'unknown')", name="payout_by_hand_is_known"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'reversed')) = (finished_at_ms IS NOT NULL)",
            name="payout_ended_has_a_time",
        ),
        CheckConstraint("(state = 'reversed') = (reversed_at_ms IS NOT NULL)", name="payout_reversed_has_a_time"),
        CheckConstraint(
            "mode <> 'manual' OR state NOT IN ('succeeded', 'reversed') "
            "OR (paid_reference IS NOT NULL AND note IS NOT NULL AND marked_by IS NOT NULL)",
            name="payout_by_hand_is_somebodys",
        ),
        UniqueConstraint("reference", name="payout_reference"),
        UniqueConstraint("settlement_id", "number", name="payout_number"),
        Index(
            "payout_one_at_a_time",
            "settlement_id",
            unique=True,
            sqlite_where=_ONE_AT_A_TIME,
            postgresql_where=_ONE_AT_A_TIME,
        ),
        Index("payout_due", "ask_at_ms", sqlite_where=_DUE, postgresql_where=_DUE),
        Index("payout_by_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    settlement_id: Mapped[str] = mapped_column(ForeignKey("settlement.id"))
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    number: Mapped[int]
    mode: Mapped[str]
    bank: Mapped[str | None]
    rail: Mapped[str | None]
    reference: Mapped[str]
    bank_payout_id: Mapped[str | None]
    amount: Mapped[int] = mapped_column(BigInteger)
    account_reference: Mapped[str | None]
    account_type: Mapped[str | None]
    state: Mapped[str]
    error_code: Mapped[str | None]
    paid_reference: Mapped[str | None]  # what the bank's slip says of one that was paid by hand
    note: Mapped[str | None]
    requested_by: Mapped[str | None]  # None: the clock
    marked_by: Mapped[str | None]
    asks: Mapped[int]
    ask_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    lease_until_ms: Mapped[int] = mapped_column(BigInteger)
    raw_response: Mapped[bytes | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    submitted_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    reversed_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class PayoutEvent(Base):
    """What a bank told us of a payout, kept word for word whatever we then did with it."""

    __tablename__ = "payout_event"
    __table_args__ = (
        CheckConstraint(f"outcome IN ({_among(EventOutcome)})", name="payout_event_outcome_known"),
        UniqueConstraint("bank", "event_key", "body_sha256", name="payout_event_once"),
        Index("payout_event_of", "payout_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    bank: Mapped[str]
    event_key: Mapped[str]
    body_sha256: Mapped[str]
    body: Mapped[bytes]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    payout_id: Mapped[str | None] = mapped_column(ForeignKey("payout.id"))
    reference: Mapped[str]
    request_id: Mapped[str]
    received_at_ms: Mapped[int] = mapped_column(BigInteger)
