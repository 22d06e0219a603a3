"""An installation whose api and worker are there to be killed.

Broker, provider and boxes are real too, but run in the test's own process: they survive, and are what the outside world
is to the hub. The boxes are the simulator's, with their journals; the provider repeats each callback until a 2xx.
"""

import asyncio
import contextlib
import os
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from support.books import check_books
from support.device import Credentials, activate
from support.stack import Child, Stack, until

from soundbox_server.broker import supervisor
from soundbox_server.broker.health import read_health
from soundbox_server.broker.mosquitto import files_in, find_mosquitto
from soundbox_server.db import Database
from soundbox_server.devices import service as devices
from soundbox_server.sandbox.app import create_app
from soundbox_sim.activation import BrokerAddress
from soundbox_sim.box import Box, BoxSettings
from soundbox_sim.journal import Journal
from soundbox_sim.radio import Backoff, Heartbeats, Radio
from soundbox_sim.radio import Counter as ForwardClock
from soundbox_sim.voice import SilentVoice

KILLED_BY_FAILPOINT = 137
FIRST_RETRY_MS = 100
NO_HEARTBEATS_S = 3_600.0


@dataclass(frozen=True)
class Sale:
    """A QR that a box shows, and the payment it stands for."""

    payment_id: str
    amount: int
    qr_payload: str
    device_id: str


@dataclass
class Till:
    """A box of the simulator on the air, and what it said aloud."""

    credentials: Credentials
    radio: Radio
    voice: SilentVoice
    running: "asyncio.Task[None]"

    @property
    def device_id(self) -> str:
        return self.credentials.device_id

    @property
    def box(self) -> Box:
        assert self.radio.box is not None
        return self.radio.box

    @property
    def spoken(self) -> list[str]:
        """The event ids said, in order; the box's own notices are not among them."""
        return [said.event_id for said in self.voice.said if said.event_id is not None]


@dataclass
class Site:
    stack: Stack
    database: Database
    provider: httpx.AsyncClient
    stop_boxes: asyncio.Event = field(default_factory=asyncio.Event)
    credentials: list[Credentials] = field(default_factory=list)
    tills: list[Till] = field(default_factory=list)
    sold: list[Sale] = field(default_factory=list)

    async def start_api(self, failpoint: str = "") -> Child:
        api = await self.stack.start("api", SOUNDBOX_FAILPOINT=failpoint)
        await self.stack.ready()
        return api

    async def start_worker(self, failpoint: str = "", **environment: str) -> Child:
        return await self.stack.start("worker", SOUNDBOX_FAILPOINT=failpoint, **environment)

    async def activate_boxes(self) -> None:
        self.credentials = [await activate(self.stack, number) for number in range(len(self.stack.world["devices"]))]

    async def switch_on(self) -> None:
        """Put every activated box on the air."""
        self.tills = [self._till(credentials) for credentials in self.credentials]

    async def online(self) -> None:
        """Until the hub knows that all boxes are there."""

        async def all_online() -> bool:
            return await self.database.read(devices.count_online) == len(self.credentials)

        await self._until(all_online, what="all boxes online")

    async def ask(self, credentials: Credentials, amount: int, request_id: str) -> httpx.Response:
        """The box asks for a QR over HTTP."""
        async with httpx.AsyncClient(base_url=self.stack.url, headers=credentials.bearer, timeout=20) as box:
            asked = {
                "device_id": credentials.device_id, "terminal_id": credentials.terminal_id, "amount": amount,
                "currency": "IDR", "request_id": request_id,
            }  # fmt: skip
            return await box.post("/device/transactions/dynamic-qr", json=asked)

    async def sell(self, credentials: Credentials, amount: int) -> Sale:
        answer = await self.ask(credentials, amount, secrets.token_hex(8))
        assert answer.status_code == 200, answer.text
        return self.shown(credentials, amount, answer.json())

    def shown(self, credentials: Credentials, amount: int, answer: dict[str, Any]) -> Sale:
        """A QR is on a display; from now on its payment counts."""
        sale = Sale(answer["transaction_id"], amount, answer["qr_payload"], credentials.device_id)
        self.sold.append(sale)
        return sale

    async def pay(self, sale: Sale) -> None:
        """The customer scans the QR and pays."""
        answer = await self.provider.post("/v1/pay", json={"qr_payload": sale.qr_payload})
        assert answer.status_code == 200, answer.text

    async def died(self, child: Child) -> None:
        """Until the process met its failpoint."""
        await self._until(lambda: child.process.returncode is not None, what=f"the end of {child.name}")
        assert child.process.returncode == KILLED_BY_FAILPOINT, child.log.read_text()[-2_000:]

    async def spoken(self, count: int) -> None:
        await self._until(lambda: sum(len(till.spoken) for till in self.tills) >= count, what=f"{count} sentences")

    async def recovered(self) -> None:
        """Until everything that was sold is paid, said and reported; then: exactly once, and nothing besides."""

        async def everything_played() -> bool:
            rows = await self.stack.query(
                "SELECT state, count(*) FROM outbox_message WHERE kind = 'payment_success' GROUP BY state"
            )
            return dict(rows) == {"played": len(self.sold)}

        await self._until(everything_played, what="every payment played")
        books = await check_books(self.database)
        assert books.captured == Counter(sale.payment_id for sale in self.sold)
        assert (books.paid, books.suspense) == (sum(sale.amount for sale in self.sold), 0)
        await self._said_once()
        assert await self.stack.query("SELECT state FROM payment_attempt WHERE state IN ('new', 'unknown')") == []
        await self._until(self._provider_is_content, what="the provider has its 2xx")

    async def _said_once(self) -> None:
        """Each box said the announcements of its own payments, in the order of their numbers, and nothing twice."""
        for till in self.tills:
            numbered = await self.stack.query(
                "SELECT id, subject_id FROM outbox_message WHERE recipient_id = $1 AND kind = 'payment_success' "
                "ORDER BY seq",
                till.device_id,
            )
            assert Counter(till.spoken) == Counter(event_id for event_id, _ in numbered)
            its = [sale.payment_id for sale in self.sold if sale.device_id == till.device_id]
            assert Counter(payment_id for _, payment_id in numbered) == Counter(its)

    async def _provider_is_content(self) -> bool:
        charges = (await self.provider.get("/v1/qr", params={"status": "paid"})).json()["charges"]
        callbacks = [callback for charge in charges for callback in charge["callbacks"]]
        return len(callbacks) == len(self.sold) and all(callback["delivered_at"] for callback in callbacks)

    async def charges(self) -> int:
        return len((await self.provider.get("/v1/qr")).json()["charges"])

    def mosquitto_pid(self) -> int:
        health = read_health(self.stack.home)
        assert health is not None
        assert health.pid is not None
        return health.pid

    def lose_the_broker(self) -> None:
        """Mosquitto and all that it had not told anybody: what it kept on disk goes too."""
        pid = self.mosquitto_pid()
        files_in(self.stack.home).sessions.unlink(missing_ok=True)
        os.kill(pid, signal.SIGKILL)

    def _till(self, credentials: Credentials) -> Till:
        clock, voice = ForwardClock(), SilentVoice()
        home = self.stack.home / "boxes" / credentials.device_id
        radio = Radio(
            lambda: Box(
                credentials.device_id, credentials.key, Journal(home), account=f"{credentials.device_id}/1",
                now_ms=clock(), token=lambda: secrets.token_urlsafe(16),
                settings=BoxSettings(terminal_id=credentials.terminal_id),
            ),
            broker=BrokerAddress(
                host="127.0.0.1", port=self.stack.broker_port, username=credentials.username,
                password=credentials.password,
            ),
            voice=voice, watch=lambda box, told: None, now_ms=clock, random=Random(credentials.device_id),
            heartbeats=Heartbeats(every_s=NO_HEARTBEATS_S), backoff=Backoff(first_s=0.1, longest_s=0.5),
        )  # fmt: skip
        return Till(credentials, radio, voice, asyncio.create_task(radio.run(self.stop_boxes)))

    async def _until(self, holds: Any, *, what: str) -> None:
        try:
            await until(holds, what=what)
        except AssertionError as late:
            states = await self.stack.query("SELECT kind, state, reason, count(*) FROM outbox_message GROUP BY 1, 2, 3")
            raise AssertionError(f"{late}\n{states}\n{self.stack.logs()}") from None


@contextlib.asynccontextmanager
async def open_site(stack: Stack, *, boxes: int = 2) -> AsyncIterator[Site]:
    """The outside world of an installation, with so many boxes registered; api and worker are the test's to start."""
    await stack.prepare(boxes=boxes)
    database = Database(stack.database_url)
    settings = stack.settings()
    key = {"authorization": f"Bearer {settings.sandbox_api_key}"}
    try:
        async with (
            _broker(stack, database),
            _provider(stack),
            httpx.AsyncClient(base_url=settings.sandbox_url, headers=key, timeout=20) as provider,
        ):
            site = Site(stack, database, provider)
            try:
                yield site
            finally:
                site.stop_boxes.set()
                await _ended([till.running for till in site.tills])
                await stack.close()
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def _broker(stack: Stack, database: Database) -> AsyncIterator[None]:
    program = find_mosquitto()
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("Mosquitto is not installed, and CI must test the real one")
    if program is None:
        pytest.skip("Mosquitto is not installed")
    settings, stop = stack.settings(), asyncio.Event()
    supervising = asyncio.create_task(
        supervisor.supervise(
            home=stack.home, host="127.0.0.1", port=stack.broker_port, mosquitto=program, stop=stop,
            load_users=lambda: database.read(devices.broker_users),
            revision=lambda: database.read(devices.credential_revision),
            master_key=settings.master,
        )
    )  # fmt: skip

    def answers() -> bool:
        if supervising.done():
            supervising.result()
        health = read_health(stack.home)
        return health is not None and health.answering

    try:
        await until(answers, what="a broker that answers")
        yield
    finally:
        stop.set()
        await supervising


class _Server(uvicorn.Server):
    """A server inside the test: signals stay pytest's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _provider(stack: Stack) -> AsyncIterator[None]:
    server = _Server(uvicorn.Config(_acquirer(stack), port=stack.sandbox_port, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started, what="the provider")
        yield
    finally:
        server.should_exit = True
        await serving


def _acquirer(stack: Stack) -> Starlette:
    settings = stack.settings()
    return create_app(
        database=Path(stack.home) / "sandbox.db",
        api_key=settings.sandbox_api_key,
        secrets=settings.secrets_of("sandbox"),
        first_retry_ms=FIRST_RETRY_MS,
    )


async def _ended(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Orderly where that is possible: a box whose broker is gone is simply cut off."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=5)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
