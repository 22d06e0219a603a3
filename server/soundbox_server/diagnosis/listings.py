"""The lists of what a box said and was sent, as operators look at them."""

from typing import Annotated

from sqlalchemy import select

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.diagnosis.models import DeviceEvent, DeviceLog, LogFile, MqttMessage
from soundbox_server.diagnosis.state import Direction, FileState, Level, Seen
from soundbox_server.fields import Code, Id, Moment
from soundbox_server.paging import Listing, Page, Rows, between, matching

GRAVER = {level: list(Level)[number:] for number, level in enumerate(Level)}  # a level and those above it


class MqttPage(Page):
    direction: Direction | None = None
    outcome: Seen | None = None
    message_id: Id | None = None
    at_from: Moment | None = None
    at_to: Moment | None = None


class MqttMessageView(TypedDict):
    id: str
    device_id: str
    direction: Annotated[str, among(Direction)]
    topic: str
    outcome: Annotated[str, among(Seen)]
    payload: str
    size_bytes: int
    message_id: str | None
    attempt: int | None
    at: Time


def _message(row: MqttMessage) -> MqttMessageView:
    return {
        "id": row.id,
        "device_id": row.device_id,
        "direction": row.direction,
        "topic": row.topic,
        "outcome": row.outcome,
        "payload": row.payload,
        "size_bytes": row.size_bytes,
        "message_id": row.message_id,
        "attempt": row.attempt,
        "at": rfc3339(row.at_ms),
    }


def mqtt_messages(device_id: str) -> Listing[MqttPage]:
    def of_this_box(asked: MqttPage) -> Rows:
        query = matching(
            select(MqttMessage).where(MqttMessage.device_id == device_id),
            (MqttMessage.direction, asked.direction), (MqttMessage.outcome, asked.outcome),
            (MqttMessage.message_id, asked.message_id),
        )  # fmt: skip
        return between(
            query, at=MqttMessage.at_ms, id_=MqttMessage.id, prefix="mqm", from_ms=asked.at_from, to_ms=asked.at_to
        )

    return Listing(asked=MqttPage, key=(MqttMessage.id,), select=of_this_box, show=_message)


class TellingPage(Page):
    level: Level | None = None
    received_from: Moment | None = None
    received_to: Moment | None = None


class EventPage(TellingPage):
    code: Code | None = None


class EventView(TypedDict):
    id: str
    device_id: str
    code: str
    level: Annotated[str, among(Level)]
    detail: str | None
    said_at: Time
    received_at: Time


def event_view(row: DeviceEvent) -> EventView:
    return {
        "id": row.id,
        "device_id": row.device_id,
        "code": row.code,
        "level": row.level,
        "detail": row.detail,
        "said_at": rfc3339(row.said_at_ms),
        "received_at": rfc3339(row.received_at_ms),
    }


def device_events(device_id: str) -> Listing[EventPage]:
    def of_this_box(asked: EventPage) -> Rows:
        query = matching(select(DeviceEvent).where(DeviceEvent.device_id == device_id), (DeviceEvent.code, asked.code))
        if asked.level is not None:
            query = query.where(DeviceEvent.level.in_(GRAVER[asked.level]))
        return between(
            query, at=DeviceEvent.received_at_ms, id_=DeviceEvent.id, prefix="dve", from_ms=asked.received_from,
            to_ms=asked.received_to,
        )  # fmt: skip

    return Listing(asked=EventPage, key=(DeviceEvent.id,), select=of_this_box, show=event_view)


class LogView(TypedDict):
    id: str
    device_id: str
    level: Annotated[str, among(Level)]
    code: str | None
    detail: str
    said_at: Time
    received_at: Time


def log_view(row: DeviceLog) -> LogView:
    return {
        "id": row.id,
        "device_id": row.device_id,
        "level": row.level,
        "code": row.code,
        "detail": row.detail,
        "said_at": rfc3339(row.said_at_ms),
        "received_at": rfc3339(row.received_at_ms),
    }


def device_logs(device_id: str) -> Listing[TellingPage]:
    def of_this_box(asked: TellingPage) -> Rows:
        query: Rows = select(DeviceLog).where(DeviceLog.device_id == device_id)
        if asked.level is not None:
            query = query.where(DeviceLog.level.in_(GRAVER[asked.level]))
        return between(
            query, at=DeviceLog.received_at_ms, id_=DeviceLog.id, prefix="dlg", from_ms=asked.received_from,
            to_ms=asked.received_to,
        )  # fmt: skip

    return Listing(asked=TellingPage, key=(DeviceLog.id,), select=of_this_box, show=log_view)


class LogFileView(TypedDict):
    id: str
    device_id: str
    command_id: str
    status: Annotated[str, among(FileState)]
    size_bytes: int
    received_bytes: int
    sha256: str
    created_at: Time
    finished_at: Time | None
    expires_at: Time | None


def log_file_view(row: LogFile) -> LogFileView:
    return {
        "id": row.id,
        "device_id": row.device_id,
        "command_id": row.command_id,
        "status": row.state,
        "size_bytes": row.size_bytes,
        "received_bytes": row.received_bytes,
        "sha256": row.sha256,
        "created_at": rfc3339(row.created_at_ms),
        "finished_at": rfc3339_or_none(row.finished_at_ms),
        "expires_at": rfc3339_or_none(row.expires_at_ms),
    }


def log_files(device_id: str) -> Listing[Page]:
    def of_this_box(asked: Page) -> Rows:
        return select(LogFile).where(LogFile.device_id == device_id)

    return Listing(asked=Page, key=(LogFile.id,), select=of_this_box, show=log_file_view)
