from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.pos.state import ConflictType, ItemKind, Resolution, SaleState

_KINDS = ", ".join(f"'{kind}'" for kind in ItemKind)
_STATES = ", ".join(f"'{state}'" for state in SaleState)
_CONFLICTS = ", ".join(f"'{conflict}'" for conflict in ConflictType)
_RESOLUTIONS = ", ".join(f"'{resolution}'" for resolution in Resolution)


class Sale(Base):
    """What was sold under one of a merchant's order codes. `items` is JSON, as the caller wrote it."""

    __tablename__ = "sale"

    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"), primary_key=True)
    order_code: Mapped[str] = mapped_column(primary_key=True)
    product_name: Mapped[str | None]
    items: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class OfflineItem(Base):
    """What a till did while it was offline, and we took over. `facts` is JSON, `payment_id` the cash it brought.

    The till's own reference names it, once as a transaction, once as its payment and once as its void.
    """

    __tablename__ = "offline_item"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_KINDS})", name="offline_item_kind"),
        CheckConstraint(f"state IN ({_STATES})", name="offline_item_state"),
        CheckConstraint("(kind = 'transaction') = (state IS NOT NULL)", name="offline_item_transactions_have_a_state"),
        UniqueConstraint("merchant_id", "kind", "offline_reference", name="offline_item_once"),
        Index("offline_item_offline_id", "merchant_id", "offline_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    kind: Mapped[str]
    offline_reference: Mapped[str]
    offline_id: Mapped[str]
    state: Mapped[str | None]
    facts: Mapped[str]
    payment_id: Mapped[str | None] = mapped_column(ForeignKey("payment.id"))
    received_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class OfflineConflict(Base):
    """What a till said and we did not take over, until somebody decides. `local_data` and `server_data` are JSON."""

    __tablename__ = "offline_conflict"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_KINDS})", name="offline_conflict_kind"),
        CheckConstraint(f"conflict_type IN ({_CONFLICTS})", name="offline_conflict_type"),
        CheckConstraint(f"resolution_strategy IN ({_RESOLUTIONS})", name="offline_conflict_resolution"),
        CheckConstraint(
            "(resolution_strategy IS NULL) = (resolved_at_ms IS NULL)", name="offline_conflict_resolved_has_a_time"
        ),
        UniqueConstraint("merchant_id", "local_sha256", name="offline_conflict_once"),
        Index("offline_conflict_of_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    terminal_id: Mapped[str] = mapped_column(ForeignKey("terminal.id"))
    kind: Mapped[str]
    offline_reference: Mapped[str]
    offline_id: Mapped[str]
    conflict_type: Mapped[str]
    reason: Mapped[str]
    local_data: Mapped[str]
    local_sha256: Mapped[str]
    server_data: Mapped[str | None]
    resolution_strategy: Mapped[str | None]
    resolution_reason: Mapped[str | None]
    resolved_by: Mapped[str | None]  # nobody: what it violated was put right, and the till said it again
    resolved_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
