"""Whole logs of boxes, which come in pieces.

Each piece is on the disk before the row says so, at the place where it belongs: a repeat, or a crash between the two,
writes the same bytes to the same place.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from soundbox_server.db import Row, Statements
from soundbox_server.diagnosis.state import FileState
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.files import sync_folder
from soundbox_server.ids import new_id

LARGEST_LOG = 524_288
LARGEST_PIECE = 32_768
DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some bytes of a log and where they belong; `size` and `sha256` are the whole log's."""

    command_id: str
    device_id: str
    offset: int
    size: int
    sha256: str
    content: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.content)


@dataclass(frozen=True, kw_only=True)
class Standing:
    state: FileState
    received_bytes: int


async def look(tx: Statements, piece: Piece) -> Standing | None:
    """How far this log has come; None when this piece is the next one. Raises NotFound when nobody asked this box for
    its log, and Conflict for a piece that is empty, goes beyond the end, or comes from elsewhere."""
    row = await _row(tx, piece)
    if row is None:
        await _require_asked(tx, piece)
        received, state = 0, FileState.RECEIVING
    else:
        received, state = row["received_bytes"], FileState(row["state"])
    if state is not FileState.RECEIVING or (piece.content and piece.end <= received):
        return Standing(state=state, received_bytes=received)
    if piece.offset != received or not piece.content or piece.end > piece.size:
        raise Conflict("This piece is not the next one of this log.", received_bytes=received)
    return None


async def _row(tx: Statements, piece: Piece, lock: str = "") -> Row | None:
    rows = await tx.fetch(
        "SELECT state, size_bytes, sha256, received_bytes FROM device_log_file WHERE command_id = $1 "
        f"AND device_id = $2 {lock}",
        piece.command_id,
        piece.device_id,
    )
    if rows and (rows[0]["size_bytes"], rows[0]["sha256"]) != (piece.size, piece.sha256):
        raise Conflict("This is another log than the one that was begun.", received_bytes=rows[0]["received_bytes"])
    return rows[0] if rows else None


async def _require_asked(tx: Statements, piece: Piece) -> None:
    """The box may be quicker with its log than with the word that it has the command."""
    rows = await tx.fetch(
        "SELECT payload FROM device_command WHERE id = $1 AND device_id = $2 AND name = 'upload_log' "
        "AND state IN ('queued', 'sent', 'delivered')",
        piece.command_id,
        piece.device_id,
    )
    if not rows or orjson.loads(rows[0]["payload"]).get("whole") is not True:
        raise NotFound("Nobody asked this device for its log with this command.", command_id=piece.command_id)


def write_piece(folder: Path, piece: Piece) -> FileState:
    """Onto the disk, durably; what the log is then. Blocks: run it in a thread."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / piece.command_id, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, piece.content, piece.offset)
        os.fsync(handle)
        if piece.offset == 0:
            sync_folder(folder)
        if piece.end < piece.size:
            return FileState.RECEIVING
        whole = hashlib.sha256(os.pread(handle, piece.size, 0)).hexdigest() == piece.sha256
    finally:
        os.close(handle)
    return FileState.WHOLE if whole else FileState.DAMAGED


async def note(tx: Statements, piece: Piece, state: FileState, *, kept_days: int, now_ms: int) -> Standing:
    """The piece is on the disk. Whoever was quicker with the same piece has noted it."""
    if piece.offset == 0:
        await tx.execute(
            "INSERT INTO device_log_file (id, device_id, command_id, state, size_bytes, received_bytes, sha256, "
            "created_at_ms, expires_at_ms) VALUES ($1, $2, $3, 'receiving', $4, 0, $5, $6, $7) "
            "ON CONFLICT (command_id) DO NOTHING",
            new_id("lgf"), piece.device_id, piece.command_id, piece.size, piece.sha256, now_ms,
            now_ms + kept_days * DAY_MS,
        )  # fmt: skip
    row = await _row(tx, piece, tx.lock("device_log_file"))
    if row is None:
        raise NotFound("Nobody asked this device for its log with this command.", command_id=piece.command_id)
    if row["state"] != FileState.RECEIVING or row["received_bytes"] != piece.offset:
        return Standing(state=FileState(row["state"]), received_bytes=row["received_bytes"])
    await tx.execute(
        "UPDATE device_log_file SET state = $2, received_bytes = $3, finished_at_ms = $4 WHERE command_id = $1",
        piece.command_id, state.value, piece.end, None if state is FileState.RECEIVING else now_ms,
    )  # fmt: skip
    return Standing(state=state, received_bytes=piece.end)


async def expire(tx: Statements, *, now_ms: int, limit: int) -> list[str]:
    """Logs whose days are over; returns the names of their files."""
    rows = await tx.fetch(
        "UPDATE device_log_file SET state = 'expired', expires_at_ms = NULL WHERE id IN ("
        f"SELECT id FROM device_log_file WHERE expires_at_ms <= $1 ORDER BY expires_at_ms LIMIT $2 "
        f"{tx.lock('device_log_file', skip=True)}) RETURNING command_id",
        now_ms,
        limit,
    )
    return [row["command_id"] for row in rows]
