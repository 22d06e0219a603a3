"""The hub's ear on one broker shard: what boxes say is handled in groups, committed, and only then acknowledged.

The session belongs to the shard and survives its worker, so a successor gets what was not acknowledged, in order.
A message that nobody can take is stored and acknowledged: it would otherwise stop every successor in turn.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from soundbox_protocol.messages import MESSAGES, MalformedMessage, decode
from soundbox_protocol.topics import UPLINK_FILTER, parse_uplink
from soundbox_protocol.topics import Uplink as Channel
from soundbox_server import clock, failpoints, metrics
from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.broker.wire import Connection, Message
from soundbox_server.db import Database, Statements, is_away, will_pass
from soundbox_server.devices.service import in_service
from soundbox_server.ids import new_id
from soundbox_server.uplinks import Aside, Foreign, ForeignUplinks, Handler, Uplink

log = structlog.get_logger()

MOST_TOGETHER = 64
POISON_BYTES = 1_024
POISON_PER_DEVICE = 50

Table = Mapping[Channel, Sequence[Handler]]


@dataclass(frozen=True, kw_only=True)
class _Poison:
    device_id: str
    topic: str
    payload: bytes
    error: str


class Consumer:
    """Reads one connection until it ends. `committed(queued, channels)` runs after each commit, before the acks."""

    def __init__(
        self,
        database: Database,
        table: Table,
        *,
        committed: Callable[[Sequence[Any], set[Channel]], None],
        aside: Aside | None = None,
        foreign: ForeignUplinks | None = None,
        heard: Callable[[Sequence[tuple[Message, bool]], int], None] | None = None,
    ) -> None:
        self._database = database
        self._table = table
        self._committed = committed
        self._aside = aside
        self._foreign = foreign
        self._heard = heard  # told after the acks: what boxes said, whether it could be read, when it was taken
        self.listening_since_ms: int | None = None  # None: heartbeats that boxes send now are never heard

    async def consume(self, connection: Connection) -> None:
        """Raises BrokerLost when the connection ends, and what the database raises: then nothing was acknowledged."""
        # Both at once: a broker may hold back even the SUBACK until its backlog is acknowledged.
        subscribing = asyncio.create_task(self._subscribe(connection))
        reading = asyncio.create_task(self._read_on(connection))
        try:
            await asyncio.gather(subscribing, reading)
        finally:
            self.listening_since_ms = None
            for task in (subscribing, reading):
                task.cancel()
            await asyncio.gather(subscribing, reading, return_exceptions=True)

    async def _read_on(self, connection: Connection) -> None:
        while True:
            group = await connection.next_group(most=MOST_TOGETHER)
            heard: list[tuple[Message, bool]] = []
            if uplinks := [message for message in group if not self._is_aside(message)]:
                heard = await self._take(uplinks)
            failpoints.reached("uplink.committed")
            connection.acknowledge(group)
            if self._heard is not None:
                self._heard(heard, clock.now_ms())
            failpoints.reached("uplink.acknowledged")

    async def _subscribe(self, connection: Connection) -> None:
        await connection.subscribe(UPLINK_FILTER)
        if self._aside is not None:
            await connection.subscribe(self._aside.topic_filter)
        if self._foreign is not None:
            await connection.subscribe(self._foreign.topic_filter)
        self.listening_since_ms = clock.now_ms()

    def _is_aside(self, message: Message) -> bool:
        return self._aside is not None and self._aside.take(message.topic, message.payload)

    def _is_foreign(self, message: Message) -> bool:
        return self._foreign is not None and self._foreign.is_one(message.topic)

    async def _take(self, group: Sequence[Message]) -> list[tuple[Message, bool]]:
        """Commit the group; if a handler raises, commit each message by itself and put the one that raises aside.

        The messages of our own kind, each with whether it could be read.
        """
        now_ms = clock.now_ms()
        ours = [message for message in group if not self._is_foreign(message)]
        read = [_read(message, now_ms) for message in ours]
        heard = [(message, uplink is not None) for message, (uplink, _) in zip(ours, read, strict=True)]
        foreign = [
            Foreign(topic=message.topic, payload=message.payload, received_at_ms=now_ms)
            for message in group
            if self._is_foreign(message)
        ]
        try:
            await self._commit(read, foreign)
        except Exception as error:
            if is_away(error):
                raise  # nothing is acknowledged, so all of it comes again
            if len(group) > 1:
                log.warning("uplink.split", size=len(group), error=repr(error))
                for message in group:
                    await self._take([message])
                return heard
            if will_pass(error):
                raise
            log.exception("uplink.poison", topic=group[0].topic)
            await self._commit([(None, _poison(group[0], f"{type(error).__name__}: {error}"))], [])
        return heard

    async def _commit(
        self,
        read: Sequence[tuple[tuple[Channel, Uplink[Any]] | None, _Poison | None]],
        foreign: Sequence[Foreign],
    ) -> None:
        good = [uplink for uplink, _ in read if uplink is not None]
        bad = [poison for _, poison in read if poison is not None]

        async def work(tx: Statements) -> tuple[set[Channel], list[Any]]:
            known = await in_service(tx, [uplink.device_id for _, uplink in good])
            handled = [(channel, uplink) for channel, uplink in good if uplink.device_id in known]
            for channel in sorted({channel for channel, _ in handled}, key=_STATUS_FIRST.index):
                uplinks = [uplink for its, uplink in handled if its is channel]
                for handler in self._table[channel]:
                    await handler(tx, uplinks)
            if foreign and self._foreign is not None:
                await self._foreign.handle(tx, foreign)
            await _store_poison(tx, bad)
            failpoints.reached("uplink.handled")
            return {channel for channel, _ in handled}, tx.queued

        # Most groups are boxes' answers, which say what row they rest on. Other channels' handlers count on locks.
        answers = not bad and not foreign and all(channel is Channel.PAYMENT_ACK for channel, _ in good)
        # Heartbeats may be lost on their way, too: the next one tells the same.
        lasting = bool(bad or foreign) or any(channel is not Channel.HEARTBEAT for channel, _ in good)
        channels, queued = await self._database.write(work, at_once=answers, lasting=lasting)
        self._committed(queued, channels)
        for channel, count in Counter(channel for channel, _ in good).items():
            metrics.labelled(metrics.uplinks, channel.value, "handled").inc(count)


_STATUS_FIRST = sorted(Channel, key=lambda channel: channel is not Channel.STATUS)


def _read(message: Message, now_ms: int) -> tuple[tuple[Channel, Uplink[Any]] | None, _Poison | None]:
    """The message as its handlers see it, or as something nobody can take."""
    topic, payload = message.topic, message.payload
    named = parse_uplink(topic)
    if named is None or named[1] not in MESSAGES:
        metrics.uplinks.labels("unknown", "malformed").inc()
        return None, _poison(message, "no such uplink topic")
    device_id, channel = named[0], Channel(named[1])
    try:
        said = decode(MESSAGES[channel], payload)
        if getattr(said, "device_id", device_id) != device_id:
            raise MalformedMessage("device_id: differs from the topic's")
    except MalformedMessage as error:
        metrics.uplinks.labels(channel.value, "malformed").inc()
        log.warning("uplink.malformed", topic=topic, size=len(payload), error=str(error))
        return None, _poison(message, str(error))
    return (channel, Uplink(device_id=device_id, message=said, payload=payload, received_at_ms=now_ms)), None


def _poison(message: Message, error: str) -> _Poison:
    named = parse_uplink(message.topic)
    return _Poison(
        device_id=named[0] if named else "",
        topic=message.topic[:256],
        payload=message.payload[:POISON_BYTES],
        error=error[:256],
    )


async def _store_poison(tx: Statements, poison: Sequence[_Poison]) -> None:
    """Kept for whoever mends the firmware: the newest of each box, for a broken one may repeat itself for ever."""
    for one in poison:
        await tx.execute(
            "INSERT INTO poison_message (id, device_id, topic, payload, error, received_at_ms) "
            "VALUES ($1, $2, $3, $4, $5, $6)",
            new_id("psn"), one.device_id, one.topic, one.payload, one.error, clock.now_ms(),
        )  # fmt: skip
    for device_id in sorted({one.device_id for one in poison}):
        if device_id:
            await raise_alert(
                tx, "device.poison_message", ("device", device_id), severity=Severity.WARNING, now_ms=clock.now_ms(),
                facts={"error": next(one.error for one in poison if one.device_id == device_id)},
            )  # fmt: skip
        await tx.execute(
            "DELETE FROM poison_message WHERE device_id = $1 AND id NOT IN "
            "(SELECT id FROM poison_message WHERE device_id = $1 ORDER BY id DESC LIMIT $2)",
            device_id,
            POISON_PER_DEVICE,
        )
