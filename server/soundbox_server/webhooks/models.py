from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.seal import SEALED
from soundbox_server.webhooks.state import Disabled, EndpointState, Profile

_STATES = ", ".join(f"'{state}'" for state in EndpointState)
_REASONS = ", ".join(f"'{reason}'" for reason in Disabled)
_PROFILES = ", ".join(f"'{profile}'" for profile in Profile)
_HEARS = text("state = 'active' AND profile = 'standard'")
_KGITON = text("profile = 'kgiton'")


class WebhookEndpoint(Base):
    """An address of an organisation's that hears of events: of all its merchants, or of one.

    One of the kgiton profile has no address of its own: each payment brings one. `events` are names separated by
    blanks, or an asterisk. `failing_since_ms` stands from the first failure to the next success.
    """

    __tablename__ = "webhook_endpoint"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="webhook_endpoint_state_known"),
        CheckConstraint(f"disabled_reason IN ({_REASONS})", name="webhook_endpoint_reason_known"),
        CheckConstraint("(state = 'disabled') = (disabled_reason IS NOT NULL)", name="webhook_endpoint_disabled_why"),
        CheckConstraint(f"profile IN ({_PROFILES})", name="webhook_endpoint_profile_known"),
        CheckConstraint("(profile = 'kgiton') = (url IS NULL)", name="webhook_endpoint_has_an_address"),
        CheckConstraint("last_seq >= 0", name="webhook_endpoint_counts_up"),
        # What every paid payment looks at: it holds only who hears something.
        Index("webhook_endpoint_hears", "organisation_id", sqlite_where=_HEARS, postgresql_where=_HEARS),
        Index("webhook_endpoint_of_organisation", "organisation_id", "id"),
        Index(
            "webhook_endpoint_kgiton", "organisation_id", unique=True, sqlite_where=_KGITON, postgresql_where=_KGITON
        ),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))
    merchant_id: Mapped[str | None] = mapped_column(ForeignKey("merchant.id"))
    profile: Mapped[str]
    url: Mapped[str | None]
    description: Mapped[str | None]
    events: Mapped[str]
    state: Mapped[str]
    disabled_reason: Mapped[str | None]
    last_seq: Mapped[int] = mapped_column(BigInteger)
    failing_since_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str | None]
    changed_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class WebhookSecret(Base):
    """What an endpoint's messages are signed with, sealed. One that was exchanged holds until it expires."""

    __tablename__ = "webhook_secret"
    __table_args__ = (Index("webhook_secret_of_endpoint", "endpoint_id", "id"), {"sqlite_with_rowid": False})

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoint.id"))
    sealed: Mapped[str] = mapped_column(info=dict(SEALED))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class WebhookTarget(Base):
    """Who else hears of a payment: the partner that charged for the merchant, and, where the partner gave an address
    with the payment, that address. `facts` is JSON of what the partner calls the payment."""

    __tablename__ = "webhook_target"
    __table_args__ = (
        CheckConstraint("(url IS NULL) = (endpoint_id IS NULL)", name="webhook_target_is_signed"),
        {"sqlite_with_rowid": False},
    )

    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"))
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("webhook_endpoint.id"))
    url: Mapped[str | None]
    facts: Mapped[str]


class WebhookEvent(Base):
    """Something that happened and is not yet on its way. It commits with what it tells of, and goes once every address
    that hears of it has its delivery: what it says lives on in them.

    It refers to nothing by key: checking them would cost the payment path locks on rows that all payments share.
    """

    __tablename__ = "webhook_event"
    __table_args__ = ({"sqlite_with_rowid": False},)

    id: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    organisation_id: Mapped[str]
    merchant_id: Mapped[str]
    payment_id: Mapped[str | None]
    data: Mapped[str]
    at_ms: Mapped[int] = mapped_column(BigInteger)


class WebhookAttempt(Base):
    """One try to deliver, and what came of it. Headers are JSON; what proves or opens something is left out."""

    __tablename__ = "webhook_attempt"
    __table_args__ = (
        Index("webhook_attempt_of_delivery", "delivery_id", "id"),
        CheckConstraint("status IS NOT NULL OR error IS NOT NULL", name="webhook_attempt_has_an_end"),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    delivery_id: Mapped[str]
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoint.id"))
    number: Mapped[int]
    at_ms: Mapped[int] = mapped_column(BigInteger)
    duration_ms: Mapped[int]
    address: Mapped[str | None]
    status: Mapped[int | None]
    error: Mapped[str | None]
    request_headers: Mapped[str]
    response_headers: Mapped[str | None]
    response_body: Mapped[str | None]
