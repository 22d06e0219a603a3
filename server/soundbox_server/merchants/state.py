"""What may follow what: for a merchant, for a document it showed, and for the account it is paid at."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class MerchantState(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    SUSPENDED = "suspended"
    REJECTED = "rejected"


class AnnouncementPolicy(StrEnum):
    """Which boxes say a payment."""

    TERMINAL = "terminal"  # all at its terminal
    PRIMARY = "primary"  # of these the one that has stood there longest
    OUTLET = "outlet"  # all in its outlet


class DocumentState(StrEnum):
    PENDING = "pending"
    VERIFIED = "verified"
    REFUSED = "refused"


class AccountChangeState(StrEnum):
    REQUESTED = "requested"
    APPROVED = "approved"
    APPLIED = "applied"
    REFUSED = "refused"


class PlaceState(StrEnum):
    """Of an outlet or a terminal. A disabled one issues no QR; money that still arrives there is recorded."""

    ACTIVE = "active"
    DISABLED = "disabled"


M = MerchantState
MERCHANTS: dict[MerchantState, frozenset[MerchantState]] = {
    M.PENDING: frozenset({M.APPROVED, M.REJECTED}),
    M.APPROVED: frozenset({M.SUSPENDED, M.REJECTED}),
    M.SUSPENDED: frozenset({M.APPROVED, M.REJECTED}),
    M.REJECTED: frozenset({M.PENDING}),  # it showed better papers
}

D = DocumentState
DOCUMENTS: dict[DocumentState, frozenset[DocumentState]] = {
    D.PENDING: frozenset({D.VERIFIED, D.REFUSED}),
    D.VERIFIED: frozenset({D.REFUSED}),  # found out later
    D.REFUSED: frozenset({D.VERIFIED}),
}

A = AccountChangeState
ACCOUNT_CHANGES: dict[AccountChangeState, frozenset[AccountChangeState]] = {
    A.REQUESTED: frozenset({A.APPROVED, A.REFUSED}),
    A.APPROVED: frozenset({A.APPLIED, A.REFUSED}),  # refused while it is held: that is what the hold is for
    A.APPLIED: frozenset(),
    A.REFUSED: frozenset(),
}


def require_merchant(current: str, wanted: MerchantState) -> str:
    """The wanted state, or IllegalTransition."""
    if wanted not in MERCHANTS[MerchantState(current)]:
        raise IllegalTransition(f"A merchant cannot go from {current} to {wanted}.", status=current)
    return wanted.value


def require_document(current: str, wanted: DocumentState) -> str:
    """The wanted state, or IllegalTransition."""
    if wanted not in DOCUMENTS[DocumentState(current)]:
        raise IllegalTransition(f"A document cannot go from {current} to {wanted}.", verification_status=current)
    return wanted.value


def require_account_change(current: str, wanted: AccountChangeState) -> str:
    """The wanted state, or IllegalTransition."""
    if wanted not in ACCOUNT_CHANGES[AccountChangeState(current)]:
        raise IllegalTransition(f"An account change cannot go from {current} to {wanted}.", status=current)
    return wanted.value
