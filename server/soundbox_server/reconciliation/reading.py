"""A provider's statement, read line by line: whatever its columns are called, and every mistake named by its line."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Literal
from zoneinfo import ZoneInfo

from soundbox_server.devices.bulk import FileRefused, LineError, mistake
from soundbox_server.reconciliation.state import LineKind

LARGEST_FILE = 16 * 1024 * 1024
MOST_LINES = 50_000
MOST_MISTAKES = 100
MOST_AMOUNT_IDR = 999_999_999_999
JAKARTA = ZoneInfo("Asia/Jakarta")

Delimiter = Literal[",", ";", "|", "\t"]
TimeForm = Literal["rfc3339", "%Y-%m-%d %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%d-%m-%Y %H:%M:%S", "%Y%m%d%H%M%S"]

_REFERENCE = re.compile(r"[!-~]{1,128}")
# Whole rupiah, whatever a spreadsheet made of them: with thousands marked or not, and cents that are none.
_AMOUNTS = {
    ".": re.compile(r"(?:Rp\.? ?)?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,15})(?:\.0{1,2})?"),
    ",": re.compile(r"(?:Rp\.? ?)?([0-9]{1,3}(?:\.[0-9]{3})+|[0-9]{1,15})(?:,0{1,2})?"),
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns say what, by the names in the file's head; at least one of the two references is there.

    `kind` names the column that tells payments from refunds by the words in `payments` and `refunds`; lines with a word
    in `ignored` say nothing to us. Without it every line is a payment.
    """

    amount: str
    reference: str | None = None
    provider_reference: str | None = None
    rrn: str | None = None
    fee: str | None = None
    at: str | None = None
    kind: str | None = None
    payments: Sequence[str] = ()
    refunds: Sequence[str] = ()
    ignored: Sequence[str] = ()
    delimiter: Delimiter = ","
    decimal_mark: Literal[".", ","] = "."
    time_form: TimeForm = "rfc3339"
    lines_before_head: int = 0

    @property
    def all(self) -> list[str]:
        named = (self.amount, self.reference, self.provider_reference, self.rrn, self.fee, self.at, self.kind)
        return [name for name in named if name is not None]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one line says. Times in milliseconds since 1970 UTC; one without a zone is Jakarta's."""

    line: int
    kind: LineKind
    reference: str | None
    provider_reference: str | None
    rrn: str | None
    amount: int
    fee: int | None
    at_ms: int | None


def check(file: BinaryIO, columns: Columns) -> int:
    """How many lines the file has for us. Raises FileRefused with its first mistakes, in the order of the lines."""
    found: list[LineError] = []
    count = 0
    for one in read(file, columns):
        if isinstance(one, Line):
            count += 1
        else:
            found.append(one)
        if len(found) >= MOST_MISTAKES:
            break
    if not found and count == 0:
        found.append(mistake(1, None, "NO_ROWS", "The file lists no payments."))
    if found:
        raise FileRefused(found)
    return count


def read(file: BinaryIO, columns: Columns) -> Iterator[Line | LineError]:
    """Line by line from the file's beginning: nothing of it is held longer than that."""
    file.seek(0)
    records = _records(file, columns)
    head = next(records, None)
    if head is None or isinstance(head, LineError):
        yield head or mistake(1, None, "NO_HEAD", "The file is empty.")
        return
    number, names = head
    if missing := _lacking(number, names, columns.all):
        yield from missing
        return
    places = {name: names.index(name) for name in columns.all}
    for count, record in enumerate(records, 1):
        if isinstance(record, LineError):
            yield record
            return
        number, cells = record
        if count > MOST_LINES:
            yield mistake(number, None, "TOO_MANY_ROWS", f"At most {MOST_LINES} lines a file.")
            return
        if len(cells) != len(names):
            message = f"{len(cells)} fields, and the head names {len(names)}."
            yield mistake(number, None, "WRONG_FIELD_COUNT", message)
            continue
        yield from _line(number, {name: cells[place] for name, place in places.items()}, columns)


def _records(file: BinaryIO, columns: Columns) -> Iterator[tuple[int, list[str]] | LineError]:
    """Each record with the line it begins on; blank ones are skipped. Ends with what cannot be read."""
    begins, lines = 1, _Lines(file, skipped=columns.lines_before_head)
    reader = csv.reader(lines, delimiter=columns.delimiter, strict=True)
    while True:
        begins = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError:
            yield mistake(lines.number, None, "NOT_UTF8", "This line is not UTF-8.")
            return
        except csv.Error as error:
            yield mistake(begins, None, "NOT_CSV", f"This line cannot be read: {error}.")
            return
        if any(cell.strip() for cell in cells):
            yield begins, [cell.strip() for cell in cells]


class _Lines:
    """The file's lines as text, counted."""

    def __init__(self, file: BinaryIO, *, skipped: int) -> None:
        self._file = file
        self.number = 0
        for _ in range(skipped):
            self._next()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._next()
        if not raw:
            raise StopIteration
        return raw.decode("utf-8-sig" if self.number == 1 else "utf-8")

    def _next(self) -> bytes:
        raw = self._file.readline()
        self.number += bool(raw)
        return raw


def _lacking(line: int, names: Sequence[str], wanted: Iterable[str]) -> list[LineError]:
    return [
        mistake(line, name, *_HEAD_MISTAKES[min(names.count(name), 2)]) for name in wanted if names.count(name) != 1
    ]


_HEAD_MISTAKES = {
    0: ("COLUMN_MISSING", "The mapping names this column, and the head does not."),
    2: ("COLUMN_TWICE", "The head names this column twice."),
}


def _line(number: int, said: Mapping[str, str], columns: Columns) -> Iterator[Line | LineError]:
    found: list[LineError] = []
    kind = _kind(number, said, columns, found)
    if kind is None and not found:
        return  # ignored
    reference, provider_reference, rrn = (
        _reference(number, name, said, found) for name in (columns.reference, columns.provider_reference, columns.rrn)
    )
    if reference is None and provider_reference is None and not found:
        column = columns.reference or columns.provider_reference
        found.append(mistake(number, column, "MISSING", "A line names the payment it is about."))
    amount = _amount(number, kind, said, columns, found)
    fee = _fee(number, said, columns, found)
    at_ms = _time(number, said, columns, found)
    if found or kind is None or amount is None:
        yield from found
        return
    yield Line(
        line=number,
        kind=kind,
        reference=reference,
        provider_reference=provider_reference,
        rrn=rrn,
        amount=amount,
        fee=fee,
        at_ms=at_ms,
    )


def _kind(number: int, said: Mapping[str, str], columns: Columns, found: list[LineError]) -> LineKind | None:
    """None for a line that says nothing to us."""
    if columns.kind is None:
        return LineKind.PAYMENT
    word = said[columns.kind].casefold()
    for kind, words in ((LineKind.PAYMENT, columns.payments), (LineKind.REFUND, columns.refunds)):
        if word in (known.casefold() for known in words):
            return kind
    if word not in (known.casefold() for known in columns.ignored):
        found.append(mistake(number, columns.kind, "UNKNOWN_KIND", "The mapping does not say what this word means."))
    return None


def _reference(number: int, name: str | None, said: Mapping[str, str], found: list[LineError]) -> str | None:
    # A spreadsheet was told by an apostrophe that these digits are a text.
    text = said[name].removeprefix("'") if name is not None else ""
    if not text:
        return None
    if not _REFERENCE.fullmatch(text):
        found.append(mistake(number, name, "INVALID", "Allowed: 1 to 128 printable ASCII characters without spaces."))
    return text


def _amount(
    number: int, kind: LineKind | None, said: Mapping[str, str], columns: Columns, found: list[LineError]
) -> int | None:
    name, text = columns.amount, said[columns.amount]
    amount = _rupiah(text, columns)
    if amount is None or not 0 < amount <= MOST_AMOUNT_IDR:
        found.append(mistake(number, name, "INVALID_AMOUNT", _whole(columns)))
        return None
    if kind is LineKind.PAYMENT and text.startswith("-"):  # money that was taken back is no payment
        found.append(mistake(number, name, "INVALID_AMOUNT", "A payment is more than nothing."))
        return None
    return amount


_LIKE = {".": "50000, 50,000 or 50000.00", ",": "50000, 50.000 or 50000,00"}


def _whole(columns: Columns) -> str:
    return f"Whole rupiah, like {_LIKE[columns.decimal_mark]}."


def _rupiah(text: str, columns: Columns) -> int | None:
    shape = _AMOUNTS[columns.decimal_mark].fullmatch(text.removeprefix("-"))  # refunds are often written so
    return int(shape[1].replace(",", "").replace(".", "")) if shape else None


def _fee(number: int, said: Mapping[str, str], columns: Columns, found: list[LineError]) -> int | None:
    if columns.fee is None or not said[columns.fee]:
        return None
    fee = _rupiah(said[columns.fee], columns)
    if fee is None or fee > MOST_AMOUNT_IDR:
        found.append(mistake(number, columns.fee, "INVALID_AMOUNT", _whole(columns)))
    return fee


def _time(number: int, said: Mapping[str, str], columns: Columns, found: list[LineError]) -> int | None:
    if columns.at is None or not said[columns.at]:
        return None
    text = said[columns.at]
    try:
        at = datetime.fromisoformat(text) if columns.time_form == "rfc3339" else _in_jakarta(text, columns.time_form)
        at = at if at.tzinfo else at.replace(tzinfo=JAKARTA)
        at_ms = int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        found.append(mistake(number, columns.at, "INVALID_TIME", f"A time in the form {columns.time_form}."))
        return None
    if not 0 <= at_ms < 253_402_214_400_000:
        found.append(mistake(number, columns.at, "INVALID_TIME", "A time from 1970 on."))
    return at_ms


def _in_jakarta(text: str, form: str) -> datetime:
    return datetime.strptime(text, form).replace(tzinfo=JAKARTA)
