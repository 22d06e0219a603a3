"""A box that cannot speak HTTPS gets its name from the real worker, over a Mosquitto that keeps strangers apart."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest
from support.stack import Stack, until

from soundbox_protocol.topics import provision_response
from soundbox_server.broker.mosquitto import find_mosquitto
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.users import hub_password, shard_user
from soundbox_sim.activation import ActivationRefused, load_credentials
from soundbox_sim.naming import FILE_NAME, credentials_over_mqtt

pytestmark = [pytest.mark.journey]

# Client ids are free for the nameless, so %c is the nonce of whoever asks with it.
ACL = f"""
user {shard_user(0)}
topic read devices/+/uplink/#
topic write devices/+/downlink/#
topic read provision/+/request
topic write provision/+/response

pattern write provision/%c/request
pattern read provision/%c/response
"""


@pytest.fixture
async def hub(stack: Stack) -> AsyncIterator[Stack]:
    """The worker beside a broker of the test's own."""
    await stack.prepare(boxes=2)
    async with _mosquitto(stack):
        port = stack.broker_port
        await stack.start("worker")

        async def subscribed() -> bool:
            try:
                return await _is_answered(port)
            except (aiomqtt.MqttError, TimeoutError):
                return False

        await until(subscribed, what="a worker that answers the nameless")
        yield stack
        await stack.close()


@contextlib.asynccontextmanager
async def _mosquitto(stack: Stack) -> AsyncIterator[None]:
    program = find_mosquitto()
    assert program is not None, "these tests need Mosquitto"
    folder = stack.home / "own-broker"
    folder.mkdir(parents=True)
    words = {shard_user(0): hub_password(stack.settings().master, shard_user(0)), "provision": "provision"}
    (folder / "passwords").write_text("".join(f"{name}:{hash_password(word)}\n" for name, word in words.items()))
    (folder / "acl").write_text(ACL)
    for secret in ("passwords", "acl"):
        (folder / secret).chmod(0o600)
    (folder / "mosquitto.conf").write_text(
        f"user root\nallow_anonymous false\npassword_file {folder}/passwords\nacl_file {folder}/acl\n"
        f"listener {stack.broker_port} 127.0.0.1\n"
    )
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, "-c", str(folder / "mosquitto.conf"), stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


def _nameless(port: int, nonce: str) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", port, username="provision", password="provision", identifier=nonce, timeout=5)


async def _is_answered(port: int) -> bool:
    nonce = secrets.token_hex(16)
    async with asyncio.timeout(1), _nameless(port, nonce) as client:
        await client.subscribe(provision_response(nonce), qos=1)
        await client.publish(f"provision/{nonce}/request", b"{}", qos=1)
        return (await anext(client.messages)).payload is not None


async def test_a_box_gets_its_name_once_and_strangers_hear_none_of_it(hub: Stack, tmp_path: Path) -> None:
    device = hub.world["devices"][0]
    asking = {
        "server": f"mqtt://127.0.0.1:{hub.broker_port}", "serial_number": device["serial_number"],
        "activation_code": device["activation_code"], "answer_s": 10.0,
    }  # fmt: skip
    stranger = secrets.token_hex(16)
    async with _nameless(hub.broker_port, stranger) as eavesdropper:
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
    asking = {
        "server": f"mqtt://127.0.0.1:{hub.broker_port}", "serial_number": device["serial_number"],
        "activation_code": device["activation_code"], "answer_s": 10.0,
    }  # fmt: skip
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
