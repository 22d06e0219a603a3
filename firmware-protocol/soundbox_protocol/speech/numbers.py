"""Whole numbers in words, 0 to 999,999,999,999. Words are separated by one space and nothing else."""

from collections.abc import Iterator

LARGEST = 999_999_999_999

_DIGITS_ID = ("nol", "satu", "dua", "tiga", "empat", "lima", "enam", "tujuh", "delapan", "sembilan")
_SCALES_ID = ((10**9, "miliar"), (10**6, "juta"), (10**3, "ribu"))

_SMALL_EN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS_EN = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES_EN = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"))

VOCABULARY_ID = (
    *_DIGITS_ID,
    "sepuluh",
    "sebelas",
    "belas",
    "puluh",
    "seratus",
    "ratus",
    "seribu",
    "ribu",
    "juta",
    "miliar",
)
VOCABULARY_EN = (*_SMALL_EN, *_TENS_EN[2:], "hundred", "thousand", "million", "billion")


def indonesian(number: int) -> Iterator[str]:
    """`dua puluh satu`. One hundred and one thousand contract (`seratus`, `seribu`), one million does not."""
    if number == 0:
        yield "nol"
    for size, scale in _SCALES_ID:
        count, number = divmod(number, size)
        if count == 1 and scale == "ribu":
            yield "seribu"
        elif count:
            yield from _below_thousand_id(count)
            yield scale
    yield from _below_thousand_id(number)


def _below_thousand_id(number: int) -> Iterator[str]:
    hundreds, rest = divmod(number, 100)
    if hundreds == 1:
        yield "seratus"
    elif hundreds:
        yield from (_DIGITS_ID[hundreds], "ratus")
    if rest == 10:
        yield "sepuluh"
    elif rest == 11:
        yield "sebelas"
    elif 11 < rest < 20:
        yield from (_DIGITS_ID[rest - 10], "belas")
    else:
        tens, ones = divmod(rest, 10)
        if tens:
            yield from (_DIGITS_ID[tens], "puluh")
        if ones:
            yield _DIGITS_ID[ones]


def english(number: int) -> Iterator[str]:
    """`twenty one`, `one hundred five`: no hyphen and no "and", so that every word is a clip of its own."""
    if number == 0:
        yield "zero"
    for size, scale in _SCALES_EN:
        count, number = divmod(number, size)
        if count:
            yield from _below_thousand_en(count)
            yield scale
    yield from _below_thousand_en(number)


def _below_thousand_en(number: int) -> Iterator[str]:
    hundreds, rest = divmod(number, 100)
    if hundreds:
        yield from (_SMALL_EN[hundreds], "hundred")
    if rest >= 20:
        tens, rest = divmod(rest, 10)
        yield _TENS_EN[tens]
    if rest:
        yield _SMALL_EN[rest]
