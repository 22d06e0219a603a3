"""`soundbox`: every process of the platform, and what its operators do by hand.

What a command needs is imported inside it, so that `soundbox version` answers at once.
"""

import asyncio
import contextlib
import gc
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
    from soundbox_server.resealing import Resealed
    from soundbox_server.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
qris = typer.Typer(no_args_is_help=True, help="Read and write QRIS payloads.")
app.add_typer(qris, name="qris")
audit = typer.Typer(no_args_is_help=True, help="Prove that the audit log is whole.")
app.add_typer(audit, name="audit")
revenue = typer.Typer(no_args_is_help=True, help="What each till took on each day: compare and rebuild.")
app.add_typer(revenue, name="revenue")
ledger = typer.Typer(no_args_is_help=True, help="The books, against what the payments say.")
app.add_typer(ledger, name="ledger")
keys = typer.Typer(no_args_is_help=True, help="The keys that seal secrets in the database.")
app.add_typer(keys, name="keys")
scoring = typer.Typer(help="Score a merchant's trade from a file, and prove the scores that are stored.")
app.add_typer(scoring, name="score")

GRACE_S = 25  # what a request may still take after SIGTERM
MARKS = ("<!-- settings: made by `soundbox settings --write README.md` -->", "<!-- end of settings -->")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


class Refused(Exception):
    """Something the operator can mend; the message is the line to show."""


def main() -> None:
    """The console script. What was to be expected ends with one line on stderr and exit code 1."""
    # Importing makes a million objects that stay, and the payment path many short-lived ones and hardly a cycle: the
    # collector's usual rounds are a seventh of each start.
    gc.set_threshold(20_000, 20, 20)

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
    trade: Annotated[bool, typer.Option("--trade/--no-trade", help="Three shops with half a year's trade.")] = False,
) -> None:
    """Start everything on this machine and show what happens. Ctrl-C ends it all."""
    from soundbox_server.up import Options, UpRefused, run

    settings = _settings(with_keys=True)
    demo = demo and settings.environment == "development"
    options = Options(fresh=fresh, demo=demo, pay_every_s=pay_every, boxes=boxes, sound=sound, trade=trade)
    try:
        run(settings, options)
    except UpRefused as problem:
        raise Refused(str(problem)) from problem


@app.command()
def api() -> None:
    """Serve the HTTP API: callbacks, boxes, operators."""
    import uvicorn

    from soundbox_server.app import create_app, end_streams
    from soundbox_server.gathering import GatheredHttp

    settings = _settings(with_keys=True)
    _configure_logs(settings, "api")
    asyncio.run(_require_migrated(settings))
    api_app = create_app(settings, own_process=True)
    config = uvicorn.Config(
        api_app,
        http=GatheredHttp,
        access_log=False,  # the app logs what matters, with its request id
        log_config=None,
        proxy_headers=False,  # uvicorn would believe whoever connects from this machine; SOUNDBOX_TRUSTED_PROXIES says
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            end_streams(api_app)
            super().handle_exit(sig, frame)

    server = Server(config)
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
        raise Refused(f"{problem} (SOUNDBOX_BROKER_HOST, SOUNDBOX_BROKER_PORT, SOUNDBOX_BROKER_TLS_PORT)") from problem


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
def pay(
    terminal: Annotated[str, typer.Argument(help="The terminal that a static QR of the sandbox hangs at.")],
    amount: Annotated[int, typer.Argument(min=1, help="What the customer pays, in rupiah.")],
) -> None:
    """Pay by a terminal's static QR as the simulated customer, with the sandbox's play money."""
    settings = _settings(with_keys=True)
    if settings.environment == "production":
        raise Refused("The sandbox's customers pay with play money, and nowhere in production.")
    asyncio.run(_pay(settings, terminal, amount))
    typer.echo(f"Paid Rp{amount:,} by the static QR of {terminal}.".replace(",", "."))


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
    trade: Annotated[
        bool, typer.Option("--trade", help="With --demo: three merchants with half a year's trade, and three banks.")
    ] = False,
    number: Annotated[int, typer.Option("--seed", help="With --trade: another number is other trade.")] = 2026,
    fleet: Annotated[int, typer.Option(min=0, help="So many boxes in service, for soundbox-sim fleet.")] = 0,
    roster: Annotated[Path, typer.Option(help="Where the fleet's roster goes.")] = Path("fleet.json"),
    as_json: AsJson = False,
) -> None:
    """Fill the database for trying things out. Planting the demo again changes nothing; a fleet is activated anew."""
    settings = _settings(with_keys=bool(fleet) or trade)
    if settings.environment == "production":
        raise Refused("The demo seed has known passwords and is refused in production.")
    if fleet:
        asyncio.run(_plant_fleet(settings, boxes=fleet, roster=roster))
        typer.echo(f"{fleet} boxes are in service. Run them: soundbox-sim fleet --roster {roster}")
        return
    if not demo:
        raise Refused("A seed is asked for by name: soundbox seed --demo, or --fleet and how many boxes")
    world = asyncio.run(_plant(settings, trade=number if trade else None))
    typer.echo(json.dumps(world, indent=2) if as_json else "\n".join(_told(world)))


@app.command("create-admin")
def create_admin(
    email: Annotated[str, typer.Option(help="Their e-mail address, which they log in with.")],
    name: Annotated[str, typer.Option(help="Their name.")],
    link: Annotated[
        bool, typer.Option("--link", help="Print a one-time link; its token also fits POST /admin/reset-password.")
    ] = False,
) -> None:
    """Let somebody in who can let in all others. The password is asked for, or read from standard input."""
    settings = _settings(with_keys=True)
    told = asyncio.run(_create_admin(settings, email=email, name=name, password=None if link else _asked_password()))
    typer.echo(told or f"{email} can log in now.")


@app.command()
def doctor(
    as_json: AsJson = False,
    production: Annotated[bool, typer.Option(help="Look as production would, whatever the environment is.")] = False,
) -> None:
    """Look for what would keep the platform from running, and say how to mend it."""
    from soundbox_server.doctor import examine, worst

    settings = _settings()
    findings = asyncio.run(examine(settings, production=production or settings.environment == "production"))
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(finding.line())
    if worst(findings) == "broken":
        raise typer.Exit(1)


@app.command("make-certs")
def make_certs(
    folder: Annotated[Path, typer.Argument(help="Where the authority is, or is to be.")],
    names: Annotated[list[str], typer.Argument(help="Host names and addresses that boxes are sent to.")],
) -> None:
    """Sign a certificate for a broker with an authority of your own, which is made at the first call."""
    from datetime import UTC, datetime

    from soundbox_server.broker.certificates import authority_pem, issue
    from soundbox_server.broker.mosquitto import write_atomically

    now = datetime.now(UTC)
    pair = issue(folder, names=names, now=now)
    key, opening, chain = pair.pem.partition("-----BEGIN CERTIFICATE-----")
    made = {"broker.key": key, "broker.crt": opening + chain, "ca.pem": authority_pem(folder, now=now)}
    for name, text in made.items():
        write_atomically(folder / name, text)
    typer.echo(f"SOUNDBOX_BROKER_TLS_CERTIFICATE={(folder / 'broker.crt').absolute()}")
    typer.echo(f"SOUNDBOX_BROKER_TLS_KEY={(folder / 'broker.key').absolute()}")
    typer.echo(f"SOUNDBOX_BROKER_TLS_CA={(folder / 'ca.pem').absolute()}")
    typer.echo(f"Good until {pair.ends_at:%Y-%m-%d}. Keep {folder / 'authority.pem'} where no broker is.", err=True)


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


# The audit log


@audit.command()
def verify(
    expect: Annotated[
        str, typer.Option(help="position:hash of a head kept elsewhere (the log line audit.linked): it must be there.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Work through the hash chain; name the first broken link and what is not linked. Exit code 1 when it is broken."""
    found = asyncio.run(_verify_audit_log(_settings(), expect))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo("\n".join(_audit_told(found)))
    if not found["whole"]:
        raise typer.Exit(1)


# Revenue


@revenue.command("check")
def check_revenue(as_json: AsJson = False) -> None:
    """Compare what is kept of each day with what the payments say. Exit code 1 when anything differs."""
    found = asyncio.run(_check_revenue(_settings()))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo("\n".join(map(_difference_told, found)) or "Every day is as the payments say.")
    if found:
        raise typer.Exit(1)


@revenue.command("rebuild")
def rebuild_revenue() -> None:
    """Sum all days up again from the payments. Payments that come meanwhile wait for it."""
    typer.echo(f"Rebuilt: {asyncio.run(_rebuild_revenue(_settings()))} days of tills.")


@ledger.command("check")
def check_ledger(as_json: AsJson = False) -> None:
    """Compare every account with what payments, refunds and providers say. Exit code 1 when anything is wrong."""
    found = asyncio.run(_check_ledger(_settings()))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo("\n".join(map(_finding_told, found)) or "The books are as the payments say.")
    if found:
        raise typer.Exit(1)


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


# Scores


@scoring.callback(invoke_without_command=True)
def score(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="soundbox-v2 or paybaba-v1.")] = "soundbox-v2",
    as_of: Annotated[str, typer.Option(help="RFC 3339 time; default: the file's as_of.")] = "",
    timezone: Annotated[
        str, typer.Option(help="Whose days and months paybaba-v1 counts; soundbox-v2 counts Jakarta's in any case.")
    ] = "",
    file: Annotated[str, typer.Option(help="JSON file with the facts; - reads standard input.")] = "-",
    as_json: AsJson = False,
) -> None:
    """Score a merchant from a file with its transactions, daily revenue and earlier scores."""
    if context.invoked_subcommand is not None:
        return
    told = _assessed(file, model=model, as_of=as_of, timezone=timezone)
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else "\n".join(_score_told(told)))


@scoring.command("check")
def check_scores(as_json: AsJson = False) -> None:
    """Compute every stored score again from the inputs stored with it; exit 1 where one differs."""
    found = asyncio.run(_check_scores(_settings()))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for one in found["differences"]:
            typer.echo(f"{one['id']} {one['merchant_id']}: {one['stored']} stored, {one['computed']} computed again")
        typer.echo(f"{found['scores']} scores computed again, {len(found['differences'])} differ")
    if found["differences"]:
        raise typer.Exit(1)


@scoring.command("backtest")
def backtest_scores(
    merchants: Annotated[int, typer.Option(min=10, max=2_000, help="How many made-up shops.")] = 200,
    number: Annotated[int, typer.Option("--seed", help="Another number is another world.")] = 1,
    every_days: Annotated[int, typer.Option(min=1, max=28, help="How often everybody is scored.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Whether scores and warnings foresee who defaults, in a world of made-up shops. It takes minutes, and a database
    of its own."""
    from soundbox_server.synthetic import backtest, report, world

    shops = world.population(merchants=merchants, seed=number, every_days=every_days)
    found = asyncio.run(backtest.run_aside(shops))
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(report.told(found)))


# Keys


@keys.command("new")
def new_key() -> None:
    """Print a fresh key, for SOUNDBOX_MASTER_KEY or the front of SOUNDBOX_SEALING_KEYS. Nothing is changed."""
    from soundbox_server import seal

    typer.echo(seal.new_key())


@keys.command("status")
def keys_status(as_json: AsJson = False) -> None:
    """Show which keys are in the ring, and how many secrets of each table are under which."""
    settings = _settings(with_keys=True)
    counts = asyncio.run(_count_sealed(settings))
    ring = settings.sealing_ring.key_ids
    if as_json:
        typer.echo(json.dumps({"newest": ring[0], "ring": ring, "sealed": counts}, indent=2))
        return
    typer.echo(f"seals: {ring[0]}   opens: {' '.join(ring)}")
    for column, of_column in counts.items():
        for key, count in sorted(of_column.items()):
            told = "" if key in ring else "   NOT IN THE RING: these stay closed"
            typer.echo(f"{column}: {count} under {key}{told}")


@keys.command("rotate")
def rotate_keys() -> None:
    """Bring every sealed secret under the newest key. Safe beside a running product, and safe to repeat."""
    settings = _settings(with_keys=True)
    done = asyncio.run(_reseal(settings))
    for column in done:
        typer.echo(f"{column.column}: {column.rows} resealed under {settings.sealing_ring.key_ids[0]}")
    if unreadable := [f"{column.column} of {row}" for column in done for row in column.unreadable]:
        why = "no key of the ring opens these; put the key back that sealed them"
        raise Refused("\n".join((f"{why}:", *unreadable)))


# Beneath


def _settings(*, with_keys: bool = False) -> "Settings":
    """The settings of the environment; `with_keys` for processes, which cannot run with a broken master key."""
    try:
        from pydantic import ValidationError

        from soundbox_server.guard import UnsafeForProduction, refuse_unsafe
        from soundbox_server.settings import Settings

        found = Settings()
        if with_keys:
            refuse_unsafe(found)
            _ = found.sealing_ring  # the master key is in it
        return found
    except ValidationError as problem:
        raise Refused("\n".join(_setting_problem(error) for error in problem.errors())) from problem
    except (
        ValueError,
        OSError,
        UnsafeForProduction,
    ) as problem:  # not even readable as what it should be, or no home to keep a key in
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
    from soundbox_server import guard
    from soundbox_server import migrate as migrations

    async with _database(settings) as database:
        found = await migrations.current(database)
        if found != (needed := migrations.newest()):
            raise Refused(
                f"The database is at {found or 'nothing'}, this version needs {needed}: run `soundbox migrate`."
            )
        try:
            await guard.refuse_unsafe_database(settings, database)
        except guard.UnsafeForProduction as problem:
            raise Refused(str(problem)) from problem


async def _plant(settings: "Settings", *, trade: int | None) -> dict[str, Any]:
    """The demo world; with a number, trade that is made of it."""
    from soundbox_server import clock, seed
    from soundbox_server.synthetic import demo

    await _require_migrated(settings)
    async with _database(settings) as database:
        now_ms = clock.now_ms()
        world = await seed.plant(database, settings, now_ms=now_ms)
        if trade is None:
            return world
        planted = await demo.plant(database, settings, now_ms=now_ms, seed=trade)
    return world | {"users": [*world["users"], *planted["users"]], "shops": planted["shops"]}


async def _plant_fleet(settings: "Settings", *, boxes: int, roster: Path) -> None:
    from soundbox_server import clock, fleet_seed
    from soundbox_server.broker.mosquitto import write_atomically

    await _require_migrated(settings)
    async with _database(settings) as database:
        planted = await fleet_seed.plant(database, settings, boxes=boxes, now_ms=clock.now_ms())
    write_atomically(roster, json.dumps(planted, indent=1))


def _asked_password() -> str:
    """Typed twice and not shown, or one line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")


async def _create_admin(settings: "Settings", *, email: str, name: str, password: str | None) -> str | None:
    """The one-time link when there is no password."""
    from soundbox_server import clock, parts
    from soundbox_server.access import people
    from soundbox_server.access.passwords import require_strong

    await _require_migrated(settings)
    hashed = None
    if password is not None:
        require_strong(password, email=email, name=name)
        hashed = parts.passwords(settings).hash(password)
    desk = parts.mail_desk(settings, owner=parts.owner_name("cli"))
    address, shown = people.readable_address(email), people.readable_name(name)
    async with _database(settings) as database:
        return await database.write(
            lambda tx: people.create_administrator(
                tx, email=address, name=shown, hashed=hashed, desk=desk, now_ms=clock.now_ms()
            )
        )


async def _check_revenue(settings: "Settings") -> list[dict[str, Any]]:
    from soundbox_server.revenue.service import SUMS, differences

    await _require_migrated(settings)
    async with _database(settings) as database:
        found = await database.write_at_leisure(differences)
    return [{name: row[name] for name in ("day", "terminal_id", "provider", "merchant_id", *SUMS)} for row in found]


def _difference_told(found: dict[str, Any]) -> str:
    sums = ", ".join(f"{name} {value:+}" for name, value in found.items() if isinstance(value, int) and value)
    return f"{found['day']} {found['terminal_id']} {found['provider']}: kept less said is {sums}"


async def _check_ledger(settings: "Settings") -> list[dict[str, Any]]:
    from dataclasses import asdict

    from soundbox_server.reconciliation.books import check

    await _require_migrated(settings)
    async with _database(settings) as database:
        return [asdict(finding) for finding in await database.read_at_leisure(check)]


def _finding_told(found: dict[str, Any]) -> str:
    held = f"{found['booked']} {found['unit']} booked, {found['expected']} expected"
    return f"{found['check']} {found['subject']}: {held}"


def _assessed(file: str, *, model: str, as_of: str, timezone: str) -> dict[str, Any]:
    """Raises Refused with everything that is wrong with what was asked."""
    from pydantic import TypeAdapter, ValidationError

    from soundbox_server.fields import Moment
    from soundbox_server.scoring.assessing import assess
    from soundbox_server.scoring.facts import TimeZone, Trade
    from soundbox_server.scoring.state import Model

    if model not in list(Model):
        raise Refused(f"There is no model {model}: {', '.join(Model)}.")
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as problem:
        raise Refused(f"{file} cannot be read: {problem.strerror}.") from problem
    try:
        trade = Trade.model_validate_json(text)
        zone = TypeAdapter[str](TimeZone).validate_python(timezone) if timezone else None
        as_of_ms = TypeAdapter[int](Moment).validate_python(as_of) if as_of else trade.as_of
    except ValidationError as problem:
        told = (f"{'.'.join(map(str, one['loc'])) or 'the facts'}: {one['msg']}" for one in problem.errors()[:10])
        raise Refused("The facts are not right. " + "; ".join(told)) from problem
    if as_of_ms is None:
        raise Refused("Say as of when: --as-of, or as_of in the file.")
    return assess(trade, Model(model), as_of_ms=as_of_ms, timezone=zone)


def _score_told(told: dict[str, Any]) -> list[str]:
    if told["score"] is None:
        missing = (f"{name} {one['have']} of {one['need']}" for name, one in told["not_enough_history"].items())
        return [f"{told['model']}: not enough history ({', '.join(missing)})"]
    lines = [f"{told['model']}: {told['score']}, {told['risk_band']} risk, limits {told['limits']}"]
    lines += [f"{one['component']:<12} {one['points']:>3}  {one['value']['en']}" for one in told["explanation"]]
    return lines + [f"warning: {one['type']} {one['value']} ({one['severity']})" for one in told["alerts"]]


async def _check_scores(settings: "Settings") -> dict[str, Any]:
    from soundbox_server.scoring.service import compute_again

    await _require_migrated(settings)
    async with _database(settings) as database:
        return await database.read_at_leisure(compute_again)


async def _rebuild_revenue(settings: "Settings") -> int:
    from soundbox_server.revenue.service import rebuild

    await _require_migrated(settings)
    async with _database(settings) as database:
        return await database.write_at_leisure(rebuild)


async def _verify_audit_log(settings: "Settings", expect: str) -> dict[str, Any]:
    from soundbox_server.audit import chain
    from soundbox_server.db import reading, statements

    kept = _kept_head(expect)
    await _require_migrated(settings)
    async with _database(settings) as database:
        head, links, seen = chain.START, 0, kept is None
        while True:
            async with reading(database) as session:
                stretch = await chain.verify(await statements(session), head)
            head, links = stretch.head, links + stretch.links
            if kept is not None and not seen and stretch.links and head.position >= kept.position:
                seen = await _has_link(database, kept)
            if stretch.broken or not stretch.links:
                break
        async with reading(database) as session:
            tail = await chain.tail(await statements(session))
    broken = stretch.broken
    return {
        "whole": broken is None and seen and tail.hidden == 0,
        "links": links,
        "head": {"position": head.position, "hash": head.hash},
        "broken": None if broken is None else {"position": broken.position, "entry_id": broken.entry_id,
                                               "why": broken.why},
        "expected_head_found": None if kept is None else seen,
        "waiting": tail.waiting,
        "hidden": tail.hidden,
    }  # fmt: skip


async def _has_link(database: "Database", head: Any) -> bool:
    from soundbox_server.db import reading, statements

    async with reading(database) as session:
        tx = await statements(session)
        found = await tx.fetch("SELECT hash FROM audit_link WHERE position = $1", head.position)
    return bool(found) and found[0]["hash"] == head.hash


def _kept_head(text: str) -> Any:
    from soundbox_server.audit.chain import Head

    if not text:
        return None
    position, _, kept = text.partition(":")
    if not position.isdigit() or len(kept) != 64:
        raise Refused("--expect wants position:hash, as the log line audit.linked shows them.")
    return Head(position=int(position), hash=kept.lower())


def _audit_told(found: dict[str, Any]) -> list[str]:
    head = found["head"]
    lines = [f"{found['links']} links hold; head {head['position']}:{head['hash']}"]
    if broken := found["broken"]:
        lines.append(f"BROKEN at link {broken['position']} (entry {broken['entry_id']}): {broken['why']}")
    if found["expected_head_found"] is False:
        lines.append("BROKEN: the expected head is not in the chain; its end was cut off or written anew")
    if found["hidden"]:
        lines.append(f"BROKEN: {found['hidden']} entries are neither linked nor waiting to be")
    return [*lines, f"{found['waiting']} entries wait to be linked"]


async def _run_broker(settings: "Settings") -> None:
    from soundbox_server import broker_parts
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
        if settings.broker_tls_port:
            raise Refused("SOUNDBOX_BROKER_TLS_PORT: the embedded broker has no TLS. Install mosquitto.")
        if settings.broker_legacy_port:
            raise Refused("SOUNDBOX_BROKER_LEGACY_PORT: the embedded broker has no users. Install mosquitto.")
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
                tls=broker_parts.tls_setup(settings),
                legacy=broker_parts.legacy_setup(settings, lambda: _ask_devices(database, "legacy_users")),
                shards=settings.broker_shard + 1,
            )
        finally:
            stop.set()
            await reporting


async def _ask_devices(database: "Database", question: str) -> Any:
    from soundbox_server.devices import service

    return await database.read(getattr(service, question))


async def _count_sealed(settings: "Settings") -> dict[str, dict[str, int]]:
    from soundbox_server import resealing
    from soundbox_server.db import Base

    await _require_migrated(settings)
    async with _database(settings) as database:
        return await resealing.count_by_key(database, Base.metadata)


async def _reseal(settings: "Settings") -> "list[Resealed]":
    from soundbox_server import resealing
    from soundbox_server.db import Base

    await _require_migrated(settings)
    async with _database(settings) as database:
        return await resealing.reseal(database, Base.metadata, settings.sealing_ring)


async def _pay(settings: "Settings", terminal_id: str, amount: int) -> None:
    import httpx

    await _require_migrated(settings)
    async with _database(settings) as database:
        found = await database.read(
            lambda tx: tx.fetch(
                "SELECT partner_reference FROM static_qr "
                "WHERE terminal_id = $1 AND provider = 'sandbox' AND state = 'active' ORDER BY id DESC LIMIT 1",
                terminal_id,
            )
        )
    if not found:
        raise Refused(f"No static QR of the sandbox hangs at {terminal_id}.")
    url = f"{settings.sandbox_url}/v1/static/{found[0]['partner_reference']}/pay"
    headers = {"authorization": f"Bearer {settings.sandbox_api_key}"}
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as customer:
            (await customer.post(url, json={"amount": amount}, headers=headers)).raise_for_status()
    except httpx.HTTPError as problem:
        raise Refused(f"The sandbox did not take the payment: {problem}") from problem


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
    from soundbox_server.secret_files import is_secret
    from soundbox_server.settings import Settings

    rows = ["| variable | default | meaning | in the references |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        meaning = f"{field.description}{' (or _FILE)' if is_secret(field) else ''}"
        cells = (_shown(field.default), meaning, str(extra.get("references", "")))
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
    lines += [f"shop    {shop['id']}  {shop['brand_name']}  ({shop['story']})" for shop in world.get("shops", ())]
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
