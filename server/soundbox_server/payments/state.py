"""What may follow what for a payment, and for one attempt to charge it at a provider."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class PaymentState(StrEnum):
    CREATED = "created"
    AWAITING_PAYMENT = "awaiting_payment"
    PAID = "paid"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    NEEDS_REVIEW = "needs_review"


class AttemptState(StrEnum):
    NEW = "new"
    SUBMITTED = "submitted"
    ACTIVE = "active"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"


class Outcome(StrEnum):
    """What a provider's report led to."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    NEEDS_REVIEW = "needs_review"
    ORPHAN = "orphan"


class StaticQrState(StrEnum):
    """Of a QR that hangs at a terminal. A retired one never comes back: another sticker is another QR."""

    ACTIVE = "active"
    RETIRED = "retired"


class StaticQrKind(StrEnum):
    PAYMENT = "payment"
    TRANSFER = "transfer"


S = PaymentState
TRANSITIONS: dict[PaymentState, frozenset[PaymentState]] = {
    # Created may be paid at once: the customer, and the callback, can be faster than the provider's answer to us.
    S.CREATED: frozenset({S.AWAITING_PAYMENT, S.PAID, S.EXPIRED, S.CANCELLED, S.FAILED, S.NEEDS_REVIEW}),
    S.AWAITING_PAYMENT: frozenset({S.PAID, S.EXPIRED, S.CANCELLED, S.FAILED, S.NEEDS_REVIEW}),
    # People pay from screenshots: money that comes after the end is still money, marked late.
    S.EXPIRED: frozenset({S.PAID, S.NEEDS_REVIEW}),
    S.CANCELLED: frozenset({S.PAID, S.NEEDS_REVIEW}),
    S.FAILED: frozenset({S.PAID, S.NEEDS_REVIEW}),
    S.PAID: frozenset(),
    S.NEEDS_REVIEW: frozenset(),  # only an operator moves it
}
LATE = frozenset({S.EXPIRED, S.CANCELLED, S.FAILED})
OPEN = frozenset({S.CREATED, S.AWAITING_PAYMENT})

A = AttemptState
ATTEMPTS: dict[AttemptState, frozenset[AttemptState]] = {
    A.NEW: frozenset({A.SUBMITTED, A.ACTIVE, A.UNKNOWN, A.SUCCEEDED, A.FAILED, A.EXPIRED}),
    A.SUBMITTED: frozenset({A.ACTIVE, A.UNKNOWN, A.SUCCEEDED, A.FAILED, A.EXPIRED}),
    A.ACTIVE: frozenset({A.SUCCEEDED, A.FAILED, A.EXPIRED}),
    A.UNKNOWN: frozenset({A.ACTIVE, A.SUCCEEDED, A.FAILED, A.EXPIRED}),
    A.SUCCEEDED: frozenset(),
    A.FAILED: frozenset({A.SUCCEEDED}),  # a late report of success
    A.EXPIRED: frozenset({A.SUCCEEDED}),
}


def require(current: str, wanted: PaymentState) -> PaymentState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[PaymentState(current)]:
        raise IllegalTransition(f"A payment cannot go from {current} to {wanted}.", state=current)
    return wanted


def before(state: AttemptState) -> str:
    """The states an attempt may have before this one, as the list of an SQL IN."""
    return ", ".join(f"'{earlier}'" for earlier, later in ATTEMPTS.items() if state in later)
