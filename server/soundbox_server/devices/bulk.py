"""Many boxes registered from one CSV file: all of them or none, and every mistake named by line and column."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from soundbox_protocol.topics import DEVICE_ID_PATTERN
from soundbox_server.codecs.choice import codec_of, require_serial
from soundbox_server.db import Statements
from soundbox_server.devices.service import CODE_LIFE_MS, code_sha256, new_activation_code
from soundbox_server.errors import SoundboxError, ValidationFailed
from soundbox_server.ids import new_id

COLUMNS = ("serial_number", "vendor", "model", "device_id", "label")
MOST_ROWS = 5_000
_RULES = {
    "serial_number": (re.compile(r"[A-Za-z0-9._-]{3,64}"), "3 to 64 of A-Z, a-z, 0-9, dot, _ and -"),
    "vendor": (re.compile(r"[a-z0-9_-]{1,32}"), "1 to 32 of a-z, 0-9, _ and -"),
    "model": (re.compile(r"[A-Za-z0-9_.-]{1,32}"), "1 to 32 of A-Z, a-z, 0-9, dot, _ and -"),
    "device_id": (DEVICE_ID_PATTERN, "3 to 32 of a-z, 0-9, _ and -, not beginning with hub-, and not provision"),
    "label": (re.compile(r"[^\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]{1,80}"), "1 to 80 printable ones"),
}
_DEFAULTS = {"vendor": "native", "model": "sbx-1"}


@dataclass(frozen=True, kw_only=True)
class LineError:
    """One mistake. Line 1 is the file's first; `column` is None where the whole line is meant."""

    line: int
    column: str | None
    code: str
    message: str


class FileRefused(SoundboxError):
    """Nothing of the file was taken in; `errors` has all its mistakes in the order of its lines."""

    code = "FILE_REFUSED"
    status = 422

    def __init__(self, found: Sequence[LineError]) -> None:
        super().__init__("The file was not taken in. Mend these lines and send it again.", count=len(found))
        self.errors = [asdict(error) for error in sorted(found, key=lambda error: (error.line, error.column or ""))]


@dataclass(frozen=True, kw_only=True)
class NewBox:
    line: int
    serial_number: str
    vendor: str
    model: str
    device_id: str | None
    label: str | None


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A registered box with its activation code, which is shown this once."""

    serial_number: str
    device_id: str
    vendor: str
    model: str
    label: str | None
    activation_code: str
    expires_at_ms: int


def read_boxes(body: bytes) -> list[NewBox]:
    """The file's boxes. The first line names the columns; comma or, as some spreadsheets write it, semicolon.

    Raises FileRefused with every mistake that the file alone can show.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise FileRefused([mistake(line, None, "NOT_UTF8", "The file is not UTF-8.")]) from None
    lines = _lines(text)
    columns = _columns(lines)
    found: list[LineError] = []
    boxes = [box for line, cells in lines if (box := _box(line, cells, columns, found))]
    if not boxes and not found:
        found.append(mistake(1, None, "NO_ROWS", "The file names no boxes."))
    found += _repeated(boxes)
    if found:
        raise FileRefused(found)
    return boxes


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line it begins on; blank ones are skipped."""
    first = text.partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins, count = 1, -1  # the header is no row
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            count += 1
            if count > MOST_ROWS:
                raise FileRefused([mistake(line, None, "TOO_MANY_ROWS", f"At most {MOST_ROWS} boxes a file.")])
            yield line, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise FileRefused([mistake(begins, None, "NOT_CSV", f"This line cannot be read: {error}.")]) from None


def _columns(lines: Iterator[tuple[int, list[str]]]) -> list[str]:
    line, named = next(lines, (1, []))
    names = [name.lower() for name in named]
    found = [mistake(line, name, "UNKNOWN_COLUMN", f"Known: {', '.join(COLUMNS)}.")
             for name in names if name not in COLUMNS]  # fmt: skip
    found += [mistake(line, name, "COLUMN_TWICE", "This column is there twice.")
              for name in COLUMNS if names.count(name) > 1]  # fmt: skip
    if "serial_number" not in names:
        message = "The first line names the columns, and serial_number is one."
        found.append(mistake(line, "serial_number", "COLUMN_MISSING", message))
    if found:
        raise FileRefused(found)
    return names


def _box(line: int, cells: list[str], columns: list[str], found: list[LineError]) -> NewBox | None:
    """The line's box, or None after its mistakes went into `found`."""
    if len(cells) != len(columns):
        message = f"{len(cells)} fields, and the first line names {len(columns)}."
        found.append(mistake(line, None, "WRONG_FIELD_COUNT", message))
        return None
    said = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
    before = len(found)
    if "serial_number" not in said:
        found.append(mistake(line, "serial_number", "MISSING", "A box needs its serial number."))
    for name, cell in said.items():
        shape, allowed = _RULES[name]
        if not shape.fullmatch(cell):
            found.append(mistake(line, name, "INVALID", f"Allowed: {allowed}."))
    if len(found) > before:
        return None
    try:
        codec = codec_of(said.get("vendor", _DEFAULTS["vendor"]), said.get("model", _DEFAULTS["model"]))
        require_serial(codec, said["serial_number"])
    except ValidationFailed as refused:
        found.append(mistake(line, "serial_number", "INVALID", refused.message))
        return None
    return NewBox(
        line=line,
        serial_number=said["serial_number"],
        vendor=said.get("vendor", _DEFAULTS["vendor"]),
        model=said.get("model", _DEFAULTS["model"]),
        device_id=said.get("device_id"),
        label=said.get("label"),
    )


def _repeated(boxes: Sequence[NewBox]) -> Iterator[LineError]:
    for column in ("serial_number", "device_id"):
        first: dict[str, int] = {}
        for box in boxes:
            value = getattr(box, column)
            if value is None:
                continue
            if value in first:
                message = f"{value} stands in line {first[value]} already."
                yield mistake(box.line, column, "DUPLICATE_IN_FILE", message)
            first.setdefault(value, box.line)


async def known_already(tx: Statements, boxes: Sequence[NewBox]) -> list[LineError]:
    """The lines whose serial number or device id is registered already."""
    serials = sorted({box.serial_number for box in boxes})
    ids = sorted({box.device_id for box in boxes if box.device_id})
    rows = await tx.fetch(
        f"SELECT id, serial_number FROM device WHERE serial_number {tx.among(1)} OR id {tx.among(2)}", serials, ids
    )
    taken = {"serial_number": {row["serial_number"] for row in rows}, "device_id": {row["id"] for row in rows}}
    return [
        mistake(box.line, column, "ALREADY_REGISTERED", f"{getattr(box, column)} is registered already.")
        for box in boxes
        for column, values in taken.items()
        if getattr(box, column) in values
    ]


async def register_all(tx: Statements, boxes: Sequence[NewBox], *, batch_id: str, now_ms: int) -> list[Registered]:
    """Register every box with an activation code of its own. Raises FileRefused when one is known already."""
    if found := await known_already(tx, boxes):
        raise FileRefused(found)
    registered = [_registered(box, now_ms) for box in boxes]
    for box, new in zip(boxes, registered, strict=True):
        stored = await tx.fetch(
            "INSERT INTO device (id, serial_number, vendor, model, label, batch_id, state, key_version, last_seq, "
            "created_at_ms, codec) VALUES ($1, $2, $3, $4, $5, $6, 'registered', 0, 0, $7, $8) "
            "ON CONFLICT DO NOTHING RETURNING id",
            new.device_id, new.serial_number, new.vendor, new.model, new.label, batch_id, now_ms,
            codec_of(new.vendor, new.model).name,
        )  # fmt: skip
        if not stored:  # somebody else registered it since we looked
            raise FileRefused([mistake(box.line, None, "ALREADY_REGISTERED", "This box is registered already.")])
    await tx.many(
        "INSERT INTO activation_code (code_sha256, device_id, expires_at_ms, failures, created_at_ms) "
        "VALUES ($1, $2, $3, 0, $4)",
        [(code_sha256(new.activation_code), new.device_id, new.expires_at_ms, now_ms) for new in registered],
    )
    return registered


def _registered(box: NewBox, now_ms: int) -> Registered:
    return Registered(
        serial_number=box.serial_number,
        device_id=box.device_id or new_id("dev"),
        vendor=box.vendor,
        model=box.model,
        label=box.label,
        activation_code=new_activation_code(),
        expires_at_ms=now_ms + CODE_LIFE_MS,
    )


def mistake(line: int, column: str | None, code: str, message: str) -> LineError:
    return LineError(line=line, column=column, code=code, message=message)
