"""A QF100 from the shelf to its first payment: window, config call, the plain listener, spoken, and seen alive."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from support.ports import free_port
from support.stack import Stack, until

from soundbox_server.broker.mosquitto import find_mosquitto
from soundbox_sim.box import Tell
from soundbox_sim.qf100 import Qf100Plan, run_qf100
from soundbox_sim.radio import Backoff

pytestmark = pytest.mark.journey
SERIAL = "SN0001"


@pytest.fixture
async def makers_stack(stack: Stack) -> Stack:
    assert find_mosquitto() is not None, "Mosquitto is not installed"
    stack.extra |= {"SOUNDBOX_BROKER_LEGACY_PORT": str(free_port())}
    await stack.prepare(boxes=1)
    await stack.start_all("broker", "sandbox", "api", "worker")
    return stack


@pytest.fixture
async def operator(makers_stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    headers = await makers_stack.login()
    async with httpx.AsyncClient(base_url=makers_stack.url, headers=headers, timeout=20) as client:
        yield client


async def test_from_the_window_to_a_payment_that_is_spoken_once(
    makers_stack: Stack, operator: httpx.AsyncClient
) -> None:
    wanted = {"serial_number": SERIAL, "vendor": "bizone", "model": "EDOTF1"}
    registered = await operator.post("/admin/devices", json=wanted)
    path = f"/admin/devices/{registered.json()['data']['id']}"
    told: list[Tell] = []

    def of(what: str) -> list[Tell]:
        return [one for one in told if one.what == what]

    async def device() -> dict[str, object]:
        return dict((await operator.get(path)).json()["data"])

    async def online() -> bool:
        presence = (await device())["presence"]
        return isinstance(presence, dict) and presence["reachable"] == "online"

    stop, plan = asyncio.Event(), Qf100Plan(server=makers_stack.url, serial=SERIAL, model="EDOTF1", heartbeat_every=0.3)
    box = asyncio.create_task(
        run_qf100(plan, stop, lambda _, one: told.append(one), backoff=Backoff(first_s=1.0, longest_s=1.0))
    )
    try:
        await until(lambda: of("config_refused"), what="a refusal while no window is open")
        assert (await operator.post(f"{path}/config-window", json={"for_s": 60})).status_code == 200
        await until(online, what="the box online by its heartbeats")
        terminal_id = makers_stack.world["devices"][0]["terminal_id"]
        bound = await operator.post(f"{path}/bind", json={"terminal_id": terminal_id})
        assert bound.status_code == 200, bound.text

        shown = {"command_name": "show_qr", "payload": {"qr_payload": "00020101", "amount": 15_000, "show_for_s": 60}}
        command = (await operator.post(f"{path}/commands", json=shown)).json()["data"]
        await until(lambda: of("qr_shown"), what="the QR on its display")
        await _pay_by_sticker(makers_stack, operator, terminal_id)
        await until(lambda: of("played"), what="the payment spoken")

        async def ended() -> bool:
            one = (await operator.get(f"{path}/commands/{command['command_id']}")).json()["data"]
            return bool(one["status"] == "unconfirmed")

        await until(ended, what="the command unconfirmed")
        (notification,) = (await operator.get(f"{path}/notifications")).json()["data"]
    finally:
        stop.set()
        await box

    assert [one.facts["amount"] for one in of("played")] == [15_000]
    assert of("qr_shown")[0].facts["qr_payload"] == "00020101"
    assert 0 < of("qr_shown")[0].facts["seconds"] <= 60
    assert (notification["status"], notification["unsigned"], notification["unconfirmed"]) == ("published", True, True)
    assert (notification["attempts"], notification["hops"]["played_at"]) == (1, None)


async def _pay_by_sticker(stack: Stack, operator: httpx.AsyncClient, terminal_id: str) -> None:
    """Somebody pays by the QR that hangs at the terminal."""
    issued = await operator.post(f"/admin/terminals/{terminal_id}/static-qrs/issue")
    assert issued.status_code == 201, issued.text
    body, headers = stack.callback(issued.json()["data"]["partner_reference"], 15_000, event_id="evt-qf100")
    async with httpx.AsyncClient(base_url=stack.url, timeout=20) as provider:
        answer = await provider.post("/integrations/qris/callback", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
