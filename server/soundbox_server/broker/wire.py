"""The few things the hub needs of its MQTT client that aiomqtt does not offer. Pinned below 3 and tested.

aiomqtt acknowledges a message before our code has seen it, drops what its bounded queue cannot hold, and waits for each
publish's PUBACK. The hub acknowledges after its commit, may only drop what was sent at QoS 0, and never waits for a
PUBACK, which proves nothing to it.
"""

import asyncio
import logging
import socket
from typing import Any

import aiomqtt

QOS0_WAITING = 20_000  # heartbeats that may wait; QoS 1 is bounded by the broker's max_inflight_messages
_quiet = logging.getLogger("soundbox.mqtt")
_quiet.setLevel(logging.CRITICAL)  # connection losses are logged where they are handled


class UplinkQueue(asyncio.Queue[aiomqtt.Message]):
    """Drops heartbeats when too many wait, and nothing else: an unacknowledged QoS 1 message would never come again."""

    dropped = 0

    def put_nowait(self, item: aiomqtt.Message) -> None:
        if item.qos == 0 and self.qsize() >= QOS0_WAITING:
            self.dropped += 1
            return
        super().put_nowait(item)


def open_client(
    *, host: str, port: int, user: str, password: str, persistent: bool, keepalive_s: int = 20
) -> aiomqtt.Client:
    """A client whose id is its user name; with `persistent` it keeps its session and acknowledges by hand."""
    client = aiomqtt.Client(
        host,
        port,
        username=user,
        password=password,
        identifier=user,
        clean_session=not persistent,
        keepalive=keepalive_s,
        queue_type=UplinkQueue,
        max_inflight_messages=1_000,
        max_queued_outgoing_messages=50_000,
        logger=_quiet,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # 46 ms a round trip without
    )
    if persistent:
        client._client.manual_ack_set(True)
    return client


async def next_group(client: aiomqtt.Client, *, most: int) -> list[aiomqtt.Message]:
    """At least one message, and with it what else is already here. Raises MqttError when the connection ends."""
    group = [await anext(client.messages)]
    queue: Any = client._queue
    while len(group) < most and not queue.empty():
        group.append(queue.get_nowait())
    return group


def acknowledge(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
    if message.qos > 0:
        client._client.ack(message.mid, message.qos)


def publish(client: aiomqtt.Client, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
    """Hand over to the socket without waiting; False when the client takes no more."""
    return bool(client._client.publish(topic, payload, qos, retain).rc == 0)
