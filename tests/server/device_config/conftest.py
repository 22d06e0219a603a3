from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import Hub, open_hub
from support.shop import Shop, open_shop
from support.staff import Staff

from soundbox_server.db import Database


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")
