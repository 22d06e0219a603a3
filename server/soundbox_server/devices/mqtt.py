"""What boxes say of themselves over MQTT."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from soundbox_protocol.messages import Event, Heartbeat, Status, Time, TimeRequest, encode
from soundbox_protocol.signing import sign
from soundbox_protocol.times import from_rfc3339, to_rfc3339
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.db import Statements
from soundbox_server.devices import presence, service
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery
from soundbox_server.uplinks import Allowance, Uplink

log = structlog.get_logger()

TIMES_A_MINUTE = 20


async def on_status(tx: Statements, uplinks: Sequence[Uplink[Status]]) -> None:
    """Births and last wills. What is still alive for a box that is back goes out with the next sweep."""
    began = await service.take_sessions(tx, [_session(uplink) for uplink in uplinks])
    if began:
        await outbox.make_due(tx, recipients=began, now_ms=max(uplink.received_at_ms for uplink in uplinks))
    tx.after_commit.append(partial(_report, uplinks))


def _report(uplinks: Sequence[Uplink[Status]]) -> None:
    for uplink in uplinks:
        log.info(
            "device.status", device_id=uplink.device_id, state=uplink.message.state, epoch=uplink.message.session_epoch
        )


def _session(uplink: Uplink[Status]) -> service.Session:
    status = uplink.message
    return service.Session(
        device_id=uplink.device_id,
        online=status.state == "online",
        epoch=status.session_epoch,
        at_ms=uplink.received_at_ms,
        said_at_ms=from_rfc3339(status.timestamp),
        firmware_version=status.firmware_version,
        max_payload_bytes=status.capabilities.max_payload_bytes,
        verifies_signatures=status.capabilities.verify_signature,
        command_progress=status.capabilities.command_progress,
        has_clock=status.capabilities.clock,
        takes_digests=status.capabilities.digest,
        has_display=status.capabilities.display,
    )


async def on_heartbeat(tx: Statements, uplinks: Sequence[Uplink[Heartbeat]]) -> None:
    await service.take_heartbeats(tx, [service.vitals(uplink, source="mqtt") for uplink in uplinks])


async def on_event(tx: Statements, uplinks: Sequence[Uplink[Event]]) -> None:
    """Something a box wants an operator to see: logged, with the box's own words cut to what the protocol allows."""
    for uplink in uplinks:
        said = uplink.message
        log.warning("device.event", device_id=uplink.device_id, code=said.code, level=said.level, detail=said.detail)


@dataclass(frozen=True, kw_only=True)
class TimeRequests:
    """Boxes without a clock ask for the time; the answer is signed and fits the nonce alone. Of several questions a box
    waits for the answer to the last, and one that asks without end is answered so many times a minute."""

    key_of: Callable[[str, int], bytes]
    owner: str
    allowance: Allowance = field(default_factory=lambda: Allowance(TIMES_A_MINUTE))

    async def __call__(self, tx: Statements, uplinks: Sequence[Uplink[TimeRequest]]) -> None:
        last = {uplink.device_id: uplink for uplink in uplinks}.values()
        asked = [one for one in last if self.allowance.takes(one.device_id, at_ms=one.received_at_ms)]
        if not asked:
            return
        ids = [uplink.device_id for uplink in asked]
        versions = await service.key_versions(tx, ids)
        await presence.note_time_asked(tx, ids, at_ms=max(uplink.received_at_ms for uplink in asked))
        await outbox.queue(tx, [self._answer(one, versions[one.device_id]) for one in asked], owner=self.owner)

    def _answer(self, uplink: Uplink[TimeRequest], key_version: int) -> outbox.Message:
        topic, now_ms = downlink(uplink.device_id, Downlink.TIME), uplink.received_at_ms
        body = encode(Time(server_time=to_rfc3339(now_ms), nonce=uplink.message.nonce))
        return outbox.Message(
            id=new_id("tim"),
            kind="time",
            recipient_id=uplink.device_id,
            address=topic,
            body=sign(self.key_of(uplink.device_id, key_version), topic, body),
            created_at_ms=now_ms,
            expires_at_ms=None,
            trace_id=new_id("trc"),
            state=Delivery.SENT,
        )
