"""What the broker on this machine lets in, told to the database: a worker elsewhere compares it with what should be."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from soundbox_server import clock
from soundbox_server.broker.health import read_health
from soundbox_server.broker.mosquitto import files_in
from soundbox_server.broker.passwords import is_hash
from soundbox_server.broker.users import is_device_user
from soundbox_server.db import Database, Statements, will_pass
from soundbox_server.devices.reconcile import forget_report, roll_digest, take_report

log = structlog.get_logger()

LOOK_EVERY_S = 1.0
REPORT_EVERY_S = 15.0

Roll = tuple[int | None, int, str]  # revision the broker has read, number of devices, digest of their lines


async def report_until(stop: asyncio.Event, database: Database, home: Path, *, shard: int) -> None:
    """Report each change within a second, and the same again as a sign of life; take it back at the end."""
    loop, told, told_at = asyncio.get_running_loop(), None, float("-inf")
    while not stop.is_set():
        roll = await asyncio.to_thread(read_roll, home)
        if roll is not None and (roll != told or loop.time() - told_at >= REPORT_EVERY_S):
            revision, users, digest = roll
            work = partial(take_report, shard=shard, revision=revision, users=users, digest=digest)
            if await _written(database, partial(work, now_ms=clock.now_ms())):
                told, told_at = roll, loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await stop.wait()
    await _written(database, partial(forget_report, shard=shard))


async def _written(database: Database, work: Callable[[Statements], Coroutine[Any, Any, None]]) -> bool:
    """While the database is away nobody compares either; the next look tries again."""
    try:
        await database.write(work)
    except Exception as error:
        if not will_pass(error):
            log.exception("broker_report_failed")
        return False
    return True


def read_roll(home: Path) -> Roll | None:
    """What the disk says, which is what the broker reads; None before there is a file."""
    health, passwords = read_health(home), files_in(home).passwords
    if health is None or not passwords.exists():
        return None
    lines = (line.partition(":") for line in passwords.read_text().splitlines())
    devices = [(name, hashed) for name, _, hashed in lines if is_device_user(name) and is_hash(hashed)]
    return health.applied_revision, len(devices), roll_digest(devices)
