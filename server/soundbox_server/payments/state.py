"""What may follow what: for a payment, for one attempt to charge it at a provider, and for money that is given back."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class PaymentState(StrEnum):
    CREATED = "created"
    AWAITING_PAYMENT = "awaiting_payment"
    PAID = "paid"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    NEEDS_REVIEW = "needs_review"
    REVERSED = "reversed"
    DISPUTED = "disputed"


class AttemptState(StrEnum):
    NEW = "new"
    SUBMITTED = "submitted"
    ACTIVE = "active"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"


class RefundState(StrEnum):
    REQUESTED = "requested"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"
    DONE = "done"
    FAILED = "failed"


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
    # What was paid never becomes unpaid: it is given back, taken back, or argued about.
    S.PAID: frozenset({S.PARTIALLY_REFUNDED, S.REFUNDED, S.REVERSED, S.DISPUTED}),
    S.PARTIALLY_REFUNDED: frozenset({S.PARTIALLY_REFUNDED, S.REFUNDED, S.REVERSED, S.DISPUTED}),
    S.REFUNDED: frozenset(),
    S.REVERSED: frozenset(),
    # Won, it is what it was before; lost, the bank took it back.
    S.DISPUTED: frozenset({S.PAID, S.PARTIALLY_REFUNDED, S.REFUNDED, S.REVERSED}),
    # Only an operator moves it, or a provider that takes back what it brought.
    S.NEEDS_REVIEW: frozenset({S.PAID, S.REFUNDED, S.FAILED}),
}
LATE = frozenset({S.EXPIRED, S.CANCELLED, S.FAILED})
OPEN = frozenset({S.CREATED, S.AWAITING_PAYMENT})
# Its money was booked as the merchant's, whatever became of it since. A refunded payment may also be one whose money
# went back from suspense: only its `paid_at_ms` tells.
CAPTURED = frozenset({S.PAID, S.PARTIALLY_REFUNDED, S.REVERSED, S.DISPUTED})
NEVER_CAPTURED = frozenset(set(S) - CAPTURED - {S.REFUNDED})

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

R = RefundState
REFUNDS: dict[RefundState, frozenset[RefundState]] = {
    R.REQUESTED: frozenset({R.SUBMITTED, R.DONE, R.FAILED}),  # done at once: cash from the drawer
    R.SUBMITTED: frozenset({R.SUBMITTED, R.UNKNOWN, R.DONE, R.FAILED}),  # submitted again: it never arrived
    R.UNKNOWN: frozenset({R.SUBMITTED, R.UNKNOWN, R.DONE, R.FAILED}),
    R.DONE: frozenset(),
    R.FAILED: frozenset({R.DONE}),  # the provider said no, and gave the money back all the same
}
PENDING = (R.REQUESTED, R.SUBMITTED, R.UNKNOWN)


def require(current: str, wanted: PaymentState) -> PaymentState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[PaymentState(current)]:
        raise IllegalTransition(f"A payment cannot go from {current} to {wanted}.", state=current)
    return wanted


def require_refund(current: str, wanted: RefundState) -> RefundState:
    """The wanted state, or IllegalTransition."""
    if wanted not in REFUNDS[RefundState(current)]:
        raise IllegalTransition(f"A refund cannot go from {current} to {wanted}.", state=current)
    return wanted


def before(state: AttemptState) -> str:
    """The states an attempt may have before this one, as the list of an SQL IN."""
    return ", ".join(f"'{earlier}'" for earlier, later in ATTEMPTS.items() if state in later)
