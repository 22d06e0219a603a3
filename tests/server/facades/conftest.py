from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import Hub
from support.merchant import owner, shop
from support.simulator import open_hub_with_acquirer

__all__ = ["hub", "owner", "shop"]


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub_with_acquirer(database_url, tmp_path / "home") as hub:
        yield hub
