"""`soundbox-sim`: soundboxes without the plastic."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop
from pydantic import ValidationError
from rich.console import Console

from soundbox_protocol.speech import payment_clips, payment_sentence
from soundbox_sim.box import Language, Speak
from soundbox_sim.faults import NAMES
from soundbox_sim.fleet import BoxPlan, VoiceKind, Watch, read_plans, run_boxes
from soundbox_sim.lcd import Lcd, json_lines, plain_lines
from soundbox_sim.qf100 import Qf100Plan, run_qf100
from soundbox_sim.qf100 import Watch as Qf100Watch
from soundbox_sim.swarm.plan import with_rates
from soundbox_sim.swarm.roster import CannotRun, read_roster
from soundbox_sim.swarm.run import Options, run_command, run_fleet, write_report
from soundbox_sim.swarm.scenarios import SCENARIOS
from soundbox_sim.swarm.watch import verdict, watching
from soundbox_sim.voice import AudioFault, WavVoice, find_player, synthesise_with_espeak, write_wav

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Server = Annotated[str | None, typer.Option(envvar="SOUNDBOX_SIM_SERVER", help="The hub's URL.")]
EventsJson = Annotated[bool, typer.Option("--events-json", help="One JSON line on stdout for each thing that happens.")]


@app.command()
def run(
    server: Annotated[
        str,
        typer.Option(
            envvar="SOUNDBOX_SIM_SERVER",
            help="The hub's URL; mqtts://host:port or mqtt://host:port for a box that cannot speak HTTPS.",
        ),
    ],
    home: Annotated[Path, typer.Option(help="The box's own folder: credentials, journal, recordings.")],
    serial: Annotated[str, typer.Option(help="The serial number on the sticker.")],
    activation_code: Annotated[str | None, typer.Option(help="Needed once; a new code activates anew.")] = None,
    voice: Annotated[VoiceKind, typer.Option(help="sound is wav where nothing can be heard.")] = "wav",
    language: Annotated[Language, typer.Option()] = "id",
    ask_qr_every: Annotated[float | None, typer.Option(help="Seconds between two QR requests.")] = None,
    amounts: Annotated[str, typer.Option(help="Whole rupiah, comma-separated, asked for in turn.")] = "15000,50000",
    terminal_id: Annotated[str | None, typer.Option(help="Needed to ask for QRs.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help=f"{', '.join(NAMES)}; most take =value.")] = None,
    heartbeat_every: Annotated[float, typer.Option(help="Seconds.")] = 30.0,
    heartbeat_http: Annotated[bool, typer.Option("--heartbeat-http", help="Over HTTP instead of MQTT.")] = False,
    ca: Annotated[Path | None, typer.Option(help="The certificate authority to trust, PEM.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes faults and pauses repeatable.")] = None,
    events_json: EventsJson = False,
) -> None:
    """Run one box until Ctrl-C. A second start continues with what is in its folder."""
    try:
        plan = BoxPlan(
            server=server,
            home=home,
            serial=serial,
            activation_code=activation_code,
            voice=voice,
            language=language,
            ask_qr_every=ask_qr_every,
            amounts=_whole_numbers(amounts),
            terminal_id=terminal_id,
            faults=tuple(fault or ()),
            heartbeat_every=heartbeat_every,
            heartbeat_http=heartbeat_http,
            ca=ca,
            seed=seed,
        )
    except ValidationError as error:
        raise typer.BadParameter("; ".join(problem["msg"] for problem in error.errors())) from None
    _run([plan], events_json=events_json)


@app.command("run-many")
def run_many(
    file: Annotated[Path, typer.Option(help="A JSON list of boxes; the keys are the options of `run`, with `_`.")],
    server: Server = None,
    events_json: EventsJson = False,
) -> None:
    """Run several boxes in one process until Ctrl-C."""
    try:
        plans = read_plans(file.read_text(), server=server, folder=file.parent)
    except (OSError, ValueError) as problem:
        raise typer.BadParameter(f"{file}: {problem}") from None
    _run(plans, events_json=events_json)


@app.command()
def fleet(
    roster: Annotated[Path, typer.Option(help="Who belongs to it: what `soundbox seed --fleet` wrote.")],
    scenario: Annotated[str, typer.Option(help=f"{', '.join(SCENARIOS)}.")] = "mixed",
    devices: Annotated[int | None, typer.Option(min=1, help="The first so many of the roster; otherwise all.")] = None,
    minutes: Annotated[float, typer.Option(min=0.05, help="How long things happen.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Decides what happens when: the same one, the same faults.")] = 1,
    payments_per_s: Annotated[float | None, typer.Option(min=0, help="Instead of the scenario's rate.")] = None,
    commands_per_s: Annotated[float | None, typer.Option(min=0, help="Instead of the scenario's rate.")] = None,
    restart_broker: Annotated[str | None, typer.Option(help="A shell command; some scenarios need it.")] = None,
    report: Annotated[Path | None, typer.Option(help="Where the report goes, as JSON.")] = None,
) -> None:
    """Run thousands of boxes in this process, with customers who pay. Exit status 1 when a rule was broken."""
    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"--scenario: {scenario!r} is none; there are {', '.join(SCENARIOS)}")
    try:
        members = read_roster(roster)
        boxes = devices or len(members.devices)
        options = Options(
            name=scenario,
            scenario=with_rates(
                SCENARIOS[scenario], boxes=boxes, payments_per_s=payments_per_s, commands_per_s=commands_per_s
            ),
            boxes=boxes,
            duration_s=minutes * 60,
            seed=seed,
            restart_broker=partial(run_command, restart_broker) if restart_broker else None,
        )
        console = Console()
        with watching(console) as look:
            found = uvloop.run(run_fleet(members, options, look))
    except (CannotRun, OSError, ValueError) as problem:
        _give_up([str(problem)])
    if report is not None:
        write_report(found, report)
    console.print(verdict(found), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found["ok"] else 1)


@app.command()
def qf100(
    server: Annotated[str, typer.Option(envvar="SOUNDBOX_SIM_SERVER", help="The hub's URL, plain HTTP.")],
    serial: Annotated[str, typer.Option(help="The serial number on the sticker, upper case.")],
    imei: Annotated[str, typer.Option(help="The module's number.")] = "860000000000001",
    iccid: Annotated[str, typer.Option(help="The SIM's number.")] = "89620000000000000001",
    model: Annotated[str, typer.Option(help="QF100, or EDOTF1 as later ones call themselves.")] = "QF100",
    heartbeat_every: Annotated[float, typer.Option(help="Seconds.")] = 60.0,
    events_json: EventsJson = False,
) -> None:
    """Run one box of another maker until Ctrl-C. It asks for its settings until an operator opens its window."""
    plan = Qf100Plan(server=server, serial=serial, imei=imei, iccid=iccid, model=model, heartbeat_every=heartbeat_every)
    watch = json_lines(sys.stdout) if events_json else plain_lines(sys.stdout)
    asyncio.run(_qf100_until_told(plan, lambda device_id, told: watch(device_id, told, None)))


@app.command()
def say(
    amount: Annotated[int, typer.Argument(help="Whole rupiah.")],
    language: Annotated[Language, typer.Option()] = "id",
    wav: Annotated[Path | None, typer.Option(help="Write a recording instead of playing it.")] = None,
) -> None:
    """Speak one announcement, for listening."""
    try:
        sentence = payment_sentence(amount, language)
        typer.echo(sentence)
        if wav is not None:
            write_wav(wav, synthesise_with_espeak(sentence, language))
            return
        player = find_player()
        if player is None:
            raise AudioFault("there is no sound device here; --wav FILE writes a recording")
        speech = Speak(None, None, sentence, tuple(payment_clips(amount, language)), language)
        asyncio.run(_say_aloud(speech, player))
    except (ValueError, AudioFault) as problem:
        _give_up([str(problem)])


def main() -> None:
    """The console script."""
    app()


def _run(plans: list[BoxPlan], *, events_json: bool) -> None:
    if any(plan.voice == "sound" for plan in plans) and find_player() is None:
        typer.echo("no sound device here: announcements are written to WAV files only", err=True)
    try:
        with _watcher(events_json=events_json) as watch:
            problems = asyncio.run(_until_told(plans, watch))
    except BrokenPipeError:  # Whoever watched is gone, and nobody else will end this process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Or Python complains once more at its exit.
        problems = ["nobody reads what the boxes tell"]
    if problems:
        _give_up(problems)


async def _until_told(plans: list[BoxPlan], watch: Watch) -> list[str]:
    """The first SIGINT or SIGTERM asks the boxes to finish; a second one finds the default handler again."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def finish() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, finish)
    return await run_boxes(plans, stop, watch)


async def _qf100_until_told(plan: Qf100Plan, watch: Qf100Watch) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_qf100(plan, stop, watch)


@contextlib.contextmanager
def _watcher(*, events_json: bool) -> Iterator[Watch]:
    console = Console()
    if events_json:
        yield json_lines(sys.stdout)
    elif console.is_terminal:
        with Lcd(console) as lcd:
            yield lcd.watch
    else:
        yield plain_lines(sys.stdout)


async def _say_aloud(speech: Speak, player: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await WavVoice(Path(folder), player=player).say(speech)


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--amounts: {text!r} is no list of whole numbers") from None


def _give_up(problems: list[str]) -> NoReturn:
    for problem in problems:
        typer.echo(f"soundbox-sim: {problem}", err=True)
    raise typer.Exit(1)
