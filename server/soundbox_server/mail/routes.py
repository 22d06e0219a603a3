"""What operators see of mail: whether it left, never what it says."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import select

from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.fields import Id
from soundbox_server.http import Reader, envelope
from soundbox_server.mail.service import TRANSPORT
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.paging import Cursor, Limit, decode_cursor, next_cursor

router = APIRouter(tags=["operators"])


@router.get("/admin/mails")
async def list_mails(
    request: Request,
    session: Reader,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: Literal["queued", "published", "sent", "failed", "expired"] | None = None,
    person_id: Id | None = None,
) -> Response:
    """Mail, newest first. `failed` is a dead letter: nobody will send it again."""
    query = select(OutboxMessage).where(OutboxMessage.transport == TRANSPORT)
    query = query.order_by(OutboxMessage.id.desc()).limit(limit)
    if after := decode_cursor(cursor):
        query = query.where(OutboxMessage.id < after)
    if status:
        query = query.where(OutboxMessage.state == status)
    if person_id:
        query = query.where(OutboxMessage.recipient_id == person_id)
    rows = (await session.scalars(query)).all()
    return envelope(request, [_mail(row) for row in rows], next_cursor=next_cursor([row.id for row in rows], limit))


def _mail(row: OutboxMessage) -> dict[str, Any]:
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
