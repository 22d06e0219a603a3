"""Boxes as they stand in shops: each with its folder, its activation, its voice and its merchant who types amounts."""

import asyncio
import itertools
import secrets
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, Self, TypeVar

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from soundbox_sim.activation import ActivationRefused, Credentials, NextCredential, credentials_for, load_credentials
from soundbox_sim.box import Box, BoxSettings, Language, Tell
from soundbox_sim.faults import Faults, read_faults
from soundbox_sim.journal import Journal, JournalInUse
from soundbox_sim.naming import credentials_over_mqtt, is_mqtt
from soundbox_sim.radio import Backoff, Counter, Heartbeats, Radio
from soundbox_sim.rotation import Keyring
from soundbox_sim.tasks import end
from soundbox_sim.voice import SilentVoice, Voice, WavVoice, find_player

T = TypeVar("T")
_ENTRIES = TypeAdapter(list[dict[str, Any]])

VoiceKind = Literal["wav", "sound", "none"]
Watch = Callable[[str, Tell, Box | None], None]
"""Hears (serial number or device id, what happened, the box as it stands)."""


def _known_faults(switches: tuple[str, ...]) -> tuple[str, ...]:
    read_faults(switches)
    return switches


class BoxPlan(BaseModel):
    """One box to run: what `soundbox-sim run` takes as options, and `run-many` as an entry of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    server: str
    home: Path
    serial: str
    activation_code: str | None = None
    voice: VoiceKind = "wav"
    language: Language = "id"
    terminal_id: str | None = None
    ask_qr_every: Annotated[float, Field(gt=0)] | None = None
    amounts: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (15_000, 50_000)
    faults: Annotated[tuple[str, ...], AfterValidator(_known_faults)] = ()
    heartbeat_every: Annotated[float, Field(gt=0)] = 30.0
    heartbeat_http: bool = False
    ca: Path | None = None
    backoff: Annotated[float, Field(gt=0)] = 1.0
    seed: int | None = None

    @model_validator(mode="after")
    def _knows_where_it_sells(self) -> Self:
        if self.ask_qr_every is not None and self.terminal_id is None:
            raise ValueError("a box that asks for QRs needs a terminal_id")
        if self.heartbeat_http and is_mqtt(self.server):
            raise ValueError("a box whose server is reached over MQTT sends its heartbeats there too")
        return self


def read_plans(text: str, *, server: str | None, folder: Path) -> list[BoxPlan]:
    """The entries of a `run-many` file. `server` serves those that name none; a relative home lies in `folder`.

    ValueError says which entry is wrong and why.
    """
    entries = _ENTRIES.validate_json(text)
    plans = [_plan(number, {"server": server, **entry}, folder) for number, entry in enumerate(entries, start=1)]
    if len({plan.home for plan in plans}) < len(plans):
        raise ValueError("two boxes have the same home")
    return plans


async def run_box(plan: BoxPlan, stop: asyncio.Event, watch: Watch) -> None:
    """One box until `stop`. Raises ActivationRefused, JournalInUse, OSError."""
    tls = ssl.create_default_context(cafile=str(plan.ca) if plan.ca else None)
    credentials = await _unless_stopped(stop, _credentials(plan, tls))
    if credentials is None:
        return
    random, faults = Random(plan.seed), read_faults(plan.faults)  # noqa: S311 - jitter and faults, no secrets.
    now_ms = Counter(has_clock=not faults.no_clock, skew_ms=faults.clock_skew)
    keyring = Keyring(plan.home, credentials)
    radio = Radio(
        lambda: _power_on(plan, credentials, faults, now_ms(), keyring),
        broker=credentials.broker,
        voice=make_voice(plan.voice, plan.home / "wav"),
        watch=lambda box, told: watch(credentials.device_id, told, box),
        now_ms=now_ms,
        random=random,
        faults=faults,
        tls=tls,
        broker_tls=_broker_tls(plan, credentials),
        heartbeats=Heartbeats(plan.heartbeat_every, _heartbeat_url(plan, credentials)),
        backoff=Backoff(first_s=plan.backoff),
        keyring=keyring,
    )
    await _until_first_ends(radio.run(stop), _sell(radio, plan, random))


async def run_boxes(plans: list[BoxPlan], stop: asyncio.Event, watch: Watch) -> list[str]:
    """Several boxes in one process. One that cannot go on leaves the others alone; returns the problems."""
    endings = await asyncio.gather(*(_run_alone(plan, stop, watch) for plan in plans))
    return [problem for problem in endings if problem]


async def _run_alone(plan: BoxPlan, stop: asyncio.Event, watch: Watch) -> str | None:
    try:
        await run_box(plan, stop, watch)
    except (ActivationRefused, JournalInUse, OSError) as problem:  # A full disk or a missing certificate, say.
        known = load_credentials(plan.home)
        name = known.device_id if known else plan.serial  # One that was never activated has no other name.
        watch(name, Tell("stopped", {"reason": str(problem)}), None)
        return f"{plan.serial}: {problem}"
    return None


def make_voice(kind: VoiceKind, folder: Path) -> Voice:
    """`sound` where nothing can be heard is `wav`."""
    if kind == "none":
        return SilentVoice()
    return WavVoice(folder, player=find_player() if kind == "sound" else None)


async def _credentials(plan: BoxPlan, tls: ssl.SSLContext) -> Credentials:
    if is_mqtt(plan.server):
        return await credentials_over_mqtt(
            plan.home,
            server=plan.server.rstrip("/"),
            serial_number=plan.serial,
            activation_code=plan.activation_code,
            tls=tls,
        )
    async with httpx.AsyncClient(timeout=15.0, verify=tls) as client:
        return await credentials_for(
            plan.home,
            client,
            server=plan.server.rstrip("/"),
            serial_number=plan.serial,
            activation_code=plan.activation_code,
        )


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result, or None when `stop` came first: a hub that is not there yet must not hold up the end."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await end((task, stopped))


def _power_on(plan: BoxPlan, credentials: Credentials, faults: Faults, now_ms: int, keyring: Keyring) -> Box:
    settings = BoxSettings(terminal_id=plan.terminal_id, language=plan.language, has_clock=not faults.no_clock)
    return Box(
        credentials.device_id,
        credentials.key,
        Journal(plan.home),
        account=credentials.account,
        now_ms=now_ms,
        token=lambda: secrets.token_urlsafe(16),
        settings=settings,
        keep=lambda new: keyring.put_beside(
            NextCredential(credential_id=new.credential_id, device_token=new.device_token, password=new.broker_password)
        ),
    )


def _heartbeat_url(plan: BoxPlan, credentials: Credentials) -> str | None:
    return f"{credentials.server}/device/heartbeat" if plan.heartbeat_http else None


def _broker_tls(plan: BoxPlan, credentials: Credentials) -> ssl.SSLContext | None:
    """Trusts what --ca names, otherwise what the hub handed over at activation, otherwise the public authorities."""
    if not credentials.broker.tls:
        return None
    if plan.ca is not None:
        return ssl.create_default_context(cafile=str(plan.ca))
    return ssl.create_default_context(cadata=credentials.broker.ca_pem)


async def _sell(radio: Radio, plan: BoxPlan, random: Random) -> None:
    """The merchant: types the amounts in turn. Starts anywhere in the interval, so that shops do not act as one."""
    if plan.ask_qr_every is None:
        await asyncio.Event().wait()
        return
    await asyncio.sleep(random.uniform(0, plan.ask_qr_every))
    for amount_idr in itertools.cycle(plan.amounts):
        await radio.ask_qr(amount_idr)
        await asyncio.sleep(plan.ask_qr_every)


async def _until_first_ends(*work: Any) -> None:
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(tasks)


def _plan(number: int, entry: dict[str, Any], folder: Path) -> BoxPlan:
    try:
        plan = BoxPlan.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "entry"
        raise ValueError(f"box {number}: {where}: {first['msg']}") from None
    return plan.model_copy(update={"home": (folder / plan.home).resolve()})
