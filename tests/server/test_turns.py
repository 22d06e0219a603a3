"""Writers of one SQLite file take turns, and a frozen one does not hold up the others for ever."""

import fcntl
from pathlib import Path

import pytest

from soundbox_server import db
from soundbox_server.db import Database, Statements


async def _bump(tx: Statements) -> int:
    rows = await tx.fetch("UPDATE credential_revision SET revision = revision + 1 WHERE id = 1 RETURNING revision")
    return int(rows[0]["revision"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_writer_frozen_in_its_turn_is_waited_for_and_then_passed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.2)
    first = await database.write(_bump)

    with Path(f"{database.url.database}-turn").open("r+") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        second = await database.write(_bump)
    third = await database.write(_bump)

    assert [second, third] == [first + 1, first + 2]
