"""What is over is deleted after a while, and what is not stays; people from before this version stay who they were."""

from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, text
from support.databases import create, named
from support.doors import refresh, tokens, works
from support.hub import Hub
from support.shop import execute, rows

from soundbox_server import clock, migrate
from soundbox_server.access.jobs import KEPT_MS, forget_what_is_over
from soundbox_server.db import Database
from soundbox_server.ids import new_id

TABLES = ("login_session", "session_secret", "one_time_token", "rate_counter")


async def count(hub: Hub) -> dict[str, int]:
    database = hub.app.state.database
    return {table: (await rows(database, f"SELECT count(*) AS n FROM {table}"))[0]["n"] for table in TABLES}


async def test_what_expired_long_ago_is_deleted(hub: Hub) -> None:
    pair = await tokens(hub)
    await refresh(hub, pair)
    await hub.http.post("/admin/forgot-password", json={"email": "support@shop.test"})
    before = await count(hub)
    await forget_what_is_over(hub.app.state.database)
    kept = await count(hub)
    long_ago = clock.now_ms() - KEPT_MS - 1
    for table in TABLES[:3]:
        await execute(hub.app.state.database, f"UPDATE {table} SET expires_at_ms = $1", long_ago)
    await execute(hub.app.state.database, "UPDATE rate_counter SET resets_at_ms = $1", long_ago)
    await forget_what_is_over(hub.app.state.database)

    assert min(before.values()) > 0
    assert kept == before
    assert await count(hub) == dict.fromkeys(TABLES, 0)


async def test_a_session_in_use_outlives_its_used_tokens(hub: Hub) -> None:
    pair = await tokens(hub)
    second = (await refresh(hub, pair)).json()["data"]
    await execute(hub.app.state.database, "UPDATE session_secret SET expires_at_ms = 1 WHERE used_at_ms IS NOT NULL")

    await forget_what_is_over(hub.app.state.database)

    assert await works(hub, second)
    assert (await refresh(hub, second)).status_code == 200


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_people_from_before_stay_who_they_were(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = await _empty(engine, tmp_path, request)
    database = Database(url)

    def at_first(connection: Connection) -> None:
        command.upgrade(migrate.config(connection), "0002")
        connection.execute(
            text("INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('o', 'bank', 'B', 1)")
        )
        connection.execute(
            text(
                "INSERT INTO person (id, organisation_id, email, name, role, password_hash, created_at_ms) "
                "VALUES ('p', 'o', 'a@b.test', 'A', 'bank', 'hash', 7)"
            )
        )

    try:
        async with database.engine.execution_options(soundbox_writes=True).begin() as connection:
            await connection.run_sync(at_first)
        await migrate.upgrade(database)
        kept = await rows(database, "SELECT * FROM person")
    finally:
        await database.close()

    assert kept == [
        {
            "id": "p", "organisation_id": "o", "organisation_kind": "bank", "email": "a@b.test", "name": "A",
            "role": "bank", "state": "active", "language": "id", "password_hash": "hash", "created_at_ms": 7,
        }
    ]  # fmt: skip


async def _empty(engine: str, folder: Path, request: pytest.FixtureRequest) -> str:
    if engine == "sqlite":
        return f"sqlite:///{folder / 'old.db'}"
    server: str = request.getfixturevalue("postgres")
    name = new_id("old").replace("-", "_")
    await create(server, name)
    return named(server, name)
