"""Forgetting what is over."""

from soundbox_server import clock
from soundbox_server.access.sessions import forget_expired
from soundbox_server.db import Database

KEPT_MS = 30 * 24 * 3_600_000  # ended sessions can be looked up for as long; the audit log remembers for good


async def forget_what_is_over(database: Database) -> None:
    """Delete sessions, tokens and counters that expired long ago."""
    await database.write(lambda tx: forget_expired(tx, now_ms=clock.now_ms(), kept_ms=KEPT_MS))
