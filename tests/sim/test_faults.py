from random import Random

import pytest

from soundbox_sim.faults import NAMES, Faults, copies_in_ms, read_faults


def test_switches_are_read_as_they_are_written() -> None:
    read = read_faults(["drop=0.1", "delay=500", "duplicate", "reboot=0.5", "clock-skew=-45000", "no-clock"])

    assert read == Faults(drop=0.1, delay=500, duplicate=1.0, reboot=0.5, clock_skew=-45_000, no_clock=True)
    assert read_faults(["refuse-ack"]).refuse_ack == 1.0
    assert read_faults(["rotation-cut=let-in"]).rotation_cut == "let-in"
    assert read_faults([]) == Faults()


@pytest.mark.parametrize(
    "switch",
    [
        "explode",
        "drop=2",
        "drop=-0.1",
        "drop=nan",
        "delay=-1",
        "delay=soon",
        "no-clock=maybe",
        "clock_skew=1",
        "rotation-cut",
        "rotation-cut=soon",
    ],
)
def test_a_switch_that_means_nothing_is_refused(switch: str) -> None:
    with pytest.raises(ValueError):
        read_faults([switch])


def test_a_healthy_network_delivers_once_and_at_once() -> None:
    assert copies_in_ms(Faults(), Random(1)) == [0.0]


def test_a_network_may_lose_repeat_and_delay() -> None:
    assert copies_in_ms(Faults(drop=1), Random(1)) == []
    copies = copies_in_ms(Faults(duplicate=1, delay=300), Random(1))

    assert len(copies) == 2
    assert all(0 <= delay_ms <= 300 for delay_ms in copies)


def test_chances_are_chances() -> None:
    random = Random(1)
    arrived = sum(len(copies_in_ms(Faults(drop=0.5), random)) for _ in range(1_000))

    assert 400 < arrived < 600
    assert len(NAMES) == 8
