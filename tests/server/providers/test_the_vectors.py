"""Every published signature, valid and forged, through the code that judges signatures in earnest."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fakes import midtrans, paylabs, snap

from soundbox_server.errors import InvalidSignature
from soundbox_server.providers import snap_signing as signing
from soundbox_server.providers.base import PaymentReport, Report
from soundbox_server.providers.hmac_scheme import read_time

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "fixtures/snap_vectors.json").read_text())
SNAP = {vector["id"]: vector for vector in VECTORS["snap"]}
MIDTRANS = {vector["id"]: vector for vector in VECTORS["midtrans_signature_key"]}
# Standard Webhooks sign what we send to others: no provider of ours uses them.
OF_OUR_OWN_WEBHOOKS = {"W01", "W02"}


def notified(vector: dict[str, Any]) -> Report:
    """The vector's message as the adapter of its sender receives it, at the time when it was signed."""
    profile = {"partner_public_key": vector["public_key_pem"]}
    gateway: Any
    if vector["kind"].startswith("paylabs"):
        gateway = paylabs.gateway(paylabs.config(signed_callback_path=vector["path"], **profile))
    else:
        gateway = snap.gateway(snap.config(callback_path=vector["path"], **profile))
    headers = {"x-timestamp": vector["timestamp"], "x-signature": vector["signature"]}
    report: Report = gateway.read_callback(
        headers, vector["body"].encode(), now_ms=read_time(vector["timestamp"]) + 1_000
    )
    return report


def a_symmetric_request(vector: dict[str, Any]) -> None:
    short = signing.minified(vector["body_pretty"].encode())
    text = signing.symmetric_text(vector["method"], vector["path"], vector["access_token"], short, vector["timestamp"])

    assert short == vector["body_minified"].encode()
    assert hashlib.sha256(short).hexdigest() == vector["body_sha256"]
    assert text == vector["string_to_sign"].encode()
    assert signing.sign_hmac(vector["client_secret"].encode(), text) == vector["signature"]
    assert signing.verify_hmac(vector["client_secret"].encode(), text, vector["signature"])


def a_symmetric_notification_in_either_form(vector: dict[str, Any]) -> None:
    """The same request, if it came to us: as it was signed, and with the white space that its sender shows."""
    gateway = snap.gateway(
        snap.config(
            notifications_signed="symmetric",
            notify_secret=vector["client_secret"].encode(),
            callback_path=vector["path"],
        ),
        knows_token=lambda token, now_ms: token == vector["access_token"],
    )
    headers = {
        "x-timestamp": vector["timestamp"],
        "x-signature": vector["signature"],
        "authorization": f"Bearer {vector['access_token']}",
    }
    for body in (vector["body_pretty"], vector["body_minified"]):
        gateway._verify(headers, body.encode(), now_ms=read_time(vector["timestamp"]))


def a_token_request(vector: dict[str, Any]) -> None:
    gateway = snap.gateway(
        snap.config(partner_public_key=vector["public_key_pem"], notify_client_key=vector["client_key"])
    )
    headers = {
        "x-client-key": vector["client_key"],
        "x-timestamp": vector["timestamp"],
        "x-signature": vector["signature"],
    }
    body = b'{"grantType":"client_credentials"}'

    assert signing.token_text(vector["client_key"], vector["timestamp"]) == vector["string_to_sign"].encode()
    gateway.verify_token_request(headers, body, now_ms=read_time(vector["timestamp"]))
    later = headers | {"x-timestamp": vector["timestamp"].replace(".024", ".025")}
    with pytest.raises(InvalidSignature):
        gateway.verify_token_request(later, body, now_ms=read_time(vector["timestamp"]))


def a_payment(reference: str, amount_idr: int, number: str, paid_at_ms: int | None) -> Callable[[dict[str, Any]], None]:
    def judge(vector: dict[str, Any]) -> None:
        report = notified(vector)
        body = vector["body"].encode()

        assert (
            signing.asymmetric_text(vector["method"], vector["path"], body, vector["timestamp"])
            == vector["string_to_sign"].encode()
        )
        assert isinstance(report, PaymentReport)
        assert (report.status, report.partner_reference, report.amount_idr) == ("paid", reference, amount_idr)
        assert (report.provider_transaction_id, report.paid_at_ms) == (number, paid_at_ms)
        assert (report.body, report.body_sha256) == (body, hashlib.sha256(body).hexdigest())

    return judge


def a_forgery(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignature):
        notified(vector)


JUDGED: dict[str, list[Callable[[dict[str, Any]], None]]] = {
    "S01": [a_symmetric_request, a_symmetric_notification_in_either_form],
    "S03": [a_token_request],
    "S05": [a_payment("GP24043015193402809", 102_800, "A120240430081940S9vu8gSjaRID", None)],
    "S06": [a_payment("202406100314239776", 162_933, "2024061033200000003", 1_717_989_325_000)],
    "S09": [a_forgery],  # not JSON either: the signature is judged first, and nothing is parsed
    "S10": [a_payment("ORDER-1760087736146", 50_000, "20251010111230999500166931000229476", 1_760_087_793_000)],
    "S15": [a_forgery],
    "S17": [a_forgery],
}


@pytest.mark.parametrize("name", SNAP)
def test_each_snap_vector_is_judged_as_it_says(name: str) -> None:
    for judge in JUDGED[name]:
        judge(SNAP[name])

    assert (a_forgery in JUDGED[name]) == (not SNAP[name]["valid"])


@pytest.mark.parametrize("name", MIDTRANS)
def test_each_midtrans_key_is_judged_as_it_says(name: str) -> None:
    vector = MIDTRANS[name]
    gateway = midtrans.gateway(midtrans.config(server_key=vector["server_key"]))
    body = json.dumps(
        {key: vector[key] for key in ("order_id", "status_code", "gross_amount", "signature_key")}
        | {"transaction_status": "settlement", "currency": "IDR", "transaction_id": "t1"}
    ).encode()

    if vector["valid"]:
        report = gateway.read_callback({}, body, now_ms=0)
        assert isinstance(report, PaymentReport)
        assert (report.status, report.partner_reference) == ("paid", vector["order_id"])
    else:
        with pytest.raises(InvalidSignature):
            gateway.read_callback({}, body, now_ms=0)


def test_no_vector_is_left_out() -> None:
    groups = {name: {one["id"] for one in found} for name, found in VECTORS.items() if isinstance(found, list)}

    assert groups == {
        "snap": set(JUDGED),
        "midtrans_signature_key": set(MIDTRANS),
        "standard_webhooks": OF_OUR_OWN_WEBHOOKS,
    }
    assert (len(JUDGED), len(MIDTRANS)) == (8, 3)


@pytest.mark.parametrize("name", [name for name, vector in SNAP.items() if vector["valid"] and "body" in vector])
def test_a_genuine_message_with_one_bit_changed_is_a_forgery(name: str) -> None:
    vector = SNAP[name]
    body = bytearray(vector["body"].encode())
    for at in range(0, len(body), 37):
        changed = bytes(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]).decode()
        with pytest.raises(InvalidSignature):
            notified(vector | {"body": changed})
