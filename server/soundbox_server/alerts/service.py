"""What an operator must look at: raised by the rooms that notice, once while it stands."""

from collections.abc import Mapping

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.alerts.models import Alert
from soundbox_server.alerts.state import AlertState, Severity, require
from soundbox_server.db import KEY_STAYS, Statements
from soundbox_server.errors import NotFound
from soundbox_server.ids import new_id

_RAISE = """
INSERT INTO alert (id, kind, severity, subject_kind, subject_id, state, facts, times, raised_at_ms, last_raised_at_ms)
VALUES ($1, $2, $3, $4, $5, 'open', $6, 1, $7, $7)
ON CONFLICT (kind, subject_kind, subject_id) WHERE state <> 'resolved' DO UPDATE SET
  times = alert.times + 1, last_raised_at_ms = excluded.last_raised_at_ms, facts = excluded.facts,
  severity = CASE WHEN alert.severity = 'critical' OR excluded.severity = 'info' THEN alert.severity
                  ELSE excluded.severity END
RETURNING id
"""


async def raise_alert(
    tx: Statements,
    kind: str,
    subject: tuple[str, str],
    *,
    severity: Severity,
    facts: Mapping[str, object] | None = None,
    now_ms: int,
) -> str:
    """Say that something is wrong, in the transaction that found it; returns the alert's id.

    `kind` is `noun.what` (`device.cloned`), `subject` a kind and an id. While an alert of this kind and subject stands,
    it counts up, keeps the newest facts and never becomes milder. `facts` are shown to staff: no secrets.
    """
    told = orjson.dumps(facts or {}, option=orjson.OPT_SORT_KEYS).decode()
    rows = await tx.fetch(_RAISE, new_id("alr"), kind, severity.value, *subject, told, now_ms)
    return str(rows[0]["id"])


async def clear(tx: Statements, kind: str, subject: tuple[str, str], *, now_ms: int) -> bool:
    """The cause is gone: whatever stands of this kind and subject is resolved by nobody. Whether anything stood."""
    rows = await tx.fetch(
        "UPDATE alert SET state = 'resolved', resolved_at_ms = $4 "
        "WHERE kind = $1 AND subject_kind = $2 AND subject_id = $3 AND state <> 'resolved' RETURNING id",
        kind, *subject, now_ms,
    )  # fmt: skip
    return bool(rows)


async def acknowledge(session: AsyncSession, alert_id: str, *, by: str | None, note: str | None, now_ms: int) -> Alert:
    """Somebody looks into it. Raises NotFound, or IllegalTransition when somebody does already."""
    alert = await _lock(session, alert_id)
    alert.state = require(alert.state, AlertState.ACKNOWLEDGED)
    alert.acknowledged_at_ms, alert.acknowledged_by, alert.note = now_ms, by, note or alert.note
    return alert


async def resolve(session: AsyncSession, alert_id: str, *, by: str | None, note: str | None, now_ms: int) -> Alert:
    """Somebody says that it is over. Raises NotFound, or IllegalTransition when it was over."""
    alert = await _lock(session, alert_id)
    alert.state = require(alert.state, AlertState.RESOLVED)
    alert.resolved_at_ms, alert.resolved_by, alert.note = now_ms, by, note or alert.note
    return alert


async def _lock(session: AsyncSession, alert_id: str) -> Alert:
    alert = await session.get(Alert, alert_id, with_for_update=KEY_STAYS)
    if alert is None:
        raise NotFound("No such alert.", alert_id=alert_id)
    return alert
