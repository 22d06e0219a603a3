from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import Hub, open_hub
from support.pay import Till, open_till


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "hub") as opened:
        yield opened


@pytest.fixture
async def till(hub: Hub) -> Till:
    return await open_till(hub)
