"""What may follow what for a merchant's money on its way to its bank."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class PayoutState(StrEnum):
    CREATED = "created"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVERSED = "reversed"


class PayoutMode(StrEnum):
    MERCHANT_DIRECT = "merchant_direct"
    MANUAL = "manual"


class Rail(StrEnum):
    BI_FAST = "bi_fast"
    SKN = "skn"
    RTGS = "rtgs"


class EventOutcome(StrEnum):
    """What a bank's report led to."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    NEEDS_REVIEW = "needs_review"
    ORPHAN = "orphan"


S = PayoutState
TRANSITIONS: dict[PayoutState, frozenset[PayoutState]] = {
    S.CREATED: frozenset({S.SUBMITTED, S.SUCCEEDED, S.FAILED}),  # succeeded at once: somebody paid by hand
    S.SUBMITTED: frozenset({S.SUBMITTED, S.UNKNOWN, S.SUCCEEDED, S.FAILED}),  # submitted again: it never arrived
    S.UNKNOWN: frozenset({S.SUBMITTED, S.UNKNOWN, S.SUCCEEDED, S.FAILED}),
    S.SUCCEEDED: frozenset({S.REVERSED}),
    S.FAILED: frozenset({S.SUCCEEDED}),  # the bank said no, and paid all the same
    S.REVERSED: frozenset(),
}
PENDING = (S.CREATED, S.SUBMITTED, S.UNKNOWN)
LIVE = (*PENDING, S.SUCCEEDED)  # of these a settlement has one at most: nothing is paid twice


def require(current: str, wanted: PayoutState) -> PayoutState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[PayoutState(current)]:
        raise IllegalTransition(f"A payout cannot go from {current} to {wanted}.", state=current)
    return wanted
