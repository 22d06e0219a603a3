"""A box that comes in from elsewhere: sent to the TLS listener by its activation, trusting what that handed over."""

import asyncio
import json

import pytest
from support.ports import free_port
from support.stack import Stack, until

from soundbox_server.broker.mosquitto import find_mosquitto
from soundbox_sim.fleet import BoxPlan, run_box

pytestmark = pytest.mark.journey


@pytest.fixture
async def tls_stack(stack: Stack) -> Stack:
    if find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    stack.extra |= {"SOUNDBOX_BROKER_TLS_PORT": str(free_port()), "SOUNDBOX_BROKER_PUBLIC_HOST": "localhost"}
    await stack.prepare(boxes=1)
    await stack.start_all("broker", "api", "worker")
    return stack


async def test_an_activated_box_is_online_over_tls_and_speaks_nothing_plain(tls_stack: Stack) -> None:
    (device,) = tls_stack.world["devices"]
    home = tls_stack.home / "box"
    plan = BoxPlan(
        server=tls_stack.url, home=home, serial=device["serial_number"], activation_code=device["activation_code"],
        voice="none",
    )  # fmt: skip
    stop = asyncio.Event()
    box = asyncio.create_task(run_box(plan, stop, lambda *_told: None))
    try:

        async def online() -> bool:
            return await tls_stack.query("SELECT 1 FROM device_presence WHERE online") != []

        await until(online, what="the box online")
    finally:
        stop.set()
        await box

    broker = json.loads((home / "credentials.json").read_text())["broker"]
    assert (broker["host"], str(broker["port"])) == ("localhost", tls_stack.extra["SOUNDBOX_BROKER_TLS_PORT"])
    assert broker["tls"] is True
    assert broker["ca_pem"].startswith("-----BEGIN CERTIFICATE-----")
