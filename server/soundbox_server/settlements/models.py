from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.settlements.state import ItemKind, RunState, SettlementState


def _among(states: Iterable[str]) -> str:
    return ", ".join(f"'{state}'" for state in states)


_OPEN = text("state = 'open'")
_UNPAID = text("state IN ('calculated', 'paying', 'failed')")
_CARRIES = text("carried_out <> 0 AND carried_to IS NULL")


class SettlementRun(Base):
    """The making of all batches of one window of one fee profile. It goes on where it stood, whoever goes on with it.

    `cursor` is the last journal that was looked at; everything up to `settled_to` needs no second look by a later run.
    """

    __tablename__ = "settlement_run"
    __table_args__ = (
        CheckConstraint(f"state IN ({_among(RunState)})", name="settlement_run_state_known"),
        CheckConstraint("(state = 'done') = (finished_at_ms IS NOT NULL)", name="settlement_run_ended_has_a_time"),
    )

    fee_profile_id: Mapped[str] = mapped_column(ForeignKey("fee_profile.id"), primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True)  # 2026-05-22, the business day in Jakarta
    window_name: Mapped[str] = mapped_column(primary_key=True)
    closes_at_ms: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str]
    cursor: Mapped[str]
    settled_to: Mapped[str | None]
    started_by: Mapped[str | None]  # None: the clock
    started_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class SettlementProgress(Base):
    """Up to which journal everything of a merchant's is in some batch: where its next run begins to look."""

    __tablename__ = "settlement_progress"

    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"), primary_key=True)
    settled_to: Mapped[str]
    run: Mapped[str | None]  # the run that it was there for when that began


class Settlement(Base):
    """What one merchant gets for one window of one business day, in whole rupiah. One batch per merchant and window.

    `adjustment_amount` is what refunds and reversals took, the fees that came back with them included: never positive.
    A batch never pays less than nothing: what is missing is `carried_out`, and `carried_in` of the next one; both are
    zero or negative.
    """

    __tablename__ = "settlement"
    __table_args__ = (
        CheckConstraint(f"state IN ({_among(SettlementState)})", name="settlement_state_known"),
        CheckConstraint(
            "gross_amount - fee_amount + adjustment_amount + carried_in = net_amount + carried_out",
            name="settlement_adds_up",
        ),
        CheckConstraint("net_amount >= 0 AND carried_out <= 0 AND carried_in <= 0", name="settlement_pays_or_carries"),
        CheckConstraint("net_amount = 0 OR carried_out = 0", name="settlement_pays_first"),
        CheckConstraint("(state IN ('open', 'carried')) = (net_amount = 0)", name="settlement_paid_has_a_net"),
        CheckConstraint("opens_at_ms < closes_at_ms", name="settlement_window_has_a_length"),
        UniqueConstraint("merchant_id", "day", "window_name", name="settlement_one_per_window"),
        Index("settlement_by_merchant", "merchant_id", "id"),
        Index("settlement_by_window", "day", "window_name", "id"),
        Index("settlement_open", "fee_profile_id", "day", "window_name", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("settlement_unpaid", "id", sqlite_where=_UNPAID, postgresql_where=_UNPAID),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    fee_profile_id: Mapped[str] = mapped_column(ForeignKey("fee_profile.id"))
    day: Mapped[str]
    window_name: Mapped[str]
    opens_at_ms: Mapped[int] = mapped_column(BigInteger)
    closes_at_ms: Mapped[int] = mapped_column(BigInteger)
    settles_on: Mapped[str]
    state: Mapped[str]
    payout_mode: Mapped[str]  # the merchant's, when the batch was begun
    payments: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    adjustments: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    gross_amount: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    fee_amount: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    adjustment_amount: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    carried_in: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    carried_out: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    net_amount: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    calculated_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # whenever its state did


class SettlementShare(Base):
    """The part of a batch that came through one provider. `net_amount` is what is paid out through it.

    A provider that brought less than it took back pays nothing, and the others pay so much less: `carried_out` is what
    that provider owes (negative), or is owed, until the merchant's next batch takes it up (`carried_to`).
    """

    __tablename__ = "settlement_share"
    __table_args__ = (
        CheckConstraint(
            "gross_amount - fee_amount + adjustment_amount + carried_in = net_amount + carried_out",
            name="settlement_share_adds_up",
        ),
        CheckConstraint("net_amount >= 0", name="settlement_share_net"),
        Index("settlement_share_carries", "merchant_id", sqlite_where=_CARRIES, postgresql_where=_CARRIES),
        {"sqlite_with_rowid": False},
    )

    settlement_id: Mapped[str] = mapped_column(ForeignKey("settlement.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str]
    payments: Mapped[int] = mapped_column(BigInteger)
    adjustments: Mapped[int] = mapped_column(BigInteger)
    gross_amount: Mapped[int] = mapped_column(BigInteger)
    fee_amount: Mapped[int] = mapped_column(BigInteger)
    adjustment_amount: Mapped[int] = mapped_column(BigInteger)
    carried_in: Mapped[int] = mapped_column(BigInteger)
    carried_out: Mapped[int] = mapped_column(BigInteger)
    net_amount: Mapped[int] = mapped_column(BigInteger)
    carried_to: Mapped[str | None] = mapped_column(ForeignKey("settlement.id"))


class SettlementItem(Base):
    """One journal that moved what the merchant is owed: a capture, a refund or a reversal. Each is in one batch at
    most: so is a payment, which has one capture, and a refund, which is booked once.

    Amounts are signed as the merchant sees them: a refund's are negative. Found by a join over journals and payments,
    which nobody deletes, so no foreign key looks for each of them once more.
    """

    __tablename__ = "settlement_item"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_among(ItemKind)})", name="settlement_item_kind"),
        CheckConstraint("(kind = 'payment') = (gross_amount > 0)", name="settlement_item_sign"),
        UniqueConstraint("journal_id", name="settlement_item_once"),
        {"sqlite_with_rowid": False},
    )

    settlement_id: Mapped[str] = mapped_column(ForeignKey("settlement.id"), primary_key=True)
    journal_id: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str]
    kind: Mapped[str]
    provider: Mapped[str]
    gross_amount: Mapped[int] = mapped_column(BigInteger)
    fee_amount: Mapped[int] = mapped_column(BigInteger)
    at_ms: Mapped[int] = mapped_column(BigInteger)  # when it was paid, or went back
