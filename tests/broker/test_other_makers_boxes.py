"""The third broker, plain and with users of its own: looked at from the victims' side."""

import asyncio
import contextlib

import aiomqtt
import pytest

MARK = b"the last message of this test"


async def bridged(hub, box):
    """Until what the hub says reaches this box: the bridge comes up a moment after its broker."""
    async with asyncio.timeout(15):
        while True:
            await hub.publish("soundbox/SN0001/down", b"are you there", qos=0)
            try:
                async with asyncio.timeout(0.2):
                    await anext(aiter(box.messages))
                    return
            except TimeoutError:
                continue


@pytest.fixture
async def shop(three_brokers, heard_until):
    """A hub that hears everything, and a box that hears it."""
    async with three_brokers.client("hub-shard-0") as hub, three_brokers.foreign("SN0001") as box:
        await hub.subscribe("soundbox/+/down/heartbeat", qos=1)
        await hub.subscribe("devices/+/uplink/#", qos=1)
        await box.subscribe("soundbox/SN0001/down", qos=1)
        await bridged(hub, box)
        await hub.publish("soundbox/SN0001/down", b"from here on", qos=0)  # behind what was said meanwhile
        await heard_until(box, b"from here on")
        yield three_brokers, hub, box


async def test_what_the_hub_says_reaches_the_box_and_its_heartbeat_the_hub(shop, heard_until):
    _, hub, box = shop

    await hub.publish("soundbox/SN0001/down", MARK, qos=0)
    await box.publish("soundbox/SN0001/down/heartbeat", b"alive", qos=1, retain=True)

    assert await heard_until(box, MARK) == [("soundbox/SN0001/down", MARK)]
    assert await heard_until(hub, b"alive") == [("soundbox/SN0001/down/heartbeat", b"alive")]


@pytest.mark.parametrize(
    "topic_filter",
    ["#", "soundbox/#", "soundbox/+/down", "soundbox/SN0001/down", "soundbox/+/down/heartbeat", "devices/#",
     "devices/SN0002/downlink/#", "$share/g/soundbox/+/down", "$SYS/#", "+/+/+"],
)  # fmt: skip
async def test_a_box_overhears_nothing_whatever_it_subscribes_to(shop, heard_until, topic_filter):
    broker, hub, box = shop
    async with broker.foreign("SN0002") as rogue:
        with contextlib.suppress(aiomqtt.MqttError):  # refused outright, which is as well
            await rogue.subscribe(topic_filter, qos=1)
        await rogue.subscribe("soundbox/SN0002/down", qos=1)

        await hub.publish("soundbox/SN0001/down", b"for the victim", qos=0)
        await box.publish("soundbox/SN0001/down/heartbeat", b"alive", qos=0)
        await heard_until(hub, b"alive")
        await hub.publish("soundbox/SN0002/down", MARK, qos=0)

        assert set(await heard_until(rogue, MARK)) == {("soundbox/SN0002/down", MARK)}
        assert await heard_until(box, b"for the victim") == [("soundbox/SN0001/down", b"for the victim")]


async def test_nobody_speaks_to_a_box_or_lives_in_its_name_but_those_who_may(shop, heard_until):
    broker, hub, box = shop
    async with broker.foreign("SN0002") as rogue, broker.client("dev_bravo") as bravo:
        await bravo.subscribe("devices/dev_bravo/downlink/#", qos=1)
        for topic in (
            "soundbox/SN0001/down", "soundbox/SN0001/down/heartbeat", "soundbox/SN0002/down", "soundbox/SN0001/up",
            "devices/dev_bravo/downlink/payment/success", "devices/dev_bravo/uplink/event",
            "devices/SN0002/uplink/event",
        ):  # fmt: skip
            await rogue.publish(topic, b"forged", qos=1)
        await bravo.publish("soundbox/SN0001/down", b"forged", qos=1)
        await bravo.publish("soundbox/SN0001/down/heartbeat", b"forged", qos=1)
        await bravo.publish("devices/dev_bravo/uplink/event", b"bravo's last", qos=1)
        await heard_until(hub, b"bravo's last")
        await rogue.publish("soundbox/SN0002/down/heartbeat", MARK, qos=1)

        assert await heard_until(hub, MARK) == [("soundbox/SN0002/down/heartbeat", MARK)]
        await hub.publish("soundbox/SN0001/down", MARK, qos=0)
        await hub.publish("devices/dev_bravo/downlink/x", MARK, qos=1)
        assert await heard_until(box, MARK) == [("soundbox/SN0001/down", MARK)]
        assert await heard_until(bravo, MARK) == [("devices/dev_bravo/downlink/x", MARK)]


async def test_each_broker_knows_its_own_users_only(shop, is_admitted):
    broker, _, _ = shop
    passwords = broker.registry.passwords

    for name in ("dev_alpha", "hub-shard-0", "hub-legacy", "hub-pub-0", "hub-supervisor", "provision"):
        assert not await is_admitted(broker.foreign(name, password=passwords.get(name)))
    assert not await is_admitted(broker.client("SN0001"))
    assert not await is_admitted(broker.foreign("SN0001", password="secret of SN0002"))
    assert not await is_admitted(aiomqtt.Client("127.0.0.1", broker.legacy_port, identifier="nobody", timeout=5))


async def test_a_client_id_takes_nobodys_place(shop, heard_until):
    broker, hub, box = shop
    for taken in ("soundbox-SN0001", "SN0001", "hub-legacy"):
        async with broker.foreign("SN0002", identifier=taken):
            await hub.publish("soundbox/SN0001/down", taken.encode(), qos=0)
            assert await heard_until(box, taken.encode()) == [("soundbox/SN0001/down", taken.encode())]


async def test_nothing_is_kept_for_a_box_that_is_away(shop, heard_until):
    broker, hub, _ = shop
    async with broker.foreign("SN0002", clean_session=False) as away:
        await away.subscribe("soundbox/SN0002/down", qos=1)
    await hub.publish("soundbox/SN0002/down", b"a payment of an hour ago", qos=0)
    await hub.publish("soundbox/SN0001/down", MARK, qos=0)
    await heard_until(shop[2], MARK)

    async with broker.foreign("SN0002", clean_session=False) as back:
        await back.subscribe("soundbox/SN0002/down", qos=1)
        await hub.publish("soundbox/SN0002/down", MARK, qos=0)
        assert await heard_until(back, MARK) == [("soundbox/SN0002/down", MARK)]


async def test_a_revoked_box_and_one_with_a_new_password_are_cut_off(shop, eventually, is_admitted):
    broker, _, box = shop
    cut = asyncio.create_task(anext(aiter(box.messages)))
    broker.registry.passwords["SN0001"] = "another"
    broker.registry.serials["SN0001"] = broker.registry.rows["dev_alpha"]  # anybody's but the old one
    broker.registry.number += 1

    with pytest.raises(aiomqtt.MqttError):
        await asyncio.wait_for(cut, 20)

    del broker.registry.serials["SN0002"]
    broker.registry.number += 1
    await broker.legacy_applied()
    assert not await is_admitted(broker.foreign("SN0002"))
    assert await is_admitted(broker.client("dev_alpha"))
