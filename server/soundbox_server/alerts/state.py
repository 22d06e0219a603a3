"""What may follow what in an alert's life."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class AlertState(StrEnum):
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


S = AlertState
TRANSITIONS: dict[AlertState, frozenset[AlertState]] = {
    S.OPEN: frozenset({S.ACKNOWLEDGED, S.RESOLVED}),
    S.ACKNOWLEDGED: frozenset({S.RESOLVED}),
    S.RESOLVED: frozenset(),  # the same trouble again is another alert
}


def require(current: str, wanted: AlertState) -> AlertState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[AlertState(current)]:
        raise IllegalTransition(f"An alert cannot go from {current} to {wanted}.", state=current)
    return wanted
