"""What the worker does about credentials and presence on its own."""

import structlog

from soundbox_server import clock, metrics
from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.audit import service as audit
from soundbox_server.audit.service import SYSTEM
from soundbox_server.db import Database, Statements
from soundbox_server.devices import credentials, presence
from soundbox_server.devices.reconcile import Difference, differences
from soundbox_server.devices.service import credentials_changed

log = structlog.get_logger()


async def end_overdue_credentials(database: Database) -> None:
    """Revoke what was to be rotated by now. Those boxes need an activation code."""
    while ended := await database.write(_revoke_overdue):
        for device_id, credential_id in ended:
            log.warning("device.credential_overdue", device_id=device_id, credential_id=credential_id)


async def _revoke_overdue(tx: Statements) -> list[tuple[str, str]]:
    ended = await credentials.revoke_overdue(tx, now_ms=clock.now_ms())
    for device_id, credential_id in ended:
        details = {"credential_id": credential_id, "reason": "not_rotated_in_time"}
        await audit.record(tx, SYSTEM, "device.credential_revoked", ("device", device_id), details=details)
        await raise_alert(
            tx, "device.credential_overdue", ("device", device_id), severity=Severity.WARNING, facts=details,
            now_ms=clock.now_ms(),
        )  # fmt: skip
    return ended


async def watch_presence(database: Database, *, listening_since_ms: int | None) -> None:
    """Boxes of which three heartbeats are missing are offline, and those that stopped flapping come back. While nobody
    listens (None) no box is silent.

    It looks at every box, so it looks without holding up those who write.
    """
    now_ms = clock.now_ms()
    if listening_since_ms is not None:
        await _end_silent(database, now_ms=now_ms, listening_since_ms=listening_since_ms)
    if await database.read(lambda tx: presence.any_calm(tx, now_ms=now_ms)):
        for device_id in await database.write(lambda tx: presence.release_calm(tx, now_ms=now_ms)):
            log.info("device.calm_again", device_id=device_id)


async def _end_silent(database: Database, *, now_ms: int, listening_since_ms: int) -> None:
    async def look(tx: Statements) -> list[str]:
        return await presence.silent(tx, now_ms=now_ms, listening_since_ms=listening_since_ms)

    async def end(tx: Statements) -> list[str]:
        return await presence.end_silent(tx, found, now_ms=now_ms, listening_since_ms=listening_since_ms)

    while found := await database.read(look):
        ended = await database.write(end)
        for device_id in ended:
            log.info("device.silent", device_id=device_id)
        if not ended:  # somebody else is at them
            break


async def compare_brokers(database: Database) -> list[Difference]:
    """Look whether each broker lets in whom it should, say what is wrong, and have a wrong file written anew."""
    now_ms = clock.now_ms()
    found = await database.read(lambda tx: differences(tx, now_ms=now_ms))
    for difference in found:
        metrics.broker_differences.labels(difference.kind).inc()
        log.error(
            "broker.differs", kind=difference.kind, shard=difference.shard, revision=difference.revision,
            reported_revision=difference.reported_revision, users=difference.users,
            reported_users=difference.reported_users,
        )  # fmt: skip
    await database.write(lambda tx: _act_on(tx, found, now_ms=now_ms))
    return found


async def _act_on(tx: Statements, found: list[Difference], *, now_ms: int) -> None:
    for difference in found:
        facts = {"kind": difference.kind, "users": difference.users, "reported_users": difference.reported_users}
        shard = ("broker", str(difference.shard))
        await raise_alert(tx, "broker.differs", shard, severity=Severity.CRITICAL, facts=facts, now_ms=now_ms)
    wrong = {str(difference.shard) for difference in found}
    standing = await tx.fetch("SELECT subject_id FROM alert WHERE kind = 'broker.differs' AND state <> 'resolved'")
    for shard_id in sorted({row["subject_id"] for row in standing} - wrong):
        await clear(tx, "broker.differs", ("broker", shard_id), now_ms=now_ms)
    if any(difference.kind == "differs" for difference in found):
        # A number that moved makes the supervisor read the database, compare its file and reload the broker.
        await credentials_changed(tx, now_ms=now_ms)
