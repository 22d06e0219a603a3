"""What a provider's statement and our books may disagree about, and how that ends."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class LineKind(StrEnum):
    PAYMENT = "payment"
    REFUND = "refund"


class DifferenceKind(StrEnum):
    MISSING = "missing"  # ours, and not in the statement
    EXTRA = "extra"  # in the statement, and not ours
    DIFFERENT = "different"  # in both, and not alike


class DifferenceReason(StrEnum):
    NOT_IN_STATEMENT = "not_in_statement"
    REFERENCE_UNKNOWN = "reference_unknown"
    TWICE_IN_STATEMENT = "twice_in_statement"
    AMOUNT = "amount"
    FEE = "fee"
    KEPT_APART = "kept_apart"  # its money is in suspense, for an operator to decide about
    NOT_PAID = "not_paid"
    PAID_ELSEWHERE = "paid_elsewhere"  # another provider's money was booked for it
    NOT_DONE = "not_done"  # of a refund


class DifferenceState(StrEnum):
    OPEN = "open"
    SETTLED = "settled"
    CLEARED = "cleared"


class Settlement(StrEnum):
    """How an operator settled a difference."""

    CORRECTED_BY_PROVIDER = "corrected_by_provider"
    CORRECTED_HERE = "corrected_here"
    WRITTEN_OFF = "written_off"


S = DifferenceState
TRANSITIONS: dict[DifferenceState, frozenset[DifferenceState]] = {
    S.OPEN: frozenset({S.SETTLED, S.CLEARED}),
    S.SETTLED: frozenset(),
    S.CLEARED: frozenset(),  # a later statement had what this one lacked
}


def require(current: str, wanted: DifferenceState) -> DifferenceState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[DifferenceState(current)]:
        raise IllegalTransition(f"A difference cannot go from {current} to {wanted}.", state=current)
    return wanted
