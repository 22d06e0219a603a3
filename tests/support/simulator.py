"""The API with its acquirer: the simulator on a socket of its own, which calls the API back on another.

Both live in the test's process and loop; what passes between them is real HTTP with real signatures.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import uvicorn
from support.hub import SECRETS, Hub, open_hub
from support.stack import until

from soundbox_server.sandbox.app import create_app
from soundbox_server.settings import Settings


class _Server(uvicorn.Server):
    """Signals stay pytest's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def open_hub_with_acquirer(database_url: str, home: Path, **other: Any) -> AsyncIterator[Hub]:
    """As `open_hub`; what is charged can be paid at the simulator."""
    with _listening() as at_hub, _listening() as at_acquirer:
        addresses = {"public_url": _url(at_hub), "sandbox_url": _url(at_acquirer)}
        acquirer = create_app(
            database=home / "sandbox.db",
            api_key=Settings(home=home, database_url=database_url).sandbox_api_key,
            secrets=[SECRETS["sandbox"].encode()],
            first_retry_ms=20,
        )
        async with (
            _serving(acquirer, at_acquirer, lifespan="on"),
            open_hub(database_url, home, **addresses | other) as hub,
            _serving(hub.app, at_hub, lifespan="off"),
        ):
            yield hub


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def _url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


@asynccontextmanager
async def _serving(app: Any, listening: socket.socket, *, lifespan: Literal["on", "off"]) -> AsyncIterator[None]:
    server = _Server(uvicorn.Config(app, lifespan=lifespan, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await until(lambda: server.started or serving.done(), what="a server that listens")
        yield
    finally:
        server.should_exit = True
        await serving
