"""What the worker does about configurations on its own."""

from collections.abc import Callable, Sequence
from typing import Any

from soundbox_server import clock
from soundbox_server.db import Database, Statements
from soundbox_server.device_config import service
from soundbox_server.ids import new_id

LIMIT = 200


async def keep_configured(
    database: Database, *, key_of: service.KeyOf, owner: str, publish: Callable[[Sequence[Any]], None]
) -> None:
    """Follow up what changed in layers, bindings and keys, and send what waits for boxes that are online."""

    async def follow(tx: Statements) -> list[Any]:
        now_ms = clock.now_ms()
        await service.end_unanswered(tx)
        await service.clear_left_over(tx, owner=owner, now_ms=now_ms, limit=LIMIT)
        if old := await service.out_of_date(tx, limit=LIMIT):
            await service.build(tx, old, now_ms=now_ms)
        if due := await service.to_push(tx, now_ms=now_ms, limit=LIMIT):
            await service.push(tx, due, key_of=key_of, owner=owner, trace_id=new_id("trc"), now_ms=now_ms)
        return tx.queued

    while queued := await database.write(follow):
        publish(queued)
        if len(queued) < LIMIT:
            return
