"""Rights, looked at from the victim's side: an MQTT 3.1.1 broker answers a denied publish with success."""

import aiomqtt
import pytest

MARK = b"the last message of this test"


async def test_what_a_device_publishes_for_another_reaches_nobody(broker, heard_until):
    async with (
        broker.client("hub-shard-0") as hub,
        broker.client("dev_bravo") as bravo,
        broker.client("dev_alpha") as alpha,
    ):
        await hub.subscribe("devices/+/uplink/#", qos=1)
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)

        await alpha.publish("devices/dev_bravo/uplink/status", b"forged", qos=1, retain=True)
        await alpha.publish("devices/dev_bravo/downlink/payment/success", b"forged", qos=1, retain=True)
        await alpha.publish("devices/dev_alpha/downlink/payment/success", b"forged", qos=1)
        await alpha.publish("devices/dev_alpha", b"forged", qos=1)
        await alpha.publish("elsewhere", b"forged", qos=1)
        await alpha.publish("devices/dev_alpha/uplink/event", MARK, qos=1)
        await hub.publish("devices/dev_bravo/downlink/payment/success", MARK, qos=1)

        assert await heard_until(hub, MARK) == [("devices/dev_alpha/uplink/event", MARK)]
        assert await heard_until(bravo, MARK) == [("devices/dev_bravo/downlink/payment/success", MARK)]


async def test_a_forged_retained_message_waits_for_nobody(broker, heard_until):
    async with broker.client("dev_alpha") as alpha:
        await alpha.publish("devices/dev_bravo/downlink/payment/success", b"forged", qos=1, retain=True)
        await alpha.publish("devices/dev_alpha/uplink/status", b"mine", qos=1, retain=True)

    async with broker.client("dev_bravo") as bravo, broker.client("hub-shard-0") as hub:
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)
        await hub.subscribe("devices/+/uplink/#", qos=1)
        await hub.publish("devices/dev_bravo/downlink/payment/success", MARK, qos=1)

        assert await heard_until(bravo, MARK) == [("devices/dev_bravo/downlink/payment/success", MARK)]
        assert await heard_until(hub, b"mine") == [("devices/dev_alpha/uplink/status", b"mine")]


@pytest.mark.parametrize(
    "topic_filter",
    [
        "devices/dev_bravo/downlink/#",
        "devices/dev_bravo/downlink/payment/success",
        "devices/+/downlink/#",
        "devices/#",
        "devices/+/uplink/#",
        "+/+/+/+/+",
        "#",
        "$SYS/#",
        "$share/group/devices/+/downlink/#",
    ],
)
async def test_a_device_overhears_nothing_whatever_it_subscribes_to(broker, heard_until, topic_filter):
    async with (
        broker.client("hub-pub-7") as hub,
        broker.client("dev_bravo") as bravo,
        broker.client("dev_alpha") as alpha,
    ):
        await _try_to_subscribe(alpha, topic_filter)
        await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)

        await bravo.publish("devices/dev_bravo/uplink/event", b"not for alpha", qos=1)
        await hub.publish("devices/dev_bravo/downlink/payment/success", b"for bravo", qos=1)
        await hub.publish("devices/dev_alpha/downlink/payment/success", MARK, qos=1)

        assert set(await heard_until(alpha, MARK)) == {("devices/dev_alpha/downlink/payment/success", MARK)}
        assert await heard_until(bravo, b"for bravo") == [("devices/dev_bravo/downlink/payment/success", b"for bravo")]


async def test_a_device_cannot_leave_a_last_will_in_anothers_name(broker, heard_until, is_admitted):
    forged = aiomqtt.Will("devices/dev_bravo/uplink/status", b"offline, says alpha", qos=1, retain=True)
    own = aiomqtt.Will("devices/dev_alpha/uplink/status", MARK, qos=1)
    async with broker.client("hub-shard-0") as hub:
        await hub.subscribe("devices/+/uplink/#", qos=1)

        if await is_admitted(broker.client("dev_alpha", will=forged)):
            await _vanish(broker.client("dev_alpha", will=forged))
        await _vanish(broker.client("dev_alpha", will=own))

        assert await heard_until(hub, MARK) == [("devices/dev_alpha/uplink/status", MARK)]


async def test_a_client_id_is_worth_nothing_without_its_name(broker, heard_until):
    async with broker.client("dev_bravo") as bravo, broker.client("hub-pub-0") as hub:
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)

        async with broker.client("dev_alpha", identifier="dev_bravo") as alpha:
            await alpha.subscribe("devices/dev_bravo/downlink/#", qos=1)
            await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)
            await hub.publish("devices/dev_bravo/downlink/payment/success", MARK, qos=1)
            await hub.publish("devices/dev_alpha/downlink/payment/success", MARK, qos=1)

            assert await heard_until(alpha, MARK) == [("devices/dev_alpha/downlink/payment/success", MARK)]
        assert await heard_until(bravo, MARK) == [("devices/dev_bravo/downlink/payment/success", MARK)]


async def test_a_wrong_password_an_unknown_name_and_no_name_are_refused(broker, is_admitted):
    nameless = aiomqtt.Client("127.0.0.1", broker.port, identifier="dev_alpha", timeout=5)

    assert await is_admitted(broker.client("dev_alpha"))
    assert not await is_admitted(broker.client("dev_alpha", password="secret of dev_bravo"))
    assert not await is_admitted(broker.client("dev_alpha", password=""))
    assert not await is_admitted(broker.client("dev_charlie", password="none"))
    assert not await is_admitted(broker.client("hub-shard-0", password="secret of dev_alpha"))
    assert not await is_admitted(nameless)


async def test_a_publisher_speaks_to_devices_but_does_not_hear_them(broker, heard_until):
    async with broker.client("hub-pub-31") as publisher, broker.client("dev_alpha") as alpha:
        await _try_to_subscribe(publisher, "devices/+/uplink/#")
        await _try_to_subscribe(publisher, "devices/+/downlink/#")
        await publisher.subscribe("devices/hub-pub-31/downlink/#", qos=1)
        await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)

        await alpha.publish("devices/dev_alpha/uplink/event", b"not for a publisher", qos=1)
        await publisher.publish("devices/dev_alpha/uplink/event", b"forged", qos=1)
        await publisher.publish("devices/dev_alpha/downlink/payment/success", b"for alpha", qos=1)
        await publisher.publish("devices/hub-pub-31/downlink/x", MARK, qos=1)

        assert await heard_until(publisher, MARK) == [("devices/hub-pub-31/downlink/x", MARK)]
        assert await heard_until(alpha, b"for alpha") == [("devices/dev_alpha/downlink/payment/success", b"for alpha")]


async def test_the_probe_reads_the_brokers_figures_and_no_devices_words(broker, heard_until):
    async with (
        broker.client("hub-probe") as probe,
        broker.client("dev_alpha") as alpha,
        broker.client("hub-pub-0") as hub,
    ):
        await _try_to_subscribe(probe, "devices/#")
        await probe.subscribe("devices/hub-probe/downlink/#", qos=1)
        await alpha.publish("devices/dev_alpha/uplink/event", b"not for the probe", qos=1)
        await probe.publish("devices/dev_alpha/downlink/payment/success", b"forged", qos=1)
        await hub.publish("devices/hub-probe/downlink/x", MARK, qos=1)
        assert await heard_until(probe, MARK) == [("devices/hub-probe/downlink/x", MARK)]

        await probe.subscribe("$SYS/broker/version")

        message = await anext(aiter(probe.messages))
        assert message.payload.startswith(b"mosquitto version")


async def _try_to_subscribe(client: aiomqtt.Client, topic_filter: str) -> None:
    """Newer brokers refuse, older ones say yes and deliver nothing; both will do."""
    try:
        await client.subscribe(topic_filter, qos=1)
    except aiomqtt.MqttError:
        return


async def _vanish(client: aiomqtt.Client) -> None:
    """Be cut off like a box that loses power: the broker publishes the will."""
    try:
        async with client:
            client._client.socket().shutdown(2)
            async for _ in client.messages:
                pass
    except aiomqtt.MqttError:
        return
