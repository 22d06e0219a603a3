"""Another maker's bytes: what is known of them word for word, and what is assumed kept in one place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_protocol.messages import Command, ConfigPush, DynamicQrDisplay
from soundbox_protocol.times import to_rfc3339
from soundbox_server.codecs.base import Addressee, Condition, Written
from soundbox_server.codecs.choice import CODECS, NATIVE, QF100, codec_of, require_serial
from soundbox_server.codecs.qf100 import heartbeat_sender
from soundbox_server.commands.kinds import KINDS
from soundbox_server.errors import CapabilityNotSupported, ValidationFailed

NOW = 1_779_530_400_000
BOX = Addressee(device_id="dev_1", serial_number="SN0001", key_version=1)


def no_key(device_id: str, version: int) -> bytes:
    raise AssertionError("nothing is signed for a box that cannot verify")


def said(written: Written) -> object:
    assert written.topic == "soundbox/SN0001/down"
    return json.loads(written.body)


@pytest.mark.parametrize(
    ("vendor", "model", "name"),
    [
        ("native", "sbx-1", "native"), ("acme", "X1", "native"), ("native", "QF100", "native"),
        ("qf100", "anything", "qf100"), ("acme", "QF100", "qf100"), ("acme", "EDOTF1", "qf100"),
        ("acme", "edotf1", "qf100"),
    ],
)  # fmt: skip
def test_vendor_and_model_choose_the_codec(vendor: str, model: str, name: str) -> None:
    assert codec_of(vendor, model) is CODECS[name]


def test_a_payment_is_category_1_with_its_whole_rupiah() -> None:
    written = QF100.payment(BOX, {"amount": 50_000, "merchant_name": "Warung Sari"}, key_of=no_key)

    assert said(written) == {"header": {"category": 1}, "data": {"amount": 50_000}}


def test_a_qr_is_category_4_for_the_seconds_that_are_left() -> None:
    shown = DynamicQrDisplay(
        command_id="cmd_1", action="show", qr_payload="00020101", amount=15_000, expires_at=to_rfc3339(NOW + 90_000)
    )

    assert said(QF100.message(BOX, shown, key_of=no_key, now_ms=NOW)) == {
        "header": {"category": 4}, "data": {"qr-url": "00020101", "amount": 15_000, "expire-seconds": 90},
    }  # fmt: skip


def test_a_restart_is_category_5() -> None:
    command = Command(
        command_id="cmd_1", command_name="reboot", payload={}, issued_at=to_rfc3339(NOW), expires_at=to_rfc3339(NOW)
    )

    assert said(QF100.message(BOX, command, key_of=no_key, now_ms=NOW)) == {
        "header": {"category": 5}, "data": {"command": "reboot"},
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"reboot", "show_qr", "clear_qr", "replay_last"}))
def test_no_other_command_becomes_bytes(name: str) -> None:
    command = Command(
        command_id="cmd_1", command_name=name, payload={}, issued_at=to_rfc3339(NOW), expires_at=to_rfc3339(NOW)
    )

    with pytest.raises(CapabilityNotSupported):
        QF100.message(BOX, command, key_of=no_key, now_ms=NOW)


@pytest.mark.parametrize(
    "message",
    [
        DynamicQrDisplay(command_id="cmd_1", action="clear", expires_at=to_rfc3339(NOW)),
        DynamicQrDisplay(command_id="cmd_1", action="show", qr_payload="0002", expires_at=to_rfc3339(NOW)),
        ConfigPush(config_version=1, config={}, sha256="0" * 64),
    ],
)
def test_a_qr_without_its_amount_and_whatever_else_it_cannot_do_is_refused(message: object) -> None:
    with pytest.raises(CapabilityNotSupported):
        QF100.message(BOX, message, key_of=no_key, now_ms=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        ({"fw-version": "1.0.2", "battery": 80, "signal": -82},
         Condition(firmware_version="1.0.2", battery_level=80, network_strength=50)),
        ({"header": {"category": 9}, "data": {"battery_level": "55%", "signal_dbm": "-51 dBm"}},
         Condition(battery_level=55, network_strength=100)),
        ({"network-strength": 0, "dbm": -60}, Condition(network_strength=0)),
        ({"battery": 250, "signal": 3, "fw-version": 7}, Condition()),
        ([1, 2], Condition()),
    ],
)  # fmt: skip
def test_a_heartbeat_says_what_can_be_understood(payload: object, condition: Condition) -> None:
    assert QF100.heartbeat(json.dumps(payload).encode()) == condition


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.text(), st.integers() | st.text()).map(lambda d: json.dumps(d).encode())
)
def test_no_heartbeat_is_too_strange(payload: bytes) -> None:
    for codec in (QF100, NATIVE):
        assert isinstance(codec.heartbeat(payload), Condition)


@pytest.mark.parametrize(
    "topic",
    ["soundbox/sn1/down/heartbeat", "soundbox/SN 1/down/heartbeat", "soundbox/SN0001/down", "soundbox//down/heartbeat"],
)
def test_only_a_serial_numbers_own_topic_is_a_heartbeats(topic: str) -> None:
    assert heartbeat_sender("soundbox/SN0001/down/heartbeat") == "SN0001"
    assert heartbeat_sender(topic) is None


@pytest.mark.parametrize("serial", ["sn0001", "SN/1", "A" * 33, "+", "SN\n"])
def test_a_serial_number_that_is_no_topic_level_is_refused(serial: str) -> None:
    require_serial(NATIVE, serial)
    with pytest.raises(ValidationFailed):
        require_serial(QF100, serial)
