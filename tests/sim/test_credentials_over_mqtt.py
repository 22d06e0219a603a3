"""A box without HTTPS gets a new credential: kept before it is confirmed."""

import pytest

from soundbox_sim.box import Box
from soundbox_sim.journal import Journal

SECRETS = ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8")


def asked(bench) -> dict[str, str]:
    return bench.payloads("credential_request")[-1]


def test_a_command_has_it_asked_for_kept_and_confirmed(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", "rotate_credential"))
    first = asked(bench)
    bench.hear(hub.credential(first["request_id"], "issued", credential_id="cred_1"))
    kept, second = list(bench.kept), asked(bench)
    bench.hear(hub.credential(second["request_id"], "confirmed", credential_id="cred_1"))

    assert "confirm" not in first
    assert [(one.credential_id, one.device_token, one.broker_password) for one in kept] == [("cred_1", *SECRETS)]
    assert second["confirm"] == "cred_1"
    assert bench.reports() == [("cmd_1", "delivered", None), ("cmd_1", "succeeded", None)]


def test_what_the_hub_refuses_fails_the_command(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", "rotate_credential"))
    bench.hear(hub.credential(asked(bench)["request_id"], "failed", error_code="DEVICE_UNAUTHORIZED"))

    assert bench.kept == []
    assert bench.reports()[-1] == ("cmd_1", "failed", "DEVICE_UNAUTHORIZED")


def test_an_answer_to_another_question_is_ignored(bench, hub) -> None:
    bench.do(bench.box.ask_credential(bench.now))
    bench.hear(hub.credential("another", "issued", credential_id="cred_1"))

    assert bench.kept == []
    assert len(bench.payloads("credential_request")) == 1


def test_secrets_sealed_for_another_box_are_not_kept(bench, hub) -> None:
    bench.do(bench.box.ask_credential(bench.now))
    request_id = asked(bench)["request_id"]
    topic, payload = hub.credential(request_id, "issued", credential_id="cred_1")
    hub.key = bytes(32)
    _, sealed_otherwise = hub.credential(request_id, "issued", credential_id="cred_1")
    bench.hear((topic, sealed_otherwise))
    assert bench.kept == []

    bench.hear((topic, payload))

    assert len(bench.kept) == 1


def test_nothing_is_confirmed_when_it_could_not_be_kept(bench, hub, tmp_path) -> None:
    def full_disk(_new: object) -> None:
        raise OSError("no space left on device")

    bench.box.power_off()
    box = Box(
        hub.device_id, hub.key, Journal(tmp_path / "other"), account="first", now_ms=bench.now, token=lambda: "t",
        keep=full_disk,
    )  # fmt: skip
    try:
        box.boot(bench.now)
        box.ask_credential(bench.now)
        with pytest.raises(OSError, match="space"):
            box.hear(*hub.credential("t", "issued", credential_id="cred_1"), bench.now)
    finally:
        box.power_off()


def test_a_box_that_cannot_keep_another_one_says_so(bench, hub, tmp_path) -> None:
    box = Box(hub.device_id, hub.key, Journal(tmp_path / "other"), account="a", now_ms=bench.now, token=lambda: "t")
    try:
        box.boot(bench.now)
        bench.do(box.hear(*hub.command("cmd_1", "rotate_credential"), bench.now))
    finally:
        box.power_off()

    assert bench.reports()[-1] == ("cmd_1", "failed", "unsupported")
