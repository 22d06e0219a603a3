"""Reference 000's doors: a merchant's transactions, by QRIS and in cash."""

from typing import Any

import httpx
import pytest
from support.books import check_books
from support.hub import Hub
from support.merchant import Merchant, a_stranger
from support.settled import settled
from support.shop import NOW, Shop, execute, payment_row, report, rows, take, told

from soundbox_server import clock
from soundbox_server.clock import DAY_MS
from soundbox_server.db import Database
from soundbox_server.facades.paybaba import STATUS
from soundbox_server.payments import pictures, qris
from soundbox_server.payments.refunds import request_refund
from soundbox_server.payments.state import PaymentState

CREATE, LIST = "/api/transactions/create", "/api/transactions"
PRODUCTS = [{"id": "SKU-001", "name": "Produk ABC", "quantity": 2, "unitPrice": 25000, "details": {"size": "L"}}]


def a_sale(**other: Any) -> dict[str, Any]:
    """As the reference's own sample."""
    return {
        "type": "QRIS", "amount": 50000, "description": "Pembayaran order #12345", "productName": "Produk ABC",
        "productInfo": PRODUCTS,
    } | other  # fmt: skip


async def sell(merchant: Merchant, *, key: str | None = None, **other: Any) -> dict[str, Any]:
    answered = await merchant.post(CREATE, a_sale(**other), status=201, key=key)
    assert answered["success"] is True
    return dict(answered["data"])


async def test_a_qris_is_issued_and_its_payment_is_found_again(owner: Merchant, shop: Shop, database: Database) -> None:
    created = await sell(owner)

    found = (await owner.get(f"{LIST}/{created['transactionId']}"))["data"]
    picture = await owner.call("GET", created["qrisUrl"])

    assert picture.content == (await pictures.picture(created["qrCode"], "png")).content
    assert qris.amount_idr(qris.decode(created["qrCode"])) == 50000
    assert (created["status"], created["amount"], created["productInfo"]) == ("Pending", 50000, PRODUCTS)
    assert found["qrCode"] == created["qrCode"]
    assert found["expiredTime"] == created["expiredTime"]
    assert (found["type"], found["status"], found["paidAt"], found["netAmount"]) == ("QRIS", "Pending", None, None)
    assert (found["description"], found["productName"]) == ("Pembayaran order #12345", "Produk ABC")
    assert found["productInfo"] == PRODUCTS
    row = await payment_row(database, created["transactionId"])
    assert (row["source"], row["merchant_id"], row["terminal_id"]) == ("api", shop.merchant_id, shop.terminal_id)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_a_product_tells_of_itself_is_kept_however_large_its_numbers(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    details = {"small": -(2**63), "large": [2**64, -(10**30)], "beyond": 10**400, "text": "\x00é", "none": None}

    created = await sell(owner, type="CASH", productInfo=[{"name": "Kopi", "quantity": 1, "details": details}])
    found = (await owner.get(f"{LIST}/{created['transactionId']}"))["data"]

    kept = {"small": -(2**63), "large": [2.0**64, -1e30], "beyond": None, "text": "\x00é", "none": None}
    assert created["productInfo"][0]["details"] == found["productInfo"][0]["details"] == kept
    for half in ('{"\\ud800":1}', '["\\udc00"]'):
        body = f'{{"type":"CASH","amount":1,"productInfo":[{{"name":"a","quantity":1,"details":{half}}}]}}'
        headers = owner.hub.as_role("merchant_owner") | {"content-type": "application/json"}
        assert (await owner.hub.http.post(CREATE, content=body, headers=headers)).status_code == 400


async def test_a_settlement_has_a_date_once_it_is_paid_out(owner: Merchant, shop: Shop, database: Database) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    settlement_id = await settled(database, shop)

    async def dates() -> list[Any]:
        listed = (await owner.get(LIST))["data"]
        shown = (await owner.get(f"{LIST}/{payment.payment_id}"))["data"]
        return [listed[0]["settlementDate"], shown["settlementDate"]]

    before = await dates()
    paid = "UPDATE settlement SET state = 'paid', changed_at_ms = $2 WHERE id = $1"
    await execute(database, paid, settlement_id, NOW + DAY_MS)

    assert before == [None, None]
    assert await dates() == ["2026-05-24T10:00:00.000Z"] * 2


async def test_cash_is_settled_at_once(owner: Merchant, shop: Shop, database: Database) -> None:
    await shop.box()

    created = await sell(owner, type="CASH", productInfo=[])
    found = (await owner.get(f"{LIST}/{created['transactionId']}"))["data"]

    assert found == created | {"qrCode": None}
    assert (created["status"], created["feeAmount"], created["netAmount"]) == ("Success", 0, 50000)
    assert created["settlementDate"] == created["paidAt"] is not None
    assert await told(database, created["transactionId"]) == []
    assert (await check_books(database)).cash == 50000


async def test_asking_the_provider_finds_what_its_callback_did_not_bring(
    owner: Merchant, hub: Hub, shop: Shop, database: Database
) -> None:
    box = await shop.box()
    transaction_id = (await sell(owner))["transactionId"]
    before = (await owner.get(f"{LIST}/{transaction_id}/check-status"))["data"]
    await deaf(hub)
    await owner.post(f"/api/v1/pos/payments/{transaction_id}/simulate", {})

    after = (await owner.get(f"{LIST}/{transaction_id}/check-status"))["data"]

    assert (before["status"], before["gatewayStatus"]) == ("Pending", "open")
    assert (after["status"], after["gatewayStatus"]) == ("Success", "paid")
    assert after["paidAt"] is not None
    assert [one["recipient_id"] for one in await told(database, transaction_id)] == [box]
    assert (await check_books(database)).captured == {transaction_id: 1}


async def deaf(hub: Hub) -> None:
    """The simulator's next callback gets lost."""
    settings = hub.app.state.settings
    async with httpx.AsyncClient(base_url=settings.sandbox_url, trust_env=False) as acquirer:
        answer = await acquirer.put(
            "/v1/faults", json={"drop_callbacks": 1}, headers={"authorization": f"Bearer {settings.sandbox_api_key}"}
        )
        assert answer.status_code == 200, answer.text


async def test_cash_has_nobody_to_ask(owner: Merchant) -> None:
    transaction_id = (await sell(owner, type="CASH"))["transactionId"]

    checked = (await owner.get(f"{LIST}/{transaction_id}/check-status"))["data"]

    assert (checked["status"], checked["gatewayStatus"]) == ("Success", None)


async def test_the_list_shows_page_by_page_whatever_the_merchant_was_paid(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    made = [(await sell(owner, type="CASH", amount=1000 + n))["transactionId"] for n in range(5)]
    at_the_box = await shop.payment(await shop.box())
    await take(database, report(at_the_box, paid_at_ms=clock.now_ms()), now_ms=clock.now_ms())
    newest_first = [at_the_box.payment_id, *reversed(made)]

    pages = [await owner.get(LIST, {"page": page, "limit": 4}) for page in (1, 2, 3)]
    by_cursor = await owner.get(LIST, {"limit": 4, "cursor": pages[0]["pagination"]["nextCursor"]})
    by_default = await owner.get(LIST)

    assert [[row["transactionId"] for row in page["data"]] for page in pages] == [
        newest_first[:4], newest_first[4:], [],
    ]  # fmt: skip
    assert pages[0]["pagination"] | {"nextCursor": None} == {
        "total": 6, "page": 1, "limit": 4, "pages": 2, "nextCursor": None,
    }  # fmt: skip
    assert by_cursor["data"] == pages[1]["data"]
    assert by_cursor["pagination"]["nextCursor"] is None
    assert (len(by_default["data"]), by_default["pagination"]["limit"]) == (6, 20)
    assert by_default["data"][0]["productInfo"] == []


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, 3), ({"status": "Pending"}, 1), ({"status": "Success"}, 2), ({"status": "Failed"}, 0),
        ({"type": "CASH"}, 2), ({"type": "QRIS"}, 1), ({"startDate": "2020-01-01T00:00:00Z"}, 3),
        ({"endDate": "2020-01-01T00:00:00Z"}, 0), ({"unknown": "x"}, 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_list_finds(owner: Merchant, filters: dict[str, str], found: int) -> None:
    for kind in ("CASH", "CASH", "QRIS"):
        await sell(owner, type=kind)

    listed = await owner.get(LIST, filters)

    assert (len(listed["data"]), listed["pagination"]["total"]) == (found, found)


@pytest.mark.parametrize("kind", ["QRIS", "CASH"])
async def test_a_request_that_is_repeated_is_answered_again(owner: Merchant, database: Database, kind: str) -> None:
    first = await sell(owner, type=kind, key="one")
    again = await sell(owner, type=kind, key="one")
    another = await sell(owner, type=kind)

    assert again == first
    assert another["transactionId"] != first["transactionId"]
    assert len(await rows(database, "SELECT id FROM payment")) == 2


async def test_a_retry_whose_first_answer_was_never_stored_finds_its_payment(
    owner: Merchant, database: Database
) -> None:
    """As after a crash: the payment is there, the answer beside the key is not."""
    first = await sell(owner, key="one")
    await forget_answers(database)

    again = await sell(owner, key="one")

    assert again == first
    assert len(await rows(database, "SELECT id FROM payment")) == 1


async def forget_answers(database: Database) -> None:
    async def forget(tx: Any) -> None:
        await tx.execute("DELETE FROM idempotency_key")

    await database.write(forget)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"type": "CARD"}, "type"), ({"amount": 0.5}, "amount"), ({"amount": "50000"}, "amount"),
        ({"amount": 2**64}, "amount"), ({"type": "CASH", "amount": -(2**64)}, "amount"),
        ({"description": "x" * 201}, "description"), ({"productInfo": [{"name": "A"}]}, "productInfo.0.quantity"),
        ({"productInfo": [{"name": "A", "quantity": 0}]}, "productInfo.0.quantity"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_does_not_fit_is_refused_in_the_references_words(
    owner: Merchant, database: Database, wrong: dict[str, Any], field: str
) -> None:
    refused = await owner.post(CREATE, a_sale(**wrong), status=400)

    assert (refused["success"], refused["message"]) == (False, "Validasi gagal")
    assert [error["field"] for error in refused["errors"]] == [field]
    assert await rows(database, "SELECT id FROM payment") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_every_error_below_its_path_has_the_references_envelope(owner: Merchant, hub: Hub) -> None:
    answers = [
        await hub.http.get(LIST),
        await hub.http.get(LIST, headers=hub.as_role("partner")),
        await hub.http.put(LIST),
        await owner.call("POST", CREATE, json=a_sale(amount=0)),
        await owner.call("GET", f"{LIST}/txn_of_nobody"),
        await owner.call("GET", f"{LIST}/txn_of_nobody/check-status"),
    ]

    assert [answer.status_code for answer in answers] == [401, 403, 405, 400, 404, 404]
    for answer in answers:
        assert (answer.json()["success"], type(answer.json()["message"])) == (False, str)


async def test_what_went_back_is_told(owner: Merchant, database: Database) -> None:
    part, whole = [(await sell(owner, type="CASH"))["transactionId"] for _ in range(2)]
    for transaction_id, amount in ((part, 20000), (whole, None)):
        await refund(database, transaction_id, amount)

    shown = [(await owner.get(f"{LIST}/{transaction_id}"))["data"] for transaction_id in (part, whole)]

    assert [(one["status"], one["refundStatus"], one["refundAmount"]) for one in shown] == [
        ("Success", "Processed", 20000), ("Refunded", "Processed", 50000),
    ]  # fmt: skip
    assert [row["status"] for row in (await owner.get(LIST, {"status": "Refunded"}))["data"]] == ["Refunded"]


async def refund(database: Database, transaction_id: str, amount: int | None) -> None:
    await database.write(
        lambda tx: request_refund(
            tx, transaction_id, amount=amount, reason="salah", requested_by=None, able={}, now_ms=clock.now_ms()
        )
    )


async def test_a_stranger_sees_nothing(owner: Merchant, hub: Hub) -> None:
    stranger, transaction_id = await a_stranger(hub), (await sell(owner))["transactionId"]

    for path in (f"{LIST}/{transaction_id}", f"{LIST}/{transaction_id}/check-status"):
        assert (await stranger.get(path, status=404))["code"] == "TRANSACTION_NOT_FOUND"
    assert (await stranger.get(LIST))["pagination"]["total"] == 0


def test_every_state_has_a_word_of_the_references() -> None:
    assert {state.value for state in PaymentState} <= STATUS.keys()
