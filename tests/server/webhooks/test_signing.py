"""Signatures: by the published vectors, and as a library that we did not write verifies them."""

import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from soundbox_server.webhooks.signing import kgiton_headers, new_secret, standard_headers

VECTORS = json.loads((Path(__file__).parents[2] / "fixtures/standard_webhooks_vectors.json").read_text())
BODY = '{"type": "payment.paid", "data": {"merchant": "Tokö"}}'.encode()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["id"]))
def test_a_published_signature_is_ours(vector: dict[str, str]) -> None:
    headers = standard_headers(
        [vector["secret"]], message_id=vector["msg_id"], at_s=int(vector["timestamp"]), body=vector["payload"].encode()
    )

    assert headers["webhook-signature"] in vector["signature"].split()
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (vector["msg_id"], vector["timestamp"])


def test_the_standard_library_of_receivers_takes_what_we_sign() -> None:
    secret = new_secret()
    headers = standard_headers([secret], message_id="whe_1", at_s=int(time.time()), body=BODY)

    assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers)


def test_while_a_secret_is_exchanged_both_are_taken() -> None:
    old, new = new_secret(), new_secret()
    headers = standard_headers([new, old], message_id="whe_1", at_s=int(time.time()), body=BODY)

    assert len(headers["webhook-signature"].split()) == 2
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, headers)


def test_reference_003s_receivers_take_the_hex_of_the_exact_body() -> None:
    headers = kgiton_headers(["whsec_c2VjcmV0"], body=BODY)

    assert headers == {"x-kgiton-signature": hmac.new(b"whsec_c2VjcmV0", BODY, hashlib.sha256).hexdigest()}
    assert len(headers["x-kgiton-signature"]) == 64


def test_no_two_secrets_are_alike() -> None:
    secrets = {new_secret() for _ in range(100)}

    assert len(secrets) == 100
    assert all(secret.startswith("whsec_") for secret in secrets)
