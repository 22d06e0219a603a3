"""What other makers' boxes say over MQTT: that they live."""

from collections.abc import Sequence

from soundbox_server.codecs import qf100
from soundbox_server.codecs.choice import QF100
from soundbox_server.db import Statements
from soundbox_server.devices import presence, service
from soundbox_server.devices.state import IN_SERVICE
from soundbox_server.uplinks import Foreign, ForeignUplinks

_IN_SERVICE = ", ".join(f"'{state}'" for state in IN_SERVICE)


async def on_qf100_heartbeat(tx: Statements, said: Sequence[Foreign]) -> None:
    """Recorded as every heartbeat is. It is also the only birth such a box has, and its silence the only end."""
    senders = [(one, qf100.heartbeat_sender(one.topic)) for one in said]
    serials = sorted({serial for _, serial in senders if serial is not None})
    rows = await tx.fetch(
        f"SELECT id, serial_number FROM device WHERE serial_number {tx.among(1)} AND codec = $2 "
        f"AND state IN ({_IN_SERVICE})",
        serials,
        QF100.name,
    )
    ids = {row["serial_number"]: row["id"] for row in rows}
    beats = [_vitals(one, ids[serial]) for one, serial in senders if serial in ids]
    if not beats:
        return
    await service.take_heartbeats(tx, beats)
    await presence.come_alive(tx, [beat.device_id for beat in beats], at_ms=beats[-1].received_at_ms)


def _vitals(said: Foreign, device_id: str) -> service.Vitals:
    told = QF100.heartbeat(said.payload)
    return service.Vitals(
        device_id=device_id,
        payload=said.payload[: qf100.HEARTBEAT_BYTES],
        source=QF100.name,
        received_at_ms=said.received_at_ms,
        firmware_version=told.firmware_version,
        network_strength=told.network_strength,
        battery_level=told.battery_level,
        state=told.state,
        volume=told.volume,
        verifies_signatures=False,
    )


UPLINKS = ForeignUplinks(
    topic_filter=qf100.HEARTBEAT_FILTER,
    is_one=lambda topic: qf100.heartbeat_sender(topic) is not None,
    handle=on_qf100_heartbeat,
)
