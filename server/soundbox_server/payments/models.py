from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.payments.methods import SOURCES, PaymentMethod
from soundbox_server.payments.state import (
    CAPTURED,
    NEVER_CAPTURED,
    AttemptState,
    Outcome,
    PaymentState,
    RefundState,
    StaticQrKind,
    StaticQrState,
)


def _among(states: Iterable[str]) -> str:
    return ", ".join(f"'{state}'" for state in states)


_METHODS = _among(PaymentMethod)
_SOURCES = _among(SOURCES)
_STATES = _among(PaymentState)
_ATTEMPT_STATES = _among(AttemptState)
_REFUND_STATES = _among(RefundState)
_OUTCOMES = _among(Outcome)
_STATIC_KINDS = _among(StaticQrKind)
_STATIC_STATES = _among(StaticQrState)
_OPEN = text("state IN ('created', 'awaiting_payment')")
_ORDERED = text("order_code IS NOT NULL")
_IN_REVIEW = text("review_reason IS NOT NULL")
_NAMED = text("provider_reference IS NOT NULL")
_ORPHANS = text("outcome = 'orphan'")
_DUE = text("ask_at_ms IS NOT NULL")


class Payment(Base):
    """One intent to take money, in whole rupiah. Every reference's transaction, payment or order is a view of it.

    `source` is the door it was made at, `order_code` the merchant's own name for it, `payer` JSON of whom it is for.
    `amount` was asked for, `paid_amount` was booked: an operator may accept another sum than the one asked.
    `review_reason` stands while an operator is to decide about money that is kept apart, `resolution` is the decision.
    """

    __tablename__ = "payment"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="payment_state_known"),
        CheckConstraint("amount > 0", name="payment_amount_positive"),
        CheckConstraint("currency = 'IDR'", name="payment_currency"),
        CheckConstraint(
            f"(state NOT IN ({_among(sorted(CAPTURED))}) OR paid_at_ms IS NOT NULL) "
            f"AND (state NOT IN ({_among(sorted(NEVER_CAPTURED))}) OR paid_at_ms IS NULL)",
            name="payment_paid_has_a_time",
        ),
        CheckConstraint("(paid_amount IS NULL) = (paid_at_ms IS NULL)", name="payment_paid_is_whole"),
        CheckConstraint("fee_amount BETWEEN 0 AND paid_amount", name="payment_fee_within_amount"),
        CheckConstraint("refunded_amount BETWEEN 0 AND coalesce(paid_amount, 0)", name="payment_refunds_within_paid"),
        CheckConstraint("(state = 'reversed') = (reversed_at_ms IS NOT NULL)", name="payment_reversed_has_a_time"),
        CheckConstraint("resolution IN ('accepted', 'refunded', 'rejected')", name="payment_resolution"),
        CheckConstraint(f"method IN ({_METHODS})", name="payment_method_known"),
        CheckConstraint(f"source IN ({_SOURCES})", name="payment_source_known"),
        CheckConstraint("length(description) <= 200", name="payment_description_length"),
        UniqueConstraint("device_id", "request_id", name="payment_one_per_device_request"),
        Index(
            "payment_order", "merchant_id", "order_code", unique=True, sqlite_where=_ORDERED, postgresql_where=_ORDERED
        ),
        Index("payment_merchant", "merchant_id", "id"),
        Index("payment_open", "expires_at_ms", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("payment_in_review", "id", sqlite_where=_IN_REVIEW, postgresql_where=_IN_REVIEW),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    outlet_id: Mapped[str] = mapped_column(ForeignKey("outlet.id"))
    terminal_id: Mapped[str] = mapped_column(ForeignKey("terminal.id"))
    device_id: Mapped[str | None] = mapped_column(ForeignKey("device.id"))
    request_id: Mapped[str | None]
    source: Mapped[str]
    method: Mapped[str] = mapped_column(server_default="qris_dynamic")
    order_code: Mapped[str | None]
    description: Mapped[str | None]
    payer: Mapped[str | None]
    current_attempt_id: Mapped[str | None]  # once there are several: the latest, or the one that was paid
    qr_mode: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    state: Mapped[str]
    late: Mapped[bool]
    review_reason: Mapped[str | None]
    fee_amount: Mapped[int | None] = mapped_column(BigInteger)
    fee_bps: Mapped[int | None]
    fee_version: Mapped[str | None]
    issuer: Mapped[str | None]
    rrn: Mapped[str | None]
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    paid_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    captured_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    trace_id: Mapped[str]
    paid_amount: Mapped[int | None] = mapped_column(BigInteger)
    refunded_amount: Mapped[int] = mapped_column(BigInteger, server_default="0")  # that went back; of suspense, none
    resolution: Mapped[str | None]
    reversed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    fee_rounding: Mapped[str | None]
    promised: Mapped[str | None]  # JSON: postings that its capture books beside the money
    credit_account: Mapped[str | None]  # whom its money is for, where that is not its merchant: a wallet


class PaymentAttempt(Base):
    """One charge at one provider. `reference` is ours, and stands before the provider is asked.

    `actions` is JSON of what the payer needs beside `qr_payload`. The highest `number` is the one that counts; the
    ones before it failed for good, and money that they still bring is money all the same. Below zero stands what a
    payer asked to pay by instead: nobody sees it before the charge that counts has been withdrawn (decision 0013).

    `method` is its payment's where it is NULL; once a payer has chosen another, each attempt has its own.
    """

    __tablename__ = "payment_attempt"
    __table_args__ = (
        CheckConstraint(f"state IN ({_ATTEMPT_STATES})", name="payment_attempt_state_known"),
        CheckConstraint(f"method IN ({_METHODS})", name="payment_attempt_method_known"),
        UniqueConstraint("provider", "reference", name="payment_attempt_reference"),
        UniqueConstraint("payment_id", "number", name="payment_attempt_number"),
        Index(
            "payment_attempt_provider_reference",
            *("provider", "provider_reference"),
            sqlite_where=_NAMED,
            postgresql_where=_NAMED,
        ),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"))
    number: Mapped[int] = mapped_column(server_default="1")
    provider: Mapped[str]
    reference: Mapped[str]
    provider_reference: Mapped[str | None]
    state: Mapped[str]
    qr_payload: Mapped[str | None]
    actions: Mapped[str | None]
    error_code: Mapped[str | None]
    raw_request: Mapped[bytes | None]
    raw_response: Mapped[bytes | None]
    lease_until_ms: Mapped[int] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    answered_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    method: Mapped[str | None]


class ProviderEvent(Base):
    """What a provider told us, kept word for word whatever we then did with it.

    `report` is JSON of what we read, where it may be needed once more: of orphans.
    """

    __tablename__ = "provider_event"
    __table_args__ = (
        CheckConstraint(f"outcome IN ({_OUTCOMES})", name="provider_event_outcome_known"),
        UniqueConstraint("provider", "event_key", "body_sha256", name="provider_event_once"),
        Index("provider_event_payment", "payment_id"),
        Index("provider_event_orphan", "provider", "reference", sqlite_where=_ORPHANS, postgresql_where=_ORPHANS),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str]
    event_key: Mapped[str]
    body_sha256: Mapped[str]
    body: Mapped[bytes]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    payment_id: Mapped[str | None]
    reference: Mapped[str]
    request_id: Mapped[str]
    received_at_ms: Mapped[int] = mapped_column(BigInteger)
    report: Mapped[str | None]


class Refund(Base):
    """Money on its way back to whoever paid. `reference` is ours, and stands before the provider is asked.

    `from_suspense`: of money that was kept apart, not of the merchant's. `fee_returned` is the part of the fee that
    comes back with it. Without a provider it is cash from the drawer, or money that the provider gave back unasked.
    """

    __tablename__ = "refund"
    __table_args__ = (
        CheckConstraint(f"state IN ({_REFUND_STATES})", name="refund_state_known"),
        CheckConstraint("origin IN ('person', 'late_policy', 'review', 'provider')", name="refund_origin"),
        CheckConstraint("amount > 0", name="refund_amount_positive"),
        CheckConstraint("fee_returned BETWEEN 0 AND amount", name="refund_fee_within_amount"),
        CheckConstraint("(state IN ('done', 'failed')) = (finished_at_ms IS NOT NULL)", name="refund_ended_has_a_time"),
        UniqueConstraint("reference", name="refund_reference"),
        Index("refund_by_payment", "payment_id", "id"),
        Index("refund_due", "ask_at_ms", sqlite_where=_DUE, postgresql_where=_DUE),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"))
    attempt_id: Mapped[str | None] = mapped_column(ForeignKey("payment_attempt.id"))
    provider: Mapped[str | None]
    reference: Mapped[str]
    provider_refund_id: Mapped[str | None]
    origin: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    fee_returned: Mapped[int] = mapped_column(BigInteger)
    returns_fee: Mapped[bool]
    from_suspense: Mapped[bool]
    state: Mapped[str]
    reason: Mapped[str]
    requested_by: Mapped[str | None]
    error_code: Mapped[str | None]
    asks: Mapped[int]
    ask_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    lease_until_ms: Mapped[int] = mapped_column(BigInteger)
    raw_response: Mapped[bytes | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    submitted_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class ChargeWatch(Base):
    """When a provider is asked next where an attempt stands. A table of its own: a callback need not touch it."""

    __tablename__ = "charge_watch"
    __table_args__ = (Index("charge_watch_due", "ask_at_ms"), {"sqlite_with_rowid": False})

    attempt_id: Mapped[str] = mapped_column(ForeignKey("payment_attempt.id"), primary_key=True)
    asks: Mapped[int]
    ask_at_ms: Mapped[int] = mapped_column(BigInteger)


class PaymentEvent(Base):
    """A payment's own log: one row a step, in order of id."""

    __tablename__ = "payment_event"
    __table_args__ = ({"sqlite_with_rowid": False},)

    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    state: Mapped[str]
    source: Mapped[str]
    detail: Mapped[str | None]


class StaticQr(Base):
    """A QR that hangs at a terminal and is paid again and again. `partner_reference` is what its provider calls it.

    `qr_payload` is None where only that name is known. `provider_reference` is the provider's own id of the QR, which
    some repeat with every payment as if it were the payment's. A `transfer` moves money to somebody and sells nothing.
    """

    __tablename__ = "static_qr"
    __table_args__ = (
        CheckConstraint(f"kind IN ({_STATIC_KINDS})", name="static_qr_kind"),
        CheckConstraint(f"state IN ({_STATIC_STATES})", name="static_qr_state_known"),
        CheckConstraint("(state = 'retired') = (retired_at_ms IS NOT NULL)", name="static_qr_retired_has_a_time"),
        UniqueConstraint("provider", "partner_reference", name="static_qr_partner_reference"),
        Index("static_qr_terminal", "terminal_id", "id"),
        {"sqlite_with_rowid": False},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    terminal_id: Mapped[str] = mapped_column(ForeignKey("terminal.id"))
    provider: Mapped[str]
    partner_reference: Mapped[str]
    provider_reference: Mapped[str | None]
    qr_payload: Mapped[str | None]
    kind: Mapped[str]
    state: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    retired_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class StaticTransfer(Base):
    """A name by which a payment of a static QR is known: its retrieval reference, the provider's transaction, an event.

    One payment has as many rows as names; the key is what keeps money that is told twice from being booked twice.
    """

    __tablename__ = "static_transfer"
    __table_args__ = ({"sqlite_with_rowid": False},)

    static_qr_id: Mapped[str] = mapped_column(ForeignKey("static_qr.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payment.id"))
    rrn: Mapped[str | None]
