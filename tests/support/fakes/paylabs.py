"""Paylabs: every message signed with RSA over path, body and time; trade numbers that are used once."""

import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from support.fakes.service import (
    NOW_MS,
    Charge,
    FakeService,
    body_hash,
    payload,
    private_pem,
    public_pem,
    rsa_signed,
    rsa_verifies,
    said,
)

from soundbox_server.providers.calls import Calls, open_client
from soundbox_server.providers.paylabs import PaylabsConfig, PaylabsProvider

NOTIFY_PATH = "/api/webhook/paylabs"
NOW = "2026-05-23T17:00:00.000+07:00"
STATUS = {"open": "01", "paid": "02", "cancelled": "09", "refunded": "02"}


@dataclass
class FakePaylabs(FakeService):
    request_ids: set[str] = field(default_factory=set)

    def changes(self, request: Request) -> bool:
        return not request.url.path.endswith(("query", "refundQuery"))

    def handle(self, request: Request, body: bytes) -> Response:
        headers, asked = request.headers, json.loads(body)
        text = f"POST:{request.url.path}:{body_hash(body)}:{headers['x-timestamp']}"
        if headers["x-partner-id"] != "010332" or not rsa_verifies("hub", text, headers["x-signature"]):
            return self.refuse("signature", said(200, {"errCode": "signError"}))
        if headers["x-request-id"] != asked["requestId"] or asked["requestId"] in self.request_ids:
            return self.refuse("request id", said(200, {"errCode": "paramInvalid"}))
        self.request_ids.add(asked["requestId"])
        if asked["paymentType"] != "QRIS" or None in asked.values():
            return self.refuse("body", said(200, {"errCode": "paramInvalid"}))
        return self._do(request.url.path.rpartition("/")[2], asked)

    def _do(self, what: str, asked: dict[str, Any]) -> Response:
        charge = self.charges.get(asked["merchantTradeNo"])
        if what == "create":
            if charge is not None:
                return said(200, {"errCode": "duplicateMerchantTradeNo"})
            assert asked["amount"].endswith(".00")
            assert 290 <= asked["expire"] <= 300
            return said(200, told(self.new_charge(asked["merchantTradeNo"], int(asked["amount"][:-3]))))
        if charge is None:
            return said(200, {"errCode": "orderNotExist"})
        if what == "query":
            return said(200, told(charge))
        if what == "cancel":
            if charge.status != "open" or asked["qrCode"] != payload(charge.amount_idr):
                return said(200, {"errCode": "orderStatusError"})
            charge.status = "cancelled"
            return said(200, told(charge))
        return self._refund(what, charge, asked)

    def _refund(self, what: str, charge: Charge, asked: dict[str, Any]) -> Response:
        number = asked["merchantRefundNo"]
        if what == "refundQuery":
            if number not in charge.refunds:
                return said(200, {"errCode": "orderNotExist"})
            return said(200, told(charge) | {"merchantRefundNo": number, "status": "02"})
        amount = int(asked["refundAmount"][:-3])
        if asked["amount"] != f"{charge.amount_idr}.00" or charge.status not in ("paid", "refunded"):
            return said(200, {"errCode": "paramInvalid"})
        if amount + sum(charge.refunds.values()) > charge.amount_idr:
            return said(200, {"errCode": "refundAmountError"})
        if number in charge.refunds:
            return said(200, {"errCode": "duplicateMerchantTradeNo"})
        charge.refunds[number], charge.status = amount, "refunded"
        return said(200, told(charge) | {"merchantRefundNo": number, "platformRefundNo": f"R{number}", "status": "02"})

    def notification(self, reference: str, **changes: Any) -> tuple[dict[str, str], bytes]:
        return signed(json.dumps(told(self.charges[reference]) | changes).encode())


def told(charge: Charge) -> dict[str, Any]:
    told = {
        "merchantId": "010332",
        "requestId": f"N{charge.id}",
        "errCode": "0",
        "paymentType": "QRIS",
        "amount": f"{charge.amount_idr}.00",
        "merchantTradeNo": charge.reference,
        "platformTradeNo": charge.id,
        "status": STATUS[charge.status],
        "qrCode": payload(charge.amount_idr),
        "qrisUrl": f"https://paylabs.invalid/{charge.id}.png",
        "expiredTime": "20260523170500",
    }
    return told | {"successTime": "20260523170030"} if charge.status == "paid" else told


def signed(body: bytes, *, at: str = NOW, path: str = NOTIFY_PATH) -> tuple[dict[str, str], bytes]:
    signature = rsa_signed("partner", f"POST:{path}:{body_hash(body)}:{at}")
    return {"x-timestamp": at, "x-signature": signature, "x-partner-id": "010332", "x-request-id": "N1"}, body


def config(url: str = "https://paylabs.invalid", **changes: Any) -> PaylabsConfig:
    profile: dict[str, Any] = {
        "merchant_id": "010332",
        "private_key": private_pem("hub"),
        "partner_public_key": public_pem("partner"),
        "callback_url": f"https://hub.invalid{NOTIFY_PATH}",
        "base_url": url,
        "unknown_order_codes": frozenset({"orderNotExist"}),
        "refund_path": "/payment/v2.3/qris/refund",
        "refund_query_path": "/payment/v2.3/qris/refundQuery",
    }
    return PaylabsConfig(**(profile | changes))


def gateway(profile: PaylabsConfig, *, total_timeout_s: float = 5) -> PaylabsProvider:
    calls = Calls(profile.name, open_client(), total_timeout_s=total_timeout_s)
    return PaylabsProvider(profile, calls, now_ms=lambda: NOW_MS)
