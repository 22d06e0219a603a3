"""Being told to stop in an inconvenient moment."""

import asyncio

from soundbox_server.worker import Worker


async def test_work_that_is_woken_and_cancelled_in_the_same_moment_ends() -> None:
    done, woken = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        done.set()

    repeating = asyncio.create_task(Worker._repeat(None, work, 60, woken))  # type: ignore[arg-type]
    await done.wait()
    await asyncio.sleep(0)

    woken.set()
    await asyncio.sleep(0)
    repeating.cancel()
    await asyncio.wait([repeating], timeout=5)

    assert repeating.cancelled()
