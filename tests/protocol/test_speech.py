"""num2words is the second opinion; where it differs from how amounts are said in a shop, the reason stands here."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from num2words import num2words

from soundbox_protocol.speech import (
    CLIPS,
    Language,
    amount_clips,
    amount_words,
    code_clips,
    code_sentence,
    digest_clips,
    here_clips,
    payment_clips,
    payment_sentence,
    sound_test_clips,
    total_clips,
)

LARGEST = 999_999_999_999
# Evenly drawn numbers are nearly all twelve digits long and full of digits; shop amounts are short and full of zeros.
amounts = (
    st.integers(0, LARGEST)
    | st.integers(0, 12).flatmap(lambda digits: st.integers(0, 10**digits - 1))
    | st.builds(lambda head, zeros: head * 10**zeros, st.integers(0, 999), st.integers(0, 9))
    | st.lists(st.sampled_from([0, 1, 10, 11, 100, 101, 110, 111, 999]), min_size=4, max_size=4).map(
        lambda groups: sum(group * 1000**place for place, group in enumerate(groups))
    )
)
languages: st.SearchStrategy[Language] = st.sampled_from(["id", "en"])


def second_opinion_id(amount: int) -> str:
    words = num2words(amount, lang="id")
    # It says `seribu` alone but `satu juta satu ribu`; tills say `satu juta seribu`, as with `seratus`.
    return re.sub(r"(?<=juta |liar )satu ribu", "seribu", words)


def second_opinion_en(amount: int) -> str:
    # Its commas, hyphens and "and" are for reading; every word of ours is a clip of its own.
    return num2words(amount, lang="en").replace(",", "").replace(" and ", " ").replace("-", " ")


@settings(max_examples=1000)
@given(amounts)
@example(LARGEST)
def test_indonesian_agrees_with_the_second_opinion(amount: int) -> None:
    assert amount_words(amount, "id") == second_opinion_id(amount)


@settings(max_examples=1000)
@given(amounts)
@example(LARGEST)
def test_english_agrees_with_the_second_opinion(amount: int) -> None:
    assert amount_words(amount, "en") == second_opinion_en(amount)


@given(amounts, languages)
def test_the_clips_of_an_amount_are_its_words(amount: int, language: Language) -> None:
    assert " ".join(CLIPS[clip] for clip in amount_clips(amount, language)) == amount_words(amount, language)


@given(amounts, languages, st.booleans())
def test_the_clips_of_a_payment_say_its_sentence(amount: int, language: Language, replay: bool) -> None:
    played = " ".join(CLIPS[clip] for clip in payment_clips(amount, language, replay=replay))
    sentence = payment_sentence(amount, language, replay=replay)

    assert played.lower() == re.sub("[,:]", "", sentence).lower()


@given(amounts, amounts, languages)
def test_two_amounts_never_sound_the_same(one: int, other: int, language: Language) -> None:
    assert (amount_words(one, language) == amount_words(other, language)) is (one == other)


@given(st.text("0123456789", min_size=1), languages)
def test_the_clips_of_a_code_say_its_sentence_one_clip_a_digit(code: str, language: Language) -> None:
    clips = code_clips(code, language)

    assert " ".join(CLIPS[clip] for clip in clips).lower() == code_sentence(code, language).replace(":", "").lower()
    assert len(clips) == len(code) + 1


@pytest.mark.parametrize("code", ["", "12a4", "-123", "١٢٣٤", "1 23"])
def test_what_is_no_row_of_digits_is_no_code(code: str) -> None:
    for say in (code_sentence, code_clips):
        with pytest.raises(ValueError, match="digits"):
            say(code, "id")


def test_every_clip_of_the_voice_pack_is_used() -> None:
    spoken = {
        clip
        for language in ("id", "en")
        for amount in (*range(2001), 10**6, 10**9)
        for clip in (*payment_clips(amount, language, replay=True), *code_clips("0", language))
    }
    for language in ("id", "en"):
        spoken |= {*sound_test_clips(language), *here_clips(language), *total_clips(1, 1, language)}
        spoken |= {*digest_clips(1, 1, language), *digest_clips(2, 1, language)}

    assert spoken == CLIPS.keys()


def test_clip_names_are_safe_file_names() -> None:
    assert all(re.fullmatch(r"(id|en)/[a-z-]{2,24}", clip) for clip in CLIPS)


@pytest.mark.parametrize("amount", [-1, LARGEST + 1])
def test_what_cannot_be_said_is_refused(amount: int) -> None:
    for say in (amount_words, amount_clips, payment_sentence, payment_clips):
        with pytest.raises(ValueError, match="can be spoken"):
            say(amount, "id")
