"""How operators see a message."""

from typing import Annotated

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.outbox.state import Delivery


class HopsView(TypedDict):
    queued_at: Time
    published_at: Time | None
    received_at: Time | None
    played_at: Time | None
    finished_at: Time | None


class NotificationView(TypedDict):
    event_id: str
    device_id: str | None
    transaction_id: str | None
    original_event_id: str | None
    digest_event_id: str | None
    seq: int | None
    status: Annotated[str, among(Delivery)]
    reason: str | None
    unsigned: bool
    unconfirmed: bool
    attempts: int
    hops: HopsView
    expires_at: Time | None
    trace_id: str | None


def notification(row: OutboxMessage) -> NotificationView:
    """An announcement and when it took each hop; `published` is when we claimed it, to be sent straight after that
    commit, and the rest is the box's word. `unsigned`: whoever reaches the box's topic could have said it;
    `unconfirmed`: the box answers nothing, so it ends as published and nobody knows whether it was played."""
    return {
        "event_id": row.id,
        "device_id": None if row.reason == "no_device" else row.recipient_id,
        "transaction_id": row.subject_id,
        "original_event_id": row.original_id,
        "digest_event_id": row.digest_id,
        "seq": row.seq,
        "status": row.state,
        "reason": row.reason,
        "unsigned": row.unsigned,
        "unconfirmed": row.unconfirmed,
        "attempts": row.attempt,
        "hops": {
            "queued_at": rfc3339(row.created_at_ms),
            "published_at": rfc3339_or_none(row.published_at_ms),
            "received_at": rfc3339_or_none(row.received_at_ms),
            "played_at": rfc3339_or_none(row.played_at_ms),
            "finished_at": rfc3339_or_none(row.finished_at_ms),
        },
        "expires_at": rfc3339_or_none(row.expires_at_ms),
        "trace_id": row.trace_id,
    }
