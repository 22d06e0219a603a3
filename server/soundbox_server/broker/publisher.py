"""Sends what was just committed. A process holds one broker user, a slot that it leases, and one connection.

Nothing waits for it: what cannot be handed over now is due again in five seconds, and the sweep sends it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import structlog

from soundbox_server import clock, metrics
from soundbox_server.broker import wire
from soundbox_server.broker.leases import Lease, try_lease
from soundbox_server.broker.users import PUBLISHER_SLOTS, hub_password, publisher_user
from soundbox_server.db import Database
from soundbox_server.outbox import service as outbox

log = structlog.get_logger()

RECONNECT_S = (0.1, 0.2, 0.5, 1.0, 2.0)


# Told of what went out, when, and of each message whether the connection took it.
Noted = Callable[[Sequence[tuple[outbox.Message, bool]], int], None]


class Publisher:
    """`publish` hands messages to the broker at once, or drops them for the sweep while there is no connection."""

    def __init__(self, noted: Noted | None = None) -> None:
        self._connection: wire.Connection | None = None
        self._noted = noted

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def attach(self, connection: wire.Connection | None) -> None:
        """Use this connection from now on, or none."""
        self._connection = connection
        metrics.broker_connected.set(connection is not None)

    def publish(self, messages: Sequence[outbox.Message]) -> None:
        self.hand_over(messages)

    def hand_over(self, messages: Sequence[outbox.Message]) -> list[outbox.Message]:
        """The same, and who wants to know gets back what could not be handed over."""
        if self._connection is None:
            metrics.publish_failures.inc(len(messages))
            return list(messages)
        publish = self._connection.publish
        taken: list[tuple[outbox.Message, bool]] = []
        for one in messages:
            ok = publish(one.address, one.body, retain=one.kind in outbox.RETAINED, once=one.unconfirmed)
            taken.append((one, ok))
        self._connection.flush()  # boxes speak while we count, log and answer
        sent, left = [one for one, ok in taken if ok], [one for one, ok in taken if not ok]
        metrics.publish_failures.inc(len(left))
        loop, now_ms = asyncio.get_running_loop(), clock.now_ms()
        loop.call_soon(_report, sent, now_ms)
        if self._noted is not None:
            loop.call_soon(self._noted, taken, now_ms)
        return left


def _report(sent: Sequence[outbox.Message], now_ms: int) -> None:
    for message in sent:
        metrics.labelled(metrics.published, message.kind).inc()
        if message.attempt == 1 and message.kind == "payment_success":
            hop = metrics.labelled(metrics.announcement_seconds, "published")
            hop.observe((now_ms - message.created_at_ms) / 1000)
        log.info(
            "message.published",
            kind=message.kind, id=message.id, to=message.recipient_id, attempt=message.attempt,
            trace_id=message.trace_id,
        )  # fmt: skip


async def keep_connected(
    publisher: Publisher, database: Database, *, host: str, port: int, master: bytes, folder: Path
) -> None:
    """Hold a publisher slot and a connection with it, for as long as this task runs. A slot that is lost with its
    database connection is let go at once, because somebody else may hold it by now."""
    while True:
        try:
            lease = await _lease_a_slot(database, folder)
        except Exception as error:  # whatever keeps the database from us, we try again
            log.warning("publisher.no_lease", error=repr(error))
            await asyncio.sleep(RECONNECT_S[-1])
            continue
        user = publisher_user(int(lease.name.rpartition("-")[2]))
        connect = partial(
            wire.connected, host=host, port=port, user=user, password=hub_password(master, user), persistent=False
        )
        connected = asyncio.create_task(stay_connected(connect, publisher))
        lost = asyncio.create_task(lease.lost.wait())
        try:
            await asyncio.wait([connected, lost], return_when=asyncio.FIRST_COMPLETED)
            log.warning("publisher.slot_lost", user=user)
        finally:
            for task in (connected, lost):
                task.cancel()
            await asyncio.gather(connected, lost, return_exceptions=True)
            publisher.attach(None)
            await lease.release()


async def stay_connected(
    connect: Callable[[], AbstractAsyncContextManager[wire.Connection]], publisher: Publisher
) -> None:
    attempt = 0
    while True:
        try:
            async with connect() as connection:
                publisher.attach(connection)
                attempt = 0
                log.info("publisher.connected")
                await connection.until_lost()  # nothing is subscribed: only the end of the connection can happen
        except wire.BrokerLost as error:
            log.warning("publisher.disconnected", error=str(error))
        finally:
            publisher.attach(None)
        await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
        attempt += 1


async def _lease_a_slot(database: Database, folder: Path) -> Lease:
    while True:
        for slot in range(PUBLISHER_SLOTS):
            if lease := await try_lease(database, f"hub-pub-{slot}", folder=folder):
                return lease
        log.error("publisher.no_slot", slots=PUBLISHER_SLOTS)
        await asyncio.sleep(5)
