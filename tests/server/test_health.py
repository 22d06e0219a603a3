"""Each part's health: for everybody which parts are up, for staff the figures."""

from pathlib import Path

import pytest
from support.hub import open_hub
from support.shop import open_shop, report, take
from support.staff import Staff

from soundbox_server import clock, health
from soundbox_server.broker import beats
from soundbox_server.db import Database
from soundbox_server.health import Part, examine


async def beat(database: Database, shard: str, *, ago_ms: int = 0) -> None:
    await database.write(lambda tx: beats.beat(tx, shard=shard, owner="worker@test:1", now_ms=clock.now_ms() - ago_ms))


async def test_everybody_sees_which_parts_are_up_and_nothing_else(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    await beat(database, "hub-shard-0", ago_ms=-600_000)  # however long the hub takes to open

    async with open_hub(database_url, tmp_path / "home") as hub:
        answer = await hub.http.get("/health/deep")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "degraded",
        "parts": {
            "database": "up", "migrations": "up", "broker": "down", "worker": "up", "outbox": "up", "provider": "up",
            "disk": answer.json()["parts"]["disk"],
        },
    }  # fmt: skip


async def test_staff_see_the_figures(database: Database, database_url: str, tmp_path: Path) -> None:
    await beat(database, "hub-shard-0")
    shop = await open_shop(database)
    await take(database, report(await shop.payment(await shop.box())))  # announced in the past, and nobody sends it

    async with open_hub(database_url, tmp_path / "home") as hub:
        support = Staff(hub, "per_support", "support")
        assert await support.get("/admin/health") == {"status": "ok"}
        parts = (await support.get("/admin/health/deep"))["parts"]

    assert parts["database"]["dialect"] == database.dialect
    assert parts["migrations"]["current"] == parts["migrations"]["newest"]
    assert parts["broker"] == {"status": "down", "connected": False}
    assert parts["worker"]["shards"][0]["owner"] == "worker@test:1"
    assert parts["outbox"]["status"] == "degraded"
    assert parts["outbox"]["oldest_overdue_s"] > 60
    assert parts["provider"] == {"status": "up", "circuits": {"sandbox": "closed"}}
    assert parts["disk"]["free_bytes"] > 0


@pytest.mark.parametrize(
    ("silent_ms", "state"),
    [((), "down"), ((0,), "up"), ((60_000,), "down"), ((0, 60_000), "degraded"), ((60_000, 60_000), "down")],
)
async def test_a_worker_that_says_nothing_is_missed(database: Database, silent_ms: tuple[int, ...], state: str) -> None:
    for number, ago_ms in enumerate(silent_ms):
        await beat(database, f"hub-shard-{number}", ago_ms=ago_ms)

    assert (await health.look_at_workers(database)).state == state


async def test_a_part_that_raises_is_down_and_without_the_database_all_fails() -> None:
    async def up() -> Part:
        return Part(state="up", facts={})

    async def broken() -> Part:
        raise OSError("secret address")

    whole, without_one, without_database = [
        await examine({"database": database, "broker": broker})
        for database, broker in ((up, up), (up, broken), (broken, up))
    ]

    assert (whole.status, whole.http_status) == ("ok", 200)
    assert (without_one.status, without_one.http_status) == ("degraded", 200)
    assert (without_database.status, without_database.http_status) == ("failing", 503)
    assert without_one.parts["broker"] == Part(state="down", facts={"error": "OSError"})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_demo_world_is_planted_from_a_door_in_development(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "home") as hub:
        admin = Staff(hub, "per_admin", "platform_admin")
        planted = await admin.post("/admin/seed")
        again = await admin.post("/admin/seed")
        refused = await admin.another("per_operator", "operator").refused("POST", "/admin/seed", status=403)
        merchant = await admin.get(f"/admin/merchants/{planted['merchant']['id']}")

    assert planted["devices"][0]["activation_code"] != again["devices"][0]["activation_code"]
    assert (merchant["status"], merchant["default_terminal"]["id"]) == ("approved", "term_001")
    assert refused["code"] == "FORBIDDEN"
