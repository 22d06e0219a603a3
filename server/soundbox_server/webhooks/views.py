"""How an address and what is sent there are shown: to its owner and to staff alike, and never a secret."""

from typing import Annotated

import orjson

from soundbox_server.answers import AnyJson, Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.outbox.state import WAITING, Delivery
from soundbox_server.webhooks.kinds import EVERYTHING, SUBSCRIBABLE
from soundbox_server.webhooks.models import WebhookAttempt, WebhookEndpoint
from soundbox_server.webhooks.state import DeliveryStatus, EndpointState, Profile


class WebhookView(TypedDict):
    id: str
    organisation_id: str
    merchant_id: str | None
    profile: Annotated[str, among(Profile)]
    url: str | None
    description: str | None
    events: list[str]
    status: Annotated[str, among(EndpointState)]
    disabled_reason: str | None
    last_sequence: int
    failing_since: Time | None
    created_at: Time
    changed_at: Time | None


class WebhookWithSecretView(WebhookView):
    secret: str


def webhook_view(row: WebhookEndpoint) -> WebhookView:
    """`url` is null where each payment brings its own."""
    return {
        "id": row.id,
        "organisation_id": row.organisation_id,
        "merchant_id": row.merchant_id,
        "profile": row.profile,
        "url": row.url,
        "description": row.description,
        "events": list(SUBSCRIBABLE) if row.events == EVERYTHING else row.events.split(),
        "status": row.state,
        "disabled_reason": row.disabled_reason,
        "last_sequence": row.last_seq,
        "failing_since": rfc3339_or_none(row.failing_since_ms),
        "created_at": rfc3339(row.created_at_ms),
        "changed_at": rfc3339_or_none(row.changed_at_ms),
    }


class DeliveryView(TypedDict):
    id: str
    webhook_id: str
    event_id: str
    event_type: str
    sequence: int | None
    url: str
    status: Annotated[str, among(DeliveryStatus)]
    reason: str | None
    attempts: int
    replay_of: str | None
    created_at: Time
    next_attempt_at: Time | None
    finished_at: Time | None


def delivery_view(row: OutboxMessage) -> DeliveryView:
    return {
        "id": row.id,
        "webhook_id": row.recipient_id,
        "event_id": row.subject_id or row.id,
        "event_type": row.kind,
        "sequence": row.seq,
        "url": row.address,
        "status": status_of(row.state).value,
        "reason": row.reason,
        "attempts": row.attempt,
        "replay_of": row.original_id,
        "created_at": rfc3339(row.created_at_ms),
        "next_attempt_at": rfc3339_or_none(row.due_at_ms),
        "finished_at": rfc3339_or_none(row.finished_at_ms),
    }


def status_of(state: str) -> DeliveryStatus:
    """An outbox row's state in the words of its owner."""
    if state in WAITING:
        return DeliveryStatus.PENDING
    return DeliveryStatus.DELIVERED if state == Delivery.SENT else DeliveryStatus.FAILED


STATES_OF = {
    status: tuple(state.value for state in Delivery if status_of(state) is status) for status in DeliveryStatus
}


class AttemptView(TypedDict):
    number: int
    at: Time
    duration_ms: int
    address: str | None
    status: int | None
    error: str | None
    request_headers: AnyJson
    response_headers: AnyJson
    response_body: str | None


def attempt_view(row: WebhookAttempt) -> AttemptView:
    return {
        "number": row.number,
        "at": rfc3339(row.at_ms),
        "duration_ms": row.duration_ms,
        "address": row.address,
        "status": row.status,
        "error": row.error,
        "request_headers": orjson.loads(row.request_headers),
        "response_headers": None if row.response_headers is None else orjson.loads(row.response_headers),
        "response_body": row.response_body,
    }


class WholeDeliveryView(DeliveryView):
    request_body: AnyJson
    log: list[AttemptView]


class NewDeliveryView(TypedDict):
    delivery_id: str


class ReplayedView(TypedDict):
    webhook_id: str
    replayed: int
