"""The sandbox acquirer as a real service on a port of its own, and a hub that only listens."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundbox_server.sandbox.app import create_app

API_KEY = "sandbox-api-key"
SECRETS = (b"callback-secret-1", b"callback-secret-2")


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """The app behind a real socket, in a thread with a loop of its own; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        ready = threading.Event()
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined,unused-ignore]
        startup = server.startup

        async def startup_then_tell(sockets: list[socket.socket] | None = None) -> None:
            await startup(sockets)
            ready.set()

        server.startup = startup_then_tell  # type: ignore[method-assign]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            assert ready.wait(30)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@dataclass
class Hub:
    """Takes callbacks, answering with `answers` in turn and then 200; remembers what came."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def callback(self, request: Request) -> Response:
        body = await request.body()
        status = self.answers.pop(0) if self.answers else 200
        self.heard.append((dict(request.headers), body))
        return Response(status_code=status)


@pytest.fixture(scope="module")
def switchboard() -> Iterator[tuple[str, dict[str, Hub]]]:
    """One listening address for all hubs of a module, each under its own path."""
    hubs: dict[str, Hub] = {}

    async def callback(request: Request) -> Response:
        return await hubs[request.path_params["name"]].callback(request)

    with serving(Starlette(routes=[Route("/{name}", callback, methods=["POST"])])) as address:
        yield address, hubs


@pytest.fixture
def hub(switchboard: tuple[str, dict[str, Hub]]) -> Hub:
    address, hubs = switchboard
    name = f"hub-{len(hubs)}"
    hubs[name] = Hub(url=f"{address}/{name}")
    return hubs[name]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "sandbox" / "sandbox.db"


@pytest.fixture
def address(database: Path) -> Iterator[str]:
    app = create_app(database=database, api_key=API_KEY, secrets=SECRETS, first_retry_ms=20)
    with serving(app) as address:
        yield address


@pytest.fixture
async def acquirer(address: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False) as acquirer:
        yield acquirer


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[Any]]:
    """Waits until something is true, half a minute at most, and returns it."""

    async def until(condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(30):
            while True:
                value = condition()
                if isinstance(value, Awaitable):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.01)

    return until
