"""`soundbox doctor`: what would keep this copy from running, each finding with its mend."""

import asyncio
import importlib.util
import os
import resource
import shutil
import sqlite3
import ssl
import stat
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import asyncpg
from cryptography import x509
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from soundbox_server import clock, guard, migrate
from soundbox_server.broker import embedded
from soundbox_server.broker.health import PROVISIONING_FILE_NAME, read_health
from soundbox_server.broker.mosquitto import files_in, find_mosquitto, mosquitto_version
from soundbox_server.broker.probe import login
from soundbox_server.broker.provisioning import reached_at
from soundbox_server.broker.tls import development_authority
from soundbox_server.broker.users import SUPERVISOR_USER, hub_password
from soundbox_server.db import Database
from soundbox_server.gateways import profiles, routed
from soundbox_server.providers.profiles import Profile, provider_of
from soundbox_server.providers.service import stored_credentials
from soundbox_server.settings import Settings

Verdict = Literal["fine", "note", "broken"]
OLDEST_PYTHON = (3, 11)
FIRST_THAT_COUNTS = (2, 0, 12)
LAST_MONTH_DAYS, LAST_WEEK_DAYS = 30, 7
SPARE_FILES = 100  # the broker's own, and the hub's connections
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


async def examine(settings: Settings, *, production: bool = False) -> list[Finding]:
    """Everything, in the order in which it is worth mending. Changes nothing. With `production` also what a start in
    production refuses; otherwise that is one note."""
    return [
        _python(),
        _home(settings),
        _master_key(settings),
        await _database(settings),
        *await _for_production(settings, production=production),
        *await _providers(settings),
        await _mosquitto(settings),
        await _broker(settings),
        *await _tls(settings),
        *_provisioning(settings),
        *_open_files(settings),
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
        where = make_url(settings.database_url).render_as_string(hide_password=True)
    except ArgumentError as problem:
        return Finding("database", "broken", str(problem), "Mend SOUNDBOX_DATABASE_URL.")
    if _is_not_there_yet(settings):
        return Finding("database", "note", f"{where} is not there yet", "soundbox migrate (soundbox up does it itself)")
    database = Database(settings.database_url)
    try:
        found, needed = await migrate.current(database), migrate.newest()
    except (OSError, DBAPIError) as problem:
        return Finding("database", "broken", f"{where}: {problem}", "Start it, or mend SOUNDBOX_DATABASE_URL.")
    finally:
        await database.close()
    if found != needed:
        return Finding("database", "broken", f"{where} is at {found or 'nothing'}, not {needed}", "soundbox migrate")
    return Finding("database", "fine", f"{where} at {found}")


async def _for_production(settings: Settings, *, production: bool) -> list[Finding]:
    """The guard's own table, with its own mends."""
    problems = [*guard.problems(settings), *await _database_problems(settings)]
    if production:
        found = [Finding(problem.about, "broken", problem.what, problem.mend) for problem in problems]
        noted = [Finding(doubt.about, "note", doubt.what, doubt.mend) for doubt in guard.doubts(settings)]
        return (found or [Finding("production", "fine", "nothing stands against it")]) + noted
    if not problems:
        return []
    what = f"this is a development set-up: production would refuse {len(problems)} things in it"
    return [Finding("production", "note", what, "soundbox doctor --production lists them.")]


async def _database_problems(settings: Settings) -> list[guard.Problem]:
    """Of a database that can be read; of any other one `_database` tells."""
    try:
        if _is_not_there_yet(settings):
            return []
        database = Database(settings.database_url)
    except ArgumentError:
        return []
    try:
        return await guard.database_problems(database)
    except (OSError, DBAPIError, sqlite3.Error, asyncpg.PostgresError):
        return []
    finally:
        await database.close()


async def _providers(settings: Settings) -> list[Finding]:
    """Whether each provider that payments go to can be asked: nobody is."""
    try:
        known = profiles(settings)
    except ValueError as problem:
        return [Finding("providers", "broken", str(problem), "Mend the file.")]
    stored = await _stored_accounts(settings)
    return [
        await _provider(known.get(name), name, [one for one in stored if provider_of(one) == name])
        for name in sorted(routed(settings))
    ]


async def _provider(profile: Profile | None, name: str, stored: Sequence[str]) -> Finding:
    about = f"provider {name}"
    if name == "sandbox":
        return Finding(about, "note", "issues play money", "Name a real provider for production.")
    if profile is None:
        return Finding(about, "broken", "there is no such provider", "Mend SOUNDBOX_PROVIDER or its routes.")
    given = [one for one in profile.needs if profile.credentials.get(one)]
    missing = ", ".join(one for one in profile.needs if one not in given)
    if profile.configured:
        try:
            gateway = await asyncio.to_thread(profile.make, name, profile.credentials)
        except ValueError as problem:
            return Finding(about, "broken", str(problem), "Mend its keys in the settings.")
        await gateway.aclose()
        return Finding(about, "fine", f"{profile.base_url}, by the credentials in settings")
    if given:
        return Finding(about, "broken", f"settings lack its {missing}", "Complete them, or leave all of them out.")
    if name in stored:
        return Finding(about, "fine", f"{profile.base_url}, by credentials in the database")
    mend = f"Set them, or POST /admin/providers/{name}/credentials."
    if stored:
        what = f"{len(stored)} merchants have accounts of their own, the platform has none: it needs {missing}"
        return Finding(about, "note", what, mend)
    return Finding(about, "broken", f"it has no credentials: it needs {missing}", mend)


async def _stored_accounts(settings: Settings) -> list[str]:
    """Accounts in a database that can be read; of any other one `_database` tells."""
    try:
        if _is_not_there_yet(settings):
            return []
        database = Database(settings.database_url)
    except ArgumentError:
        return []
    try:
        return [one.account for one in await database.read(stored_credentials)]
    except (OSError, DBAPIError, sqlite3.Error, asyncpg.PostgresError):
        return []
    finally:
        await database.close()


def _is_not_there_yet(settings: Settings) -> bool:
    """Asked before it is opened: opening a SQLite database makes its folder."""
    url = make_url(settings.database_url)
    return url.get_backend_name() == "sqlite" and not settings.home.joinpath(str(url.database)).exists()


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
    if version < FIRST_THAT_COUNTS:
        what = f"{text} holds MQTT 3.1.1 boxes to no keepalive and stops counting connections after a while"
        return Finding("Mosquitto", "note", what, "2.0.12 or newer does both; rights and passwords are not affected.")
    return Finding("Mosquitto", "fine", text)


def _without_mosquitto(settings: Settings) -> Finding:
    mend = "apt-get install mosquitto"
    if settings.broker_engine == "mosquitto" or not embedded.is_available():
        return Finding("Mosquitto", "broken", "not found", mend)
    if settings.broker_engine == "embedded":
        return Finding("Mosquitto", "note", "SOUNDBOX_BROKER_ENGINE asks for the embedded broker")
    return Finding("Mosquitto", "note", embedded.honest_line(asked_for=False), mend)


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


async def _tls(settings: Settings) -> list[Finding]:
    """The certificate for boxes, and whether they would accept what is served."""
    if not settings.broker_tls_port:
        return []
    own = settings.broker_tls_certificate is None
    path = (
        files_in(settings.home).served if settings.broker_tls_certificate is None else settings.broker_tls_certificate
    )
    try:
        certificate = x509.load_pem_x509_certificate(await asyncio.to_thread(path.read_bytes))
    except FileNotFoundError:
        if own:
            return [Finding("certificate", "note", "there is none yet; soundbox broker makes it")]
        return [Finding("certificate", "broken", f"{path} is not there", "Mend SOUNDBOX_BROKER_TLS_CERTIFICATE.")]
    except (OSError, ValueError) as problem:
        return [Finding("certificate", "broken", f"{path}: {problem}", "Put a PEM certificate there.")]
    return [_life_of(certificate, path, own=own), await _handshake(settings)]


def _life_of(certificate: x509.Certificate, path: Path, *, own: bool) -> Finding:
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    what = f"{path} ends on {certificate.not_valid_after_utc:%Y-%m-%d}, in {days} days"
    mend = "soundbox broker renews it while it runs." if own else "Renew it; it is taken up without a restart."
    if days < 0:
        return Finding("certificate", "broken", f"{path} has ended", mend)
    if days <= LAST_WEEK_DAYS:
        return Finding("certificate", "broken", what, mend)
    if days <= LAST_MONTH_DAYS:
        return Finding("certificate", "note", what, mend)
    return Finding("certificate", "fine", what)


async def _handshake(settings: Settings) -> Finding:
    """As a box does it: to the name it is sent to, trusting what it was handed."""
    host, port = reached_at(settings.broker_tls_host), settings.broker_tls_port
    where = f"{host}:{port}"
    if not await _answers(host, port):
        return Finding("TLS listener", "note", f"none runs at {where}", "soundbox broker, or soundbox up")
    try:
        async with asyncio.timeout(3.0):
            _, writer = await asyncio.open_connection(
                host, port, ssl=_as_a_box(settings), server_hostname=settings.broker_public_host
            )
    except (OSError, ssl.SSLError) as problem:
        what = f"a box sent to {settings.broker_public_host} would not accept {where}: {problem}"
        mend = "The certificate must name SOUNDBOX_BROKER_PUBLIC_HOST, and boxes must trust who signed it."
        return Finding("TLS listener", "broken", what, mend)
    spoken = writer.get_extra_info("ssl_object").version()
    writer.close()
    return Finding("TLS listener", "fine", f"{where} speaks {spoken} as {settings.broker_public_host}")


def _as_a_box(settings: Settings) -> ssl.SSLContext:
    if settings.broker_tls_certificate is None:
        return ssl.create_default_context(cadata=development_authority(settings.home))  # it exists: it has signed
    return ssl.create_default_context(cafile=settings.broker_tls_ca)


def _provisioning(settings: Settings) -> list[Finding]:
    """The second broker, as its supervisor sees it."""
    if not settings.broker_provision_port:
        return []
    health = read_health(settings.home, file_name=PROVISIONING_FILE_NAME)
    if health is None or not health.is_fresh(at_ms=clock.now_ms()):
        return [Finding("provisioning", "note", "no broker for boxes without a name runs", "soundbox broker")]
    if not health.answering:
        last = health.last_error or "it does not answer"
        return [Finding("provisioning", "broken", f"port {health.port}: {last}", "Look at the broker's log.")]
    return [Finding("provisioning", "fine", f"answers at {health.host}:{health.port}")]


def _open_files(settings: Settings) -> list[Finding]:
    """Each connection is an open file, and the hard limit is not ours to raise."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.broker_connections + SPARE_FILES
    if not settings.broker_tls_port or hard == resource.RLIM_INFINITY or hard >= needed:
        return []
    what = f"this user may open {hard} files, and {settings.broker_connections} boxes need {needed}"
    return [
        Finding("open files", "note", what, "Raise the limit (LimitNOFILE=), or lower SOUNDBOX_BROKER_CONNECTIONS.")
    ]


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
