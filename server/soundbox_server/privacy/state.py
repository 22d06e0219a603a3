"""What may follow what in the erasure of a merchant."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class ErasureState(StrEnum):
    REQUESTED = "requested"
    REFUSED = "refused"
    HELD = "held"  # the people and their ways in are gone; what the law keeps waits for its day
    ERASED = "erased"


E = ErasureState
TRANSITIONS: dict[ErasureState, frozenset[ErasureState]] = {
    E.REQUESTED: frozenset({E.REFUSED, E.HELD}),
    E.REFUSED: frozenset(),  # asked again it is another request
    E.HELD: frozenset({E.ERASED}),  # what is erased cannot be had back: nobody refuses it any more
    E.ERASED: frozenset(),
}


def require(current: str, wanted: ErasureState) -> str:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[ErasureState(current)]:
        raise IllegalTransition(f"An erasure cannot go from {current} to {wanted}.", status=current)
    return wanted.value
