"""What may follow what for a message on its way to a box. Never backwards; unusual entries carry their reason."""

from enum import StrEnum


class Delivery(StrEnum):
    QUEUED = "queued"  # no connection to send it over yet
    PUBLISHED = "published"  # handed to the broker, which proves nothing; the end for a box that answers nothing
    SENT = "sent"  # handed to the broker, and this kind has no answer: a box that missed it asks again
    RECEIVED = "received"  # in the box's journal
    PLAYED = "played"
    DUPLICATE = "duplicate"  # the box had it before and says no more about it
    STALE_SKIPPED = "stale_skipped"
    REJECTED = "rejected"
    FAILED = "failed"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    DIGESTED = "digested"


D = Delivery
_ANSWERS = {D.RECEIVED, D.PLAYED, D.STALE_SKIPPED, D.REJECTED, D.FAILED}
TRANSITIONS: dict[Delivery, frozenset[Delivery]] = {
    D.QUEUED: frozenset({D.PUBLISHED, D.EXPIRED, *_ANSWERS}),
    D.PUBLISHED: frozenset({D.EXPIRED, D.SENT, *_ANSWERS}),  # sent: a letter, once its server has taken it
    D.RECEIVED: frozenset({D.PLAYED, D.STALE_SKIPPED, D.REJECTED, D.FAILED}),
    D.EXPIRED: frozenset({D.DIGESTED, *_ANSWERS}),  # a late proof of what happened in time
    D.SENT: frozenset(),
    D.PLAYED: frozenset(),
    D.DUPLICATE: frozenset({D.PLAYED}),
    D.STALE_SKIPPED: frozenset({D.DIGESTED}),
    D.REJECTED: frozenset(),
    D.FAILED: frozenset({D.PLAYED}),  # "no play report" was our guess; the box's word is better
    D.SUPPRESSED: frozenset(),
    D.DIGESTED: frozenset(),
}
WAITING = (Delivery.QUEUED, Delivery.PUBLISHED)  # somebody still has to say something


def may_follow(current: str, wanted: Delivery) -> bool:
    return wanted in TRANSITIONS[Delivery(current)]
