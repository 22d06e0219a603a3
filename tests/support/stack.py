"""The real product for a test: real processes on free loopback ports, in a folder of its own."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from support.forks import Forked, fork
from support.ports import free_port

from soundbox_server import clock, migrate, seed
from soundbox_server.db import Database, Statements
from soundbox_server.settings import Settings

# The floor, where nothing is measured: the demo world's people are hashed at each start, and they log in.
CHEAP_ARGON2 = {"argon2_memory_kib": 19_456, "argon2_time_cost": 2, "argon2_parallelism": 1}
DEADLINE_S = 60.0  # generous: a wait ends when its condition holds, and test machines are busy


async def until(
    holds: Callable[[], Awaitable[Any] | Any], *, within_s: float = DEADLINE_S, what: str = "the condition"
) -> Any:
    """Wait for a condition, and fail with its name when the deadline passes."""
    ends = time.monotonic() + within_s
    while True:
        found = holds()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > ends:
            raise AssertionError(f"{what} did not come about within {within_s} s")
        await asyncio.sleep(0.02)


@dataclass
class Child:
    name: str
    process: asyncio.subprocess.Process | Forked
    log: Path

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), DEADLINE_S)


@dataclass
class Stack:
    """Broker, api, worker and sandbox of one installation. Start what a test needs."""

    home: Path
    database_url: str
    extra: dict[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)
    broker_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    sandbox_port: int = field(default_factory=free_port)
    world: dict[str, Any] = field(default_factory=dict)
    logins: dict[str, dict[str, str]] = field(default_factory=dict)
    looking: Database | None = None  # kept open: who waits for something looks fifty times a second
    forked: bool = False  # start at once, from a process that has imported everything; not for measuring

    async def query(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """Rows as tuples, read beside the running product."""

        async def look(tx: Statements) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await tx.fetch(sql, *args)]  # type: ignore[call-overload]

        self.looking = self.looking or Database(self.database_url)
        return await self.looking.read(look)

    def environment(self, **more: str) -> dict[str, str]:
        ours = {
            "SOUNDBOX_HOME": str(self.home),
            "SOUNDBOX_DATABASE_URL": self.database_url,
            "SOUNDBOX_BROKER_PORT": str(self.broker_port),
            "SOUNDBOX_HTTP_PORT": str(self.http_port),
            "SOUNDBOX_SANDBOX_PORT": str(self.sandbox_port),
            "SOUNDBOX_WORKER_PORT": str(free_port()),
        }
        if self.forked:
            ours |= {f"SOUNDBOX_{name.upper()}": str(value) for name, value in CHEAP_ARGON2.items()}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SOUNDBOX_")}
        clean.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile everything anew
        return clean | ours | self.extra | more

    def settings(self) -> Settings:
        names = {
            n.removeprefix("SOUNDBOX_").lower(): v for n, v in self.environment().items() if n.startswith("SOUNDBOX_")
        }
        return Settings(**names)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    async def prepare(self, *, boxes: int = 3) -> None:
        """Migrate and plant the demo world."""
        database = Database(self.database_url)
        try:
            await migrate.upgrade(database)
            self.world = await seed.plant(database, self.settings(), now_ms=clock.now_ms(), boxes=boxes)
        finally:
            await database.close()

    async def start(self, name: str, **environment: str) -> Child:
        """Start one process of the product: broker, api, worker or sandbox."""
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / f"{name}-{len(self.children)}.log"
        child = Child(name, await self._start(name, self.environment(**environment), log), log)
        self.children.append(child)
        return child

    async def _start(self, name: str, environment: dict[str, str], log: Path) -> asyncio.subprocess.Process | Forked:
        if self.forked:
            return fork([name], environment, log)
        with log.open("wb") as out:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "soundbox_server.cli", name,
                env=environment, stdout=out, stderr=out, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip

    async def ready(self, port: int | None = None, path: str = "/readyz", *, within_s: float = DEADLINE_S) -> None:
        """Wait until a process is ready and connected to the broker."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port or self.http_port}", timeout=2) as client:

            async def answers() -> bool:
                try:
                    return (await client.get(path)).json()["status"] == "ok"
                except (httpx.HTTPError, ValueError):
                    return False

            try:
                await until(answers, within_s=within_s, what=f"{path} on port {port or self.http_port}")
            except AssertionError as late:
                raise AssertionError(f"{late}\n{self.logs()}") from None

    async def start_all(self, *names: str) -> None:
        """Start the named processes in order and wait until the api, if there is one, is ready."""
        for name in names or ("broker", "sandbox", "api", "worker"):
            await self.start(name)
        if not names or "api" in names:
            await self.ready()
        if ended := [child.name for child in self.children if child.process.returncode is not None]:
            raise AssertionError(f"{', '.join(ended)} did not stay:\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"--- {child.log.name}\n{child.log.read_text()[-3000:]}" for child in self.children)

    async def close(self) -> None:
        for child in reversed(self.children):
            with contextlib.suppress(TimeoutError):
                await child.stop()
            await child.kill()
        if self.looking is not None:
            await self.looking.close()
            self.looking = None

    async def login(self, email: str = "operator@demo.test", *, door: str = "admin") -> dict[str, str]:
        """The headers of somebody of the demo world; remembered, because a login costs an argon2 hash."""
        if email not in self.logins:
            self.logins[email] = await self._log_in(email, door)
        return self.logins[email]

    async def _log_in(self, email: str, door: str) -> dict[str, str]:
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as client:
            answer = await client.post(f"/{door}/login", json={"email": email, "password": seed.PASSWORD})
            assert answer.status_code == 200, answer.text
            return {"authorization": f"Bearer {answer.json()['data']['access_token']}"}

    def callback(
        self, reference: str, amount: int, *, event_id: str, status: str = "paid", **more: Any
    ) -> tuple[bytes, dict[str, str]]:
        """A signed callback of the sandbox partner."""
        body = {
            "event_id": event_id, "partner_reference": reference, "status": status, "amount": amount, "currency": "IDR",
            "paid_at": clock.rfc3339(clock.now_ms()),
        } | more  # fmt: skip
        return self.signed(json.dumps(body).encode())

    def signed(self, body: bytes, *, at_s: int | None = None) -> tuple[bytes, dict[str, str]]:
        """Signed here with plain hmac, so that the scheme is checked against something that is not its own code."""
        at = str(int(time.time()) if at_s is None else at_s)
        secret = self.settings().secrets_of("sandbox")[0]
        signature = hmac.new(secret, at.encode() + b"." + body, hashlib.sha256).hexdigest()
        return body, {
            "x-partner-id": "sandbox",
            "x-partner-timestamp": at,
            "x-partner-signature": f"v1={signature}",
            "content-type": "application/json",
        }


@contextlib.asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[Stack]:
    try:
        yield stack
    finally:
        await stack.close()
