"""Reference 002's doors: what a point of sale asks for, gets and sees."""

import asyncio
from typing import Any

import pytest
from support.books import check_books
from support.hub import Hub
from support.merchant import Merchant, a_stranger
from support.shop import Shop, execute, payment_row, rows, told
from support.stack import until
from support.staff import audited

from soundbox_server.db import Database
from soundbox_server.facades.mstore import METHODS, STATUS
from soundbox_server.payments import pictures, qris
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.state import PaymentState

PAYMENTS = "/api/v1/pos/payments"


def order(**other: Any) -> dict[str, Any]:
    """As the reference's own sample."""
    return {
        "order_code": "TRX-MC01-BRN-251013-5UJW", "method": "qris", "amount": 33000, "currency": "IDR",
        "customer_email": "budi@example.com", "success_url": "https://pos.example.com/payment/success",
        "failure_url": "https://pos.example.com/payment/failed",
    } | other  # fmt: skip


async def paid(merchant: Merchant, reference_id: str) -> dict[str, Any]:
    """The payment once it is paid."""

    async def is_paid() -> Any:
        data = (await merchant.get(f"{PAYMENTS}/{reference_id}"))["data"]
        return data if data["status"] == "paid" else None

    found: dict[str, Any] = await until(is_paid, what="a payment that is paid")
    return found


async def test_a_qris_payment_is_asked_for_paid_and_announced(owner: Merchant, shop: Shop, database: Database) -> None:
    box = await shop.box()

    created = await owner.post(PAYMENTS, order())
    data = created["data"]
    simulated = await owner.post(f"{PAYMENTS}/{data['reference_id']}/simulate", {"amount": 33000})
    status = await paid(owner, data["reference_id"])

    assert created["code"] == 200
    assert qris.amount_idr(qris.decode(data["qr_string"])) == 33000
    assert data["external_id"] == data["order_code"] == order()["order_code"]
    assert (data["status"], data["method"], data["channel_code"]) == ("pending", "qris", "QR_CODE")
    assert data["extra"]["provider"] == "sandbox"
    assert simulated["data"] == {"status": "SUCCEEDED", "message": "Payment simulated successfully"}
    assert (status["payment_method"], status["channel_code"], status["amount"]) == ("QRIS", "QR_CODE", 33000)
    assert status["paid_at"] is not None
    assert [one["recipient_id"] for one in await told(database, data["reference_id"])] == [box]
    assert (await check_books(database)).captured == {data["reference_id"]: 1}
    assert len(await audited(database, "transaction.simulated")) == 1


async def test_the_picture_that_the_answer_names_shows_the_same_qr_to_its_own_merchant_alone(
    owner: Merchant, hub: Hub, shop: Shop, database: Database
) -> None:
    data = (await owner.post(PAYMENTS, order()))["data"]
    path = f"{PAYMENTS}/{data['reference_id']}/qr.png"

    shown = await owner.call("GET", data["qr_url"])
    kept = await hub.http.get(path, headers=hub.as_role("merchant_owner") | {"if-none-match": shown.headers["etag"]})
    small = await owner.call("GET", path, params={"size": 256})
    strange = await (await a_stranger(hub)).get(path, status=404)
    nobody = await hub.http.get(path)
    await owner.post(f"{PAYMENTS}/{data['reference_id']}/simulate", {})
    await paid(owner, data["reference_id"])
    over = await owner.get(path, status=409)

    assert data["qr_url"] == hub.app.state.settings.public_url + path
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
    assert shown.content == (await pictures.picture(data["qr_string"], "png")).content
    assert (kept.status_code, kept.content) == (304, b"")
    assert small.content != shown.content
    assert (strange["error"], nobody.status_code, over["error"]) == ("TRANSACTION_NOT_FOUND", 401, "CONFLICT")


async def test_a_method_that_no_provider_offers_here_is_named(owner: Merchant, database: Database) -> None:
    refused = await owner.post(PAYMENTS, order(method="ovo", customer_phone="+6281234567890"), status=422)

    assert (refused["error"], refused["details"]) == ("INVALID_PAYMENT_TYPE", {"method": "ovo"})
    assert await rows(database, "SELECT id FROM payment") == []


@pytest.mark.parametrize("code", ["INV/2026/11#001", "TRX@toko", "K" * 100])
async def test_a_payment_is_found_by_the_order_code_it_was_made_with(owner: Merchant, code: str) -> None:
    made = (await owner.post(PAYMENTS, order(order_code=code)))["data"]

    found = (await owner.get("/merchant/transactions", {"order_code": code}))["data"]

    assert [one["id"] for one in found] == [made["reference_id"]]


async def test_an_order_code_stands_for_one_payment(owner: Merchant, database: Database) -> None:
    first = await owner.call("POST", PAYMENTS, json=order())
    again = await owner.call("POST", PAYMENTS, json=order())
    other = await owner.post(PAYMENTS, order(amount=34000), status=409)

    assert (first.status_code, again.json()) == (200, first.json())
    assert (other["code"], other["error"]) == (409, "CONFLICT")
    assert len(await rows(database, "SELECT id FROM payment")) == 1


@pytest.mark.parametrize("method", ["qris", "cash"])
async def test_an_idempotency_key_gets_the_first_answer_byte_for_byte(
    owner: Merchant, database: Database, method: str
) -> None:
    first = await owner.call("POST", PAYMENTS, json=order(method=method), key="k")
    again = await owner.call("POST", PAYMENTS, json=order(method=method), key="k")
    other = await owner.post(PAYMENTS, order(method=method, amount=1), key="k", status=422)

    assert (first.status_code, again.content) == (200, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert other["error"] == "IDEMPOTENCY_KEY_REUSED"
    assert len(await rows(database, "SELECT id FROM payment")) == 1


async def test_cash_is_paid_at_once_and_no_box_speaks(owner: Merchant, shop: Shop, database: Database) -> None:
    await shop.box()

    first = (await owner.post(PAYMENTS, order(method="cash")))["data"]
    again = (await owner.post(PAYMENTS, order(method="cash")))["data"]
    status = (await owner.get(f"{PAYMENTS}/{first['reference_id']}"))["data"]

    assert again == first
    assert (first["status"], first["channel_code"]) == ("paid", "CASH")
    assert (status["status"], status["payment_method"], status["paid_at"]) == ("paid", "CASH", first["paid_at"])
    assert await told(database, first["reference_id"]) == []
    books = await check_books(database)
    assert (books.captured, books.cash, books.paid) == ({first["reference_id"]: 1}, 33000, 0)


async def test_another_amount_than_asked_is_put_aside(owner: Merchant, shop: Shop, database: Database) -> None:
    await shop.box()
    reference_id = (await owner.post(PAYMENTS, order()))["data"]["reference_id"]

    await owner.post(f"{PAYMENTS}/{reference_id}/simulate", {"amount": 32999})

    async def is_aside() -> bool:
        return bool((await payment_row(database, reference_id))["state"] == "needs_review")

    await until(is_aside, what="a payment that is put aside")
    assert (await owner.get(f"{PAYMENTS}/{reference_id}"))["data"]["status"] == "pending"
    assert await told(database, reference_id) == []
    assert (await check_books(database)).suspense == 32999


async def test_only_what_waits_for_its_customer_is_simulated(owner: Merchant, database: Database) -> None:
    cash = (await owner.post(PAYMENTS, order(method="cash", order_code="C")))["data"]["reference_id"]
    qr = (await owner.post(PAYMENTS, order()))["data"]["reference_id"]
    await owner.post(f"{PAYMENTS}/{qr}/simulate", {})
    await paid(owner, qr)

    refusals = [await owner.post(f"{PAYMENTS}/{one}/simulate", {}, status=409) for one in (cash, qr)]

    assert {refusal["error"] for refusal in refusals} == {"CONFLICT"}
    assert len(await rows(database, "SELECT id FROM provider_event")) == 1


async def test_a_payment_of_another_provider_is_not_simulated(owner: Merchant, shop: Shop, database: Database) -> None:
    payment = await shop.payment(await shop.box(), provider="acme")
    await execute(database, "UPDATE payment SET expires_at_ms = $2 WHERE id = $1", payment.payment_id, 1 << 45)

    refusal = await owner.post(f"{PAYMENTS}/{payment.payment_id}/simulate", {}, status=409)

    assert refusal["details"] == {"provider": "acme"}
    assert (await payment_row(database, payment.payment_id))["state"] == "awaiting_payment"


@pytest.mark.parametrize(
    ("wrong", "status", "error"),
    [
        ({"amount": 33000.0}, 400, "VALIDATION_FAILED"),
        ({"amount": 33000.5}, 400, "VALIDATION_FAILED"),
        ({"amount": "33000"}, 400, "VALIDATION_FAILED"),
        ({"amount": 0}, 400, "INVALID_AMOUNT"),
        ({"amount": 10_000_001}, 400, "INVALID_AMOUNT"),
        ({"amount": 2**64}, 400, "VALIDATION_FAILED"),
        ({"currency": "USD"}, 400, "VALIDATION_FAILED"),
        ({"method": "barter"}, 400, "VALIDATION_FAILED"),
        ({"order_code": ""}, 400, "VALIDATION_FAILED"),
        ({"success_url": "javascript:alert(1)"}, 400, "VALIDATION_FAILED"),
        ({"terminal_id": "term_nowhere"}, 404, "NOT_FOUND"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_cannot_be_asked_for_is_refused_in_the_references_envelope(
    owner: Merchant, database: Database, wrong: dict[str, Any], status: int, error: str
) -> None:
    refused = await owner.call("POST", PAYMENTS, json=order(**wrong))

    body = refused.json()
    assert (refused.status_code, body["code"], body["error"]) == (status, status, error)
    assert refused.headers["content-type"] == "application/json"
    assert body["request_id"] == refused.headers["x-request-id"]
    assert body["message"]
    assert await rows(database, "SELECT id FROM payment") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_every_error_below_its_path_has_the_references_envelope(owner: Merchant, hub: Hub) -> None:
    answers = [
        await hub.http.post(PAYMENTS, json=order()),
        await hub.http.post(PAYMENTS, json=order(), headers=hub.as_role("bank")),
        await hub.http.put(PAYMENTS),
        await hub.http.get("/api/v1/pos/nothing"),
        await owner.call("POST", PAYMENTS, content=b"{"),
        await owner.call("POST", PAYMENTS, content=b"x" * 70_000),
        await owner.call("GET", f"{PAYMENTS}/txn_of_nobody"),
    ]

    assert [answer.status_code for answer in answers] == [401, 403, 405, 404, 400, 413, 404]
    for answer in answers:
        body = answer.json()
        assert (body["code"], type(body["message"]), type(body["error"])) == (answer.status_code, str, str)
        assert "title" not in body


async def test_a_stranger_sees_nothing_and_sells_nowhere(
    owner: Merchant, hub: Hub, shop: Shop, database: Database
) -> None:
    stranger = await a_stranger(hub)
    reference_id = (await owner.post(PAYMENTS, order()))["data"]["reference_id"]

    assert (await stranger.get(f"{PAYMENTS}/{reference_id}", status=404))["error"] == "TRANSACTION_NOT_FOUND"
    assert (await stranger.post(f"{PAYMENTS}/{reference_id}/simulate", {}, status=404))["code"] == 404
    assert (await stranger.post(PAYMENTS, order(), status=404))["error"] == "NOT_FOUND"
    assert (await stranger.post(PAYMENTS, order(terminal_id=shop.terminal_id), status=404))["code"] == 404
    assert len(await rows(database, "SELECT id FROM payment")) == 1


async def test_a_merchant_that_is_not_approved_gets_no_qr_and_may_count_its_cash(owner: Merchant, shop: Shop) -> None:
    await shop.set_status("suspended")

    refused = await owner.post(PAYMENTS, order(), status=403)
    cash = (await owner.post(PAYMENTS, order(method="cash")))["data"]

    assert (refused["error"], cash["status"]) == ("FORBIDDEN", "paid")


async def test_a_till_that_is_named_sells_and_one_of_several_merchants_must_be_named(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    second = await shop.another_terminal()
    named = (await owner.post(PAYMENTS, order(terminal_id=second.terminal_id)))["data"]["reference_id"]
    await plant_second_merchant(database)

    unnamed = await owner.post(PAYMENTS, order(order_code="B"), status=409)
    cash = (await owner.post(PAYMENTS, order(order_code="C", method="cash", terminal_id="term_2")))["data"]

    assert (await payment_row(database, named))["terminal_id"] == second.terminal_id
    assert unnamed["details"] == {"field": "terminal_id"}
    assert (await payment_row(database, cash["reference_id"]))["merchant_id"] == "mer_2"


async def plant_second_merchant(database: Database) -> None:
    """Another merchant of the same organisation."""
    await execute(
        database,
        "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, payout_mode, status, "
        "created_at_ms) VALUES ('mer_2', 'org_test_merchant', 'm_2', 'Dua', 'Dua', 'manual', 'pending', 1)",
    )
    await execute(
        database,
        "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, created_at_ms) "
        "VALUES ('out_2', 'mer_2', 'main', 'Dua', '', 'active', 1)",
    )
    await execute(
        database,
        "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, is_default, created_at_ms) "
        "VALUES ('term_2', 'out_2', 'mer_2', 'main', 'dynamic', 'active', $1, 1)",
        True,
    )


def test_every_state_and_every_method_has_a_word_of_the_references() -> None:
    assert {state.value for state in PaymentState} <= STATUS.keys()
    assert {*METHODS.values(), PaymentMethod.QRIS_STATIC, PaymentMethod.WALLET} == set(PaymentMethod)


@pytest.mark.parametrize("method", ["qris", "cash"])
async def test_an_order_that_is_asked_for_many_times_at_once_is_one_payment(
    owner: Merchant, database: Database, method: str
) -> None:
    answers = await asyncio.gather(*(owner.call("POST", PAYMENTS, json=order(method=method)) for _ in range(8)))
    last = await owner.post(PAYMENTS, order(method=method))

    assert {answer.status_code for answer in answers} <= {200, 409}  # 409: the first is still being answered
    assert {answer.json()["data"]["reference_id"] for answer in answers if answer.status_code == 200} == {
        last["data"]["reference_id"]
    }
    assert len(await rows(database, "SELECT id FROM payment")) == 1
    assert len(await rows(database, "SELECT id FROM payment_attempt")) == (method == "qris")
    assert (await check_books(database)).cash == (33000 if method == "cash" else 0)
