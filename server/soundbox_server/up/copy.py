"""One running copy from start to end: its ports, its processes in order, its demo, and what is shown of it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from sqlalchemy.exc import DBAPIError

from soundbox_server import clock
from soundbox_server.broker import embedded
from soundbox_server.broker.health import read_health
from soundbox_server.broker.mosquitto import find_mosquitto
from soundbox_server.settings import Settings
from soundbox_server.up import demo, home, ports
from soundbox_server.up.child import Child
from soundbox_server.up.problems import UpRefused
from soundbox_server.up.story import Story, told_in_a_line
from soundbox_server.up.view import LiveView, PlainView

AUTO_PAY_MS = 2_500
READY_WITHIN_S = 60.0
READY_EVERY_S = 0.2
STORY_EVERY_S = 0.1
# Together less than ten seconds: boxes say good-bye first, the broker that carries it ends last.
PATIENCE_S = {"boxes": 3.0, "sandbox": 3.5, "api": 3.5, "worker": 3.5, "broker": 2.5}
ENDING_ORDER = (("boxes",), ("sandbox", "api", "worker"), ("broker",))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    fresh: bool
    demo: bool
    pay_every_s: float
    boxes: int
    sound: bool
    trade: bool = False


def run(settings: Settings, options: Options) -> None:
    """Until Ctrl-C, SIGTERM or the terminal's end. Raises UpRefused when it cannot start."""
    with home.held(settings.home):
        if options.fresh:
            home.forget(settings)
        asyncio.run(_run(settings, options))


async def _run(settings: Settings, options: Options) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console = Console()
    plain = PlainView(console)
    moved = dict(ports.choose(settings, plain.say, tls=_has_mosquitto(settings)))
    if options.demo and not settings.sandbox_auto_pay_ms:
        moved["sandbox_auto_pay_ms"] = AUTO_PAY_MS
    settings = Settings(**{**_given(settings), **moved})  # type: ignore[arg-type]
    _require_broker(settings, plain.say)
    copy = _Copy(settings, options, {f"SOUNDBOX_{name.upper()}": str(value) for name, value in moved.items()})
    try:
        await demo.bring_up_to_date(settings)
    except (OSError, DBAPIError) as problem:
        raise UpRefused(f"The database cannot be used: {problem}") from problem
    await copy.run(stop, console, plain)


def _given(settings: Settings) -> dict[str, object]:
    """What cannot be worked out anew from the environment: the home folder, should the working directory differ."""
    return {"home": settings.home}


def _require_broker(settings: Settings, say: Callable[[str], None]) -> None:
    if _has_mosquitto(settings):
        return
    if settings.broker_engine == "mosquitto":
        raise UpRefused("Mosquitto is not on PATH, and SOUNDBOX_BROKER_ENGINE asks for it. Install mosquitto.")
    if not embedded.is_available():
        raise UpRefused("Neither Mosquitto nor the package iotcore is installed: there is no broker to run.")
    say(embedded.honest_line(asked_for=settings.broker_engine == "embedded"))


def _has_mosquitto(settings: Settings) -> bool:
    return settings.broker_engine != "embedded" and find_mosquitto() is not None


class _Copy:
    """The processes of this copy and what is known of them."""

    def __init__(self, settings: Settings, options: Options, moved: dict[str, str]) -> None:
        self._settings = settings
        self._options = options
        self._environment = {**os.environ, **moved, "SOUNDBOX_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"}
        self._story = Story()
        self._children: list[Child] = []
        self._view: PlainView | LiveView = PlainView(Console())

    async def run(self, stop: asyncio.Event, console: Console, plain: PlainView) -> None:
        world = None
        if self._options.demo:
            world = await demo.plant(self._settings, boxes=self._options.boxes)
        self._say_where(console, world)
        self._view = LiveView(console, self._story, self._children) if console.is_terminal else plain
        with self._view:
            hub = asyncio.create_task(self._run_processes(world))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([hub, stopped], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._view.say("Stopping …")
                hub.cancel()
                failures = await asyncio.gather(hub, return_exceptions=True)
                stopped.cancel()
                await self._end_children()
        for failure in failures:
            if isinstance(failure, Exception):
                raise failure
        console.print(f"Stopped. {self._settings.home} keeps the data for the next start.", highlight=False)

    async def _run_processes(self, world: demo.World | None) -> None:
        for name in ("broker", "api", "worker", *(["sandbox"] if self._settings.provider == "sandbox" else [])):
            self._start(self._child(name, [sys.executable, "-m", "soundbox_server.cli", name]))
        if world is None:
            await asyncio.Event().wait()
            return
        for box in world.boxes:
            self._story.know(box.device_id, box.serial_number, bound=False)
        desk = demo.OperatorDesk(self._api_url, world, self._story)
        try:
            await self._wait_until_ready(desk)
            self._start_boxes(world)
            async with asyncio.TaskGroup() as works:
                works.create_task(desk.bind_as_they_come())
                works.create_task(desk.look_at_payments())
                if self._settings.provider == "sandbox" and world.boxes:
                    works.create_task(self._put_up_static_qrs(desk, world))
                works.create_task(self._tell_the_story())
                if self._options.trade:
                    works.create_task(self._plant_trade())
        finally:
            await desk.close()

    async def _put_up_static_qrs(self, desk: demo.OperatorDesk, world: demo.World) -> None:
        await desk.put_up_static_qrs()
        till = world.boxes[0].terminal_id
        self._view.say(f"A static QR hangs at each till. A customer pays by it: soundbox pay {till} 15000")

    async def _plant_trade(self) -> None:
        """Beside everything else: it takes some seconds, and nobody has to wait for it."""
        for email, password, role in await demo.plant_trade(self._settings):
            self._view.say(f"Login   {email}   {password}   ({role}, {demo.door_of(role)})")

    async def _wait_until_ready(self, desk: demo.OperatorDesk) -> None:
        """Boxes come last: what they would meet earlier is only refusals."""
        loop = asyncio.get_running_loop()
        late = loop.time() + READY_WITHIN_S
        while not (self._broker_answers() and await desk.ready()):
            if loop.time() > late:
                logs = self._settings.home / "logs"
                self._view.say(f"The hub is not ready after {READY_WITHIN_S:g} s, still waiting. Its logs: {logs}")
                late = float("inf")
            await asyncio.sleep(READY_EVERY_S)

    def _broker_answers(self) -> bool:
        health = read_health(self._settings.home)
        return health is not None and health.answering and health.is_fresh(at_ms=clock.now_ms())

    def _start_boxes(self, world: demo.World) -> None:
        if not world.boxes:
            return
        file = demo.write_boxes_file(
            self._settings, world.boxes, pay_every_s=self._options.pay_every_s, sound=self._options.sound
        )
        command = [demo.simulator(), "run-many", "--file", str(file), "--server", self._api_url, "--events-json"]
        self._start(self._child("boxes", command, on_line=self._hear, on_end=self._story.everybody_offline))

    def _child(
        self,
        name: str,
        command: Sequence[str],
        *,
        on_line: Callable[[str], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Child:
        return Child(
            name,
            command,
            environment=self._environment,
            log=self._settings.home / "logs" / f"{name}.log",
            say=self._view.say,
            on_line=on_line,
            on_end=on_end,
        )

    def _start(self, child: Child) -> None:
        self._children.append(child)
        child.start()

    def _hear(self, line: str) -> None:
        """One line of the boxes' output."""
        try:
            told = self._story.hear(json.loads(line))
        except (ValueError, KeyError, TypeError):
            self._view.say(f"boxes: {line}")  # no event: shown as it is
            return
        if told is not None:
            self._view.tell(told)

    async def _tell_the_story(self) -> None:
        while True:
            for payment in self._story.newly_finished():
                self._view.tell(told_in_a_line(payment, self._story.boxes[payment.device_id]))
            await asyncio.sleep(STORY_EVERY_S)

    async def _end_children(self) -> None:
        for names in ENDING_ORDER:
            ending = [child for child in self._children if child.name in names]
            await asyncio.gather(*(child.end(PATIENCE_S[child.name]) for child in ending))

    def _say_where(self, console: Console, world: demo.World | None) -> None:
        lines = [
            ("API", f"{self._api_url}   its OpenAPI document: {self._api_url}/openapi.json"),
            *self._broker_lines(),
            ("Home", str(self._settings.home)),
            ("Logs", str(self._settings.home / "logs")),
        ]
        if world is not None:
            lines += [
                ("Login", f"{email}   {password}   ({role}, {demo.door_of(role)})")
                for email, password, role in world.logins
            ]
            lines += [("Recordings", str(box.home / "wav")) for box in world.boxes]
        for name, text in lines:
            console.print(f"{name:<11} {text}", markup=False, highlight=False, soft_wrap=True)

    def _broker_lines(self) -> list[tuple[str, str]]:
        settings = self._settings
        hub = f"mqtt://{settings.broker_host}:{settings.broker_port}"
        if not settings.boxes_use_tls:
            return [("Broker", hub)]
        boxes = f"mqtts://{settings.broker_public_host}:{settings.broker_public_port}"
        own = "" if settings.broker_tls_certificate else "   (certificate of this copy's own CA)"
        return [("Broker", f"{hub}   for the hub"), ("", f"{boxes}   for boxes{own}")]

    @property
    def _api_url(self) -> str:
        return demo.local_url(self._settings.http_host, self._settings.http_port)
