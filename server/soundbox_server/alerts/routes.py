"""Alerts, as operators see and settle them."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy import select

from soundbox_server import clock
from soundbox_server.access.auth import Acting
from soundbox_server.alerts import service
from soundbox_server.alerts.models import Alert
from soundbox_server.alerts.state import AlertState, Severity
from soundbox_server.answers import AnyJson, Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import statements
from soundbox_server.errors import IllegalTransition, NotFound
from soundbox_server.fields import Body, Id, Moment, Reason
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.paging import Listing, Page, Rows, between, matching, page

router = APIRouter(tags=["operators"])


class AlertFilters(Page):
    status: AlertState | None = None
    standing: bool | None = None
    severity: Severity | None = None
    kind: Id | None = None
    subject_kind: Id | None = None
    subject_id: Id | None = None
    raised_from: Moment | None = None
    raised_to: Moment | None = None


def _select(asked: AlertFilters) -> Rows:
    query = matching(
        select(Alert),
        (Alert.state, asked.status), (Alert.severity, asked.severity), (Alert.kind, asked.kind),
        (Alert.subject_kind, asked.subject_kind), (Alert.subject_id, asked.subject_id),
    )  # fmt: skip
    if asked.standing is not None:
        resolved = Alert.state == AlertState.RESOLVED.value
        query = query.where(~resolved if asked.standing else resolved)
    return between(
        query, at=Alert.raised_at_ms, id_=Alert.id, prefix="alr", from_ms=asked.raised_from, to_ms=asked.raised_to
    )


class AlertSubjectView(TypedDict):
    kind: str
    id: str


class AlertView(TypedDict):
    id: str
    kind: str
    severity: Annotated[str, among(Severity)]
    subject: AlertSubjectView
    status: Annotated[str, among(AlertState)]
    facts: AnyJson
    times: int
    raised_at: Time
    last_raised_at: Time
    acknowledged_at: Time | None
    acknowledged_by: str | None
    resolved_at: Time | None
    resolved_by: str | None
    note: str | None


def _alert(alert: Alert) -> AlertView:
    return {
        "id": alert.id,
        "kind": alert.kind,
        "severity": alert.severity,
        "subject": {"kind": alert.subject_kind, "id": alert.subject_id},
        "status": alert.state,
        "facts": orjson.loads(alert.facts),
        "times": alert.times,
        "raised_at": rfc3339(alert.raised_at_ms),
        "last_raised_at": rfc3339(alert.last_raised_at_ms),
        "acknowledged_at": rfc3339_or_none(alert.acknowledged_at_ms),
        "acknowledged_by": alert.acknowledged_by,
        "resolved_at": rfc3339_or_none(alert.resolved_at_ms),
        "resolved_by": alert.resolved_by,
        "note": alert.note,
    }


ALERTS = Listing(asked=AlertFilters, key=(Alert.id,), select=_select, show=_alert)


@router.get("/admin/alerts", responses=pages(AlertView))
async def list_alerts(request: Request, session: Reader, asked: Annotated[AlertFilters, Query()]) -> Response:
    """What needs an operator's eye, newest first."""
    return await page(request, session, ALERTS, asked)


@router.get("/admin/alerts/{alert_id}", responses=answers(AlertView))
async def get_alert(request: Request, alert_id: Id, session: Reader) -> Response:
    alert = await session.get(Alert, alert_id)
    if alert is None:
        raise NotFound("No such alert.", alert_id=alert_id)
    return envelope(request, _alert(alert))


class Remark(Body):
    note: Reason | None = None


@router.post("/admin/alerts/{alert_id}/acknowledge", responses=answers(AlertView) | problems(IllegalTransition))
async def acknowledge_alert(
    request: Request, alert_id: Id, session: Session, actor: Acting, remark: Remark | None = None
) -> Response:
    """I am looking into it: it stays on the list, and nobody else is called."""
    note = remark.note if remark else None
    alert = await service.acknowledge(session, alert_id, by=actor.id, note=note, now_ms=clock.now_ms())
    await record(await statements(session), actor, "alert.acknowledged", ("alert", alert_id), details={"note": note})
    return envelope(request, _alert(alert))


@router.post("/admin/alerts/{alert_id}/resolve", responses=answers(AlertView) | problems(IllegalTransition))
async def resolve_alert(
    request: Request, alert_id: Id, session: Session, actor: Acting, remark: Remark | None = None
) -> Response:
    """It is over. The same trouble again raises a new alert."""
    note = remark.note if remark else None
    alert = await service.resolve(session, alert_id, by=actor.id, note=note, now_ms=clock.now_ms())
    await record(await statements(session), actor, "alert.resolved", ("alert", alert_id), details={"note": note})
    return envelope(request, _alert(alert))
