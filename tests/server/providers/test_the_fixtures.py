"""Every recorded message of a partner: what we would send has its shape, and what it answers or reports is read."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fakes import midtrans, paylabs, snap, xendit
from support.fakes.service import NOW_MS

from soundbox_server.providers.base import (
    AdjustmentReport,
    ChargeRequest,
    MerchantIdentity,
    Method,
    PaymentReport,
    PayoutReport,
    ProviderRefused,
    ProviderUnknown,
    RefundRequest,
    RefundStatus,
)
from soundbox_server.providers.calls import Calls
from soundbox_server.providers.midtrans import MidtransProvider
from soundbox_server.providers.paylabs import PaylabsProvider
from soundbox_server.providers.snap import SnapProvider
from soundbox_server.providers.xendit import _BANKS, _WALLETS, XenditProvider

Fixture = dict[str, Any]

FIXTURES: dict[str, Fixture] = {
    fixture["id"]: fixture
    for fixture in json.loads((Path(__file__).parents[2] / "fixtures/provider_fixtures.json").read_text())["fixtures"]
}
NOT_A_PROVIDERS = {
    "reference.kgiton.webhook": "a webhook that goes out from us to others",
    "winpay.checkout.create": "Winpay's checkout signs no body: QRIS goes over SNAP instead",
}
MERCHANT = MerchantIdentity(
    merchant_id="mrc_1", name="TOKO UJI", city="JAKARTA", postal_code="10110", mcc="5411", criteria="UMI"
)
PROOFS: dict[str, Callable[[Fixture], None]] = {}


def proves(*names: str) -> Callable[[Callable[[Fixture], None]], Callable[[Fixture], None]]:
    def remember(proof: Callable[[Fixture], None]) -> Callable[[Fixture], None]:
        PROOFS.update(dict.fromkeys(names, proof))
        return proof

    return remember


@dataclass
class Wire:
    """Answers with one body and keeps the last request."""

    answer: Any
    status: int = 200
    request: httpx.Request | None = None

    def calls(self) -> Calls:
        def answer(request: httpx.Request) -> httpx.Response:
            self.request = request
            return httpx.Response(self.status, json=self.answer)

        return Calls("partner", httpx.AsyncClient(transport=httpx.MockTransport(answer)))

    @property
    def path(self) -> str:
        assert self.request is not None
        return self.request.url.path

    @property
    def sent(self) -> dict[str, Any]:
        assert self.request is not None
        said: dict[str, Any] = json.loads(self.request.content)
        return said


def asked(reference: str, amount_idr: int, *, life_s: int = 300, **changes: Any) -> ChargeRequest:
    return ChargeRequest(
        reference=reference,
        amount_idr=amount_idr,
        expires_at_ms=NOW_MS + life_s * 1000,
        merchant=MERCHANT,
        **changes,
    )


def shape(value: Any) -> Any:
    """Names and kinds, without the values."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def snake(value: Any) -> Any:
    """The wire's names: the recordings of Xendit's client libraries show them in another case."""
    if isinstance(value, dict):
        return {re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name): snake(v) for name, v in value.items()}
    return [snake(inner) for inner in value] if isinstance(value, list) else value


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


# Xendit


@proves("xendit.qr.create.v2")
def xendit_issues_a_qr(fixture: Fixture) -> None:
    answer = {
        "id": "qr_1",
        "reference_id": fixture["request"]["reference_id"],
        "business_id": "b",
        "type": "DYNAMIC",
        "currency": "IDR",
        "amount": 10000,
        "channel_code": "ID_DANA",
        "status": "ACTIVE",
        "qr_string": "000201",
        "expires_at": fixture["request"]["expires_at"],
        "created": "2022-10-21T09:56:43.60445Z",
        "metadata": None,
    }
    wire = Wire(answer, 201)
    gateway = XenditProvider(xendit.config(qris_api="qr_codes"), wire.calls(), now_ms=lambda: NOW_MS)
    charge = asyncio.run(gateway.create(asked(fixture["request"]["reference_id"], 10_000)))

    assert {name.split(" ")[0].split("=")[0] for name in fixture["response_fields"]} == set(answer)
    assert wire.request is not None
    assert (wire.request.method, wire.path) == ("POST", "/qr_codes")
    assert wire.request.headers["api-version"] == fixture["headers"]["api-version"]
    assert wire.request.headers["authorization"].startswith("Basic ")
    assert shape(wire.sent) == shape(fixture["request"])
    assert without(wire.sent, "expires_at") == without(fixture["request"], "expires_at")
    assert (charge.qr_payload, charge.provider_transaction_id) == ("000201", "qr_1")
    assert charge.expires_at_ms == 1_666_519_003_604


def payment_request(fixture: Fixture, answer: Fixture, request: ChargeRequest) -> Any:
    """What we send for it, and the charge that Xendit's answer makes."""
    common = {
        "id": "pr-1",
        "reference_id": request.reference,
        "amount": request.amount_idr,
        "created": "2022-10-21T09:56:43Z",
    }
    wire = Wire(common | {"status": "REQUIRES_ACTION"} | answer, 201)
    gateway = XenditProvider(xendit.config(), wire.calls(), now_ms=lambda: NOW_MS)
    charge = asyncio.run(gateway.create(request))

    assert wire.request is not None
    assert (wire.request.method, wire.path) == ("POST", "/payment_requests")
    assert wire.request.headers["idempotency-key"] == request.reference
    return wire.sent, charge


@proves("xendit.payment_requests.create.ewallet")
def xendit_asks_a_wallet(fixture: Fixture) -> None:
    page = "https://redirect.me/success"
    answer = {
        "actions": [{"url_type": "WEB", "url": "https://wallet.invalid"}, {"url_type": "DEEPLINK", "url": "w://p"}]
    }
    request = asked("example-ref-1234", 15_000, method=Method.SHOPEEPAY, success_url=page)
    sent, charge = payment_request(fixture, answer, request)

    assert sent == snake(fixture["request"])
    assert (charge.checkout_url, charge.deeplink) == ("https://wallet.invalid", "w://p")


@proves("xendit.payment_requests.create.qris")
def xendit_asks_for_qris(fixture: Fixture) -> None:
    way = {"id": "pm-1", "qr_code": {"channel_properties": {"qr_string": "000201"}}}
    sent, charge = payment_request(fixture, {"payment_method": way}, asked("example-ref-1234", 15_000))
    ends = sent["payment_method"]["qr_code"].pop("channel_properties")  # ours: Xendit's default is two days

    assert sent == without(snake(fixture["request"]), "metadata")
    assert ends == {"expires_at": "2026-05-23T10:05:00.000Z"}
    assert charge.qr_payload == "000201"


@proves("xendit.payment_requests.create.va")
def xendit_opens_a_virtual_account(fixture: Fixture) -> None:
    way = {"id": "pm-1", "virtual_account": {"channel_properties": {"virtual_account_number": "880812345"}}}
    request = asked("example-ref-1234", 15_000, method=Method.VA_BNI, payer_name="Ahmad Gunawan")
    sent, charge = payment_request(fixture, {"payment_method": way}, request)
    wanted = without(snake(fixture["request"]), "metadata")
    wanted["payment_method"]["reference_id"] = "example-ref-1234"
    wanted["payment_method"]["virtual_account"]["channel_properties"]["expires_at"] = "2026-05-23T10:05:00.000Z"

    assert sent == wanted
    assert charge.va_number == "880812345"


@proves("xendit.ewallet.channels")
def xendits_channels_are_named_as_it_names_them(fixture: Fixture) -> None:
    data = fixture["data"]

    assert set(_WALLETS.values()) - {"GOPAY"} <= set(data["payment_requests_v2_ewallet"])  # GoPay came later
    assert set(_BANKS.values()) <= set(data["virtual_account"])
    assert "QRIS" in data["qr"]


def told_by_xendit(body: Any) -> Any:
    headers, raw = xendit.told(body)
    return xendit.gateway(xendit.config()).read_callback(headers, raw, now_ms=NOW_MS)


@proves("xendit.payment_requests.status")
def each_status_of_xendit_is_read(fixture: Fixture) -> None:
    meanings = {}
    for status in fixture["data"]:
        data = {"id": "py-1", "payment_request_id": "pr-1", "reference_id": "r", "amount": 1500, "status": status}
        report = told_by_xendit({"event": "payment.x", "data": data})
        meanings[status] = report.status if isinstance(report, PaymentReport) else report.kind

    assert meanings == {
        "PENDING": "pending",
        "REQUIRES_ACTION": "pending",
        "CANCELED": "failed",
        "SUCCEEDED": "paid",
        "FAILED": "failed",
        "VOIDED": "denied",
        "UNKNOWN": "pending",
        "AWAITING_CAPTURE": "pending",
        "EXPIRED": "expired",
    }


@proves("xendit.webhook.qr.payment.v2")
def xendit_tells_of_a_qr_payment(fixture: Fixture) -> None:
    report, wanted = told_by_xendit(fixture["body"]), fixture["normalised"]

    assert (report.status, report.amount_idr) == (wanted["status"], wanted["amount"])
    assert (report.partner_reference, report.event_id) == (wanted["ref"], wanted["event_id"])
    assert (report.rrn, report.issuer, report.currency) == ("000111666", "GOPAY", "IDR")
    assert (report.paid_at_ms, report.provider_transaction_id) == (1_578_507_498_857, fixture["body"]["data"]["qr_id"])


@proves("xendit.webhook.payment.succeeded.v2")
def xendit_tells_of_a_payment(fixture: Fixture) -> None:
    report = told_by_xendit(snake(fixture["body"]))

    assert (report.status, report.amount_idr, report.currency) == ("paid", 1000, "PHP")  # the payment judges it
    assert report.partner_reference == "25cfd0f9-baee-44ca-9a12-6debe03f3c22"
    assert report.event_id == "pr-5b26cae1-545b-49e9-855e-f85128f3e705:succeeded"


@proves("xendit.webhook.payout")
def xendit_tells_of_a_payout(fixture: Fixture) -> None:
    report = told_by_xendit(fixture["body"])
    back = told_by_xendit(
        fixture["body"] | {"event": "v3_payout.reversed", "data": fixture["body"]["data"] | {"status": "REVERSED"}}
    )

    assert isinstance(report, PayoutReport)
    assert (report.payout_reference, report.state, report.amount_idr) == ("myref-1482928194", "succeeded", 10_000)
    assert (back.state, back.payout_reference) == ("reversed", report.payout_reference)
    assert back.event_id != report.event_id


@proves("xendit.webhook.refund")
def xendit_tells_of_a_refund(fixture: Fixture) -> None:
    report = told_by_xendit(snake(fixture["body"]))

    assert isinstance(report, AdjustmentReport)
    assert (report.kind, report.amount_idr, report.currency) == ("refunded", 10_000, "PHP")
    assert (report.refund_reference, report.partner_reference) == ("b2756a1e-e6cd-4352-9a68-0483aa2b6a2", None)
    assert report.provider_transaction_id == "ddpy-3cd658ae-25b9-4659-aa36-596ae41a809f"


@proves("xendit.webhook.retry")
def xendit_stops_at_any_2xx(fixture: Fixture) -> None:
    gateway = xendit.gateway(xendit.config())

    assert "2xx = delivered" in fixture["data"]
    assert gateway.acknowledge("taken", body=b"", now_ms=NOW_MS).status // 100 == 2
    assert gateway.acknowledge("unavailable", body=b"", now_ms=NOW_MS).status // 100 != 2


@proves("reference.mstore.webhook")
def the_flat_shape_is_read(fixture: Fixture) -> None:
    report = told_by_xendit(fixture["body"])

    assert (report.status, report.amount_idr) == ("paid", 33_000)
    assert report.partner_reference == fixture["body"]["external_id"]
    assert (report.provider_transaction_id, report.paid_at_ms) == ("qr_abc123xyz", 1_760_351_535_000)


# Midtrans


def told_by_midtrans(body: dict[str, Any]) -> Any:
    headers, raw = midtrans.signed(body)
    return midtrans.gateway(midtrans.config()).read_callback(headers, raw, now_ms=NOW_MS)


@proves("midtrans.charge.qris")
def midtrans_issues_a_qr(fixture: Fixture) -> None:
    wire = Wire(fixture["response"])
    gateway = MidtransProvider(
        midtrans.config(callback_url="https://hub.invalid/midtrans"), wire.calls(), now_ms=lambda: NOW_MS
    )
    payer = {"payer_name": "Budi", "payer_email": "budi.utomo@midtrans.com", "payer_phone": "081223323423"}
    charge = asyncio.run(gateway.create(asked("order03", 275_000, **payer)))
    wanted = fixture["request"] | {"customer_details": without(fixture["request"]["customer_details"], "last_name")}

    assert wire.request is not None
    assert (wire.request.method, wire.path) == ("POST", "/v2/charge")
    assert wire.request.headers["authorization"].startswith("Basic ")
    assert wire.request.headers["x-override-notification"] == "https://hub.invalid/midtrans"
    assert shape(without(wire.sent, "custom_expiry")) == shape(wanted)
    assert wire.sent["custom_expiry"] == {"expiry_duration": 300, "unit": "second"}
    assert wire.sent["transaction_details"] == fixture["request"]["transaction_details"]
    assert wire.sent["qris"] == fixture["request"]["qris"]
    assert charge.provider_transaction_id == fixture["response"]["transaction_id"]
    assert charge.qr_image_url == fixture["response"]["actions"][1]["url"]
    assert charge.qr_payload == ""  # this account was not given the text


@proves(
    "midtrans.notify.qris.pending",
    "midtrans.notify.qris.settlement",
    "midtrans.notify.qris.expire",
    "midtrans.notify.shopeepay",
)
def midtrans_notifies(fixture: Fixture) -> None:
    body = fixture["body"]
    report = told_by_midtrans(body)
    words = {"pending": "pending", "settlement": "paid", "expire": "expired"}

    assert report.status == words[body["transaction_status"]]
    assert report.partner_reference == body["order_id"]
    assert f"{report.amount_idr}.00" == body["gross_amount"]
    assert (report.paid_at_ms is None) == (report.status != "paid")
    assert report.event_id == f"{body['order_id']}:{body['transaction_status']}"


@proves("midtrans.snap.create")
def midtrans_makes_a_page(fixture: Fixture) -> None:
    wire = Wire({"token": "t", "redirect_url": "https://app.midtrans.com/snap/v4/redirection/t"}, 201)
    gateway = MidtransProvider(midtrans.config(), wire.calls(), now_ms=lambda: NOW_MS)
    charge = asyncio.run(gateway.create(asked("ORDER-101", 10_000, method=Method.CARD_HOSTED)))

    assert wire.path == "/snap/v1/transactions"
    assert wire.sent["transaction_details"] == fixture["request"]["transaction_details"]
    assert set(wire.sent["item_details"][0]) <= set(fixture["request"]["item_details"][0])
    assert wire.sent["enabled_payments"] == ["credit_card"]
    assert charge.checkout_url == "https://app.midtrans.com/snap/v4/redirection/t"

    missing = Wire({"status_code": "404"}, 404)
    asking = MidtransProvider(midtrans.config(), missing.calls(), now_ms=lambda: NOW_MS)
    status = asyncio.run(asking.query("ORDER-101", method=Method.CARD_HOSTED))
    assert status.state == "open"  # 404 until the customer chooses


@proves("midtrans.refund.direct")
def midtrans_refunds(fixture: Fixture) -> None:
    request = RefundRequest(
        reference="MID-1620622357", refund_reference="reference1", amount_idr=5_000, reason="for some reason"
    )

    def refund(answer: Any) -> tuple[Wire, RefundStatus]:
        wire = Wire(answer)
        gateway = MidtransProvider(midtrans.config(), wire.calls(), now_ms=lambda: NOW_MS)
        return wire, asyncio.run(gateway.refund(request))

    wire, done = refund(fixture["response"] | {"refund_key": "reference1"})
    assert wire.path == "/v2/MID-1620622357/refund/online/direct"
    assert wire.sent == fixture["request"]
    assert (done.state, done.provider_refund_id) == ("succeeded", "47594")
    with pytest.raises(ProviderUnknown):  # as recorded, it answers for another refund
        refund(fixture["response"])

    for error in fixture["errors"]:
        match error["status_code"]:
            case "202":
                assert refund(error)[1].state == "failed"
            case "406":
                with pytest.raises(ProviderUnknown):
                    refund(error)
            case _:
                with pytest.raises(ProviderRefused):
                    refund(error)


@proves("midtrans.status.machine")
def each_status_of_midtrans_is_read(fixture: Fixture) -> None:
    following = fixture["data"]
    words = set(following) | {word.split(" ")[0] for after in following.values() for word in after}
    meanings = {}
    for word in words:
        body = {"order_id": "o", "status_code": "200", "gross_amount": "1000.00", "transaction_status": word}
        report = told_by_midtrans(body)
        meanings[word] = report.status if isinstance(report, PaymentReport) else report.kind

    assert meanings == {
        "pending": "pending",
        "capture": "paid",
        "settlement": "paid",
        "expire": "expired",
        "cancel": "failed",
        "failure": "failed",
        "deny": "denied",
        "refund": "refunded",
        "partial_refund": "refunded",
        "chargeback": "disputed",
        "partial_chargeback": "disputed",
    }
    assert "status_code==200" in fixture["paid_rule"]


@proves("midtrans.webhook.retry")
def midtrans_repeats_what_we_could_not_store(fixture: Fixture) -> None:
    gateway, retries = midtrans.gateway(midtrans.config()), fixture["data"]

    assert (retries["2xx"], gateway.acknowledge("taken", body=b"", now_ms=NOW_MS).status) == (0, 200)
    assert (retries["503"], gateway.acknowledge("unavailable", body=b"", now_ms=NOW_MS).status) == (4, 503)


@proves("midtrans.endpoints")
def midtrans_is_asked_where_it_lives(fixture: Fixture) -> None:
    wire = Wire({"status_code": "404"})
    gateway = MidtransProvider(midtrans.config(), wire.calls(), now_ms=lambda: NOW_MS)
    places = {}
    refund = RefundRequest(reference="{id}", refund_reference="rfn_1", amount_idr=1, reason="")

    async def ask() -> None:
        assert (await gateway.query("{id}")).state == "not_found"
        places["status"] = wire.request
        for name, question in (("cancel", gateway.cancel("{id}")), ("direct_refund", gateway.refund(refund))):
            with pytest.raises(ProviderRefused):
                await question
            places[name] = wire.request

    asyncio.run(ask())
    for name, request in places.items():
        assert request is not None
        assert f"{request.method} {request.url.path}" == fixture["data"][name].split(" (")[0]


# Paylabs


@proves("paylabs.qris.create")
def paylabs_issues_a_qr(fixture: Fixture) -> None:
    asked_for = fixture["request"]
    answer = {
        "errCode": "0",
        "merchantTradeNo": asked_for["merchantTradeNo"],
        "platformTradeNo": "2024060400000001",
        "qrCode": "000201",
        "qrisUrl": "https://paylabs.invalid/qr.png",
        "nmid": "ID1020000000000",
        "expiredTime": "20260523180000",
        "transFeeRate": "0.007000",
        "transFeeAmount": "70.00",
        "totalTransFee": "70.00",
    }
    wire = Wire(answer)
    profile = paylabs.config(merchant_id="010366", callback_url=asked_for["notifyUrl"], fee_type="OUR")
    gateway = PaylabsProvider(profile, wire.calls(), now_ms=lambda: NOW_MS)
    charge = asyncio.run(
        gateway.create(asked(asked_for["merchantTradeNo"], 10_000, life_s=3_600, payer_name="John Doe"))
    )

    assert {name.split(" ")[0] for name in fixture["response_fields"]} == set(answer)
    assert wire.request is not None
    assert (wire.request.method, wire.path) == ("POST", "/payment/v2.3/qris/create")
    assert {name.lower() for name in fixture["headers"]} <= set(wire.request.headers)
    assert re.fullmatch(r"[0-9T:-]{19}\.[0-9]{3}\+07:00", wire.request.headers["x-timestamp"])
    assert wire.request.headers["x-request-id"] == wire.sent["requestId"]
    assert without(wire.sent, "requestId") == without(asked_for, "requestId")
    assert (charge.qr_payload, charge.provider_transaction_id) == ("000201", "2024060400000001")
    assert charge.expires_at_ms == NOW_MS + 3_600_000


@proves("paylabs.notify")
def paylabs_notifies_and_is_answered(fixture: Fixture) -> None:
    raw = json.dumps(fixture["body"]).encode()
    gateway = paylabs.gateway(paylabs.config())
    headers, body = paylabs.signed(raw)
    report = gateway.read_callback(headers, body, now_ms=NOW_MS)
    answer = gateway.acknowledge("taken", body=body, now_ms=NOW_MS)

    assert isinstance(report, PaymentReport)
    assert (report.status, report.amount_idr, report.partner_reference) == ("paid", 162_933, "202406100314239776")
    assert report.event_id == "2024061033200000003:02"
    assert json.loads(answer.body) == fixture["ack"] | {"requestId": fixture["body"]["requestId"]}


# SNAP BI, by several partners' profiles


def over_snap(answer: Any, **profile: Any) -> tuple[Wire, SnapProvider]:
    wire = Wire(answer)
    config = snap.config(requests_signed="asymmetric", **profile)
    return wire, SnapProvider(config, wire.calls(), wire.calls(), now_ms=lambda: NOW_MS)


@proves("midtrans.snapbi.qris.generate")
def midtrans_issues_over_snap(fixture: Fixture) -> None:
    wire, gateway = over_snap(
        {"responseCode": "2004700", "qrContent": "000201"},
        merchant_id="M001234",
        additional_info=fixture["request"]["additionalInfo"],
    )
    asyncio.run(gateway.create(asked("<externalId>", 1_500)))

    assert wire.path.endswith(fixture["operation"].removeprefix("POST "))
    assert shape(wire.sent) == shape(fixture["request"])
    assert without(wire.sent, "validityPeriod") == without(fixture["request"], "validityPeriod")
    assert wire.sent["validityPeriod"] == "2026-05-23T17:05:00+07:00"


def snap_refund(fixture: Fixture) -> RefundRequest:
    body = fixture["request"]
    return RefundRequest(
        reference=body["originalPartnerReferenceNo"],
        refund_reference=body["partnerRefundNo"],
        amount_idr=int(float(body["refundAmount"]["value"])),
        reason=body["reason"],
        provider_transaction_id=body.get("originalReferenceNo"),
        rrn=body["additionalInfo"].get("approvalCode"),
    )


@proves("midtrans.snapbi.qris.refund")
def midtrans_refunds_over_snap(fixture: Fixture) -> None:
    wire, gateway = over_snap({"responseCode": "2007800"}, merchant_id="M001234", additional_info={"foo": "bar"})
    asyncio.run(gateway.refund(snap_refund(fixture)))

    assert wire.path.endswith(fixture["operation"].removeprefix("POST "))
    assert wire.sent == fixture["request"]


@proves("doku.snap.qris.refund")
def doku_refunds_by_number_and_approval_code(fixture: Fixture) -> None:
    wire, gateway = over_snap(
        fixture["response"], merchant_id="47435", refund_amount_as="number", refund_needs_approval_code=True
    )
    done = asyncio.run(gateway.refund(snap_refund(fixture)))

    assert wire.sent == fixture["request"]
    assert (done.state, done.provider_refund_id) == ("succeeded", fixture["response"]["refundNo"])


@proves("winpay.snap.qris.generate")
def winpay_issues(fixture: Fixture) -> None:
    wire, gateway = over_snap(
        {"responseCode": "2004700", "qrContent": "000201", "additionalInfo": {"contractId": "qre1"}},
        merchant_id=None,
        terminal_id=fixture["request"]["terminalId"],
        additional_info=fixture["request"]["additionalInfo"],
    )
    charge = asyncio.run(gateway.create(asked("ref-0000000-0417", 50_000)))

    assert wire.request is not None
    assert wire.path == fixture["operation"].removeprefix("POST ")
    assert {name.lower() for name in fixture["headers"]} <= set(wire.request.headers)
    assert "authorization" not in wire.request.headers
    assert without(wire.sent, "validityPeriod") == without(fixture["request"], "validityPeriod")
    text = f"POST:/v1.0/qr/qr-mpm-generate:{snap.body_hash(wire.request.content)}:{snap.NOW}"
    assert snap.rsa_verifies("hub", text, wire.request.headers["x-signature"])
    assert charge.provider_transaction_id == "qre1"


@proves("winpay.snap.qris.query")
def winpay_is_queried(fixture: Fixture) -> None:
    answer = {"responseCode": "2005100", "latestTransactionStatus": "00", "amount": {"value": "2000.00"}}
    wire, gateway = over_snap(answer, merchant_id=None, additional_info=fixture["request"]["additionalInfo"])
    status = asyncio.run(gateway.query(fixture["request"]["originalPartnerReferenceNo"]))

    assert wire.sent == fixture["request"]
    assert (status.state, status.report.amount_idr if status.report else None) == ("paid", 2_000)


@proves("winpay.snap.va.delete")
def winpays_success_is_a_success(fixture: Fixture) -> None:
    _, gateway = over_snap(fixture["response"])

    asyncio.run(gateway.cancel("ref_1"))


@proves("bri.snap.qris.generate.response", "duitku.snap.qris.generate.response")
def a_partners_qr_is_read(fixture: Fixture) -> None:
    answer = fixture["response"]
    _, gateway = over_snap(answer)
    charge = asyncio.run(gateway.create(asked(answer["partnerReferenceNo"], 50_000)))

    assert (charge.qr_payload, charge.provider_transaction_id) == (answer["qrContent"], answer["referenceNo"])
    with pytest.raises(ProviderUnknown):
        asyncio.run(gateway.create(asked("another-reference", 50_000)))


@proves("mti.snap.qris.cancel.response")
def yokke_refunds_by_cancelling(fixture: Fixture) -> None:
    wire, gateway = over_snap(fixture["response"], refund_by="cancel")
    done = asyncio.run(gateway.refund(RefundRequest(reference="r", refund_reference="f", amount_idr=1_000, reason="x")))

    assert wire.path.endswith("/qr-mpm-cancel")
    assert (done.state, done.provider_refund_id) == ("succeeded", "506614670670")


@proves("dana.snap.qris.notify")
def danas_notification_is_among_the_vectors(fixture: Fixture) -> None:
    vectors = json.loads((Path(__file__).parents[2] / "fixtures/snap_vectors.json").read_text())["snap"]
    [vector] = [one for one in vectors if one["id"] == "S10"]
    gateway = snap.gateway(
        snap.config(partner_public_key=vector["public_key_pem"], callback_path=vector["path"], window_s=10**9)
    )
    headers = {"x-timestamp": vector["timestamp"], "x-signature": vector["signature"]}
    report = gateway.read_callback(headers, vector["body"].encode(), now_ms=NOW_MS)

    assert "S10" in fixture["operation"] + fixture["source"]
    assert (report.status, report.amount_idr) == ("paid", 50_000)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name in FIXTURES if name not in NOT_A_PROVIDERS])
def test_each_recorded_message_is_sent_or_read(name: str) -> None:
    PROOFS[name](FIXTURES[name])


def test_no_recorded_message_is_left_out() -> None:
    assert set(PROOFS) | set(NOT_A_PROVIDERS) == set(FIXTURES)
    assert not set(PROOFS) & set(NOT_A_PROVIDERS)
    assert (len(FIXTURES), len(PROOFS)) == (36, 34)
