import json

import pytest

from soundbox_protocol.signing import sign
from soundbox_protocol.times import to_rfc3339

NOW = 1_779_530_400_000  # 2026-05-23T10:00:00Z


def test_a_payment_is_journaled_acked_spoken_and_acked_again(bench, hub) -> None:
    bench.hear(hub.payment(1, amount=50_000))

    assert bench.acks() == [("ann_1", "received")]
    assert bench.said[0].sentence == "Pembayaran diterima, lima puluh ribu rupiah"
    assert bench.said[0].clips[-1] == "id/rupiah"

    bench.now += 2_500
    bench.finish()

    assert bench.acks() == [("ann_1", "received"), ("ann_1", "played")]
    assert bench.payloads("payment_ack")[-1]["played_at"] == "2026-05-23T10:00:02.500Z"


def test_an_english_box_speaks_english(make_bench, hub) -> None:
    bench = make_bench(language="en")
    bench.hear(hub.payment(1, amount=50_000))

    assert bench.said[0].sentence == "Payment received, fifty thousand rupiah"


def test_a_replay_is_spoken_as_one(bench, hub) -> None:
    bench.hear(hub.payment(1, amount=50_000, original_event_id="ann_0"))

    assert bench.said[0].sentence == "Ulangan: pembayaran diterima, lima puluh ribu rupiah"


def test_a_repeat_is_silent_and_acked_with_the_time_of_the_first(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.hear(hub.payment(1))
    bench.finish()
    bench.now += 5_000
    bench.hear(hub.payment(1))

    assert bench.spoken_ids == ["ann_1"]
    assert [status for _, status in bench.acks()] == ["received", "duplicate", "played", "duplicate"]
    before, after = (ack for ack in bench.payloads("payment_ack") if ack["status"] == "duplicate")
    assert "played_at" not in before
    assert after["played_at"] == "2026-05-23T10:00:00.000Z"


def test_a_repeat_after_a_reboot_is_still_a_repeat(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.finish()
    bench.reboot()
    bench.hear(hub.payment(1))

    assert bench.spoken_ids == ["ann_1"]
    assert bench.acks()[-1] == ("ann_1", "duplicate")
    assert bench.payloads("payment_ack")[-1]["played_at"] == "2026-05-23T10:00:00.000Z"


def test_what_a_power_cut_silenced_stays_silent_and_is_reported(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.hear(hub.payment(2))
    bench.reboot()
    bench.go_online()
    bench.hear(hub.payment(1))

    assert bench.spoken_ids == ["ann_1"]  # Handed to the speaker before the cut, and never since.
    failed = [ack for ack in bench.payloads("payment_ack") if ack["status"] == "failed"]
    assert {(ack["event_id"], ack["reason"]) for ack in failed} == {("ann_1", "interrupted"), ("ann_2", "interrupted")}
    assert bench.acks()[-1] == ("ann_1", "failed")


def test_a_forged_payment_is_reported_and_never_spoken(bench, hub) -> None:
    bench.hear(hub.payment(1, key=bytes(32)))

    assert (bench.said, bench.acks()) == ([], [])
    assert bench.payloads("event")[0]["code"] == "bad_signature"


def test_a_payment_signed_for_another_box_is_forged(bench, hub) -> None:
    topic, _ = hub.payment(1)
    other = topic.replace("dev_01k0", "dev_01k1")
    body = json.dumps({"message_type": "payment_success"}, separators=(",", ":")).encode()
    bench.hear((topic, sign(hub.key, other, body)))

    assert bench.payloads("event")[0]["code"] == "bad_signature"


def test_a_flood_of_forgeries_does_not_become_a_flood_of_events(bench, hub) -> None:
    for _ in range(100):
        bench.hear(hub.payment(1, key=bytes(32)))
    bench.now += 60_000
    bench.hear(hub.payment(1, key=bytes(32)))

    assert len(bench.payloads("event")) == 2
    assert len(bench.heard_of("bad_signature")) == 101


def test_a_signed_message_that_is_none_is_reported(bench, hub) -> None:
    topic, _ = hub.payment(1)
    bench.hear((topic, sign(hub.key, topic, b'{"message_type":"payment_success","seq":"one"}')))

    assert bench.payloads("event")[0]["code"] == "malformed_message"
    assert bench.said == []


def test_topics_that_are_not_ours_or_not_known_yet_are_ignored(bench, hub) -> None:
    topic, payload = hub.payment(1)
    later = topic.replace("payment/success", "gossip/of-later")
    bench.hear((topic.replace("dev_01k0", "dev_01k1"), payload))
    bench.hear((later, sign(hub.key, later, b'{"config_version":1}')))
    bench.hear(("elsewhere", payload))

    assert (bench.said, bench.sent) == ([], [])


@pytest.mark.parametrize(("late_ms", "status"), [(90_000, "received"), (90_001, "stale_skipped")])
def test_late_is_later_than_the_expiry_and_the_skew_of_the_clocks(bench, hub, late_ms: int, status: str) -> None:
    bench.go_online()
    _set_clock(bench, hub, at=NOW)
    bench.now += late_ms
    bench.hear(hub.payment(1, life_s=60))

    assert bench.acks() == [("ann_1", status)]
    assert len(bench.said) == (status == "received")


def test_a_payment_that_grows_old_while_it_waits_its_turn_is_skipped(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.hear(hub.payment(2))
    bench.now += 91_000
    bench.finish()

    assert bench.spoken_ids == ["ann_1"]
    assert bench.acks()[-1] == ("ann_2", "stale_skipped")


def test_a_payment_from_below_the_floor_is_refused(bench, hub) -> None:
    bench.hear(hub.payment(40))
    bench.wait(2_000)
    bench.hear(hub.payment(8))
    bench.hear(hub.payment(9))
    bench.finish()

    assert bench.acks()[1] == ("ann_8", "rejected")
    assert bench.payloads("payment_ack")[1]["reason"] == "seq_below_floor"
    assert bench.spoken_ids == ["ann_40", "ann_9"]


def test_the_floor_survives_a_power_cut(bench, hub) -> None:
    bench.hear(hub.payment(40))
    bench.reboot()
    bench.hear(hub.payment(8))

    assert bench.acks()[-1] == ("ann_8", "rejected")


def test_money_that_is_not_rupiah_is_not_spoken_as_rupiah(bench, hub) -> None:
    bench.hear(hub.payment(1, currency="USD"))

    assert bench.said == []
    assert bench.payloads("payment_ack")[0]["reason"] == "currency_not_spoken"


def test_one_sentence_at_a_time(bench, hub) -> None:
    for seq in (1, 2, 3):
        bench.hear(hub.payment(seq))

    assert bench.spoken_ids == ["ann_1"]

    bench.finish()
    bench.finish()

    assert bench.spoken_ids == ["ann_1", "ann_2", "ann_3"]


def test_an_early_message_waits_for_the_one_before_it(bench, hub) -> None:
    bench.hear(hub.payment(2))
    bench.wait(1_999)

    assert bench.said == []
    assert bench.box.due_ms() == NOW + 2_000

    bench.hear(hub.payment(1))
    bench.finish()

    assert bench.spoken_ids == ["ann_1", "ann_2"]


def test_an_early_message_does_not_wait_for_ever(bench, hub) -> None:
    bench.hear(hub.payment(3))
    bench.wait(1_000)
    bench.hear(hub.payment(2))
    bench.wait(1_000)
    bench.finish()
    bench.hear(hub.payment(1))
    bench.finish()
    bench.finish()

    assert bench.spoken_ids == ["ann_2", "ann_3", "ann_1"]


def test_nobody_waits_for_a_message_that_came_too_late(bench, hub) -> None:
    bench.go_online()
    _set_clock(bench, hub, at=NOW)
    bench.hear(hub.payment(1, at=NOW - 300_000))
    bench.hear(hub.payment(2))

    assert bench.acks()[0] == ("ann_1", "stale_skipped")
    assert bench.spoken_ids == ["ann_2"]


def test_a_full_box_takes_every_payment_of_a_burst_once_the_hub_repeats_them(bench, hub) -> None:
    unheard = {f"ann_{seq}": hub.payment(seq, life_s=600) for seq in range(1, 101)}
    for _ in range(60):
        for message in unheard.values():
            bench.hear(message)
        while json.loads(bench.box.heartbeat(bench.now).payload)["state"] == "playing":
            bench.finish()
        bench.wait(5_000)
        for event_id, _ in bench.acks():
            unheard.pop(event_id, None)

    assert sorted(bench.spoken_ids) == sorted(f"ann_{seq}" for seq in range(1, 101))
    assert {status for _, status in bench.acks()} == {"received", "played"}


def test_a_full_box_says_nothing_so_that_the_hub_repeats(bench, hub) -> None:
    for seq in range(1, 12):
        bench.hear(hub.payment(seq))

    assert len(bench.acks()) == 9  # One is being spoken, eight wait.
    assert [facts["seq"] for facts in bench.heard_of("turned_away")] == [10, 11]


def test_a_box_without_a_clock_asks_before_it_believes_anything(make_bench, hub) -> None:
    bench = make_bench(has_clock=False)
    bench.now = 4_000  # Since it was plugged in.
    bench.go_online()
    bench.hear(hub.payment(1))
    bench.hear(hub.payment(1))

    assert bench.said == []
    assert bench.acks() == []
    assert bench.payloads("time_request")[0]["timestamp"] == "1970-01-01T00:00:04.000Z"

    _set_clock(bench, hub, at=NOW + 1_000)

    assert bench.spoken_ids == ["ann_1"]
    assert bench.payloads("payment_ack")[0]["timestamp"] == "2026-05-23T10:00:01.000Z"


def test_what_was_held_without_a_clock_may_turn_out_to_be_old(make_bench, hub) -> None:
    bench = make_bench(has_clock=False)
    bench.now = 0
    bench.go_online()
    bench.hear(hub.payment(1))
    _set_clock(bench, hub, at=NOW + 600_000)

    assert bench.said == []
    assert bench.acks() == [("ann_1", "stale_skipped")]


def test_a_box_without_a_clock_asks_again_until_it_is_told(make_bench, hub) -> None:
    bench = make_bench(has_clock=False)
    bench.now = 0
    bench.go_online()
    first = bench.payloads("time_request")[0]["nonce"]
    bench.wait(5_000)
    bench.hear(hub.time(first))
    bench.hear(hub.payment(1))

    assert len(bench.payloads("time_request")) == 2
    assert bench.said == []  # The answer to the first question came after the second was asked.

    _set_clock(bench, hub, at=NOW)

    assert bench.spoken_ids == ["ann_1"]


@pytest.mark.parametrize("wrong_ms", [-3_600_000, 3_600_000])
def test_a_clock_that_disagrees_with_a_signed_message_is_checked_first(bench, hub, wrong_ms: int) -> None:
    bench.now = NOW + wrong_ms
    bench.reboot()
    bench.go_online()
    bench.hear(hub.payment(1))

    assert (bench.said, bench.acks()) == ([], [])

    _set_clock(bench, hub, at=NOW)

    assert bench.spoken_ids == ["ann_1"]
    assert json.loads(bench.box.heartbeat(bench.now).payload)["clock_skew_ms"] == wrong_ms


def test_the_time_is_asked_for_every_hour_when_an_answer_is_lost_and_after_every_reconnect(bench, hub) -> None:
    bench.go_online()
    asked = [len(bench.payloads("time_request"))]
    for ms in (59_000, 1_000):  # nobody answered
        bench.wait(ms)
        asked.append(len(bench.payloads("time_request")))
    _set_clock(bench, hub, at=bench.now)
    for ms in (3_599_000, 1_000, 0):
        bench.wait(ms)
        asked.append(len(bench.payloads("time_request")))
    bench.go_online()

    assert asked == [1, 1, 2, 2, 3, 3]
    assert len(bench.payloads("time_request")) == 4


def test_a_clock_that_is_right_is_finer_than_the_hubs_whole_seconds(bench, hub) -> None:
    bench.now = NOW + 640
    bench.go_online()
    _set_clock(bench, hub, at=NOW)
    bench.hear(hub.payment(1))

    assert bench.payloads("payment_ack")[0]["timestamp"] == "2026-05-23T10:00:00.640Z"


def test_acks_are_repeated_in_each_session_until_the_broker_has_them(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.finish()
    received, played = (message for message in bench.sent if message.ack)
    bench.box.ack_taken(received.ack)
    bench.reboot()
    bench.sent.clear()
    bench.go_online()

    assert [message.payload for message in bench.sent if message.ack] == [played.payload]


def test_only_the_newest_32_unsent_acks_are_kept(bench, hub) -> None:
    for seq in range(1, 31):
        bench.hear(hub.payment(seq))
        bench.finish()
    bench.reboot()
    bench.sent.clear()
    bench.go_online()

    assert len(bench.acks()) == 32
    assert bench.acks()[0] == ("ann_15", "received")
    assert bench.acks()[-1] == ("ann_30", "played")


def test_every_session_has_a_higher_number_than_all_before_it(bench) -> None:
    wills = [json.loads(bench.box.connect(NOW).payload) for _ in range(2)]
    bench.reboot()
    bench.go_online()

    assert [will["session_epoch"] for will in wills] == [1, 2]
    assert {will["state"] for will in wills} == {"offline"}
    birth = bench.payloads("status")[0]
    assert (birth["state"], birth["session_epoch"]) == ("online", 3)
    assert bench.sent[0].retain
    assert json.loads(bench.box.farewell(NOW).payload)["session_epoch"] == 3


def test_the_birth_names_the_newest_announcement(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.go_online()

    assert bench.payloads("status")[0]["last_announcement_seq"] == 1


def test_a_qr_is_asked_for_and_shown_until_it_expires(bench, hub) -> None:
    bench.do(bench.box.ask_qr(15_000, bench.now))
    request = bench.payloads("dynamic_qr_request")[0]
    bench.hear(hub.qr(request["request_id"], life_s=300))

    assert (request["amount"], request["terminal_id"], request["currency"]) == (15_000, "term_1", "IDR")
    assert (bench.box.screen.shows, bench.box.screen.amount_idr) == ("qr", 15_000)
    assert bench.box.due_ms() == NOW + 300_000

    bench.wait(300_000)

    assert bench.box.screen.shows == "idle"
    assert bench.heard_of("qr_expired") == [{"transaction_id": "txn_7"}]


def test_only_the_answer_to_the_last_question_is_shown(bench, hub) -> None:
    bench.do(bench.box.ask_qr(15_000, bench.now))
    bench.do(bench.box.ask_qr(20_000, bench.now))
    first, second = (request["request_id"] for request in bench.payloads("dynamic_qr_request"))
    bench.hear(hub.qr(first))

    assert bench.box.screen.shows == "idle"

    bench.hear(hub.qr(second))

    assert bench.box.screen.amount_idr == 20_000


def test_a_qr_that_has_expired_already_is_not_shown(bench, hub) -> None:
    bench.go_online()
    _set_clock(bench, hub, at=NOW)
    bench.do(bench.box.ask_qr(15_000, bench.now))
    bench.hear(hub.qr(bench.payloads("dynamic_qr_request")[0]["request_id"], life_s=0))

    assert bench.box.screen.shows == "idle"


def test_a_refused_qr_is_told(bench, hub) -> None:
    bench.do(bench.box.ask_qr(15_000, bench.now))
    nothing = {"transaction_id": None, "qr_payload": None, "expires_at": None}
    request_id = bench.payloads("dynamic_qr_request")[0]["request_id"]
    bench.hear(hub.qr(request_id, status="failed", error_code="INVALID_AMOUNT", **nothing))

    assert bench.heard_of("qr_failed")[0]["error_code"] == "INVALID_AMOUNT"


def test_a_question_about_a_qr_is_given_up_after_30_s(bench) -> None:
    bench.do(bench.box.ask_qr(15_000, bench.now))
    bench.wait(29_999)

    assert bench.heard_of("qr_failed") == []

    bench.wait(1)

    assert bench.heard_of("qr_failed")[0]["error_code"] == "NO_ANSWER"


def test_a_box_that_belongs_to_no_terminal_cannot_ask(make_bench) -> None:
    with pytest.raises(ValueError, match="no terminal"):
        make_bench(terminal_id=None).box.ask_qr(15_000, NOW)


def test_the_hub_may_show_clear_and_mark_a_qr(bench, hub) -> None:
    until = to_rfc3339(NOW + 60_000)
    bench.hear(hub.display("txn_7", "show", qr_payload="0002", amount=9_000, expires_at=until))
    shown = bench.box.screen
    bench.hear(hub.display("txn_8", "clear"))
    unmoved = bench.box.screen
    bench.hear(hub.display("txn_7", "paid"))
    paid = bench.box.screen
    bench.wait(10_000)

    assert (shown.shows, shown.amount_idr) == ("qr", 9_000)
    assert unmoved == shown
    assert (paid.shows, paid.amount_idr) == ("paid", 9_000)
    assert bench.box.screen.shows == "idle"


def test_the_hub_may_take_a_qr_off_the_display(bench, hub) -> None:
    until = to_rfc3339(NOW + 60_000)
    for action in ("clear", "expired"):
        bench.hear(hub.display("txn_7", "show", qr_payload="0002", amount=9_000, expires_at=until))
        bench.hear(hub.display("txn_7", action))
        assert bench.box.screen.shows == "idle"

    assert [told.what for told in bench.told[-3:]] == ["qr_cleared", "qr_shown", "qr_expired"]


def test_a_qr_that_would_never_expire_is_not_shown(bench, hub) -> None:
    bench.hear(hub.display("txn_7", "show", qr_payload="0002", amount=9_000))

    assert bench.box.screen.shows == "idle"


def test_the_payment_itself_clears_its_qr(bench, hub) -> None:
    until = to_rfc3339(NOW + 60_000)
    bench.hear(hub.display("txn_1", "show", qr_payload="0002", amount=1_000, expires_at=until))
    bench.hear(hub.payment(1))

    assert bench.box.screen.shows == "paid"


def test_a_qr_does_not_survive_a_power_cut(bench, hub) -> None:
    until = to_rfc3339(NOW + 60_000)
    bench.hear(hub.display("txn_1", "show", qr_payload="0002", amount=1_000, expires_at=until))
    bench.reboot()

    assert bench.box.screen.shows == "idle"


def test_the_days_total_survives_a_power_cut_and_ends_at_midnight_in_jakarta(bench, hub) -> None:
    bench.hear(hub.payment(1, amount=50_000))
    bench.hear(hub.payment(2, amount=7_000, original_event_id="ann_1"))
    bench.hear(hub.payment(1, amount=50_000))
    bench.reboot()
    bench.hear(hub.payment(3, amount=25_000))

    day = bench.box.day_total()
    assert (day.day, day.count, day.total_idr) == ("2026-05-23", 2, 75_000)

    bench.now = NOW + 7 * 3_600_000  # 17:00 UTC: midnight in Jakarta.
    bench.hear(hub.payment(4, amount=1_000, at=bench.now))

    day = bench.box.day_total()
    assert (day.day, day.count, day.total_idr) == ("2026-05-24", 1, 1_000)


def test_a_new_activation_counts_from_one_and_still_knows_what_was_said(bench, hub) -> None:
    bench.hear(hub.payment(90))
    bench.wait(2_000)
    bench.finish()
    bench.account = "second"
    bench.reboot()
    bench.hear(hub.payment(1))
    bench.finish()
    bench.hear(hub.payment(2, event_id="ann_90"))

    assert bench.spoken_ids == ["ann_90", "ann_1"]


def test_a_lost_network_is_said_once(bench) -> None:
    bench.go_online()
    for _ in range(3):
        bench.do(bench.box.lost(bench.now, reason="gone"))
    bench.finish()
    bench.go_online()
    bench.do(bench.box.lost(bench.now, reason="gone"))

    assert [speech.sentence for speech in bench.said] == ["Jaringan terputus"] * 2


def test_a_broken_speaker_is_reported_and_the_payment_is_not_said_twice(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.do(bench.box.not_spoken("ann_1", bench.now, problem="no sound"))
    bench.hear(hub.payment(1))

    assert bench.acks() == [("ann_1", "received"), ("ann_1", "failed"), ("ann_1", "failed")]
    assert bench.payloads("event")[0]["code"] == "audio_fault"
    assert json.loads(bench.box.heartbeat(bench.now).payload)["state"] == "fault"

    bench.hear(hub.payment(2))
    bench.finish()

    assert json.loads(bench.box.heartbeat(bench.now).payload)["state"] == "idle"


def test_a_sentence_that_nobody_is_saying_cannot_end(bench, hub) -> None:
    with pytest.raises(ValueError, match="not speaking"):
        bench.box.spoken("ann_1", NOW)


def test_a_heartbeat_says_how_the_box_is(bench, hub) -> None:
    bench.hear(hub.payment(1))
    bench.hear(hub.payment(2))
    bench.now += 61_000
    heartbeat = bench.box.heartbeat(bench.now)

    said = json.loads(heartbeat.payload)
    assert (heartbeat.qos, heartbeat.retain) == (0, False)
    assert (said["state"], said["queue_depth"], said["uptime_s"]) == ("playing", 1, 61)


def _set_clock(bench, hub, *, at: int) -> None:
    bench.hear(hub.time(bench.payloads("time_request")[-1]["nonce"], at=at))
