"""What may follow what in an export's life."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class ExportState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


S = ExportState
TRANSITIONS: dict[ExportState, frozenset[ExportState]] = {
    S.QUEUED: frozenset({S.RUNNING, S.CANCELLED}),
    S.RUNNING: frozenset({S.RUNNING, S.DONE, S.FAILED, S.CANCELLED}),  # running again: whoever ran it died
    S.DONE: frozenset({S.EXPIRED}),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
    S.EXPIRED: frozenset(),
}
UNFINISHED = (S.QUEUED, S.RUNNING)


def require(current: str, wanted: ExportState) -> str:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[ExportState(current)]:
        raise IllegalTransition(f"An export cannot go from {current} to {wanted}.", status=current)
    return wanted.value
