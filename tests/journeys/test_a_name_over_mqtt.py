"""A box that cannot speak HTTPS gets its name from the real worker, over a Mosquitto that keeps strangers apart."""

import asyncio
import contextlib
import secrets
import ssl
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from support.ports import free_port
from support.stack import Stack, until

from soundbox_protocol.topics import provision_response
from soundbox_server.broker.tls import development_authority
from soundbox_server.broker.users import PROVISION_PASSWORD, PROVISION_USER
from soundbox_sim.activation import ActivationRefused, load_credentials
from soundbox_sim.naming import FILE_NAME, credentials_over_mqtt

pytestmark = [pytest.mark.journey]


@pytest.fixture
async def hub(stack: Stack) -> Stack:
    """The broker as an operator runs it, with the second one for boxes without a name, and the worker."""
    stack.extra |= {
        "SOUNDBOX_BROKER_TLS_PORT": str(free_port()), "SOUNDBOX_BROKER_PROVISION_PORT": str(free_port()),
        "SOUNDBOX_BROKER_PUBLIC_HOST": "localhost",
    }  # fmt: skip
    await stack.prepare(boxes=2)
    await stack.start_all("broker", "worker")

    async def subscribed() -> bool:
        try:
            return await _is_answered(stack)
        except (aiomqtt.MqttError, TimeoutError, OSError):
            return False

    await until(subscribed, what="a worker that answers the nameless")
    return stack


def _trusting(hub: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=development_authority(hub.home))


def _nameless(hub: Stack, nonce: str) -> aiomqtt.Client:
    return aiomqtt.Client(
        "localhost", int(hub.extra["SOUNDBOX_BROKER_PROVISION_PORT"]), username=PROVISION_USER,
        password=PROVISION_PASSWORD, identifier=nonce, timeout=20, tls_context=_trusting(hub),
    )  # fmt: skip


def _asking(hub: Stack, device: dict[str, Any]) -> dict[str, Any]:
    return {
        "server": f"mqtts://localhost:{hub.extra['SOUNDBOX_BROKER_PROVISION_PORT']}", "tls": _trusting(hub),
        "serial_number": device["serial_number"], "activation_code": device["activation_code"], "answer_s": 10.0,
    }  # fmt: skip


async def _is_answered(hub: Stack) -> bool:
    nonce = secrets.token_hex(16)
    async with asyncio.timeout(3), _nameless(hub, nonce) as client:
        await client.subscribe(provision_response(nonce), qos=1)
        await client.publish(f"provision/{nonce}/request", b"{}", qos=1)
        return (await anext(client.messages)).payload is not None


async def test_a_box_gets_its_name_once_and_strangers_hear_none_of_it(hub: Stack, tmp_path: Path) -> None:
    device = hub.world["devices"][0]
    asking = _asking(hub, device)
    stranger = secrets.token_hex(16)
    async with _nameless(hub, stranger) as eavesdropper:
        for topic in ("provision/#", "provision/+/request", "provision/+/response", "#", "devices/#", "$share/a/#"):
            with contextlib.suppress(aiomqtt.MqttError):  # newer brokers say no, older ones deliver nothing
                await eavesdropper.subscribe(topic, qos=1)
        await eavesdropper.subscribe(provision_response(stranger), qos=1)

        credentials = await credentials_over_mqtt(tmp_path / "box", **asking)
        again = await credentials_over_mqtt(tmp_path / "box", **asking)

        await eavesdropper.publish(f"provision/{stranger}/request", b"{}", qos=1)
        heard = await asyncio.wait_for(anext(eavesdropper.messages), 20)
    assert again == credentials == load_credentials(tmp_path / "box")
    assert not (tmp_path / "box" / FILE_NAME).exists()
    assert credentials.device_id == device["device_id"]
    assert str(heard.topic) == provision_response(stranger)  # the first and only thing it heard is its own
    assert b'"failed"' in bytes(heard.payload)
    states = await hub.query("SELECT state FROM device WHERE id = $1", device["device_id"])
    assert states == [("activated",)]
    with pytest.raises(ActivationRefused, match="UNAUTHENTICATED"):
        await credentials_over_mqtt(tmp_path / "thief", **asking)


async def test_a_box_that_loses_power_before_it_stored_its_name_gets_the_same_one(hub: Stack, tmp_path: Path) -> None:
    device, home = hub.world["devices"][1], tmp_path / "box"
    asking = _asking(hub, device)
    first = asyncio.create_task(credentials_over_mqtt(home, **asking))

    async def spent() -> bool:
        return await hub.query("SELECT state FROM device WHERE id = $1", device["device_id"]) == [("activated",)]

    before = (home / FILE_NAME).exists
    await until(before, what="the nonce on the disk")
    nonce = (home / FILE_NAME).read_bytes()
    await until(spent, what="the code spent")
    got = await first
    (home / "credentials.json").unlink()  # as if the power had gone before they were stored
    (home / FILE_NAME).write_bytes(nonce)

    again = await credentials_over_mqtt(home, **asking)

    assert again == got
    assert await hub.query("SELECT key_version FROM device WHERE id = $1", device["device_id"]) == [(1,)]
