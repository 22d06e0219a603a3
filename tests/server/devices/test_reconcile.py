"""What brokers report is compared with what the database has in force, and what is overdue ends."""

from dataclasses import dataclass

import pytest
from support.shop import NOW, Shop, row, rows

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.devices import credentials, jobs
from soundbox_server.devices import service as devices
from soundbox_server.devices.reconcile import (
    MAY_LAG_MS,
    SILENT_AFTER_MS,
    Difference,
    differences,
    roll_digest,
    take_report,
)


@dataclass
class Broker:
    """A broker that reports."""

    database: Database

    async def reports(
        self, *, revision: int | None, users: list[tuple[str, str]], shard: int = 0, now_ms: int = NOW
    ) -> None:
        digest = roll_digest(users)
        await self.database.write(
            lambda tx: take_report(tx, shard=shard, revision=revision, users=len(users), digest=digest, now_ms=now_ms)
        )

    async def reports_the_truth(self, *, now_ms: int = NOW, shard: int = 0) -> None:
        revision, users = await self.database.read(devices.broker_users)
        await self.reports(revision=revision, users=users, now_ms=now_ms, shard=shard)


@pytest.fixture
def broker(database: Database) -> Broker:
    return Broker(database)


async def look(database: Database, *, now_ms: int = NOW) -> list[Difference]:
    return await database.read(lambda tx: differences(tx, now_ms=now_ms))


async def kinds(database: Database, *, now_ms: int = NOW) -> list[tuple[str, int]]:
    return [(found.kind, found.shard) for found in await look(database, now_ms=now_ms)]


async def test_a_broker_that_lets_in_the_right_ones_is_left_alone(
    database: Database, shop: Shop, broker: Broker
) -> None:
    await shop.box()
    await broker.reports_the_truth()

    assert await look(database) == []
    assert await look(database, now_ms=NOW + SILENT_AFTER_MS) == []


async def test_before_any_broker_reported_nothing_is_wrong(database: Database, shop: Shop) -> None:
    await shop.box()

    assert await look(database) == []


async def test_somebody_more_or_less_in_the_file_is_seen(database: Database, shop: Shop, broker: Broker) -> None:
    device = await shop.box()
    revision, users = await database.read(devices.broker_users)

    for wrong in ([*users, ("dev_stranger", "$7$x")], [], [(device, "$7$other")]):
        await broker.reports(revision=revision, users=wrong)
        (found,) = await look(database)
        assert (found.kind, found.users, found.reported_users) == ("differs", 1, len(wrong))


async def test_a_change_that_is_not_carried_over_in_time_is_seen(
    database: Database, shop: Shop, broker: Broker
) -> None:
    await shop.box()
    await broker.reports_the_truth(now_ms=NOW + MAY_LAG_MS)
    await shop.box()  # changed at NOW

    assert await kinds(database, now_ms=NOW + MAY_LAG_MS) == []
    assert await kinds(database, now_ms=NOW + MAY_LAG_MS + 1) == [("behind", 0)]


async def test_a_supervisor_that_says_nothing_is_seen_each_by_itself(
    database: Database, shop: Shop, broker: Broker
) -> None:
    await shop.box()
    await broker.reports_the_truth(shard=0)
    await broker.reports_the_truth(shard=1, now_ms=NOW + 10_000)

    assert await kinds(database, now_ms=NOW + SILENT_AFTER_MS + 1) == [("silent", 0)]


async def test_a_file_that_differs_is_to_be_written_anew(database: Database, shop: Shop, broker: Broker) -> None:
    await shop.box()
    revision, _ = await database.read(devices.broker_users)
    await broker.reports(revision=revision, users=[], now_ms=clock.now_ms())

    (found,) = await jobs.compare_brokers(database)

    assert found.kind == "differs"
    assert await database.read(devices.credential_revision) == revision + 1


async def test_an_alert_stands_while_a_broker_is_wrong(database: Database, shop: Shop, broker: Broker) -> None:
    await shop.box()
    revision, _ = await database.read(devices.broker_users)
    await broker.reports(revision=revision, users=[], now_ms=clock.now_ms())

    await jobs.compare_brokers(database)
    standing = await rows(database, "SELECT subject_id, severity, state FROM alert WHERE kind = 'broker.differs'")
    await broker.reports_the_truth(now_ms=clock.now_ms())
    await jobs.compare_brokers(database)

    assert standing == [{"subject_id": "0", "severity": "critical", "state": "open"}]
    assert await rows(database, "SELECT state FROM alert") == [{"state": "resolved"}]


async def test_a_broker_that_is_right_is_not_told_to_do_anything(
    database: Database, shop: Shop, broker: Broker
) -> None:
    await shop.box()
    await broker.reports_the_truth(now_ms=clock.now_ms())
    before = await database.read(devices.credential_revision)

    assert await jobs.compare_brokers(database) == []

    assert await database.read(devices.credential_revision) == before


async def test_an_overdue_credential_ends_and_is_written_down(database: Database, shop: Shop) -> None:
    overdue, _ = await shop.box(), await shop.box()
    await database.write(
        lambda tx: credentials.ask_rotation(tx, overdue, by_ms=clock.now_ms() - 1, now_ms=clock.now_ms())
    )

    await jobs.end_overdue_credentials(database)
    await jobs.end_overdue_credentials(database)

    entry = await row(database, "SELECT action, actor_kind, subject_id FROM audit_entry")
    assert entry == {"action": "device.credential_revoked", "actor_kind": "system", "subject_id": overdue}
    states = await rows(database, "SELECT state FROM device_credential ORDER BY state")
    assert [one["state"] for one in states] == ["active", "revoked"]
    assert await rows(database, "SELECT kind, subject_id, state FROM alert") == [
        {"kind": "device.credential_overdue", "subject_id": overdue, "state": "open"}
    ]
