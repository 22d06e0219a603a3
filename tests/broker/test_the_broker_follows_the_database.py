import asyncio
import os
import signal
import time

import aiomqtt
import pytest

from soundbox_server.broker.engine import Pace
from soundbox_server.broker.mosquitto import files_in
from soundbox_server.broker.passwords import hash_password


async def test_a_new_device_gets_in(broker, registry, is_admitted):
    assert not await is_admitted(broker.client("dev_charlie"))

    registry.add("dev_charlie")
    await broker.applied()

    assert await is_admitted(broker.client("dev_charlie"))


@pytest.mark.timed
async def test_a_revoked_device_is_off_within_two_seconds_and_stays_out(broker, registry, is_admitted):
    async with broker.client("dev_alpha") as alpha:
        registry.remove("dev_alpha")
        revoked_at = time.monotonic()
        with pytest.raises(aiomqtt.MqttError):
            async with asyncio.timeout(2):
                await anext(aiter(alpha.messages))

    assert time.monotonic() - revoked_at < 2
    assert not await is_admitted(broker.client("dev_alpha"))
    assert await is_admitted(broker.client("dev_bravo"))


async def test_a_revocation_does_not_wait_for_its_turn(start_mosquitto, registry, eventually):
    never = Pace(settle=60, between_reloads=60)
    async with start_mosquitto(pace=never) as broker:
        registry.add("dev_charlie")
        asked = registry.asked
        await eventually(lambda: registry.asked >= asked + 3)
        assert broker.health.reloads == 0

        registry.remove("dev_alpha")

        await broker.applied()
        assert broker.health.reloads == 1


async def test_a_replaced_password_ends_the_old_session(broker, registry, is_admitted):
    async with broker.client("dev_alpha") as alpha:
        registry.rows["dev_alpha"] = hash_password("the new one")
        registry.number += 1
        with pytest.raises(aiomqtt.MqttError):
            async with asyncio.timeout(20):
                await anext(aiter(alpha.messages))

    assert not await is_admitted(broker.client("dev_alpha"))
    assert await is_admitted(broker.client("dev_alpha", password="the new one"))


async def test_a_reload_disturbs_nobody_else(broker, registry, heard_until):
    async with broker.client("dev_bravo") as bravo, broker.client("hub-shard-0") as hub:
        await hub.subscribe("devices/+/uplink/#", qos=1)
        registry.remove("dev_alpha")
        await broker.applied()

        await bravo.publish("devices/dev_bravo/uplink/event", b"still here", qos=1)

        assert await heard_until(hub, b"still here") == [("devices/dev_bravo/uplink/event", b"still here")]


async def test_devices_that_come_without_pause_share_reloads_one_a_second(start_mosquitto, registry, eventually):
    async def add_one_with_each_question() -> int:
        registry.add(f"dev_{registry.number:03}")
        return await type(registry).revision(registry)

    registry.revision = add_one_with_each_question
    async with start_mosquitto(pace=Pace(poll=0.02)) as broker:
        started, before = time.monotonic(), broker.health.reloads
        await eventually(lambda: broker.health.reloads >= before + 3)
        seconds, reloads, added = time.monotonic() - started, broker.health.reloads - before, len(registry.rows)

    assert reloads <= seconds + 1
    assert added > 10 * reloads


async def test_a_revision_that_moved_for_nothing_costs_no_reload(broker, registry):
    registry.number += 1

    await broker.applied()

    assert broker.health.reloads == 0


async def test_while_the_database_is_away_the_broker_goes_on_and_catches_up_later(
    broker, registry, eventually, is_admitted
):
    registry.away = True
    registry.add("dev_charlie")
    await eventually(lambda: "the database is away" in (broker.health.last_error or ""))
    assert await is_admitted(broker.client("dev_alpha"))
    assert not await is_admitted(broker.client("dev_charlie"))

    registry.away = False

    await broker.applied()
    assert await is_admitted(broker.client("dev_charlie"))


async def test_a_start_without_the_database_serves_whom_the_last_file_knows(start_mosquitto, registry, is_admitted):
    async with start_mosquitto() as broker:
        passwords = files_in(broker.home).passwords
    another_masters = f"hub-shard-0:{hash_password('of another master key')}\n"
    lines = passwords.read_text().splitlines(keepends=True)
    passwords.write_text("".join(another_masters if line.startswith("hub-shard-0") else line for line in lines))
    registry.away = True

    async with start_mosquitto() as broker:
        assert await is_admitted(broker.client("dev_alpha"))
        assert await is_admitted(broker.client("hub-shard-0"))
        assert broker.health.applied_revision is None


async def test_a_first_start_without_the_database_lets_the_hub_in_and_then_the_devices(
    start_mosquitto, registry, is_admitted
):
    registry.away = True
    async with start_mosquitto() as broker:
        assert await is_admitted(broker.client("hub-shard-0"))
        assert not await is_admitted(broker.client("dev_alpha"))

        registry.away = False

        await broker.applied()
        assert await is_admitted(broker.client("dev_alpha"))


async def test_a_database_that_never_answers_delays_nothing_else(start_mosquitto, registry, eventually, is_admitted):
    async def never() -> int:
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    registry.revision = never
    async with start_mosquitto(pace=Pace(database=0.1)) as broker:
        await eventually(lambda: "TimeoutError" in (broker.health.last_error or ""))
        assert await is_admitted(broker.client("dev_alpha"))


async def test_a_file_somebody_else_changed_is_mended(start_mosquitto, registry, eventually, is_admitted):
    async with start_mosquitto(pace=Pace(reconcile=0.2, between_reloads=0.1)) as broker:
        passwords = files_in(broker.home).passwords
        right = passwords.read_text()
        passwords.write_text(f"intruder:{hash_password('let me in')}\n")

        await eventually(lambda: passwords.read_text() == right and broker.health.reloads >= 1)

        assert await is_admitted(broker.client("dev_alpha"))
        assert not await is_admitted(broker.client("intruder", password="let me in"))


async def test_a_change_that_nobody_announced_is_found_by_comparing(start_mosquitto, registry, eventually):
    async with start_mosquitto(pace=Pace(reconcile=0.2)) as broker:
        del registry.rows["dev_alpha"]

        await eventually(lambda: broker.health.users == 1 and broker.health.reloads == 1)


async def test_a_bad_row_is_left_out_and_does_not_hold_up_the_others(broker, registry, is_admitted):
    registry.rows["hub-shard-0"] = hash_password("mine now")
    registry.rows["dev_broken"] = "no hash\nhub-pub-0:x"
    registry.remove("dev_alpha")
    registry.add("dev_charlie")

    await broker.applied()

    assert await is_admitted(broker.client("hub-shard-0"))
    assert not await is_admitted(broker.client("hub-shard-0", password="mine now"))
    assert not await is_admitted(broker.client("dev_alpha"))
    assert await is_admitted(broker.client("dev_charlie"))
    assert broker.health.last_error == "refused as broker users: dev_broken, hub-shard-0"


async def test_credentials_changed_while_the_broker_is_down_are_there_when_it_is_back(
    start_mosquitto, registry, eventually, is_admitted
):
    async with start_mosquitto(pace=Pace(first_restart=1.0)) as broker:
        os.kill(broker.health.pid, signal.SIGKILL)
        await eventually(lambda: broker.health.pid is None)
        registry.remove("dev_alpha")
        registry.add("dev_charlie")

        await broker.applied()

        assert broker.health.answering
        assert not await is_admitted(broker.client("dev_alpha"))
        assert await is_admitted(broker.client("dev_charlie"))


async def test_ten_thousand_devices_are_reloaded_without_a_noticeable_pause(start_mosquitto, registry, is_admitted):
    same = hash_password("same")  # hashing ten thousand takes seconds, and the broker does not compare them
    registry.rows |= {f"dev_{number:05}": same for number in range(10_000)}
    async with start_mosquitto() as broker, broker.client("dev_bravo") as bravo:
        registry.remove("dev_alpha")
        pauses = [await _publish(bravo) for _ in range(20)]
        calm = max(pauses)
        started = time.monotonic()
        while broker.health.applied_revision != registry.number:
            pauses.append(await _publish(bravo))
        took = time.monotonic() - started

        assert await is_admitted(broker.client("dev_09999", password="same"))

    print(f"publish, calm: {calm:.4f} s, while reloading: {max(pauses):.4f} s; applied after {took:.2f} s")
    assert max(pauses) < 1
    assert took < 2


async def _publish(client: aiomqtt.Client) -> float:
    started = time.monotonic()
    await client.publish("devices/dev_bravo/uplink/event", b"tick", qos=1)
    return time.monotonic() - started
