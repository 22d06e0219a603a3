"""Processes ended from outside: the worker that owns the shard, and the broker with all it had not told anybody."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

import httpx
import pytest
from support.ports import free_port
from support.site import Site
from support.stack import until

pytestmark = pytest.mark.crash

Note = Callable[[str, str], None]


async def _seconds_until_owned(port: int) -> float:
    started = time.monotonic()
    await until(lambda: _owns_the_shard(port), what="the other worker owns the shard")
    return time.monotonic() - started


async def _sell_and_pay(site: Site) -> None:
    sales = [await site.sell(box, 20_000 + n) for n, box in enumerate(site.credentials * 2)]
    await asyncio.gather(*(site.pay(sale) for sale in sales))


async def _owns_the_shard(port: int) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            page = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    except httpx.TransportError:
        return False
    return "soundbox_shard_owned 1.0" in page


@pytest.mark.timed
async def test_a_standby_worker_takes_over_within_two_seconds(site: Site, note: Note) -> None:
    first_port, second_port = free_port(), free_port()
    await site.start_api()
    first = await site.start_worker(SOUNDBOX_WORKER_PORT=str(first_port))
    await until(lambda: _owns_the_shard(first_port), what="the first worker owns the shard")
    await site.start_worker(SOUNDBOX_WORKER_PORT=str(second_port))
    await site.activate_boxes()
    await site.switch_on()
    await site.online()
    await site.pay(await site.sell(site.credentials[0], 10_000))
    await site.spoken(1)
    await until(lambda: _answers(second_port), what="the second worker stands by")
    assert not await _owns_the_shard(second_port)

    first.process.kill()
    took_s, _ = await asyncio.gather(_seconds_until_owned(second_port), _sell_and_pay(site))

    assert took_s < 2.0
    await site.recovered()
    note(
        "kill -9 of the worker that owns the shard",
        f"taken over within {took_s:.2f} s, {len(site.sold)} payments whole",
    )


async def test_what_only_the_broker_knew_is_sent_again(site: Site, note: Note) -> None:
    await site.start_api()
    await site.start_worker()
    await site.activate_boxes()
    await site.switch_on()
    await site.online()
    sales = [await site.sell(box, 10_000 + n) for n, box in enumerate(site.credentials * 2)]

    os.kill(site.mosquitto_pid(), signal.SIGSTOP)  # it takes nothing in any more, and nobody notices yet
    await asyncio.gather(*(site.pay(sale) for sale in sales))
    await _announced(site, len(sales))
    assert [till.spoken for till in site.tills] == [[], []]
    site.lose_the_broker()
    lost = time.monotonic()

    await site.recovered()
    note(
        "kill -9 of Mosquitto, its sessions deleted",
        f"all {len(sales)} said by resend, {time.monotonic() - lost:.1f} s",
    )


async def _answers(port: int) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
    except httpx.TransportError:
        return False


async def _announced(site: Site, count: int) -> None:
    async def announced() -> bool:
        rows = await site.stack.query("SELECT count(*) FROM outbox_message WHERE state = 'published'")
        return rows == [(count,)]

    await until(announced, what=f"{count} announcements handed to the broker")
