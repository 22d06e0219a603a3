"""What a box says when money arrives, in Indonesian and in English."""

from collections.abc import Mapping
from typing import Literal

from soundbox_protocol.speech.numbers import LARGEST, VOCABULARY_EN, VOCABULARY_ID, english, indonesian

Language = Literal["id", "en"]

_RECEIVED = {"id": ("pembayaran-diterima", "Pembayaran diterima"), "en": ("payment-received", "Payment received")}
_REPLAY = {"id": ("ulangan", "Ulangan"), "en": ("replay", "Replay")}
_CODE = {"id": ("kode", "Kode"), "en": ("code", "Code")}
_TEST = {"id": ("tes-suara", "Tes suara"), "en": ("sound-test", "Sound test")}
_HERE = {"id": ("saya-di-sini", "Saya di sini"), "en": ("here-i-am", "Here I am")}
_TODAY = {"id": ("total-hari-ini", "Total hari ini"), "en": ("total-today", "Total today")}
_PAYMENTS = {"id": ("pembayaran", "pembayaran"), "en": ("payments", "payments")}
_MISSED = {"id": ("pembayaran-terlewat", "pembayaran terlewat"), "en": ("missed-payments", "missed payments")}
_MISSED_ONE = {"id": _MISSED["id"], "en": ("missed-payment", "missed payment")}
_TOTAL = {"id": ("total", "total"), "en": ("total", "total")}
_VOCABULARY = {"id": VOCABULARY_ID, "en": VOCABULARY_EN}

CLIPS: Mapping[str, str] = {
    f"{language}/{clip}": words
    for language in ("id", "en")
    for clip, words in (
        *((word, word) for word in _VOCABULARY[language]),
        ("rupiah", "rupiah"),
        _RECEIVED[language],
        _REPLAY[language],
        _CODE[language],
        _TEST[language],
        _HERE[language],
        _TODAY[language],
        _PAYMENTS[language],
        _MISSED[language],
        _MISSED_ONE[language],
        _TOTAL[language],
    )
}
"""Everything a voice pack records: the clip's name and the words it holds."""


def amount_words(amount: int, language: Language) -> str:
    """`lima puluh ribu`, `fifty thousand`: 0 to 999,999,999,999, without the currency. ValueError outside."""
    return " ".join(_words(amount, language))


def amount_clips(amount: int, language: Language) -> list[str]:
    """The clips that say the amount, in order: `["id/lima", "id/puluh", "id/ribu"]`. ValueError outside the range."""
    return [f"{language}/{word}" for word in _words(amount, language)]


def payment_sentence(amount: int, language: Language, *, merchant_name: str | None = None, replay: bool = False) -> str:
    """`Pembayaran diterima, lima puluh ribu rupiah`. A name comes before it, the word for a replay before that."""
    received = _RECEIVED[language][1]
    opening = f"{merchant_name}, {_lowered(received)}" if merchant_name else received
    if replay:
        opening = f"{_REPLAY[language][1]}: {opening if merchant_name else _lowered(opening)}"
    return f"{opening}, {amount_words(amount, language)} rupiah"


def payment_clips(amount: int, language: Language, *, replay: bool = False) -> list[str]:
    """The same as clips. Nobody records every merchant's name, so a box that plays clips leaves it out."""
    opening = [f"{language}/{_REPLAY[language][0]}"] if replay else []
    return [*opening, f"{language}/{_RECEIVED[language][0]}", *amount_clips(amount, language), f"{language}/rupiah"]


def code_sentence(code: str, language: Language) -> str:
    """`Kode: satu dua tiga empat`: each digit by itself. ValueError when something else is in it."""
    return f"{_CODE[language][1]}: {' '.join(_digits(code, language))}"


def code_clips(code: str, language: Language) -> list[str]:
    """The same as clips: `["id/kode", "id/satu", …]`."""
    return [f"{language}/{clip}" for clip in (_CODE[language][0], *_digits(code, language))]


def sound_test_sentence(language: Language) -> str:
    """`Tes suara: satu dua tiga`: something to hear whether the speaker works."""
    return f"{_TEST[language][1]}: {' '.join(_digits('123', language))}"


def sound_test_clips(language: Language) -> list[str]:
    """The same as clips."""
    return [f"{language}/{clip}" for clip in (_TEST[language][0], *_digits("123", language))]


def here_sentence(language: Language) -> str:
    """`Saya di sini`: the box that somebody is looking for."""
    return _HERE[language][1]


def here_clips(language: Language) -> list[str]:
    """The same as a clip."""
    return [f"{language}/{_HERE[language][0]}"]


def total_sentence(count: int, amount: int, language: Language) -> str:
    """`Total hari ini: tiga pembayaran, seratus lima puluh ribu rupiah`."""
    payments = f"{amount_words(count, language)} {_PAYMENTS[language][1]}"
    return f"{_TODAY[language][1]}: {payments}, {amount_words(amount, language)} rupiah"


def total_clips(count: int, amount: int, language: Language) -> list[str]:
    """The same as clips."""
    payments = [*amount_clips(count, language), f"{language}/{_PAYMENTS[language][0]}"]
    return [f"{language}/{_TODAY[language][0]}", *payments, *amount_clips(amount, language), f"{language}/rupiah"]


def digest_sentence(count: int, amount: int, language: Language) -> str:
    """`Tiga pembayaran terlewat, total seratus lima puluh ribu rupiah`."""
    missed = f"{amount_words(count, language)} {_missed(count, language)[1]}"
    return f"{missed[0].upper()}{missed[1:]}, {_TOTAL[language][1]} {amount_words(amount, language)} rupiah"


def digest_clips(count: int, amount: int, language: Language) -> list[str]:
    """The same as clips."""
    missed = [*amount_clips(count, language), f"{language}/{_missed(count, language)[0]}"]
    return [*missed, f"{language}/{_TOTAL[language][0]}", *amount_clips(amount, language), f"{language}/rupiah"]


def _missed(count: int, language: Language) -> tuple[str, str]:
    return (_MISSED_ONE if count == 1 else _MISSED)[language]


def _digits(code: str, language: Language) -> list[str]:
    if not (code.isascii() and code.isdigit()):
        raise ValueError("only the digits 0 to 9 can be spoken one by one")
    return [_words(int(digit), language)[0] for digit in code]


def _words(amount: int, language: Language) -> list[str]:
    if not 0 <= amount <= LARGEST:
        raise ValueError(f"only 0 to {LARGEST} can be spoken")
    return list(indonesian(amount) if language == "id" else english(amount))


def _lowered(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]
