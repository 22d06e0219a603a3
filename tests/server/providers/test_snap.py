"""SNAP BI: whose turn it is to sign, with which key, over what; tokens; and what response codes mean."""

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.fakes import snap
from support.fakes.service import NOW_MS, body_hash, private_pem, public_pem, rsa_signed, serving

from soundbox_server.errors import InvalidSignature, SoundboxError, ValidationFailed
from soundbox_server.providers import snap_signing as signing
from soundbox_server.providers.base import AdjustmentReport, PaymentReport, ProviderRefused, ProviderUnknown
from soundbox_server.providers.snap import SnapProvider, TokenRefused

from .conftest import PARTNERS
from .test_gateways import asked, refund

TOKEN = "token-that-we-issued"
PAID = {
    "originalReferenceNo": "A1",
    "originalPartnerReferenceNo": "ref_1",
    "latestTransactionStatus": "00",
    "amount": {"value": "25000.00", "currency": "IDR"},
    "paidTime": snap.NOW,
    "additionalInfo": {"issuer": "Bank Contoh", "rrn": "012345678901"},
}


def told(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (PAID | changes).items() if value is not ...}).encode()


def read(message: tuple[dict[str, str], bytes], **profile: Any) -> Any:
    gateway = snap.gateway(snap.config(**profile), knows_token=lambda token, now_ms: token == TOKEN)
    return gateway.read_callback(*message, now_ms=NOW_MS)


# What we are told


def test_a_notification_signed_by_the_partner_becomes_a_report() -> None:
    report = read(snap.signed_by_rsa(told()))

    assert report == PaymentReport(
        provider="acme",
        event_id="A1:00",
        partner_reference="ref_1",
        provider_transaction_id="A1",
        status="paid",
        amount_idr=25_000,
        currency="IDR",
        paid_at_ms=NOW_MS,
        issuer="Bank Contoh",
        rrn="012345678901",
        body=told(),
        body_sha256=body_hash(told()),
    )


def test_a_notification_signed_with_our_token_becomes_the_same_report() -> None:
    symmetric = read(snap.signed_by_hmac(told(), TOKEN), notifications_signed="symmetric")

    assert symmetric == read(snap.signed_by_rsa(told()))


@pytest.mark.parametrize("authorization", [None, "", TOKEN, "Bearer ", "Bearer another-token", f"Basic {TOKEN}"])
def test_a_token_that_we_did_not_issue_is_refused_as_such(authorization: str | None) -> None:
    headers, body = snap.signed_by_hmac(told(), TOKEN)
    headers = {name: value for name, value in headers.items() if name != "authorization"}
    if authorization is not None:
        headers["authorization"] = authorization

    with pytest.raises(TokenRefused):
        read((headers, body), notifications_signed="symmetric")


def test_a_token_does_not_replace_the_signature() -> None:
    headers, _ = snap.signed_by_hmac(told(), TOKEN)

    with pytest.raises(InvalidSignature) as refused:
        read((headers, told(latestTransactionStatus="04")), notifications_signed="symmetric")
    assert not isinstance(refused.value, TokenRefused)


def test_each_profile_accepts_only_its_own_kind_of_signature() -> None:
    with pytest.raises(InvalidSignature):
        read(snap.signed_by_hmac(told(), TOKEN))
    with pytest.raises(InvalidSignature):
        read(snap.signed_by_rsa(told()), notifications_signed="symmetric")


def test_what_was_signed_minified_and_sent_with_space_is_genuine() -> None:
    pretty = json.dumps(PAID | {"note": 'two  spaces, a "quote" and a \\ stay'}, indent=2).encode()
    headers, _ = snap.signed_by_rsa(signing.minified(pretty))

    report = read((headers, pretty))

    assert (report.event_id, report.body) == ("A1:00", pretty)


def test_space_inside_strings_is_not_for_the_taking() -> None:
    body = told(additionalInfo={"issuer": "Bank  Contoh"})
    headers, _ = snap.signed_by_rsa(body.replace(b"Bank  Contoh", b"BankContoh").replace(b" ", b""))

    with pytest.raises(InvalidSignature):
        read((headers, body))


@pytest.mark.parametrize(("age_s", "welcome"), [(-300, True), (300, True), (-301, False), (301, False)])
def test_the_window_is_five_minutes_each_way(age_s: int, welcome: bool) -> None:
    message = snap.signed_by_rsa(told())
    gateway = snap.gateway(snap.config())

    if welcome:
        gateway.read_callback(*message, now_ms=NOW_MS + age_s * 1000)
    else:
        with pytest.raises(InvalidSignature):
            gateway.read_callback(*message, now_ms=NOW_MS + age_s * 1000)


def test_a_profile_may_widen_the_window() -> None:
    gateway = snap.gateway(snap.config(window_s=3_600))

    assert gateway.read_callback(*snap.signed_by_rsa(told()), now_ms=NOW_MS + 3_600_000)


@pytest.mark.parametrize("timestamp", ["", "2026-05-23T17:00:00", "1779530400", "2026-05-23 17:00:00+07:00", "x" * 999])
def test_a_time_that_is_not_one_is_refused(timestamp: str) -> None:
    with pytest.raises(InvalidSignature):
        read(snap.signed_by_rsa(told(), at=timestamp))


@pytest.mark.parametrize("timestamp", ["2026-05-23T10:00:00.123Z", "2026-05-23T17:00:00.5+07:00"])
def test_a_time_may_have_fractions_and_any_offset(timestamp: str) -> None:
    assert read(snap.signed_by_rsa(told(), at=timestamp)).status == "paid"


def test_another_path_is_another_message() -> None:
    with pytest.raises(InvalidSignature):
        read(snap.signed_by_rsa(told(), path="/v1.0/qr/qr-mpm-notify"))


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64", "é", "=" * 400, "A" * 60_000])
def test_a_signature_that_is_none_is_refused(signature: str) -> None:
    headers, body = snap.signed_by_rsa(told())

    with pytest.raises(InvalidSignature):
        read((headers | {"x-signature": signature}, body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        told()[:-1] + b', "amount": {"value": "1.00", "currency": "IDR"}}',
        told()[:-1] + b', "extra": NaN}',
        told(originalPartnerReferenceNo=...),
        told(originalPartnerReferenceNo="a b"),
        told(latestTransactionStatus=...),
        told(latestTransactionStatus="99"),
        told(amount=...),
        told(amount="25000.00"),
        told(amount={"value": "25000.50", "currency": "IDR"}),
        told(amount={"value": "25,000.00", "currency": "IDR"}),
        told(amount={"value": "-1.00", "currency": "IDR"}),
        told(amount={"value": "0.00", "currency": "IDR"}),
        told(amount={"value": "1e3", "currency": "IDR"}),
        told(amount={"value": True, "currency": "IDR"}),
        told(amount={"value": 25000.5, "currency": "IDR"}),
        told(amount={"value": "25000.00", "currency": "rupiah"}),
        told(note="x" * 70_000),
    ],
    ids=lambda body: repr(body[-50:]),
)
def test_a_genuine_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationFailed):
        read(snap.signed_by_rsa(body))


@pytest.mark.parametrize(
    ("code", "status"), [("00", "paid"), ("01", "pending"), ("02", "pending"), ("03", "pending"), ("05", "failed"),
                         ("06", "failed"), ("07", "pending")]
)  # fmt: skip
def test_each_status_is_reported(code: str, status: str) -> None:
    report = read(snap.signed_by_rsa(told(latestTransactionStatus=code)))

    assert (report.status, report.event_id) == (status, f"A1:{code}")


def test_what_is_not_paid_needs_no_amount() -> None:
    report = read(snap.signed_by_rsa(told(latestTransactionStatus="06", amount=...)))

    assert (report.status, report.amount_idr, report.paid_at_ms) == ("failed", 0, None)


def test_a_refunded_payment_is_an_adjustment() -> None:
    history = [{"partnerRefundNo": "rfn_1", "refundAmount": {"value": "100.00", "currency": "IDR"}}]
    report = read(snap.signed_by_rsa(told(latestTransactionStatus="04", refundHistory=history)))

    assert isinstance(report, AdjustmentReport)
    assert (report.kind, report.amount_idr, report.refund_reference) == ("refunded", 100, "rfn_1")
    assert report.event_id == "A1:04:rfn_1"


def test_an_unsigned_header_cannot_make_a_second_event_of_one() -> None:
    """X-EXTERNAL-ID is not signed: whoever replays a notification may write what they like there."""
    headers, body = snap.signed_by_rsa(told())
    gateway = snap.gateway(snap.config())

    first = gateway.read_callback(headers, body, now_ms=NOW_MS)
    replayed = gateway.read_callback(headers | {"x-external-id": "999"}, body, now_ms=NOW_MS)

    assert first == replayed
    assert gateway.delivery_key(headers, now_ms=NOW_MS) == f"acme:2026-05-23:{headers['x-external-id']}"
    assert gateway.delivery_key({}, now_ms=NOW_MS) is None


def test_the_day_of_an_external_id_is_jakartas() -> None:
    gateway = snap.gateway(snap.config())

    assert gateway.delivery_key({"x-external-id": "7"}, now_ms=NOW_MS + 7 * 3_600_000) == "acme:2026-05-24:7"


@pytest.mark.parametrize(
    ("outcome", "code"), [("taken", "2005200"), ("orphan", "2005200"), ("conflict", "4095200"), ("forged", "4015200"),
                          ("token_refused", "4015201"), ("unreadable", "4005200"), ("unavailable", "5005200")]
)  # fmt: skip
def test_the_partner_is_answered_by_response_code(outcome: Any, code: str) -> None:
    answer = snap.gateway(snap.config()).acknowledge(outcome, body=b"", now_ms=NOW_MS)

    assert json.loads(answer.body)["responseCode"] == code
    assert (answer.status, answer.headers["x-timestamp"]) == (int(code[:3]), snap.NOW)


# Tokens that the partner asks us for


def token_request(**changes: str) -> dict[str, str]:
    key, at = "acme-at-ours", snap.NOW
    signed = {"x-client-key": key, "x-timestamp": at, "x-signature": rsa_signed("partner", f"{key}|{at}")}
    return signed | {name.replace("_", "-"): value for name, value in changes.items()}


def ask_for_token(
    headers: dict[str, str], body: bytes = b'{"grantType": "client_credentials"}', **profile: Any
) -> None:
    snap.gateway(snap.config(**profile)).verify_token_request(headers, body, now_ms=NOW_MS)


def test_the_partner_gets_a_token_of_our_making() -> None:
    ask_for_token(token_request())
    answer = snap.gateway(snap.config()).token_answer("opaque", now_ms=NOW_MS)

    assert (answer.status, json.loads(answer.body)) == (
        200,
        {
            "responseCode": "2007300",
            "responseMessage": "Successful",
            "accessToken": "opaque",
            "tokenType": "Bearer",
            "expiresIn": "900",
        },
    )
    assert json.loads(snap.gateway(snap.config()).token_refusal("forged", now_ms=NOW_MS).body)["responseCode"] == (
        "4017300"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"x_client_key": "somebody"},
        {"x_client_key": ""},
        {"x_timestamp": "2026-05-23T17:00:01+07:00"},
        {"x_timestamp": "2026-05-23T16:54:59+07:00"},
        {"x_signature": ""},
        {"x_signature": "AAAA"},
    ],
)
def test_a_token_is_not_given_to_strangers(change: dict[str, str]) -> None:
    with pytest.raises(InvalidSignature):
        ask_for_token(token_request(**change))


def test_a_partner_without_a_client_key_gets_no_token() -> None:
    with pytest.raises(InvalidSignature):
        ask_for_token(token_request(x_client_key=""), notify_client_key="")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"grantType": "password"}', b'{"grantType": 1}'])
def test_a_token_is_given_for_one_grant_only(body: bytes) -> None:
    with pytest.raises(ValidationFailed):
        ask_for_token(token_request(), body)


# Tokens that we ask the partner for


async def test_many_questions_at_once_share_one_token() -> None:
    async with PARTNERS["snap"].world() as world:
        await asyncio.gather(*(world.gateway.create(asked(f"ref_{n}")) for n in range(12)))

        assert (world.fake.tokens_issued, len(world.fake.charges), len(world.fake.external_ids)) == (1, 12, 12)


async def test_a_forgotten_token_is_replaced_and_the_question_asked_again() -> None:
    async with PARTNERS["snap"].world() as world:
        await world.gateway.create(asked("ref_1"))
        world.fake.live_tokens.clear()

        await asyncio.gather(*(world.gateway.create(asked(f"ref_{n}")) for n in range(2, 8)))

        assert (world.fake.tokens_issued, len(world.fake.charges)) == (2, 7)


async def test_a_token_is_renewed_a_minute_before_it_ends() -> None:
    fake, now = snap.FakeSnap(), NOW_MS

    async with serving(fake.app()) as url:
        profile = snap.config(url)
        calls, token_calls = snap.Calls("acme", snap.open_client()), snap.Calls("tokens", snap.open_client())
        gateway = SnapProvider(profile, calls, token_calls, now_ms=lambda: now)
        for seconds, issued in [(0, 1), (839, 1), (840, 2)]:
            now = NOW_MS + seconds * 1000
            await gateway.query("ref_1")
            assert fake.tokens_issued == issued
        await gateway.aclose()


async def test_without_a_token_nothing_was_charged() -> None:
    """The token's answer was lost, not the charge's: that is a definite no."""
    async with PARTNERS["snap"].world() as world:
        world.fake._token = lambda request: snap.said(503, {})

        with pytest.raises(ProviderRefused):
            await world.gateway.create(asked())
        assert world.fake.charges == {}


async def test_a_partner_without_prefix_rule_gets_the_whole_path_signed() -> None:
    headers = snap.gateway(snap.config(unsigned_prefix="")).signed_headers(
        "/v1.0/qr/qr-mpm-generate", b"{}", token=None, at_ms=NOW_MS
    )
    text = f"POST:/snap/v1.0/qr/qr-mpm-generate:{body_hash(b'{}')}:{snap.NOW}"

    assert snap.rsa_verifies("hub", text, headers["x-signature"])


# What answers mean


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, {"responseCode": "2004700"}, ProviderUnknown),  # made, but without a QR
        (200, {"responseCode": "2004700", "qrContent": "x", "partnerReferenceNo": "ref_2"}, ProviderUnknown),
        (202, {"responseCode": "2024700", "qrContent": "x"}, ProviderUnknown),
        (200, {"responseCode": "4004701"}, ProviderRefused),
        (400, {"responseCode": "4004702"}, ProviderRefused),
        (401, {"responseCode": "4014700"}, ProviderRefused),
        (403, {"responseCode": "4034718"}, ProviderRefused),
        (404, {"responseCode": "4044713"}, ProviderRefused),
        (429, {"responseCode": "4294700"}, ProviderRefused),
        (409, {"responseCode": "4094700"}, ProviderUnknown),
        (409, {"responseCode": "4094701"}, ProviderUnknown),
        (200, {"responseCode": "5004700"}, ProviderUnknown),
        (504, {"responseCode": "5044700"}, ProviderUnknown),
        (200, {"responseCode": 2004700, "qrContent": "x"}, ProviderUnknown),
        (200, {"qrContent": "x"}, ProviderUnknown),
        (200, [], ProviderUnknown),
        (404, [], ProviderRefused),
    ],
)
async def test_a_response_code_is_a_refusal_or_leaves_it_open(
    status: int, body: Any, meaning: type[SoundboxError]
) -> None:
    async with PARTNERS["snap asymmetric"].world() as world:
        world.fake.handle = lambda request, content: snap.said(status, body)

        with pytest.raises(meaning):
            await world.gateway.create(asked())


async def test_a_query_of_a_paid_charge_has_no_qr_to_show() -> None:
    async with PARTNERS["snap"].world() as world:
        await world.gateway.create(asked())

        assert (await world.gateway.query("ref_1")).charge is None


@pytest.mark.parametrize("meaning", ["open", "expired", "not_found"])
async def test_status_07_means_what_the_profile_says(meaning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(snap.STATUS, "never paid", "07")
    async with PARTNERS["snap"].world(status_07=meaning) as world:
        await world.gateway.create(asked())
        world.fake.charges["ref_1"].status = "never paid"

        assert (await world.gateway.query("ref_1")).state == meaning


async def test_some_refund_by_cancelling_and_only_with_the_approval_code() -> None:
    profile = {"refund_by": "cancel", "refund_needs_approval_code": True, "refund_amount_as": "number"}
    async with PARTNERS["snap"].world(**profile) as world:
        charge = await world.gateway.create(asked())
        seen: list[dict[str, Any]] = []
        answer = snap.code("2007700", additionalInfo={"approvalCode": "9", "referenceNo": "506614670670"})

        def handle(request: Any, body: bytes) -> Any:
            seen.append(json.loads(body))
            return answer

        world.fake.handle = handle
        done = await world.gateway.refund(refund(charge))

        assert (done.state, done.provider_refund_id) == ("succeeded", "506614670670")
        assert world.fake.requests[-1] == ("POST", "/snap/v1.0/qr/qr-mpm-cancel")
        assert seen[0]["refundAmount"] == {"value": 10_000, "currency": "IDR"}
        assert seen[0]["additionalInfo"] == {"approvalCode": "012345678901"}
        assert not world.gateway.capabilities.partial_refund


# Keys


def test_keys_are_read_as_pem_and_as_bare_base64() -> None:
    def bare(pem: str) -> str:
        return "".join(line for line in pem.splitlines() if not line.startswith("-"))

    ours, theirs = private_pem("hub"), public_pem("hub")
    assert signing.private_key(bare(ours)).private_numbers() == signing.private_key(ours).private_numbers()
    assert signing.public_key(bare(theirs)).public_numbers() == signing.public_key(theirs).public_numbers()


def test_a_key_that_is_none_is_refused_without_being_shown() -> None:
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for broken in (private_pem("hub")[:-60], "very-secret", "", curve.decode()):
        with pytest.raises(ValueError, match=r"^The private key (cannot be read|must be RSA)\.$") as refused:
            snap.gateway(snap.config(private_key=broken))
        assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "missing", [{"client_secret": b""}, {"notifications_signed": "symmetric", "notify_secret": b""}]
)
def test_a_profile_without_its_secret_is_refused(missing: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="secret"):
        snap.gateway(snap.config(**missing))
