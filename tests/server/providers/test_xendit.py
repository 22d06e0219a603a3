"""Xendit: one static token, four shapes of body, three ways to charge."""

import json
from typing import Any

import pytest
from support.fakes import xendit
from support.fakes.service import NOW_MS

from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers.base import AdjustmentReport, Method, PayoutReport, ProviderRefused, ProviderUnknown

from .conftest import PARTNERS
from .test_gateways import asked, refund

PAGES = {"success_url": "https://shop.invalid/thanks", "failure_url": "https://shop.invalid/sorry"}


def read(body: Any, token: str = xendit.CALLBACK_TOKEN, **profile: Any) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return xendit.gateway(xendit.config(**profile)).read_callback({"x-callback-token": token}, raw, now_ms=NOW_MS)


FLAT = {"id": "inv_1", "external_id": "ref_1", "status": "PAID", "amount": 25000, "paid_at": xendit.AT}
SHAPES: dict[str, Any] = {
    "v1": {
        "event": "qr.payment",
        "id": "qrpy_1",
        "amount": 25000,
        "created": xendit.AT,
        "qr_code": {"id": "qr_1", "external_id": "ref_1", "qr_string": "0002", "type": "DYNAMIC"},
        "status": "COMPLETED",
    },
    "v2": {
        "event": "qr.payment",
        "data": {"id": "qrpy_1", "qr_id": "qr_1", "reference_id": "ref_1", "amount": 25000, "currency": "IDR",
                 "status": "SUCCEEDED", "created": xendit.AT},
    },
    "v3": {
        "event": "payment.capture",
        "api_version": "v3",
        "data": {"payment_id": "py-1", "payment_request_id": "pr-1", "reference_id": "ref_1", "status": "SUCCEEDED",
                 "request_amount": 25000, "currency": "IDR", "channel_code": "QRIS",
                 "captures": [{"capture_id": "c1", "capture_amount": 25000, "capture_timestamp": xendit.AT}],
                 "payment_details": {"receipt_id": "77", "issuer_name": "Bank Contoh"}},
    },
    "flat": FLAT,
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "event_id", "charge_id"),
    [("v1", "qrpy_1", "qr_1"), ("v2", "qrpy_1", "qr_1"), ("v3", "pr-1:succeeded", "pr-1"),
     ("flat", "inv_1:succeeded", "inv_1")],
)  # fmt: skip
def test_each_of_the_four_shapes_is_a_payment(shape: str, event_id: str, charge_id: str) -> None:
    report = read(SHAPES[shape])

    assert (report.status, report.amount_idr, report.currency) == ("paid", 25_000, "IDR")
    assert (report.partner_reference, report.event_id) == ("ref_1", event_id)
    assert (report.provider_transaction_id, report.paid_at_ms) == (charge_id, NOW_MS)


@pytest.mark.parametrize("token", ["", "other", xendit.CALLBACK_TOKEN + " ", xendit.CALLBACK_TOKEN[:-1], "é", "\udc80"])
def test_another_token_is_refused_before_anything_is_read(token: str) -> None:
    with pytest.raises(InvalidSignature):
        read(b"\xff not json", token)


def test_during_a_rotation_both_tokens_are_good() -> None:
    for token in ("old", "new"):
        assert read(FLAT, token, callback_tokens=("old", "new")).status == "paid"


@pytest.mark.parametrize("tokens", [(), ("",), ("good", "")])
def test_no_token_would_let_everybody_in(tokens: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="callback token"):
        xendit.gateway(xendit.config(callback_tokens=tokens))


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 25000.5},
        {"amount": "25000.50"},
        {"amount": -1},
        {"amount": True},
        {"amount": None},
        {"amount": 0},
        {"amount": 10**12},
        {"status": "HAPPY"},
        {"status": None},
        {"external_id": "a b"},
        {"external_id": None},
        {"id": None},
        {"currency": "idr"},
        {"event": "payment_method.activated"},
        {"event": "qr.payment"},
        {"event": "refund.succeeded", "data": {"status": "HAPPY"}},
        {"event": "payout.succeeded", "data": {"status": "HAPPY"}},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        read(FLAT | change)


@pytest.mark.parametrize("amount", [b"25000", b"25000.0", b"25000.00", b"2.5e4", b'"25000.00"'])
def test_an_amount_is_read_exactly_however_it_is_written(amount: bytes) -> None:
    assert read(json.dumps(FLAT).encode().replace(b"25000", amount)).amount_idr == 25_000


def test_a_fraction_too_small_for_a_float_is_still_a_fraction() -> None:
    with pytest.raises(ValidationFailed):
        read(json.dumps(FLAT).encode().replace(b"25000", b"25000.00000000000000001"))


@pytest.mark.parametrize(
    ("event", "kind"),
    [("refund.succeeded", "refunded"), ("refund.failed", "refund_failed"), ("refund.pending", "refund_pending")],
)
def test_refunds_are_adjustments(event: str, kind: str) -> None:
    status = event.partition(".")[2].upper()
    data = {"id": "rfd-1", "payment_request_id": "pr-1", "reference_id": "rfn_1", "amount": 100, "status": status}

    report = read({"event": event, "data": data})

    assert isinstance(report, AdjustmentReport)
    assert (report.kind, report.refund_reference, report.provider_transaction_id) == (kind, "rfn_1", "pr-1")


def test_a_payout_may_be_reversed_after_it_succeeded() -> None:
    data = {"id": "disb-1", "reference_id": "pay_1", "amount": 10000, "currency": "IDR"}
    reports = [
        read({"event": "payout.x", "data": data | {"status": status}})
        for status in ("ACCEPTED", "REQUESTED", "SUCCEEDED", "FAILED", "REVERSED", "PENDING_COMPLIANCE_ASSESSMENT")
    ]

    assert all(isinstance(report, PayoutReport) for report in reports)
    assert [report.state for report in reports] == [
        "pending", "pending", "succeeded", "failed", "reversed", "pending"
    ]  # fmt: skip


# Charging


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        (Method.DANA, "checkout_url"),
        (Method.GOPAY, "deeplink"),
        (Method.SHOPEEPAY, "checkout_url"),
        (Method.LINKAJA, "checkout_url"),
        (Method.OVO, "checkout_url"),
        (Method.VA_BCA, "va_number"),
        (Method.VA_BNI, "va_number"),
        (Method.VA_BRI, "va_number"),
        (Method.VA_MANDIRI, "va_number"),
        (Method.CARD_HOSTED, "checkout_url"),
        (Method.QRIS_DYNAMIC, "qr_payload"),
    ],
)
async def test_each_method_gives_the_payer_what_he_needs(method: Method, shown: str) -> None:
    async with PARTNERS["xendit"].world() as world:
        assert method in world.gateway.capabilities.methods
        charge = await world.gateway.create(asked(method=method, payer_phone="+6281234567890", **PAGES))
        world.fake.pay("ref_1")
        status = await world.gateway.query("ref_1", method=method)
        told = world.gateway.read_callback(*world.fake.notification("ref_1"), now_ms=NOW_MS)

        assert getattr(charge, shown)
        assert (status.state, status.report.event_id) == ("paid", told.event_id)


async def test_a_wallet_without_phone_or_page_is_refused_before_xendit_is_asked() -> None:
    async with PARTNERS["xendit"].world() as world:
        for method in (Method.OVO, Method.DANA):
            with pytest.raises(ProviderRefused):
                await world.gateway.create(asked(method=method))
        assert world.fake.requests == []


@pytest.mark.parametrize("method", [Method.QRIS_DYNAMIC, Method.CARD_HOSTED, Method.VA_BCA])
async def test_a_lost_answer_is_repeated_and_finds_the_charge(method: Method) -> None:
    async with PARTNERS["xendit"].world() as world:
        world.fake.faults = ["lost"]

        charge = await world.gateway.create(asked(method=method))

        assert charge.provider_transaction_id == world.fake.charges["ref_1"].id
        assert len(world.fake.charges) == 1


async def test_a_hosted_card_page_is_ended_and_refunded_as_an_invoice() -> None:
    async with PARTNERS["xendit"].world() as world:
        card = Method.CARD_HOSTED
        await world.gateway.create(asked("ref_1", method=card))
        await world.gateway.cancel("ref_1", method=card)
        charge = await world.gateway.create(asked("ref_2", method=card))
        world.fake.pay("ref_2")
        request = refund(charge)
        request = type(request)(**{**vars(request), "method": card})
        done = await world.gateway.refund(request)

        assert (await world.gateway.query("ref_1", method=card)).state == "expired"
        assert (done.state, (await world.gateway.query_refund(request)).state) == ("succeeded", "succeeded")
        assert world.fake.charges["ref_2"].refunds == {"rfn_1": 10_000}


async def test_a_refund_needs_xendits_own_id() -> None:
    async with PARTNERS["xendit"].world() as world:
        charge = await world.gateway.create(asked())
        request = refund(charge)
        with pytest.raises(ProviderRefused):
            await world.gateway.refund(type(request)(**{**vars(request), "provider_transaction_id": None}))


# QR codes, where the account has only them


async def test_a_qr_code_is_charged_found_and_refunded_by_its_own_id() -> None:
    async with PARTNERS["xendit"].world(qris_api="qr_codes") as world:
        charge = await world.gateway.create(asked())
        number = charge.provider_transaction_id
        open_status = await world.gateway.query("ref_1", provider_transaction_id=number)
        world.fake.pay("ref_1")
        status = await world.gateway.query("ref_1", provider_transaction_id=number)
        told = world.gateway.read_callback(*world.fake.notification("ref_1"), now_ms=NOW_MS)
        done = await world.gateway.refund(refund(charge))

        assert (open_status.state, status.state, status.report.event_id) == ("open", "paid", told.event_id)
        assert (status.report.rrn, status.report.issuer) == ("000111666", "GOPAY")
        assert (done.state, (await world.gateway.query_refund(refund(charge))).state) == ("succeeded", "succeeded")
        assert (await world.gateway.query("ref_2", provider_transaction_id="no9")).state == "not_found"


async def test_a_qr_code_without_its_id_cannot_be_found_and_so_is_unknown() -> None:
    async with PARTNERS["xendit"].world(qris_api="qr_codes") as world:
        await world.gateway.create(asked())

        with pytest.raises(ProviderUnknown):
            await world.gateway.query("ref_1")
        with pytest.raises(ProviderRefused):
            await world.gateway.cancel("ref_1")


@pytest.mark.parametrize("status", [403, 400])
async def test_xendits_own_refusals_are_definite(status: int) -> None:
    async with PARTNERS["xendit"].world() as world:
        world.fake._create = lambda *_: xendit.said(status, {"error_code": "CHANNEL_NOT_ACTIVATED"})

        with pytest.raises(ProviderRefused) as refused:
            await world.gateway.create(asked())
        assert refused.value.facts["code"] == "CHANNEL_NOT_ACTIVATED"


@pytest.mark.parametrize("answer", [{}, {"status": "ACTIVE"}, {"status": 7}])
async def test_a_charge_has_ended_only_where_xendit_says_so(answer: dict[str, Any]) -> None:
    async with PARTNERS["xendit"].world() as world:
        await world.gateway.create(asked())
        world.fake._end = lambda charge_id: xendit.said(200, answer)

        with pytest.raises(ProviderUnknown):
            await world.gateway.cancel("ref_1")


@pytest.mark.parametrize(("status", "code"), [(409, "DUPLICATE_ERROR"), (409, "OTHER"), (400, "IDEMPOTENCY_ERROR")])
async def test_a_reference_that_xendit_has_seen_may_have_been_charged(status: int, code: str) -> None:
    async with PARTNERS["xendit"].world() as world:
        world.fake._create = lambda *_: xendit.said(status, {"error_code": code})

        with pytest.raises(ProviderUnknown):
            await world.gateway.create(asked())


@pytest.mark.parametrize("change", [{"reference_id": "ref_2"}, {"amount": 1}, {"amount": 25000.5}, {"id": None}])
async def test_an_answer_for_another_charge_is_not_believed(change: dict[str, Any]) -> None:
    async with PARTNERS["xendit"].world() as world:
        honest = world.fake.shown
        world.fake.shown = lambda charge: honest(charge) | change

        with pytest.raises(ProviderUnknown):
            await world.gateway.create(asked())


async def test_only_xendits_own_word_says_that_a_qr_code_does_not_exist() -> None:
    async with PARTNERS["xendit"].world(qris_api="qr_codes") as world:
        world.fake.handle = lambda request, body: xendit.said(404, {"error_code": "ROUTE_NOT_FOUND"})

        with pytest.raises(ProviderRefused):
            await world.gateway.query("ref_1", provider_transaction_id="no1")
