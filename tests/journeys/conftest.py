"""One installation a module: starting four processes costs more than most journeys."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from support.databases import fresh_database
from support.device import Credentials, activate
from support.stack import Stack, running

BOXES = 30


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Not async: making a database runs a loop of its own."""
    folder = tmp_path_factory.mktemp("hub")
    return Stack(home=folder / "home", database_url=fresh_database(request, request.param, folder), forked=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(installation: Stack) -> AsyncIterator[Stack]:
    """Broker, sandbox, api and worker on each engine, with boxes enough for a test each."""
    async with running(installation) as stack:
        await stack.prepare(boxes=BOXES)
        await stack.start_all()
        yield stack


@pytest.fixture(scope="module")
def numbers(hub: Stack) -> Iterator[int]:
    return itertools.count()


@pytest_asyncio.fixture(loop_scope="module")
async def box(hub: Stack, numbers: Iterator[int]) -> Credentials:
    """A box that no other test uses, activated and bound."""
    return await activate(hub, next(numbers))
