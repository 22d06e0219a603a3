"""What the worker does about announcements on its own."""

from collections.abc import Callable, Sequence
from typing import Any

from soundbox_server import clock
from soundbox_server.announcements import digest
from soundbox_server.announcements.service import Telling
from soundbox_server.db import Database, Statements

GROUPS = 50  # a round: a thousand boxes that missed something


async def tell_what_was_missed(
    database: Database, *, telling: Telling, publish: Callable[[Sequence[Any]], None]
) -> None:
    """Boxes that came back, and whose kept acks are in, hear what they missed. A worker that ends in between leaves
    the rest to the next one: a box is looked at, told and ticked off in one transaction."""

    async def tell(tx: Statements) -> tuple[int, list[Any]]:
        return await digest.tell_some(tx, telling=telling, now_ms=clock.now_ms()), tx.queued

    if not await database.read(lambda tx: digest.any_due(tx, now_ms=clock.now_ms())):
        return
    await database.write(lambda tx: digest.forget_who_missed_nothing(tx, now_ms=clock.now_ms()))
    for _ in range(GROUPS):
        told, queued = await database.write(tell)
        publish(queued)
        if not told:
            return
