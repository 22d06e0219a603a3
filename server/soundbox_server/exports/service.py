"""Files made in the background: asked for, written by whichever worker is free, kept for a week.

A worker holds a job by a lease that it renews with each piece it writes. A job whose writer died begins again: what a
list holds may have changed meanwhile, and half of each would be neither.
"""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.db import KEY_STAYS, Row, Statements
from soundbox_server.errors import NotFound, RateLimited
from soundbox_server.exports.models import ExportJob
from soundbox_server.exports.state import ExportState, require
from soundbox_server.ids import new_id

LEASE_MS = 60_000
KEPT_MS = 7 * 24 * 3_600_000
ATTEMPTS = 3
WAITING_PER_PERSON = 5
WAITING_AT_ALL = 100


async def ask(
    tx: Statements,
    *,
    kind: str,
    format_: str,
    with_bom: bool,
    filters: str,
    by: str,
    organisation_id: str | None = None,
    now_ms: int,
) -> str:
    """Queue an export; returns its id. `organisation_id` is whose own things it is about; None for staff. Raises
    RateLimited when too many wait already: staff's are counted apart, so that no customer is in their way."""
    waiting = await tx.fetch(
        "SELECT count(*) AS n, coalesce(sum(CASE WHEN requested_by = $1 THEN 1 ELSE 0 END), 0) AS own "
        f"FROM export_job WHERE state IN ('queued', 'running') AND organisation_id IS {_null(organisation_id)}",
        by,
    )
    if waiting[0]["own"] >= WAITING_PER_PERSON or waiting[0]["n"] >= WAITING_AT_ALL:
        raise RateLimited("Too many exports are waiting. Let some finish, or cancel them.")
    export_id = new_id("exp")
    await tx.execute(
        "INSERT INTO export_job (id, kind, format, with_bom, filters, state, requested_by, requested_at_ms, attempt, "
        "lease_until_ms, rows_done, organisation_id) VALUES ($1, $2, $3, $4, $5, 'queued', $6, $7, 0, 0, 0, $8)",
        export_id, kind, format_, with_bom, filters, by, now_ms, organisation_id,
    )  # fmt: skip
    return export_id


def _null(organisation_id: str | None) -> str:
    return "NULL" if organisation_id is None else "NOT NULL"


async def cancel(session: AsyncSession, export_id: str, *, now_ms: int) -> ExportJob:
    """Whoever writes it stops at its next piece. Raises NotFound or IllegalTransition."""
    job = await session.get(ExportJob, export_id, with_for_update=KEY_STAYS)
    if job is None:
        raise NotFound("No such export.", export_id=export_id)
    job.state, job.finished_at_ms = require(job.state, ExportState.CANCELLED), now_ms
    return job


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A job that is ours to write, for as long as the lease is renewed."""

    id: str
    kind: str
    format: str
    with_bom: bool
    filters: str
    organisation_id: str | None
    attempt: int

    @property
    def file_name(self) -> str:
        return file_name(self.id, self.attempt, self.format)


def file_name(export_id: str, attempt: int, format_: str) -> str:
    """Each attempt writes a file of its own, so that one that was given up cannot spoil the next one's."""
    return f"{export_id}-{attempt}.{format_}"


async def claim(tx: Statements, *, owner: str, now_ms: int) -> Claimed | None:
    """The oldest job that nobody writes. One that was begun too often is failed instead."""
    rows = await tx.fetch(
        "SELECT id, kind, format, with_bom, filters, organisation_id, attempt FROM export_job "
        "WHERE state IN ('queued', 'running') "
        f"AND (state = 'queued' OR lease_until_ms <= $1) ORDER BY id LIMIT 1 {tx.lock('export_job', skip=True)}",
        now_ms,
    )
    if not rows:
        return None
    claimed = _claimed(rows[0])
    if claimed.attempt > ATTEMPTS:
        await fail(tx, claimed.id, attempt=ATTEMPTS, failure="Its writer died too often.", now_ms=now_ms)
        return None
    await tx.execute(
        "UPDATE export_job SET state = 'running', owner = $2, attempt = $3, lease_until_ms = $4, rows_done = 0, "
        "rows_total = NULL WHERE id = $1",
        claimed.id, owner, claimed.attempt, now_ms + LEASE_MS,
    )  # fmt: skip
    return claimed


def _claimed(row: Row) -> Claimed:
    return Claimed(
        id=row["id"],
        kind=row["kind"],
        format=row["format"],
        with_bom=bool(row["with_bom"]),
        filters=row["filters"],
        organisation_id=row["organisation_id"],
        attempt=row["attempt"] + 1,
    )


async def go_on(tx: Statements, job: Claimed, *, rows_done: int, rows_total: int | None, now_ms: int) -> bool:
    """Note how far it is and renew the lease; False when the job is no longer ours, or nobody's any more."""
    rows = await tx.fetch(
        "UPDATE export_job SET rows_done = $3, rows_total = $4, lease_until_ms = $5 "
        "WHERE id = $1 AND attempt = $2 AND state = 'running' RETURNING id",
        job.id, job.attempt, rows_done, rows_total, now_ms + LEASE_MS,
    )  # fmt: skip
    return bool(rows)


async def finish(tx: Statements, job: Claimed, *, rows_done: int, size_bytes: int, sha256: str, now_ms: int) -> bool:
    """The file is whole and in its place; False when the job is no longer ours."""
    rows = await tx.fetch(
        "UPDATE export_job SET state = 'done', rows_done = $3, rows_total = $3, size_bytes = $4, sha256 = $5, "
        "finished_at_ms = $6, expires_at_ms = $7 WHERE id = $1 AND attempt = $2 AND state = 'running' RETURNING id",
        job.id, job.attempt, rows_done, size_bytes, sha256, now_ms, now_ms + KEPT_MS,
    )  # fmt: skip
    return bool(rows)


async def fail(tx: Statements, export_id: str, *, attempt: int, failure: str, now_ms: int) -> None:
    await tx.execute(
        "UPDATE export_job SET state = 'failed', failure = $3, finished_at_ms = $4 "
        "WHERE id = $1 AND attempt = $2 AND state = 'running'",
        export_id, attempt, failure, now_ms,
    )  # fmt: skip


async def expire(tx: Statements, *, now_ms: int) -> list[str]:
    """Exports whose week is over; returns the names of their files."""
    rows = await tx.fetch(
        "UPDATE export_job SET state = 'expired' WHERE state = 'done' AND expires_at_ms <= $1 "
        "RETURNING id, attempt, format",
        now_ms,
    )
    return [file_name(row["id"], row["attempt"], row["format"]) for row in rows]
