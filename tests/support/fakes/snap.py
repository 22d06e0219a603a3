"""A SNAP BI acquirer: issues tokens, demands signatures, keeps external ids and references unique."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from support.fakes.service import (
    NOW_MS,
    OUR_SECRET,
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
from soundbox_server.providers.snap import KnowsToken, SnapConfig, SnapProvider

NOTIFY_PATH = "/integrations/snap/acme/v1.0/qr/qr-mpm-notify"
NOTIFY_SECRET = "the-secret-of-notifications"
NOW = "2026-05-23T17:00:00+07:00"
STATUS = {"open": "01", "paid": "00", "cancelled": "05", "refunded": "04"}


@dataclass
class FakeSnap(FakeService):
    prefix: str = "/snap"
    signed: str = "symmetric"
    live_tokens: set[str] = field(default_factory=set)
    tokens_issued: int = 0
    external_ids: set[str] = field(default_factory=set)

    def changes(self, request: Request) -> bool:
        return not request.url.path.endswith(("query", "b2b"))

    def handle(self, request: Request, body: bytes) -> Response:
        path = request.url.path.removeprefix(self.prefix)
        if path.endswith("/b2b"):
            return self._token(request)
        service = {"generate": "47", "query": "51", "cancel": "77", "refund": "78"}[path.rpartition("-")[2]]
        if refusal := self._unsigned(request, path, body, service):
            return refusal
        external_id = request.headers["x-external-id"]
        if external_id in self.external_ids or not external_id.isdecimal() or len(external_id) > 36:
            return self.refuse("external id", code(f"409{service}00"))
        self.external_ids.add(external_id)
        return getattr(self, f"_{path.rpartition('-')[2]}")(json.loads(body))

    def _token(self, request: Request) -> Response:
        text = f"{request.headers['x-client-key']}|{request.headers['x-timestamp']}"
        if not rsa_verifies("hub", text, request.headers["x-signature"]):
            return self.refuse("token signature", code("4017300"))
        self.tokens_issued += 1
        token = f"token-{self.tokens_issued}"
        self.live_tokens.add(token)
        return code("2007300", accessToken=token, tokenType="Bearer", expiresIn="900")

    def _unsigned(self, request: Request, path: str, body: bytes, service: str) -> Response | None:
        headers = request.headers
        if headers["x-partner-id"] != "P1" or headers["channel-id"] != "95221":
            return self.refuse("partner", code(f"401{service}00"))
        if self.signed == "asymmetric":
            text = f"POST:{path}:{body_hash(body)}:{headers['x-timestamp']}"
            good = rsa_verifies("hub", text, headers["x-signature"])
            return None if good else self.refuse("signature", code(f"401{service}00"))
        token = headers["authorization"].removeprefix("Bearer ")
        if token not in self.live_tokens:
            return code(f"401{service}01")
        text = f"POST:{path}:{token}:{body_hash(body)}:{headers['x-timestamp']}"
        good = hmac.compare_digest(hmac_signed(OUR_SECRET, text), headers["x-signature"])
        return None if good else self.refuse("signature", code(f"401{service}00"))

    def _generate(self, asked: dict[str, Any]) -> Response:
        reference, amount = asked["partnerReferenceNo"], asked["amount"]
        assert amount["currency"] == "IDR"
        assert amount["value"].endswith(".00")
        if reference in self.charges:
            return code("4094701")
        charge = self.new_charge(reference, int(amount["value"][:-3]))
        return code(
            "2004700", referenceNo=charge.id, partnerReferenceNo=reference, qrContent=payload(charge.amount_idr)
        )

    def _query(self, asked: dict[str, Any]) -> Response:
        charge = self.charges.get(asked["originalPartnerReferenceNo"])
        return code("4045101") if charge is None else code("2005100", serviceCode="47", **told(charge))

    def _cancel(self, asked: dict[str, Any]) -> Response:
        charge = self.charges.get(asked["originalPartnerReferenceNo"])
        if charge is None or charge.status == "paid":
            return code("4037700")
        charge.status = "cancelled"
        return code("2007700")

    def _refund(self, asked: dict[str, Any]) -> Response:
        charge = self.charges[asked["originalPartnerReferenceNo"]]
        number, amount = asked["partnerRefundNo"], int(asked["refundAmount"]["value"][:-3])
        if number in charge.refunds:
            return code("4097801")
        if charge.status not in ("paid", "refunded") or amount + sum(charge.refunds.values()) > charge.amount_idr:
            return code("4037814")
        charge.refunds[number], charge.status = amount, "refunded"
        return code("2007800", refundNo=f"R{number}", refundAmount=asked["refundAmount"])

    def notification(self, reference: str, **changes: Any) -> tuple[dict[str, str], bytes]:
        """What the fake would send of a charge as it is now, signed by its own key."""
        return signed_by_rsa(json.dumps(told(self.charges[reference]) | changes).encode())


def told(charge: Charge) -> dict[str, Any]:
    history = [
        {
            "partnerRefundNo": number,
            "refundNo": f"R{number}",
            "refundAmount": {"value": f"{amount}.00", "currency": "IDR"},
            "refundStatus": "00",
        }
        for number, amount in charge.refunds.items()
    ]
    return {
        "originalReferenceNo": charge.id,
        "originalPartnerReferenceNo": charge.reference,
        "latestTransactionStatus": STATUS[charge.status],
        "amount": {"value": f"{charge.amount_idr}.00", "currency": "IDR"},
        "paidTime": NOW,
        "additionalInfo": {"issuer": "Bank Contoh", "rrn": "012345678901"},
        "refundHistory": history,
    }


def signed_by_rsa(body: bytes, *, at: str = NOW, path: str = NOTIFY_PATH) -> tuple[dict[str, str], bytes]:
    text = f"POST:{path}:{body_hash(body)}:{at}"
    name = str(int(body_hash(body)[:12], 16))  # its own for each notification, and the same when it is repeated
    return {"x-timestamp": at, "x-signature": rsa_signed("partner", text), "x-external-id": name}, body


def signed_by_hmac(body: bytes, token: str, *, at: str = NOW) -> tuple[dict[str, str], bytes]:
    text = f"POST:{NOTIFY_PATH}:{token}:{body_hash(body)}:{at}"
    signature = hmac_signed(NOTIFY_SECRET, text)
    return {"x-timestamp": at, "x-signature": signature, "authorization": f"Bearer {token}"}, body


def hmac_signed(secret: str, text: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha512).digest()).decode()


def code(response_code: str, **more: Any) -> Response:
    return said(int(response_code[:3]), {"responseCode": response_code, "responseMessage": "so it is"} | more)


def config(url: str = "https://acme.invalid", **changes: Any) -> SnapConfig:
    profile: dict[str, Any] = {
        "name": "acme",
        "base_url": f"{url}/snap",
        "unsigned_prefix": "/snap",
        "partner_id": "P1",
        "client_key": "K1",
        "channel_id": "95221",
        "private_key": private_pem("hub"),
        "partner_public_key": public_pem("partner"),
        "client_secret": OUR_SECRET.encode(),
        "notify_secret": NOTIFY_SECRET.encode(),
        "notify_client_key": "acme-at-ours",
        "merchant_id": "M1",
        "callback_path": NOTIFY_PATH,
    }
    return SnapConfig(**(profile | changes))


def gateway(
    profile: SnapConfig, *, total_timeout_s: float = 5, knows_token: KnowsToken = lambda token, now_ms: False
) -> SnapProvider:
    return SnapProvider(
        profile,
        Calls(profile.name, open_client(), total_timeout_s=total_timeout_s),
        Calls(f"{profile.name} tokens", open_client(), total_timeout_s=total_timeout_s),
        knows_token=knows_token,
        now_ms=lambda: NOW_MS,
    )
