"""Rights, looked at from the victim's side: an MQTT 3.1.1 broker answers a denied publish with success."""

import contextlib
from random import Random

import aiomqtt
import pytest

MARK = b"the last message of this test"
FUZZED = 300
PIECES = (
    *("devices", "dev_alpha", "dev_bravo", "hub-shard-0", "uplink", "downlink", "payment", "success", "status"),
    *("provision", "request", "response", "+", "#", "$SYS", "$share", "group", "broker", "version", "$CONTROL"),
    *(
        "",
        " ",
        "..",
        ".",
        "%u",
        "%c",
        "*",
        "dev_bravo ",
        "DEV_BRAVO",
        "dev_brav",
        "dev_bravoo",
        "d%65v_bravo",
        "ｄev_bravo",
    ),
)
WHOLE = (
    *(
        "devices/dev_bravo/downlink/payment/success",
        "devices/dev_bravo/uplink/event",
        "devices/dev_bravo/uplink/status",
    ),
    *("devices/dev_alpha/downlink/payment/success", "provision/0123456789abcdef0123456789abcdef/request"),
    *("provision/0123456789abcdef0123456789abcdef/response", "$SYS/broker/version"),
)


@pytest.fixture
def broker(each_listener):
    """Every test here, over the plain listener and over TLS."""
    return each_listener


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


@pytest.mark.parametrize("seed", range(2))
async def test_no_generated_topic_reaches_a_victim(broker, heard_until, seed):
    random = Random(seed)
    async with broker.client("hub-shard-0") as hub, broker.client("dev_bravo") as bravo:
        for topic_filter in ("devices/+/uplink/#", "provision/+/request"):
            await hub.subscribe(topic_filter, qos=1)
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)

        for topic in {_generated(random, wild=False) for _ in range(FUZZED)}:
            await _try_to_publish(broker, topic, retain=random.random() < 0.3)
        await hub.publish("devices/dev_bravo/downlink/payment/success", MARK, qos=1)
        async with broker.client("dev_alpha") as alpha:
            await alpha.publish("devices/dev_alpha/uplink/event", MARK, qos=1)

        assert await heard_until(bravo, MARK) == [("devices/dev_bravo/downlink/payment/success", MARK)]
        heard = await heard_until(hub, MARK)
        assert [topic for topic, _ in heard if not f"{topic}/".startswith("devices/dev_alpha/uplink/")] == []


@pytest.mark.parametrize("seed", range(2))
async def test_no_generated_filter_overhears_anybody(broker, heard_until, seed):
    random = Random(seed)
    async with broker.client("hub-shard-0") as hub, broker.client("dev_bravo") as bravo:
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)
        await _speak_of_bravo(hub, bravo)  # retained: what waits for the subscriber
        for topic_filter in {_generated(random, wild=True) for _ in range(FUZZED)}:
            # One session, a connection each: the broker may hang up on what it finds malformed.
            with contextlib.suppress(aiomqtt.MqttError):
                async with broker.client("dev_alpha", clean_session=False) as alpha:
                    await _try_to_subscribe(alpha, topic_filter)
        async with broker.client("dev_alpha", clean_session=False) as alpha:
            await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)

            await _speak_of_bravo(hub, bravo)
            await hub.publish("devices/dev_alpha/downlink/payment/success", MARK, qos=1)
            await hub.publish("devices/dev_bravo/downlink/payment/success", MARK, qos=1)

            # Overlapping subscriptions may deliver the same message more than once.
            assert set(await heard_until(alpha, MARK)) == {("devices/dev_alpha/downlink/payment/success", MARK)}
        assert len(await heard_until(bravo, MARK)) == 3


async def _speak_of_bravo(hub: aiomqtt.Client, bravo: aiomqtt.Client) -> None:
    for topic in ("uplink/event", "uplink/status", "uplink/payment/ack"):
        await bravo.publish(f"devices/dev_bravo/{topic}", b"of bravo", qos=1, retain=True)
    for topic in ("devices/dev_bravo/downlink/x", "provision/0123456789abcdef0123456789abcdef/response"):
        await hub.publish(topic, b"not for alpha", qos=1, retain=True)


def _generated(random: Random, *, wild: bool) -> str:
    """A real topic with something changed, or pieces at random; wildcards only where a filter may have them."""
    pieces = [piece for piece in PIECES if wild or piece not in ("+", "#")]
    if random.random() < 0.4:
        levels = [random.choice(pieces) for _ in range(random.randint(1, 6))]
    else:
        levels = random.choice(WHOLE).split("/")
        for _ in range(random.randint(0, 2)):
            levels[random.randrange(len(levels))] = random.choice(pieces)
    if wild and random.random() < 0.2:
        levels = ["$share", "group", *levels]
    return "/".join(levels) or "x"


async def _try_to_publish(broker, topic: str, *, retain: bool) -> None:
    """By a client of its own: the broker may hang up on what it finds malformed."""
    try:
        async with broker.client("dev_alpha") as alpha:
            await alpha.publish(topic, b"forged", qos=1, retain=retain)
    except (aiomqtt.MqttError, ValueError):
        return


async def _try_to_subscribe(client: aiomqtt.Client, topic_filter: str) -> None:
    """Newer brokers refuse, older ones say yes and deliver nothing; both will do. So will a filter that is none."""
    try:
        await client.subscribe(topic_filter, qos=1)
    except (aiomqtt.MqttError, ValueError):
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
