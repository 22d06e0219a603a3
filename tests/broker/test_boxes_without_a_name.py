"""The second broker, where everybody knows the user and the password: looked at from the victims' side."""

import asyncio
import os
import resource
import signal
from pathlib import Path
from random import Random

import aiomqtt
import pytest

from soundbox_server.broker.health import FILE_NAME, PROVISIONING_FILE_NAME, read_health
from soundbox_server.broker.mosquitto import PROVISIONING_CONNECTIONS, files_in

VICTIM = "0123456789abcdef0123456789abcdef"
ROGUE = "fedcba9876543210fedcba9876543210"
MARK = b"the last message of this test"


async def test_a_request_reaches_the_hub_and_its_answer_the_box(two_brokers, heard_until):
    async with two_brokers.client("hub-shard-0") as hub, two_brokers.nameless(VICTIM) as box:
        await hub.subscribe("provision/+/request", qos=1)
        await box.subscribe(f"provision/{VICTIM}/response", qos=1)
        await box.publish(f"provision/{VICTIM}/request", b"who am I", qos=1)

        assert await heard_until(hub, b"who am I") == [(f"provision/{VICTIM}/request", b"who am I")]

        await hub.publish(f"provision/{VICTIM}/response", MARK, qos=1)

        assert await heard_until(box, MARK) == [(f"provision/{VICTIM}/response", MARK)]


@pytest.mark.parametrize(
    "topic_filter",
    [
        *("#", "+/#", "provision/#", "provision/+/request", "provision/+/response", "+/+/+", "$SYS/#", "devices/#"),
        *(f"provision/{VICTIM}/request", f"provision/{VICTIM}/response", f"provision/{VICTIM}/#"),
        *("$share/group/provision/+/response", "$share/group/provision/#", "$CONTROL/#", f"provision/{ROGUE}/#"),
    ],
)
async def test_who_does_not_know_the_nonce_overhears_nothing(two_brokers, heard_until, topic_filter):
    async with (
        two_brokers.client("hub-shard-0") as hub,
        two_brokers.nameless(VICTIM) as victim,
        two_brokers.nameless(ROGUE) as rogue,
    ):
        await hub.subscribe("provision/+/request", qos=1)
        await _try(rogue.subscribe(topic_filter, qos=1))
        await rogue.subscribe(f"provision/{ROGUE}/response", qos=1)
        await victim.subscribe(f"provision/{VICTIM}/response", qos=1)

        await victim.publish(f"provision/{VICTIM}/request", b"who am I", qos=1)
        await heard_until(hub, b"who am I")
        await hub.publish(f"provision/{VICTIM}/response", b"you are bravo", qos=1)
        await hub.publish(f"provision/{ROGUE}/response", MARK, qos=1)

        assert set(await heard_until(rogue, MARK)) == {(f"provision/{ROGUE}/response", MARK)}
        assert await heard_until(victim, b"you are bravo") == [(f"provision/{VICTIM}/response", b"you are bravo")]


async def test_nobody_asks_or_answers_in_anothers_name(two_brokers, heard_until):
    async with (
        two_brokers.client("hub-shard-0") as hub,
        two_brokers.client("dev_alpha", tls=True) as alpha,
        two_brokers.nameless(VICTIM) as victim,
        two_brokers.nameless(ROGUE) as rogue,
    ):
        for topic_filter in ("provision/#", "devices/#"):
            await hub.subscribe(topic_filter, qos=1)
        await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)
        await victim.subscribe(f"provision/{VICTIM}/response", qos=1)

        for topic in (
            *(
                f"provision/{VICTIM}/request",
                f"provision/{VICTIM}/response",
                f"provision/{ROGUE}/response",
                "provision",
            ),
            *("devices/dev_alpha/downlink/payment/success", "devices/dev_alpha/uplink/event", "provision//request"),
            *(f"provision/{ROGUE}/request/more", f"provision/{ROGUE}", "$SYS/broker/x", "provision/dev_alpha/request"),
        ):
            await _try(rogue.publish(topic, b"forged", qos=1))
            await _try(alpha.publish(topic, b"forged", qos=1) if "dev_alpha/uplink" not in topic else asyncio.sleep(0))
        await rogue.publish(f"provision/{ROGUE}/request", MARK, qos=1)
        heard = await heard_until(hub, MARK)
        await hub.publish(f"provision/{VICTIM}/response", MARK, qos=1)
        await hub.publish("devices/dev_alpha/downlink/x", MARK, qos=1)

        assert heard == [(f"provision/{ROGUE}/request", MARK)]
        assert await heard_until(victim, MARK) == [(f"provision/{VICTIM}/response", MARK)]
        assert await heard_until(alpha, MARK) == [("devices/dev_alpha/downlink/x", MARK)]


@pytest.mark.parametrize("seed", range(2))
async def test_no_generated_client_id_speaks_or_hears_outside_its_own(two_brokers, heard_until, seed):
    """The id stands in the rule itself: one with a wildcard or a slash in it must not widen the rule."""
    random = Random(seed)
    pieces = ("+", "#", "/", VICTIM, "request", "response", "..", "%c", "a", " ", "provision", "$SYS")
    async with two_brokers.client("hub-shard-0") as hub, two_brokers.nameless(VICTIM) as victim:
        await hub.subscribe("provision/#", qos=1)
        await victim.subscribe(f"provision/{VICTIM}/response", qos=1)
        for _ in range(60):
            rogue_id = "".join(random.choice(pieces) for _ in range(random.randint(1, 5))).replace(VICTIM, "v", 1)
            await _try(_ask_as(two_brokers, rogue_id, [f"provision/{VICTIM}/request", f"provision/{VICTIM}/response"]))
        await victim.publish(f"provision/{VICTIM}/request", MARK, qos=1)
        heard = await heard_until(hub, MARK)
        await hub.publish(f"provision/{VICTIM}/response", MARK, qos=1)

        assert [payload for topic, payload in heard if topic == f"provision/{VICTIM}/request"] == [MARK]
        assert await heard_until(victim, MARK) == [(f"provision/{VICTIM}/response", MARK)]


async def test_a_stranger_named_like_a_box_or_the_hub_takes_nobodys_session(two_brokers, heard_until):
    async with two_brokers.client("hub-shard-0") as hub, two_brokers.client("dev_alpha", tls=True) as alpha:
        await hub.subscribe("devices/+/uplink/#", qos=1)
        await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)

        for name in ("dev_alpha", "hub-shard-0", "hub-pub-0", "hub-provision", "hub-supervisor", "provision"):
            async with two_brokers.nameless(name) as stranger:
                await _try(stranger.publish("devices/dev_alpha/uplink/event", b"forged", qos=1))
        await alpha.publish("devices/dev_alpha/uplink/event", MARK, qos=1)
        await hub.publish("devices/dev_alpha/downlink/x", MARK, qos=1)

        assert await heard_until(hub, MARK) == [("devices/dev_alpha/uplink/event", MARK)]
        assert await heard_until(alpha, MARK) == [("devices/dev_alpha/downlink/x", MARK)]


async def test_names_and_passwords_of_each_broker_open_only_that_one(two_brokers, is_admitted):
    assert await is_admitted(two_brokers.nameless(VICTIM))
    assert not await is_admitted(two_brokers.nameless(VICTIM, password="guess"))
    assert not await is_admitted(two_brokers.nameless(VICTIM, user="dev_alpha", password="secret of dev_alpha"))
    for tls in (False, True):
        assert not await is_admitted(two_brokers.client("provision", password="provision", tls=tls))


async def test_what_is_too_large_or_to_be_kept_is_not_taken(two_brokers, heard_until):
    async with two_brokers.client("hub-shard-0") as hub:
        await hub.subscribe("provision/+/request", qos=1)
        async with two_brokers.nameless(ROGUE) as rogue:
            with pytest.raises(aiomqtt.MqttError):
                await rogue.publish(f"provision/{ROGUE}/request", b"x" * 5000, qos=1, timeout=1)
        async with two_brokers.nameless(ROGUE) as rogue:
            with pytest.raises(aiomqtt.MqttError):
                await rogue.publish(f"provision/{ROGUE}/request", b"kept", qos=1, retain=True, timeout=1)
        async with two_brokers.nameless(VICTIM) as victim:
            await victim.publish(f"provision/{VICTIM}/request", MARK, qos=1)

            assert await heard_until(hub, MARK) == [(f"provision/{VICTIM}/request", MARK)]


async def test_it_may_open_so_many_files_and_no_more_whatever_knocks(two_brokers):
    health = read_health(two_brokers.home, file_name=PROVISIONING_FILE_NAME)
    assert health is not None
    assert health.pid is not None

    soft, _ = resource.prlimit(health.pid, resource.RLIMIT_NOFILE)

    assert soft == PROVISIONING_CONNECTIONS + 56


async def test_either_broker_killed_the_way_opens_again(two_brokers, eventually, heard_until):
    for file_name in (PROVISIONING_FILE_NAME, FILE_NAME):
        killed = read_health(two_brokers.home, file_name=file_name)
        assert killed is not None
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        await eventually(lambda name=file_name, old=killed.pid: _is_back(two_brokers, name, old))

        async with two_brokers.client("hub-shard-0") as hub:
            await hub.subscribe("provision/+/request", qos=1)
            await _until_heard(two_brokers, hub)


async def test_its_files_are_nobody_elses(two_brokers):
    files = files_in(two_brokers.home).provisioning

    for path in (files.config, files.passwords, files.acl):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_stopping_ends_both(start_mosquitto, tls_setup, free_port):
    async with start_mosquitto(tls=tls_setup(provision_port=free_port)) as broker:
        names = (FILE_NAME, PROVISIONING_FILE_NAME)
        pids = [health.pid for name in names if (health := read_health(broker.home, file_name=name))]
        home = broker.home

    assert len(pids) == 2
    for name, pid in zip(names, pids, strict=True):
        assert not Path(f"/proc/{pid}").exists()
        health = read_health(home, file_name=name)
        assert health is not None
        assert (health.pid, health.answering) == (None, False)


async def _try(work) -> None:
    """Newer brokers refuse what older ones drop; a client may also be cut off for it. Either will do."""
    try:
        async with asyncio.timeout(2):
            await work
    except (aiomqtt.MqttError, ValueError, TimeoutError):
        return


async def _ask_as(broker, client_id: str, topics: list[str]) -> None:
    async with broker.nameless(client_id) as rogue:
        for topic in topics:
            await rogue.subscribe(topic, qos=1)
            await rogue.publish(topic, b"forged", qos=1)


def _is_back(broker, file_name: str, old_pid: int) -> bool:
    health = read_health(broker.home, file_name=file_name)
    return health is not None and health.answering and health.pid not in (None, old_pid)


async def _until_heard(broker, hub: aiomqtt.Client) -> None:
    """A box asks again and again, as boxes do: the bridge comes back a little after its brokers."""
    async with asyncio.timeout(30), broker.nameless(VICTIM) as box:
        while True:
            await box.publish(f"provision/{VICTIM}/request", b"again", qos=1)
            try:
                async with asyncio.timeout(0.5):
                    await anext(aiter(hub.messages))
                return
            except TimeoutError:
                continue
