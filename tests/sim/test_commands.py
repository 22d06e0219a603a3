"""What an operator wants done, in the box."""

import pytest

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
