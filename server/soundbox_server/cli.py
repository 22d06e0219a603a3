"""`soundbox`: every process of the platform, and what its operators do by hand.

What a command needs is imported inside it, so that `soundbox version` answers at once.
"""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from soundbox_server.db import Database
    from soundbox_server.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
qris = typer.Typer(no_args_is_help=True, help="Read and write QRIS payloads.")
app.add_typer(qris, name="qris")

GRACE_S = 25  # what a request may still take after SIGTERM
MARKS = ("<!-- settings: made by `soundbox settings --write README.md` -->", "<!-- end of settings -->")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


class Refused(Exception):
    """Something the operator can mend; the message is the line to show."""


def main() -> None:
    """The console script. What was to be expected ends with one line on stderr and exit code 1."""
    from soundbox_server.errors import SoundboxError

    try:
        app()
    except (Refused, SoundboxError) as problem:
        _give_up(str(problem))


# Running


@app.command()
def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: forget what this home holds.")] = False,
    demo: Annotated[bool, typer.Option(help="A small world with simulated boxes and payments.")] = True,
    pay_every: Annotated[float, typer.Option(min=0.2, help="Seconds between two payments.")] = 6.0,
    boxes: Annotated[int, typer.Option(min=0, help="How many simulated boxes.")] = 3,
    sound: Annotated[bool, typer.Option(help="Play announcements where there is a sound device.")] = True,
) -> None:
    """Start everything on this machine and show what happens. Ctrl-C ends it all."""
    from soundbox_server.up import Options, UpRefused, run

    settings = _settings(with_keys=True)
    demo = demo and settings.environment == "development"
    options = Options(fresh=fresh, demo=demo, pay_every_s=pay_every, boxes=boxes, sound=sound)
    try:
        run(settings, options)
    except UpRefused as problem:
        raise Refused(str(problem)) from problem


@app.command()
def api() -> None:
    """Serve the HTTP API: callbacks, boxes, operators."""
    import uvicorn

    from soundbox_server.app import create_app

    settings = _settings(with_keys=True)
    _configure_logs(settings, "api")
    asyncio.run(_require_migrated(settings))
    config = uvicorn.Config(
        lambda: create_app(settings),
        factory=True,
        http="httptools",
        access_log=False,  # the app logs what matters, with its request id
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    with _listening(settings.http_host, settings.http_port, "SOUNDBOX_HTTP_PORT") as door:
        _end_well_when_told()
        server.run(sockets=[door])
    if not server.started:
        _give_up("The API could not start; the log above says why.")


@app.command()
def worker() -> None:
    """Serve one broker shard: take in what boxes say, repeat what nobody acknowledged."""
    import uvloop

    from soundbox_server import worker as process

    settings = _settings(with_keys=True)
    _configure_logs(settings, "worker")
    asyncio.run(_require_migrated(settings))
    _require_free(settings.worker_host, settings.worker_port, "SOUNDBOX_WORKER_PORT")
    uvloop.run(process.run(settings))


@app.command()
def broker() -> None:
    """Run the MQTT broker with exactly the devices that the database knows."""
    from soundbox_server.broker.engine import BrokerStartError

    settings = _settings(with_keys=True)
    _configure_logs(settings, "broker")
    try:
        asyncio.run(_run_broker(settings))
    except BrokerStartError as problem:
        raise Refused(f"{problem} (SOUNDBOX_BROKER_HOST, SOUNDBOX_BROKER_PORT)") from problem


@app.command()
def sandbox() -> None:
    """Run the acquirer simulator, which issues QRs and pays them."""
    from soundbox_server.sandbox.app import run

    settings = _settings(with_keys=True)
    if settings.environment == "production":
        raise Refused("The sandbox issues play money and does not run in production.")
    _configure_logs(settings, "sandbox")
    _require_free(settings.sandbox_host, settings.sandbox_port, "SOUNDBOX_SANDBOX_PORT")
    settings.home.mkdir(parents=True, exist_ok=True)
    _end_well_when_told()
    run(
        host=settings.sandbox_host,
        port=settings.sandbox_port,
        database=settings.home / "sandbox.db",
        api_key=settings.sandbox_api_key,
        secrets=settings.secrets_of("sandbox"),
        auto_pay_after_ms=settings.sandbox_auto_pay_ms or None,
    )


# Preparing and looking after


@app.command()
def migrate() -> None:
    """Bring the database to the form this version needs. Safe to repeat."""
    settings = _settings()

    async def upgrade() -> None:
        from soundbox_server import migrate as migrations

        async with _database(settings) as database:
            await migrations.upgrade(database)
            typer.echo(f"The database is at {await migrations.current(database)}.")

    asyncio.run(upgrade())


@app.command()
def seed(
    demo: Annotated[bool, typer.Option("--demo", help="Plant the small world that docs and demos speak of.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill the database for trying things out. Planting again changes nothing."""
    settings = _settings()
    if settings.environment == "production":
        raise Refused("The demo seed has known passwords and is refused in production.")
    if not demo:
        raise Refused("There is one seed, and it is asked for by name: soundbox seed --demo")
    world = asyncio.run(_plant(settings))
    typer.echo(json.dumps(world, indent=2) if as_json else "\n".join(_told(world)))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look for what would keep the platform from running, and say how to mend it."""
    from soundbox_server.doctor import examine, worst

    findings = asyncio.run(examine(_settings()))
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(finding.line())
    if worst(findings) == "broken":
        raise typer.Exit(1)


@app.command()
def openapi() -> None:
    """Print the HTTP API's OpenAPI document."""
    from tempfile import TemporaryDirectory

    from soundbox_server.app import create_app
    from soundbox_server.settings import Settings

    # A home of its own: the document is the same everywhere, and asking for it leaves nothing behind.
    with TemporaryDirectory() as home:
        document = create_app(Settings(home=Path(home), environment="development")).openapi()
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@app.command()
def settings(
    check: Annotated[Path | None, typer.Option(help="Compare with the table in this file.")] = None,
    write: Annotated[Path | None, typer.Option(help="Put the table into this file.")] = None,
) -> None:
    """Print every setting as a Markdown table."""
    table = settings_table()
    if write is not None:
        write.write_text(_with_table(write, table))
    elif check is None:
        typer.echo(table)
    elif _with_table(check, table) != check.read_text():
        raise Refused(f"{check} shows other settings than the code has: soundbox settings --write {check}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(metadata.version("qris-soundbox"))


# QRIS


@qris.command()
def decode(
    payload: Annotated[str, typer.Argument(help="The text in the QR; - reads it from standard input.")],
    as_json: AsJson = False,
) -> None:
    """Read a QRIS and name the rules it breaks."""
    from soundbox_server.payments.qris import report

    found = report(_given(payload))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo(f"valid: {_yes(found['valid'])}   keeps all QRIS rules: {_yes(found['strict_qris_ok'])}")
    for violation in _list(found["violations"]):
        typer.echo(f"broken rule: {violation}")
    for name, value in _object(found["decoded"]).items():
        if value is not None and value != []:
            typer.echo(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


@qris.command()
def encode(
    fields: Annotated[str, typer.Argument(help="JSON with the keys that decode prints; - reads standard input.")],
    as_json: AsJson = False,
) -> None:
    """Write a QRIS that keeps all rules."""
    from soundbox_server.payments.qris import encode_fields, report

    try:
        asked = json.loads(_given(fields))
    except json.JSONDecodeError as problem:
        raise Refused(f"The fields are not JSON: {problem}") from problem
    if not isinstance(asked, dict):
        raise Refused("The fields are one JSON object.")
    payload = encode_fields(asked.get("decoded", asked))  # so that what decode printed can be written again
    typer.echo(json.dumps({"payload": payload, **report(payload)}, indent=2) if as_json else payload)


# Beneath


def _settings(*, with_keys: bool = False) -> "Settings":
    """The settings of the environment; `with_keys` for processes, which cannot run with a broken master key."""
    try:
        from pydantic import ValidationError

        from soundbox_server.settings import Settings

        found = Settings()
        if with_keys:
            _ = found.master
        return found
    except ValidationError as problem:
        raise Refused("\n".join(_setting_problem(error) for error in problem.errors())) from problem
    except (ValueError, OSError) as problem:  # not even readable as what it should be, or no home to keep a key in
        raise Refused(str(problem)) from problem


def _setting_problem(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    return f"SOUNDBOX_{str(error['loc'][0]).upper()}: {message}"  # without the value: it may be a secret


def _configure_logs(settings: "Settings", process: str) -> None:
    from soundbox_server import logs

    logs.configure(process=process, form=settings.log_format, level=settings.log_level)


@contextlib.asynccontextmanager
async def _database(settings: "Settings") -> AsyncIterator["Database"]:
    """Open for the length of one command; what a database says when it is away or wrong becomes one line."""
    from sqlalchemy.exc import ArgumentError, DBAPIError

    from soundbox_server.db import Database

    try:
        database = Database(settings.database_url)
    except ArgumentError as problem:
        raise Refused(f"SOUNDBOX_DATABASE_URL cannot be read: {problem}") from problem
    try:
        yield database
    except (OSError, DBAPIError) as problem:
        where = database.url.render_as_string(hide_password=True)
        raise Refused(f"The database {where} cannot be used: {_first_line(problem)}") from problem
    finally:
        await database.close()


async def _require_migrated(settings: "Settings") -> None:
    from soundbox_server import migrate as migrations

    async with _database(settings) as database:
        found = await migrations.current(database)
    if found != migrations.newest():
        needed = migrations.newest()
        raise Refused(f"The database is at {found or 'nothing'}, this version needs {needed}: run `soundbox migrate`.")


async def _plant(settings: "Settings") -> dict[str, Any]:
    from soundbox_server import clock, seed

    await _require_migrated(settings)
    async with _database(settings) as database:
        return dict(await seed.plant(database, settings, now_ms=clock.now_ms()))


async def _run_broker(settings: "Settings") -> None:
    from soundbox_server.broker import embedded, supervisor
    from soundbox_server.broker.mosquitto import find_mosquitto
    from soundbox_server.broker.report import report_until

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    mosquitto = find_mosquitto() if settings.broker_engine != "embedded" else None
    where = {"home": settings.home, "host": settings.broker_host, "port": settings.broker_port, "stop": stop}
    if mosquitto is None:
        if settings.broker_engine == "mosquitto":
            raise Refused("Mosquitto is not on PATH, and SOUNDBOX_BROKER_ENGINE asks for it. Install mosquitto.")
        await embedded.supervise(**where)  # type: ignore[arg-type]
        return
    async with _database(settings) as database:
        reporting = asyncio.create_task(report_until(stop, database, settings.home, shard=settings.broker_shard))
        try:
            await supervisor.supervise(
                **where,  # type: ignore[arg-type]
                mosquitto=mosquitto,
                load_users=lambda: _ask_devices(database, "broker_users"),
                revision=lambda: _ask_devices(database, "credential_revision"),
                master_key=settings.master,
            )
        finally:
            stop.set()
            await reporting


async def _ask_devices(database: "Database", question: str) -> Any:
    from soundbox_server.db import reading, statements
    from soundbox_server.devices import service

    async with reading(database) as session:
        return await getattr(service, question)(await statements(session))


@contextlib.contextmanager
def _listening(host: str, port: int, setting: str) -> Any:
    """A listening socket, made here and not by uvicorn: its message about a busy port is a log line among others."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
            door.listen(2048)  # a burst of callbacks waits here; it is not refused
        except OSError as problem:
            why = f"Port {port} on {host} cannot be used: {problem.strerror}. Choose another with {setting}."
            raise Refused(why) from problem
        yield door


def _require_free(host: str, port: int, setting: str) -> None:
    with _listening(host, port, setting):
        pass


def _end_well_when_told() -> None:
    """Being told to end is no failure. uvicorn raises the signal it got once more when it has shut down."""

    def leave(_number: int, _frame: object) -> NoReturn:
        sys.exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def settings_table() -> str:
    """Every setting: its variable, default, meaning, and what the references call it."""
    from soundbox_server.settings import Settings

    rows = ["| variable | default | meaning | in the references |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        cells = (_shown(field.default), field.description or "", str(extra.get("references", "")))
        rows.append(" | ".join((f"| `SOUNDBOX_{name.upper()}`", *(cell.replace("|", "\\|") for cell in cells))) + " |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    """Only what is typed to set it: nothing for what is worked out when it is not set."""
    text = "" if default is None or default == {} else str(default)
    return f"`{text}`" if text.strip("*") else ""


def _with_table(path: Path, table: str) -> str:
    head, opening, rest = path.read_text().partition(MARKS[0])
    _, closing, tail = rest.partition(MARKS[1])
    if not (opening and closing):
        raise Refused(f"{path} has no place for the table: a line {MARKS[0]} and a line {MARKS[1]}")
    return f"{head}{opening}\n\n{table}\n\n{closing}{tail}"


def _told(world: dict[str, Any]) -> list[str]:
    lines = [f"login   {user['email']}  {user['password']}  ({user['role']})" for user in world["users"]]
    for device in world["devices"]:
        code = device["activation_code"] or "activated already"
        lines.append(f"device  {device['device_id']}  serial {device['serial_number']}  code {code}")
    return [*lines, *(f"terminal {terminal['id']}" for terminal in world["terminals"])]


def _given(text: str) -> str:
    """The argument itself, or standard input for `-`, without the line end that shells add."""
    return sys.stdin.read().rstrip("\r\n") if text == "-" else text


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first_line(problem: BaseException) -> str:
    cause = getattr(problem, "orig", None) or problem
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def _give_up(message: str) -> NoReturn:
    typer.echo(f"soundbox: {message}", err=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
