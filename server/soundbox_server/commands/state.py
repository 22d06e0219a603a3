"""What may follow what in a command's life. Terminal states never move."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class CommandState(StrEnum):
    QUEUED = "queued"  # its box is offline, or nobody has sent it yet
    SENT = "sent"  # handed to the broker, which proves nothing
    DELIVERED = "delivered"  # the box has it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"  # no box had it in time
    TIMEOUT = "timeout"  # the box had it and told no end
    CANCELLED = "cancelled"
    UNCONFIRMED = "unconfirmed"  # handed to the broker once, for a box that answers nothing: the end of it


S = CommandState
# A box's word may overtake our own note that we have sent it, and the one about the end the one about the delivery.
_ANSWERS = {S.DELIVERED, S.SUCCEEDED, S.FAILED, S.REJECTED, S.TIMEOUT}
TRANSITIONS: dict[CommandState, frozenset[CommandState]] = {
    S.QUEUED: frozenset({S.SENT, S.CANCELLED, S.EXPIRED, S.UNCONFIRMED, *_ANSWERS}),
    S.SENT: frozenset({S.EXPIRED, *_ANSWERS}),
    S.DELIVERED: frozenset({S.SUCCEEDED, S.FAILED, S.REJECTED, S.TIMEOUT}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset(),
    S.REJECTED: frozenset(),
    S.EXPIRED: frozenset(),
    S.TIMEOUT: frozenset(),
    S.CANCELLED: frozenset(),
    S.UNCONFIRMED: frozenset(),
}
OPEN = tuple(state for state in CommandState if TRANSITIONS[state])


class BatchState(StrEnum):
    """Of a command that is given to many boxes."""

    WAITING = "waiting"  # for a second person
    RUNNING = "running"
    DONE = "done"  # every box's command has ended, or was refused
    REFUSED = "refused"
    LAPSED = "lapsed"  # nobody decided within a day
    STOPPED = "stopped"  # whoever has not got it yet will not


B = BatchState
BATCH_TRANSITIONS: dict[BatchState, frozenset[BatchState]] = {
    B.WAITING: frozenset({B.RUNNING, B.REFUSED, B.LAPSED}),
    B.RUNNING: frozenset({B.DONE, B.STOPPED}),
    B.DONE: frozenset(),
    B.REFUSED: frozenset(),
    B.LAPSED: frozenset(),
    B.STOPPED: frozenset(),
}


def require_batch(current: str, wanted: BatchState) -> BatchState:
    """The wanted state, or IllegalTransition."""
    if wanted not in BATCH_TRANSITIONS[BatchState(current)]:
        raise IllegalTransition(f"A batch cannot go from {current} to {wanted}.", state=current)
    return wanted


def may_follow(current: str, wanted: CommandState) -> bool:
    return wanted in TRANSITIONS[CommandState(current)]
