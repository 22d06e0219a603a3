from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import Hub, open_hub
from support.staff import Staff


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")


@pytest.fixture
def finance(hub: Hub) -> Staff:
    return Staff(hub, "per_finance", "finance")
