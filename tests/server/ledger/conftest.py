import pytest
from support.shop import Shop, open_shop

from soundbox_server.db import Database


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)
