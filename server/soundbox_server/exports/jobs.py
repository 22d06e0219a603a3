"""What a worker does about exports: write those that wait, and remove those whose week is over."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import structlog
from sqlalchemy import func, select

from soundbox_server import clock
from soundbox_server.db import Database, reading
from soundbox_server.exports import service
from soundbox_server.exports.kinds import Kind, Kinds, listing_of, open_form
from soundbox_server.exports.service import Claimed
from soundbox_server.exports.writing import FileWriter
from soundbox_server.paging import Key, Listing, Page, key_of, read, show

log = structlog.get_logger()

TOGETHER = 500  # rows a read: each is a transaction of its own, so that no export holds one open
COUNTED = 1_000_000  # rows more than this have no percentage
LEFT_BEHIND_S = 24 * 3_600


class Exporter:
    """Writes the exports of these kinds into the folder, one at a time. `theirs` are the kinds that an organisation
    may ask for of itself."""

    def __init__(
        self,
        database: Database,
        kinds: Kinds,
        *,
        theirs: Callable[[str], Kinds] | None = None,
        folder: Path,
        owner: str,
    ) -> None:
        self._database = database
        self._kinds = kinds
        self._theirs = theirs
        self._folder = folder
        self._owner = owner

    async def tick(self) -> None:
        """Write whatever waits."""
        while True:
            job = await self._database.write(lambda tx: service.claim(tx, owner=self._owner, now_ms=clock.now_ms()))
            if job is None:
                return
            await self._write(job)

    async def purge(self) -> None:
        """Files of the week before last, and what crashed writers left."""
        names = await self._database.write(lambda tx: service.expire(tx, now_ms=clock.now_ms()))
        await asyncio.to_thread(_remove, self._folder, names)

    async def _write(self, job: Claimed) -> None:
        writer = await asyncio.to_thread(FileWriter, self._folder / job.file_name)
        try:
            finished = await self._write_rows(job, writer)
        except Exception as error:
            log.exception("export.failed", export_id=job.id, kind=job.kind)
            await asyncio.to_thread(writer.give_up)
            failed = partial(
                service.fail, export_id=job.id, attempt=job.attempt, failure=type(error).__name__,
                now_ms=clock.now_ms(),
            )  # fmt: skip
            await self._database.write(failed)
            return
        except BaseException:  # the worker stops: somebody begins again when the lease is over
            writer.give_up()
            raise
        if not finished:
            await asyncio.to_thread(writer.give_up)
            log.info("export.given_up", export_id=job.id)

    async def _write_rows(self, job: Claimed, writer: FileWriter) -> bool:
        """Whether the file is whole; False when the export was cancelled or another writer has it."""
        kind = self._kind(job)
        listing = listing_of(kind)
        asked = listing.asked.model_validate(orjson.loads(job.filters))
        async with reading(self._database) as session:
            form = await open_form(kind, session, asked, job.format, with_bom=job.with_bom)
        total, done, after = await self._count(listing, asked), 0, None
        await asyncio.to_thread(_write, writer, form.beginning)
        while True:
            rows, after = await self._read(listing, asked, after)
            shown = [show(listing, row) for row in rows]
            await asyncio.to_thread(_write, writer, form.rows, shown)
            done += len(rows)
            on = partial(service.go_on, job=job, rows_done=done, rows_total=total, now_ms=clock.now_ms())
            if not await self._database.write(on):
                return False
            if len(rows) < TOGETHER:
                break
        await asyncio.to_thread(_write, writer, form.end)
        sha256 = await asyncio.to_thread(writer.finish)
        finish = partial(
            service.finish, job=job, rows_done=done, size_bytes=writer.size_bytes, sha256=sha256, now_ms=clock.now_ms()
        )
        finished = await self._database.write(finish)
        log.info("export.written", export_id=job.id, kind=job.kind, rows=done)
        return finished

    def _kind(self, job: Claimed) -> Kind:
        if job.organisation_id is None:
            return self._kinds[job.kind]
        if self._theirs is None:
            raise LookupError(f"Nobody but staff asks for {job.kind} here.")
        return self._theirs(job.organisation_id)[job.kind]

    async def _count(self, listing: Listing[Any], asked: Page) -> int | None:
        async with reading(self._database) as session:
            some = listing.select(asked).with_only_columns(*listing.key).limit(COUNTED + 1).subquery()
            count = await session.scalar(select(func.count()).select_from(some))
        return count if count is not None and count <= COUNTED else None

    async def _read(self, listing: Listing[Any], asked: Page, after: Key | None) -> tuple[Sequence[Any], Key | None]:
        async with reading(self._database) as session:
            rows = await read(session, listing, asked, after=after, limit=TOGETHER)
        return rows, key_of(listing, rows[-1]) if rows else after


def _write(writer: FileWriter, make: Callable[..., bytes], *rows: Sequence[Any]) -> None:
    writer.write(make(*rows))


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if folder.exists():
        for unfinished in folder.glob("*.part"):
            if time.time() - unfinished.stat().st_mtime > LEFT_BEHIND_S:
                unfinished.unlink(missing_ok=True)
