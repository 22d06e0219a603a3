"""The demo's small world: planted in the database, its boxes run as a process of their own, bound as an operator would.

The boxes meet the hub only over the wire, so what is shown here is what a box in a shop does.
"""

import asyncio
import json
import os
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from soundbox_server import broker_parts, clock, migrate, seed
from soundbox_server.access.state import MERCHANTS, ROLES_OF, STAFF
from soundbox_server.broker.mosquitto import write_atomically
from soundbox_server.db import Database
from soundbox_server.devices.service import issue_code
from soundbox_server.settings import Settings
from soundbox_server.synthetic import demo as trade
from soundbox_server.up.problems import UpRefused
from soundbox_server.up.story import Story

AMOUNTS = ((15_000, 50_000, 27_500), (8_000, 125_000, 42_000), (33_000, 10_500, 250_000))
BIND_EVERY_S = 0.3
LOOK_EVERY_S = 0.7
_MAY_BIND = ("operator", "platform_admin")


@dataclass(frozen=True)
class DemoBox:
    """A seeded device and the folder of the simulated box that plays it."""

    device_id: str
    serial_number: str
    terminal_id: str
    home: Path
    activation_code: str | None


@dataclass(frozen=True)
class World:
    """What was planted: its logins, and the boxes that will run."""

    logins: list[tuple[str, str, str]]
    boxes: list[DemoBox]

    @property
    def operator(self) -> tuple[str, str]:
        """Somebody who may bind a box: (e-mail, password)."""
        return next((email, password) for role in _MAY_BIND for email, password, has in self.logins if has == role)


def door_of(role: str) -> str:
    """Where somebody of this role logs in."""
    if role in STAFF:
        return "/admin/login"
    if role in MERCHANTS:
        return "/merchant/login"
    return "/lending/login" if role in ROLES_OF["bank"] else "/api/auth/login"


async def plant(settings: Settings, *, boxes: int) -> World:
    """The demo world in this copy's database, and what each of its boxes needs to get in."""
    database = Database(settings.database_url)
    try:
        planted = await seed.plant(database, settings, now_ms=clock.now_ms(), boxes=boxes)
        return World(
            logins=[(user["email"], user["password"], user["role"]) for user in planted["users"]],
            boxes=[await _demo_box(database, settings, device) for device in planted["devices"]],
        )
    finally:
        await database.close()


async def plant_trade(settings: Settings) -> list[tuple[str, str, str]]:
    """Three merchants with half a year's trade, and three banks; returns their logins."""
    database = Database(settings.database_url)
    try:
        planted = await trade.plant(database, settings, now_ms=clock.now_ms())
    finally:
        await database.close()
    return [(user["email"], user["password"], user["role"]) for user in planted["users"]]


async def bring_up_to_date(settings: Settings) -> None:
    database = Database(settings.database_url)
    try:
        await migrate.upgrade(database)
    finally:
        await database.close()


def write_boxes_file(settings: Settings, boxes: list[DemoBox], *, pay_every_s: float, sound: bool) -> Path:
    """What `soundbox-sim run-many` runs. Together the boxes ask for a QR every `pay_every_s` seconds."""
    path = settings.home / "boxes.json"
    entries = [
        {
            "serial": box.serial_number,
            "activation_code": box.activation_code,
            "home": str(box.home),
            "terminal_id": box.terminal_id,
            "ask_qr_every": pay_every_s * len(boxes),
            "amounts": AMOUNTS[number % len(AMOUNTS)],
            "voice": "sound" if sound else "wav",
        }
        for number, box in enumerate(boxes)
    ]
    write_atomically(path, json.dumps(entries, indent=1) + "\n")
    return path


def simulator() -> str:
    """The program that plays boxes. It is only started: the hub and its boxes share no code but the protocol."""
    beside = Path(sys.executable).parent
    found = shutil.which("soundbox-sim", path=os.pathsep.join((str(beside), os.environ.get("PATH", os.defpath))))
    if found is None:
        raise UpRefused(f"soundbox-sim is not installed beside {sys.executable}: install the project again.")
    return found


def local_url(host: str, port: int) -> str:
    """Where a process on this machine reaches a listener."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reached}:{port}"


class OperatorDesk:
    """The operator's side of the demo, over the same HTTP API that operators have."""

    def __init__(self, url: str, world: World, story: Story) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=5.0, trust_env=False)
        self._world = world
        self._story = story

    async def close(self) -> None:
        await self._client.aclose()

    async def ready(self) -> bool:
        try:
            return (await self._client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def bind_as_they_come(self) -> None:
        """Put each box at its terminal once it has activated; ends when all stand there."""
        waiting = {box.device_id: box.terminal_id for box in self._world.boxes}
        while waiting:
            for device_id in sorted(waiting):
                if await self._is_bound(device_id, waiting[device_id]):
                    del waiting[device_id]
                    self._story.boxes[device_id].bound = True
            await asyncio.sleep(BIND_EVERY_S)

    async def put_up_static_qrs(self) -> None:
        """Let the sandbox issue a static QR for each box's till; ends when each has one."""
        waiting = {box.terminal_id for box in self._world.boxes}
        while waiting:
            for terminal_id in sorted(waiting):
                hanging = await self._get("/admin/static-qrs", terminal_id=terminal_id, status="active", limit=1)
                if hanging:
                    waiting.discard(terminal_id)
                elif hanging is not None:
                    await self._ask("POST", f"/admin/terminals/{terminal_id}/static-qrs/issue")
            await asyncio.sleep(BIND_EVERY_S)

    async def look_at_payments(self) -> None:
        """Add to the story what the hub's records say: when a payment was committed, and when its box was told."""
        while True:
            if self._story.unfinished():
                for payment in await self._get("/admin/transactions", limit=20) or []:
                    told = [row["hops"]["published_at"] for row in payment["announcements"]]
                    self._story.learn(
                        payment["id"],
                        state=payment["status"],
                        paid_at_ms=_ms(payment["captured_at"]),
                        announced_at_ms=_ms(next(filter(None, told), None)),
                    )
            await asyncio.sleep(LOOK_EVERY_S)

    async def _is_bound(self, device_id: str, terminal_id: str) -> bool:
        device = await self._get(f"/admin/devices/{device_id}")
        if device is None or device["status"] == "registered":
            return False
        if device["binding"] is not None:
            return True
        await self._ask("POST", f"/admin/devices/{device_id}/bind", json={"terminal_id": terminal_id})
        return False  # seen as bound at the next look

    async def _get(self, path: str, **query: Any) -> Any:
        answer = await self._ask("GET", path, params=query)
        return None if answer is None else answer.json()["data"]

    async def _ask(self, method: str, path: str, **rest: Any) -> httpx.Response | None:
        """None while the API is starting or busy: everything here is asked again."""
        try:
            answer = await self._client.request(method, path, **rest)
            if answer.status_code == 401:  # at first, and when the token's minutes are over
                await self._log_in()
                answer = await self._client.request(method, path, **rest)
        except httpx.TransportError:
            return None
        return answer if answer.is_success else None

    async def _log_in(self) -> None:
        email, password = self._world.operator
        answer = await self._client.post("/admin/login", json={"email": email, "password": password})
        if answer.is_success:
            self._client.headers["Authorization"] = f"Bearer {answer.json()['data']['access_token']}"


class _Kept(BaseModel):
    """The part of a box's credentials that says where it goes on air."""

    model_config = ConfigDict(extra="ignore")

    class _Broker(BaseModel):
        host: str
        port: int
        tls: bool = False
        ca_pem: str | None = None

    device_id: str
    server: str
    broker: _Broker


async def _demo_box(database: Database, settings: Settings, device: dict[str, Any]) -> DemoBox:
    home = settings.home / "boxes" / device["serial_number"]
    code = device["activation_code"]
    if code is None and not _can_go_on_air(home, settings, device["device_id"]):
        # Its folder is gone, or the hub has moved to another port since: activated anew, as a technician would.
        now_ms = clock.now_ms()
        code = await database.write(lambda tx: issue_code(tx, device["device_id"], now_ms=now_ms))
    return DemoBox(
        device_id=device["device_id"],
        serial_number=device["serial_number"],
        terminal_id=device["terminal_id"],
        home=home,
        activation_code=code,
    )


def _can_go_on_air(home: Path, settings: Settings, device_id: str) -> bool:
    try:
        kept = _Kept.model_validate_json((home / "credentials.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return False
    url = local_url(settings.http_host, settings.http_port)
    broker = _Kept._Broker(**broker_parts.broker_address(settings))
    return (kept.device_id, kept.server, kept.broker) == (device_id, url, broker)


def _ms(rfc3339: str | None) -> int | None:
    return None if rfc3339 is None else round(datetime.fromisoformat(rfc3339).timestamp() * 1000)
