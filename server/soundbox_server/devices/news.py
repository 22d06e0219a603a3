"""What others hear of boxes (webhooks/): that one of a merchant's can be reached, or cannot any more."""

from collections.abc import Sequence
from dataclasses import dataclass

from soundbox_server.clock import rfc3339
from soundbox_server.db import Statements
from soundbox_server.webhooks.service import HEARD, Event, tell


@dataclass(frozen=True, kw_only=True)
class Change:
    """A box came online, or went. `reason` is why it went."""

    device_id: str
    online: bool
    at_ms: int
    reason: str | None = None


_BOUND = f"""
SELECT b.device_id, b.merchant_id, b.outlet_id, b.terminal_id, d.serial_number, d.label, m.organisation_id
FROM device_binding b JOIN device d ON d.id = b.device_id JOIN merchant m ON m.id = b.merchant_id
WHERE b.device_id {{among}} AND b.unbound_at_ms IS NULL AND {HEARD}
"""


async def tell_changes(tx: Statements, changes: Sequence[Change]) -> None:
    """Tell the merchants at whose tills these boxes stand."""
    if not changes:
        return
    rows = await tx.fetch(_BOUND.format(among=tx.among(1)), sorted({change.device_id for change in changes}))
    bound = {row["device_id"]: row for row in rows}
    await tell(
        tx,
        [
            Event(
                type="device.online" if change.online else "device.offline",
                organisation_id=box["organisation_id"],
                merchant_id=box["merchant_id"],
                at_ms=change.at_ms,
                data={
                    "device_id": change.device_id,
                    "serial_number": box["serial_number"],
                    "label": box["label"],
                    "merchant_id": box["merchant_id"],
                    "outlet_id": box["outlet_id"],
                    "terminal_id": box["terminal_id"],
                    "online": change.online,
                    "reason": change.reason,
                    "since": rfc3339(change.at_ms),
                },
            )
            for change in changes
            if (box := bound.get(change.device_id)) is not None
        ],
    )
