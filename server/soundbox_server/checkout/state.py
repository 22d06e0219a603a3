"""What whoever pays sees of a payment, whatever we call it among ourselves."""

from enum import StrEnum

from soundbox_server.payments.state import PaymentState


class SessionState(StrEnum):
    WAITING = "waiting"
    PAID = "paid"
    EXPIRED = "expired"
    FAILED = "failed"


S, P = SessionState, PaymentState
SHOWN: dict[PaymentState, SessionState] = {
    P.CREATED: S.WAITING,
    P.AWAITING_PAYMENT: S.WAITING,
    P.PAID: S.PAID,
    P.DISPUTED: S.PAID,
    # What went back was paid all the same: nobody is to pay it again.
    P.PARTIALLY_REFUNDED: S.PAID,
    P.REFUNDED: S.PAID,
    P.REVERSED: S.FAILED,
    P.EXPIRED: S.EXPIRED,
    P.CANCELLED: S.FAILED,
    P.FAILED: S.FAILED,
    # Money came, and somebody looks at it: to pay once more would be wrong.
    P.NEEDS_REVIEW: S.FAILED,
}
