from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class PaymentSession(Base):
    """A payment as it is presented to whoever pays: the id is its address's secret, `trace_id` its owner's name for it.

    `payer_chooses`: by any method that the merchant's providers offer, and not only by the one it was made with.
    `items` is JSON, [{id, name, price, quantity}]. The payment knows the amount, what is scanned, and where it stands.
    """

    __tablename__ = "payment_session"
    __table_args__ = (
        CheckConstraint("language IN ('id', 'en')", name="payment_session_language"),
        CheckConstraint("expires_at_ms > created_at_ms", name="payment_session_lives"),
        Index("payment_session_of_organisation", "organisation_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    trace_id: Mapped[str] = mapped_column(unique=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"), unique=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))
    description: Mapped[str | None]
    customer_name: Mapped[str | None]
    items: Mapped[str | None]
    back_url: Mapped[str | None]
    success_url: Mapped[str | None]
    failure_url: Mapped[str | None]
    language: Mapped[str]
    payer_chooses: Mapped[bool] = mapped_column(server_default=false())
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
