"""Boxes say over MQTT what became of their commands."""

from collections.abc import Sequence

from soundbox_protocol.messages import CommandAck
from soundbox_server.commands import service
from soundbox_server.db import Statements
from soundbox_server.uplinks import Uplink


async def on_command_ack(tx: Statements, uplinks: Sequence[Uplink[CommandAck]]) -> None:
    """A repeat, or an ack for another box's command, changes nothing."""
    answers = [service.answer(uplink.device_id, uplink.message, source="mqtt") for uplink in uplinks]
    await service.take_answers(tx, answers, now_ms=max(uplink.received_at_ms for uplink in uplinks))
