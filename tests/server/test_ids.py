"""Ids sort by birth, and tell when that was."""

import time

import time_machine

from soundbox_server.clock import now_ms
from soundbox_server.ids import lowest_id, new_id


def test_ids_of_one_millisecond_sort_by_birth() -> None:
    with time_machine.travel(time.time(), tick=False):
        ids = [new_id("x") for _ in range(2_000)]

    assert ids == sorted(set(ids))


def test_a_clock_that_steps_back_a_little_leaves_the_order_as_it_is() -> None:
    before = new_id("x")
    with time_machine.travel(time.time() - 30, tick=False):
        after = new_id("x")

    assert before < after


def test_after_a_clock_was_far_ahead_rows_are_found_by_their_time_again() -> None:
    with time_machine.travel(time.time() + 86_400, tick=False):
        new_id("x")

    began_at_ms = now_ms()
    made = new_id("x")

    assert lowest_id("x", began_at_ms) <= made < lowest_id("x", now_ms() + 1)
