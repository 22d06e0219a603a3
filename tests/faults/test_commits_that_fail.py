"""A commit that fails is not answered with 200, whichever door it belongs to, and leaves nothing behind.

The commit itself is made to fail: a deferred constraint lets every statement pass and is checked at the end.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.books import check_books
from support.hub import Hub, open_hub
from support.shop import Shop, execute, open_shop, payment_row, report, rows

from soundbox_server import clock
from soundbox_server.db import HOT_CONNECTIONS, Database, Statements
from soundbox_server.devices import service as devices
from soundbox_server.errors import Overloaded
from soundbox_server.group_commit import GroupCommit
from soundbox_server.ids import new_id
from soundbox_server.payments.routes import CallbackDesk

NOBODY = "organisation of nobody"


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


async def doom(database: Database, table: str) -> None:
    """From now on a transaction that inserts into this table cannot be committed, and only the commit says so."""
    await execute(
        database,
        "CREATE TABLE doomed (id TEXT REFERENCES organisation (id) DEFERRABLE INITIALLY DEFERRED)",
    )
    if database.dialect == "sqlite":
        await execute(
            database,
            f"CREATE TRIGGER doom AFTER INSERT ON {table} BEGIN INSERT INTO doomed VALUES ('{NOBODY}'); END",
        )
        return
    await execute(
        database,
        "CREATE FUNCTION doom() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN INSERT INTO doomed VALUES ('{NOBODY}'); RETURN NULL; END $$",
    )
    await execute(database, f"CREATE TRIGGER doom AFTER INSERT ON {table} EXECUTE FUNCTION doom()")


async def spare(database: Database, table: str) -> None:
    await execute(database, "DROP TRIGGER doom" + (f" ON {table}" if database.dialect == "postgresql" else ""))


async def test_a_callback_whose_commit_fails_is_a_5xx_and_the_next_try_counts(
    hub: Hub, database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box())
    body = hub.said(payment)
    await doom(database, "posting")

    refused = await hub.call_back(body)
    meanwhile = await payment_row(database, payment.payment_id)
    events = await rows(database, "SELECT id FROM provider_event")
    await spare(database, "posting")
    taken = await hub.call_back(body)

    assert refused.status_code == 500
    assert refused.headers["content-type"] == "application/problem+json"
    assert "doomed" not in refused.text
    assert (meanwhile["state"], events) == ("awaiting_payment", [])
    assert (taken.status_code, taken.json()["data"]["outcome"]) == (200, "applied")
    await check_books(database)


async def test_one_bad_callback_in_a_group_harms_only_itself(hub: Hub, database: Database, shop: Shop) -> None:
    """All of them wait for one commit, which fails: each is then tried by itself."""
    device = await shop.box()
    payments = [await shop.payment(device, 1_000 + n) for n in range(6)]
    await _refuse_amount(database, 1_003)

    answers = await asyncio.gather(*(hub.call_back(hub.said(payment)) for payment in payments))

    assert [answer.status_code for answer in answers] == [200, 200, 200, 500, 200, 200]
    books = await check_books(database)
    assert set(books.captured) == {payment.payment_id for payment in payments if payment.amount != 1_003}


async def _refuse_amount(database: Database, amount: int) -> None:
    if database.dialect == "sqlite":
        await execute(
            database,
            f"CREATE TRIGGER refuse BEFORE INSERT ON posting WHEN NEW.amount = {amount} "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
        return
    await execute(database, f"ALTER TABLE posting ADD CONSTRAINT refuse CHECK (amount <> {amount})")


async def test_a_binding_whose_commit_fails_is_not_answered_with_200(hub: Hub, database: Database, shop: Shop) -> None:
    """A door that answers before its commit would say 200 here."""
    device = await shop.box()
    await shop.unbind(device)
    await doom(database, "device_binding")
    path, place = f"/admin/devices/{device}/bind", {"terminal_id": shop.terminal_id}

    refused = await hub.http.post(path, json=place, headers=hub.operator())
    bound = await rows(database, "SELECT id FROM device_binding WHERE unbound_at_ms IS NULL")
    await spare(database, "device_binding")
    taken = await hub.http.post(path, json=place, headers=hub.operator())

    assert (refused.status_code, bound) == (500, [])
    assert taken.status_code == 200


async def test_an_activation_whose_commit_fails_hands_out_nothing(hub: Hub, database: Database) -> None:
    _, code = await database.write(
        lambda tx: devices.register(tx, serial_number="SBX-1", vendor="native", model="sbx-1", now_ms=clock.now_ms())
    )
    await doom(database, "device_credential")

    refused = await hub.http.post(
        "/device/provision/activate", json={"activation_code": code, "serial_number": "SBX-1"}
    )

    assert refused.status_code == 500
    assert "device_token" not in refused.text
    assert await rows(database, "SELECT id FROM device_credential") == []
    (unused,) = await rows(database, "SELECT consumed_at_ms FROM activation_code")
    assert unused["consumed_at_ms"] is None


async def test_nothing_is_published_of_a_transaction_that_failed(hub: Hub, database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    sent: list[Any] = []
    desk: CallbackDesk = hub.app.state.callback_desk
    desk._publish = sent.extend
    await doom(database, "posting")

    with pytest.raises(Exception, match=r"(?i)foreign key"):
        await desk.take(report(payment, paid_at_ms=clock.now_ms()), asked="req-1")
    assert sent == []

    await spare(database, "posting")
    await desk.take(report(payment, paid_at_ms=clock.now_ms()), asked="req-2")
    assert [message.subject_id for message in sent] == [payment.payment_id]


async def _insert(tx: Statements, names: Sequence[str]) -> Sequence[str]:
    """Stores each name once; `bad` cannot be stored."""
    for name in names:
        if name == "bad":
            raise ValueError("this one is bad")
        await tx.execute(
            "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, 'merchant', $2, 0)", new_id("o"), name
        )
    return [name.upper() for name in names]


async def test_an_item_that_raises_harms_only_itself(database: Database) -> None:
    group: GroupCommit[str, str] = GroupCommit(database, _insert, most=8)
    names = ["a", "b", "bad", "c", "bad", "d"]

    answers = await asyncio.gather(*(group.submit(name) for name in names), return_exceptions=True)

    assert [answer if isinstance(answer, str) else type(answer) for answer in answers] == [
        "A", "B", ValueError, "C", ValueError, "D",
    ]  # fmt: skip
    stored = await rows(database, "SELECT name FROM organisation")
    assert sorted(row["name"] for row in stored) == ["a", "b", "c", "d"]


async def test_nobody_is_answered_before_the_commit(database: Database) -> None:
    other = Database(database.url.render_as_string(hide_password=False))
    group: GroupCommit[str, str] = GroupCommit(database, _insert)
    try:
        for name in ("first", "second"):
            await group.submit(name)
            seen = await rows(other, "SELECT name FROM organisation WHERE name = $1", name)
            assert seen == [{"name": name}]
    finally:
        await other.close()


async def test_what_arrives_during_a_commit_shares_the_next_one(database: Database) -> None:
    sizes: list[int] = []

    async def count(tx: Statements, names: Sequence[str]) -> Sequence[str]:
        sizes.append(len(names))
        return await _insert(tx, names)

    group: GroupCommit[str, str] = GroupCommit(database, count, most=4)
    await asyncio.gather(*(group.submit(f"n{n}") for n in range(10)))

    assert sizes == [4, 4, 2]


async def test_whoever_gave_up_waiting_does_not_spoil_it_for_the_others(database: Database) -> None:
    group: GroupCommit[str, str] = GroupCommit(database, _insert)
    impatient, patient = asyncio.create_task(group.submit("x")), asyncio.create_task(group.submit("y"))
    await asyncio.sleep(0)
    impatient.cancel()

    assert await patient == "Y"
    await group.drain()
    assert sorted(row["name"] for row in await rows(database, "SELECT name FROM organisation")) == ["x", "y"]


async def test_whoever_comes_while_a_group_waits_for_its_turn_to_write_goes_with_it(database: Database) -> None:
    gate, groups = threading.Event(), []

    async def hold_up(tx: Statements) -> None:
        if database.dialect == "sqlite":
            gate.wait(20)  # the writer's own thread
        else:
            await asyncio.to_thread(gate.wait, 20)

    async def insert(tx: Statements, names: Sequence[str]) -> Sequence[str]:
        groups.append(list(names))
        return await _insert(tx, names)

    others = [asyncio.create_task(database.write(hold_up)) for _ in range(HOT_CONNECTIONS)]
    group: GroupCommit[str, str] = GroupCommit(database, insert, most=3)
    first = asyncio.create_task(group.submit("first"))
    while group._queue or group._runner is None:  # the first one has been taken up
        await asyncio.sleep(0)
    later = [asyncio.create_task(group.submit(name)) for name in ("second", "third", "too many for one")]
    await asyncio.sleep(0)
    gate.set()

    assert await asyncio.gather(first, *later) == ["FIRST", "SECOND", "THIRD", "TOO MANY FOR ONE"]
    assert groups == [["first", "second", "third"], ["too many for one"]]
    await asyncio.gather(*others)


async def test_a_queue_that_is_full_says_so_at_once(database: Database) -> None:
    gate = threading.Event()

    async def wait_then_insert(tx: Statements, names: Sequence[str]) -> Sequence[str]:
        if database.dialect == "sqlite":
            gate.wait(20)  # the writer's own thread
        else:
            await asyncio.to_thread(gate.wait, 20)
        return await _insert(tx, names)

    group: GroupCommit[str, str] = GroupCommit(database, wait_then_insert, most=1, waiting=2)
    first = asyncio.create_task(group.submit("first"))
    while group._queue or group._runner is None:
        await asyncio.sleep(0)
    waiting = [asyncio.create_task(group.submit(name)) for name in ("second", "third")]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await group.submit("one too many")
    gate.set()

    assert await asyncio.gather(first, *waiting) == ["FIRST", "SECOND", "THIRD"]
    assert Overloaded.status == 503
