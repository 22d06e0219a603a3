"""Boxes say over MQTT what became of their commands, and which of their buttons was pressed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from soundbox_protocol.messages import CommandAck, Event
from soundbox_protocol.times import from_rfc3339
from soundbox_server.announcements.service import Telling
from soundbox_server.commands import replay, service
from soundbox_server.db import Statements
from soundbox_server.ids import new_id
from soundbox_server.uplinks import Allowance, Uplink

log = structlog.get_logger()

PRESSES_A_MINUTE = 10  # of one box
PRESSED_LONG_AGO_MS = 60_000  # nobody stands at the till and waits any more
CLOCKLESS_BEFORE_MS = 1_577_836_800_000  # 2020: a box that counts from 1970 does not know when it was


async def on_command_ack(tx: Statements, uplinks: Sequence[Uplink[CommandAck]]) -> None:
    """A repeat, or an ack for another box's command, changes nothing."""
    answers = [service.answer(uplink.device_id, uplink.message, source="mqtt") for uplink in uplinks]
    await service.take_answers(tx, answers, now_ms=max(uplink.received_at_ms for uplink in uplinks))


@dataclass(frozen=True, kw_only=True)
class Buttons:
    """The replay button: the last payment once more. An event that waited for us says what somebody wanted then."""

    telling: Telling
    allowance: Allowance = field(default_factory=lambda: Allowance(PRESSES_A_MINUTE))

    async def __call__(self, tx: Statements, uplinks: Sequence[Uplink[Event]]) -> None:
        pressed = {one.device_id: one for one in uplinks if one.message.code == "button_replay" and _is_fresh(one)}
        for device_id, uplink in sorted(pressed.items()):
            if not self.allowance.takes(device_id, at_ms=uplink.received_at_ms):
                continue
            trace_id, now_ms = new_id("trc"), uplink.received_at_ms
            again = await replay.replay_pressed(tx, device_id, trace_id=trace_id, telling=self.telling, now_ms=now_ms)
            tx.after_commit.append(
                partial(
                    log.info, "announcement.replay_pressed", device_id=device_id, trace_id=trace_id,
                    event_id=again and again.event_id,
                )
            )  # fmt: skip


def _is_fresh(uplink: Uplink[Event]) -> bool:
    said_at_ms = from_rfc3339(uplink.message.timestamp)
    return said_at_ms < CLOCKLESS_BEFORE_MS or uplink.received_at_ms - said_at_ms <= PRESSED_LONG_AGO_MS
