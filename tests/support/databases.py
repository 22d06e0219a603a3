"""Databases of a test's own, on both engines."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from soundbox_server.ids import new_id


def fresh_database(request: pytest.FixtureRequest, engine: str, folder: Path) -> str:
    """The URL of a migrated database that nobody else uses."""
    if engine == "sqlite":
        path = folder / "home" / "soundbox.db"
        path.parent.mkdir()
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        return f"sqlite:///{path}"
    server, template = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres")
    name = new_id("test").replace("-", "_")
    asyncio.run(create(server, name, template=template))
    return named(server, name)


def named(url: str, name: str) -> str:
    return url.replace("/postgres?", f"/{name}?")


async def create(server: str, name: str, *, template: str = "template1") -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await connection.close()
