"""Paylabs: signed both ways, its acknowledgement included."""

import json
from typing import Any

import pytest
from support.fakes import paylabs
from support.fakes.service import NOW_MS, body_hash, rsa_verifies

from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers.base import AdjustmentReport, CallbackOutcome, PaymentReport, ProviderRefused

from .conftest import PARTNERS
from .test_gateways import asked, refund

PAID: dict[str, Any] = {
    "merchantId": "010332",
    "requestId": "N1",
    "errCode": "0",
    "paymentType": "QRIS",
    "amount": "25000.00",
    "successTime": "20260523170030",
    "merchantTradeNo": "ref_1",
    "platformTradeNo": "P1",
    "status": "02",
    "paymentMethodInfo": {"rrn": "012345678901", "issuer": "Bank Contoh"},
}


def told(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (PAID | changes).items() if value is not ...}).encode()


def read(body: bytes, *, age_s: int = 0, path: str = paylabs.NOTIFY_PATH, **profile: Any) -> Any:
    headers, body = paylabs.signed(body, path=path)
    return paylabs.gateway(paylabs.config(**profile)).read_callback(headers, body, now_ms=NOW_MS + age_s * 1000)


def test_a_notification_becomes_a_report() -> None:
    report = read(told())

    assert isinstance(report, PaymentReport)
    assert (report.status, report.amount_idr, report.event_id) == ("paid", 25_000, "P1:02")
    assert (report.paid_at_ms, report.rrn, report.issuer) == (NOW_MS + 30_000, "012345678901", "Bank Contoh")


def test_a_repetition_with_another_request_id_is_the_same_event() -> None:
    assert read(told(requestId="N2")).event_id == read(told()).event_id


@pytest.mark.parametrize(("status", "meaning"), [("01", "pending"), ("02", "paid"), ("09", "failed")])
def test_each_status_is_read(status: str, meaning: str) -> None:
    assert read(told(status=status)).status == meaning


@pytest.mark.parametrize("body", [told(merchantId="999"), told(merchantId=...)])
def test_a_notification_for_another_merchant_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSignature):
        read(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        told(status="03"),
        told(status=...),
        told(errCode="systemError"),
        told(amount="25000.10"),
        told(amount="0.00"),
        told(amount=...),
        told(merchantTradeNo=...),
        told(platformTradeNo="a b"),
        told(merchantRefundNo="rfn_1", status="01"),
    ],
    ids=lambda body: repr(body[-40:]),
)
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationFailed):
        read(body)


def test_the_signed_path_may_be_another_than_the_one_it_came_by() -> None:
    assert read(told(), path="/webhook/paylabs", signed_callback_path="/webhook/paylabs").status == "paid"
    with pytest.raises(InvalidSignature):
        read(told(), path="/webhook/paylabs")


@pytest.mark.parametrize(("age_s", "welcome"), [(3_106, True), (3_600, True), (3_601, False), (-3_601, False)])
def test_the_window_outlasts_its_repetitions(age_s: int, welcome: bool) -> None:
    if welcome:
        assert read(told(), age_s=age_s).status == "paid"
    else:
        with pytest.raises(InvalidSignature):
            read(told(), age_s=age_s)


@pytest.mark.parametrize(
    ("status", "kind"), [("02", "refunded"), ("03", "refund_pending"), ("05", "refund_failed"), ("06", "refund_failed")]
)
def test_a_refunds_news_is_an_adjustment(status: str, kind: str) -> None:
    report = read(told(merchantRefundNo="rfn_1", status=status, amount="100.00"))

    assert isinstance(report, AdjustmentReport)
    assert (report.kind, report.amount_idr, report.refund_reference) == (kind, 100, "rfn_1")
    assert (report.partner_reference, report.event_id) == ("ref_1", f"rfn_1:{status}")


def test_a_fee_that_the_payer_bore_shows_in_the_amount_and_is_left_to_the_payment() -> None:
    assert read(told(amount="25175.00", totalTransFee="175.00"), fee_type="OUR").amount_idr == 25_175


@pytest.mark.parametrize(
    ("outcome", "code", "status"),
    [("taken", "0", 200), ("orphan", "0", 200), ("forged", "signError", 401), ("unavailable", "systemError", 503)],
)
@pytest.mark.parametrize("body", [told(), b"\xff", b"{}"])
def test_the_acknowledgement_is_signed_by_us(outcome: CallbackOutcome, code: str, status: int, body: bytes) -> None:
    answer = paylabs.gateway(paylabs.config()).acknowledge(outcome, body=body, now_ms=NOW_MS)
    text = f"POST:{paylabs.NOTIFY_PATH}:{body_hash(answer.body)}:{answer.headers['x-timestamp']}"
    said = json.loads(answer.body)

    assert rsa_verifies("hub", text, answer.headers["x-signature"])
    assert (answer.status, said["errCode"], said["merchantId"]) == (status, code, "010332")
    assert said["requestId"] == answer.headers["x-request-id"]
    if body == told():
        assert said["requestId"] == "N1"


async def test_refunds_are_refused_where_paylabs_publishes_none() -> None:
    async with PARTNERS["paylabs"].world(refund_path=None, refund_query_path=None) as world:
        charge = await world.gateway.create(asked())
        with pytest.raises(ProviderRefused):
            await world.gateway.refund(refund(charge))

        assert not world.gateway.capabilities.refund
        assert (await world.gateway.query_refund(refund(charge))).state == "pending"


async def test_a_code_that_nobody_named_never_says_that_a_charge_does_not_exist() -> None:
    async with PARTNERS["paylabs"].world(unknown_order_codes=frozenset()) as world:
        with pytest.raises(ProviderRefused):
            await world.gateway.query("ref_unknown")
