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
    """Follow up what changed in layers, bindings and keys, and send what waits for boxes that are online.

    It looks at every box, so it looks without holding up those who write.
    """

    async def follow(tx: Statements) -> list[Any]:
        now_ms = clock.now_ms()
        await service.end_unanswered(tx)
        await service.clear_left_over(tx, owner=owner, now_ms=now_ms, limit=LIMIT)
        await service.build(tx, old, now_ms=now_ms)
        due = await service.to_push(tx, now_ms=now_ms, limit=LIMIT)
        await service.push(tx, due, key_of=key_of, owner=owner, trace_id=new_id("trc"), now_ms=now_ms)
        return tx.queued

    more = True
    while more:
        old = await database.read(lambda tx: service.out_of_date(tx, limit=LIMIT))
        if not old and not await database.read(lambda tx: service.has_work(tx, now_ms=clock.now_ms())):
            return
        queued = await database.write(follow)
        publish(queued)
        more = max(len(old), len(queued)) >= LIMIT
