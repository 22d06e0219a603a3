"""What may follow what in a box's life."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class DeviceState(StrEnum):
    REGISTERED = "registered"
    ACTIVATED = "activated"
    BOUND = "bound"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    RETIRED = "retired"


S = DeviceState
TRANSITIONS: dict[DeviceState, frozenset[DeviceState]] = {
    S.REGISTERED: frozenset({S.ACTIVATED, S.SUSPENDED, S.REVOKED}),
    S.ACTIVATED: frozenset({S.ACTIVATED, S.BOUND, S.SUSPENDED, S.REVOKED}),  # activated again after a reset
    S.BOUND: frozenset({S.ACTIVATED, S.BOUND, S.SUSPENDED, S.REVOKED}),  # back to activated: unbound, or rebound
    S.SUSPENDED: frozenset({S.ACTIVATED, S.BOUND, S.REVOKED}),
    S.REVOKED: frozenset({S.RETIRED}),
    S.RETIRED: frozenset(),
}


def require(current: str, wanted: DeviceState) -> DeviceState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[DeviceState(current)]:
        raise IllegalTransition(f"A device cannot go from {current} to {wanted}.", state=current)
    return wanted
