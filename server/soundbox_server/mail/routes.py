"""What operators see of mail: whether it left, never what it says."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy import select

from soundbox_server.answers import Time, TypedDict, pages
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.fields import Id
from soundbox_server.http import Reader
from soundbox_server.mail.service import TRANSPORT
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.paging import Listing, Page, Rows, matching, page

router = APIRouter(tags=["operators"])


class MailFilters(Page):
    status: Literal["queued", "published", "sent", "failed", "expired"] | None = None
    person_id: Id | None = None


def _select(asked: MailFilters) -> Rows:
    mails = select(OutboxMessage).where(OutboxMessage.transport == TRANSPORT)
    return matching(mails, (OutboxMessage.state, asked.status), (OutboxMessage.recipient_id, asked.person_id))


class MailView(TypedDict):
    id: str
    kind: str
    person_id: str
    status: str
    reason: str | None
    attempts: int
    created_at: Time
    next_attempt_at: Time | None
    finished_at: Time | None


def _mail(row: OutboxMessage) -> MailView:
    return {
        "id": row.id,
        "kind": row.kind,
        "person_id": row.recipient_id,
        "status": row.state,
        "reason": row.reason,
        "attempts": row.attempt,
        "created_at": rfc3339(row.created_at_ms),
        "next_attempt_at": rfc3339_or_none(row.due_at_ms),
        "finished_at": rfc3339_or_none(row.finished_at_ms),
    }


MAILS = Listing(asked=MailFilters, key=(OutboxMessage.id,), select=_select, show=_mail)


@router.get("/admin/mails", responses=pages(MailView))
async def list_mails(request: Request, session: Reader, asked: Annotated[MailFilters, Query()]) -> Response:
    """Mail, newest first. `failed` is a dead letter: nobody will send it again."""
    return await page(request, session, MAILS, asked)
