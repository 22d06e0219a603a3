"""The whole way of many payments, through real processes: no more and no less than each one said once."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import httpx
import pytest
from support.boxes import Boxes
from support.ports import free_port
from support.stack import Stack, until

PAYMENTS = 200
BOXES = 5


async def _ask_for_qrs(stack: Stack, boxes: Boxes) -> list[tuple[str, str, int]]:
    """(payment id, our reference at the provider, amount) of each payment, asked for by the boxes over HTTP."""
    made: list[tuple[str, int]] = []
    limit = asyncio.Semaphore(8)
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:

        async def ask(number: int) -> None:
            device = stack.world["devices"][number % BOXES]
            amount = 10_000 + number
            async with limit:
                answer = await client.post(
                    "/device/transactions/dynamic-qr",
                    headers={"authorization": f"Bearer {_token(stack, device['device_id'])}"},
                    json={
                        "device_id": device["device_id"], "terminal_id": device["terminal_id"], "amount": amount,
                        "currency": "IDR", "request_id": f"req_{number}",
                    },
                )  # fmt: skip
            assert answer.status_code == 200, answer.text
            made.append((answer.json()["transaction_id"], amount))

        await asyncio.gather(*(ask(number) for number in range(PAYMENTS)))
    references = dict(await stack.query("SELECT payment_id, reference FROM payment_attempt"))
    return [(payment_id, str(references[payment_id]), amount) for payment_id, amount in made]


def _token(stack: Stack, device_id: str) -> str:
    found = json.loads((stack.home / "boxes" / device_id / "credentials.json").read_text())
    return str(found["device_token"])


@pytest.mark.journey
async def test_two_hundred_payments_called_back_twice_at_once_are_each_said_once(stack: Stack) -> None:
    second_api = free_port()
    await stack.prepare(boxes=BOXES)
    await stack.start_all()
    await stack.start("api", SOUNDBOX_HTTP_PORT=str(second_api))
    await stack.start("worker")
    await stack.ready(second_api)
    boxes = Boxes(stack)
    await boxes.start()
    await boxes.bind_all(await stack.login())
    payments = await _ask_for_qrs(stack, boxes)

    async with httpx.AsyncClient(timeout=60) as partner:

        async def call_back(reference: str, amount: int) -> list[int]:
            body, headers = stack.callback(reference, amount, event_id=f"evt-{reference}")
            urls = [f"http://127.0.0.1:{port}/integrations/qris/callback" for port in (stack.http_port, second_api)]
            answers = await asyncio.gather(*(partner.post(url, content=body, headers=headers) for url in urls))
            return [answer.status_code for answer in answers]

        statuses = await asyncio.gather(*(call_back(reference, amount) for _, reference, amount in payments))

    assert all(status == [200, 200] for status in statuses)

    async def all_played() -> bool:
        rows = await stack.query("SELECT count(*) FROM outbox_message WHERE state = 'played'")
        return rows[0][0] == PAYMENTS

    try:
        await until(all_played, within_s=60, what="every announcement played")
    except AssertionError as late:
        states = await stack.query("SELECT kind, state, reason, count(*) FROM outbox_message GROUP BY 1, 2, 3")
        raise AssertionError(f"{late}\n{states}\n{stack.logs()}") from None
    captures = await stack.query("SELECT payment_id FROM journal WHERE kind = 'capture'")
    announced = await stack.query("SELECT subject_id FROM outbox_message WHERE kind = 'payment_success'")
    gross = await stack.query("SELECT sum(amount) FROM posting WHERE source = 'provider_receivable:sandbox'")
    expected = Counter(payment_id for payment_id, _, _ in payments)
    spoken = Counter(event["transaction_id"] for event in boxes.of_kind("played"))
    assert Counter(row[0] for row in captures) == expected
    assert Counter(row[0] for row in announced) == expected
    assert spoken == expected
    assert gross[0][0] == sum(amount for _, _, amount in payments)
    for device in stack.world["devices"]:
        told = await stack.query(
            "SELECT seq FROM outbox_message WHERE recipient_id = $1 AND kind = 'payment_success' ORDER BY seq",
            device["device_id"],
        )
        assert [row[0] for row in told] == list(range(1, PAYMENTS // BOXES + 1))
    assert await boxes.child.stop() == 0 if boxes.child else False
    assert not list(Path(stack.home).rglob("*.tmp"))
