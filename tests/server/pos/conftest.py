from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import Hub, open_hub
from support.merchant import Merchant, give_to
from support.shop import Shop, open_shop

from soundbox_server.db import Database


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
async def shop(hub: Hub, database: Database) -> Shop:
    """The shop of `owner`."""
    shop = await open_shop(database)
    await give_to(database, shop)
    return shop


@pytest.fixture
def owner(hub: Hub, shop: Shop) -> Merchant:
    return Merchant(hub)
