"""Whether a machine's answer may be shown: its form, its letters, its numbers, its words. A pure function.

It errs on the side of refusing: a text that is refused wrongly costs nothing, since the built-in one stands beside it.
What it cannot tell is whether a number of the figures is used for the right thing.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from typing import Any

import orjson

from soundbox_server.advice.facts import USES, Facts, SalesFacts, numbers
from soundbox_server.advice.prompts import FIELDS, LANGUAGES

SHORTEST = 15
LONGEST_ANSWER = 8_192  # characters, of the whole
Texts = Mapping[str, Mapping[str, str]]  # by language, then by field

# Letters of both languages. No markup, no address and no look-alike of another script can be written with them.
_LETTERS = re.compile(r"[A-Za-z0-9 .,;:()%+!?'\"’“”–—-]+")
_LINK = re.compile(r"[A-Za-z0-9]\.[A-Za-z]|\b(?:https?|hxxps?|www|ftp)\b|\b(?:dot|titik) (?:com|id|net|org|co)\b", re.I)
_PLACEHOLDER = re.compile(r"\bP([1-9])\b")
_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")
_SIGNED = re.compile(r"(?:^|[^A-Za-z0-9)%])([+–-])$")
_PARTED = re.compile(r"\d [\d]")
_SPELLED = {
    "id": re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+(?:,\d+)?"),
    "en": re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"),
}
_SMALL_NUMBERS = {
    "dua": 2, "tiga": 3, "empat": 4, "lima": 5, "enam": 6, "tujuh": 7, "delapan": 8, "sembilan": 9, "sepuluh": 10,
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
}  # fmt: skip
_LARGE_NUMBERS = re.compile(
    r"\b(?:\w*belas|sepuluhan|(?!sepuluh\b)\w*puluh(?:an)?|seratus|ratus(?:an)?|seribu|ribu(?:an)?|sejuta|juta(?:an)?|mil[iy]ar|"
    r"triliun|lusin|setengah|separuh|seperempat|sepertiga|(?:dua|tiga|berkali)[ -]?kali|kali lipat|berlipat|"
    r"eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundreds?|thousands?|millions?|"
    r"billions?|trillions?|dozens?|half|halv\w+|quarters?|twice|doubl\w+|tripl\w+|thrice|\w+fold)\b",
    re.I,
)
_PROMISE = re.compile(
    r"\b(?:\w*setuju\w*|dijamin|menjamin|jaminan|terjamin|pasti|dipastikan|memastikan|lolos|dikabulkan|dicairkan|"
    r"janji\w*|berjanji|menjanjikan|berhak|layak|kelayakan|approv\w*|guarant\w*|assur\w*|certain(?:ly)?|promis\w*|"
    r"eligib\w*|entitl\w*|grant(?:s|ed)?|definitely|surely|qualif\w*|pre-?approved|instant (?:loan|cash))\b",
    re.I,
)
_COMMAND = re.compile(
    r"\b(?:abaikan|ignore|instruksi|instructions?|prompt|password|passcode|sandi|pin|otp|cvv|whatsapp|telegram|"
    r"hubungi|contact|telepon|klik|click|transfer\w*|kirim\w*|unduh|download|install|login|log in|javascript|script|"
    r"bayar\w* ke|pay to|send)\b",
    re.I,
)
_OTHERS = re.compile(
    r"\b(?:(?:toko|warung|merchant|pedagang|usaha|kedai|penjual)(?:-\w+)? (?:lain\w*|sebelah|tetangga|serupa)|"
    r"pesaing\w*|kompetitor|saingan\w*|tetangga|"
    r"(?:other|another|similar|nearby) (?:merchant|shop|store|business|seller|trader|vendor)\w*|"
    r"competit\w+|neighbou?r\w*|rivals?)\b",
    re.I,
)
_HIDDEN = ("approved", "guaranteed", "disetujui", "dijamin", "password", "javascript")
_CAPITAL = re.compile(r"(?<![A-Za-z])[A-Z][A-Za-z]*")
_BEGINS = re.compile(r"(?:^|[.!?:]\s+)[\"'“(]?$")
_KNOWN = {"QRIS", "Anda", "I", "Low", "Medium", "High", "Critical", "Soundbox"}
_OF_LANGUAGE = {
    "id": re.compile(
        r"\b(?:yang|dan|dari|dengan|untuk|pada|ini|itu|anda|tidak|lebih|dalam|agar|adalah|karena|sebab|oleh|hari|"
        r"minggu|bulan|skor|nilai|paling|turun|naik|di|ke|dapat|bisa|atau|juga|saat|penjualan|pendapatan|stok|"
        r"sudah|belum)\b",
        re.I,
    ),
    "en": re.compile(
        r"\b(?:the|and|of|with|for|is|are|your|not|more|from|that|this|to|in|on|was|were|because|than|at|it|by|can|"
        r"or|also|most|week|month|days|score|sales|revenue|stock|fell|rose|has|have|be)\b",
        re.I,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Either texts that may be shown, or why not."""

    texts: Texts | None = None
    reason: str | None = None


class _Refused(Exception):
    """Its text is the reason."""


def judge(answer: str, facts: Facts) -> Judged:
    """What the model said of these figures."""
    try:
        return Judged(texts=_fit(answer, facts))
    except _Refused as refused:
        return Judged(reason=str(refused))


def _fit(answer: str, facts: Facts) -> Texts:
    texts = _shaped(answer, FIELDS[USES[type(facts)]])
    known, products = numbers(facts), len(facts.products) if isinstance(facts, SalesFacts) else 0
    for language, fields in texts.items():
        for text in fields.values():
            _letters(text)
            _words(text)
            _capitals(text)
            _numbers(_without_placeholders(text, products), language, known)
        _language(" ".join(fields.values()), language)
    return texts


def _shaped(answer: str, fields: Mapping[str, int]) -> Texts:
    """Exactly the members that were asked for. Raises _Refused."""
    if len(answer) > LONGEST_ANSWER:
        raise _Refused("too_long")
    try:
        said = orjson.loads(answer)
    except orjson.JSONDecodeError:
        raise _Refused("not_json") from None
    if not _has(said, LANGUAGES) or not all(_has(said[language], fields) for language in LANGUAGES):
        raise _Refused("wrong_schema")
    for name, most in fields.items():
        for language in LANGUAGES:
            text = said[language][name]
            if not isinstance(text, str):
                raise _Refused("wrong_schema")
            if not SHORTEST <= len(text.strip()) <= len(text) <= most:
                raise _Refused("too_long" if len(text) > most else "too_short")
    return {language: dict(said[language]) for language in LANGUAGES}


def _has(part: Any, names: Collection[str]) -> bool:
    return isinstance(part, dict) and set(part) == set(names)


def _letters(text: str) -> None:
    if not _LETTERS.fullmatch(text):
        raise _Refused("forbidden_character")
    if _LINK.search(text):
        raise _Refused("link")


def _words(text: str) -> None:
    together = re.sub(r"[^a-z]", "", text.lower())
    if _PROMISE.search(text):
        raise _Refused("promise")
    if _COMMAND.search(text):
        raise _Refused("instruction")
    if _OTHERS.search(text):
        raise _Refused("other_shops")
    if any(word in together for word in _HIDDEN):
        raise _Refused("hidden_word")


def _capitals(text: str) -> None:
    """Inside a sentence a capital begins a name, and the model was told none."""
    for found in _CAPITAL.finditer(_PLACEHOLDER.sub("x", text)):
        before = _PLACEHOLDER.sub("x", text)[: found.start()]
        if found[0] not in _KNOWN and not _BEGINS.search(before):
            raise _Refused("unknown_name")


def _without_placeholders(text: str, products: int) -> str:
    if any(int(found[1]) > products for found in _PLACEHOLDER.finditer(text)):
        raise _Refused("unknown_product")
    return _PLACEHOLDER.sub("x", text)


def _numbers(text: str, language: str, known: Collection[float]) -> None:
    if _LARGE_NUMBERS.search(text):
        raise _Refused("number_in_words")
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _SMALL_NUMBERS and _SMALL_NUMBERS[word] not in known:
            raise _Refused("invented_number")
    if _PARTED.search(text):
        raise _Refused("invented_number")
    for found in _NUMBER.finditer(text):
        sign = _SIGNED.search(text[: found.start()])
        if not _is_known(_value(found[0], language), "" if sign is None else sign[1], known):
            raise _Refused("invented_number")


def _value(spelled: str, language: str) -> Decimal:
    """As the language writes numbers, or else as the other one does."""
    for one in (language, *(other for other in LANGUAGES if other != language)):
        if _SPELLED[one].fullmatch(spelled):
            thousands, comma = (".", ",") if one == "id" else (",", ".")
            return Decimal(spelled.replace(thousands, "").replace(comma, "."))
    raise _Refused("invented_number")


def _is_known(value: Decimal, sign: str, known: Collection[float]) -> bool:
    """Whether it is one of the figures, or one rounded. A fall may be told without its minus, not with a plus."""
    return any(value in _roundings(one) for one in known if not sign or (one > 0 if sign == "+" else one < 0))


def _roundings(figure: float) -> set[Decimal]:
    exact = abs(Decimal(str(figure)))
    places = (Decimal(1), Decimal("0.1"), Decimal("0.01"))
    return {exact} | {exact.quantize(place, way) for place in places for way in (ROUND_HALF_UP, ROUND_HALF_EVEN)}


def _language(text: str, language: str) -> None:
    counted = {one: len(own.findall(text)) for one, own in _OF_LANGUAGE.items()}
    other = next(one for one in LANGUAGES if one != language)
    if counted[language] < 2 or counted[language] <= 2 * counted[other]:
        raise _Refused("wrong_language")


def with_names(text: str, names: Collection[str]) -> str:
    """The products' names where the model had placeholders for them."""
    known = list(names)
    return _PLACEHOLDER.sub(lambda found: known[int(found[1]) - 1], text)
