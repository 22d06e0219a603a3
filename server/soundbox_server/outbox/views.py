"""How operators see a message."""

from typing import Any

from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.outbox.models import OutboxMessage


def notification(row: OutboxMessage) -> dict[str, Any]:
    """An announcement and when it took each hop; `published` is when we claimed it, to be sent straight after that
    commit, and the rest is the box's word."""
    return {
        "event_id": row.id,
        "device_id": None if row.reason == "no_device" else row.recipient_id,
        "transaction_id": row.subject_id,
        "original_event_id": row.original_id,
        "seq": row.seq,
        "status": row.state,
        "reason": row.reason,
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
