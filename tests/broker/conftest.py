"""A real broker for each test, on a port and in a folder of its own."""

import asyncio
import dataclasses
import functools
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt
import pytest
from support import ports

from soundbox_server.broker import embedded, supervisor
from soundbox_server.broker.engine import Pace
from soundbox_server.broker.health import FILE_NAME, LEGACY_FILE_NAME, PROVISIONING_FILE_NAME, Health, read_health
from soundbox_server.broker.legacy import LegacySetup
from soundbox_server.broker.mosquitto import TlsListener, find_mosquitto
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.tls import TlsSetup, development_authority
from soundbox_server.broker.users import RESERVED_PREFIX, hub_password

MASTER_KEY = bytes(range(32))
LOOPBACK = "127.0.0.1"


@dataclass
class Registry:
    """The devices' credentials as the supervisor is given them: a revision, and names with hashes."""

    passwords: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    serials: dict[str, str] = field(default_factory=dict)  # other makers' boxes, and their hashes
    number: int = 1
    away: bool = False
    asked: int = 0

    def add(self, *names: str) -> None:
        for name in names:
            self.passwords[name] = f"secret of {name}"
            self.rows[name] = hash_password(self.passwords[name])
        self.number += 1

    def remove(self, name: str) -> None:
        del self.rows[name]
        self.number += 1

    async def load_users(self) -> tuple[int, list[tuple[str, str]]]:
        self._be_away()
        return self.number, list(self.rows.items())

    def add_serials(self, *serials: str) -> None:
        for serial in serials:
            self.passwords[serial] = f"secret of {serial}"
            self.serials[serial] = hash_password(self.passwords[serial])
        self.number += 1

    async def load_legacy_users(self) -> tuple[int, list[tuple[str, str]]]:
        self._be_away()
        return self.number, list(self.serials.items())

    async def revision(self) -> int:
        self.asked += 1
        self._be_away()
        return self.number

    def _be_away(self) -> None:
        if self.away:
            raise ConnectionRefusedError("the database is away")


@dataclass
class RunningBroker:
    home: Path
    port: int
    registry: Registry
    supervising: asyncio.Task[None]
    tls: TlsSetup | None = None
    legacy_port: int = 0
    over_tls: bool = False  # what `client` does when a test does not say

    @property
    def trust(self) -> ssl.SSLContext:
        """What a box knows after its activation."""
        return ssl.create_default_context(cadata=development_authority(self.home))

    @property
    def health(self) -> Health:
        health = read_health(self.home)
        assert health is not None
        return health

    def client(
        self, user: str, *, password: str | None = None, tls: bool | None = None, **options: object
    ) -> aiomqtt.Client:
        if password is None:
            hub = user.startswith(RESERVED_PREFIX)
            password = hub_password(MASTER_KEY, user) if hub else self.registry.passwords.get(user, "none")
        options = {"identifier": user, "timeout": 20, **options}
        port, options["tls_context"] = self.port, None
        if self.over_tls if tls is None else tls:
            assert self.tls is not None
            port, options["tls_context"] = self.tls.listener.port, self.trust
        return aiomqtt.Client(LOOPBACK, port, username=user, password=password, **options)  # type: ignore[arg-type]

    def nameless(self, nonce: str, *, user: str = "provision", password: str = "provision") -> aiomqtt.Client:
        """A box that asks for its name at the second broker."""
        assert self.tls is not None
        return aiomqtt.Client(
            LOOPBACK, self.tls.provision_port, username=user, password=password, identifier=nonce,
            tls_context=self.trust, timeout=20,
        )  # fmt: skip

    def foreign(self, serial: str, *, password: str | None = None, **options: object) -> aiomqtt.Client:
        """Another maker's box at the third broker, by whatever client id."""
        password = password or self.registry.passwords.get(serial, "none")
        options = {"identifier": f"soundbox-{serial}", "timeout": 20, **options}
        return aiomqtt.Client(LOOPBACK, self.legacy_port, username=serial, password=password, **options)  # type: ignore[arg-type]

    @property
    def legacy_health(self) -> Health:
        health = read_health(self.home, file_name=LEGACY_FILE_NAME)
        assert health is not None
        return health

    async def applied(self) -> None:
        await _eventually(lambda: self.health.applied_revision == self.registry.number)

    async def legacy_applied(self) -> None:
        await _eventually(lambda: self.legacy_health.applied_revision == self.registry.number)


async def _eventually(true: Callable[[], bool], *, within_s: float = 30.0) -> float:
    """Wait for a condition; returns the seconds it took."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < within_s, "it did not come true in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def _heard_until(client: aiomqtt.Client, last: bytes, *, within_s: float = 20.0) -> list[tuple[str, bytes]]:
    """Everything the client hears up to the message `last`, which therefore proves that it does hear."""
    heard: list[tuple[str, bytes]] = []
    async with asyncio.timeout(within_s):
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            heard.append((str(message.topic), message.payload))
            if message.payload == last:
                return heard
    raise AssertionError("the connection ended before the last message")


async def _is_admitted(client: aiomqtt.Client) -> bool:
    try:
        async with client:
            return True
    except aiomqtt.MqttError:
        return False


def _tls_setup(**changes: object) -> TlsSetup:
    """A TLS listener on a free port, its certificate made by the copy's own authority."""
    listener = TlsListener(LOOPBACK, ports.free_port(), connections=100)
    return dataclasses.replace(TlsSetup(listener=listener, names=["localhost", LOOPBACK]), **changes)  # type: ignore[arg-type]


# Test files cannot import from this one, so what they call comes as fixtures.
eventually = pytest.fixture(lambda: _eventually, name="eventually")
heard_until = pytest.fixture(lambda: _heard_until, name="heard_until")
is_admitted = pytest.fixture(lambda: _is_admitted, name="is_admitted")
tls_setup = pytest.fixture(lambda: _tls_setup, name="tls_setup")
free_port = pytest.fixture(lambda: ports.free_port(), name="free_port")


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.add("dev_alpha", "dev_bravo")
    return registry


@pytest.fixture
def mosquitto_program() -> Path:
    program = find_mosquitto()
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("Mosquitto is not installed, and CI must test the real one")
    if program is None:
        pytest.skip("Mosquitto is not installed")
    return program


@asynccontextmanager
async def _mosquitto(
    program: Path,
    home: Path,
    registry: Registry,
    *,
    pace: Pace | None = None,
    port: int | None = None,
    tls: TlsSetup | None = None,
    legacy_port: int = 0,
) -> AsyncIterator[RunningBroker]:
    stop, port = asyncio.Event(), port or ports.free_port()
    legacy = (
        LegacySetup(host=LOOPBACK, port=legacy_port, load_users=registry.load_legacy_users) if legacy_port else None
    )
    supervising = asyncio.create_task(
        supervisor.supervise(
            home=home,
            host=LOOPBACK,
            port=port,
            mosquitto=program,
            load_users=registry.load_users,
            revision=registry.revision,
            master_key=MASTER_KEY,
            stop=stop,
            tls=tls,
            legacy=legacy,
            pace=pace,
        )
    )
    async with _until_stopped(RunningBroker(home, port, registry, supervising, tls, legacy_port), stop) as broker:
        yield broker


@asynccontextmanager
async def _embedded(home: Path, *, pace: Pace | None = None) -> AsyncIterator[RunningBroker]:
    stop, port = asyncio.Event(), ports.free_port()
    supervising = asyncio.create_task(embedded.supervise(home=home, host=LOOPBACK, port=port, stop=stop, pace=pace))
    async with _until_stopped(RunningBroker(home, port, Registry(), supervising), stop) as broker:
        yield broker


@asynccontextmanager
async def _until_stopped(broker: RunningBroker, stop: asyncio.Event) -> AsyncIterator[RunningBroker]:
    def is_up() -> bool:
        if broker.supervising.done():
            broker.supervising.result()
        names = [FILE_NAME, *([PROVISIONING_FILE_NAME] if broker.tls and broker.tls.provision_port else [])]
        names += [LEGACY_FILE_NAME] if broker.legacy_port else []
        return all((health := read_health(broker.home, file_name=name)) and health.answering for name in names)

    try:
        await _eventually(is_up)
        yield broker
    finally:
        stop.set()
        await asyncio.wait_for(broker.supervising, 30)


@pytest.fixture
def start_mosquitto(
    mosquitto_program: Path, tmp_path: Path, registry: Registry
) -> Callable[..., AbstractAsyncContextManager[RunningBroker]]:
    """`async with start_mosquitto(pace=…) as broker`: a supervised Mosquitto, ended at the end of the block."""
    return functools.partial(_mosquitto, mosquitto_program, tmp_path / "home", registry)


@pytest.fixture
def start_embedded(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[RunningBroker]]:
    return functools.partial(_embedded, tmp_path / "home")


@pytest.fixture
async def broker(
    start_mosquitto: Callable[..., AbstractAsyncContextManager[RunningBroker]],
) -> AsyncIterator[RunningBroker]:
    async with start_mosquitto() as running:
        yield running


@pytest.fixture(params=["plain", "tls"])
async def each_listener(
    request: pytest.FixtureRequest, start_mosquitto: Callable[..., AbstractAsyncContextManager[RunningBroker]]
) -> AsyncIterator[RunningBroker]:
    """The broker with a TLS listener, its clients on the plain one or on that."""
    async with start_mosquitto(tls=_tls_setup()) as running:
        running.over_tls = request.param == "tls"
        yield running


@pytest.fixture
async def two_brokers(
    start_mosquitto: Callable[..., AbstractAsyncContextManager[RunningBroker]],
) -> AsyncIterator[RunningBroker]:
    """The broker, and the second one for boxes without a name."""
    async with start_mosquitto(tls=_tls_setup(provision_port=ports.free_port())) as running:
        yield running


@pytest.fixture
async def three_brokers(
    start_mosquitto: Callable[..., AbstractAsyncContextManager[RunningBroker]], registry: Registry
) -> AsyncIterator[RunningBroker]:
    """The broker, and the third one for other makers' boxes, of which there are two."""
    registry.add_serials("SN0001", "SN0002")
    async with start_mosquitto(legacy_port=ports.free_port()) as running:
        yield running


@pytest.fixture
async def embedded_broker(
    start_embedded: Callable[..., AbstractAsyncContextManager[RunningBroker]],
) -> AsyncIterator[RunningBroker]:
    async with start_embedded() as running:
        yield running
