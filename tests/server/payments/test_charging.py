"""Charges by any method and through any door: one request or order is one payment, and one attempt at a time."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from support.shop import NOW, Shop, row, rows

from soundbox_server.db import Database
from soundbox_server.errors import Conflict, DuplicateRequest, Forbidden, InvalidAmount, NotFound, SoundboxError
from soundbox_server.payments import charging
from soundbox_server.payments.charging import LEASE_MS, Answered, Order, Pending, actions_of
from soundbox_server.payments.methods import CEILING_IDR, MOST_IDR, Lives, Payer, PaymentMethod
from soundbox_server.providers.base import Charge, ChargeRequest, ChargeStatus, Method, PaymentReport

LIFE_MS = 900_000


def an_order(shop: Shop, **more: Any) -> Order:
    order = Order(
        merchant_id=shop.merchant_id, outlet_id=shop.outlet_id, terminal_id=shop.terminal_id, amount=50_000,
        source="pos", trace_id="trc_1", method=Method.OVO, order_code="INV-1",
        payer=Payer(phone="+628123456789"), description="two coffees",
    )  # fmt: skip
    return replace(order, **more)


async def open_charge(database: Database, order: Order, *, now_ms: int = NOW) -> Pending:
    return await database.write(
        lambda tx: charging.open_charge(tx, order, provider="acme", life_ms=LIFE_MS, now_ms=now_ms)
    )


def a_charge(pending: Pending, **given: Any) -> Charge:
    charge = Charge(
        provider="acme", reference=pending.reference, provider_transaction_id="ptx_1", amount_idr=pending.amount,
        qr_payload="", expires_at_ms=pending.expires_at_ms, body=b"{}",
    )  # fmt: skip
    return replace(charge, **given)


class Provider:
    """Issues what it was given."""

    name = "acme"

    def __init__(self, charge: Charge) -> None:
        self.charge = charge

    async def create(self, request: ChargeRequest) -> Charge:
        return self.charge

    async def query(self, reference: str, **about: Any) -> ChargeStatus:
        return ChargeStatus(reference=reference, state="open", charge=self.charge)

    def read_callback(self, headers: Any, body: bytes, *, now_ms: int) -> PaymentReport:
        raise NotImplementedError

    async def circuit(self) -> str:
        return "closed"

    async def aclose(self) -> None: ...


def test_every_method_that_a_provider_can_be_asked_for_is_one_of_a_payment() -> None:
    unasked = {"qris_static", "cash", "wallet"}

    assert {method.value for method in PaymentMethod} == {method.value for method in Method} | unasked


async def test_an_order_keeps_what_a_later_try_needs_to_ask_for_the_same(database: Database, shop: Shop) -> None:
    pending = await open_charge(database, an_order(shop))

    request = pending.charge_request()
    assert (request.method, request.payer_phone, request.payer_email) == (Method.OVO, "+628123456789", None)
    assert (pending.order_code, pending.description, pending.source) == ("INV-1", "two coffees", "pos")
    stored = await row(database, "SELECT method, qr_mode, source FROM payment")
    assert stored == {"method": "ovo", "qr_mode": "none", "source": "pos"}


async def test_an_order_is_one_payment_however_often_it_is_asked_for(database: Database, shop: Shop) -> None:
    order = an_order(shop)
    first = await open_charge(database, order)

    with pytest.raises(DuplicateRequest):
        await open_charge(database, order, now_ms=NOW + LEASE_MS - 1)
    again = await open_charge(database, order, now_ms=NOW + LEASE_MS)

    assert (again.payment_id, again.reference, again.resumed) == (first.payment_id, first.reference, True)
    assert len(await rows(database, "SELECT id FROM payment_attempt")) == 1


@pytest.mark.parametrize("other", [{"amount": 50_001}, {"method": Method.DANA}])
async def test_an_order_code_stands_for_one_amount_and_method(
    database: Database, shop: Shop, other: dict[str, Any]
) -> None:
    await open_charge(database, an_order(shop))

    with pytest.raises(Conflict):
        await open_charge(database, an_order(shop, **other))


async def test_orders_without_a_code_are_payments_of_their_own(database: Database, shop: Shop) -> None:
    await open_charge(database, an_order(shop, order_code=None))
    await open_charge(database, an_order(shop, order_code=None))

    assert len(await rows(database, "SELECT id FROM payment")) == 2


@pytest.mark.parametrize(
    ("method", "amount", "refused"),
    [
        ("qris_dynamic", CEILING_IDR, False),
        ("qris_dynamic", CEILING_IDR + 1, True),
        ("va_bca", CEILING_IDR + 1, False),
        ("va_bca", MOST_IDR + 1, True),
        ("cash", 0, True),
    ],
)
def test_the_most_that_a_payment_may_be_depends_on_its_method(method: str, amount: int, refused: bool) -> None:
    with pytest.raises(InvalidAmount) if refused else nullcontext():
        charging.require_amount(amount, currency="IDR", method=method)


@pytest.mark.parametrize(
    ("method", "life_ms"), [("qris_dynamic", 1), ("gopay", 2), ("ovo", 2), ("va_bri", 3), ("card_hosted", 4)]
)
def test_a_payer_has_as_long_as_the_method_takes(method: str, life_ms: int) -> None:
    assert Lives(qr_ms=1, wallet_ms=2, va_ms=3, card_ms=4).of(method) == life_ms


@pytest.mark.parametrize(
    ("method", "given"),
    [
        (Method.VA_BCA, {"va_number": "1234567890"}),
        (Method.VA_MANDIRI, {"va_number": "1234567890", "biller_code": "70012"}),
        (Method.DANA, {"checkout_url": "https://acme.test/pay"}),
        (Method.LINKAJA, {"deeplink": "linkaja://pay"}),
        (Method.OVO, {}),
        (Method.CARD_HOSTED, {"checkout_url": "https://acme.test/card"}),
        (Method.QRIS_DYNAMIC, {"qr_image_url": "https://acme.test/qr.png"}),
    ],
)
async def test_whatever_the_payer_needs_is_kept_with_the_attempt(
    database: Database, shop: Shop, method: Method, given: dict[str, str]
) -> None:
    pending = await open_charge(database, an_order(shop, method=method))
    charge = a_charge(pending, **given)

    answered = await charging.ask_provider(Provider(charge), pending)
    found = await database.write(lambda tx: charging.record_answer(tx, answered, now_ms=NOW))
    again = await open_charge(database, an_order(shop, method=method))

    assert answered.error is None
    assert (found.payment_state, found.answered, found.actions) == ("awaiting_payment", True, given)
    assert again == found
    assert actions_of(charge) == given


@pytest.mark.parametrize(
    ("method", "given"),
    [
        (Method.VA_BCA, {}),
        (Method.GOPAY, {"qr_payload": "no QR"}),
        (Method.OVO, {"amount_idr": 1}),
        (Method.CARD_HOSTED, {}),
    ],
)
async def test_a_charge_that_nobody_could_pay_is_refused(
    database: Database, shop: Shop, method: Method, given: dict[str, Any]
) -> None:
    pending = await open_charge(database, an_order(shop, method=method))

    answered = await charging.ask_provider(Provider(a_charge(pending, **given)), pending)

    assert isinstance(answered.error, SoundboxError)
    assert (answered.error.code, answered.charge) == ("GATEWAY_ERROR", None)


async def test_an_order_that_failed_stays_failed(database: Database, shop: Shop) -> None:
    pending = await open_charge(database, an_order(shop))
    refused = Answered(pending=pending, error=Forbidden("no"))
    await database.write(lambda tx: charging.record_answer(tx, refused, now_ms=NOW))

    again = await open_charge(database, an_order(shop))

    assert (again.payment_id, again.ended, again.error_code) == (pending.payment_id, True, "FORBIDDEN")


async def test_a_merchants_payment_is_made_at_its_own_open_terminals(database: Database, shop: Shop) -> None:
    async def place(terminal_id: str, merchant_id: str = shop.merchant_id) -> tuple[str, str]:
        return await database.write(lambda tx: charging.place_at(tx, merchant_id, terminal_id=terminal_id))

    assert await place(shop.terminal_id) == (shop.outlet_id, shop.terminal_id)
    with pytest.raises(NotFound):
        await place("term_elsewhere")
    with pytest.raises(NotFound):
        await place(shop.terminal_id, "mer_elsewhere")
    await shop.set_status("suspended")
    with pytest.raises(Forbidden):
        await place(shop.terminal_id)
