"""`soundbox doctor`: what would keep this copy from running, each finding with its mend."""

import asyncio
import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy.exc import ArgumentError, DBAPIError

from soundbox_server import clock, migrate
from soundbox_server.broker import embedded
from soundbox_server.broker.health import read_health
from soundbox_server.broker.mosquitto import find_mosquitto, mosquitto_version
from soundbox_server.broker.probe import login
from soundbox_server.broker.users import SUPERVISOR_USER, hub_password
from soundbox_server.db import Database
from soundbox_server.settings import Settings

Verdict = Literal["fine", "note", "broken"]
OLDEST_PYTHON = (3, 11)
_SIGNS = {"fine": "✔", "note": "•", "broken": "✘"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `mend` says what to do; what is fine needs none."""

    about: str
    verdict: Verdict
    what: str
    mend: str = ""

    def line(self) -> str:
        mend = f"\n    → {self.mend}" if self.mend else ""
        return f"{_SIGNS[self.verdict]} {self.about}: {self.what}{mend}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which it is worth mending. Changes nothing."""
    return [
        _python(),
        _home(settings),
        _master_key(settings),
        await _database(settings),
        await _mosquitto(settings),
        await _broker(settings),
        *await asyncio.gather(
            *(_listener(*listener) for listener in (
                ("API", settings.http_host, settings.http_port, "SOUNDBOX_HTTP_PORT"),
                ("worker", settings.worker_host, settings.worker_port, "SOUNDBOX_WORKER_PORT"),
                ("sandbox", settings.sandbox_host, settings.sandbox_port, "SOUNDBOX_SANDBOX_PORT"),
            ))
        ),
        _voice(),
    ]  # fmt: skip


def worst(findings: Sequence[Finding]) -> Verdict:
    verdicts = {finding.verdict for finding in findings}
    return "broken" if "broken" in verdicts else "note" if "note" in verdicts else "fine"


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("Python", "broken", version, "Install Python 3.11 or newer.")
    return Finding("Python", "fine", version)


def _home(settings: Settings) -> Finding:
    if not settings.home.exists():
        return Finding("home", "note", f"{settings.home} is not there yet; the first start makes it")
    if not os.access(settings.home, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            "home", "broken", f"{settings.home} cannot be written", "Give it to this user, or set SOUNDBOX_HOME."
        )
    return Finding("home", "fine", str(settings.home))


def _master_key(settings: Settings) -> Finding:
    path = settings.home / "master.key"
    if settings.master_key.get_secret_value():
        return _readable_key(settings, "SOUNDBOX_MASTER_KEY")
    if not path.exists():
        return Finding("master key", "note", "there is none yet; the first start makes it")
    rights = stat.S_IMODE(path.stat().st_mode)
    if rights & 0o077:
        return Finding("master key", "broken", f"others may read {path} ({rights:04o})", f"chmod 600 {path}")
    return _readable_key(settings, str(path))


def _readable_key(settings: Settings, where: str) -> Finding:
    try:
        _ = settings.master
    except (ValueError, OSError) as problem:
        return Finding("master key", "broken", f"{where}: {problem}", "Put the right key back from the backup.")
    return Finding("master key", "fine", where)


async def _database(settings: Settings) -> Finding:
    try:
        database = Database(settings.database_url)
    except ArgumentError as problem:
        return Finding("database", "broken", str(problem), "Mend SOUNDBOX_DATABASE_URL.")
    where = database.url.render_as_string(hide_password=True)
    if database.dialect == "sqlite" and not settings.home.joinpath(str(database.url.database)).exists():
        return Finding("database", "note", f"{where} is not there yet", "soundbox migrate (soundbox up does it itself)")
    try:
        found, needed = await migrate.current(database), migrate.newest()
    except (OSError, DBAPIError) as problem:
        return Finding("database", "broken", f"{where}: {problem}", "Start it, or mend SOUNDBOX_DATABASE_URL.")
    finally:
        await database.close()
    if found != needed:
        return Finding("database", "broken", f"{where} is at {found or 'nothing'}, not {needed}", "soundbox migrate")
    return Finding("database", "fine", f"{where} at {found}")


async def _mosquitto(settings: Settings) -> Finding:
    path = None if settings.broker_engine == "embedded" else find_mosquitto()
    if path is None:
        return _without_mosquitto(settings)
    try:
        version = await mosquitto_version(path)
    except (OSError, ValueError) as problem:
        return Finding("Mosquitto", "broken", f"{path}: {problem}", "Install Mosquitto 2.")
    text = f"{path} {'.'.join(map(str, version))}"
    if version[0] != 2:
        return Finding("Mosquitto", "broken", text, "Install Mosquitto 2.0 or 2.1.")
    return Finding("Mosquitto", "fine", text)


def _without_mosquitto(settings: Settings) -> Finding:
    mend = "apt-get install mosquitto"
    if settings.broker_engine == "mosquitto" or not embedded.is_available():
        return Finding("Mosquitto", "broken", "not found", mend)
    if settings.broker_engine == "embedded":
        return Finding("Mosquitto", "note", "SOUNDBOX_BROKER_ENGINE asks for the embedded broker")
    return Finding("Mosquitto", "note", embedded.HONEST_LINE, mend)


async def _broker(settings: Settings) -> Finding:
    """Whether one answers. A login under the supervisor's name: the same question it asks all the time."""
    where = f"{settings.broker_host}:{settings.broker_port}"
    health = read_health(settings.home)
    supervised = health is not None and health.is_fresh(at_ms=clock.now_ms())
    if not await _answers(settings.broker_host, settings.broker_port):
        if supervised:
            last = f": {health.last_error}" if health and health.last_error else ""
            return Finding("broker", "broken", f"supervised, but silent at {where}{last}", "Look at its log.")
        return Finding("broker", "note", f"none runs at {where}", "soundbox broker, or soundbox up")
    if not supervised:
        mend = "Stop it, or choose with SOUNDBOX_BROKER_PORT."
        return Finding("broker", "note", f"{where} is taken by something this copy does not supervise", mend)
    password = hub_password(settings.master, SUPERVISOR_USER)
    try:
        accepted = await login(settings.broker_host, settings.broker_port, user=SUPERVISOR_USER, password=password)
    except OSError as problem:
        return Finding("broker", "broken", f"{where} does not speak MQTT: {problem}", "Look at its log.")
    if not accepted:
        return Finding("broker", "broken", f"{where} refuses the hub", "Restart soundbox broker with this master key.")
    return Finding("broker", "fine", f"answers at {where}")


async def _listener(about: str, host: str, port: int, setting: str) -> Finding:
    if await _answers(host, port):
        mend = f"If it is not ours: choose another with {setting}."
        return Finding(about, "note", f"something listens on {host}:{port}", mend)
    return Finding(about, "fine", f"{host}:{port} is free")


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(2.0):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _voice() -> Finding:
    """Only simulated boxes speak; the hub sends amounts, not sounds."""
    program = shutil.which("espeak-ng") or shutil.which("espeak")
    if program:
        return Finding("voice of simulated boxes", "fine", program)
    if importlib.util.find_spec("espeakng_loader"):
        return Finding("voice of simulated boxes", "fine", "espeak-ng from the package espeakng-loader")
    return Finding("voice of simulated boxes", "note", "no espeak-ng: boxes stay silent", "apt-get install espeak-ng")
