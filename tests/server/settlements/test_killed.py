"""A run that is killed between its lines leaves nothing half done, and whoever starts it again goes on."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from support.books import check_books
from support.settling import settlements
from support.shop import NOW, execute, open_shop, report, rows, take

from soundbox_server.db import Database

pytestmark = pytest.mark.crash
TESTS = Path(__file__).parents[2]

# Two journals and one batch a transaction: what a large run does in many pieces, a small one does here too.
SETTLE = """
import asyncio, sys
from soundbox_server.db import Database
from soundbox_server.settlements import service
from support.settling import settle

async def main():
    database = Database(sys.argv[1])
    await settle(database, "2026-05-25")
    await database.close()

service.TOGETHER = {"sqlite": 2, "postgresql": 2}
service.BATCHES = 1
asyncio.run(main())
"""


async def start(database_url: str, failpoint: str) -> int:
    """The exit code of a process that settles Monday and dies at this point."""
    environment = {**os.environ, "SOUNDBOX_FAILPOINT": failpoint, "PYTHONPATH": str(TESTS)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SETTLE, database_url, env=environment)
    return await process.wait()


async def test_killed_at_every_step_a_run_still_settles_everything_once(database: Database, database_url: str) -> None:
    shops = [await open_shop(database) for _ in range(3)]
    await execute(database, "UPDATE merchant SET fee_profile_id = $1", shops[0].fee_profile_id)
    for n in range(6):
        payment = await shops[n % 3].payment(await shops[n % 3].box(), 10_000 + n)
        await take(database, report(payment), now_ms=NOW)

    ends = [
        await start(database_url, failpoint)
        for failpoint in ("settlement.collected", "settlement.collected:2", "settlement.calculated",
                          "settlement.calculated:2", "settlement.calculated:2")
    ]  # fmt: skip
    alone = await start(database_url, "")

    assert (ends, alone) == ([137] * 5, 0)
    assert [(batch["payments"], batch["state"]) for batch in await settlements(database)] == [(2, "calculated")] * 3
    assert [run["state"] for run in await rows(database, "SELECT state FROM settlement_run")] == ["done"]
    await check_books(database)
