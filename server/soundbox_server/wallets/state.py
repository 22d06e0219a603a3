"""What may follow what for a session in which a wallet is paid, for money that leaves one, and for an invoice."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class SessionState(StrEnum):
    """One that is not paid when its time is over stays as it was: it is the clock that ended it."""

    INITIATED = "initiated"
    SUCCESS = "success"


class EntryKind(StrEnum):
    """What an entry of a wallet's list tells of."""

    PAYMENT = "payment"
    TOPUP = "topup"
    WITHDRAWAL = "withdrawal"
    REFUND = "refund"


class Direction(StrEnum):
    CREDIT = "credit"
    DEBIT = "debit"


class WithdrawalState(StrEnum):
    CREATED = "created"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVERSED = "reversed"


class InvoiceState(StrEnum):
    OPEN = "open"
    LOCKED = "locked"  # its one-time password was guessed at too often


S = SessionState
SESSIONS: dict[SessionState, frozenset[SessionState]] = {S.INITIATED: frozenset({S.SUCCESS}), S.SUCCESS: frozenset()}

W = WithdrawalState
WITHDRAWALS: dict[WithdrawalState, frozenset[WithdrawalState]] = {
    W.CREATED: frozenset({W.SUBMITTED}),
    W.SUBMITTED: frozenset({W.SUBMITTED, W.UNKNOWN, W.SUCCEEDED, W.FAILED}),  # submitted again: it never arrived
    W.UNKNOWN: frozenset({W.SUBMITTED, W.UNKNOWN, W.SUCCEEDED, W.FAILED}),
    W.SUCCEEDED: frozenset({W.REVERSED}),
    W.FAILED: frozenset(),  # the money is in the wallet again: what a bank says later is for a person to judge
    W.REVERSED: frozenset(),
}
PENDING = (W.CREATED, W.SUBMITTED, W.UNKNOWN)


def require_session(current: str, wanted: SessionState) -> SessionState:
    """The wanted state, or IllegalTransition."""
    if wanted not in SESSIONS[SessionState(current)]:
        raise IllegalTransition("This payment session was paid.", state=current)
    return wanted


def require_withdrawal(current: str, wanted: WithdrawalState) -> WithdrawalState:
    """The wanted state, or IllegalTransition."""
    if wanted not in WITHDRAWALS[WithdrawalState(current)]:
        raise IllegalTransition(f"A withdrawal cannot go from {current} to {wanted}.", state=current)
    return wanted
