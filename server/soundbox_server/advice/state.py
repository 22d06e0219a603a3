"""The words of advice: what a text is for, what became of an answer, and where the wish for a text stands."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class Use(StrEnum):
    SCORE = "score"
    WARNING = "warning"
    TIMING = "timing"
    PRODUCTS = "products"


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"  # there was an answer, and it is not fit to be shown
    FAILED = "failed"  # there was none


class WishState(StrEnum):
    WAITING = "waiting"
    WRITTEN = "written"
    GIVEN_UP = "given_up"


TRANSITIONS: dict[WishState, frozenset[WishState]] = {
    WishState.WAITING: frozenset({WishState.WRITTEN, WishState.GIVEN_UP}),
    WishState.WRITTEN: frozenset(),
    WishState.GIVEN_UP: frozenset(),  # the built-in text serves; other figures are another wish
}


def require(current: str, wanted: WishState) -> WishState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[WishState(current)]:
        raise IllegalTransition(f"A wish cannot go from {current} to {wanted}.", state=current)
    return wanted
