"""What the spec says is what the code does."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from soundbox_protocol.messages import MESSAGES, Capabilities
from soundbox_protocol.signing import sign
from soundbox_protocol.speech import CLIPS, payment_clips, payment_sentence
from soundbox_protocol.topics import Uplink

SPEC = Path(__file__).parents[2] / "firmware-protocol"
README = (SPEC / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = [block for language, block in BLOCKS if language == "sh"]
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def table_row(name: str) -> str:
    return next(line for line in README.splitlines() if line.startswith(f"| `{name}`"))


def run(script: str) -> str:
    return subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True).stdout


def test_the_topics_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(uplink|downlink)/([a-z/-]+)` \| `(\w+)`", README, re.MULTILINE)

    assert rows == [
        ("uplink" if isinstance(channel, Uplink) else "downlink", channel, model.model_fields["message_type"].default)
        for channel, model in MESSAGES.items()
    ]


@pytest.mark.parametrize("model", MESSAGES.values(), ids=lambda model: model.__name__)
def test_every_field_is_described_with_whether_it_may_be_left_out(model: type) -> None:
    fields = model.model_fields  # type: ignore[attr-defined]
    row = table_row(fields["message_type"].default)

    for name, field in fields.items():
        if name in ("message_type", "device_id", "timestamp"):
            continue
        said = field.alias or name
        assert f"`{said}`" in row
        # A QR's answer says in words which fields belong to success and which to failure.
        if model.__name__ != "DynamicQrResponse" and name != "qr_payload":
            assert (f"*`{said}`*" in row) is not field.is_required(), name


def test_every_capability_is_described_with_its_default() -> None:
    for name, field in Capabilities.model_fields.items():
        assert re.search(rf"`{name}`\s{str(field.default).lower()}\b", README), name


def test_the_clips_are_those_of_the_code() -> None:
    for language in ("id", "en"):
        found = re.search(rf"^- `{language}/`: (.*?)(?:\n-|\n\n)", README, re.MULTILINE | re.DOTALL)
        assert found is not None
        assert {f"{language}/{clip}" for clip in found[1].split()} == {c for c in CLIPS if c.startswith(language)}


def test_the_sentences_are_those_of_the_code() -> None:
    for language in ("id", "en"):
        assert f"`{payment_sentence(50_000, language)}`" in README
        assert f"`{payment_sentence(50_000, language, merchant_name='Warung Sari')}`" in README
        assert f"`{payment_sentence(50_000, language, replay=True)}`" in README
        assert " ".join(f"`{clip}`" for clip in payment_clips(50_000, language)) in README


def example() -> tuple[bytes, str, bytes]:
    key, topic, signed = (
        re.search(rf"^{name}='?(.*?)'?$", SHELL[0], re.MULTILINE) for name in ("KEY", "TOPIC", "SIGNED")
    )
    assert key is not None
    assert topic is not None
    assert signed is not None
    return bytes.fromhex(key[1]), topic[1], signed[1].encode()


def test_the_worked_example_is_the_vector_and_what_the_code_signs() -> None:
    key, topic, signed = example()
    payload = next(block for language, block in BLOCKS if language == "json").strip().encode()
    vector = json.loads((SPEC / "vectors/v1/payment-success.json").read_text(encoding="utf-8"))[0]

    assert sign(key, topic, signed + b"}") == payload == bytes.fromhex(vector["payload_hex"])
    assert f"these {len(payload)} bytes" in README
    assert f"It prints `{vector['sig']}`" in README


@needs_openssl
def test_the_shell_line_prints_the_signature() -> None:
    assert f"It prints `{run(SHELL[0])}`" in README


@needs_openssl
def test_the_shell_lines_of_the_walk_verify_an_announcement() -> None:
    # A key whose base64url holds both - and _, which are not in openssl's alphabet.
    key, topic, signed = bytes.fromhex("fbff" * 16), "devices/dev_1/downlink/payment/success", '{"merchant_name":"Café"'
    given = f"ANNOUNCEMENT_KEY={base64.urlsafe_b64encode(key).decode().rstrip('=')} DEVICE=dev_1\n"
    heard = sign(key, topic, f"{signed}}}".encode()).decode()

    good, bad = (run(f"{given}HEARD='{text}'\n{SHELL[1]}").split() for text in (heard, heard.replace("C", "K", 1)))

    assert good == [heard[-45:-2]] * 2
    assert bad[0] != bad[1] == good[1]
