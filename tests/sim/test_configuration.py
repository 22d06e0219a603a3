"""What the hub wants a box to be like, in the box."""

import json
from typing import Any

import pytest

from soundbox_protocol.configuration import sha256_of

NOW = 1_779_530_400_000  # 2026-05-23T10:00:00Z, 17:00 in Jakarta
HOUR_MS = 3_600_000


def answers(bench: Any) -> list[tuple[int, str, list[str] | None]]:
    return [(ack["config_version"], ack["status"], ack.get("errors")) for ack in bench.payloads("config_ack")]


def test_a_configuration_is_in_force_at_once_and_acked_with_its_hash(bench, hub) -> None:
    bench.hear(hub.config(4, volume=35, language="en", template="merchant", heartbeat_s=60))
    bench.hear(hub.payment(1))

    speech = bench.said[0]
    assert (speech.sentence, speech.volume) == ("Warung Sari, payment received, one thousand rupiah", 35)
    assert (bench.box.heartbeat_s, bench.box.volume(bench.now)) == (60, 35)
    (ack,) = bench.payloads("config_ack")
    raw = b'{"volume":35,"language":"en","template":"merchant","heartbeat_s":60}'
    assert (ack["config_version"], ack["status"], ack["sha256"]) == (4, "applied", sha256_of(raw))


def test_what_it_does_not_name_is_as_it_left_the_factory(bench, hub) -> None:
    bench.hear(hub.config(1, volume=35, language="en"))
    bench.hear(hub.config(2, heartbeat_s=60))

    assert (bench.box.volume(bench.now), bench.box.language) == (80, "id")


def test_it_survives_a_power_cut_and_is_told_at_birth_and_in_heartbeats(bench, hub) -> None:
    bench.hear(hub.config(4, volume=35))
    bench.reboot()
    bench.go_online()
    bench.do([bench.box.heartbeat(bench.now)])

    assert bench.box.volume(bench.now) == 35
    digest = sha256_of(b'{"volume":35}')
    birth = next(one for one in bench.payloads("status") if one["state"] == "online")
    assert (birth["config_version"], birth["config_sha256"]) == (4, digest)
    assert bench.payloads("heartbeat")[-1]["config_sha256"] == digest


def test_an_older_one_never_comes_back_and_the_same_is_acked_again(bench, hub) -> None:
    bench.hear(hub.config(4, volume=35))
    bench.hear(hub.config(3, volume=90))
    bench.hear(hub.config(4, volume=35))
    bench.hear(hub.config(4, volume=36))

    assert bench.box.volume(bench.now) == 35
    assert [(version, status) for version, status, _ in answers(bench)] == [
        (4, "applied"), (3, "rejected"), (4, "applied"), (4, "rejected"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"template": "shouting"}, "template"), ({"volume": 300}, "volume"), ({"heartbeat_s": 1}, "heartbeat_s")],
)
def test_one_wrong_setting_refuses_all_of_them_by_name(bench, hub, wrong, named) -> None:
    bench.hear(hub.config(1, language="en", **wrong))

    ((version, status, errors),) = answers(bench)
    assert (version, status, bench.box.language) == (1, "rejected", "id")
    assert errors is not None
    assert errors[0].startswith(f"{named}: ")


def test_settings_of_later_are_hashed_and_ignored(bench, hub) -> None:
    raw = b'{ "volume" : 35, "lamp":"red" }'
    bench.hear(hub.config(1, raw))

    assert bench.box.volume(bench.now) == 35
    assert bench.payloads("config_ack")[0]["sha256"] == sha256_of(raw)


def test_a_forged_configuration_changes_nothing(bench, hub) -> None:
    topic, payload = hub.config(1, volume=35)
    bench.hear((topic, payload.replace(b":35", b":99")))

    assert (bench.box.volume(bench.now), answers(bench)) == (80, [])
    assert bench.payloads("event")[0]["code"] == "bad_signature"


@pytest.mark.parametrize(
    ("hour", "volume"), [(17, 80), (21, 80), (22, 20), (23, 20), (24 + 5, 20), (24 + 6, 80), (24 + 12, 80)]
)
def test_quiet_hours_pass_midnight_by_the_shops_own_time(make_bench, hub, hour, volume) -> None:
    bench = make_bench(utc_offset_minutes=0)
    quiet = {"start": "22:00", "end": "06:00", "volume": 20}
    bench.hear(hub.config(1, quiet_hours=quiet, utc_offset_min=420))
    bench.now = NOW + (hour - 17) * HOUR_MS

    assert bench.box.volume(bench.now) == volume


def test_quiet_hours_that_end_when_they_begin_are_all_day(bench, hub) -> None:
    bench.hear(hub.config(1, quiet_hours={"start": "22:00", "end": "22:00", "volume": 20}))
    volumes = []
    for _ in range(24):
        volumes.append(bench.box.volume(bench.now))
        bench.now += HOUR_MS

    assert set(volumes) == {20}


def test_quiet_hours_make_nothing_louder(bench, hub) -> None:
    bench.hear(hub.config(1, volume=15, quiet_hours={"start": "16:00", "end": "18:00", "volume": 20}))

    assert bench.box.volume(bench.now) == 15


def test_a_box_without_a_clock_does_not_guess_quiet_hours_and_applies_the_rest(make_bench, hub) -> None:
    bench = make_bench(has_clock=False)
    bench.hear(hub.config(1, volume=60, quiet_hours={"start": "00:00", "end": "23:59", "volume": 20}))
    before = bench.box.volume(bench.now)
    bench.go_online()
    bench.hear(hub.time(bench.payloads("time_request")[-1]["nonce"]))

    assert (before, bench.box.volume(bench.now)) == (60, 20)


def test_a_new_activation_is_configured_anew(bench, hub) -> None:
    bench.hear(hub.config(9, volume=35))
    bench.account = "second"
    bench.reboot()
    bench.hear(hub.config(1, volume=50))

    assert bench.box.volume(bench.now) == 50


def test_an_unsent_ack_goes_out_again_at_the_next_birth(bench, hub) -> None:
    bench.hear(hub.config(4, volume=35))
    bench.sent.clear()
    bench.go_online()

    assert [message.topic.rpartition("uplink/")[2] for message in bench.sent if message.ack] == ["config/ack"]
    assert json.loads(bench.sent[-1].payload)["status"] == "applied"
