"""A list as a file: CSV for people with spreadsheets, JSON lines for programs.

CSV says each time twice, in UTC as everywhere and as the clock on the wall in Jakarta reads, for the first is exact and
the second is what a shop's till roll says. A text that a spreadsheet would run as a formula gets an apostrophe; numbers
stay numbers.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import orjson

from soundbox_server.files import sync_folder

JAKARTA = ZoneInfo("Asia/Jakarta")
BOM = b"\xef\xbb\xbf"
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl", "pdf": "application/pdf"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class FileWriter:
    """One file being written. Its methods block: run them in a thread. Nothing is at `path` before `finish`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._unfinished = path.with_suffix(f"{path.suffix}.part")
        self._unfinished.touch(mode=0o600)
        self._file = self._unfinished.open("wb")
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.size_bytes += len(content)

    def finish(self) -> str:
        """Whole and in its place; returns its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.replace(self._path)
        sync_folder(self._path.parent)
        return self._hash.hexdigest()

    def give_up(self) -> None:
        self._file.close()
        self._unfinished.unlink(missing_ok=True)


class Form(Protocol):
    """How rows become a file, piece by piece. What it does may take long: call it in a thread."""

    def beginning(self) -> bytes: ...

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes: ...

    def end(self) -> bytes: ...


class ListForm:
    """A list's rows as they are, in its columns."""

    def __init__(self, format_: str, columns: Sequence[str], *, with_bom: bool) -> None:
        self._format, self._columns, self._with_bom = format_, columns, with_bom

    def beginning(self) -> bytes:
        return beginning(self._format, self._columns, with_bom=self._with_bom)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        return lines(self._format, self._columns, rows)

    def end(self) -> bytes:
        return b""


def beginning(format_: str, columns: Sequence[str], *, with_bom: bool) -> bytes:
    """What stands before the first row."""
    if format_ == "jsonl":
        return b""
    return (BOM if with_bom else b"") + _lines([[name for column in columns for name in _names(column)]])


def lines(format_: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as a list shows them; `columns` are paths into one, as in `actor.id`."""
    if format_ == "jsonl":
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    return _lines([[cell for column in columns for cell in _cells(column, row)] for row in rows])


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _is_time(column: str) -> bool:
    return column == "at" or column.endswith(("_at", ".at"))


def _names(column: str) -> list[str]:
    name = column.replace(".", "_")
    return [name, f"{name}_jakarta"] if _is_time(column) else [name]


def _cells(column: str, row: Mapping[str, Any]) -> list[object]:
    value: Any = row
    for part in column.split("."):
        value = value[part] if value is not None else None
    if _is_time(column):
        return [value, _in_jakarta(value)]
    return [_cell(value)]


def _in_jakarta(rfc3339: str | None) -> str | None:
    if rfc3339 is None:
        return None
    return datetime.fromisoformat(rfc3339).astimezone(JAKARTA).strftime("%Y-%m-%d %H:%M:%S")


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
