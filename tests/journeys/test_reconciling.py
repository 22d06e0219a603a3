"""Somebody writes a name into a running broker's password file: the worker's comparison sees it, and it is mended."""

import pytest
from support.device import activate
from support.stack import Stack, until

from soundbox_server import broker_parts
from soundbox_server.broker.mosquitto import files_in
from soundbox_server.broker.passwords import hash_password
from soundbox_server.db import Database
from soundbox_server.devices import jobs
from soundbox_server.devices import service as devices

pytestmark = [pytest.mark.journey]


async def test_a_name_the_database_does_not_know_is_found_and_removed(stack: Stack, database: Database) -> None:
    await stack.prepare(boxes=1)
    broker = await stack.start("broker")
    await stack.start_all("api")
    await activate(stack, bound=False)
    passwords = files_in(stack.home).passwords

    async def reported() -> tuple[int | None, int]:
        ((revision, users),) = await stack.query("SELECT revision, users FROM broker_report") or [(None, -1)]
        return revision, users

    async def reported_right() -> bool:
        return await reported() == (await database.read(devices.credential_revision), 1)

    await until(reported_right, what="the broker's report")
    assert await jobs.compare_brokers(database) == []
    with passwords.open("a") as file:
        file.write(f"dev_stranger:{hash_password('let me in')}\n")

    async def seen() -> bool:
        return [found.kind for found in await jobs.compare_brokers(database)] == ["differs"]

    await until(seen, what="the stranger in the report")
    await until(reported_right, what="the report of a mended file")

    assert "dev_stranger" not in passwords.read_text()
    assert not await broker_parts.broker_lets_in("127.0.0.1", stack.broker_port, "dev_stranger", "let me in")
    assert await jobs.compare_brokers(database) == []
    assert await broker.stop() == 0
    assert await stack.query("SELECT shard FROM broker_report") == []  # stopped in order: nobody waits for its word
