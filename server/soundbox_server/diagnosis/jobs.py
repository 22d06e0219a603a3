"""What a worker does on its own: finding boxes that play nothing, and forgetting what nobody needs any more."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from soundbox_server import clock, metrics
from soundbox_server.broker.leases import Lease, try_lease
from soundbox_server.db import Database, Statements, Work
from soundbox_server.diagnosis import log_files, silence
from soundbox_server.ids import lowest_id

log = structlog.get_logger()

DAY_MS = 86_400_000
TOGETHER = 500  # rows a transaction: others write between two of them
ALERTS_TOGETHER = 200
PAUSE_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Days:
    """How long what boxes said is kept."""

    heartbeats: int = 30
    mqtt_messages: int = 7
    logs: int = 14
    events: int = 90
    presence: int = 400
    command_payloads: int = 90


class Caretaker:
    """One process at a time does each: the others find the lease taken."""

    def __init__(
        self,
        database: Database,
        *,
        days: Days,
        speakers: silence.Patience,
        logs_folder: Path,
        lock_folder: Path,
    ) -> None:
        self._database = database
        self._days = days
        self._speakers = speakers
        self._logs_folder = logs_folder
        self._lock_folder = lock_folder

    async def watch_speakers(self) -> None:
        """Raise an alert for each box that was told of payments and played none, and settle those of boxes that play
        again."""
        if lease := await try_lease(self._database, "silent-speakers", folder=self._lock_folder):
            try:
                await watch_speakers(self._database, self._speakers)
            finally:
                await lease.release()

    async def forget(self) -> None:
        """Remove what is older than its days, in small groups, for as long as the lease is ours."""
        if lease := await try_lease(self._database, "retention", folder=self._lock_folder):
            try:
                await forget(self._database, self._days, lease=lease)
                await forget_log_files(self._database, folder=self._logs_folder)
            finally:
                await lease.release()


async def watch_speakers(database: Database, patience: silence.Patience) -> None:
    now_ms = clock.now_ms()
    silent = await database.read(lambda tx: silence.silent(tx, patience, now_ms=now_ms))
    for start in range(0, len(silent), ALERTS_TOGETHER):
        some = silent[start : start + ALERTS_TOGETHER]
        await database.write(partial(silence.raise_alerts, boxes=some, patience=patience, now_ms=now_ms))
        for one in some:
            log.warning("device.silent_speaker", device_id=one.device_id, told=one.told)
    for device_id in await database.write(lambda tx: silence.clear_alerts(tx, patience, now_ms=now_ms)):
        log.info("device.speaks_again", device_id=device_id)


@dataclass(frozen=True, kw_only=True)
class _Old:
    """Rows of a table whose ids tell their age. $1 is the time before which they are old."""

    table: str
    prefix: str
    days: Callable[[Days], int]
    only: str = "received_at_ms < $1"


_ANSWERED = "state = 'sent' AND created_at_ms < $1"
_OLD = (
    _Old(table="device_heartbeat", prefix="hbt", days=lambda days: days.heartbeats),
    _Old(table="mqtt_message", prefix="mqm", days=lambda days: days.mqtt_messages, only="at_ms < $1"),
    _Old(table="device_log", prefix="dlg", days=lambda days: days.logs),
    _Old(table="device_event", prefix="dve", days=lambda days: days.events),
    # A time online that began long ago and goes on is what tells of today.
    _Old(table="device_online", prefix="onl", days=lambda days: days.presence, only="ended_at_ms < $1"),
    # Answers that no box acknowledges: the time, a QR, a credential, what it need not wait for.
    *(
        _Old(table="outbox_message", prefix=prefix, days=lambda days: days.mqtt_messages, only=_ANSWERED)
        for prefix in ("tim", "qrr", "crr", "skp")
    ),
)


async def forget(database: Database, days: Days, *, lease: Lease | None = None) -> None:
    """Telemetry that is older than its days, and what ended commands said. Payments, postings, announcements, commands
    themselves and the audit log stay: they are no telemetry."""
    now_ms = clock.now_ms()
    for old in _OLD:
        await _in_groups(
            database, old.table, partial(_delete, old=old, before_ms=now_ms - old.days(days) * DAY_MS), lease
        )
    before_ms = now_ms - days.command_payloads * DAY_MS
    await _in_groups(database, "command_payload", partial(_empty_commands, before_ms=before_ms), lease)


async def _in_groups(database: Database, kind: str, work: Work[int], lease: Lease | None) -> None:
    total = 0
    while lease is None or not lease.lost.is_set():
        count = await database.write(work)
        metrics.forgotten.labels(kind).inc(count)
        total += count
        if count < TOGETHER:
            break
        await asyncio.sleep(PAUSE_S)
    if total:
        log.info("telemetry.forgotten", kind=kind, rows=total)


async def _delete(tx: Statements, *, old: _Old, before_ms: int) -> int:
    rows = await tx.fetch(
        f"DELETE FROM {old.table} WHERE id IN (SELECT id FROM {old.table} WHERE id >= $4 AND id < $2 AND {old.only} "
        f"ORDER BY id LIMIT $3 {tx.lock(old.table, skip=True)}) RETURNING id",
        before_ms,
        lowest_id(old.prefix, before_ms),
        TOGETHER,
        lowest_id(old.prefix, 0),
    )
    return len(rows)


async def _empty_commands(tx: Statements, *, before_ms: int) -> int:
    """What commands said and were answered goes; that they were given, by whom, and how they ended stays. Where a walk
    ended the next one begins, and it waits there for a command that is still open."""
    marks = await tx.fetch("SELECT through_id FROM retention_mark WHERE kind = 'command_payload'")
    found = await tx.fetch(
        "SELECT id, finished_at_ms FROM device_command WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3",
        marks[0]["through_id"] if marks else "",
        lowest_id("cmd", before_ms),
        TOGETHER,
    )
    ended: list[str] = []
    for row in found:
        if row["finished_at_ms"] is None or row["finished_at_ms"] >= before_ms:
            break
        ended.append(row["id"])
    if ended:
        await _empty(tx, ended)
    return len(ended)


async def _empty(tx: Statements, ids: Sequence[str]) -> None:
    wanted = list(ids)
    await tx.fetch(
        f"SELECT id FROM outbox_message WHERE id {tx.among(1)} ORDER BY id {tx.lock('outbox_message')}", wanted
    )
    await tx.execute(f"UPDATE outbox_message SET body = $2 WHERE id {tx.among(1)}", wanted, b"")
    await tx.execute(f"UPDATE device_command SET payload = '{{}}', result = NULL WHERE id {tx.among(1)}", wanted)
    await tx.execute(f"UPDATE device_command_ack SET result = NULL WHERE command_id {tx.among(1)}", wanted)
    await tx.execute(
        "INSERT INTO retention_mark (kind, through_id) VALUES ('command_payload', $1) "
        "ON CONFLICT (kind) DO UPDATE SET through_id = excluded.through_id",
        wanted[-1],
    )


async def forget_log_files(database: Database, *, folder: Path) -> None:
    """Files of boxes' logs whose days are over."""
    while names := await database.write(lambda tx: log_files.expire(tx, now_ms=clock.now_ms(), limit=TOGETHER)):
        await asyncio.to_thread(_remove, folder, names)
        metrics.forgotten.labels("log_file").inc(len(names))


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
