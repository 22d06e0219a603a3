"""Another maker's box, as far as its published contract tells of it: a QF100 asks for its settings, listens on one
topic, speaks and shows whatever comes there, and says now and then that it lives.

It verifies nothing, answers nothing, remembers nothing and cannot do TLS. What the contract leaves open is chosen here:
the members of its heartbeat, that it keeps its settings over a restart, and that it asks for others once they are
refused.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import aiomqtt
import httpx

from soundbox_protocol.speech import payment_sentence
from soundbox_sim.box import Tell
from soundbox_sim.radio import REFUSED_LOGIN, Backoff
from soundbox_sim.tasks import end

USUAL_QR_S = 60
ANSWER_S = 10.0

Watch = Callable[[str, Tell], None]


class ConfigRefused(Exception):
    """The server gave no settings: no window is open, or it knows other numbers."""


@dataclass(frozen=True, kw_only=True)
class Qf100Plan:
    """What is printed on the box and its SIM, and how it is set up."""

    server: str
    serial: str
    imei: str = "860000000000001"
    imsi: str = "510010000000001"
    iccid: str = "89620000000000000001"
    model: str = "QF100"
    firmware_version: str = "1.0.0"
    heartbeat_every: float = 60.0
    battery: int = 100
    dbm: int = -70
    seed: int | None = None

    def call(self) -> dict[str, object]:
        """The body of its config call."""
        return {
            "dev-model": self.model, "item-number": "00", "dev-sn": self.serial, "hardware-config": "0x0F",
            "fw-version": self.firmware_version, "fw-build": 1, "app-config-version": 0, "imei": self.imei,
            "imsi": self.imsi, "iccid": self.iccid,
        }  # fmt: skip

    def heartbeat(self) -> bytes:
        said = {"dev-sn": self.serial, "fw-version": self.firmware_version, "battery": self.battery, "dbm": self.dbm}
        return json.dumps(said, separators=(",", ":")).encode()


@dataclass(frozen=True, kw_only=True)
class MqttSettings:
    """What the config call answers."""

    host: str
    port: int
    client_id: str
    username: str
    password: str
    subscribe_topic: str
    keepalive_s: int

    @classmethod
    def of(cls, answer: Any) -> "MqttSettings":
        """Raises ConfigRefused for an answer without settings."""
        try:
            if answer["error-code"] != 0:
                raise ConfigRefused(f"error-code {answer['error-code']}")
            said = answer["mqtt"]
            return cls(
                host=said["broker-ip"],
                port=said["broker-port"],
                client_id=said["client-id"],
                username=said["user-name"],
                password=said["password"],
                subscribe_topic=said["subscribe-topic"],
                keepalive_s=said.get("keep-alive", 60),
            )
        except (KeyError, TypeError) as error:
            raise ConfigRefused(f"no settings in the answer: {error}") from error


@dataclass
class Qf100:
    """Bytes in, what happens out. It believes whatever reaches its topic, and takes a copy for another payment."""

    shown_until_ms: int | None = None
    shown_qr: str | None = None

    def hear(self, payload: bytes, *, now_ms: int) -> Tell | None:
        """What a message does; None for one it does not understand."""
        try:
            said = json.loads(payload)
            category, data = said["header"]["category"], said.get("data", {})
            match category:
                case 1:
                    return self._pay(data)
                case 4:
                    return self._show(data, now_ms)
                case 5 if data["command"] == "reboot":
                    self._hide()
                    return Tell("rebooted")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return None

    def screen(self, *, now_ms: int) -> str | None:
        """The QR on its display, until its seconds are over."""
        if self.shown_until_ms is not None and now_ms >= self.shown_until_ms:
            self._hide()
        return self.shown_qr

    def _pay(self, data: dict[str, Any]) -> Tell:
        amount = int(data["amount"])
        self._hide()
        return Tell("played", {"amount": amount, "sentence": payment_sentence(amount, "id")})

    def _show(self, data: dict[str, Any], now_ms: int) -> Tell | None:
        amount, payload = data["amount"], data["qr-url"]
        if not isinstance(amount, int) or amount <= 0 or not isinstance(payload, str):
            return None
        seconds = data.get("expire-seconds")
        seconds = seconds if isinstance(seconds, int) and seconds > 0 else USUAL_QR_S
        self.shown_qr, self.shown_until_ms = payload, now_ms + seconds * 1000
        return Tell("qr_shown", {"qr_payload": payload, "amount": amount, "seconds": seconds})

    def _hide(self) -> None:
        self.shown_qr = self.shown_until_ms = None


async def fetch_settings(plan: Qf100Plan) -> MqttSettings:
    """The config call, plain HTTP. Raises ConfigRefused, and httpx.HTTPError when nobody answers."""
    async with httpx.AsyncClient(timeout=ANSWER_S) as client:
        answer = await client.post(f"{plan.server.rstrip('/')}/speaker/dev-config", json=plan.call())
    try:
        return MqttSettings.of(answer.json())
    except ValueError as error:
        raise ConfigRefused("the answer is no JSON") from error


async def run_qf100(plan: Qf100Plan, stop: asyncio.Event, watch: Watch, *, backoff: Backoff | None = None) -> None:
    """Until `stop`. It asks for settings until it gets some, and goes on air with them."""
    backoff, random = backoff or Backoff(longest_s=30.0), Random(plan.seed)  # noqa: S311 - pauses, no secrets
    settings: MqttSettings | None = None
    attempt = 0
    while not stop.is_set():
        try:
            if settings is None:
                settings = await fetch_settings(plan)
                watch(plan.serial, Tell("configured_by_call", {"topic": settings.subscribe_topic}))
            await _on_air(plan, settings, stop, watch)
            attempt = 0
            continue  # restarted, or told to stop
        except aiomqtt.MqttError as error:
            watch(plan.serial, Tell("offline", {"why": str(error)}))
            if getattr(error, "rc", None) in REFUSED_LOGIN:
                settings = None
        except (ConfigRefused, httpx.HTTPError) as error:
            watch(plan.serial, Tell("config_refused", {"why": str(error)}))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff.pause_s(attempt, random)):
                await stop.wait()
        attempt += 1


async def _on_air(plan: Qf100Plan, settings: MqttSettings, stop: asyncio.Event, watch: Watch) -> None:
    """One session: ends with a restart, with `stop`, or with MqttError."""
    async with aiomqtt.Client(
        settings.host,
        settings.port,
        identifier=settings.client_id,
        username=settings.username,
        password=settings.password,
        keepalive=settings.keepalive_s,
        timeout=ANSWER_S,
    ) as client:
        await client.subscribe(settings.subscribe_topic, qos=1)
        watch(plan.serial, Tell("online"))
        works = [
            asyncio.create_task(_listen(plan, client, watch)),
            asyncio.create_task(_beat(plan, settings, client)),
            asyncio.create_task(stop.wait()),
        ]
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it
        finally:
            await end(works)


async def _listen(plan: Qf100Plan, client: aiomqtt.Client, watch: Watch) -> None:
    """Ends when the box is told to restart."""
    box, loop = Qf100(), asyncio.get_running_loop()
    async for message in client.messages:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        told = box.hear(payload, now_ms=int(loop.time() * 1000))
        watch(plan.serial, told or Tell("not_understood", {"bytes": len(payload)}))
        if told is not None and told.what == "rebooted":
            return


async def _beat(plan: Qf100Plan, settings: MqttSettings, client: aiomqtt.Client) -> None:
    while True:
        await client.publish(f"{settings.subscribe_topic}/heartbeat", plan.heartbeat(), qos=0)
        await asyncio.sleep(plan.heartbeat_every)
