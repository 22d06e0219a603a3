from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import open_hub
from support.shop import Shop, open_shop
from support.staff import Staff

from soundbox_server.db import Database


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


@pytest.fixture
async def operator(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_operator", "operator")
