"""Xendit: payment requests, QR codes, invoices and refunds, behind basic authentication and idempotency keys."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from support.fakes.service import NOW_MS, OUR_SECRET, Charge, FakeService, payload, said

from soundbox_server.providers.calls import Calls, open_client
from soundbox_server.providers.xendit import XenditConfig, XenditProvider

CALLBACK_TOKEN = "xendit-callback-token"
AT = "2026-05-23T10:00:00.000Z"
ENDS = "2026-05-23T10:05:00.000Z"


@dataclass
class FakeXendit(FakeService):
    keys: dict[str, Response] = field(default_factory=dict)

    def changes(self, request: Request) -> bool:
        return request.method == "POST"

    def handle(self, request: Request, body: bytes) -> Response:
        expected = "Basic " + base64.b64encode(f"{OUR_SECRET}:".encode()).decode()
        if request.headers.get("authorization") != expected:
            return self.refuse("key", said(401, {"error_code": "INVALID_API_KEY"}))
        key = request.headers.get("idempotency-key")
        if request.method == "POST" and key is None:
            return self.refuse("idempotency key", said(400, {"error_code": "API_VALIDATION_ERROR"}))
        if key is not None and key in self.keys:
            return self.keys[key]
        answer = self._route(request, json.loads(body or b"{}"))
        if key is not None:
            self.keys[key] = answer
        return answer

    def _route(self, request: Request, asked: dict[str, Any]) -> Response:
        match request.method, request.url.path.strip("/").split("/"):
            case "POST", ["payment_requests"]:
                return self._create(asked, asked["reference_id"], asked["payment_method"]["type"])
            case "POST", ["qr_codes"] if request.headers.get("api-version") == "2022-07-31":
                return self._create(asked, asked["reference_id"], "QR")
            case "POST", ["v2", "invoices"]:
                return self._create(asked, asked["external_id"], "INVOICE")
            case "GET", ["payment_requests"]:
                return self._list(request.query_params["reference_id"])
            case "GET", ["v2", "invoices"]:
                charge = self.charges.get(request.query_params["external_id"])
                return said(200, [self.shown(charge)] if charge else [])
            case "GET", ["qr_codes", charge_id]:
                charge = self.by_id(charge_id)
                return said(200, self.shown(charge)) if charge else said(404, {"error_code": "DATA_NOT_FOUND"})
            case "GET", ["qr_codes", charge_id, "payments"]:
                charge = self.by_id(charge_id)
                paid = charge is not None and charge.status == "paid"
                return said(200, {"data": [qr_payment(charge)] if charge and paid else []})
            case "POST", ["v2", "payment_methods", method_id, "expire"]:
                return self._end(method_id.removeprefix("pm-"))
            case "POST", ["invoices", charge_id, "expire!"]:
                return self._end(charge_id)
            case "POST", ["refunds"]:
                return self._refund(asked, asked.get("payment_request_id") or asked["invoice_id"])
            case "POST", ["qr_codes", "payments", payment_id, "refunds"]:
                return self._refund(asked, payment_id.removeprefix("qrpy-"))
            case "GET", ["refunds"]:
                return self._refunds(
                    request.query_params.get("payment_request_id") or request.query_params["invoice_id"]
                )
            case "GET", ["qr_codes", "payments", payment_id, "refunds"]:
                return self._refunds(payment_id.removeprefix("qrpy-"))
        return self.refuse("address", said(404, {"error_code": "NOT_FOUND"}))

    def _create(self, asked: dict[str, Any], reference: str, kind: str) -> Response:
        assert asked["currency"] == "IDR"
        if reference in self.charges:
            return said(409, {"error_code": "DUPLICATE_ERROR"})
        charge = self.new_charge(reference, asked["amount"], method=kind)
        return said(201, self.shown(charge))

    def _list(self, reference: str) -> Response:
        charge = self.charges.get(reference)
        return said(200, {"data": [self.shown(charge)] if charge else [], "has_more": False})

    def _end(self, charge_id: str) -> Response:
        charge = self.by_id(charge_id)
        assert charge is not None
        if charge.status == "paid":
            return said(400, {"error_code": "INVALID_STATUS"})
        charge.status = "expired"
        return said(200, {"id": charge_id, "status": "EXPIRED"})

    def _refund(self, asked: dict[str, Any], charge_id: str) -> Response:
        charge = self.by_id(charge_id)
        assert charge is not None
        if charge.status != "paid" or asked["amount"] + sum(charge.refunds.values()) > charge.amount_idr:
            return said(400, {"error_code": "MAXIMUM_REFUND_AMOUNT_REACHED"})
        charge.refunds[asked["reference_id"]] = asked["amount"]
        return said(200, refund_shown(asked["reference_id"], asked["amount"], charge))

    def _refunds(self, charge_id: str) -> Response:
        charge = self.by_id(charge_id)
        assert charge is not None
        return said(200, {"data": [refund_shown(number, amount, charge) for number, amount in charge.refunds.items()]})

    def shown(self, charge: Charge) -> dict[str, Any]:
        if charge.method == "INVOICE":
            words = {"open": "PENDING", "paid": "PAID", "expired": "EXPIRED"}
            return {
                "id": charge.id,
                "external_id": charge.reference,
                "amount": charge.amount_idr,
                "currency": "IDR",
                "status": words[charge.status],
                "invoice_url": f"https://checkout.invalid/{charge.id}",
                "expiry_date": ENDS,
                "paid_at": AT,
            }
        common = {"id": charge.id, "reference_id": charge.reference, "amount": charge.amount_idr, "currency": "IDR"}
        if charge.method == "QR":
            status = "ACTIVE" if charge.status == "open" else "INACTIVE"
            return common | {"status": status, "qr_string": payload(charge.amount_idr), "expires_at": ENDS}
        words = {"open": "REQUIRES_ACTION", "paid": "SUCCEEDED", "expired": "EXPIRED"}
        properties = {"qr_string": payload(charge.amount_idr), "expires_at": ENDS, "virtual_account_number": "8808123"}
        way = {"id": f"pm-{charge.id}", "type": charge.method}
        way[{"QR_CODE": "qr_code", "VIRTUAL_ACCOUNT": "virtual_account"}.get(charge.method, "ewallet")] = {
            "channel_properties": properties
        }
        actions = [
            {"action": "AUTH", "url_type": "WEB", "url": "https://wallet.invalid/web"},
            {"action": "AUTH", "url_type": "DEEPLINK", "url": "wallet://pay"},
        ]
        return common | {
            "status": words[charge.status],
            "payment_method": way,
            "actions": actions if charge.method == "EWALLET" else [],
            "created": AT,
            "updated": AT,
        }

    def notification(self, reference: str, **changes: Any) -> tuple[dict[str, str], bytes]:
        charge = self.charges[reference]
        if charge.method == "INVOICE":
            return told(self.shown(charge) | changes)
        if charge.method == "QR":
            return told({"event": "qr.payment", "data": qr_payment(charge) | changes})
        word = {"paid": "SUCCEEDED", "open": "PENDING", "expired": "EXPIRED"}[charge.status]
        data = {
            "id": f"py-{charge.id}",
            "payment_request_id": charge.id,
            "reference_id": charge.reference,
            "amount": charge.amount_idr,
            "currency": "IDR",
            "status": word,
            "created": AT,
        }
        return told({"event": f"payment.{word.lower()}", "data": data | changes})


def qr_payment(charge: Charge) -> dict[str, Any]:
    return {
        "id": f"qrpy-{charge.id}",
        "qr_id": charge.id,
        "reference_id": charge.reference,
        "amount": charge.amount_idr,
        "currency": "IDR",
        "status": "SUCCEEDED",
        "created": AT,
        "payment_detail": {"receipt_id": "000111666", "source": "GOPAY"},
    }


def refund_shown(number: str, amount: int, charge: Charge) -> dict[str, Any]:
    return {
        "id": f"rfd-{number}",
        "reference_id": number,
        "payment_request_id": charge.id,
        "amount": amount,
        "currency": "IDR",
        "status": "SUCCEEDED",
    }


def told(event: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    return {"x-callback-token": CALLBACK_TOKEN}, json.dumps(event).encode()


def config(url: str = "https://xendit.invalid", **changes: Any) -> XenditConfig:
    profile: dict[str, Any] = {
        "secret_key": OUR_SECRET,
        "callback_tokens": (CALLBACK_TOKEN,),
        "base_url": url,
    }
    return XenditConfig(**(profile | changes))


def gateway(profile: XenditConfig, *, total_timeout_s: float = 5) -> XenditProvider:
    calls = Calls(profile.name, open_client(), total_timeout_s=total_timeout_s)
    return XenditProvider(profile, calls, now_ms=lambda: NOW_MS)
