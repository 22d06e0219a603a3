"""Gaps, digests, buttons and the time: what a box does about announcements that did not come as they should."""

import pytest

from soundbox_protocol.messages import Time
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import Downlink

NOW = 1_779_530_400_000  # 2026-05-23T10:00:00Z, five in the afternoon where the shop is


def gaps(bench) -> list[tuple[int, int]]:
    return [(asked["from_seq"], asked["to_seq"]) for asked in bench.payloads("payment_missing")]


@pytest.fixture
def online(bench):
    bench.go_online()
    return bench


# --- gaps -----------------------------------------------------------------------------------------------------------


def test_a_gap_is_asked_for_once_and_filled_in_order(online, hub) -> None:
    online.hear(hub.payment(3))
    online.hear(hub.payment(4))

    assert gaps(online) == [(1, 2)]
    assert online.said == []

    online.hear(hub.payment(2))
    online.hear(hub.payment(1))
    for _ in range(4):
        online.finish()

    assert online.spoken_ids == ["ann_1", "ann_2", "ann_3", "ann_4"]
    assert gaps(online) == [(1, 2)]


def test_what_is_skipped_is_not_waited_for(online, hub) -> None:
    online.hear(hub.payment(3))
    online.hear(hub.skip(1, 1))

    assert online.said == []

    online.hear(hub.skip(2, 2))

    assert online.spoken_ids == ["ann_3"]


def test_a_forged_skip_lets_nobody_overtake(online, hub) -> None:
    online.hear(hub.payment(2))
    online.hear(hub.skip(1, 1, key=bytes(32)))

    assert online.said == []
    assert online.payloads("event")[-1]["code"] == "bad_signature"


def test_without_an_answer_the_gap_is_waited_for_two_seconds(online, hub) -> None:
    online.hear(hub.payment(2))
    online.wait(1_999)
    assert online.said == []

    online.wait(1)

    assert online.spoken_ids == ["ann_2"]


def test_eight_that_wait_do_not_wait_longer(online, hub) -> None:
    for seq in range(2, 10):
        online.hear(hub.payment(seq))

    assert online.spoken_ids == ["ann_2"]


def test_what_is_skipped_and_comes_all_the_same_is_spoken(online, hub) -> None:
    online.hear(hub.payment(2))
    online.hear(hub.skip(1, 1))
    online.hear(hub.payment(1))
    online.finish()

    assert online.spoken_ids == ["ann_2", "ann_1"]


def test_a_skip_of_everything_there_ever_was_costs_no_more_than_the_window(online, hub) -> None:
    online.hear(hub.skip(1, 2**31 - 1))
    online.hear(hub.payment(1))

    assert online.spoken_ids == ["ann_1"]


def test_a_box_that_begins_far_behind_asks_for_no_more_than_its_journal_holds(online, hub) -> None:
    online.hear(hub.payment(5_000))
    online.hear(hub.skip(4_969, 4_999))

    assert gaps(online) == [(4_969, 4_999)]
    assert online.spoken_ids == ["ann_5000"]


def test_a_later_gap_is_asked_for_by_itself(online, hub) -> None:
    online.hear(hub.payment(2))
    online.hear(hub.payment(4))

    assert gaps(online) == [(1, 1), (3, 3)]


def test_offline_nothing_is_asked(bench, hub) -> None:
    bench.hear(hub.payment(2))

    assert gaps(bench) == []


# --- digests --------------------------------------------------------------------------------------------------------


def test_a_digest_is_journaled_acked_spoken_and_acked_again(online, hub) -> None:
    online.hear(hub.digest(1))
    online.finish()

    assert online.said[0].sentence == "Tiga pembayaran terlewat, total seratus lima puluh ribu rupiah"
    assert online.said[0].clips[:3] == ("id/tiga", "id/pembayaran-terlewat", "id/total")
    assert online.acks() == [("ann_1", "received"), ("ann_1", "played")]


def test_an_english_box_says_it_in_english(make_bench, hub) -> None:
    bench = make_bench(language="en")
    bench.hear(hub.digest(1, count=1, amount=12_500))

    assert bench.said[0].sentence == "One missed payment, total twelve thousand five hundred rupiah"


def test_a_digest_is_said_once_whatever_comes_again(online, hub) -> None:
    online.hear(hub.digest(1))
    online.finish()
    online.reboot()
    online.hear(hub.digest(1))

    assert online.spoken_ids == ["ann_1"]
    assert online.acks()[-1] == ("ann_1", "duplicate")


def test_a_digest_takes_its_turn_among_the_payments(online, hub) -> None:
    online.hear(hub.payment(3))
    online.hear(hub.digest(2))
    online.hear(hub.payment(1))
    for _ in range(3):
        online.finish()

    assert online.spoken_ids == ["ann_1", "ann_2", "ann_3"]


def test_a_digest_that_comes_too_late_is_not_said(online, hub) -> None:
    _set_clock(online, hub, at=NOW)
    online.now += 90_001
    online.hear(hub.digest(1))

    assert (online.said, online.acks()) == ([], [("ann_1", "stale_skipped")])


def test_what_was_missed_today_is_in_the_days_total(online, hub) -> None:
    online.hear(hub.payment(1, amount=50_000))
    online.hear(hub.digest(2, count=3, amount=150_000))
    online.reboot()

    total = online.box.day_total()
    assert (total.day, total.count, total.total_idr) == ("2026-05-23", 4, 200_000)


def test_what_was_missed_over_several_days_is_in_no_days_total(online, hub) -> None:
    online.hear(hub.payment(1, amount=50_000))
    online.hear(hub.digest(2, since=NOW - 86_400_000))

    assert (online.box.day_total().count, online.box.day_total().total_idr) == (1, 50_000)


# --- buttons --------------------------------------------------------------------------------------------------------


def test_the_replay_button_asks_the_hub(online) -> None:
    online.do(online.box.press_replay(online.now))

    (asked,) = online.payloads("event")
    assert (asked["code"], asked["level"]) == ("button_replay", "info")
    assert online.said == []


def test_the_replay_button_does_nothing_offline(bench) -> None:
    bench.do(bench.box.press_replay(bench.now))

    assert bench.sent == []
    assert bench.heard_of("button_useless") == [{"button": "replay"}]


def test_the_total_button_says_what_the_box_has_kept_also_offline(bench, hub) -> None:
    bench.hear(hub.payment(1, amount=50_000))
    bench.finish()
    bench.reboot()
    bench.do(bench.box.press_total(bench.now))
    bench.finish()

    assert bench.said[-1].sentence == "Total hari ini: satu pembayaran, lima puluh ribu rupiah"
    assert bench.payloads("event") == []


def test_the_total_button_is_noted_by_the_hub(online, hub) -> None:
    online.hear(hub.payment(1, amount=50_000))
    online.do(online.box.press_total(online.now))

    (noted,) = online.payloads("event")
    assert (noted["code"], noted["detail"]) == ("button_total", "1 50000")
    assert online.spoken_ids == ["ann_1"]  # one at a time: the total comes after it


def test_yesterdays_total_is_not_todays(online, hub) -> None:
    online.hear(hub.payment(1, amount=50_000))
    online.finish()
    online.now += 86_400_000
    online.do(online.box.press_total(online.now))

    assert online.said[-1].sentence == "Total hari ini: nol pembayaran, nol rupiah"


def test_somebody_who_leans_on_the_total_button_is_not_answered_for_an_hour(online) -> None:
    for _ in range(50):
        online.do(online.box.press_total(online.now))
    answers = 0
    while len(online.said) > answers:
        answers += 1
        online.finish()

    assert answers == 9  # one under way and eight that wait


# --- the time -------------------------------------------------------------------------------------------------------


def _set_clock(bench, hub, *, at: int) -> None:
    nonce = bench.payloads("time_request")[-1]["nonce"]
    bench.hear(hub.down(Downlink.TIME, Time(server_time=to_rfc3339(at), nonce=nonce)))


def test_a_box_without_a_clock_says_so_and_asks_before_it_says_anything(make_bench, hub) -> None:
    bench = make_bench(has_clock=False)
    bench.now = 12_000  # since its power came
    bench.go_online()
    bench.hear(hub.payment(1, at=NOW - 300_000))
    bench.hear(hub.payment(2))
    bench.hear(hub.digest(3))

    assert bench.payloads("status")[-1]["capabilities"]["clock"] is False
    assert len(bench.payloads("time_request")) == 1
    assert (bench.said, bench.acks()) == ([], [])

    _set_clock(bench, hub, at=NOW)
    bench.finish()
    bench.finish()

    assert bench.spoken_ids == ["ann_2", "ann_3"]
    assert ("ann_1", "stale_skipped") in bench.acks()


def test_a_box_with_a_clock_does_not_mention_it(online) -> None:
    assert "clock" not in online.payloads("status")[-1]["capabilities"]


@pytest.mark.parametrize("what", ["forged", "an older one", "the same one again"])
def test_an_answer_that_does_not_fit_the_question_sets_no_clock(make_bench, hub, what: str) -> None:
    bench = make_bench(has_clock=False)
    bench.now = 12_000
    bench.go_online()
    nonce = bench.payloads("time_request")[-1]["nonce"]
    late = Time(server_time=to_rfc3339(NOW - 3_600_000), nonce=nonce)
    if what == "the same one again":
        bench.hear(hub.time(nonce))
        bench.hear(hub.down(Downlink.TIME, late))
        assert bench.box.utc_ms(bench.now) == NOW
        return
    key = bytes(32) if what == "forged" else None
    said = late if what == "forged" else Time(server_time=late.server_time, nonce="an-older-one")

    bench.hear(hub.down(Downlink.TIME, said, key=key))
    bench.hear(hub.payment(1, at=NOW - 3_600_000))

    assert bench.box.utc_ms(bench.now) == 12_000
    assert (bench.said, bench.acks()) == ([], [])
