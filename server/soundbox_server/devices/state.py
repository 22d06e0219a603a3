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
    S.SUSPENDED: frozenset({S.REGISTERED, S.ACTIVATED, S.BOUND, S.REVOKED}),  # resumed: back to where it stood
    S.REVOKED: frozenset({S.RETIRED}),  # whoever took the box holds its keys: no way back
    S.RETIRED: frozenset(),
}
IN_SERVICE = (S.ACTIVATED, S.BOUND)  # let in by the broker and by the HTTP doors
MAY_ACTIVATE = (S.REGISTERED, *IN_SERVICE)


class CredentialState(StrEnum):
    ISSUED = "issued"  # handed out, good for nothing but its own confirmation
    ACTIVE = "active"
    SUPERSEDED = "superseded"  # its token may live on for a while, its password does not
    REVOKED = "revoked"


C = CredentialState
CREDENTIAL_TRANSITIONS: dict[CredentialState, frozenset[CredentialState]] = {
    C.ISSUED: frozenset({C.ACTIVE, C.REVOKED}),  # one that is asked for again before it was confirmed is forgotten
    C.ACTIVE: frozenset({C.SUPERSEDED, C.REVOKED}),
    C.SUPERSEDED: frozenset({C.REVOKED}),
    C.REVOKED: frozenset(),
}


def require(current: str, wanted: DeviceState) -> DeviceState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[DeviceState(current)]:
        raise IllegalTransition(f"A device cannot go from {current} to {wanted}.", state=current)
    return wanted
