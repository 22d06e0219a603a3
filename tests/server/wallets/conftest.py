from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import Hub, open_hub
from support.wallets import Holder, open_holder

from soundbox_server.db import Database


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
async def payer(hub: Hub, database: Database) -> Holder:
    return await open_holder(hub, database, balance=100_000, brand_name="Toko Payer")


@pytest.fixture
async def payee(hub: Hub, database: Database) -> Holder:
    return await open_holder(hub, database, brand_name="Warung Payee")
