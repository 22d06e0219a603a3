"""Midtrans: what counts as paid, what its signature covers, and what comes after the money."""

import hashlib
import json
from typing import Any

import pytest
from support.fakes import midtrans
from support.fakes.service import NOW_MS, OUR_SECRET

from soundbox_server.errors import InvalidSignature, SoundboxError, ValidationFailed
from soundbox_server.providers.base import AdjustmentReport, Method, PaymentReport, ProviderRefused, ProviderUnknown

from .conftest import PARTNERS
from .test_gateways import asked, refund

SETTLED: dict[str, Any] = {
    "order_id": "ref_1",
    "status_code": "200",
    "gross_amount": "25000.00",
    "transaction_id": "t1",
    "transaction_status": "settlement",
    "fraud_status": "accept",
    "currency": "IDR",
    "transaction_time": "2026-05-23 17:00:00",
    "settlement_time": "2026-05-23 17:00:30",
    "issuer": "gopay",
}


def read(**changes: Any) -> Any:
    told = {name: value for name, value in (SETTLED | changes).items() if value is not ...}
    return raw(midtrans.signed(told)[1])


def raw(body: bytes) -> Any:
    return midtrans.gateway(midtrans.config()).read_callback({}, body, now_ms=NOW_MS)


def test_a_settlement_is_a_payment() -> None:
    report = read()

    assert isinstance(report, PaymentReport)
    assert (report.status, report.amount_idr, report.currency) == ("paid", 25_000, "IDR")
    assert (report.event_id, report.paid_at_ms, report.issuer) == ("ref_1:settlement", NOW_MS + 30_000, "gopay")


@pytest.mark.parametrize(
    ("change", "status", "remark"),
    [
        ({"transaction_status": "capture"}, "paid", None),
        ({"fraud_status": ...}, "paid", None),
        ({"status_code": "201"}, "pending", "status_code_is_not_200"),
        ({"status_code": "202"}, "pending", "status_code_is_not_200"),
        ({"transaction_status": "capture", "fraud_status": "challenge"}, "pending", "fraud_challenge"),
        ({"status_code": "201", "fraud_status": "challenge"}, "pending", "fraud_challenge"),
        ({"fraud_status": "deny"}, "failed", "fraud_denied"),
        ({"fraud_status": None}, "failed", "fraud_denied"),
        ({"transaction_status": "pending"}, "pending", None),
        ({"transaction_status": "authorize"}, "pending", None),
        ({"transaction_status": "expire"}, "expired", None),
        ({"transaction_status": "cancel"}, "failed", None),
        ({"transaction_status": "failure"}, "failed", None),
    ],
    ids=str,
)  # fmt: skip
def test_paid_is_paid_by_the_rule_of_three(change: dict[str, Any], status: str, remark: str | None) -> None:
    report = read(**change)

    assert (report.status, report.remark) == (status, remark)
    assert (report.paid_at_ms is not None) == (status == "paid")


def test_deny_after_settlement_is_a_reversal_and_before_it_is_for_the_payment_to_tell() -> None:
    after, before = (
        read(transaction_status="deny", status_code="202"),
        read(transaction_status="deny", status_code="202", settlement_time=...),
    )

    assert isinstance(after, AdjustmentReport)
    assert (after.kind, before.kind, after.partner_reference) == ("reversed", "denied", "ref_1")


def test_two_partial_refunds_are_two_events_and_their_sum_is_told() -> None:
    first = [{"refund_key": "rfn_1", "refund_amount": "1000.00"}]
    both = [*first, {"refund_key": "rfn_2", "refund_amount": "500.00"}]
    one = read(transaction_status="partial_refund", refund_amount="1000.00", refunds=first)
    two = read(transaction_status="partial_refund", refund_amount="1500.00", refunds=both)

    assert [(r.kind, r.refund_reference, r.amount_idr, r.total_idr) for r in (one, two)] == [
        ("refunded", "rfn_1", 1_000, 1_000),
        ("refunded", "rfn_2", 500, 1_500),
    ]
    assert one.event_id != two.event_id


def test_what_the_signature_does_not_cover_is_not_confirmed() -> None:
    """Order, code and amount of a settlement are those of a refund: only a query tells which it is."""
    assert read(transaction_status="refund").confirmed is False


def test_a_replay_with_another_transaction_is_still_the_same_event() -> None:
    changed = read(transaction_id="t2", reference_id="other", shopeepay_reference_number="other")

    assert (changed.event_id, changed.rrn) == (read().event_id, None)


@pytest.mark.parametrize(
    "change",
    [
        {"order_id": "ref_2"},
        {"status_code": "201"},
        {"gross_amount": "25000.0"},
        {"gross_amount": "1.00"},
        {"gross_amount": 25000},
        {"signature_key": ...},
        {"signature_key": ""},
        {"signature_key": 7},
        {"signature_key": "é" * 128},
    ],
    ids=str,
)
def test_what_is_signed_cannot_be_changed(change: dict[str, Any]) -> None:
    told = json.loads(midtrans.signed(SETTLED)[1]) | change

    with pytest.raises(InvalidSignature):
        raw(json.dumps({name: value for name, value in told.items() if value is not ...}).encode())


def test_a_key_in_capitals_is_the_same_key() -> None:
    told = json.loads(midtrans.signed(SETTLED)[1])

    assert raw(json.dumps(told | {"signature_key": told["signature_key"].upper()}).encode()).status == "paid"


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{}", b'{"order_id": "\\ud800"}'])
def test_what_is_not_signed_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSignature):
        raw(body)


def test_a_key_that_is_there_twice_is_refused() -> None:
    body = midtrans.signed(SETTLED)[1]

    with pytest.raises(InvalidSignature):
        raw(body[:-1] + b', "transaction_status": "settlement"}')


@pytest.mark.parametrize(
    "change",
    [
        {"gross_amount": "25000.50"},
        {"gross_amount": "0.00"},
        {"order_id": "a b"},
        {"transaction_status": "happy"},
        {"transaction_status": ...},
        {"currency": "rupiah"},
    ],
    ids=str,
)
def test_a_signed_body_that_cannot_be_read_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        read(**change)


def test_a_body_too_long_is_refused() -> None:
    with pytest.raises(ValidationFailed):
        read(note="x" * 70_000)


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        (Method.QRIS_DYNAMIC, {"qr_payload"}),
        (Method.GOPAY, {"deeplink"}),
        (Method.SHOPEEPAY, {"deeplink"}),
        (Method.VA_BCA, {"va_number"}),
        (Method.VA_BNI, {"va_number"}),
        (Method.VA_BRI, {"va_number"}),
        (Method.VA_MANDIRI, {"va_number", "biller_code"}),
        (Method.CARD_HOSTED, {"checkout_url"}),
    ],
)
async def test_each_method_gives_the_payer_what_he_needs(method: Method, shown: set[str]) -> None:
    async with PARTNERS["midtrans"].world() as world:
        assert method in world.gateway.capabilities.methods
        charge = await world.gateway.create(asked(method=method, success_url="https://shop.invalid/thanks"))
        before = await world.gateway.query("ref_1", method=method)
        world.fake.pay("ref_1")
        status = await world.gateway.query("ref_1", method=method)

        offered = {"qr_payload", "deeplink", "va_number", "biller_code", "checkout_url"}
        assert {name for name in offered if getattr(charge, name)} == shown
        assert (before.state, status.state) == ("open", "paid")


async def test_an_answer_for_another_order_is_not_believed() -> None:
    async with PARTNERS["midtrans"].world() as world:
        honest = world.fake.shown
        world.fake.shown = lambda charge: honest(charge) | {"gross_amount": "1.00"}

        with pytest.raises(ProviderUnknown):
            await world.gateway.create(asked())


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, {}, ProviderUnknown),
        (200, [], ProviderUnknown),
        (200, {"status_code": "201"}, ProviderUnknown),
        (200, {"status_code": "407"}, ProviderUnknown),
        (200, {"status_code": "200", "refund_key": "rfn_9"}, ProviderUnknown),
        (200, {"status_code": "406"}, ProviderUnknown),
        (200, {"status_code": "500"}, ProviderUnknown),
        (200, {"status_code": "412"}, ProviderRefused),
        (200, {"status_code": "414"}, ProviderRefused),
        (404, {"message": "no Route matched"}, ProviderRefused),
        (404, [], ProviderRefused),
    ],
    ids=str,
)
async def test_a_refund_is_done_only_where_midtrans_says_so(
    status: int, body: Any, meaning: type[SoundboxError]
) -> None:
    async with PARTNERS["midtrans"].world() as world:
        charge = await world.gateway.create(asked())
        world.fake.handle = lambda request, content: midtrans.said(status, body)

        with pytest.raises(meaning):
            await world.gateway.refund(refund(charge))


def test_a_gateway_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="server key"):
        midtrans.gateway(midtrans.config(server_key=""))


def test_the_fake_and_the_adapter_agree_with_a_key_made_by_hand() -> None:
    by_hand = hashlib.sha512(f"ref_120025000.00{OUR_SECRET}".encode()).hexdigest()

    assert midtrans.gateway(midtrans.config()).signature_key("ref_1", "200", "25000.00") == by_hand
