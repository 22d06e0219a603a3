"""The judge of a fleet's run has to find what is wrong: each rule is broken here once."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from soundbox_sim.box import Speak, Tell
from soundbox_sim.swarm.outside import Attempt, CalledBack
from soundbox_sim.swarm.plan import Happening
from soundbox_sim.swarm.tally import Tally, percentiles

LIFE_S = 60.0


def fresh(boxes: int = 2) -> Tally:
    tally = Tally(boxes=boxes, life_s=LIFE_S)
    for number in range(boxes):
        tally.told(number, Tell("clock_set"))
    return tally


def pay(tally: Tally, name: str, *, box: int = 0, amount: int = 5_000, ago_s: float = 0.0, **other: Any) -> None:
    status, outcome = other.get("status", 200), other.get("outcome", "applied")
    attempt = Attempt(time.monotonic() - ago_s, other.get("took_ms", 10.0), status)
    payment = Happening(0, "payment", box, amount_idr=amount, twist=other.get("twist", ""))
    tally.called_back(payment, CalledBack((attempt,), name, outcome))


def say(tally: Tally, name: str, *, box: int = 0, amount: int = 5_000, event: str | None = None) -> None:
    event_id = event or f"ann_{name}"
    tally.told(box, Tell("announced", {"event_id": event_id, "transaction_id": name, "amount": amount, "seq": 1}))
    tally.speaks(box, Speak(event_id, 1, "lima ribu rupiah", (), "id"))


def broken(tally: Tally) -> list[str]:
    return [check.name for check in tally.checks() if not check.holds]


def test_a_payment_that_is_heard_once_breaks_no_rule() -> None:
    tally = fresh()

    say(tally, "txn_1")  # a box may speak before the acquirer has its answer
    pay(tally, "txn_1")

    assert broken(tally) == []
    assert tally.unheard() == {}
    assert len(tally.heard_ms()) == 1


def test_one_that_is_said_twice_is_found() -> None:
    tally = fresh()
    pay(tally, "txn_1")

    say(tally, "txn_1")
    say(tally, "txn_1", event="ann_other")

    assert broken(tally) == ["no payment is said twice"]


@pytest.mark.parametrize(
    "what",
    [
        lambda tally: say(tally, "txn_nobody_paid"),
        lambda tally: (pay(tally, "txn_1"), say(tally, "txn_1", amount=6_000)),
        lambda tally: (pay(tally, "txn_1", twist="failed", outcome="ignored"), say(tally, "txn_1")),
    ],
    ids=["unpaid", "another amount", "of a failed payment"],
)
def test_what_was_not_paid_like_that_and_is_said_is_found(what: Callable[[Tally], object]) -> None:
    tally = fresh()

    what(tally)

    assert broken(tally) == ["nothing unpaid is said, and nothing at the wrong box or of another amount"]


def test_one_said_at_another_box_is_wrong_there_and_missing_here() -> None:
    tally = fresh()
    tally.away(0, switched_off=False)
    tally._sessions[0] = [(time.monotonic() - 100, time.monotonic())]
    pay(tally, "txn_1", ago_s=70)

    say(tally, "txn_1", box=1)

    assert "nothing unpaid is said, and nothing at the wrong box or of another amount" in broken(tally)
    assert tally.unheard() == {"txn_1": None}


def test_one_that_a_box_in_session_did_not_say_has_no_excuse() -> None:
    tally = fresh()
    tally._since[0] = time.monotonic() - 100

    pay(tally, "txn_1", ago_s=70)

    assert broken(tally) == ["what was not heard has an honest reason"]
    assert tally.waits_for() == 0


def test_a_box_that_was_away_all_the_while_has_one() -> None:
    tally = fresh()
    tally.away(0, switched_off=True)

    pay(tally, "txn_1", ago_s=70)

    assert tally.unheard() == {"txn_1": "away"}
    assert "what was not heard has an honest reason" not in broken(tally)


def test_a_sentence_cut_by_a_power_cut_is_an_honest_reason_and_too_late_is_none() -> None:
    tally = fresh()
    tally._since[0] = time.monotonic() - 100
    for name, end in (("txn_1", "interrupted"), ("txn_2", "stale_skipped")):
        pay(tally, name, ago_s=70)
        facts = {"event_id": f"ann_{name}", "transaction_id": name, "amount": 5_000, "seq": 1}
        tally.told(0, Tell("announced", facts))
        tally.told(0, Tell(end, {"event_id": f"ann_{name}", "seq": 1}))

    assert tally.unheard() == {"txn_1": "interrupted", "txn_2": None}


def test_callbacks_without_an_answer_and_payments_not_taken_are_found() -> None:
    tally = fresh()

    pay(tally, "txn_1", status=503, outcome=None)
    pay(tally, "txn_2", outcome="orphan")

    assert broken(tally) == ["every callback is answered", "every genuine payment is taken"]


def test_commands_carried_out_twice_or_lost_are_found() -> None:
    tally = fresh()
    for name in ("cmd_1", "cmd_2"):
        tally.commanded(Happening(0, "command", 0, name="identify"), name)
        tally.commands[name].at -= 100
    tally._since[0] = time.monotonic() - 100
    for _ in range(2):
        tally.told(0, Tell("command", {"command_id": "cmd_1"}))
    tally.told(0, Tell("command_ended", {"command_id": "cmd_1", "status": "succeeded"}))
    lost = tally.settle_commands()

    assert [name for name, _ in lost] == ["cmd_2"]
    assert broken(tally) == ["no command is carried out twice", "every command is accounted for"]
    tally.commands["cmd_2"].hub_says = "cancelled"
    assert broken(tally) == ["no command is carried out twice"]


def test_a_storm_ends_with_the_last_box_and_one_whose_plug_is_pulled_is_not_waited_for() -> None:
    tally = fresh(boxes=3)
    tally.storm_begins()
    for number in range(3):
        tally.away(number, switched_off=False)

    tally.told(0, Tell("clock_set"))
    tally.away(1, switched_off=True)
    assert tally.storms[0].took_s is None
    tally.told(2, Tell("clock_set"))

    assert tally.storms[0].took_s is not None
    assert broken(tally) == ["every box is back at the end"]
    tally.storms[0].ended_at = tally.storms[0].at + 121
    assert "every storm ends within 120 s" in broken(tally)


def test_a_callback_that_hangs_in_a_storm_is_found() -> None:
    tally = fresh()
    tally.storm_begins()
    pay(tally, "txn_1", took_ms=10_001)
    say(tally, "txn_1")
    for number in range(2):
        tally.told(number, Tell("clock_set"))

    assert broken(tally) == ["callbacks are answered throughout a storm"]


def test_percentiles_are_of_the_ranked_values_and_nothing_has_none() -> None:
    assert percentiles(range(101)) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert percentiles([]) is None
