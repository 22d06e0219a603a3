"""Fifty boxes on the air are revoked, one by one and all at once: how long each of them still gets through."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import aiomqtt
import httpx
import pytest
from support.device import Credentials, activate
from support.stack import Stack

from soundbox_server import broker_parts

pytestmark = [pytest.mark.journey]

BOXES = 50
ONE_BY_ONE = 25  # the others together
AT_MOST_S = 2.0


@pytest.fixture
async def fleet(stack: Stack) -> list[Credentials]:
    await stack.prepare(boxes=BOXES)
    await stack.start_all("broker", "api", "worker")
    await stack.login()
    return list(await asyncio.gather(*(activate(stack, number) for number in range(BOXES))))


@contextlib.asynccontextmanager
async def on_air(stack: Stack, box: Credentials) -> AsyncIterator[asyncio.Task[float]]:
    """The box connected; the task's result is the moment the broker hung up."""
    client = aiomqtt.Client(
        "127.0.0.1", stack.broker_port, username=box.username, password=box.password, identifier=box.username
    )

    async def until_hung_up() -> float:
        with contextlib.suppress(aiomqtt.MqttError):
            async for _ in client.messages:
                pass
        return time.monotonic()

    with contextlib.suppress(aiomqtt.MqttError):
        async with client:
            ended = asyncio.create_task(until_hung_up())
            yield ended
            ended.cancel()


async def refused_over_http(client: httpx.AsyncClient, box: Credentials) -> bool:
    said = {"device_id": box.device_id, "timestamp": "2026-05-23T10:00:00Z", "state": "idle"}
    beat = await client.post("/device/heartbeat", json=said | {"firmware_version": "1.0.3"}, headers=box.bearer)
    renewed = await client.post("/device/provision/refresh-credential", headers=box.bearer)
    return (beat.status_code, renewed.status_code) == (401, 401)


@pytest.mark.timed
async def test_a_revoked_box_is_off_within_two_seconds(
    stack: Stack, fleet: list[Credentials], capsys: pytest.CaptureFixture[str]
) -> None:
    staff, client = await stack.login(), httpx.AsyncClient(base_url=stack.url, timeout=20)
    async with client, contextlib.AsyncExitStack() as air:
        ends = {box.device_id: await air.enter_async_context(on_air(stack, box)) for box in fleet}

        async def revoke(box: Credentials) -> float:
            """Seconds from the operator's request until the box is off."""
            asked, path = time.monotonic(), f"/admin/devices/{box.device_id}/credentials/revoke"
            answer = await client.post(path, json={"reason": "stolen"}, headers=staff)
            assert answer.status_code == 200, answer.text
            assert await refused_over_http(client, box)  # with the answer, before the broker has heard of it
            return await asyncio.wait_for(ends[box.device_id], 20) - asked

        seconds = [await revoke(box) for box in fleet[:ONE_BY_ONE]]
        seconds += await asyncio.gather(*(revoke(box) for box in fleet[ONE_BY_ONE:]))

    for box in fleet:
        assert not await broker_parts.broker_lets_in("127.0.0.1", stack.broker_port, box.username, box.password)
    p50, slowest = sorted(seconds)[BOXES // 2], max(seconds)  # of fifty, the 99th percentile is the slowest
    with capsys.disabled():
        print(f"\n{stack.database_url.partition(':')[0]}: {BOXES} revoked, p50 {p50:.2f} s, p99 {slowest:.2f} s")
    assert slowest <= AT_MOST_S
