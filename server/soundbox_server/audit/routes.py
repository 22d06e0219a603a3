"""The audit log, as staff read it. Nobody writes it from outside."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import func, select

from soundbox_server.answers import AnyJson, Time, TypedDict, pages
from soundbox_server.audit.models import AuditEntry, AuditLink
from soundbox_server.audit.service import Outcome
from soundbox_server.clock import rfc3339
from soundbox_server.fields import Id, Moment, Search
from soundbox_server.http import Reader
from soundbox_server.paging import Listing, Page, Rows, between, matching, page

router = APIRouter(tags=["operators"])


class AuditFilters(Page):
    action: Id | None = None
    action_contains: Annotated[Search | None, Field(examples=[".login."])] = None
    actor_id: Id | None = None
    organisation_id: Id | None = None
    subject_kind: Id | None = None
    subject_id: Id | None = None
    outcome: Outcome | None = None
    request_id: Id | None = None
    at_from: Moment | None = None
    at_to: Moment | None = None


def _select(asked: AuditFilters) -> Rows:
    query: Rows = select(AuditEntry, AuditLink.position, AuditLink.hash).outerjoin(
        AuditLink, AuditLink.entry_id == AuditEntry.id
    )
    query = matching(
        query,
        (AuditEntry.action, asked.action), (AuditEntry.actor_id, asked.actor_id),
        (AuditEntry.organisation_id, asked.organisation_id), (AuditEntry.subject_kind, asked.subject_kind),
        (AuditEntry.subject_id, asked.subject_id), (AuditEntry.outcome, asked.outcome),
        (AuditEntry.request_id, asked.request_id),
    )  # fmt: skip
    if asked.action_contains:
        actions = _actions()
        held = actions.c.action.contains(asked.action_contains, autoescape=True)
        query = query.where(AuditEntry.action.in_(select(actions.c.action).where(held)))
    return between(
        query, at=AuditEntry.at_ms, id_=AuditEntry.id, prefix="aud", from_ms=asked.at_from, to_ms=asked.at_to
    )


def _actions() -> Any:
    """Every action there is, each by one step in the index: there are a hundred of them among millions of entries."""
    first = select(func.min(AuditEntry.action).label("action")).cte("actions", recursive=True)
    following = (
        select(func.min(AuditEntry.action)).where(AuditEntry.action > first.c.action).scalar_subquery().label("action")
    )
    return first.union_all(select(following).where(first.c.action.is_not(None)))


class ActorView(TypedDict):
    kind: str
    id: str | None
    organisation_id: str | None
    role: str | None
    ip: str | None


class EntrySubjectView(TypedDict):
    kind: str
    id: str | None


class LinkView(TypedDict):
    position: int
    hash: str | None


class EntryView(TypedDict):
    id: str
    at: Time
    action: str
    outcome: str
    actor: ActorView
    subject: EntrySubjectView
    details: AnyJson
    request_id: str | None
    chain: LinkView | None


def _entry(entry: AuditEntry, position: int | None, hashed: str | None) -> EntryView:
    return {
        "id": entry.id,
        "at": rfc3339(entry.at_ms),
        "action": entry.action,
        "outcome": entry.outcome,
        "actor": {
            "kind": entry.actor_kind,
            "id": entry.actor_id,
            "organisation_id": entry.organisation_id,
            "role": entry.role,
            "ip": entry.ip,
        },
        "subject": {"kind": entry.subject_kind, "id": entry.subject_id},
        "details": orjson.loads(entry.details),
        "request_id": entry.request_id,
        "chain": None if position is None else {"position": position, "hash": hashed},
    }


_COLUMNS = (
    "id", "at", "action", "outcome", "actor.kind", "actor.id", "actor.organisation_id", "actor.role", "actor.ip",
    "subject.kind", "subject.id", "details", "request_id", "chain.position", "chain.hash",
)  # fmt: skip
AUDIT_LOGS = Listing(asked=AuditFilters, key=(AuditEntry.id,), select=_select, show=_entry, columns=_COLUMNS)


@router.get("/admin/audit-logs", responses=pages(EntryView))
async def list_audit_logs(request: Request, session: Reader, asked: Annotated[AuditFilters, Query()]) -> Response:
    """Who did what to what, newest first. `chain` is where the entry stands in the hash chain, once it is linked."""
    return await page(request, session, AUDIT_LOGS, asked)
