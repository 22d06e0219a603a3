"""What a statement says, in both languages."""

from dataclasses import fields

import pytest

from soundbox_server.settlements.state import ItemKind, SettlementState
from soundbox_server.statements.texts import TEXTS, Texts, day_text, moment_text, rupiah, short_moment

MIDNIGHT = 1_779_555_600_000  # 2026-05-24 00:00 in Jakarta


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        (0, "Rp 0"), (350, "Rp 350"), (1_000, "Rp 1.000"), (1_234_567, "Rp 1.234.567"), (-350, "-Rp 350"),
        (-1_234_567_890, "-Rp 1.234.567.890"),
    ],
)  # fmt: skip
def test_rupiah_are_written_as_here(amount: int, written: str) -> None:
    assert rupiah(amount) == written


def test_times_are_the_wall_clocks_in_jakarta() -> None:
    assert moment_text(MIDNIGHT - 60_000, TEXTS["id"]) == "23 Mei 2026 23.59 WIB"
    assert moment_text(MIDNIGHT, TEXTS["en"]) == "24 May 2026 00.00 WIB"
    assert short_moment("2026-05-23T17:00:09.500Z") == "24/05/2026 00.00.09"
    assert day_text("2026-08-17", TEXTS["id"]) == "17 Agustus 2026"


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS.keys())
def test_each_language_has_words_for_every_state_and_kind(texts: Texts) -> None:
    assert texts.states.keys() == set(SettlementState) - {SettlementState.OPEN}
    assert texts.kinds.keys() == set(ItemKind)
    assert len(texts.months) == 12


def test_what_is_filled_in_is_the_same_in_both() -> None:
    for field in fields(Texts):
        one, other = (getattr(texts, field.name) for texts in TEXTS.values())
        if isinstance(one, str):
            for mark in ("{n}", "{at}", "{page}", "{pages}"):
                assert (mark in one) == (mark in other), field.name
