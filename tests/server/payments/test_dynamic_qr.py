"""Asking for a QR: stored, asked, answered, each durable before the next, and never charged twice."""

import binascii
from dataclasses import replace
from typing import Any

import pytest
from support.shop import NOW, QR_LIFE_MS, TELLING, Shop, payment_row, report, row, rows, take

from soundbox_protocol.messages import DynamicQrResponse, decode
from soundbox_protocol.signing import verify
from soundbox_server.db import Database, Statements
from soundbox_server.errors import (
    DeviceNotBound,
    DuplicateRequest,
    Forbidden,
    IdempotencyKeyReused,
    InvalidAmount,
    PartnerTimeout,
)
from soundbox_server.payments import charging, dynamic_qr
from soundbox_server.payments.charging import LEASE_MS, Answered, Pending
from soundbox_server.payments.dynamic_qr import Ask
from soundbox_server.payments.methods import CEILING_IDR
from soundbox_server.payments.service import expire_unpaid
from soundbox_server.providers.base import Charge, ChargeRequest, ChargeStatus, PaymentReport, ProviderUnknown

QR = (
    "00020101021226610014COM.GO-JEK.WWW01189360091438000000010210G8000000010303UMI51440014ID.CO.QRIS.WWW"
    "0215ID10200000000010303UMI5204581253033605405500005802ID5911WARUNG DEMO6007JAKARTA6105101106304"
)


def an_ask(shop: Shop, device: str, **more: Any) -> Ask:
    asked: dict[str, Any] = {
        "device_id": device, "terminal_id": shop.terminal_id, "amount": 50_000, "currency": "IDR",
        "request_id": "req-1", "door": "device", "trace_id": "trc_1",
    } | more  # fmt: skip
    return Ask(**asked)


async def open_payment(database: Database, ask: Ask, *, now_ms: int = NOW) -> Pending:
    return await database.write(
        lambda tx: dynamic_qr.open_payment(tx, ask, provider="sandbox", qr_life_ms=QR_LIFE_MS, now_ms=now_ms)
    )


async def record(database: Database, answered: Answered, *, now_ms: int = NOW) -> Pending:
    return await database.write(lambda tx: charging.record_answer(tx, answered, now_ms=now_ms))


async def claim(database: Database, *, now_ms: int, limit: int = 10) -> list[Pending]:
    return await database.write(lambda tx: dynamic_qr.claim_unanswered(tx, now_ms=now_ms, limit=limit))


def charged(pending: Pending, **more: Any) -> Answered:
    charge = Charge(
        provider="sandbox", reference=pending.reference, provider_transaction_id="ptx_1", amount_idr=pending.amount,
        qr_payload=QR, expires_at_ms=pending.expires_at_ms, body=b"{}",
    )  # fmt: skip
    return Answered(pending=pending, charge=replace(charge, **more))


async def test_the_question_is_stored_before_anybody_is_asked(database: Database, shop: Shop) -> None:
    pending = await open_payment(database, an_ask(shop, await shop.box()))

    assert (pending.payment_state, pending.attempt_state, pending.qr_payload) == ("created", "new", None)
    assert pending.reference.startswith("ref_")
    assert pending.expires_at_ms == NOW + QR_LIFE_MS
    assert not pending.resumed


async def test_the_same_question_waits_for_its_lease_and_then_resumes(database: Database, shop: Shop) -> None:
    ask = an_ask(shop, await shop.box())
    first = await open_payment(database, ask)

    with pytest.raises(DuplicateRequest):
        await open_payment(database, ask, now_ms=NOW + LEASE_MS - 1)
    again = await open_payment(database, ask, now_ms=NOW + LEASE_MS)
    with pytest.raises(DuplicateRequest):
        await open_payment(database, ask, now_ms=NOW + LEASE_MS + 1)

    assert (again.reference, again.resumed) == (first.reference, True)
    assert len(await rows(database, "SELECT id FROM payment_attempt")) == 1


async def test_an_answered_question_gets_its_answer_again(database: Database, shop: Shop) -> None:
    ask = an_ask(shop, await shop.box())
    pending = await open_payment(database, ask)
    answered = await record(database, charged(pending))

    again = await open_payment(database, ask)

    assert (answered.payment_state, answered.qr_payload) == ("awaiting_payment", QR)
    assert again == answered


@pytest.mark.parametrize("other", [{"amount": 60_000}, {"terminal_id": "another"}])
async def test_a_request_id_stands_for_one_amount_at_one_terminal(
    database: Database, shop: Shop, other: dict[str, Any]
) -> None:
    device = await shop.box()
    await open_payment(database, an_ask(shop, device))

    refusal = IdempotencyKeyReused if "amount" in other else DeviceNotBound
    with pytest.raises(refusal):
        await open_payment(database, an_ask(shop, device, **other))

    assert len(await rows(database, "SELECT id FROM payment")) == 1


@pytest.mark.parametrize("amount", [0, -1, CEILING_IDR + 1])
async def test_an_amount_that_qris_does_not_allow_makes_no_payment(database: Database, shop: Shop, amount: int) -> None:
    device = await shop.box()

    with pytest.raises(InvalidAmount):
        await open_payment(database, an_ask(shop, device, amount=amount))
    with pytest.raises(InvalidAmount):
        await open_payment(database, an_ask(shop, device, currency="USD"))

    assert await rows(database, "SELECT id FROM payment") == []


async def test_only_a_box_in_its_place_at_an_approved_merchant_may_ask(database: Database, shop: Shop) -> None:
    device = await shop.box()
    elsewhere = await shop.another_terminal()

    with pytest.raises(DeviceNotBound):
        await open_payment(database, an_ask(elsewhere, device))
    await shop.set_status("rejected")
    with pytest.raises(Forbidden):
        await open_payment(database, an_ask(shop, device))
    await shop.set_status("approved")
    await shop.unbind(device)
    with pytest.raises(DeviceNotBound):
        await open_payment(database, an_ask(shop, device))

    assert await rows(database, "SELECT id FROM payment") == []


async def test_a_customer_faster_than_the_answer_stays_paid(database: Database, shop: Shop) -> None:
    pending = await open_payment(database, an_ask(shop, await shop.box()))
    await take(database, report(pending))

    answered = await record(database, charged(pending))

    assert (answered.payment_state, answered.attempt_state, answered.qr_payload) == ("paid", "succeeded", QR)
    assert (await payment_row(database, pending.payment_id))["expires_at_ms"] == NOW + QR_LIFE_MS


async def test_an_answer_that_comes_after_the_end_does_not_open_the_payment_again(
    database: Database, shop: Shop
) -> None:
    pending = await open_payment(database, an_ask(shop, await shop.box()))
    await database.write(lambda tx: expire_unpaid(tx, now_ms=NOW + QR_LIFE_MS))

    answered = await record(database, charged(pending), now_ms=NOW + QR_LIFE_MS + 1)

    assert answered.payment_state == "expired"


async def test_a_refusal_ends_the_payment_and_money_that_still_comes_is_late(database: Database, shop: Shop) -> None:
    pending = await open_payment(database, an_ask(shop, await shop.box()))
    failed = await record(database, Answered(pending=pending, error=Forbidden("no")))

    await take(database, report(pending))

    assert (failed.payment_state, failed.attempt_state, failed.error_code) == ("failed", "failed", "FORBIDDEN")
    paid = await payment_row(database, pending.payment_id)
    assert (paid["state"], bool(paid["late"])) == ("paid", True)


class Provider:
    """Writes down what it is asked; `status` is what a query finds."""

    name = "sandbox"

    def __init__(self, status: ChargeStatus | None, created: Charge | Exception) -> None:
        self.status, self.created, self.asked = status, created, list[str]()

    async def create(self, request: ChargeRequest) -> Charge:
        self.asked.append("create")
        if isinstance(self.created, Exception):
            raise self.created
        return self.created

    async def query(self, reference: str, **about: Any) -> ChargeStatus:
        self.asked.append("query")
        assert self.status is not None
        return self.status

    def read_callback(self, headers: Any, body: bytes, *, now_ms: int) -> PaymentReport:
        raise NotImplementedError

    async def aclose(self) -> None: ...


@pytest.fixture
async def resumed(database: Database, shop: Shop) -> Pending:
    """A question that somebody was asking when it ended."""
    ask = an_ask(shop, await shop.box())
    await open_payment(database, ask)
    return await open_payment(database, ask, now_ms=NOW + LEASE_MS)


async def test_whoever_may_have_been_charged_is_queried_and_not_charged_again(resumed: Pending) -> None:
    charge = charged(resumed, qr_payload=_with_crc(QR)).charge
    assert charge is not None
    provider = Provider(ChargeStatus(reference=resumed.reference, state="open", charge=charge), charge)

    answered = await charging.ask_provider(provider, resumed)

    assert provider.asked == ["query"]
    assert answered.charge == charge


async def test_what_never_arrived_is_created(resumed: Pending) -> None:
    charge = charged(resumed, qr_payload=_with_crc(QR)).charge
    assert charge is not None
    provider = Provider(ChargeStatus(reference=resumed.reference, state="not_found"), charge)

    answered = await charging.ask_provider(provider, resumed)

    assert provider.asked == ["query", "create"]
    assert answered.charge == charge


async def test_a_lost_answer_leaves_the_attempt_unknown_and_due_soon(database: Database, shop: Shop) -> None:
    ask = an_ask(shop, await shop.box(), door="mqtt")
    await open_payment(database, ask)
    (pending,) = await claim(database, now_ms=NOW)
    answered = await charging.ask_provider(Provider(None, ProviderUnknown("lost")), pending)

    found = await record(database, answered)

    assert (found.attempt_state, found.error_code, found.payment_state) == ("unknown", "PARTNER_TIMEOUT", "created")
    assert await claim(database, now_ms=NOW + 999) == []
    (again,) = await claim(database, now_ms=NOW + 1_000)
    assert again.resumed


@pytest.mark.parametrize("qr_payload", ["00020101021226", QR + "0000", ""])
async def test_a_qr_that_no_app_would_take_is_refused(database: Database, shop: Shop, qr_payload: str) -> None:
    pending = await open_payment(database, an_ask(shop, await shop.box()))
    charge = charged(pending, qr_payload=qr_payload).charge
    assert charge is not None

    answered = await charging.ask_provider(Provider(None, charge), pending)

    assert answered.error is not None
    assert (answered.error.code, answered.charge) == ("GATEWAY_ERROR", None)


async def test_a_qr_over_another_amount_is_refused(database: Database, shop: Shop) -> None:
    pending = await open_payment(database, an_ask(shop, await shop.box(), amount=50_001))
    charge = charged(pending, qr_payload=_with_crc(QR)).charge
    assert charge is not None

    answered = await charging.ask_provider(Provider(None, charge), pending)

    assert answered.charge is None


async def test_two_workers_never_ask_for_the_same_question(database: Database, shop: Shop) -> None:
    device = await shop.box()
    for n in range(12):
        await open_payment(database, an_ask(shop, device, door="mqtt", request_id=f"r{n}"))

    first = await claim(database, now_ms=NOW, limit=7)
    second = await claim(database, now_ms=NOW, limit=7)

    assert (len(first), len(second)) == (7, 5)
    assert not {one.attempt_id for one in first} & {one.attempt_id for one in second}
    assert not any(one.resumed for one in (*first, *second))


async def test_a_worker_that_takes_over_does_not_wait_for_the_dead_ones_leases(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await open_payment(database, an_ask(shop, device, door="mqtt", request_id="mqtt"))
    await open_payment(database, an_ask(shop, device, door="device", request_id="device"))
    await claim(database, now_ms=NOW)
    assert await claim(database, now_ms=NOW + 500) == []

    await database.write(lambda tx: dynamic_qr.end_leases(tx, now_ms=NOW + 500))

    (taken,) = await claim(database, now_ms=NOW + 500)
    assert (taken.request_id, taken.resumed) == ("mqtt", True)


@pytest.mark.parametrize(("small", "status"), [(False, "success"), (True, "failed")])
async def test_a_box_gets_its_answer_signed_and_no_longer_than_it_can_hold(
    database: Database, shop: Shop, small: bool, status: str
) -> None:
    device = await shop.box()
    ask = an_ask(shop, device, door="mqtt")
    pending = await open_payment(database, ask)
    answered = await record(database, charged(pending, qr_payload=QR + "9" * 300 if small else QR))

    async def answer(tx: Statements) -> None:
        await dynamic_qr.answer_box(tx, answered, key_of=TELLING.key_of, owner="worker", now_ms=NOW)

    await database.write(answer)

    sent = await row(database, "SELECT * FROM outbox_message")
    said = decode(DynamicQrResponse, verify(TELLING.key_of(device, 1), sent["address"], bytes(sent["body"])))
    assert (said.correlation_id, said.status) == ("req-1", status)
    assert said.qr_payload == (None if small else QR)
    assert said.error_code == ("DEVICE_CAPABILITY_NOT_SUPPORTED" if small else None)
    assert len(bytes(sent["body"])) <= 512
    assert (sent["state"], sent["due_at_ms"]) == ("sent", None)


async def test_a_box_that_is_refused_hears_why(database: Database, shop: Shop) -> None:
    device = await shop.box()
    ask = an_ask(shop, device, door="mqtt")

    async def refuse(tx: Statements) -> None:
        await dynamic_qr.refuse_box(tx, ask, PartnerTimeout("late"), key_of=TELLING.key_of, owner="worker", now_ms=NOW)

    await database.write(refuse)

    sent = await row(database, "SELECT * FROM outbox_message")
    assert b'"error_code":"PARTNER_TIMEOUT"' in bytes(sent["body"])


def _with_crc(payload: str) -> str:
    return payload + f"{binascii.crc_hqx(payload.encode(), 0xFFFF):04X}"
