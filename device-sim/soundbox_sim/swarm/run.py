"""A fleet from the first box that is switched on to the report."""

import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx

from soundbox_sim.swarm import outside
from soundbox_sim.swarm.device import Device
from soundbox_sim.swarm.plan import Happening, draw
from soundbox_sim.swarm.roster import CannotRun, Roster
from soundbox_sim.swarm.scenarios import Scenario
from soundbox_sim.swarm.tally import NEEDED_S, Tally, percentiles

SPARE_FILES = 200
CALLS_AT_ONCE = 64
ARRIVE_WITHIN_S = 180.0
SETTLED_EVERY_S = 0.5
LOOK_EVERY_S = 5.0
ASKED_AFTER = 500


@dataclass(frozen=True, kw_only=True)
class Options:
    """`boxes` of the roster, from its beginning. `restart_broker` is called when the scenario says so."""

    name: str
    scenario: Scenario
    boxes: int
    duration_s: float
    seed: int
    restart_broker: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a watcher sees while it runs."""

    phase: str
    elapsed_s: float
    boxes: int
    connected: int
    in_session: int
    callbacks: int
    paid: int
    heard: int
    waiting: int
    commands: int
    said_twice: int
    unpaid_said: int
    heard_ms: dict[str, float] | None


Look = Callable[[Standing], None]


def require_files(boxes: int) -> None:
    """Every box is an open file of this process. Raises the soft limit if it may; CannotRun when it may not."""
    needed = boxes + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CannotRun(
            f"{boxes} boxes need {needed} open files, and this process may open {hard}: raise the hard limit "
            f"(ulimit -Hn {needed}), here and for the broker"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def run_fleet(roster: Roster, options: Options, look: Look) -> dict[str, Any]:
    """Everything the scenario holds, then a quiet end in which what was paid may still be heard. Returns the report."""
    if options.boxes > len(roster.devices):
        raise CannotRun(f"the roster names {len(roster.devices)} boxes, not {options.boxes}")
    if options.scenario.broker_restarts and options.restart_broker is None:
        raise CannotRun("this scenario restarts the broker: say how with --restart-broker")
    require_files(options.boxes)
    limits = httpx.Limits(max_connections=CALLS_AT_ONCE, max_keepalive_connections=CALLS_AT_ONCE)
    async with httpx.AsyncClient(
        base_url=roster.server, timeout=outside.ANSWER_S, limits=limits, trust_env=False
    ) as client:
        try:
            return await _Run(roster, options, client, look).run()
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None


class _Run:
    def __init__(self, roster: Roster, options: Options, client: httpx.AsyncClient, look: Look) -> None:
        self._options, self._look = options, look
        self._members = roster.devices[: options.boxes]
        self._plan = draw(options.scenario, boxes=options.boxes, duration_s=options.duration_s, seed=options.seed)
        self._tally = Tally(boxes=options.boxes, life_s=roster.announcement_life_s)
        self._devices = [self._device(number, roster) for number in range(options.boxes)]
        name = f"{options.seed}-{int(time.time())}"
        self._acquirer = outside.AcquirerDesk(roster, client, run=name)
        self._operator = outside.OperatorDesk(roster, client)
        self._refused_commands: Counter[int] = Counter()
        self._phase, self._began = "switching on", time.monotonic()

    def _device(self, number: int, roster: Roster) -> Device:
        return Device(
            number, self._members[number], self._plan.natures[number], host=roster.broker_host,
            port=roster.broker_port, random=Random(f"{self._options.seed}/box/{number}"),  # noqa: S311 - no secrets
            witness=self._tally,
        )  # fmt: skip

    async def run(self) -> dict[str, Any]:
        looking = asyncio.create_task(self._keep_looking())
        try:
            for device in self._devices:
                device.switch_on()
            arrived_s = await self._until(lambda: len(self._tally.in_session) == len(self._devices), ARRIVE_WITHIN_S)
            self._phase, began = "running", time.monotonic()
            async with asyncio.TaskGroup() as works:  # it ends when the last callback is answered
                await self._live_through(began, works)
            self._phase = "settling"
            await self._settle()
            report = self._report(arrived_s, time.monotonic() - began)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self._phase = "switched off"
            await asyncio.gather(*(device.switch_off() for device in self._devices))
        self._look(self._standing())
        return report

    async def _live_through(self, began: float, works: asyncio.TaskGroup) -> None:
        for happening in self._plan.happenings:
            due_s = began + happening.at_ms / 1000 - time.monotonic()
            if due_s > 0:
                await asyncio.sleep(due_s)
            self._let_happen(happening, works)
        if (left_s := began + self._options.duration_s - time.monotonic()) > 0:
            await asyncio.sleep(left_s)

    def _let_happen(self, happening: Happening, works: asyncio.TaskGroup) -> None:
        self._tally.happened[happening.kind] += 1
        match happening.kind:
            case "payment":
                works.create_task(self._pay(happening))
            case "command":
                works.create_task(self._command(happening))
            case "power_cut":
                self._devices[happening.box].cut_power(happening.off_ms)
            case "line_lost":
                self._devices[happening.box].break_line()
            case "storm":
                self._tally.storm_begins()
                for device in self._devices:
                    device.break_line()
            case "broker_restart":
                self._tally.storm_begins()
                works.create_task(self._restart_broker())

    async def _restart_broker(self) -> None:
        assert self._options.restart_broker is not None
        await self._options.restart_broker()

    async def _pay(self, payment: Happening) -> None:
        called = await self._acquirer.tell(payment, self._members[payment.box])
        self._tally.called_back(payment, called)

    async def _command(self, wanted: Happening) -> None:
        status, command_id = await self._operator.command(wanted, self._members[wanted.box])
        if command_id is not None:
            self._tally.commanded(wanted, command_id)
        else:
            self._refused_commands[status] += 1

    async def _settle(self) -> None:
        """Until what was paid has been heard or never will be, everybody is back, and commands have ended."""
        await self._until(lambda: not self._tally.waits_for() and not self._tally.settle_commands(), NEEDED_S)
        await self._until(lambda: not self._tally.waits_for(), self._tally.life_s + NEEDED_S)
        await self._until(self._everybody_is_done, ARRIVE_WITHIN_S)
        for command_id, given in self._tally.settle_commands()[:ASKED_AFTER]:
            given.hub_says = await self._operator.state_of(self._members[given.box], command_id)

    def _everybody_is_done(self) -> bool:
        return len(self._tally.in_session) == len(self._devices) and not any(one.is_busy for one in self._devices)

    async def _until(self, holds: Callable[[], bool], within_s: float) -> float:
        """How long it took, or gave up after."""
        began = time.monotonic()
        while not holds() and time.monotonic() - began < within_s:  # noqa: ASYNC110 - thousands of boxes, no one event
            await asyncio.sleep(SETTLED_EVERY_S)
        return time.monotonic() - began

    async def _keep_looking(self) -> None:
        while True:
            self._look(self._standing())
            await asyncio.sleep(LOOK_EVERY_S)

    def _standing(self) -> Standing:
        tally = self._tally
        return Standing(
            phase=self._phase,
            elapsed_s=time.monotonic() - self._began,
            boxes=tally.boxes,
            connected=len(tally.connected),
            in_session=len(tally.in_session),
            callbacks=len(tally.callbacks),
            paid=len(tally.paid()),
            heard=len(tally.heard),
            waiting=tally.waits_for(),
            commands=len(tally.commands),
            said_twice=len(tally.said_twice()),
            unpaid_said=tally.unpaid_for_s(outside.PATIENCE_S + outside.ANSWER_S),
            heard_ms=percentiles(tally.heard_ms()),
        )

    def _report(self, arrived_s: float, lasted_s: float) -> dict[str, Any]:
        tally, options = self._tally, self._options
        off = sum(not device.is_on for device in self._devices)
        checks = tally.checks(off=off)
        used = resource.getrusage(resource.RUSAGE_SELF)
        attempts = [attempt for one in tally.callbacks for attempt in one.called.attempts]
        return {
            "scenario": options.name,
            "about": options.scenario.about,
            "seed": options.seed,
            "plan_sha256": self._plan.sha256,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "boxes": options.boxes,
            "duration_s": options.duration_s,
            "lasted_s": round(lasted_s, 1),
            "all_in_session_after_s": round(arrived_s, 1),
            "off_at_the_end": off,
            "callbacks": {
                "told": len(tally.callbacks),
                "calls": len(attempts),
                "by_status": _counted(attempt.status for attempt in attempts),
                "ms": percentiles(attempt.took_ms for attempt in attempts if attempt.status),
                "in_storms": len(tally.in_storms_ms()),
                "in_storms_ms": percentiles(tally.in_storms_ms()),
            },
            "payments": {
                "paid": len(tally.paid()),
                "heard": len(tally.heard),
                "played": tally.happened["played"],
                "not_heard": _counted(reason or "no honest reason" for reason in tally.unheard().values()),
                "callback_to_voice_ms": percentiles(tally.heard_ms()),
            },
            "commands": {
                "taken": len(tally.commands),
                "ended": _counted(given.ended or f"hub says {given.hub_says}" for given in tally.commands.values()),
                "refused": dict(sorted(self._refused_commands.items())),
            },
            "storms": [
                {"boxes": storm.boxes, "all_back_after_s": storm.took_s and round(storm.took_s, 1)}
                for storm in tally.storms
            ],
            "happened": dict(sorted(tally.happened.items())),
            "simulator": {
                "cpu_s": round(used.ru_utime + used.ru_stime, 1),
                "largest_mib": round(_largest_mib(), 1),
            },
            "checks": [asdict(check) for check in checks],
            "ok": all(check.holds for check in checks),
        }


async def run_command(command: str) -> None:
    """Raises CannotRun when it fails."""
    process = await asyncio.create_subprocess_shell(command)
    if status := await process.wait():
        raise CannotRun(f"{command}: ended with {status}")


def write_report(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _largest_mib() -> float:
    """Not getrusage's, which counts what the parent held when it started us."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _counted(names: Iterable[Any]) -> dict[str, int]:
    return {str(name): count for name, count in sorted(Counter(names).items(), key=lambda pair: str(pair[0]))}
