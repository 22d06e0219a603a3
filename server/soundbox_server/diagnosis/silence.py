"""Boxes that are told of payments and play none: whoever stands at the till hears nothing of their money."""

from collections.abc import Sequence
from dataclasses import dataclass

from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Statements
from soundbox_server.ids import lowest_id

ALERT = "device.silent_speaker"
GRACE_MS = 70_000  # an announcement's minute of life, and some for the word that it was played
MOST_AT_ONCE = 5_000
BOOKED_MS = 600_000  # an id and its time are made moments apart


@dataclass(frozen=True, kw_only=True)
class Patience:
    """So many payments in so long a time, and not one of them played."""

    minutes: int = 10
    payments: int = 2

    @property
    def window_ms(self) -> int:
        return self.minutes * 60_000


@dataclass(frozen=True, kw_only=True)
class SilentBox:
    device_id: str
    told: int
    since_ms: int
    online: bool


# What went out and could have been played by now: nothing suppressed, nothing that was too late to say, and nothing for
# a box whose kind says nothing of what it plays.
# The outbox is counted first and the boxes are looked up after it, once each: a planner whose statistics are older than
# the fleet must not walk through all boxes for each message.
_SILENT = """
WITH told AS MATERIALIZED (
  SELECT m.recipient_id, count(*) AS told, min(m.created_at_ms) AS since_ms FROM outbox_message m
  WHERE m.id >= $1 AND m.id < $2 AND m.created_at_ms >= $3 AND m.created_at_ms < $4 AND m.kind = 'payment_success'
    AND m.original_id IS NULL AND m.state NOT IN ('suppressed', 'sent') AND coalesce(m.reason, '') <> 'reported_late'
    AND NOT m.unconfirmed
  GROUP BY m.recipient_id
  HAVING count(*) >= $5 AND sum(CASE WHEN m.played_at_ms IS NOT NULL THEN 1 ELSE 0 END) = 0
)
SELECT t.recipient_id, t.told, t.since_ms, CASE WHEN p.online THEN 1 ELSE 0 END AS online
FROM told t JOIN device d ON d.id = t.recipient_id LEFT JOIN device_presence p ON p.device_id = t.recipient_id
WHERE d.state = 'bound' AND t.recipient_id NOT IN (
  SELECT a.subject_id FROM alert a WHERE a.kind = '{alert}' AND a.subject_kind = 'device' AND a.state <> 'resolved')
ORDER BY t.recipient_id LIMIT {most}
"""


async def silent(tx: Statements, patience: Patience, *, now_ms: int) -> list[SilentBox]:
    """Boxes that are silent and not on the list yet."""
    from_ms, to_ms = now_ms - GRACE_MS - patience.window_ms, now_ms - GRACE_MS
    rows = await tx.fetch(
        _SILENT.format(alert=ALERT, most=MOST_AT_ONCE),
        lowest_id("ann", from_ms - BOOKED_MS), lowest_id("ann", to_ms + BOOKED_MS), from_ms, to_ms, patience.payments,
    )  # fmt: skip
    return [
        SilentBox(device_id=row["recipient_id"], told=row["told"], since_ms=row["since_ms"], online=bool(row["online"]))
        for row in rows
    ]


async def raise_alerts(tx: Statements, *, boxes: Sequence[SilentBox], patience: Patience, now_ms: int) -> None:
    """One for each. A box that is online and plays nothing is worse: nobody else says that it is in trouble."""
    for one in boxes:
        severity = Severity.CRITICAL if one.online else Severity.WARNING
        facts = {"payments": one.told, "minutes": patience.minutes, "since_ms": one.since_ms, "online": one.online}
        await raise_alert(tx, ALERT, ("device", one.device_id), severity=severity, facts=facts, now_ms=now_ms)


_OVER = """
SELECT a.subject_id FROM alert a LEFT JOIN device d ON d.id = a.subject_id
WHERE a.kind = '{alert}' AND a.state <> 'resolved' AND (coalesce(d.state, '') <> 'bound' OR EXISTS (
  SELECT 1 FROM outbox_message m WHERE m.recipient_id = a.subject_id AND m.id >= $1 AND m.kind = 'payment_success'
  AND m.played_at_ms >= a.raised_at_ms))
ORDER BY a.subject_id
"""


async def clear_alerts(tx: Statements, patience: Patience, *, now_ms: int) -> list[str]:
    """Settle those of boxes that have played since, or stand nowhere any more; returns whose."""
    lately = lowest_id("ann", now_ms - GRACE_MS - patience.window_ms - BOOKED_MS)
    rows = await tx.fetch(_OVER.format(alert=ALERT), lately)
    for row in rows:
        await clear(tx, ALERT, ("device", row["subject_id"]), now_ms=now_ms)
    return [row["subject_id"] for row in rows]
