"""Boxes answer what they were sent."""

from collections.abc import Sequence
from functools import partial

import structlog

from soundbox_protocol.messages import PaymentAck
from soundbox_protocol.times import from_rfc3339
from soundbox_server import metrics
from soundbox_server.db import Statements
from soundbox_server.outbox import service
from soundbox_server.outbox.state import Delivery
from soundbox_server.uplinks import Uplink

log = structlog.get_logger()


async def on_payment_ack(tx: Statements, uplinks: Sequence[Uplink[PaymentAck]]) -> None:
    """Record what became of announcements. A repeat, or an ack for another box's message, changes nothing."""
    now_ms = max(uplink.received_at_ms for uplink in uplinks)
    hops = await service.acknowledge(tx, [_answer(uplink) for uplink in uplinks], now_ms=now_ms)
    tx.after_commit.append(partial(_report, hops))


def _report(hops: Sequence[service.Hop]) -> None:
    for hop in hops:
        log.info(
            "announcement." + hop.state.value,
            event_id=hop.message_id,
            device_id=hop.recipient_id,
            payment_id=hop.subject_id,
            trace_id=hop.trace_id,
            ms=hop.ms_since_created,
        )
        if hop.state in (Delivery.RECEIVED, Delivery.PLAYED):
            metrics.labelled(metrics.announcement_seconds, hop.state.value).observe(hop.ms_since_created / 1000)
        if hop.ms_until_played is not None:
            metrics.heard_seconds.observe(hop.ms_until_played / 1000)


def _answer(uplink: Uplink[PaymentAck]) -> service.Answer:
    ack = uplink.message
    return service.Answer(
        message_id=ack.event_id,
        recipient_id=uplink.device_id,
        status=ack.status,
        played_at_ms=from_rfc3339(ack.played_at) if ack.played_at else None,
        reason=ack.reason,
    )
