"""What may follow what: for a bank's view of a merchant, for a loan application, and what a look was at."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class ConsentScope(StrEnum):
    """How much a bank may see. `full` holds what `score` holds."""

    SCORE = "score"  # that there is this merchant, its score, band and limits, and what each component brings
    FULL = "full"  # besides: contact, takings, warnings, and loan applications


class ConsentEventKind(StrEnum):
    GRANTED = "granted"  # also once more, with another scope or end
    WITHDRAWN = "withdrawn"


class LookedAt(StrEnum):
    LIST = "list"
    FILE = "file"
    PROFILE = "profile"
    CREDIT = "credit"
    ALERTS = "alerts"
    ASSESSMENT = "assessment"
    APPLICATIONS = "applications"


class Side(StrEnum):
    """Who made an application. Until it is submitted nobody else sees it."""

    MERCHANT = "merchant"
    BANK = "bank"


class LoanState(StrEnum):
    DRAFT = "draft"
    SUBMITTED = "submitted"
    UNDER_REVIEW = "under_review"
    APPROVED = "approved"
    REJECTED = "rejected"
    DISBURSED = "disbursed"
    WITHDRAWN = "withdrawn"


L = LoanState
TRANSITIONS: dict[LoanState, frozenset[LoanState]] = {
    L.DRAFT: frozenset({L.SUBMITTED, L.WITHDRAWN}),
    L.SUBMITTED: frozenset({L.UNDER_REVIEW, L.WITHDRAWN}),
    L.UNDER_REVIEW: frozenset({L.APPROVED, L.REJECTED, L.WITHDRAWN}),  # nobody decides what nobody has looked into
    L.APPROVED: frozenset({L.DISBURSED, L.WITHDRAWN}),  # until the money is there a merchant may think again
    L.REJECTED: frozenset(),
    L.DISBURSED: frozenset(),
    L.WITHDRAWN: frozenset(),
}


def require(current: str, wanted: LoanState) -> LoanState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[LoanState(current)]:
        raise IllegalTransition(f"A loan application cannot go from {current} to {wanted}.", status=current)
    return wanted
