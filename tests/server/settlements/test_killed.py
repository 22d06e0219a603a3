"""A run that is killed between its lines leaves nothing half done, and whoever starts it again goes on."""

import os
import random

import pytest
from support.books import check_books
from support.forks import Forked, work
from support.settling import settle_monday_in_pieces, settlements
from support.shop import NOW, execute, open_shop, report, rows, take
from support.stack import until

from soundbox_server.db import Database

pytestmark = pytest.mark.crash


def begin(database_url: str, failpoint: str = "") -> Forked:
    """A process that settles Monday and dies at this point."""
    return work(settle_monday_in_pieces, database_url, environment={**os.environ, "SOUNDBOX_FAILPOINT": failpoint})


async def start(database_url: str, failpoint: str) -> int:
    """Its exit code."""
    return await begin(database_url, failpoint).wait()


async def items(database: Database) -> int:
    return int((await rows(database, "SELECT count(*) AS n FROM settlement_item"))[0]["n"])


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


async def test_killed_at_any_moment_while_another_runs_everything_is_settled_once(
    database: Database, database_url: str
) -> None:
    chance, shops = random.Random(5), [await open_shop(database) for _ in range(3)]
    await execute(database, "UPDATE merchant SET fee_profile_id = $1", shops[0].fee_profile_id)
    boxes = [await shop.box() for shop in shops]
    paid = [await shops[n % 3].payment(boxes[n % 3], 10_000 + n) for n in range(48)]
    await take(database, *(report(payment) for payment in paid), now_ms=NOW)

    for _ in range(3):
        two, enough = [begin(database_url) for _ in range(2)], await items(database) + chance.randrange(1, 9)

        async def far_enough(two: list[Forked] = two, enough: int = enough) -> bool:
            return await items(database) >= enough or all(one.returncode is not None for one in two)

        await until(far_enough, what="some of the day")
        for one in two:
            if one.returncode is None:
                one.kill()
            await one.wait()

    assert await start(database_url, "") == 0
    assert await items(database) == len(paid)
    assert [batch["payments"] for batch in await settlements(database)] == [16] * 3
    await check_books(database)
