"""The audit log's hash chain, and what becomes of somebody who touches it."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support import forks

from soundbox_server.audit import chain, service
from soundbox_server.audit.chain import START, Break, Head, Stretch, Tail
from soundbox_server.audit.jobs import link_entries
from soundbox_server.db import Database, Statements, reading, statements, transaction

SOMEBODY = service.Actor(kind="person", id="per_1", organisation_id="org_1", role="operator", ip="10.0.0.1")


async def deeds(database: Database, *names: str) -> list[str]:
    async def work(tx: Statements) -> list[str]:
        return [await service.record(tx, SOMEBODY, name, ("merchant", "mer_1"), details={"b": 2, "a": "é"})
                for name in names]  # fmt: skip

    return await database.write(work)


async def verified(database: Database, after: Head = START) -> Stretch:
    async with reading(database) as session:
        return await chain.verify(await statements(session), after)


async def tail(database: Database) -> Tail:
    async with reading(database) as session:
        return await chain.tail(await statements(session))


async def meddle(database: Database, *sql: str) -> None:
    """What somebody with the database's own password can do: take the guards away first."""
    async with transaction(database) as session:
        for table in ("audit_entry", "audit_link"):
            if database.dialect == "sqlite":
                await session.execute(text(f"DROP TRIGGER IF EXISTS {table}_update_refused"))
                await session.execute(text(f"DROP TRIGGER IF EXISTS {table}_delete_refused"))
                await session.execute(text("PRAGMA defer_foreign_keys = ON"))
            else:
                await session.execute(text(f"DROP TRIGGER IF EXISTS {table}_refused ON {table}"))
        for statement in sql:
            await session.execute(text(statement))


async def test_every_entry_is_linked_in_order_and_the_chain_can_be_recomputed_by_hand(database: Database) -> None:
    ids = await deeds(database, "merchant.created", "merchant.approved")
    await link_entries(database)

    async with reading(database) as session:
        rows = (await session.execute(text("SELECT * FROM audit_entry ORDER BY id"))).mappings().all()
        links = (await session.execute(text("SELECT position, entry_id, hash FROM audit_link ORDER BY position"))).all()
    assert [link.entry_id for link in links] == ids
    before = bytes(32)
    for row, link in zip(rows, links, strict=True):
        values = [row[column] for column in (
            "id", "at_ms", "actor_kind", "actor_id", "organisation_id", "role", "ip", "action", "subject_kind",
            "subject_id", "outcome", "details", "request_id")]  # fmt: skip
        written = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
        assert link.hash == hashlib.sha256(before + written).hexdigest()
        before = bytes.fromhex(link.hash)
    assert await verified(database) == Stretch(head=Head(position=2, hash=before.hex()), links=2, broken=None)
    assert await tail(database) == Tail(waiting=0, oldest_at_ms=None, hidden=0)


async def test_what_is_not_linked_yet_is_reported_as_waiting(database: Database) -> None:
    await deeds(database, "one")
    await link_entries(database)
    await deeds(database, "two", "three")

    found = await tail(database)

    assert (found.waiting, found.hidden) == (2, 0)
    assert (await verified(database)).links == 1


@pytest.mark.parametrize("table", ["audit_entry", "audit_link"])
@pytest.mark.parametrize("deed", ["UPDATE {} SET {}", "DELETE FROM {}"])
async def test_the_database_itself_refuses_changes(database: Database, table: str, deed: str) -> None:
    await deeds(database, "one")
    await link_entries(database)

    with pytest.raises(DBAPIError, match="append-only"):
        async with transaction(database) as session:
            await session.execute(text(deed.format(table, "hash = ''" if table == "audit_link" else "role = ''")))

    assert (await verified(database)).links == 1


@pytest.mark.parametrize(
    "column", ["at_ms", "actor_id", "organisation_id", "role", "ip", "action", "subject_id", "outcome", "details"]
)
async def test_a_changed_entry_breaks_the_chain_where_it_stands(database: Database, column: str) -> None:
    ids = await deeds(database, "one", "two", "three")
    await link_entries(database)
    value = {"at_ms": "1", "outcome": "'denied'"}.get(column, "'other'")
    await meddle(database, f"UPDATE audit_entry SET {column} = {value} WHERE id = '{ids[1]}'")

    found = await verified(database)

    assert found.broken == Break(position=2, entry_id=ids[1], why="the entry, or the link itself, was changed")
    assert found.links == 1


async def test_a_removed_link_is_a_gap_and_its_entry_is_hidden(database: Database) -> None:
    ids = await deeds(database, "one", "two", "three")
    await link_entries(database)
    await meddle(database, f"DELETE FROM audit_link WHERE entry_id = '{ids[1]}'")

    found = await verified(database)

    assert found.broken is not None
    assert (found.broken.position, found.broken.why) == (2, "link 2 is missing")
    assert (await tail(database)).hidden == 1


async def test_a_chain_written_anew_is_seen_by_who_kept_an_earlier_head(database: Database) -> None:
    ids = await deeds(database, "one", "two")
    await link_entries(database)
    kept = (await verified(database)).head
    await meddle(
        database,
        "DELETE FROM audit_link",
        f"UPDATE audit_entry SET action = 'harmless' WHERE id = '{ids[0]}'",
        "INSERT INTO audit_unlinked (entry_id) SELECT id FROM audit_entry",
    )
    await link_entries(database)

    found = await verified(database)

    assert found.broken is None
    assert found.head.position == kept.position
    assert found.head.hash != kept.hash


async def test_linkers_that_run_at_once_make_one_chain(database: Database) -> None:
    for number in range(5):
        await deeds(database, *(f"deed.{number}.{i}" for i in range(20)))

    outcomes = await asyncio.gather(*(link_entries(database) for _ in range(8)), return_exceptions=True)

    assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == []
    found = await verified(database)
    assert (found.links, found.broken) == (100, None)
    assert (await tail(database)).waiting == 0


async def test_the_command_names_the_broken_row_and_ends_with_1(database: Database, tmp_path: Path) -> None:
    ids = await deeds(database, "one", "two")
    await link_entries(database)
    head = (await verified(database)).head
    first = await verify(database, tmp_path, "--expect", f"{head.position}:{head.hash}")
    await meddle(database, f"UPDATE audit_entry SET role = 'support' WHERE id = '{ids[0]}'")

    second = await verify(database, tmp_path)

    assert first[0] == 0
    assert first[1]["whole"] is first[1]["expected_head_found"] is True
    assert second[0] == 1
    assert second[1]["broken"]["entry_id"] == ids[0]


async def test_the_command_sees_that_the_end_was_cut_off(database: Database, tmp_path: Path) -> None:
    ids = await deeds(database, "one", "two")
    await link_entries(database)
    head = (await verified(database)).head
    await meddle(
        database,
        f"DELETE FROM audit_link WHERE entry_id = '{ids[1]}'",
        f"DELETE FROM audit_entry WHERE id = '{ids[1]}'",
    )

    code, found = await verify(database, tmp_path, "--expect", f"{head.position}:{head.hash}")

    assert code == 1
    assert found["broken"] is None
    assert found["expected_head_found"] is False


async def verify(database: Database, home: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    environment = {
        "SOUNDBOX_HOME": str(home), "SOUNDBOX_DATABASE_URL": database.url.render_as_string(hide_password=False),
    }  # fmt: skip
    ended = await asyncio.to_thread(forks.run, ["audit", "verify", "--json", *arguments], environment)
    return ended.returncode, json.loads(ended.stdout)
