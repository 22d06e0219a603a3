"""Midtrans: HTTP 200 to nearly everything, what happened in status_code, order ids that are used once."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from support.fakes.service import NOW_MS, OUR_SECRET, Charge, FakeService, payload, said

from soundbox_server.providers.calls import Calls, open_client
from soundbox_server.providers.midtrans import MidtransConfig, MidtransProvider

WORDS = {"open": "pending", "paid": "settlement", "cancelled": "cancel", "refunded": "partial_refund"}
CODES = {"open": "201", "paid": "200", "cancelled": "200", "refunded": "200"}


@dataclass
class FakeMidtrans(FakeService):
    def changes(self, request: Request) -> bool:
        return request.method == "POST"

    def handle(self, request: Request, body: bytes) -> Response:
        expected = "Basic " + base64.b64encode(f"{OUR_SECRET}:".encode()).decode()
        if request.headers.get("authorization") != expected:
            return self.refuse("key", said(401, {"status_code": "401", "status_message": "Unknown Merchant"}))
        asked = json.loads(body or b"{}")
        match request.method, request.url.path.strip("/").split("/"):
            case "POST", ["v2", "charge"]:
                return self._charge(asked)
            case "POST", ["snap", "v1", "transactions"]:
                order = asked["transaction_details"]
                self.new_charge(order["order_id"], order["gross_amount"], method="page")
                return said(201, {"token": "page-token", "redirect_url": "https://app.invalid/snap/v4/page-token"})
            case _, ["v2", order_id, *rest]:
                charge = self.charges.get(order_id)
                if charge is None or (charge.method == "page" and charge.status == "open"):
                    return said(404, {"status_code": "404", "status_message": "Transaction doesn't exist."})
                return self._on(charge, "/".join(rest), asked)
        return self.refuse("address", said(404, {"message": "no Route matched"}))

    def _charge(self, asked: dict[str, Any]) -> Response:
        order = asked["transaction_details"]
        if order["order_id"] in self.charges:
            return said(200, {"status_code": "406", "status_message": "Duplicate order ID"})
        assert sum(item["price"] * item["quantity"] for item in asked["item_details"]) == order["gross_amount"]
        charge = self.new_charge(order["order_id"], order["gross_amount"], method=asked["payment_type"])
        return said(200, self.shown(charge))

    def _on(self, charge: Charge, what: str, asked: dict[str, Any]) -> Response:
        if what == "status":
            return said(200, self.shown(charge))
        if what == "cancel":
            if charge.status != "open":
                return said(200, {"status_code": "412", "status_message": "Cannot modify the status"})
            charge.status = "cancelled"
            return said(200, self.shown(charge))
        assert what == "refund/online/direct"
        if asked["refund_key"] in charge.refunds:
            return said(200, {"status_code": "406", "status_message": "Duplicate refund ID"})
        if asked["amount"] + sum(charge.refunds.values()) > charge.amount_idr:
            return said(200, {"status_code": "414", "status_message": "Refund amount"})
        charge.refunds[asked["refund_key"]], charge.status = asked["amount"], "refunded"
        return said(200, self.shown(charge) | {"refund_key": asked["refund_key"], "refund_chargeback_id": 47594})

    def shown(self, charge: Charge) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "status_code": CODES[charge.status],
            "transaction_id": charge.id,
            "order_id": charge.reference,
            "gross_amount": f"{charge.amount_idr}.00",
            "currency": "IDR",
            "payment_type": charge.method,
            "transaction_time": "2026-05-23 17:00:00",
            "expiry_time": "2026-05-23 17:05:00",
            "transaction_status": WORDS[charge.status],
            "fraud_status": "accept",
        }
        if charge.method == "qris":
            shown |= {"qr_string": payload(charge.amount_idr), "acquirer": "gopay"}
        if charge.method in ("gopay", "shopeepay"):
            shown["actions"] = [{"name": "deeplink-redirect", "method": "GET", "url": "gojek://pay"}]
        if charge.method == "bank_transfer":
            shown["va_numbers"] = [{"bank": "bca", "va_number": "8808123"}]
        if charge.method == "echannel":
            shown |= {"bill_key": "778899", "biller_code": "70012"}
        if charge.status == "paid":
            shown["settlement_time"] = "2026-05-23 17:00:30"
        if charge.refunds:
            shown["refund_amount"] = f"{sum(charge.refunds.values())}.00"
            shown["refunds"] = [
                {"refund_key": number, "refund_amount": f"{amount}.00", "refund_chargeback_id": 47594}
                for number, amount in charge.refunds.items()
            ]
        return shown

    def notification(self, reference: str, **changes: Any) -> tuple[dict[str, str], bytes]:
        return signed(self.shown(self.charges[reference]) | changes)


def signed(event: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    text = f"{event['order_id']}{event['status_code']}{event['gross_amount']}{OUR_SECRET}"
    return {}, json.dumps(event | {"signature_key": hashlib.sha512(text.encode()).hexdigest()}).encode()


def config(url: str = "https://midtrans.invalid", **changes: Any) -> MidtransConfig:
    profile: dict[str, Any] = {"server_key": OUR_SECRET, "base_url": url, "snap_url": url}
    return MidtransConfig(**(profile | changes))


def gateway(profile: MidtransConfig, *, total_timeout_s: float = 5) -> MidtransProvider:
    calls = Calls(profile.name, open_client(), total_timeout_s=total_timeout_s)
    return MidtransProvider(profile, calls, now_ms=lambda: NOW_MS)
