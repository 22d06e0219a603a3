"""`POST /integrations/qris/callback`: who is let in, what they are answered, and when."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from support.books import check_books
from support.hub import CALLBACK, Hub
from support.shop import Shop, payment_row, row, rows, told
from support.stack import until

from soundbox_server.db import Database, transaction
from soundbox_server.payments.charging import Pending
from soundbox_server.providers.hmac_scheme import WINDOW_S

TABLES = ("provider_event", "payment_event", "journal", "posting", "outbox_message")


async def everything(database: Database) -> list[Any]:
    """All that a callback could have changed."""
    counts = [await rows(database, f"SELECT count(*) AS n FROM {table}") for table in TABLES]
    return [*counts, await rows(database, "SELECT id, state, review_reason FROM payment ORDER BY id")]


async def test_a_paid_callback_is_answered_with_what_it_led_to(hub: Hub, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    body = hub.said(payment, event_id="evt-1")

    answer = await hub.call_back(body, hub.signed(body) | {"x-request-id": "asked-1"})

    said = answer.json()
    assert answer.status_code == 200, answer.text
    assert said["data"] == {"event_id": "evt-1", "transaction_id": payment.payment_id, "outcome": "applied"}
    assert said["request_id"] == answer.headers["x-request-id"] == "asked-1"
    assert said["timestamp"].endswith("Z")
    event = await row(database, "SELECT event_key, body, request_id, received_at_ms FROM provider_event")
    assert (event["event_key"], bytes(event["body"]), event["request_id"]) == ("evt-1", body, "asked-1")
    assert (await check_books(database)).captured == {payment.payment_id: 1}


async def test_fifty_copies_at_once_get_one_answer_and_make_one_payment(
    hub: Hub, database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box())
    body = hub.said(payment)

    answers = await asyncio.gather(*(hub.call_back(body) for _ in range(50)))

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["data"]["outcome"] for answer in answers} == {"applied"}
    assert len(await told(database, payment.payment_id)) == 1
    assert (await check_books(database)).captured == {payment.payment_id: 1}


async def test_fifty_events_of_one_payment_at_once_pay_it_once(hub: Hub, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    answers = await asyncio.gather(*(hub.call_back(hub.said(payment)) for _ in range(50)))

    outcomes = Counter(answer.json()["data"]["outcome"] for answer in answers)
    assert outcomes == {"applied": 1, "duplicate": 49}
    assert (await check_books(database)).captured == {payment.payment_id: 1}


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"amount": 1}, "needs_review"),
        ({"currency": "USD"}, "needs_review"),
        ({"partner_reference": "ref_of_nobody"}, "orphan"),
        ({"status": "pending"}, "ignored"),
        ({"status": "expired"}, "applied"),
    ],
)
async def test_each_outcome_is_a_2xx_so_that_the_provider_stops(
    hub: Hub, database: Database, shop: Shop, said: dict[str, Any], outcome: str
) -> None:
    payment = await shop.payment(await shop.box())

    answer = await hub.call_back(hub.said(payment, **said))

    assert answer.status_code == 200
    assert answer.json()["data"]["outcome"] == outcome
    assert answer.json()["data"]["transaction_id"] == (None if outcome == "orphan" else payment.payment_id)
    assert await told(database, payment.payment_id) == []
    await check_books(database)


async def test_two_partners_each_speak_for_themselves(hub: Hub, database: Database, shop: Shop) -> None:
    device = await shop.box()
    ours, theirs = await shop.payment(device), await shop.payment(device, provider="acme")
    body = hub.said(theirs)

    answer = await hub.call_back(body, hub.signed(body, partner="acme"))
    claimed = hub.said(ours)
    foreign = await hub.call_back(claimed, hub.signed(claimed, partner="acme"))

    assert answer.json()["data"] | {"event_id": ""} == {
        "event_id": "", "transaction_id": theirs.payment_id, "outcome": "applied",
    }  # fmt: skip
    assert foreign.json()["data"]["outcome"] == "orphan"
    assert (await payment_row(database, ours.payment_id))["state"] == "awaiting_payment"
    await check_books(database)


Forge = Callable[[Hub, bytes], tuple[bytes, dict[str, str]]]


def _without(name: str) -> Forge:
    return lambda hub, body: (body, {key: value for key, value in hub.signed(body).items() if key != name})


FORGERIES: dict[str, Forge] = {
    "no partner": _without("x-partner-id"),
    "no timestamp": _without("x-partner-timestamp"),
    "no signature": _without("x-partner-signature"),
    "a partner nobody knows": lambda hub, body: (body, hub.signed(body) | {"x-partner-id": "stranger"}),
    "another partner's secret": lambda hub, body: (body, hub.signed(body, secret="second-secret")),
    "a secret of nobody": lambda hub, body: (body, hub.signed(body, secret="guess")),
    "an empty secret": lambda hub, body: (body, hub.signed(body, secret=" ")),
    "another amount than was signed": lambda hub, body: (body.replace(b"50000", b"50001"), hub.signed(body)),
    "a byte more than was signed": lambda hub, body: (body + b" ", hub.signed(body)),
    "too old": lambda hub, body: (body, hub.signed(body, at_s=int(time.time()) - WINDOW_S - 2)),
    "too far ahead": lambda hub, body: (body, hub.signed(body, at_s=int(time.time()) + WINDOW_S + 5)),
    "a time that is none": lambda hub, body: (body, hub.signed(body) | {"x-partner-timestamp": "soon"}),
    "a time moved after signing": lambda hub, body: (
        body, hub.signed(body, at_s=int(time.time()) - 10) | {"x-partner-timestamp": str(int(time.time()))},
    ),
    "half a signature": lambda hub, body: (
        body, hub.signed(body) | {"x-partner-signature": hub.signed(body)["x-partner-signature"][:40]},
    ),
    "a signature of no version": lambda hub, body: (
        body, hub.signed(body) | {"x-partner-signature": hub.signed(body)["x-partner-signature"].replace("v1", "v0")},
    ),
    "a signature that is no ASCII": lambda hub, body: (body, hub.signed(body) | {"x-partner-signature": "v1=\xe9"}),
}  # fmt: skip


@pytest.mark.parametrize("how", FORGERIES)
async def test_a_forged_callback_is_refused_and_leaves_no_trace(
    hub: Hub, database: Database, shop: Shop, how: str
) -> None:
    payment = await shop.payment(await shop.box())
    before = await everything(database)
    body, headers = FORGERIES[how](hub, hub.said(payment))

    answer = await hub.http.post(
        CALLBACK, content=body, headers=[(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    )

    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "INVALID_SIGNATURE"
    assert await everything(database) == before


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "not UTF-8": b'{"event_id": "\xff\xfe"}',
    "not JSON": b"status=paid&amount=50000",
    "a list": b"[]",
    "a number": b"7",
    "NaN": b'{"amount": NaN}',
    "nested too deep": b'{"a":' * 30 + b"1" + b"}" * 30,
    "nested without end": b"[" * 60_000,
    "a digit without end": b'{"amount": ' + b"9" * 5_000 + b"}",
}
WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "no event": {"event_id": None},
    "an empty event": {"event_id": ""},
    "an event with a line break": {"event_id": "evt\n1"},
    "no reference": {"partner_reference": None},
    "a fraction of a rupiah": {"amount": 50_000.5},
    "a float": {"amount": 50_000.0},
    "an amount as text": {"amount": "50000"},
    "an amount that is true": {"amount": True},
    "less than nothing": {"amount": -50_000},
    "nothing at all": {"amount": 0},
    "more than there is": {"amount": 10**30},
    "a status of their own": {"status": "SUCCESS"},
    "no currency": {"currency": None},
    "paid without a time": {"paid_at": None},
    "a time without an offset": {"paid_at": "2026-05-23T10:00:00"},
    "a time that is none": {"paid_at": "yesterday"},
    "an issuer that turns text around": {"issuer": "\u202eknaB"},
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_signed_garbage_is_refused_and_leaves_no_trace(
    hub: Hub, database: Database, shop: Shop, what: str
) -> None:
    await shop.payment(await shop.box())
    before = await everything(database)

    answer = await hub.call_back(GARBAGE[what])

    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "VALIDATION_FAILED"
    assert await everything(database) == before


@pytest.mark.parametrize("what", WRONG_FIELDS)
async def test_a_signed_body_that_is_not_as_described_is_refused_and_leaves_no_trace(
    hub: Hub, database: Database, shop: Shop, what: str
) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    before = await everything(database)

    answer = await hub.call_back(hub.said(payment, **WRONG_FIELDS[what]))

    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "VALIDATION_FAILED"
    assert await everything(database) == before


async def test_a_key_that_is_there_twice_is_refused(hub: Hub, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    before = await everything(database)

    answer = await hub.call_back(hub.said(payment).replace(b'"amount": 50000', b'"amount": 1, "amount": 50000'))

    assert answer.status_code == 400
    assert await everything(database) == before


async def test_a_body_too_long_is_refused(hub: Hub, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())

    answer = await hub.call_back(hub.said(payment, padding="x" * 70_000))

    assert answer.status_code == 413
    assert await rows(database, "SELECT id FROM provider_event") == []


async def test_what_is_not_signed_decides_nothing(hub: Hub, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    body = hub.said(payment)
    lies = {"x-partner-event": "payment.failed", "idempotency-key": "seen-before"}
    other = hub.said(payment)

    first = await hub.call_back(body, hub.signed(body) | lies)
    second = await hub.call_back(other, hub.signed(other) | lies)

    assert first.json()["data"]["outcome"] == "applied"
    assert second.json()["data"]["outcome"] == "duplicate"
    assert (await payment_row(database, payment.payment_id))["state"] == "paid"


async def test_during_a_rotation_any_of_several_signatures_is_enough(hub: Hub, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    body = hub.said(payment)
    at_s = int(time.time())
    new = hub.signed(body, secret="not-yet-known", at_s=at_s)["x-partner-signature"]
    headers = hub.signed(body, at_s=at_s)
    headers["x-partner-signature"] = f"{new}, {headers['x-partner-signature']}"

    answer = await hub.call_back(body, headers)

    assert answer.status_code == 200
    assert (await payment_row(database, payment.payment_id))["state"] == "paid"


async def test_more_than_may_wait_is_turned_away_and_nothing_accepted_is_lost(
    hub: Hub, database: Database, shop: Shop
) -> None:
    device = await shop.box()
    payments = [await shop.payment(device, 1_000 + n) for n in range(80)]
    held = asyncio.Event()

    async def hold_the_payments() -> None:
        async with transaction(database) as session:
            await session.execute(text("UPDATE payment SET late = late"))
            held.set()
            await until(lambda: 503 in seen, what="a callback turned away")

    seen: list[int] = []

    async def call_back(payment: Pending) -> httpx.Response:
        answer = await hub.call_back(hub.said(payment, event_id=f"evt-{payment.payment_id}"))
        seen.append(answer.status_code)
        return answer

    holding = asyncio.create_task(hold_the_payments())
    await held.wait()
    answers = await asyncio.gather(*(call_back(payment) for payment in payments))
    await holding

    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert 80 - 60 - 4 <= len(refused) <= 80 - 60
    assert all(answer.headers["retry-after"] == "1" and answer.json()["code"] == "OVERLOADED" for answer in refused)
    assert len((await check_books(database)).captured) == 80 - len(refused)
    again = await asyncio.gather(*(call_back(payment) for payment in payments[:50]))
    assert {answer.status_code for answer in again} == {200}
