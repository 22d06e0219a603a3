"""`scripts/fleet`: a whole installation on this machine, a fleet beside it, and what became of the payments.

Starts broker, api and worker as they run in production, plants the boxes, runs `soundbox-sim fleet`, compares the
boxes' ears with the hub's own records, stops everything and prints the figures.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.bench.measure import databases
from support.stack import Child, Stack, running

from soundbox_server import clock, fleet_seed, migrate
from soundbox_server.broker.mosquitto import write_atomically
from soundbox_server.db import Database

SAMPLED_EVERY_S = 1.0
RECORDED_WITHIN_S = 15.0
START_S = 240.0  # on a machine with other work
SIMULATOR = Path(sys.executable).parent / "soundbox-sim"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """What one process of the product used: seconds of processor time and the most memory it held."""

    pid: int
    cpu_s: float = 0.0
    largest_mib: float = 0.0


@dataclass
class Sampler:
    """Looks at processes while they run. Mosquitto may be restarted: its seconds add up."""

    processes: dict[str, list[Process]] = field(default_factory=dict)

    def look(self, pids: dict[str, int]) -> None:
        for name, pid in pids.items():
            known = self.processes.setdefault(name, [])
            if not known or known[-1].pid != pid:
                known.append(Process(pid))
            with contextlib.suppress(OSError):  # it has just ended
                self._read(known[-1])

    def _read(self, process: Process) -> None:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.cpu_s = (int(fields[11]) + int(fields[12])) / TICKS
        resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        process.largest_mib = max(process.largest_mib, resident / 2**20)

    def table(self, seconds: float) -> list[str]:
        lines = []
        for name, found in self.processes.items():
            cpu_s, mib = sum(one.cpu_s for one in found), max(one.largest_mib for one in found)
            lines.append(f"{name:<10} {cpu_s:7.1f} s of processor ({cpu_s / seconds:4.0%} of one)  {mib:7.1f} MiB")
        return lines


def main() -> None:
    options, passed_on = _options()
    status = asyncio.run(run(options, passed_on))
    raise SystemExit(status)


async def run(options: argparse.Namespace, passed_on: list[str]) -> int:
    """The simulator's exit status, or 1 when the hub's records differ from what was heard."""
    folder = Path(tempfile.mkdtemp(prefix="sbfleet-"))
    report = options.report or folder / "report.json"
    try:
        async with _installation(folder, options) as (stack, roster):
            command = [str(SIMULATOR), "fleet", "--roster", str(roster), "--report", str(report), *passed_on]
            command += ["--restart-broker", _restart(stack)]
            status, sampler, seconds = await _run_beside(stack, command)
            differs = await _compare(stack, json.loads(report.read_text())) if report.exists() else True
            print("\n".join(sampler.table(seconds)))
            if options.keep:
                print(f"kept: {folder}")
        return status or int(differs)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _installation(folder: Path, options: argparse.Namespace) -> AsyncIterator[tuple[Stack, Path]]:
    async with contextlib.AsyncExitStack() as exits:
        url, _ = await databases(options.database, folder, exits)
        stack = await exits.enter_async_context(running(Stack(home=folder / "home", database_url=url)))
        stack.home.mkdir(exist_ok=True)
        roster = folder / "fleet.json"
        await _plant(stack, roster, boxes=options.devices)
        for name in ("broker", "api", "worker"):
            await stack.start(name)
        await stack.ready(within_s=START_S)
        yield stack, roster


async def _plant(stack: Stack, roster: Path, *, boxes: int) -> None:
    database, began = Database(stack.database_url), time.monotonic()
    try:
        await migrate.upgrade(database)
        began = time.monotonic()
        planted = await fleet_seed.plant(database, stack.settings(), boxes=boxes, now_ms=clock.now_ms())
    finally:
        await database.close()
    write_atomically(roster, json.dumps(planted))
    print(f"{boxes} boxes are in service after {time.monotonic() - began:.1f} s", flush=True)


async def _run_beside(stack: Stack, command: list[str]) -> tuple[int, Sampler, float]:
    sampler, began = Sampler(), time.monotonic()
    process = await asyncio.create_subprocess_exec(*command, env=stack.environment(), stdin=asyncio.subprocess.DEVNULL)
    stack.children.append(Child("fleet", process, stack.home / "fleet.log"))
    ended = asyncio.create_task(process.wait())
    while not ended.done():
        sampler.look(_pids(stack))
        await asyncio.wait([ended], timeout=SAMPLED_EVERY_S)
    return ended.result(), sampler, time.monotonic() - began


def _pids(stack: Stack) -> dict[str, int]:
    pids = {child.name: child.process.pid for child in stack.children}
    children = Path(f"/proc/{pids['broker']}/task/{pids['broker']}/children").read_text().split()
    return pids | ({"mosquitto": int(children[0])} if children else {})  # none while it is restarted


def _restart(stack: Stack) -> str:
    """A shell command that ends Mosquitto as a crash would; its supervisor starts it again."""
    supervisor = _pids(stack)["broker"]
    return f"kill -KILL $(cat /proc/{supervisor}/task/{supervisor}/children)"


async def _compare(stack: Stack, report: dict[str, Any]) -> bool:
    """Whether the hub's records differ from what the boxes did. Their last acks may still be on their way."""
    paid, played = report["payments"]["paid"], report["payments"]["played"]
    restarted = "broker_restart" in report["happened"]  # a killed broker loses acks that it has taken
    ends = time.monotonic() + RECORDED_WITHIN_S
    while True:
        rows = await stack.query(
            "SELECT state, count(*) FROM outbox_message WHERE kind = 'payment_success' GROUP BY state"
        )
        recorded = {str(state): int(count) for state, count in rows}
        ((taken,),) = await stack.query("SELECT count(*) FROM payment WHERE state = 'paid'")
        unrecorded = played - recorded.get("played", 0)
        differs = taken != paid or unrecorded < 0 or (unrecorded > 0 and not restarted)
        if not differs or time.monotonic() > ends:
            break
        await asyncio.sleep(SAMPLED_EVERY_S)
    print(f"the hub's records: {taken} payments, announcements {recorded}")
    print(f"the fleet's: {paid} payments, {played} played" + (": THEY DIFFER" if differs else ""))
    return differs


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Everything else is an option of soundbox-sim fleet: --scenario, --minutes, --seed …",
    )
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--report", type=Path, help="keep the report here")
    parser.add_argument("--keep", action="store_true", help="leave database and logs where they are")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
