"""Tokens whose payment was decided while nobody waited: after a crash, or by a provider that was asked later."""

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.partners.payments import settle, undecided

AFTER_MS = 60_000  # whoever asked has had the provider's answer by then
AT_ONCE = 100


async def settle_tokens(database: Database) -> None:
    """Use what was set aside for payments that were issued, and give back what was for those that never will be."""
    now_ms = clock.now_ms()
    waiting = await database.read(lambda tx: undecided(tx, before_ms=now_ms - AFTER_MS, limit=AT_ONCE))
    for payment_id in waiting:
        await settle_one(database, payment_id)


async def settle_one(database: Database, payment_id: str) -> None:
    """The same for one payment, in a transaction of its own."""
    await database.write(lambda tx: settle(tx, payment_id, now_ms=clock.now_ms()))
