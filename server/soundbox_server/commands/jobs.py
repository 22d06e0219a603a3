"""What the worker does about commands on its own."""

from collections.abc import Callable, Sequence
from typing import Any

from soundbox_server import clock
from soundbox_server.announcements.service import KeyOf
from soundbox_server.commands import batches, service
from soundbox_server.db import Database, Statements

GROUPS = 4  # of one batch a round: others have work too


async def follow_commands(database: Database) -> None:
    """Note what was sent, and end what nobody answers."""
    await database.write(lambda tx: service.follow_up(tx, now_ms=clock.now_ms()))


async def follow_batches(
    database: Database, *, key_of: KeyOf, owner: str, publish: Callable[[Sequence[Any]], None]
) -> None:
    """Give the next boxes their command, and end what has run to its end or was never decided."""

    async def give(tx: Statements) -> tuple[int, list[Any]]:
        given = await batches.give_some(tx, key_of=key_of, owner=owner, now_ms=clock.now_ms())
        return given, tx.queued

    async def end(tx: Statements) -> None:
        await batches.lapse(tx, now_ms=clock.now_ms())
        await batches.end_finished(tx, now_ms=clock.now_ms())

    if not await database.read(batches.any_under_way):
        return
    for _ in range(GROUPS):
        given, queued = await database.write(give)
        publish(queued)
        if not given:
            break
    await database.write(end)
