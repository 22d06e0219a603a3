"""`soundbox up` as a newcomer starts it: everything runs, payments are heard, Ctrl-C leaves nothing behind."""

import asyncio
import os
import re
import signal
import socket
import sys
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.ports import free_port

from soundbox_server.broker.mosquitto import find_mosquitto

pytestmark = pytest.mark.journey
SOUNDBOX = Path(sys.executable).with_name("soundbox")
DEADLINE_S = 90.0
PLAYED = re.compile(r"txn_\w+ .*played \+\d+ ms")
STATIC = re.compile(r"txn_\w+ +Rp15\.000 +SBX-DEMO-0001: paid by a static QR, .*played \+\d+ ms")


class Running:
    """One `soundbox up` and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process, home: Path) -> None:
        self.process = process
        self.home = home
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for the output to say so."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds():
                    assert not self._reading.done(), "\n".join([f"up ended before {what}", *self.lines])
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError("\n".join([f"{what} did not come about", *self.lines, *self._logs()])) from None

    def played(self) -> int:
        return sum(PLAYED.search(line) is not None for line in self.lines)

    async def end(self, number: signal.Signals, *, within_s: float = 40.0) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(within_s):
            await self._reading
            return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())
            self._news.set()
        self._news.set()

    def _logs(self) -> list[str]:
        return [f"{path.name}: {line}" for path in self.home.glob("logs/*") for line in _tail(path)]


def _tail(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-15:]


def settings_for(home: Path, **more: str) -> dict[str, str]:
    names = ("HTTP_PORT", "WORKER_PORT", "SANDBOX_PORT", "BROKER_PORT")
    ports = {f"SOUNDBOX_{name}": str(free_port()) for name in names}
    return {"SOUNDBOX_HOME": str(home), "SOUNDBOX_SANDBOX_AUTO_PAY_MS": "200", **ports, **more}


@asynccontextmanager
async def up(settings: dict[str, str], *arguments: str, trade: bool = False) -> AsyncIterator[Running]:
    """`trade`: with the half year of it that a newcomer gets, which takes a while to make."""
    process = await asyncio.create_subprocess_exec(
        *(SOUNDBOX, "up", "--no-sound", "--trade" if trade else "--no-trade", *arguments),
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Running(process, Path(settings["SOUNDBOX_HOME"]))
    finally:
        if process.returncode is None:
            process.kill()  # its children end with it
            await process.wait()


def alive_in(home: Path) -> list[str]:
    """Command lines of the processes whose environment names this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:  # ended while we looked
            continue
        if str(home).encode() in environment and command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


async def until_nothing_is_alive(home: Path) -> None:
    deadline = asyncio.get_running_loop().time() + 30
    while left := alive_in(home):
        assert asyncio.get_running_loop().time() < deadline, left
        await asyncio.sleep(0.05)


def recordings(home: Path) -> list[Path]:
    return sorted(home.glob("boxes/*/wav/*"))


@pytest.mark.parametrize("engine", ["mosquitto", "embedded"])
async def test_payments_are_heard_and_ctrl_c_leaves_nothing(engine: str, tmp_path: Path) -> None:
    if engine == "mosquitto" and find_mosquitto() is None:
        assert os.environ.get("CI") != "true", "CI runs with Mosquitto"
        pytest.skip("Mosquitto is not installed")
    home = tmp_path / "home"
    settings = settings_for(home, SOUNDBOX_BROKER_ENGINE=engine)

    async with up(settings, "--pay-every", "0.5", "--boxes", "2", trade=engine == "mosquitto") as running:
        await running.until(lambda: running.played() >= 3, "three payments played")
        await running.until(lambda: any("soundbox pay term_001" in line for line in running.lines), "static QR")
        customer = await asyncio.create_subprocess_exec(
            SOUNDBOX, "pay", "term_001", "15000", env={**os.environ, **settings}
        )
        await running.until(lambda: any(STATIC.search(line) for line in running.lines), "a static QR's payment played")
        paid = await asyncio.wait_for(customer.wait(), DEADLINE_S)
        code = await running.end(signal.SIGINT)
        left = alive_in(home)

    assert code == 0, "\n".join(running.lines)
    assert (engine == "embedded") == any("no passwords" in line for line in running.lines)
    assert not any("was not found" in line for line in running.lines)  # nobody looked for what was not asked for
    assert paid == 0
    assert left == []
    assert [path for path in recordings(home) if path.suffix != ".wav"] == []
    assert len(recordings(home)) >= 3
    for path in recordings(home):
        with wave.open(str(path)) as sound:
            assert sound.getnframes() / sound.getframerate() > 0.5


async def test_a_second_start_continues_and_a_fresh_one_begins_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = settings_for(home, SOUNDBOX_BROKER_TLS_PORT=str(free_port()))
    kept = home / "notes.txt"

    async with up(settings, "--pay-every", "0.5", "--boxes", "1") as first:
        await first.until(lambda: first.played() >= 1, "a payment played")
        async with up(settings) as intruder:
            refused = await asyncio.wait_for(intruder.process.wait(), 30)
        assert await first.end(signal.SIGTERM) == 0
    credentials = (home / "boxes" / "SBX-DEMO-0001" / "credentials.json").read_bytes()
    kept.write_text("not ours")
    moved = {**settings, "SOUNDBOX_HTTP_PORT": str(free_port())}

    async with up(settings, "--pay-every", "0.5", "--boxes", "1") as second:
        await second.until(lambda: second.played() >= 1, "a payment played again")
        assert await second.end(signal.SIGINT) == 0
    unchanged = (home / "boxes" / "SBX-DEMO-0001" / "credentials.json").read_bytes()
    async with up(moved, "--pay-every", "0.5", "--boxes", "1") as third:
        await third.until(lambda: third.played() >= 1, "a payment played at another address")
        assert await third.end(signal.SIGINT) == 0
    async with up(settings, "--fresh", "--no-demo") as fresh:
        await fresh.until(lambda: any("Broker" in line for line in fresh.lines), "the fresh start")
        assert await fresh.end(signal.SIGINT) == 0

    assert refused == 1
    assert any("is running in" in line for line in intruder.lines)
    assert unchanged == credentials
    assert not (home / "boxes").exists()
    assert kept.read_text() == "not ours"


async def test_a_busy_port_is_named_and_another_one_taken(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "home")
    busy = settings["SOUNDBOX_HTTP_PORT"]

    with socket.create_server(("127.0.0.1", int(busy))):
        async with up(settings, "--pay-every", "0.5", "--boxes", "1") as running:
            await running.until(lambda: running.played() >= 1, "a payment played")
            assert await running.end(signal.SIGINT) == 0

    assert any(f"Port {busy} is in use" in line for line in running.lines)


async def test_a_child_that_dies_is_named_with_its_last_words_and_comes_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with up(settings_for(home), "--pay-every", "0.5", "--boxes", "1") as running:
        await running.until(lambda: running.played() >= 1, "a payment played")
        os.kill(pid_of(home, "soundbox_server.cli worker"), signal.SIGKILL)
        await running.until(lambda: any("worker was ended by SIGKILL" in line for line in running.lines), "the news")
        heard = running.played()
        await running.until(lambda: running.played() >= heard + 3, "more payments")
        assert await running.end(signal.SIGINT) == 0


async def test_the_whole_copy_ends_when_up_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with up(settings_for(home), "--pay-every", "0.5", "--boxes", "1") as running:
        await running.until(lambda: running.played() >= 1, "a payment played")
        running.process.kill()
        await running.process.wait()

        await until_nothing_is_alive(home)


def pid_of(home: Path, ending: str) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if str(home).encode() in environment and command.replace(b"\0", b" ").decode().strip().endswith(ending):
            return int(folder.name)
    raise AssertionError(f"no process {ending} in {home}")
