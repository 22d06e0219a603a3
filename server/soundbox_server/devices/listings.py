"""The lists of boxes and of what they said, for their doors and for exports."""

from typing import Annotated

from pydantic import Field
from sqlalchemy import and_, or_, select

from soundbox_server import clock
from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.codecs.choice import CODECS, NATIVE, traits_of
from soundbox_server.devices import views
from soundbox_server.devices.models import Device, DeviceBinding, DeviceHeartbeat, DevicePresence
from soundbox_server.devices.presence import HEARTBEAT_S, Clock, Reach, can_speak, clock_of, reach
from soundbox_server.devices.state import DeviceState
from soundbox_server.fields import Id, Moment, Search
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.paging import Listing, Page, Rows, beginning, between, matching

TAG = r"^[a-z0-9-]{1,32}$"


def stored_tags(tags: list[str]) -> str:
    """Each between two blanks, so that one is found without finding what it is a part of."""
    return " ".join(["", *sorted(set(tags)), ""]) if tags else ""


class DeviceFilters(Page):
    status: DeviceState | None = None
    online: bool | None = None
    merchant_id: Id | None = None
    outlet_id: Id | None = None
    terminal_id: Id | None = None
    vendor: Id | None = None
    model: Id | None = None
    tag: Annotated[str | None, Field(pattern=TAG)] = None
    q: Annotated[Search | None, Field(description="beginning of an id, serial number or label")] = None
    last_seen_before: Annotated[Moment | None, Field(description="also boxes that were never heard of")] = None


_HEARD = (
    select(OutboxMessage.played_at_ms)
    .where(OutboxMessage.recipient_id == Device.id, OutboxMessage.kind == "payment_success")
    .where(OutboxMessage.state == "played").order_by(OutboxMessage.id.desc()).limit(1).correlate(Device)
    .scalar_subquery()
)  # fmt: skip


def devices() -> Rows:
    """Each box with its binding in force, what it last said, and when it last played a payment."""
    query: Rows = (
        select(Device, DeviceBinding, DevicePresence, _HEARD)
        .outerjoin(DeviceBinding, and_(DeviceBinding.device_id == Device.id, DeviceBinding.unbound_at_ms.is_(None)))
        .outerjoin(DevicePresence, DevicePresence.device_id == Device.id)
    )
    return query


def _select(asked: DeviceFilters) -> Rows:
    query = matching(
        devices(),
        (Device.state, asked.status), (Device.vendor, asked.vendor), (Device.model, asked.model),
        (DeviceBinding.merchant_id, asked.merchant_id), (DeviceBinding.outlet_id, asked.outlet_id),
        (DeviceBinding.terminal_id, asked.terminal_id),
    )  # fmt: skip
    if asked.online is not None:
        query = query.where(DevicePresence.online.is_(True) if asked.online else DevicePresence.online.is_not(True))
    if asked.tag:
        query = query.where(Device.tags.contains(f" {asked.tag} ", autoescape=True))
    if asked.q:
        query = query.where(
            or_(*(beginning(column, asked.q) for column in (Device.id, Device.serial_number, Device.label)))
        )
    if asked.last_seen_before is not None:
        seen = DevicePresence.last_seen_at_ms
        query = query.where(or_(seen.is_(None), seen < asked.last_seen_before))
    return query


class PresenceView(TypedDict):
    online: bool
    session_epoch: int
    last_seen_at: Time
    changed_at: Time
    heartbeat_at: Time | None
    heartbeat_every_s: int
    reachable: Annotated[str, among(Reach)]
    offline_reason: str | None
    quarantine: str | None
    can_speak: bool | None
    firmware_version: str | None
    max_payload_bytes: int
    verifies_signatures: bool
    clock: Annotated[str, among(Clock)]
    takes_digests: bool
    network_strength: int | None
    battery_level: int | None
    state: str | None
    volume: int | None


class DeviceView(TypedDict):
    id: str
    serial_number: str
    vendor: str
    model: str
    codec: str
    unsigned: bool
    unconfirmed: bool
    label: str | None
    notes: str | None
    tags: list[str]
    status: Annotated[str, among(DeviceState)]
    status_reason: str | None
    key_version: int
    last_announcement_seq: int
    created_at: Time
    binding: views.BindingView | None
    presence: PresenceView | None
    heard_at: Time | None


def device_view(
    device: Device, binding: DeviceBinding | None, presence: DevicePresence | None, heard_at_ms: int | None
) -> DeviceView:
    return {
        "id": device.id,
        "serial_number": device.serial_number,
        "vendor": device.vendor,
        "model": device.model,
        "codec": device.codec,
        "unsigned": traits_of(device.codec).unsigned,
        "unconfirmed": traits_of(device.codec).unconfirmed,
        "label": device.label,
        "notes": device.notes,
        "tags": device.tags.split(),
        "status": device.state,
        "status_reason": device.state_reason,
        "key_version": device.key_version,
        "last_announcement_seq": device.last_seq,
        "created_at": rfc3339(device.created_at_ms),
        "binding": views.binding(binding) if binding else None,
        "presence": _presence(presence) if presence else None,
        "heard_at": rfc3339_or_none(heard_at_ms),
    }


def _presence(presence: DevicePresence) -> PresenceView:
    time_from = clock_of(
        has_clock=presence.has_clock,
        time_asked_at_ms=presence.time_asked_at_ms,
        session_at_ms=presence.session_at_ms,
    )
    return {
        "online": presence.online,
        "session_epoch": presence.session_epoch,
        "last_seen_at": rfc3339(presence.last_seen_at_ms),
        "changed_at": rfc3339(presence.changed_at_ms),
        "heartbeat_at": rfc3339_or_none(presence.heartbeat_at_ms),
        "heartbeat_every_s": presence.heartbeat_s or HEARTBEAT_S,
        "reachable": reach(
            online=presence.online,
            session_at_ms=presence.session_at_ms,
            heartbeat_at_ms=presence.heartbeat_at_ms,
            every_s=presence.heartbeat_s,
            now_ms=clock.now_ms(),
        ).value,
        "offline_reason": presence.offline_reason,
        "quarantine": presence.quarantine,
        "can_speak": can_speak(volume=presence.volume, state=presence.state, clock=time_from),
        "firmware_version": presence.firmware_version,
        "max_payload_bytes": presence.max_payload_bytes,
        "verifies_signatures": presence.verifies_signatures,
        "clock": time_from.value,
        "takes_digests": presence.takes_digests,
        "network_strength": presence.network_strength,
        "battery_level": presence.battery_level,
        "state": presence.state,
        "volume": presence.volume,
    }


_DEVICE_COLUMNS = (
    "id", "serial_number", "vendor", "model", "label", "status", "created_at", "binding.merchant_id",
    "binding.outlet_id", "binding.terminal_id", "binding.bound_at", "presence.online", "presence.last_seen_at",
    "presence.heartbeat_at", "presence.firmware_version", "presence.network_strength", "presence.battery_level",
    "codec", "unsigned", "unconfirmed",
)  # fmt: skip
DEVICES = Listing(
    asked=DeviceFilters, key=(Device.id,), select=_select, show=device_view, columns=_DEVICE_COLUMNS,
    newest_first=False,
)  # fmt: skip


class HeartbeatPage(Page):
    received_from: Moment | None = None
    received_to: Moment | None = None


class HeartbeatFilters(HeartbeatPage):
    device_id: Id | None = None


def _select_heartbeats(asked: HeartbeatFilters) -> Rows:
    query = select(DeviceHeartbeat)
    if asked.device_id:
        query = query.where(DeviceHeartbeat.device_id == asked.device_id)
    return between(
        query, at=DeviceHeartbeat.received_at_ms, id_=DeviceHeartbeat.id, prefix="hbt",
        from_ms=asked.received_from, to_ms=asked.received_to,
    )  # fmt: skip


class HeartbeatView(TypedDict):
    id: str
    device_id: str
    received_at: Time
    source: str
    sent_at: str | None
    firmware_version: str | None
    network_strength: int | None
    battery_level: int | None
    state: str | None
    volume: int | None
    payload: str


def _heartbeat(row: DeviceHeartbeat) -> HeartbeatView:
    """The payload stays readable however strange it is: what it says is None where it cannot be read."""
    said = CODECS.get(row.source, NATIVE).heartbeat(row.payload)
    return {
        "id": row.id,
        "device_id": row.device_id,
        "received_at": rfc3339(row.received_at_ms),
        "source": row.source,
        "sent_at": said.sent_at,
        "firmware_version": said.firmware_version,
        "network_strength": said.network_strength,
        "battery_level": said.battery_level,
        "state": said.state,
        "volume": said.volume,
        "payload": row.payload.decode("utf-8", "replace"),
    }


_HEARTBEAT_COLUMNS = (
    "id", "device_id", "received_at", "source", "sent_at", "firmware_version", "network_strength", "battery_level",
    "state", "volume", "payload",
)  # fmt: skip
HEARTBEATS = Listing(
    asked=HeartbeatFilters, key=(DeviceHeartbeat.id,), select=_select_heartbeats, show=_heartbeat,
    columns=_HEARTBEAT_COLUMNS,
)  # fmt: skip
