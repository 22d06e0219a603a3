"""A small fleet through everything that can happen to one, beside real processes."""

import json
from pathlib import Path

import pytest
from support.databases import fresh_database
from support.stack import Stack, running

from soundbox_server import clock, fleet_seed, migrate
from soundbox_server.db import Database
from soundbox_sim.swarm.roster import Roster
from soundbox_sim.swarm.run import Options, Standing, run_fleet, write_report
from soundbox_sim.swarm.scenarios import Link, Scenario
from soundbox_sim.swarm.watch import verdict

BOXES = 30
ROUGH = Scenario(
    about="All of it at once.", payments=300, commands=60, twisted=0.3, slow=0.5,
    link=Link(latency_ms=(1, 20), stall=0.02, stall_ms=(50, 200), drop=0.05, duplicate=0.1),
    power_cuts=120, off_s=(0.2, 1.0), lost_lines=120, skewed=0.4, clockless=0.3, storms=(0.5,),
)  # fmt: skip


@pytest.fixture
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Stack:
    """On one engine: what the boxes meet is the same, and the seed has its own test on both."""
    return Stack(home=tmp_path / "home", database_url=fresh_database(request, "sqlite", tmp_path), forked=True)


async def test_every_payment_is_said_once_or_has_an_honest_reason(installation: Stack, tmp_path: Path) -> None:
    seen: list[Standing] = []
    async with running(installation) as stack:
        roster = await _planted(stack)
        await stack.start_all("broker", "api", "worker")
        options = Options(name="rough", scenario=ROUGH, boxes=BOXES, duration_s=5, seed=3)

        report = await run_fleet(roster, options, seen.append)

        taken = await stack.query("SELECT count(*) FROM payment WHERE state = 'paid'")

    assert [check["name"] for check in report["checks"] if not check["holds"]] == [], verdict(report)
    assert report["payments"]["paid"] == taken[0][0] > 10
    assert report["callbacks"]["by_status"]["401"] > 0
    assert report["happened"]["power_cut"] > 0
    assert report["storms"][0]["all_back_after_s"] < 60
    assert "  ok   no payment is said twice" in verdict(report)
    assert (seen[-1].phase, seen[-1].heard) == ("switched off", report["payments"]["heard"])
    write_report(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["plan_sha256"] == report["plan_sha256"]


async def _planted(stack: Stack) -> Roster:
    database = Database(stack.database_url)
    try:
        await migrate.upgrade(database)
        planted = await fleet_seed.plant(database, stack.settings(), boxes=BOXES, now_ms=clock.now_ms())
    finally:
        await database.close()
    return Roster.model_validate(planted)
