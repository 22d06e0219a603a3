"""What boxes tell of themselves: events, kept with the group that brought them, and live lines of their logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from soundbox_protocol.messages import Event, Log
from soundbox_protocol.times import from_rfc3339
from soundbox_server.db import Statements
from soundbox_server.diagnosis.recorder import Line, Recorder
from soundbox_server.diagnosis.redaction import masked
from soundbox_server.ids import new_id
from soundbox_server.uplinks import Uplink


@dataclass(frozen=True)
class Telemetry:
    recorder: Recorder

    async def on_event(self, tx: Statements, uplinks: Sequence[Uplink[Event]]) -> None:
        rows = [
            (
                new_id("dve"), one.device_id, one.message.code, one.message.level,
                None if one.message.detail is None else masked(one.message.detail),
                from_rfc3339(one.message.timestamp), one.received_at_ms,
            )
            for one in uplinks
        ]  # fmt: skip
        await tx.many(
            "INSERT INTO device_event (id, device_id, code, level, detail, said_at_ms, received_at_ms) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7)",
            rows,
        )
        of_boxes = [one.device_id for one in uplinks]
        tx.after_commit.append(partial(self.recorder.filled, "device_event", of_boxes))

    async def on_log(self, tx: Statements, uplinks: Sequence[Uplink[Log]]) -> None:
        """Sent at QoS 0 and written when there is time: a box that babbles holds nobody up."""
        tx.after_commit.append(partial(self.recorder.logged, [_line(one) for one in uplinks]))


def _line(one: Uplink[Log]) -> Line:
    said = one.message
    return Line(
        device_id=one.device_id,
        level=said.level,
        code=said.code,
        detail=said.detail,
        said_at_ms=from_rfc3339(said.timestamp),
        received_at_ms=one.received_at_ms,
    )
