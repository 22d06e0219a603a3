"""Every committed vector goes through our writer and our reader, and through plain hmac and json beside them."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soundbox_protocol import merchant_name_for_wire, topics
from soundbox_protocol.configuration import pushed_config, sha256_of
from soundbox_protocol.messages import MESSAGES, MalformedMessage, Message, decode, decode_uplink, encode
from soundbox_protocol.signing import BadSignature, sign, signed_length, verify
from soundbox_protocol.speech import (
    amount_clips,
    amount_words,
    code_clips,
    code_sentence,
    digest_clips,
    digest_sentence,
    here_clips,
    here_sentence,
    payment_clips,
    payment_sentence,
    sound_test_clips,
    sound_test_sentence,
    total_clips,
    total_sentence,
)
from soundbox_protocol.topics import Downlink, Uplink, parse_downlink

SPEC = Path(__file__).parents[2] / "firmware-protocol"
VECTORS = SPEC / "vectors" / "v1"


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def cases(channel: Uplink | Downlink) -> list[Any]:
    return load(channel.value.replace("/", "-"))


def labelled(kind: type[Uplink] | type[Downlink], *, valid: bool) -> list[Any]:
    return [
        pytest.param(channel, case, id=f"{channel.value}: {case['name']}")
        for channel in kind
        for case in cases(channel)
        if case["valid"] is valid
    ]


def read_downlink(channel: Downlink, case: dict[str, Any]) -> Message:
    body = verify(bytes.fromhex(case["key_hex"]), case["topic"], bytes.fromhex(case["payload_hex"]))
    return decode(MESSAGES[channel], body)


@pytest.mark.parametrize(("channel", "case"), labelled(Uplink, valid=True))
def test_a_valid_uplink_is_read_and_written_byte_for_byte(channel: Uplink, case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload_hex"])

    message = decode_uplink(case["topic"], payload)

    assert message == MESSAGES[channel].model_validate(case["fields"])
    assert topics.uplink(case["fields"]["device_id"], channel) == case["topic"]
    if case["written"]:
        assert encode(message) == payload


@pytest.mark.parametrize(("channel", "case"), labelled(Downlink, valid=True))
def test_a_valid_downlink_is_verified_read_and_written_byte_for_byte(channel: Downlink, case: dict[str, Any]) -> None:
    key, payload = bytes.fromhex(case["key_hex"]), bytes.fromhex(case["payload_hex"])

    message = read_downlink(channel, case)

    assert message == MESSAGES[channel].model_validate(case["fields"])
    found = parse_downlink(case["topic"])
    assert found is not None
    assert (topics.downlink(found[0], channel), found[1]) == (case["topic"], channel.value)
    assert sign(key, case["topic"], case["body"].encode()) == payload
    if case["written"]:
        assert encode(message) == case["body"].encode()
        assert len(payload) == signed_length(encode(message))


@pytest.mark.parametrize(("channel", "case"), labelled(Downlink, valid=True))
def test_plain_hmac_and_json_agree_with_the_vector(channel: Downlink, case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload_hex"])
    signed, tail = payload[:-53], payload[-53:]

    mac = hmac.new(bytes.fromhex(case["key_hex"]), case["topic"].encode() + b"\n" + signed, hashlib.sha256).digest()

    assert tail == b',"sig":"' + base64.urlsafe_b64encode(mac).rstrip(b"=") + b'"}'
    document = json.loads(payload)
    assert case["payload"].encode() == payload
    assert document.pop("sig") == case["sig"]
    assert document == json.loads(case["body"])
    assert document.items() >= case["fields"].items()


@pytest.mark.parametrize(("channel", "case"), labelled(Uplink, valid=False))
def test_an_invalid_uplink_is_refused(channel: Uplink, case: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage, match=f"^{case.get('member', '')}"):
        decode_uplink(case["topic"], bytes.fromhex(case["payload_hex"]))


@pytest.mark.parametrize(("channel", "case"), labelled(Downlink, valid=False))
def test_an_invalid_downlink_is_refused_for_the_stated_reason(channel: Downlink, case: dict[str, Any]) -> None:
    reason = {"bad_signature": BadSignature, "malformed": MalformedMessage}[case["refused_as"]]

    with pytest.raises(reason, match=f"^{case.get('member', '')}"):
        read_downlink(channel, case)


@pytest.mark.parametrize(("channel", "case"), labelled(Uplink, valid=False) + labelled(Downlink, valid=False))
def test_an_invalid_vector_shows_the_text_of_its_bytes(channel: Uplink | Downlink, case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload_hex"])

    assert payload.decode(errors="replace") == case.get("payload", payload.decode(errors="replace"))
    assert ("payload" in case) is (case["name"] != "not-utf8")


@pytest.mark.parametrize("case", load("topics"), ids=lambda case: repr(case["topic"]))
def test_a_topic_is_parsed_or_not(case: dict[str, Any]) -> None:
    up, down = topics.parse_uplink(case["topic"]), topics.parse_downlink(case["topic"])

    if case["parsed"] is None:
        assert (up, down) == (None, None)
    else:
        way, *rest = case["parsed"]
        assert {"uplink": (up, down), "downlink": (down, up)}[way] == (tuple(rest), None)


@pytest.mark.parametrize("case", load("merchant-names"), ids=lambda case: case["meaning"])
def test_a_merchant_name_is_cut_for_the_wire(case: dict[str, Any]) -> None:
    assert merchant_name_for_wire(case["name"]) == case["wire"]


@pytest.mark.parametrize("language", ["id", "en"])
@pytest.mark.parametrize("case", load("amounts"), ids=lambda case: str(case["amount"]))
def test_an_amount_is_said_and_played(case: dict[str, Any], language: Any) -> None:
    assert amount_words(case["amount"], language) == case[language]["words"]
    assert amount_clips(case["amount"], language) == case[language]["clips"]


@pytest.mark.parametrize("case", load("sentences"), ids=lambda case: case["sentence"])
def test_a_payment_is_said_and_played(case: dict[str, Any]) -> None:
    amount, language, replay = case["amount"], case["language"], case["replay"]

    sentence = payment_sentence(amount, language, merchant_name=case["merchant_name"], replay=replay)

    assert sentence == case["sentence"]
    assert payment_clips(amount, language, replay=replay) == case["clips"]


@pytest.mark.parametrize("language", ["id", "en"])
@pytest.mark.parametrize("case", load("codes"), ids=lambda case: case["code"])
def test_a_code_is_said_and_played_digit_by_digit(case: dict[str, Any], language: Any) -> None:
    assert code_sentence(case["code"], language) == case[language]["sentence"]
    assert code_clips(case["code"], language) == case[language]["clips"]


@pytest.mark.parametrize("language", ["id", "en"])
@pytest.mark.parametrize("case", load("totals"), ids=lambda case: str(case["count"]))
def test_a_days_total_is_said_and_played(case: dict[str, Any], language: Any) -> None:
    assert total_sentence(case["count"], case["amount"], language) == case[language]["sentence"]
    assert total_clips(case["count"], case["amount"], language) == case[language]["clips"]


@pytest.mark.parametrize("language", ["id", "en"])
@pytest.mark.parametrize("case", load("digests"), ids=lambda case: str(case["count"]))
def test_what_was_missed_is_said_and_played(case: dict[str, Any], language: Any) -> None:
    assert digest_sentence(case["count"], case["amount"], language) == case[language]["sentence"]
    assert digest_clips(case["count"], case["amount"], language) == case[language]["clips"]


@pytest.mark.parametrize("language", ["id", "en"])
def test_what_a_box_says_for_people_who_look_for_it(language: Any) -> None:
    ours = {
        "sound_test": (sound_test_sentence(language), sound_test_clips(language)),
        "here": (here_sentence(language), here_clips(language)),
    }

    assert ours == {case["name"]: (case[language]["sentence"], case[language]["clips"]) for case in load("notices")}


@pytest.mark.parametrize("case", [one for one in cases(Downlink.CONFIG_PUSH) if one["valid"]], ids=lambda c: c["name"])
def test_a_configurations_hash_covers_its_bytes_as_they_were_sent(case: dict[str, Any]) -> None:
    push, raw = pushed_config(case["body"].encode())

    assert raw.decode() in case["body"]
    assert json.loads(raw) == case["fields"]["config"] == push.config
    assert hashlib.sha256(raw).hexdigest() == sha256_of(raw) == case["fields"]["sha256"]


@pytest.mark.parametrize("change", [(b":70", b":71"), (b'"config":', b'"config": ')])
def test_a_configuration_whose_hash_does_not_fit_is_malformed(change: tuple[bytes, bytes]) -> None:
    body = cases(Downlink.CONFIG_PUSH)[0]["body"].encode()

    with pytest.raises(MalformedMessage, match=r"^sha256: "):
        pushed_config(body.replace(*change))


def test_a_hash_that_is_not_the_last_member_is_malformed() -> None:
    body = cases(Downlink.CONFIG_PUSH)[0]["body"].encode()

    with pytest.raises(MalformedMessage, match=r"^sha256: not the last"):
        pushed_config(body[:-1] + b',"later":1}')


def test_every_message_has_valid_and_invalid_vectors() -> None:
    for channel in MESSAGES:
        assert {case["valid"] for case in cases(channel)} == {True, False}, channel


def test_the_committed_vectors_are_what_their_script_writes() -> None:
    check = subprocess.run(
        [sys.executable, SPEC / "make_vectors.py", "--check"], capture_output=True, text=True, check=False
    )

    assert (check.returncode, check.stderr) == (0, "")
