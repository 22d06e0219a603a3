"""Tasks that end together."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 5.0  # longer than a goodbye to a broker takes


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel them and wait until each has ended, whatever with.

    Before Python 3.12 `asyncio.wait_for` forgets a cancellation that meets its answer, and the MQTT library waits with
    it: whoever has not ended is told once more. A cancellation of whoever waits here is told when all have ended, or
    one of them would be left behind.
    """
    tasks, cancelled = list(tasks), False
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        try:
            await asyncio.wait(waiting, timeout=AGAIN_S)
        except asyncio.CancelledError:
            cancelled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, so that nobody is told of it when the task is thrown away
    if cancelled:
        raise asyncio.CancelledError
