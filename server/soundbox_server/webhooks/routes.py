"""Webhooks' doors: operators' for everybody's, and an owner's for its own organisation's. The same verbs at both."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.access.state import STAFF
from soundbox_server.answers import answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, IllegalTransition, NotFound, ValidationFailed
from soundbox_server.fields import Body, Id, Moment, Text, unchanged
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.idempotency import Once
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.paging import Listing, Page, Rows, between, matching, page
from soundbox_server.webhooks import deliveries, service
from soundbox_server.webhooks.addresses import FORMAT, LONGEST
from soundbox_server.webhooks.kinds import PING, SUBSCRIBABLE
from soundbox_server.webhooks.models import WebhookAttempt, WebhookEndpoint
from soundbox_server.webhooks.service import TRANSPORT, Wanted
from soundbox_server.webhooks.state import DeliveryStatus, EndpointState
from soundbox_server.webhooks.views import (
    STATES_OF,
    DeliveryView,
    NewDeliveryView,
    ReplayedView,
    WebhookView,
    WebhookWithSecretView,
    WholeDeliveryView,
    attempt_view,
    delivery_view,
    webhook_view,
)

OWNER = "api"
NO_STORE = {"Cache-Control": "no-store"}

Url = Annotated[
    str,
    Field(
        min_length=8,
        max_length=LONGEST,
        examples=["https://shop.example/hooks/soundbox"],
        description="https://, a host on the internet, a port of 80, 443 or 1024 and more; no user, no fragment",
        json_schema_extra={"format": FORMAT},
    ),
]
EventName = Literal[SUBSCRIBABLE]  # type: ignore[valid-type]
Events = Annotated[
    list[EventName],
    Field(max_length=len(SUBSCRIBABLE), examples=[["payment.paid", "payment.late"]], description="none: all of them"),
]


class NewWebhook(Body):
    url: Url
    merchant_id: Id | None = Field(None, description="only what happens to this merchant of the organisation")
    description: Text | None = None
    events: Events = []


class NewWebhookOf(NewWebhook):
    organisation_id: Annotated[Id, Field(examples=["org_demo_merchant"])]


class WebhookChanges(Body):
    """Only what is named is changed."""

    url: Url = Field(default_factory=unchanged)
    description: Text | None = None
    events: Events = Field(default_factory=unchanged)


class Since(Body):
    since: Annotated[Moment, Field(examples=["2026-05-23T00:00:00Z"])]


class WebhookFilters(Page):
    organisation_id: Id | None = None
    merchant_id: Id | None = None
    status: EndpointState | None = None


class DeliveryFilters(Page):
    status: DeliveryStatus | None = None
    event_type: Literal[(*SUBSCRIBABLE, PING)] | None = None  # type: ignore[valid-type]
    event_id: Id | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _tenant(caller: Caller) -> str | None:
    """Whose webhooks somebody may see: staff everybody's, all others their organisation's."""
    return None if caller.role in STAFF else caller.organisation_id


Tenant = Annotated[str | None, Depends(_tenant)]


async def list_webhooks(
    request: Request, session: Reader, tenant: Tenant, asked: Annotated[WebhookFilters, Query()]
) -> Response:
    """Addresses that hear of events, newest first."""

    def select_(asked: WebhookFilters) -> Rows:
        return matching(
            select(WebhookEndpoint), (WebhookEndpoint.organisation_id, tenant),
            (WebhookEndpoint.organisation_id, asked.organisation_id),
            (WebhookEndpoint.merchant_id, asked.merchant_id), (WebhookEndpoint.state, asked.status),
        )  # fmt: skip

    listing = Listing(asked=WebhookFilters, key=(WebhookEndpoint.id,), select=select_, show=webhook_view)
    return await page(request, session, listing, asked)


async def get_webhook(request: Request, webhook_id: Id, session: Reader, tenant: Tenant) -> Response:
    endpoint = await service.find(session, webhook_id, organisation_id=tenant)
    return envelope(request, webhook_view(endpoint))


async def create_webhook_of(
    request: Request, wanted: NewWebhookOf, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """An address of a merchant's or partner's organisation. Its secret is shown this once."""
    return await _create(request, session, wanted, wanted.organisation_id, actor, once)


async def create_webhook(
    request: Request, wanted: NewWebhook, session: Session, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """An address that hears of what happens to your merchants. Its secret is shown this once."""
    return await _create(request, session, wanted, caller.organisation_id, actor, once)


async def _create(
    request: Request, session: AsyncSession, asked: NewWebhook, organisation_id: str, actor: Actor, once: Once
) -> Response:
    wanted = Wanted(organisation_id=organisation_id, **asked.model_dump(exclude={"organisation_id"}))
    state = request.app.state

    async def create() -> Response:
        endpoint, secret = await service.create(
            session, wanted, reach=state.webhook_reach, ring=state.sealing_ring, by=actor.id, now_ms=clock.now_ms()
        )
        details = {"organisation_id": organisation_id, "events": endpoint.events}
        await record(await statements(session), actor, "webhook.created", ("webhook", endpoint.id), details=details)
        return envelope(request, webhook_view(endpoint) | {"secret": secret}, status=201, headers=NO_STORE)

    answer = await once.answer(await statements(session), create)
    answer.headers.update(NO_STORE)  # also when it is told again
    return answer


async def change_webhook(
    request: Request, webhook_id: Id, changes: WebhookChanges, session: Session, tenant: Tenant, actor: Acting
) -> Response:
    """Another address, description or choice of events. What is on its way already goes where it was going."""
    endpoint = await service.lock(session, webhook_id, organisation_id=tenant)
    named = changes.model_dump(exclude_unset=True)
    await service.change(endpoint, named, reach=request.app.state.webhook_reach, now_ms=clock.now_ms())
    await record(
        await statements(session), actor, "webhook.changed", ("webhook", webhook_id), details={"changed": sorted(named)}
    )
    return envelope(request, webhook_view(endpoint))


async def rotate_webhook_secret(
    request: Request, webhook_id: Id, session: Session, tenant: Tenant, actor: Acting, once: AskedOnce
) -> Response:
    """Another secret, shown this once. For a day messages carry a signature of each."""
    endpoint = await service.lock(session, webhook_id, organisation_id=tenant)

    async def rotate() -> Response:
        secret = await service.rotate(session, endpoint, ring=request.app.state.sealing_ring, now_ms=clock.now_ms())
        await record(await statements(session), actor, "webhook.secret_rotated", ("webhook", webhook_id))
        return envelope(request, webhook_view(endpoint) | {"secret": secret}, headers=NO_STORE)

    answer = await once.answer(await statements(session), rotate)
    answer.headers.update(NO_STORE)
    return answer


async def disable_webhook(
    request: Request, webhook_id: Id, session: Session, tenant: Tenant, actor: Acting
) -> Response:
    """Nothing more is sent there; what was on its way has failed, and can be sent again once it is on."""
    endpoint = await service.lock(session, webhook_id, organisation_id=tenant)
    await service.disable(session, endpoint, now_ms=clock.now_ms())
    await record(await statements(session), actor, "webhook.disabled", ("webhook", webhook_id))
    return envelope(request, webhook_view(endpoint))


async def enable_webhook(request: Request, webhook_id: Id, session: Session, tenant: Tenant, actor: Acting) -> Response:
    """It hears again of what happens from now on. What failed meanwhile: replay."""
    endpoint = await service.lock(session, webhook_id, organisation_id=tenant)
    await service.enable(session, endpoint, now_ms=clock.now_ms())
    await record(await statements(session), actor, "webhook.enabled", ("webhook", webhook_id))
    return envelope(request, webhook_view(endpoint))


async def ping_webhook(request: Request, webhook_id: Id, session: Session, tenant: Tenant, actor: Acting) -> Response:
    """Send an event that means nothing, once, to try the address."""
    await service.find(session, webhook_id, organisation_id=tenant)
    tx = await statements(session)
    delivery_id = await deliveries.ping(tx, webhook_id, owner=OWNER, now_ms=clock.now_ms())
    await record(tx, actor, "webhook.pinged", ("webhook", webhook_id), details={"delivery_id": delivery_id})
    return envelope(request, {"delivery_id": delivery_id}, status=202)


async def replay_failed_deliveries(
    request: Request, webhook_id: Id, asked: Since, session: Session, tenant: Tenant, actor: Acting
) -> Response:
    """Send again what failed since then, each under its own event id: a thousand at a time, so ask until it is none."""
    await service.find(session, webhook_id, organisation_id=tenant)
    tx = await statements(session)
    replayed = await deliveries.replay_failed(tx, webhook_id, since_ms=asked.since, owner=OWNER, now_ms=clock.now_ms())
    details = {"replayed": replayed, "since": clock.rfc3339(asked.since)}
    await record(tx, actor, "webhook.replayed", ("webhook", webhook_id), details=details)
    return envelope(request, {"webhook_id": webhook_id, "replayed": replayed}, status=202)


async def list_deliveries(
    request: Request, webhook_id: Id, session: Reader, tenant: Tenant, asked: Annotated[DeliveryFilters, Query()]
) -> Response:
    """What was sent there, newest first; for thirty days after its end."""
    await service.find(session, webhook_id, organisation_id=tenant)

    def select_(asked: DeliveryFilters) -> Rows:
        query = matching(
            select(OutboxMessage).where(
                OutboxMessage.recipient_id == webhook_id, OutboxMessage.transport == TRANSPORT
            ),
            (OutboxMessage.kind, asked.event_type), (OutboxMessage.subject_id, asked.event_id),
        )  # fmt: skip
        if asked.status is not None:
            query = query.where(OutboxMessage.state.in_(STATES_OF[asked.status]))
        return between(
            query, at=OutboxMessage.created_at_ms, id_=OutboxMessage.id, prefix="whd",
            from_ms=asked.created_from, to_ms=asked.created_to,
        )  # fmt: skip

    listing = Listing(asked=DeliveryFilters, key=(OutboxMessage.id,), select=select_, show=delivery_view)
    return await page(request, session, listing, asked)


async def get_delivery(request: Request, delivery_id: Id, session: Reader, tenant: Tenant) -> Response:
    """One delivery: what was sent, and what came of each try."""
    letter = await _find_delivery(session, delivery_id, tenant)
    tries = await session.scalars(
        select(WebhookAttempt).where(WebhookAttempt.delivery_id == delivery_id).order_by(WebhookAttempt.id)
    )
    body = letter.body.decode(errors="replace")
    shown = delivery_view(letter) | {"request_body": body, "log": [attempt_view(one) for one in tries]}
    return envelope(request, shown)


async def replay_delivery(
    request: Request, delivery_id: Id, session: Session, tenant: Tenant, actor: Acting, once: AskedOnce
) -> Response:
    """Send it again, under the same event's id."""
    letter = await _find_delivery(session, delivery_id, tenant)
    tx = await statements(session)

    async def again() -> Response:
        new = await deliveries.replay(tx, delivery_id, owner=OWNER, now_ms=clock.now_ms())
        details = {"delivery_id": delivery_id, "new_delivery_id": new}
        await record(tx, actor, "webhook.delivery_replayed", ("webhook", letter.recipient_id), details=details)
        return envelope(request, {"delivery_id": new}, status=202)

    return await once.answer(tx, again)


async def _find_delivery(session: AsyncSession, delivery_id: str, tenant: str | None) -> OutboxMessage:
    letter = await session.get(OutboxMessage, delivery_id)
    if letter is None or letter.transport != TRANSPORT:
        raise NotFound("No such delivery.", delivery_id=delivery_id)
    endpoint = await session.get(WebhookEndpoint, letter.recipient_id)
    if endpoint is None or tenant not in (None, endpoint.organisation_id):
        raise NotFound("No such delivery.", delivery_id=delivery_id)
    return letter


_ONE = "/webhooks/{webhook_id}"
_DELIVERY = "/webhook-deliveries/{delivery_id}"


def _doors(prefix: str, tag: str) -> APIRouter:
    doors = APIRouter(prefix=prefix, tags=[tag])
    made, there = problems(NotFound, ValidationFailed), problems(NotFound)
    creating = create_webhook_of if prefix == "/admin" else create_webhook
    doors.post("/webhooks", status_code=201, responses=answers(WebhookWithSecretView, status=201) | made)(creating)
    doors.get("/webhooks", responses=pages(WebhookView))(list_webhooks)
    doors.get(_ONE, responses=answers(WebhookView) | there)(get_webhook)
    doors.patch(_ONE, responses=answers(WebhookView) | there)(change_webhook)
    doors.post(f"{_ONE}/rotate", responses=answers(WebhookWithSecretView) | there)(rotate_webhook_secret)
    doors.post(f"{_ONE}/disable", responses=answers(WebhookView) | problems(IllegalTransition))(disable_webhook)
    doors.post(f"{_ONE}/enable", responses=answers(WebhookView) | problems(IllegalTransition))(enable_webhook)
    doors.post(f"{_ONE}/ping", status_code=202, responses=answers(NewDeliveryView, status=202) | problems(Conflict))(
        ping_webhook
    )
    doors.post(f"{_ONE}/replay", status_code=202, responses=answers(ReplayedView, status=202) | problems(Conflict))(
        replay_failed_deliveries
    )
    doors.get(f"{_ONE}/deliveries", responses=pages(DeliveryView) | there)(list_deliveries)
    doors.get(_DELIVERY, responses=answers(WholeDeliveryView) | there)(get_delivery)
    doors.post(
        f"{_DELIVERY}/replay", status_code=202,
        responses=answers(NewDeliveryView, status=202) | problems(IllegalTransition, Conflict),
    )(replay_delivery)  # fmt: skip
    return doors


operators = _doors("/admin", "operators")
owners = _doors("/merchant", "merchants")
