"""What may follow what in the life of a box's configuration."""

from enum import StrEnum


class ConfigState(StrEnum):
    NONE = "none"  # nobody has configured anything for it: it is as it left the factory
    PENDING = "pending"  # to be sent as soon as the box is online
    PUSHED = "pushed"  # handed to the broker, which proves nothing
    APPLIED = "applied"  # in force, by the box's own word
    REJECTED = "rejected"  # the box cannot have it, and said why; or it cannot even be written as a message
    UNANSWERED = "unanswered"  # sent for ten minutes in vain; again once the box says that it has something else
    DRIFTED = "drifted"  # it said that this was in force, and now says otherwise
    CLEARED = "cleared"  # the box left for good, and the broker keeps nothing for it


S = ConfigState
_ANSWERS = {S.APPLIED, S.REJECTED}
TRANSITIONS: dict[ConfigState, frozenset[ConfigState]] = {
    S.NONE: frozenset({S.PENDING}),
    S.PENDING: frozenset({S.PUSHED, S.CLEARED, *_ANSWERS}),  # an answer: it was fetched over HTTP, or at a birth
    S.PUSHED: frozenset({S.PENDING, S.UNANSWERED, S.CLEARED, *_ANSWERS}),
    S.APPLIED: frozenset({S.PENDING, S.DRIFTED, S.CLEARED}),
    S.REJECTED: frozenset({S.PENDING, S.APPLIED, S.CLEARED}),
    S.UNANSWERED: frozenset({S.PENDING, S.CLEARED, *_ANSWERS}),
    S.DRIFTED: frozenset({S.PENDING, S.CLEARED, *_ANSWERS}),
    S.CLEARED: frozenset(),
}


def may_follow(current: str, wanted: ConfigState) -> bool:
    return wanted in TRANSITIONS[ConfigState(current)]
