from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.privacy.state import ErasureState

_STATES = ", ".join(f"'{state}'" for state in ErasureState)
_NOT_REFUSED = text("state <> 'refused'")
_HELD = text("state = 'held'")


class MerchantErasure(Base):
    """A merchant that is to be forgotten: asked for by one of the platform's people, approved by another."""

    __tablename__ = "merchant_erasure"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="merchant_erasure_state"),
        CheckConstraint(
            "state NOT IN ('held', 'erased') OR (decided_by <> requested_by AND hold_until_ms IS NOT NULL)",
            name="merchant_erasure_by_two_people",
        ),
        CheckConstraint("(state = 'erased') = (erased_at_ms IS NOT NULL)", name="merchant_erasure_end_has_a_time"),
        Index(
            "merchant_erasure_once", "merchant_id", unique=True, sqlite_where=_NOT_REFUSED,
            postgresql_where=_NOT_REFUSED,
        ),
        Index("merchant_erasure_held", "hold_until_ms", sqlite_where=_HELD, postgresql_where=_HELD),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    state: Mapped[str]
    reason: Mapped[str]
    requested_by: Mapped[str]
    requested_at_ms: Mapped[int] = mapped_column(BigInteger)
    decided_by: Mapped[str | None]
    decided_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    hold_until_ms: Mapped[int | None] = mapped_column(BigInteger)  # until then the law keeps papers and the legal name
    erased_at_ms: Mapped[int | None] = mapped_column(BigInteger)
