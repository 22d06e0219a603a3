"""The generic callback scheme: who is let in, and what is read."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers import hmac_scheme
from soundbox_server.providers.base import PaymentReport

SECRET, NEXT_SECRET = b"callback-secret-of-today", b"callback-secret-of-tomorrow"
NOW_S = 1_779_530_400
PAID = {
    "event_id": "evt_1",
    "partner_reference": "ref_1",
    "transaction_id": "SB123",
    "status": "paid",
    "amount": 50_000,
    "currency": "IDR",
    "paid_at": "2026-05-23T17:00:00.123+07:00",
    "issuer": "Bank Contoh",
    "rrn": "012345678901",
}


def read(
    body: bytes, headers: Mapping[str, str] | None = None, *, secrets: tuple[bytes, ...] = (SECRET,)
) -> PaymentReport:
    signed = hmac_scheme.sign([SECRET], body, partner_id="acme", now_s=NOW_S)
    return hmac_scheme.read_callback(
        signed if headers is None else headers, body, partner_id="acme", secrets=secrets, now_ms=NOW_S * 1000
    )


def paid(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (PAID | changes).items() if value is not ...}).encode()


def headers(body: bytes, **changes: str | None) -> dict[str, str]:
    signed = hmac_scheme.sign([SECRET], body, partner_id="acme", now_s=NOW_S)
    changed = signed | {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in changed.items() if value is not None}


def test_a_signed_callback_becomes_a_report() -> None:
    body = paid()

    assert read(body) == PaymentReport(
        provider="acme",
        event_id="evt_1",
        partner_reference="ref_1",
        provider_transaction_id="SB123",
        status="paid",
        amount_idr=50_000,
        currency="IDR",
        paid_at_ms=1_779_530_400_123,
        issuer="Bank Contoh",
        rrn="012345678901",
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )


def test_the_signature_is_hex_hmac_sha256_over_time_dot_body() -> None:
    body = b'{"a": 1}'
    by_hand = hmac.new(SECRET, str(NOW_S).encode() + b"." + body, hashlib.sha256).hexdigest()

    assert hmac_scheme.sign([SECRET], body, partner_id="acme", now_s=NOW_S) == {
        "x-partner-id": "acme",
        "x-partner-timestamp": str(NOW_S),
        "x-partner-signature": f"v1={by_hand}",
    }


@pytest.mark.parametrize("secrets", [(SECRET,), (NEXT_SECRET, SECRET), (SECRET, NEXT_SECRET)])
def test_during_a_rotation_one_matching_secret_is_enough(secrets: tuple[bytes, ...]) -> None:
    both = hmac_scheme.sign([NEXT_SECRET, SECRET], paid(), partner_id="acme", now_s=NOW_S)

    assert read(paid(), secrets=secrets).event_id == "evt_1"
    assert read(paid(), both, secrets=secrets).event_id == "evt_1"


def test_versions_that_nobody_knows_are_passed_over() -> None:
    body = paid()
    v1 = headers(body)["x-partner-signature"]

    assert read(body, headers(body, x_partner_signature=f"v9=whatever, {v1} ,v2={'0' * 64}")).event_id == "evt_1"


def test_a_signature_in_capitals_is_the_same_signature() -> None:
    signature = headers(paid())["x-partner-signature"].removeprefix("v1=")

    assert read(paid(), headers(paid(), x_partner_signature="v1=" + signature.upper())).event_id == "evt_1"


@pytest.mark.parametrize(
    "change",
    [
        {"x_partner_id": None},
        {"x_partner_id": "other"},
        {"x_partner_timestamp": None},
        {"x_partner_timestamp": str(NOW_S + 1)},
        {"x_partner_timestamp": f" {NOW_S}"},
        {"x_partner_timestamp": f"{NOW_S}.0"},
        {"x_partner_timestamp": "١٧٧٩٥٣٠٤٠٠"},
        {"x_partner_timestamp": "9" * 5000},
        {"x_partner_signature": None},
        {"x_partner_signature": ""},
        {"x_partner_signature": "v1="},
        {"x_partner_signature": "v1=" + "0" * 64},
        {"x_partner_signature": "v1=" + "é" * 64},
        {"x_partner_signature": "v1=" + " " * 64},
        {"x_partner_signature": "," * 60_000},
    ],
    ids=str,
)
def test_a_header_that_is_missing_or_wrong_is_turned_away(change: dict[str, str | None]) -> None:
    with pytest.raises(InvalidSignature):
        read(paid(), headers(paid(), **change))


def test_a_changed_body_is_turned_away() -> None:
    with pytest.raises(InvalidSignature):
        read(paid(amount=50_001), headers(paid()))


def test_without_secrets_nobody_is_let_in() -> None:
    with pytest.raises(InvalidSignature):
        read(paid(), secrets=())


@pytest.mark.parametrize(("age_s", "welcome"), [(-300, True), (300, True), (-301, False), (301, False)])
def test_the_window_is_five_minutes_each_way(age_s: int, welcome: bool) -> None:
    signed = hmac_scheme.sign([SECRET], paid(), partner_id="acme", now_s=NOW_S - age_s)

    if welcome:
        assert read(paid(), signed).event_id == "evt_1"
    else:
        with pytest.raises(InvalidSignature):
            read(paid(), signed)


def test_a_forged_body_is_not_even_parsed() -> None:
    with pytest.raises(InvalidSignature):
        read(b"\xff\xfe not json", headers(paid()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf" + paid(),
        paid().replace(b"Bank", b"B\xc3nk"),
        paid()[:-1] + b', "amount": 1}',
        paid()[:-1] + b', "\\u0061mount": 1}',
        paid()[:-1] + b', "extra": {"a": 1, "a": 2}}',
        paid()[:-1] + b',"extra":{"a":1,"a":1}}',
        paid()[:-1] + b', "extra": NaN}',
        paid()[:-1] + b', "extra": 1e999}',
        paid()[:-1] + b', "extra": ' + b"9" * 5000 + b"}",
        paid()[:-1] + b', "extra": "\\ud800"}',
        paid()[:-1] + b', "extra": ' + b"[" * 20 + b"]" * 20 + b"}",
        paid()[:-1] + b', "extra": ' + b"[" * 400 + b"]" * 400 + b"}",
        paid()[:-1] + b', "extra": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        paid()[:-1] + b', "extra": "' + b"x" * 65_536 + b'"}',
        paid(amount=50_000.0),
        paid(amount=50_000.5),
        paid(amount="50000"),
        paid(amount=True),
        paid(amount=None),
        paid(amount=0),
        paid(amount=-1),
        paid(amount=10**12),
        paid(amount=10**30),
        paid(amount=...),
        paid(status="settled"),
        paid(status=...),
        paid(currency="idr"),
        paid(currency="RUPIAH"),
        paid(currency=...),
        paid(event_id=""),
        paid(event_id="evt\u0000"),
        paid(event_id="e" * 129),
        paid(event_id=...),
        paid(partner_reference="a b"),
        paid(partner_reference=7),
        paid(paid_at=...),
        paid(paid_at="2026-05-23T17:00:00"),
        paid(paid_at="2026-05-23"),
        paid(paid_at="2026-02-30T17:00:00Z"),
        paid(paid_at="2026-05-23T17:00:00+25:00"),
        paid(paid_at="0001-01-01T00:00:00+23:59"),
        paid(paid_at="9999-12-31T23:59:59-23:59"),
        paid(paid_at=1_779_530_400),
        paid(issuer="Bank\u202eNAJIP"),
        paid(issuer="Bank\u0000"),
        paid(rrn=12345),
    ],
    ids=lambda body: repr(body[-60:]),
)
def test_a_signed_body_that_cannot_be_read_one_way_only_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationFailed):
        read(body)


def test_unknown_fields_and_nesting_within_reason_are_ignored() -> None:
    body = paid(extra={"deep": [[[[1.5]]]]}, note="é", more=None)

    assert read(body).amount_idr == 50_000


@pytest.mark.parametrize("status", ["pending", "expired", "failed"])
def test_what_is_not_paid_needs_no_time_and_no_amount(status: str) -> None:
    report = read(paid(status=status, amount=0, paid_at=..., issuer=..., rrn=..., transaction_id=...))

    assert (report.status, report.amount_idr, report.paid_at_ms) == (status, 0, None)


def test_another_currency_is_passed_on_for_the_payment_to_judge() -> None:
    assert read(paid(currency="USD")).currency == "USD"


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
bodies = (
    st.binary(max_size=300)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({}, optional={name: st.just(good) | json_values for name, good in PAID.items()}).map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
)


@given(bodies)
@example(b'{"status": "\\ud800"}')
def test_any_signed_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        report = read(body)
    except ValidationFailed as refused:
        refused.message.encode()  # must be fit to be shown
        return
    assert report.body == body
    assert 0 <= report.amount_idr <= 999_999_999_999


@given(
    st.dictionaries(
        st.sampled_from(["x-partner-id", "x-partner-timestamp", "x-partner-signature"]),
        st.text() | st.sampled_from(["acme", str(NOW_S), "v1=" + "a" * 64]),
    ),
    st.binary(max_size=100),
)
def test_any_unsigned_request_is_turned_away(given_headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(InvalidSignature):
        read(body, given_headers)
