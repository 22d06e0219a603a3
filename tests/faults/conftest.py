from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.site import Site, open_site
from support.stack import Stack


@pytest.fixture
async def site(stack: Stack) -> AsyncIterator[Site]:
    async with open_site(stack) as site:
        yield site


Note = Callable[[str, str], None]


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the rows of the crash table go; printed when the last crash test of this process is over."""
    base = tmp_path_factory.getbasetemp()
    path = base / "crashes.txt"
    yield path
    if path.exists():
        print(f"\n{path}\n{path.read_text()}")


@pytest.fixture
def note(table: Path, site: Site) -> Note:
    """Add a row: what was done, and what became of it."""

    def note(deed: str, result: str) -> None:
        with table.open("a") as out:
            out.write(f"{deed:<45} {site.database.dialect:<11} {result}\n")

    return note
