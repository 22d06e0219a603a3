"""The nightly look at the books: once a night, by whichever worker is first, and again where that one died."""

from collections.abc import Sequence
from dataclasses import asdict

import orjson

from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.clock import JAKARTA_AHEAD_MS, jakarta_day
from soundbox_server.db import Row, Statements
from soundbox_server.reconciliation.books import Finding

FROM_HOUR = 2  # in Jakarta: the shops are closed, and yesterday's late callbacks have come
LEASE_MS = 3_600_000
ALERT = ("ledger.unbalanced", ("ledger", "books"))
_SHOWN = 20


async def claim(tx: Statements, *, now_ms: int) -> str | None:
    """The day whose check is ours to do, if it is time and nobody else does it."""
    hour = (now_ms + JAKARTA_AHEAD_MS) // 3_600_000 % 24
    if hour < FROM_HOUR:
        return None
    day = jakarta_day(now_ms)
    rows = await tx.fetch(
        "INSERT INTO ledger_check (day, started_at_ms) VALUES ($1, $2) ON CONFLICT (day) DO UPDATE SET "
        "started_at_ms = excluded.started_at_ms WHERE ledger_check.findings IS NULL "
        "AND ledger_check.started_at_ms <= $3 RETURNING day",
        day, now_ms, now_ms - LEASE_MS,
    )  # fmt: skip
    return day if rows else None


async def record(tx: Statements, day: str, found: Sequence[Finding], *, now_ms: int) -> None:
    """Store what was found. An alert stands from the first night with findings to the first one without."""
    shown = [asdict(finding) for finding in found[:_SHOWN]]
    await tx.execute(
        "UPDATE ledger_check SET finished_at_ms = $2, findings = $3, report = $4 WHERE day = $1",
        day, now_ms, len(found), orjson.dumps(shown).decode(),
    )  # fmt: skip
    kind, subject = ALERT
    if found:
        facts = {"day": day, "findings": len(found), "first": shown}
        await raise_alert(tx, kind, subject, severity=Severity.CRITICAL, facts=facts, now_ms=now_ms)
    else:
        await clear(tx, kind, subject, now_ms=now_ms)


async def is_due(tx: Statements, *, now_ms: int) -> bool:
    """A look before the claim, which locks: nearly always there is nothing to do."""
    if (now_ms + JAKARTA_AHEAD_MS) // 3_600_000 % 24 < FROM_HOUR:
        return False
    rows: Sequence[Row] = await tx.fetch("SELECT findings FROM ledger_check WHERE day = $1", jakarta_day(now_ms))
    return not rows or rows[0]["findings"] is None
