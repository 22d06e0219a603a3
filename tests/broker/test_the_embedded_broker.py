"""What the fallback broker can do, and, so that its honest line stays true, what it cannot."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiomqtt
import pytest

from soundbox_server.broker import embedded
from soundbox_server.broker.engine import BrokerStartError, Pace
from soundbox_server.broker.health import read_health

UPLINKS = "devices/+/uplink/#"
EVENT = "devices/dev_alpha/uplink/event"


async def test_a_message_goes_from_a_device_to_the_hub_and_back(embedded_broker, heard_until):
    async with embedded_broker.client("hub-shard-0") as hub, embedded_broker.client("dev_alpha") as alpha:
        await hub.subscribe(UPLINKS, qos=1)
        await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)

        await alpha.publish(EVENT, b"up", qos=1)
        await hub.publish("devices/dev_alpha/downlink/time", b"down", qos=1)

        assert await heard_until(hub, b"up") == [(EVENT, b"up")]
        assert await heard_until(alpha, b"down") == [("devices/dev_alpha/downlink/time", b"down")]


async def test_a_retained_birth_is_there_for_a_hub_that_comes_later(embedded_broker, heard_until):
    async with embedded_broker.client("dev_alpha") as alpha:
        await alpha.publish("devices/dev_alpha/uplink/status", b"online", qos=1, retain=True)

    async with embedded_broker.client("hub-shard-0") as hub:
        await hub.subscribe(UPLINKS, qos=1)
        assert await heard_until(hub, b"online") == [("devices/dev_alpha/uplink/status", b"online")]


async def test_a_box_that_loses_power_leaves_its_will(embedded_broker, heard_until):
    will = aiomqtt.Will("devices/dev_alpha/uplink/status", b"offline", qos=1, retain=True)
    async with embedded_broker.client("hub-shard-0") as hub:
        await hub.subscribe(UPLINKS, qos=1)
        with pytest.raises(aiomqtt.MqttError):
            await _lose_power(embedded_broker.client("dev_alpha", will=will))

        assert await heard_until(hub, b"offline") == [("devices/dev_alpha/uplink/status", b"offline")]


async def test_what_the_hub_did_not_acknowledge_comes_again_in_order_and_only_that(embedded_broker, eventually):
    numbers = [str(number).encode() for number in range(50)]
    async with embedded_broker.client("dev_alpha") as alpha, _Hub(embedded_broker) as (hub, heard):
        await hub.subscribe(UPLINKS, qos=1)
        for number in numbers:
            await alpha.publish(EVENT, number, qos=1)
        await eventually(lambda: len(heard) == 50)
        for message in heard[:20]:
            hub._client.ack(message.mid, message.qos)
        await _settled(hub)
        hub._client.socket().shutdown(socket.SHUT_RDWR)

    async with _Hub(embedded_broker) as (hub, heard):
        await eventually(lambda: len(heard) >= 30 and heard[-1].payload == numbers[-1])
        again = [message.payload for message in heard]
        for message in heard:
            hub._client.ack(message.mid, message.qos)

    assert again == numbers[20:]


async def test_a_session_keeps_what_comes_while_the_hub_is_away(embedded_broker, heard_until):
    async with embedded_broker.client("hub-shard-0", clean_session=False) as hub:
        await hub.subscribe(UPLINKS, qos=1)
    async with embedded_broker.client("dev_alpha") as alpha:
        for number in range(150):
            await alpha.publish(EVENT, str(number).encode(), qos=1)

    async with embedded_broker.client("hub-shard-0", clean_session=False) as hub:
        heard = await heard_until(hub, b"149")

    assert [payload for _, payload in heard] == [str(number).encode() for number in range(150)]


async def test_a_hub_back_at_a_full_backlog_is_subscribed_as_soon_as_it_acknowledges(embedded_broker, eventually):
    """With 100 messages unacknowledged this broker answers nothing, not even a subscription: read meanwhile."""
    async with _Hub(embedded_broker) as (hub, _):
        await hub.subscribe(UPLINKS, qos=1)
    async with embedded_broker.client("dev_alpha") as alpha:
        for number in range(250):
            await alpha.publish(EVENT, str(number).encode(), qos=1)

    async with _Hub(embedded_broker) as (hub, heard):
        subscribing = asyncio.create_task(hub.subscribe(UPLINKS, qos=1, timeout=10))
        await eventually(lambda: len(heard) == 100)
        assert not subscribing.done()
        for first, last in ((0, 100), (100, 200), (200, 250)):
            await eventually(lambda last=last: len(heard) >= last)
            for message in heard[first:last]:
                hub._client.ack(message.mid, message.qos)
        await subscribing

    assert [message.payload for message in heard] == [str(number).encode() for number in range(250)]


async def test_a_second_client_of_the_same_name_takes_over(embedded_broker):
    async with embedded_broker.client("hub-shard-0") as second_to_none:
        with pytest.raises(aiomqtt.MqttError):
            async with asyncio.timeout(5), embedded_broker.client("hub-shard-0"):
                await anext(aiter(second_to_none.messages))


async def test_a_message_too_large_ends_its_sender_and_nobody_else(embedded_broker, heard_until):
    async with embedded_broker.client("hub-shard-0") as hub:
        await hub.subscribe(UPLINKS, qos=1)
        with pytest.raises(aiomqtt.MqttError):
            async with embedded_broker.client("dev_alpha") as alpha:
                await alpha.publish(EVENT, b"x" * 20_000, qos=1, timeout=2)
        async with embedded_broker.client("dev_alpha") as alpha:
            await alpha.publish(EVENT, b"y" * 10_000, qos=1)

        assert await heard_until(hub, b"y" * 10_000) == [(EVENT, b"y" * 10_000)]


async def test_it_listens_on_this_machine_only(tmp_path, free_port):
    with pytest.raises(BrokerStartError, match="this machine only"):
        await embedded.supervise(home=tmp_path, host="0.0.0.0", port=free_port, stop=asyncio.Event())


async def test_a_port_in_use_is_said_plainly(tmp_path, free_port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()

        with pytest.raises(BrokerStartError, match=f"port {free_port}"):
            await embedded.supervise(home=tmp_path, host="127.0.0.1", port=free_port, stop=asyncio.Event())


async def test_killed_it_comes_back(start_embedded, eventually, heard_until):
    async with start_embedded(pace=Pace(first_restart=0.1)) as broker:
        os.kill(broker.health.pid, signal.SIGKILL)
        await eventually(lambda: broker.health.restarts == 1 and broker.health.answering)

        async with broker.client("hub-shard-0") as hub, broker.client("dev_alpha") as alpha:
            await hub.subscribe(UPLINKS, qos=1)
            await alpha.publish(EVENT, b"again", qos=1)
            assert await heard_until(hub, b"again") == [(EVENT, b"again")]


async def test_stopping_leaves_no_process(start_embedded):
    async with start_embedded() as broker:
        pid = broker.health.pid
        assert broker.health.engine.startswith("embedded rumqttd")

    assert not Path(f"/proc/{pid}").exists()
    assert broker.health.pid is None


async def test_a_supervisor_killed_at_once_leaves_no_broker(tmp_path, free_port, eventually):
    program = (
        "import asyncio, sys; from pathlib import Path; from soundbox_server.broker.embedded import supervise\n"
        "asyncio.run(supervise(home=Path(sys.argv[1]), host='127.0.0.1', port=int(sys.argv[2]), stop=asyncio.Event()))"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program, tmp_path, str(free_port)])
    try:
        await eventually(lambda: (health := read_health(tmp_path)) is not None and health.answering)
    finally:
        supervisor.kill()
        supervisor.wait()

    def nobody_listens() -> bool:
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", free_port)) != 0

    await eventually(nobody_listens)


async def test_the_honest_line_is_true(embedded_broker, heard_until, is_admitted):
    """If one of these begins to fail, the broker has learned something: change the line, and be glad."""
    async with embedded_broker.client("dev_bravo", password="anything") as bravo:
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)
        async with embedded_broker.client("dev_alpha", password="whatever") as alpha:
            await alpha.publish("devices/dev_bravo/downlink/time", b"forged", qos=1)

        assert await heard_until(bravo, b"forged")
    five = embedded_broker.client("dev_alpha", protocol=aiomqtt.ProtocolVersion.V5, timeout=1)
    assert not await is_admitted(five)

    for fact in ("this machine only", "MQTT 3.1.1", "no passwords", "per-device topic rights", "forgets sessions"):
        assert fact in embedded.honest_line(asked_for=True)
    assert "\n" not in embedded.HONEST_LINE
    assert "not found" not in embedded.honest_line(asked_for=True)
    assert "Mosquitto was not found" in embedded.honest_line(asked_for=False)


async def _lose_power(client: aiomqtt.Client) -> None:
    async with client:
        client._client.socket().shutdown(socket.SHUT_RDWR)
        await anext(aiter(client.messages))


class _Hub:
    """The hub's way to listen: a session that stays, and acknowledgement by hand."""

    def __init__(self, broker) -> None:
        self._client = broker.client("hub-shard-0", clean_session=False)
        self._client._client.manual_ack_set(True)
        self._heard = []

    async def __aenter__(self):
        await self._client.__aenter__()
        self._listening = asyncio.create_task(self._listen())
        return self._client, self._heard

    async def __aexit__(self, *_):
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        try:
            await self._client.__aexit__(None, None, None)
        except aiomqtt.MqttError:
            return

    async def _listen(self):
        async for message in self._client.messages:
            self._heard.append(message)


async def _settled(client: aiomqtt.Client) -> None:
    """What was written before this publish has been read by the broker when it is answered."""
    await client.publish("devices/dev_alpha/downlink/time", b"after the acks", qos=1)
