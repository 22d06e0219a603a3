"""Whatever arrives, genuine or not: it becomes a report, or one of two refusals."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.fakes import midtrans, paylabs, snap, xendit
from support.fakes.service import NOW_MS

from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers.base import AdjustmentReport, Gateway, PaymentReport

Signed = tuple[dict[str, str], bytes]

TOKEN = "token-that-we-issued"
GATEWAYS: dict[str, Gateway] = {
    "snap": snap.gateway(snap.config()),
    "snap symmetric": snap.gateway(
        snap.config(notifications_signed="symmetric"), knows_token=lambda token, now_ms: token == TOKEN
    ),
    "xendit": xendit.gateway(xendit.config()),
    "midtrans": midtrans.gateway(midtrans.config()),
    "paylabs": paylabs.gateway(paylabs.config()),
}


def signed_by_midtrans(body: bytes) -> Signed:
    """Signed wherever the three parts of its signature can be read."""
    try:
        told = json.loads(body)
        return midtrans.signed(told) if all(isinstance(told[n], str) for n in MIDTRANS_PARTS) else ({}, body)
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}, body


MIDTRANS_PARTS = ("order_id", "status_code", "gross_amount")
SIGNERS: dict[str, Callable[[bytes], Signed]] = {
    "snap": snap.signed_by_rsa,
    "snap symmetric": lambda body: snap.signed_by_hmac(body, TOKEN),
    "xendit": lambda body: ({"x-callback-token": xendit.CALLBACK_TOKEN}, body),
    "midtrans": signed_by_midtrans,
    "paylabs": paylabs.signed,
}

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    ["00", "01", "02", "03", "04", "05", "06", "07", "09", "200", "201", "202", "settlement", "capture", "deny",
     "refund", "chargeback", "pending", "accept", "challenge", "PAID", "SUCCEEDED", "VOIDED", "REVERSED", "FAILED",
     "COMPLETED", "qr.payment", "payment.succeeded", "refund.succeeded", "payout.reversed", "IDR", "USD", "ref_1",
     "010332", "25000.00", "0.00", "2026-05-23 17:00:00", "20260523170000", "2026-05-23T17:00:00+07:00",
     "1779530400000"]
)  # fmt: skip
NAMES = [
    "originalReferenceNo", "originalPartnerReferenceNo", "latestTransactionStatus", "amount", "paidTime",
    "additionalInfo", "refundHistory", "value", "currency", "rrn", "issuer", "event", "data", "id", "external_id",
    "reference_id", "status", "qr_code", "qr_id", "payment_request_id", "paid_amount", "request_amount",
    "payment_detail", "payment_details", "receipt_id", "captures", "created", "paid_at", "order_id", "status_code",
    "gross_amount", "transaction_status", "transaction_id", "fraud_status", "settlement_time", "refund_amount",
    "refunds", "refund_key", "merchantId", "merchantTradeNo", "platformTradeNo", "merchantRefundNo", "errCode",
    "successTime", "paymentMethodInfo", "requestId",
]  # fmt: skip
likely: st.SearchStrategy[Any] = st.recursive(
    words | values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=10,
)
GENUINE: dict[str, dict[str, Any]] = {
    "snap": {"originalReferenceNo": "A1", "originalPartnerReferenceNo": "ref_1", "latestTransactionStatus": "00",
             "amount": {"value": "25000.00", "currency": "IDR"}},
    "xendit": {"event": "payment.succeeded", "data": {"id": "py", "payment_request_id": "pr", "reference_id": "ref_1",
               "amount": 25000, "currency": "IDR", "status": "SUCCEEDED"}},
    "midtrans": {"order_id": "ref_1", "status_code": "200", "gross_amount": "25000.00", "transaction_id": "t",
                 "transaction_status": "settlement", "currency": "IDR"},
    "paylabs": {"merchantId": "010332", "merchantTradeNo": "ref_1", "platformTradeNo": "P1", "amount": "25000.00",
                "status": "02", "errCode": "0"},
}  # fmt: skip


def written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def bodies(name: str) -> st.SearchStrategy[bytes]:
    """Noise, JSON of any kind, and genuine messages with some fields exchanged for likely or unlikely ones."""
    genuine = GENUINE[name.split()[0]]
    changed = st.dictionaries(st.sampled_from([*genuine, *NAMES]), likely, max_size=3).map(lambda new: genuine | new)
    inner = genuine.get("data", {})
    nested = st.dictionaries(st.sampled_from([*inner, *NAMES]), likely, max_size=3).map(
        lambda new: genuine | {"data": inner | new}
    )
    return st.binary(max_size=200) | (values | changed | nested).map(written)


def judged(name: str, headers: Mapping[str, str], body: bytes) -> str:
    try:
        report = GATEWAYS[name].read_callback(headers, body, now_ms=NOW_MS)
    except (InvalidSignature, ValidationFailed) as refused:
        refused.message.encode()  # must be fit to be shown
        json.dumps(refused.facts)
        return "forged" if isinstance(refused, InvalidSignature) else "unreadable"
    assert report.body == body
    assert report.provider == GATEWAYS[name].name
    assert report.event_id.isascii()
    assert 0 < len(report.event_id) <= 400
    if isinstance(report, PaymentReport):
        assert 0 <= report.amount_idr <= 999_999_999_999
        assert report.status != "paid" or report.amount_idr > 0
        assert report.issuer is None or report.issuer.isprintable()
    elif isinstance(report, AdjustmentReport):
        assert report.amount_idr is None or report.amount_idr >= 0
    return "report"


@pytest.mark.parametrize("name", GATEWAYS)
@given(data=st.data())
def test_any_genuine_bytes_are_read_or_refused(name: str, data: st.DataObject) -> None:
    headers, body = SIGNERS[name](data.draw(bodies(name)))

    judged(name, headers, body)


@pytest.mark.parametrize("name", GATEWAYS)
def test_what_the_fuzzing_changes_is_a_report_when_it_is_left_alone(name: str) -> None:
    assert judged(name, *SIGNERS[name](written(GENUINE[name.split()[0]]))) == "report"


@pytest.mark.parametrize("name", GATEWAYS)
@given(
    headers=st.dictionaries(
        st.sampled_from(["x-timestamp", "x-signature", "authorization", "x-callback-token", "x-external-id"]),
        st.text(max_size=60) | st.sampled_from([snap.NOW, paylabs.NOW, f"Bearer {TOKEN}", "A" * 88]),
    ),
    body=st.binary(max_size=100) | values.map(written),
)
@example(headers={"x-signature": "\ud800", "x-timestamp": snap.NOW, "authorization": "Bearer \ud800"}, body=b"{}")
def test_any_unsigned_request_is_turned_away(name: str, headers: dict[str, str], body: bytes) -> None:
    assert judged(name, headers, body) == "forged"


@pytest.mark.parametrize("name", ["snap", "snap symmetric", "paylabs"])
@given(data=st.data())
def test_a_genuine_message_that_was_touched_anywhere_is_turned_away(name: str, data: st.DataObject) -> None:
    headers, body = SIGNERS[name](written(GENUINE[name.split()[0]]))
    at = data.draw(st.integers(0, len(body) - 1))
    touched = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]

    assert judged(name, headers, touched) == "forged"
