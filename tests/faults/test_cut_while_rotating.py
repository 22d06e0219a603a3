"""The credential of a box changes, and somebody pulls a plug: whoever's and whenever, the box gets in by itself."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import pytest
from support.shop import row
from support.site import Site
from support.stack import until

from soundbox_server import broker_parts
from soundbox_server.devices.credentials import sha256
from soundbox_sim.activation import Credentials, credentials_for, load_credentials
from soundbox_sim.box import Box, BoxSettings, Tell
from soundbox_sim.faults import ROTATION_STEPS, Faults
from soundbox_sim.journal import Journal
from soundbox_sim.radio import Backoff, Counter, Heartbeats, Radio
from soundbox_sim.rotation import Keyring
from soundbox_sim.voice import SilentVoice

pytestmark = [pytest.mark.journey, pytest.mark.crash]


@dataclass
class Rotating:
    """A simulated box on the air, and its folder."""

    site: Site
    home: Path
    first: Credentials
    told: list[Tell] = field(default_factory=list)

    @property
    def held(self) -> Credentials:
        held = load_credentials(self.home)
        assert held is not None
        return held

    def count(self, what: str) -> int:
        return sum(told.what == what for told in self.told)

    async def is_online(self) -> bool:
        rows = await self.site.stack.query(
            "SELECT online FROM device_presence WHERE device_id = $1", self.first.device_id
        )
        return bool(rows and rows[0][0])

    async def new_is_in_force(self) -> bool:
        """The hub's database has confirmed another credential than the first."""
        rows = await self.site.stack.query(
            "SELECT token_sha256 FROM device_credential WHERE device_id = $1 AND state = 'active'", self.first.device_id
        )
        return rows != [(sha256(self.first.device_token),)]

    async def has_settled(self) -> bool:
        return self.held.next is None and self.held.device_token != self.first.device_token and await self.is_online()

    async def broker_takes(self, password: str) -> bool:
        port, name = self.site.stack.broker_port, self.first.device_id
        return await broker_parts.broker_lets_in("127.0.0.1", port, name, password)

    async def api_takes(self, token: str) -> bool:
        async with httpx.AsyncClient(base_url=self.site.stack.url, timeout=20) as client:
            said = {"device_id": self.first.device_id, "timestamp": "2026-05-23T10:00:00Z", "state": "idle"}
            headers = {"authorization": f"Bearer {token}"}
            answer = await client.post("/device/heartbeat", json=said | {"firmware_version": "1"}, headers=headers)
            return answer.status_code == 200


@contextlib.asynccontextmanager
async def on_air(site: Site, *, cut: str = "") -> AsyncIterator[Rotating]:
    """A box that asks over HTTP now and then whether it shall rotate."""
    device, stop = site.stack.world["devices"][0], asyncio.Event()
    home = site.stack.home / "boxes" / device["device_id"]
    async with httpx.AsyncClient(timeout=20) as client:
        first = await credentials_for(
            home, client, server=site.stack.url, serial_number=device["serial_number"],
            activation_code=device["activation_code"],
        )  # fmt: skip
    rotating, now_ms = Rotating(site, home, first), Counter()
    radio = Radio(
        lambda: Box(
            first.device_id, first.key, Journal(home), account=first.account, now_ms=now_ms(),
            token=lambda: secrets.token_urlsafe(16), settings=BoxSettings(),
        ),
        broker=first.broker, voice=SilentVoice(), watch=lambda _box, told: rotating.told.append(told), now_ms=now_ms,
        random=Random(1), faults=Faults(rotation_cut=cut), backoff=Backoff(first_s=0.1, longest_s=0.5),
        heartbeats=Heartbeats(0.1, f"{site.stack.url}/device/heartbeat"), keyring=Keyring(home, first),
    )  # fmt: skip
    running = asyncio.create_task(radio.run(stop))
    try:
        await until(rotating.is_online, what="the box online")
        yield rotating
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)


async def ask_to_rotate(site: Site, rotating: Rotating) -> None:
    async with httpx.AsyncClient(base_url=site.stack.url, headers=await site.stack.login(), timeout=20) as operator:
        asked = await operator.post(f"/admin/devices/{rotating.first.device_id}/credentials/rotate")
        assert asked.status_code == 202, asked.text


async def gets_in_by_itself(site: Site, rotating: Rotating) -> None:
    """Until the new credential is the only one, on the box and at the hub; and the old one is worth nothing."""
    try:
        await until(rotating.has_settled, what="the box in with its new credential")
    except AssertionError as late:
        raise AssertionError(f"{late}\n{rotating.told[-20:]}\n{site.stack.logs()}") from None
    held = rotating.held
    stored = await row(
        site.database, "SELECT id, token_sha256 FROM device_credential WHERE device_id = $1 AND state = 'active'",
        held.device_id,
    )  # fmt: skip
    assert stored["token_sha256"] == sha256(held.device_token)
    assert await rotating.api_takes(held.device_token)
    assert not await rotating.api_takes(rotating.first.device_token)
    assert not await rotating.broker_takes(rotating.first.broker.password)
    assert held.key == rotating.first.key  # what it is told is signed as before


async def test_uncut_a_rotation_costs_one_reconnect(site: Site) -> None:
    await site.start_api()
    await site.start_worker()
    async with on_air(site) as rotating:
        await ask_to_rotate(site, rotating)

        await gets_in_by_itself(site, rotating)

        assert rotating.count("rotation_confirmed") == 1
        assert rotating.count("online") == 2
        assert rotating.count("booted") == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is the box whose disk counts here
@pytest.mark.parametrize("step", ROTATION_STEPS)
async def test_the_boxs_power_is_cut(site: Site, step: str) -> None:
    await site.start_api()
    await site.start_worker()
    async with on_air(site, cut=step) as rotating:
        await ask_to_rotate(site, rotating)

        await gets_in_by_itself(site, rotating)

        assert rotating.count("booted") == 2


@pytest.mark.parametrize("failpoint", ["refresh.issued", "refresh.confirmed"])
async def test_the_api_dies_after_its_commit_and_before_its_answer(site: Site, failpoint: str) -> None:
    api = await site.start_api(failpoint)
    await site.start_worker()
    async with on_air(site) as rotating:
        await ask_to_rotate(site, rotating)
        await site.died(api)
        await site.start_api()

        await gets_in_by_itself(site, rotating)


async def test_the_broker_dies_before_it_has_read_the_new_password(site: Site) -> None:
    await site.start_api()
    await site.start_worker()
    async with on_air(site) as rotating:
        await ask_to_rotate(site, rotating)
        await until(rotating.new_is_in_force, what="the confirmation")
        site.lose_the_broker()

        await gets_in_by_itself(site, rotating)


async def test_a_broker_that_reads_it_late_lets_the_old_password_in_until_then(site: Site) -> None:
    """The broker stands still from before the confirmation until after the box has booted again."""
    await site.start_api()
    await site.start_worker()
    async with on_air(site, cut="confirmed") as rotating:
        stopped = site.mosquitto_pid()
        os.kill(stopped, signal.SIGSTOP)
        try:
            await ask_to_rotate(site, rotating)
            await until(lambda: rotating.count("booted") == 2, what="the box's second boot")
        finally:
            os.kill(stopped, signal.SIGCONT)

        await gets_in_by_itself(site, rotating)
