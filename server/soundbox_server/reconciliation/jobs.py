"""What the worker does by the clock about reconciliation."""

import structlog

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.reconciliation import books, nightly

log = structlog.get_logger()


async def check_books(database: Database) -> None:
    """Compare the ledger with what payments say, once a night."""
    now_ms = clock.now_ms()
    if not await database.read(lambda tx: nightly.is_due(tx, now_ms=now_ms)):
        return
    day = await database.write(lambda tx: nightly.claim(tx, now_ms=now_ms))
    if day is None:
        return
    found = await database.read_at_leisure(books.check)
    await database.write(lambda tx: nightly.record(tx, day, found, now_ms=clock.now_ms()))
    log.info("ledger.checked", day=day, findings=len(found))
