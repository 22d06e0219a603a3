"""What happens to merchants that were forgotten, by the clock."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.privacy import erasing

log = structlog.get_logger()


async def finish_erasures(database: Database, *, documents: Path) -> None:
    """What the law no longer keeps goes. Papers' files go first: whoever dies in between begins again with the rows
    that name them."""
    now_ms, done = clock.now_ms(), 1
    while done:
        papers = await database.read(lambda tx: erasing.papers_due(tx, now_ms=now_ms))
        await asyncio.to_thread(_remove, documents, papers)
        done = await database.write_at_leisure(lambda tx: erasing.finish_due(tx, now_ms=now_ms))
        if done:
            log.info("erasures.finished", count=done)


def _remove(folder: Path, papers: Sequence[str]) -> None:
    for sha256 in papers:
        (folder / sha256).unlink(missing_ok=True)
