"""Boxes say over MQTT what is in force, and what became of what they were sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from soundbox_protocol.messages import ConfigAck, Heartbeat, Status
from soundbox_server.db import Statements
from soundbox_server.device_config import service
from soundbox_server.devices.presence import who_began
from soundbox_server.devices.service import vitals
from soundbox_server.ids import new_id
from soundbox_server.uplinks import Uplink


async def on_config_ack(tx: Statements, uplinks: Sequence[Uplink[ConfigAck]]) -> None:
    """A repeat, or a word about an earlier version, changes nothing."""
    now_ms = max(uplink.received_at_ms for uplink in uplinks)
    await service.take_acks(tx, [uplink.message for uplink in uplinks], now_ms=now_ms)


async def on_heartbeat(tx: Statements, uplinks: Sequence[Uplink[Heartbeat]]) -> None:
    """Notice a box that says another hash than it should."""
    told = [uplink for uplink in uplinks if uplink.message.config_sha256 is not None]
    await service.take_vitals(tx, [vitals(uplink, source="mqtt") for uplink in told])


@dataclass(frozen=True, kw_only=True)
class Births:
    """A box is back: what it should be like goes out now, unless it says that it is."""

    key_of: service.KeyOf
    owner: str

    async def __call__(self, tx: Statements, uplinks: Sequence[Uplink[Status]]) -> None:
        online = {uplink.device_id: uplink for uplink in uplinks if uplink.message.state == "online"}
        if not online:
            return
        now_ms = max(uplink.received_at_ms for uplink in online.values())
        epochs = {device_id: uplink.message.session_epoch for device_id, uplink in online.items()}
        began = await who_began(tx, epochs, at_ms=now_ms)
        born = [uplink for device_id, uplink in online.items() if device_id in began]
        words = [
            service.Said(
                device_id=uplink.device_id,
                version=uplink.message.config_version,
                sha256=uplink.message.config_sha256,
                at_birth=True,
            )
            for uplink in born
        ]
        await service.take_words(tx, words, now_ms=now_ms)
        await service.push(
            tx, [said.device_id for said in words], key_of=self.key_of, owner=self.owner, trace_id=new_id("trc"),
            now_ms=now_ms,
        )  # fmt: skip
