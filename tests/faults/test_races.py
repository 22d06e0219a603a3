"""Two real api processes, one database, everything at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from support.books import check_books
from support.ports import free_port
from support.shop import Shop, open_shop, rows
from support.stack import Stack

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.devices import service as devices
from soundbox_server.payments.charging import Pending

pytestmark = pytest.mark.journey

BOXES = 5
PAYMENTS = 200


@pytest.fixture
async def doors(stack: Stack) -> AsyncIterator[list[httpx.AsyncClient]]:
    """The two api processes. No broker runs: what they would publish is left to a sweep that is not there."""
    ports = [stack.http_port, free_port()]
    stack.extra["SOUNDBOX_ACTIVATION_FAILURES_PER_MINUTE"] = "100"  # all these boxes come from one address
    for port in ports:
        await stack.start("api", SOUNDBOX_HTTP_PORT=str(port))
    for port in ports:
        await stack.ready(port, "/healthz")
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", timeout=60) as first,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=60) as second,
    ):
        yield [first, second]


async def test_two_hundred_payments_called_back_at_two_processes_at_once_are_booked_once(
    stack: Stack, database: Database, doors: list[httpx.AsyncClient]
) -> None:
    payments = await _payments_at(await open_shop(database))

    async def call_back(payment: Pending, door: httpx.AsyncClient, event_id: str) -> tuple[str, str, str]:
        body, headers = stack.callback(payment.reference, payment.amount, event_id=event_id)
        answer = await door.post("/integrations/qris/callback", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return payment.payment_id, answer.json()["data"]["transaction_id"], answer.json()["data"]["outcome"]

    # Half of the payments are told of twice by one event, half by two events of their own.
    answers = await asyncio.gather(
        *(
            call_back(payment, door, f"evt-{number}-{side if number % 2 else 0}")
            for number, payment in enumerate(payments)
            for side, door in enumerate(doors)
        )
    )

    assert all(asked == answered for asked, answered, _ in answers)
    outcomes = Counter(outcome for _, _, outcome in answers)
    assert outcomes["applied"] >= PAYMENTS
    assert outcomes["applied"] + outcomes["duplicate"] == 2 * PAYMENTS
    books = await check_books(database)
    assert books.captured == Counter(payment.payment_id for payment in payments)
    assert books.suspense == 0
    told = await rows(database, "SELECT recipient_id, count(*) AS n FROM outbox_message GROUP BY recipient_id")
    assert [row["n"] for row in told] == [PAYMENTS // BOXES] * BOXES


async def test_one_code_activates_once_however_many_boxes_try(
    stack: Stack, database: Database, doors: list[httpx.AsyncClient]
) -> None:
    device_id, code = await database.write(
        lambda tx: devices.register(tx, serial_number="SBX-RACE", vendor="native", model="sbx-1", now_ms=clock.now_ms())
    )
    asked = {"activation_code": code, "serial_number": "SBX-RACE"}

    answers = await asyncio.gather(*(doors[n % 2].post("/device/provision/activate", json=asked) for n in range(20)))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 401: 19}
    refused = [answer.json() for answer in answers if answer.status_code == 401]
    assert {(body["code"], body["detail"]) for body in refused} == {("UNAUTHENTICATED", devices.WRONG_CODE)}
    (device,) = await rows(database, "SELECT state, key_version FROM device WHERE id = $1", device_id)
    assert device == {"state": "activated", "key_version": 1}
    assert len(await rows(database, "SELECT id FROM device_credential")) == 1


async def test_one_question_asked_of_two_processes_at_once_makes_one_payment(
    stack: Stack, database: Database, doors: list[httpx.AsyncClient]
) -> None:
    """The provider does not answer here: the question is stored once, and whoever comes second is told to wait."""
    shop = await open_shop(database)
    device_id, token = await shop.box_with_token()
    asked = {
        "device_id": device_id, "terminal_id": shop.terminal_id, "amount": 50_000, "currency": "IDR",
        "request_id": "req-1",
    }  # fmt: skip

    answers = await asyncio.gather(
        *(
            doors[n % 2].post(
                "/device/transactions/dynamic-qr", json=asked, headers={"authorization": f"Bearer {token}"}
            )
            for n in range(10)
        )
    )

    assert len(await rows(database, "SELECT id FROM payment")) == 1
    assert len(await rows(database, "SELECT id FROM payment_attempt")) == 1
    assert {answer.json()["code"] for answer in answers} <= {"GATEWAY_ERROR", "DUPLICATE_REQUEST"}


async def _payments_at(shop: Shop) -> list[Pending]:
    tills = [shop, *[await shop.another_terminal() for _ in range(BOXES - 1)]]
    boxes = [await till.box() for till in tills]
    now_ms = clock.now_ms()
    return [await tills[n % BOXES].payment(boxes[n % BOXES], 10_000 + n, now_ms=now_ms) for n in range(PAYMENTS)]
