"""What an operator wants done, in the box."""

import json

import pytest

from soundbox_protocol.configuration import sha256_of
from soundbox_protocol.times import to_rfc3339
from soundbox_sim.box import Listen, Restart
from soundbox_sim.journal import COMMANDS, Journal

NOW = 1_779_530_400_000


def test_a_code_is_spoken_digit_by_digit_and_each_step_is_acked(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", code="1234"))

    assert bench.reports() == [("cmd_1", "delivered", None)]
    assert bench.said[0].sentence == "Kode: satu dua tiga empat"
    assert bench.said[0].clips == ("id/kode", "id/satu", "id/dua", "id/tiga", "id/empat")

    bench.finish()

    assert bench.reports() == [("cmd_1", "delivered", None), ("cmd_1", "succeeded", None)]
    assert bench.heard_of("code_spoken")[0]["sentence"] == "Kode: satu dua tiga empat"


def test_an_english_box_speaks_the_code_in_english(make_bench, hub) -> None:
    bench = make_bench(language="en")
    bench.hear(hub.command("cmd_1", code="0070"))

    assert bench.said[0].sentence == "Code: zero zero seven zero"


def test_a_repeat_is_silent_and_gets_the_last_answer_again(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", code="1234"))
    bench.hear(hub.command("cmd_1", code="1234"))
    bench.finish()
    bench.reboot()
    bench.hear(hub.command("cmd_1", code="1234"))

    assert len(bench.said) == 1
    assert [status for _, status, _ in bench.reports()] == ["delivered", "delivered", "succeeded", "succeeded"]


def test_what_a_power_cut_interrupted_is_not_done_again_and_is_reported(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", code="1234"))
    bench.reboot()
    bench.go_online()
    bench.hear(hub.command("cmd_1", code="1234"))

    assert len(bench.said) == 1
    assert bench.reports()[-1] == ("cmd_1", "failed", "interrupted")


@pytest.mark.parametrize(
    ("name", "payload", "reason"),
    [
        ("dance", {}, "unsupported"),
        ("speak_code", {"code": "12"}, "malformed_payload"),
        ("speak_code", {}, "malformed_payload"),
    ],
)
def test_what_cannot_be_done_is_rejected_once_and_for_all(bench, hub, name, payload, reason) -> None:
    bench.hear(hub.command("cmd_1", name, **payload))
    bench.hear(hub.command("cmd_1", name, **payload))

    assert bench.reports() == [("cmd_1", "rejected", reason)] * 2
    assert bench.said == []


@pytest.mark.parametrize(("late_ms", "spoken"), [(330_000, 1), (330_001, 0)])
def test_a_command_that_comes_too_late_is_rejected(bench, hub, late_ms, spoken) -> None:
    bench.go_online()
    nonce = bench.payloads("time_request")[-1]["nonce"]
    bench.now += late_ms
    bench.hear(hub.time(nonce, at=bench.now))
    bench.hear(hub.command("cmd_1", code="1234", at=NOW))

    assert len(bench.said) == spoken
    assert bench.reports() == [("cmd_1", "delivered", None) if spoken else ("cmd_1", "rejected", "expired")]


def test_a_forged_command_is_reported_and_not_done(bench, hub) -> None:
    topic, payload = hub.command("cmd_1", code="1234")
    bench.hear((topic, payload.replace(b"1234", b"9999")))

    assert (bench.said, bench.reports()) == ([], [])
    assert bench.payloads("event")[0]["code"] == "bad_signature"


def test_a_speaker_that_does_not_work_fails_the_command(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", code="1234"))
    bench.do(bench.box.not_spoken("cmd_1", bench.now, problem="no speaker"))

    assert bench.reports()[-1] == ("cmd_1", "failed", "audio_fault")


def test_a_code_waits_for_the_sentence_under_way_and_goes_before_the_payments_that_wait(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.hear(hub.payment(2))
    bench.hear(hub.command("cmd_1", code="1234"))
    for _ in range(3):
        bench.finish()

    assert bench.spoken_ids == ["ann_1", "cmd_1", "ann_2"]


def test_unsent_reports_go_out_again_at_the_next_birth(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", code="1234"))
    bench.finish()
    bench.sent.clear()
    bench.go_online()

    assert [status for _, status, _ in bench.reports()] == ["delivered", "succeeded"]
    assert {message.topic.rpartition("uplink/")[2] for message in bench.sent if message.ack} == {"command/ack"}


def test_a_box_remembers_the_last_commands_and_forgets_older_ones(bench, hub) -> None:
    for number in range(COMMANDS + 1):
        bench.hear(hub.command(f"cmd_{number}", "dance"))
    bench.box.power_off()
    journal = Journal(bench.folder)  # as a snapshot, which opening it wrote, tells it
    journal.close()

    assert list(journal.memory.orders) == [f"cmd_{number}" for number in range(1, COMMANDS + 1)]


def test_a_flood_of_codes_does_not_fill_the_box(bench, hub) -> None:
    for number in range(12):
        bench.hear(hub.command(f"cmd_{number}", code="1234"))

    assert [status for _, status, _ in bench.reports()].count("delivered") == 9  # one is being said, eight wait
    assert bench.reports()[-1] == ("cmd_11", "rejected", "busy")


def test_a_volume_is_set_and_stays_until_a_configuration_names_another(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", "set_volume", volume=30))
    bench.reboot()
    by_command = bench.box.volume(bench.now)
    bench.hear(hub.config(1, language="en"))
    untouched = bench.box.volume(bench.now)
    bench.hear(hub.config(2, volume=55))

    assert (by_command, untouched, bench.box.volume(bench.now)) == (30, 30, 55)
    assert bench.reports() == [("cmd_1", "delivered", None), ("cmd_1", "succeeded", None)]


def test_a_volume_that_was_overtaken_on_its_way_is_not_set(bench, hub) -> None:
    bench.hear(hub.command("cmd_2", "set_volume", at=NOW + 2_000, volume=70))
    bench.hear(hub.command("cmd_1", "set_volume", at=NOW, volume=30))

    assert bench.box.volume(bench.now) == 70
    assert bench.reports()[-1] == ("cmd_1", "rejected", "superseded")


@pytest.mark.parametrize(
    ("name", "payload", "sentence"),
    [
        ("play_test", {}, "Tes suara: satu dua tiga"),
        ("identify", {}, "Saya di sini"),
        ("daily_total", {"count": 3, "amount": 150_000},
         "Total hari ini: tiga pembayaran, seratus lima puluh ribu rupiah"),
    ],
)  # fmt: skip
def test_what_it_is_asked_to_say_is_said_at_its_volume_and_done_when_it_was_heard(
    bench, hub, name, payload, sentence
) -> None:
    bench.hear(hub.config(1, volume=40))
    bench.hear(hub.command("cmd_1", name, **payload))
    before = bench.reports()
    bench.finish()

    assert (bench.said[0].sentence, bench.said[0].volume) == (sentence, 40)
    assert [status for _, status, _ in before] == ["delivered"]
    assert bench.reports()[-1] == ("cmd_1", "succeeded", None)


@pytest.mark.parametrize("name", ["reboot", "factory_reset"])
def test_a_restart_is_done_once_the_box_is_back(bench, hub, name) -> None:
    bench.hear(hub.config(1, volume=40))
    bench.hear(hub.payment(1))
    bench.finish()
    bench.hear(hub.command("cmd_1", name))
    before = bench.reports()
    assert bench.wished == [Restart()]

    bench.reboot()
    bench.go_online()
    bench.hear(hub.command("cmd_1", name))

    assert before == [("cmd_1", "delivered", None)]
    assert bench.reports()[-1] == ("cmd_1", "succeeded", None)
    assert bench.wished == [Restart()]
    assert bench.box.volume(bench.now) == (40 if name == "reboot" else 80)
    bench.hear(hub.payment(1))
    assert bench.spoken_ids == ["ann_1"]  # whatever is forgotten, what was spoken is not


def test_the_last_lines_of_the_log_come_back_without_the_code_that_was_spoken(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", code="4711"))
    bench.finish()
    for seq in range(1, 30):
        bench.hear(hub.payment(seq))
        bench.finish()
    bench.hear(hub.command("cmd_2", "upload_log", lines=5))
    bench.hear(hub.command("cmd_3", "upload_log", lines=40))

    few, many = (ack for ack in bench.payloads("command_ack") if ack.get("result_payload"))
    assert len(few["result_payload"]["lines"]) == 5
    assert len(many["result_payload"]["lines"]) > 20
    assert "played event_id=ann_29" in " ".join(many["result_payload"]["lines"])
    assert "empat" not in json.dumps(many)
    assert len(json.dumps(many).encode()) <= 4_096


def test_a_box_that_is_to_refresh_listens_again_and_says_what_is_in_force(bench, hub) -> None:
    bench.hear(hub.config(3, volume=40))
    bench.hear(hub.command("cmd_1", "refresh_config"))

    assert bench.wished == [Listen()]
    assert bench.payloads("command_ack")[-1]["result_payload"] == {
        "config_version": 3, "config_sha256": sha256_of(b'{"volume":40}'),
    }  # fmt: skip


def test_a_qr_is_shown_and_taken_away_by_command_and_acked_as_one(bench, hub) -> None:
    until = to_rfc3339(NOW + 300_000)
    bench.hear(hub.display(None, "show", command_id="cmd_1", qr_payload="0002", amount=5_000, expires_at=until))
    shown = bench.box.screen
    bench.hear(hub.display(None, "clear", command_id="cmd_2", expires_at=until))
    bench.hear(hub.display(None, "show", command_id="cmd_1", qr_payload="0002", amount=5_000, expires_at=until))

    assert (shown.shows, shown.qr_payload, shown.amount_idr) == ("qr", "0002", 5_000)
    assert bench.box.screen.shows == "idle"  # the repeat is not shown again
    assert bench.reports() == [
        ("cmd_1", "succeeded", None), ("cmd_2", "succeeded", None), ("cmd_1", "succeeded", None)
    ]  # fmt: skip


@pytest.mark.parametrize("action", ["show", "clear"])
def test_a_display_that_comes_too_late_is_rejected(bench, hub, action) -> None:
    bench.go_online()
    bench.hear(hub.time(bench.payloads("time_request")[-1]["nonce"]))
    bench.hear(hub.qr_shown("txn_1"))
    late = {"qr_payload": "0002"} if action == "show" else {}
    bench.hear(hub.display(None, action, command_id="cmd_1", expires_at=to_rfc3339(NOW - 31_000), **late))

    assert bench.box.screen.transaction_id == "txn_1"
    assert bench.reports() == [("cmd_1", "rejected", "expired")]


def test_whoever_listens_hears_the_lines_of_the_log_from_a_level_on_and_for_a_while(bench, hub) -> None:
    bench.go_online()
    bench.hear(hub.command("cmd_1", "tail_log", level="info", for_s=10))
    bench.hear(hub.payment(1))
    bench.finish()
    live = bench.payloads("log")
    bench.wait(10_001)
    bench.hear(hub.payment(2))
    bench.finish()

    assert "played" in {line["code"] for line in live}
    assert {line["level"] for line in live} == {"info"}
    assert bench.payloads("log") == live


def test_a_listener_to_warnings_hears_no_more_than_these_and_no_more_than_the_line_takes(bench, hub) -> None:
    bench.go_online()
    bench.hear(hub.command("cmd_1", "tail_log", level="warning", for_s=60))
    bench.hear(hub.payment(1))
    bench.finish()
    quiet = bench.payloads("log")
    for _ in range(30):
        bench.hear((hub.payment(2)[0], b"{}"))

    assert quiet == []
    assert {line["level"] for line in bench.payloads("log")} == {"warning"}
    assert len(bench.payloads("log")) == 20


def test_a_code_is_in_no_live_line(bench, hub) -> None:
    bench.go_online()
    bench.hear(hub.command("cmd_1", "tail_log"))
    bench.hear(hub.command("cmd_2", code="4711"))
    bench.finish()

    assert "code_spoken" in [line["code"] for line in bench.payloads("log")]
    assert "empat" not in json.dumps(bench.payloads("log"))


def test_the_whole_log_leaves_by_another_way_and_its_end_is_acked(bench, hub) -> None:
    bench.hear(hub.command("cmd_1", "upload_log", whole=True))
    (wanted,) = bench.wished
    bench.do(bench.box.log_sent("cmd_1", "a" * 64, 123, None, bench.now))

    assert wanted.command_id == "cmd_1"
    assert b" booted" in wanted.content
    assert bench.payloads("command_ack")[-1]["status"] == "succeeded"
    assert bench.payloads("command_ack")[-1]["result_payload"] == {"bytes": 123, "sha256": "a" * 64}
