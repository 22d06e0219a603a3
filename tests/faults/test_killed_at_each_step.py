"""The api or the worker dies at each named point of a payment's way, and everything comes to the same totals.

Dying here is `os._exit(137)` in the middle of a line: no handler runs and no buffer is flushed. What the kernel has
taken over is not lost by that, so these tests prove nothing about a power cut.
"""

import asyncio
import time
from collections.abc import Callable

import httpx
import pytest
from support.shop import execute
from support.site import Site, Till
from support.stack import until

from soundbox_server import failpoints

pytestmark = pytest.mark.crash

IN_A_CALLBACK = (
    "callback.verified",
    "callback.locked",
    "callback.applied",
    "callback.before_commit",
    "callback.committed",
    "callback.published",
    "callback.answered",
)
ASKING_OVER_HTTP = ("qr.stored", "qr.created_at_provider", "qr.before_answer_commit", "qr.answer_committed")
ASKING_OVER_MQTT = ("qr.created_at_provider", "qr.before_answer_commit", "qr.answer_committed")
TAKING_IN_ACKS = ("uplink.handled", "uplink.committed", "uplink.acknowledged")
SENDING_AGAIN = ("sweep.claimed", "sweep.published")
ROTATING = ("refresh.issued", "refresh.confirmed")  # in test_cut_while_rotating.py
SETTLING = ("settlement.collected", "settlement.calculated")  # in server/settlements/test_killed.py

# Two boxes say hello and ask for the time: at most four groups. Payments follow one by one, so there are more of them.
FIRST_GROUP_OF_ACKS = 5

Note = Callable[[str, str], None]


def test_every_failpoint_is_reached_by_a_test() -> None:
    reached = {*IN_A_CALLBACK, *ASKING_OVER_HTTP, *ASKING_OVER_MQTT, *TAKING_IN_ACKS, *SENDING_AGAIN, *ROTATING}
    assert reached | set(SETTLING) == set(failpoints.NAMES)


@pytest.mark.parametrize("failpoint", IN_A_CALLBACK)
async def test_the_api_dies_in_a_callback(site: Site, note: Note, failpoint: str) -> None:
    api = await site.start_api(failpoint)
    await site.start_worker()
    await site.activate_boxes()
    await site.switch_on()
    await site.online()
    sales = [await site.sell(box, 10_000 + n) for n, box in enumerate(site.credentials * 2)]

    await asyncio.gather(*(site.pay(sale) for sale in sales))
    await site.died(api)
    died = time.monotonic()
    await site.start_api()

    await site.recovered()
    note(f"api dies at {failpoint}", f"{len(sales)} payments whole after {time.monotonic() - died:.1f} s")


@pytest.mark.parametrize("failpoint", ASKING_OVER_HTTP)
async def test_the_api_dies_while_a_box_asks_for_a_qr(site: Site, note: Note, failpoint: str) -> None:
    api = await site.start_api(failpoint)
    await site.start_worker()
    await site.activate_boxes()
    await site.switch_on()
    await site.online()
    box = site.credentials[0]

    with pytest.raises(httpx.TransportError):
        await site.ask(box, 50_000, "req-1")
    await site.died(api)
    died = time.monotonic()
    await site.start_api()
    # What the dead process was asking is left to it for half a minute: here that time has passed.
    await execute(site.database, "UPDATE payment_attempt SET lease_until_ms = 1")
    answer = await site.ask(box, 50_000, "req-1")

    assert answer.status_code == 200, answer.text
    assert await site.stack.query("SELECT count(*) FROM payment") == [(1,)]
    assert await site.charges() == 1
    await site.pay(site.shown(box, 50_000, answer.json()))
    await site.recovered()
    note(f"api dies at {failpoint}", f"one payment, one charge after {time.monotonic() - died:.1f} s")


@pytest.mark.parametrize("failpoint", ASKING_OVER_MQTT)
async def test_the_worker_dies_while_a_box_asks_for_a_qr(site: Site, note: Note, failpoint: str) -> None:
    await site.start_api()
    worker = await site.start_worker(failpoint)
    await site.activate_boxes()
    await site.switch_on()
    await site.online()
    till = site.tills[0]

    assert await till.radio.ask_qr(50_000)
    await site.died(worker)
    died = time.monotonic()
    await site.start_worker()
    if failpoint == "qr.answer_committed":  # the answer was about to be sent: it is gone, and the merchant asks again
        await _answer_is_recorded(site)
        assert await till.radio.ask_qr(50_000)
    await _shows_a_qr(till)

    charges = 2 if failpoint == "qr.answer_committed" else 1
    assert await site.stack.query("SELECT count(*) FROM payment") == [(charges,)]
    assert await site.charges() == charges
    screen = till.box.screen
    answer = {"transaction_id": screen.transaction_id, "qr_payload": screen.qr_payload}
    await site.pay(site.shown(till.credentials, 50_000, answer))
    await site.recovered()
    note(f"worker dies at {failpoint}", f"QR shown, {charges} charged once each, {time.monotonic() - died:.1f} s")


@pytest.mark.parametrize("failpoint", TAKING_IN_ACKS)
async def test_the_worker_dies_over_a_boxs_ack(site: Site, note: Note, failpoint: str) -> None:
    await site.start_api()
    worker = await site.start_worker(f"{failpoint}:{FIRST_GROUP_OF_ACKS}")
    await site.activate_boxes()
    await site.switch_on()
    await site.online()
    assert worker.process.returncode is None

    for number in range(6):
        await site.pay(await site.sell(site.credentials[number % 2], 10_000 + number))
        await site.spoken(number + 1)
    await site.died(worker)
    died = time.monotonic()
    await site.start_worker()

    await site.recovered()
    note(f"worker dies at {failpoint}", f"6 payments whole after {time.monotonic() - died:.1f} s")


@pytest.mark.parametrize("failpoint", SENDING_AGAIN)
async def test_the_worker_dies_while_it_sends_what_was_missed(site: Site, note: Note, failpoint: str) -> None:
    await site.start_api()
    worker = await site.start_worker(failpoint)
    await site.activate_boxes()
    sales = [await site.sell(box, 10_000 + n) for n, box in enumerate(site.credentials * 2)]
    await asyncio.gather(*(site.pay(sale) for sale in sales))
    await _queued(site, len(sales))

    await site.switch_on()
    await site.died(worker)
    died = time.monotonic()
    await site.start_worker()

    await site.recovered()
    note(f"worker dies at {failpoint}", f"{len(sales)} payments whole after {time.monotonic() - died:.1f} s")


async def _answer_is_recorded(site: Site) -> None:
    async def active() -> bool:
        return await site.stack.query("SELECT state FROM payment_attempt") == [("active",)]

    await until(active, what="the provider's answer in the database")


async def _shows_a_qr(till: Till) -> None:
    await until(lambda: till.radio.box and till.box.screen.shows == "qr", what="a QR on the display")


async def _queued(site: Site, count: int) -> None:
    async def queued() -> bool:
        return await site.stack.query("SELECT count(*) FROM outbox_message WHERE state = 'queued'") == [(count,)]

    await until(queued, what=f"{count} announcements waiting for their boxes")
