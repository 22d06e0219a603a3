"""A box without a name: what it asks and is answered, and that nobody else can read it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_protocol import provisioning, topics
from soundbox_protocol.messages import (
    CredentialResponse,
    MalformedMessage,
    ProvisionRequest,
    ProvisionResponse,
    decode,
    encode,
)
from soundbox_protocol.provisioning import Secrets, code_secret, credential_key, request_key, response_key
from soundbox_protocol.sealing import CannotOpen, hkdf, seal, unseal
from soundbox_protocol.signing import BadSignature, sign, verify

VECTORS = Path(__file__).parents[2] / "firmware-protocol" / "vectors" / "v1"
KEY, TOPIC, NONCE = bytes(range(32)), "provision/x/response", "0123456789abcdef" * 2


def load(name: str) -> list[Any]:
    cases = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(case, id=case["name"]) for case in cases]


def refusal(case: dict[str, Any]) -> type[Exception]:
    return {"bad_signature": BadSignature, "malformed": MalformedMessage, "cannot_open": CannotOpen}[case["refused_as"]]


@pytest.mark.parametrize("case", load("provision-request"))
def test_a_request_is_signed_with_what_code_and_nonce_make(case: dict[str, Any]) -> None:
    key, payload = request_key(code_secret(case["activation_code"]), case["nonce"]), bytes.fromhex(case["payload_hex"])

    def read() -> ProvisionRequest:
        return decode(ProvisionRequest, verify(key, case["topic"], payload))

    if not case["valid"]:
        with pytest.raises(refusal(case), match=f"^{case.get('member', '')}"):
            read()
        return
    assert key.hex() == case["key_hex"]
    assert read() == ProvisionRequest.model_validate(case["fields"])
    assert sign(key, topics.provision_request(case["nonce"]), encode(read())) == payload


@pytest.mark.parametrize("case", load("provision-response"))
def test_an_answer_is_opened_with_what_code_and_nonce_make(case: dict[str, Any]) -> None:
    key, payload = response_key(code_secret(case["activation_code"]), case["nonce"]), bytes.fromhex(case["payload_hex"])
    if not case["valid"]:
        with pytest.raises(refusal(case)):
            unseal(key, case["topic"], payload)
        return
    assert key.hex() == case["key_hex"]
    body = payload
    if "secrets_hex" in case:
        body, secrets = unseal(key, case["topic"], payload)
        assert secrets.hex() == case["secrets_hex"] == Secrets.unpacked(secrets).packed().hex()
        again = seal(key, topics.provision_response(case["nonce"]), body, secrets, iv=bytes.fromhex(case["iv_hex"]))
        assert again == payload
    message = decode(ProvisionResponse, body)
    assert message == ProvisionResponse.model_validate(case["fields"])
    assert encode(message) == body == case["body"].encode()


def test_a_new_credential_is_opened_with_the_key_that_the_announcement_key_makes() -> None:
    case = json.loads((VECTORS / "credential-response.json").read_text(encoding="utf-8"))[0]
    announcement_key, topic = bytes.fromhex(case["key_hex"]), case["topic"]

    body = verify(announcement_key, topic, bytes.fromhex(case["payload_hex"]))
    open_part, secrets = unseal(credential_key(announcement_key), topic, body)

    assert credential_key(announcement_key).hex() == case["seal_key_hex"]
    assert secrets.hex() == case["secrets_hex"]
    assert provisioning.packed_credential(*provisioning.unpacked_credential(secrets)) == secrets
    assert decode(CredentialResponse, body).credential_id == json.loads(open_part)["credential_id"]


@given(st.binary(max_size=200), st.integers(min_value=0), st.integers(1, 255))
def test_a_sealed_message_with_any_byte_changed_cannot_be_opened(secrets: bytes, place: int, flip: int) -> None:
    sealed = bytearray(seal(KEY, TOPIC, b'{"a":1}', secrets))
    sealed[place % len(sealed)] ^= flip

    with pytest.raises(CannotOpen):
        unseal(KEY, TOPIC, bytes(sealed))


@given(st.binary(max_size=200))
def test_any_bytes_cannot_be_opened(payload: bytes) -> None:
    for sealed in (payload, payload.hex().encode()):
        with pytest.raises(CannotOpen):
            unseal(KEY, TOPIC, b'{"a":1,"sealed":"' + sealed + b'"}')
    with pytest.raises(CannotOpen):
        unseal(KEY, TOPIC, payload)


def test_another_topic_and_another_key_open_nothing() -> None:
    sealed = seal(KEY, TOPIC, b'{"a":1}', b"secret")

    assert unseal(KEY, TOPIC, sealed) == (b'{"a":1}', b"secret")
    for key, topic in ((KEY, TOPIC + "x"), (KEY[::-1], TOPIC)):
        with pytest.raises(CannotOpen):
            unseal(key, topic, sealed)


def test_the_same_secrets_are_never_sealed_alike() -> None:
    assert seal(KEY, TOPIC, b'{"a":1}', b"secret") != seal(KEY, TOPIC, b'{"a":1}', b"secret")


def test_hkdf_is_the_one_of_rfc_5869() -> None:
    # Test case 3 of the RFC: no salt, no info; its first 32 bytes.
    made = hkdf(b"\x0b" * 22, info="")

    assert made.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


def test_the_keys_of_one_code_differ_by_nonce_and_by_purpose() -> None:
    secret, other = code_secret("K7QM29XW4T"), NONCE[::-1]

    assert len({request_key(secret, NONCE), response_key(secret, NONCE), request_key(secret, other)}) == 3


@pytest.mark.parametrize("spelled", ["k7qm2-9xw4t", " K7QM2 9XW4T ", "K7QM29XW4T"])
def test_a_code_is_forgiven_how_it_is_typed(spelled: str) -> None:
    assert code_secret(spelled) == code_secret("K7QM29XW4T")


@pytest.mark.parametrize(
    "nonce", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "+", "#", "0" * 32 + "\n", "0" * 31 + "/"]
)
def test_what_is_no_nonce_makes_no_topic(nonce: str) -> None:
    for make in (topics.provision_request, topics.provision_response):
        with pytest.raises(ValueError, match="nonce"):
            make(nonce)
    assert topics.parse_provision_request(f"provision/{nonce}/request") is None


def test_a_requests_topic_is_read_and_no_other() -> None:
    assert topics.parse_provision_request(topics.provision_request(NONCE)) == NONCE
    for other in (topics.provision_response(NONCE), f"x/{NONCE}/request", f"provision/{NONCE}/request/x", "provision"):
        assert topics.parse_provision_request(other) is None


def test_secrets_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="secrets"):
        Secrets.unpacked(bytes(95))
    with pytest.raises(ValueError, match="32 bytes"):
        provisioning.packed_credential("c2hvcnQ", "c2hvcnQ")
    assert Secrets.unpacked(bytes(96) + b"later").announcement_key == bytes(32)
