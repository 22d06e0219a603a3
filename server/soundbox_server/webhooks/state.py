"""What may follow what for somebody's address that hears of events."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class EndpointState(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


class Disabled(StrEnum):
    """Why nothing is sent there any more."""

    BY_HAND = "by_hand"
    GONE = "gone"  # it answered 410: it does not want to be asked again
    FAILING = "failing"  # for days it took nothing


class Profile(StrEnum):
    """How what is sent is written and signed."""

    STANDARD = "standard"
    KGITON = "kgiton"  # reference 003's: the address comes with each payment


class DeliveryStatus(StrEnum):
    """Of one event on its way to one address, as its owner sees it."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


S = EndpointState
TRANSITIONS: dict[EndpointState, frozenset[EndpointState]] = {
    S.ACTIVE: frozenset({S.DISABLED}),
    S.DISABLED: frozenset({S.ACTIVE}),
}


def require(current: str, wanted: EndpointState) -> EndpointState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[EndpointState(current)]:
        raise IllegalTransition(f"A webhook cannot go from {current} to {wanted}.", state=current)
    return wanted
