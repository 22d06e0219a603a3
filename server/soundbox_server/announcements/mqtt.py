"""Boxes come back, and ask for what they have not got."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from soundbox_protocol.messages import PaymentMissing, Status
from soundbox_protocol.times import from_rfc3339
from soundbox_server.announcements import digest, gaps, numbers
from soundbox_server.announcements.service import Telling
from soundbox_server.db import Statements
from soundbox_server.outbox import service as outbox
from soundbox_server.uplinks import Allowance, Uplink

QUESTIONS_A_MINUTE = 20


async def before_birth(tx: Statements, uplinks: Sequence[Uplink[Status]]) -> None:
    """A box says the highest number it took in. It comes before its session is recorded, for whoever numbers locks the
    box first and its presence after it."""
    born = [
        numbers.Word(
            device_id=uplink.device_id,
            session_epoch=uplink.message.session_epoch,
            last_seq=uplink.message.last_announcement_seq,
            said_at_ms=from_rfc3339(uplink.message.timestamp),
        )
        for uplink in uplinks
        if uplink.message.state == "online" and uplink.message.last_announcement_seq is not None
    ]
    if born:
        await numbers.go_on_above(tx, born, now_ms=max(uplink.received_at_ms for uplink in uplinks))


async def on_birth(tx: Statements, uplinks: Sequence[Uplink[Status]]) -> None:
    """What a box missed is told a little later, when the acks it kept have come. What it received and never reported is
    asked for at once: its ack may have been lost with the broker that took it."""
    born = [
        digest.Birth(
            device_id=uplink.device_id,
            session_epoch=uplink.message.session_epoch,
            above_seq=uplink.message.last_announcement_seq,
        )
        for uplink in uplinks
        if uplink.message.state == "online"
    ]
    if born:
        now_ms = max(uplink.received_at_ms for uplink in uplinks)
        began = await digest.await_acks(tx, born, now_ms=now_ms)
        await outbox.ask_again(tx, recipients=began, now_ms=now_ms)


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """A box that asks without end is answered so many times a minute: it waits its two seconds and goes on."""

    telling: Telling
    allowance: Allowance = field(default_factory=lambda: Allowance(QUESTIONS_A_MINUTE))

    async def __call__(self, tx: Statements, uplinks: Sequence[Uplink[PaymentMissing]]) -> None:
        asked = [
            gaps.Gap(device_id=uplink.device_id, from_seq=uplink.message.from_seq, to_seq=uplink.message.to_seq)
            for uplink in uplinks
            if self.allowance.takes(uplink.device_id, at_ms=uplink.received_at_ms)
        ]
        if asked:
            now_ms = max(uplink.received_at_ms for uplink in uplinks)
            await gaps.answer(tx, asked, telling=self.telling, now_ms=now_ms)
