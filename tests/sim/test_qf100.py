"""Another maker's box: it believes what it hears, and forgets it."""

import json

import pytest

from soundbox_sim.qf100 import ConfigRefused, MqttSettings, Qf100

NOW = 1_000_000


def message(category: object, **data: object) -> bytes:
    return json.dumps({"header": {"category": category}, "data": data}).encode()


def test_a_payment_is_spoken_as_often_as_it_comes() -> None:
    box, paid = Qf100(), message(1, amount=50_000)

    spoken = [box.hear(paid, now_ms=NOW) for _ in range(2)]

    assert [told and told.facts for told in spoken] == [
        {"amount": 50_000, "sentence": "Pembayaran diterima, lima puluh ribu rupiah"}
    ] * 2


def test_a_qr_is_shown_for_its_seconds_and_hidden_by_a_payment() -> None:
    box = Qf100()
    shown = message(4, **{"qr-url": "0002", "amount": 15_000, "expire-seconds": 30})

    box.hear(shown, now_ms=NOW)
    assert (box.screen(now_ms=NOW + 29_999), box.screen(now_ms=NOW + 30_000)) == ("0002", None)

    box.hear(shown, now_ms=NOW)
    box.hear(message(1, amount=15_000), now_ms=NOW)
    assert box.screen(now_ms=NOW) is None


@pytest.mark.parametrize("seconds", [0, -5, "ten", None])
def test_a_qr_without_sensible_seconds_is_shown_for_a_minute(seconds: object) -> None:
    box = Qf100()

    box.hear(message(4, **{"qr-url": "0002", "amount": 1, "expire-seconds": seconds}), now_ms=NOW)

    assert (box.screen(now_ms=NOW + 59_999), box.screen(now_ms=NOW + 60_000)) == ("0002", None)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"1", message(9), message(1), message(5, command="dance"), message(4, amount=5),
     message(4, **{"qr-url": "0002", "amount": 0}), b'{"header":{"category":1},"data":[]}'],
)  # fmt: skip
def test_what_it_does_not_understand_does_nothing(payload: bytes) -> None:
    assert Qf100().hear(payload, now_ms=NOW) is None


def test_a_restart_is_told() -> None:
    told = Qf100().hear(message(5, command="reboot"), now_ms=NOW)

    assert told is not None
    assert told.what == "rebooted"


@pytest.mark.parametrize("answer", [{"error-code": 1}, {"error-code": 0}, [], {}, {"error-code": 0, "mqtt": {}}])
def test_an_answer_without_settings_is_a_refusal(answer: object) -> None:
    with pytest.raises(ConfigRefused):
        MqttSettings.of(answer)
