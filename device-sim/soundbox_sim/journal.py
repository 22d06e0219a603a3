"""What a box still knows after its plug was pulled.

One append-only file, one line per record: the CRC-32 of the record, a space, the record as JSON. A durable record is
on the disk before `write` returns, so the box may speak of it; a torn last line was never spoken of and is dropped.
An append costs one fsync; SQLite in FULL mode costs the same and cannot be tried by cutting the file at every byte.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

WINDOW = 32  # Seen ids a box keeps, and how far behind the newest a message may come.
UNSENT_ACKS = 32
COMMANDS = 16  # Commands a box remembers, so that a repeat is never carried out.
COMPACT_BYTES = 64 * 1024

Status = Literal["received", "played", "stale_skipped", "failed"]
CommandStatus = Literal["delivered", "succeeded", "failed", "rejected"]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One announcement the box took in. `status` is what it last reported about it."""

    event_id: str
    seq: int
    status: Status = "received"
    reason: str | None = None
    played_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """One command the box took in. `status` and `reason` are what it last reported about it."""

    command_id: str
    status: CommandStatus = "delivered"
    reason: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration in force: its number, its bytes as they came, and their hash."""

    version: int
    sha256: str
    raw: str


@dataclass(slots=True)
class Memory:
    """Everything the journal holds. Only `remember` changes it."""

    account: str = ""
    session_epoch: int = 0
    highest_seq: int = 0
    floor: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    unsent_acks: dict[int, str] = field(default_factory=dict)
    next_ack: int = 1
    day: str = ""
    day_count: int = 0
    day_total_idr: int = 0
    config: Configured | None = None
    volume: int | None = None  # as a command set it; the next configuration takes its place
    volume_ordered_ms: int = 0  # when that command was made


class JournalInUse(RuntimeError):
    """Another process has this box's folder open."""


class Journal:
    """The file and what it says. One process at a time; the folder is made when it is missing.

    `fsync` is an argument so that a test can count it, or cut the power at it.
    """

    def __init__(self, folder: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "journal.log"
        self._fsync = fsync
        self._lock = _lock(folder / "journal.lock")
        self._file, self._size = -1, 0
        try:
            self.memory, self.damaged_lines = _read(self._path)
            self._compact()
        except BaseException:
            os.close(self._lock)
            raise

    def write(self, record: Record, *, durable: bool = True) -> None:
        """Append and remember. When this returns, a durable record survives a power cut."""
        if self._size > COMPACT_BYTES:
            self._compact()
        line = _line(record)
        try:
            _write_all(self._file, line)
            if durable:
                self._fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)  # Half a line would swallow the next one.
            raise
        self._size += len(line)
        remember(self.memory, record)

    def close(self) -> None:
        """Let go of the file and the folder. Nothing is flushed: what mattered is on the disk already."""
        if self._file >= 0:
            os.close(self._file)
            os.close(self._lock)
            self._file = -1

    def _compact(self) -> None:
        """Replace the log by one line that says the same. A crash leaves the old log or the new one."""
        fresh = self._path.with_suffix(".new")
        line = _line(_snapshot(self.memory))
        new_file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write_all(new_file, line)
            self._fsync(new_file)
            fresh.replace(self._path)
            _sync_folder(self._path.parent, self._fsync)
        except BaseException:
            os.close(new_file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = new_file, len(line)


class Flash(Journal):
    """A journal without a file, for thousands of boxes in one process: it outlives the power cuts of its box, not the
    end of the process."""

    def __init__(self) -> None:
        self.memory, self.damaged_lines = Memory(), 0

    def write(self, record: Record, *, durable: bool = True) -> None:
        remember(self.memory, record)

    def close(self) -> None:
        """Nothing is open."""


# The records. Each says one thing that became true.


def new_account(account: str) -> Record:
    """A new activation: the hub counts seq from one again, and configures anew. Ids, epoch and unsent acks stay."""
    return {"is": "account", "account": account}


def new_session(epoch: int) -> Record:
    return {"is": "session", "epoch": epoch}


def taken_in(entry: Entry, *, ack: str, day: str, amount_idr: int, count: int = 1) -> Record:
    """An announcement and its ack `received`, in one record: neither exists without the other.

    An `amount_idr` of 0 (a replay) does not count towards the day. A digest stands for `count` payments.
    """
    record = {"is": "taken_in", "entry": asdict(entry), "ack": ack, "day": day, "amount_idr": amount_idr}
    return record if count == 1 else {**record, "count": count}


def settled(entry: Entry, *, ack: str) -> Record:
    """How an announcement ended, and the ack that says so."""
    return {"is": "settled", "entry": asdict(entry), "ack": ack}


def answered(ack: str) -> Record:
    """An ack for a message that was not taken in: a repeat, a late one."""
    return {"is": "answered", "ack": ack}


def ordered(order: Order, *, ack: str) -> Record:
    """What became of a command, and the ack that says so, in one record."""
    return {"is": "ordered", "order": asdict(order), "ack": ack}


def configured(config: Configured, *, ack: str) -> Record:
    """A configuration in force, and the ack that says so, in one record."""
    return {"is": "configured", "config": asdict(config), "ack": ack}


def volume_set(volume: int, *, ordered_ms: int) -> Record:
    return {"is": "volume_set", "volume": volume, "ordered_ms": ordered_ms}


def reset() -> Record:
    """As it left the factory: no configuration, no volume of its own, no takings. What was spoken stays known."""
    return {"is": "reset"}


def ack_sent(number: int) -> Record:
    return {"is": "ack_sent", "number": number}


def remember(memory: Memory, record: Record) -> None:
    """Apply one record. The same function reads the log and follows it live."""
    match record["is"]:
        case "snapshot":
            _restore(memory, record)
        case "account":
            memory.account, memory.highest_seq, memory.floor = record["account"], 0, 0
            memory.entries = {key: replace(entry, seq=0) for key, entry in memory.entries.items()}
            memory.config = None
        case "session":
            memory.session_epoch = record["epoch"]
        case "taken_in":
            _take_in(memory, Entry(**record["entry"]))
            _count(memory, record["day"], record["amount_idr"], record.get("count", 1))
            _owe(memory, record["ack"])
        case "settled":
            entry = Entry(**record["entry"])
            memory.entries[entry.event_id] = entry
            _owe(memory, record["ack"])
        case "ordered":
            _note_order(memory, Order(**record["order"]))
            _owe(memory, record["ack"])
        case "configured":
            memory.config = Configured(**record["config"])
            if "volume" in json.loads(memory.config.raw):
                memory.volume = None
            _owe(memory, record["ack"])
        case "volume_set":
            memory.volume, memory.volume_ordered_ms = record["volume"], record["ordered_ms"]
        case "reset":
            memory.config, memory.volume, memory.volume_ordered_ms = None, None, 0
            memory.day, memory.day_count, memory.day_total_idr = "", 0, 0
        case "answered":
            _owe(memory, record["ack"])
        case "ack_sent":
            memory.unsent_acks.pop(record["number"], None)
        case other:
            raise ValueError(f"the journal holds a record of a newer program: {other!r}")


def _take_in(memory: Memory, entry: Entry) -> None:
    memory.entries[entry.event_id] = entry
    memory.highest_seq = max(memory.highest_seq, entry.seq)
    memory.floor = max(memory.floor, memory.highest_seq - WINDOW)
    while len(memory.entries) > WINDOW:
        oldest = min(memory.entries.values(), key=lambda kept: kept.seq)
        del memory.entries[oldest.event_id]
        memory.floor = max(memory.floor, oldest.seq)  # A forgotten id must never be taken for a new one.


def _note_order(memory: Memory, order: Order) -> None:
    memory.orders[order.command_id] = order  # One that is known keeps its place: the oldest goes first.
    while len(memory.orders) > COMMANDS:
        del memory.orders[next(iter(memory.orders))]


def _count(memory: Memory, day: str, amount_idr: int, count: int) -> None:
    if not amount_idr or day < memory.day:
        return
    if day > memory.day:
        memory.day, memory.day_count, memory.day_total_idr = day, 0, 0
    memory.day_count += count
    memory.day_total_idr += amount_idr


def _owe(memory: Memory, ack: str) -> None:
    memory.unsent_acks[memory.next_ack] = ack
    memory.next_ack += 1
    while len(memory.unsent_acks) > UNSENT_ACKS:
        del memory.unsent_acks[min(memory.unsent_acks)]


def _snapshot(memory: Memory) -> Record:
    return {
        "is": "snapshot",
        **asdict(memory),
        "entries": [asdict(entry) for entry in memory.entries.values()],
        "orders": [asdict(order) for order in memory.orders.values()],
        "unsent_acks": list(memory.unsent_acks.items()),
    }


def _restore(memory: Memory, record: Record) -> None:
    for name, value in record.items():
        if name == "entries":
            memory.entries = {entry["event_id"]: Entry(**entry) for entry in value}
        elif name == "orders":
            memory.orders = {order["command_id"]: Order(**order) for order in value}
        elif name == "config":
            memory.config = Configured(**value) if value else None
        elif name == "unsent_acks":
            memory.unsent_acks = dict(value)
        elif name != "is":
            setattr(memory, name, value)


# The file.


def _line(record: Record) -> bytes:
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _read(path: Path) -> tuple[Memory, int]:
    """Memory, and how many whole lines were unreadable: a torn last line is no damage, it is a power cut."""
    memory, damaged = Memory(), 0
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for line in lines[:-1]:
        checksum, _, body = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(body):
            remember(memory, json.loads(body))
        else:
            damaged += 1
    return memory, damaged


def _write_all(file: int, line: bytes) -> None:
    written = 0
    while written < len(line):
        written += os.write(file, line[written:])


def _sync_folder(folder: Path, fsync: Callable[[int], None]) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise JournalInUse(f"another process is this box already: {path.parent}") from None
    return handle
