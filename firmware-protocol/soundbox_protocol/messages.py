"""Messages as they travel: compact UTF-8 JSON, in the order of the fields below.

Readers ignore fields they do not know, so that old boxes understand new hubs; a field is never renamed or retyped.
Integers are strict: neither `true` nor `1.0` is an amount of money. Times are text here, and milliseconds inside the
programs (`times.py`). Downlinks are written without `sig`: signing adds it to the bytes.
"""

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import to_json

from soundbox_protocol.times import from_rfc3339
from soundbox_protocol.topics import DEVICE_ID_PATTERN, Downlink, Uplink, parse_uplink

MAX_PAYLOAD_BYTES = 512  # what every box can take in; one that takes more says so in its capabilities
MAX_MESSAGE_BYTES = 4096  # what a reader looks at at all, whoever sent it
MAX_DEPTH = 20
MAX_AMOUNT = 999_999_999_999  # whole rupiah; the largest amount that can be spoken
MAX_COUNT = 2**31 - 1  # fits the signed 32-bit integer of a small box
NAME_CHARACTERS, NAME_BYTES = 25, 40
COMMAND_BYTES = 240  # of a command's payload as encoded
CONFIG_BYTES = 300  # of a configuration as encoded
QUIETEST = 10  # quiet hours make a box quieter, never silent

# Direction marks and overrides can make a signed name read as another one.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"


_RAW_JSON = json.JSONEncoder(ensure_ascii=False).encode


class MalformedMessage(ValueError):
    """These bytes are no message of this protocol. The text says where and why, never what was in them."""


def merchant_name_for_wire(name: str) -> str:
    """At most 25 characters and 40 bytes as encoded in JSON, cut between characters; controls become spaces."""
    clean = " ".join("".join(map(_shown, unicodedata.normalize("NFC", name))).split())
    kept = clean[:NAME_CHARACTERS]
    while _encoded_bytes(kept) > NAME_BYTES:
        kept = kept[:-1]
    return kept.rstrip(" \u200d")  # a joiner with nothing left to join is shown as an empty square


def _shown(character: str) -> str:
    if character in _BIDI_CONTROLS or "\ud800" <= character <= "\udfff":
        return ""
    return " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character


def _encoded_bytes(text: str) -> int:
    return len(_RAW_JSON(text).encode()) - 2


def _device_id(text: str) -> str:
    if not DEVICE_ID_PATTERN.match(text):
        raise ValueError("not a device id")
    return text


@lru_cache(maxsize=1024)  # messages of one second share their times
def _calendar_time(text: str) -> str:
    from_rfc3339(text)
    return text


def _short_as_encoded(text: str) -> str:
    if _encoded_bytes(text) > NAME_BYTES:
        raise ValueError(f"longer than {NAME_BYTES} bytes as encoded")
    return text


def _small_payload(payload: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(payload)) > COMMAND_BYTES:
        raise ValueError(f"longer than {COMMAND_BYTES} bytes as encoded")
    return payload


def _small_config(config: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(config)) > CONFIG_BYTES:
        raise ValueError(f"longer than {CONFIG_BYTES} bytes as encoded")
    return config


DeviceId = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{2,31}$"),
    AfterValidator(_device_id),
    Field(json_schema_extra={"not": {"pattern": "^(hub-|provision$)"}}),
]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,30}$")]
TerminalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"  # RFC 3339 has a year 0, calendars do not
_TO_THE_SECOND = rf"{_YEAR}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_IS_A_TIME = Field(json_schema_extra={"format": "date-time"})
Second = Annotated[str, StringConstraints(pattern=f"^{_TO_THE_SECOND}Z$"), AfterValidator(_calendar_time), _IS_A_TIME]
Moment = Annotated[
    str,
    StringConstraints(pattern=rf"^{_TO_THE_SECOND}(\.[0-9]{{1,9}})?Z$"),
    AfterValidator(_calendar_time),
    _IS_A_TIME,
]
Amount = Annotated[int, Field(ge=1, le=MAX_AMOUNT)]
Currency = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Seq = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Percent = Annotated[int, Field(ge=0, le=100)]
ShortText = Annotated[str, StringConstraints(pattern=_NO_CONTROLS, max_length=64)]
LongText = Annotated[str, StringConstraints(pattern=_NO_CONTROLS, max_length=255)]
MerchantName = Annotated[
    str,
    StringConstraints(pattern=_NO_CONTROLS, max_length=NAME_CHARACTERS),
    AfterValidator(_short_as_encoded),
]
QrPayload = Annotated[str, StringConstraints(pattern="^[ -~]{1,512}$")]  # EMVCo's own ceiling, printable ASCII
ErrorCode = Annotated[str, StringConstraints(pattern="^[A-Z][A-Z0-9_]{0,47}$")]
CredentialId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,36}$")]
SerialNumber = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{3,64}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,64}$")]
CommandName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,31}$")]
CommandPayload = Annotated[dict[str, Any], AfterValidator(_small_payload)]
ConfigDocument = Annotated[dict[str, Any], AfterValidator(_small_config)]
ConfigVersion = Annotated[int, Field(ge=1, le=MAX_COUNT)]
LocalTime = Annotated[str, StringConstraints(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Template = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]{0,23}$")]
LogLevel = Literal["debug", "info", "warning", "error"]
EventCode = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,31}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Sealed = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{40,}$")]  # sealing.py writes and opens it


class _Wire(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", hide_input_in_errors=True, serialize_by_alias=True
    )


class Message(_Wire):
    """What all messages have in common. Each one names its own `message_type`."""

    message_type: str


# --- uplinks -------------------------------------------------------------------------------------------------------


class Capabilities(_Wire):
    """What a box can do. A box that says nothing is a small one: 512 bytes, clips, a display, signatures verified."""

    max_payload_bytes: Annotated[int, Field(ge=MAX_PAYLOAD_BYTES, le=65_535)] = MAX_PAYLOAD_BYTES
    tts: bool = False
    clips: bool = True
    url: bool = False
    display: bool = True
    mqtt5: bool = False
    command_progress: bool = False
    verify_signature: bool = True
    # Later than the first edition, and left out where they are as always: boxes and vectors of that edition stay valid.
    clock: Annotated[bool, Field(exclude_if=bool)] = True  # knows the time without asking, also after a power cut
    digest: Annotated[bool, Field(exclude_if=bool)] = True


class AudioPack(_Wire):
    """The voice pack a box reports having."""

    version: ShortText
    sha256: Sha256


class Status(Message):
    """The birth of a session and, as last will, its end. The will carries the epoch of the birth it belongs to."""

    message_type: Literal["status"] = "status"
    device_id: DeviceId
    timestamp: Moment
    state: Literal["online", "offline"]
    session_epoch: Annotated[int, Field(ge=0, le=2**53 - 1)]
    firmware_version: ShortText | None = None
    capabilities: Annotated[Capabilities, Field(exclude_if=lambda offered: offered == Capabilities())] = Capabilities()
    audio_pack: AudioPack | None = None
    last_announcement_seq: Count | None = None
    config_version: Count | None = None
    reset_reason: ShortText | None = None
    config_sha256: Sha256 | None = None


class Heartbeat(Message):
    """How the box is doing, every so often and at QoS 0: losing one costs nothing."""

    message_type: Literal["heartbeat"] = "heartbeat"
    device_id: DeviceId
    timestamp: Moment
    firmware_version: ShortText
    network_strength: Percent | None = None
    battery_level: Percent | None = None  # a box on mains power has none
    state: Literal["idle", "playing", "qr", "updating", "fault"]
    volume: Percent | None = None
    queue_depth: Count | None = None
    clock_skew_ms: Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)] | None = None
    uptime_s: Count | None = None
    bytes_today: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = None
    config_sha256: Sha256 | None = None  # of the configuration that is in force, so that a difference is noticed


class DynamicQrRequest(Message):
    """Please show a QR for this amount. An amount that cannot be sold is answered, so its range is not checked here."""

    message_type: Literal["dynamic_qr_request"] = "dynamic_qr_request"
    device_id: DeviceId
    timestamp: Moment | None = None  # the first contract had `created_at` alone, and boxes were built for it
    request_id: Identifier
    terminal_id: TerminalId
    amount: Annotated[int, Field(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
    currency: Currency
    created_at: Moment


class PaymentAck(Message):
    """What became of one announcement. Boxes repeat it until the broker has taken it."""

    message_type: Literal["payment_ack"] = "payment_ack"
    device_id: DeviceId
    timestamp: Moment
    event_id: Identifier
    status: Literal["received", "played", "duplicate", "stale_skipped", "rejected", "failed"]
    played_at: Moment | None = None
    reason: ShortText | None = None


class PaymentMissing(Message):
    """A later announcement came and these did not: asked once for each gap, both ends included."""

    message_type: Literal["payment_missing"] = "payment_missing"
    device_id: DeviceId
    timestamp: Moment
    from_seq: Seq
    to_seq: Seq

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.to_seq < self.from_seq:
            raise ValueError("to_seq is not before from_seq")
        return self


class TimeRequest(Message):
    """A box that lost its clock asks for the time. Its `timestamp` is whatever its clock says."""

    message_type: Literal["time_request"] = "time_request"
    device_id: DeviceId
    timestamp: Moment
    nonce: Identifier


class Event(Message):
    """Something for an operator to see: `tamper`, `low_battery`, `audio_fault`, `button_replay`, `button_total`, …"""

    message_type: Literal["event"] = "event"
    device_id: DeviceId
    timestamp: Moment
    code: EventCode
    level: Literal["info", "warning", "error"] = "info"
    detail: LongText | None = None


class Log(Message):
    """A line of the box's log, while `tail_log` asked for it. Losing one costs nothing."""

    message_type: Literal["log"] = "log"
    device_id: DeviceId
    timestamp: Moment
    level: LogLevel = "info"
    code: EventCode | None = None
    detail: LongText


class CommandAck(Message):
    """What became of one command. Over HTTP, as in the first contract, `message_type` and `timestamp` are left out."""

    message_type: Literal["command_ack"] = "command_ack"
    device_id: DeviceId
    timestamp: Moment | None = None
    command_id: Identifier
    status: Literal["delivered", "progress", "succeeded", "failed", "rejected", "timeout"]
    reason: ShortText | None = None
    result_payload: dict[str, Any] | None = None


class CredentialRequest(Message):
    """A new credential, please; with `confirm`, that one is stored and takes effect. The same may be asked again."""

    message_type: Literal["credential_request"] = "credential_request"
    device_id: DeviceId
    timestamp: Moment
    request_id: Identifier
    confirm: CredentialId | None = None


class ConfigAck(Message):
    """What became of a configuration. Over HTTP `message_type` and `timestamp` are left out."""

    message_type: Literal["config_ack"] = "config_ack"
    device_id: DeviceId
    timestamp: Moment | None = None
    config_version: ConfigVersion
    status: Literal["applied", "rejected"]
    sha256: Sha256 | None = None
    errors: Annotated[list[ShortText], Field(max_length=8)] | None = None


# --- downlinks -----------------------------------------------------------------------------------------------------


class DynamicQrResponse(Message):
    """The answer to a request: a QR to show until it expires, or the reason why there is none."""

    message_type: Literal["dynamic_qr_response"] = "dynamic_qr_response"
    correlation_id: Identifier
    transaction_id: Identifier | None = None
    status: Literal["success", "failed"]
    qr_payload: QrPayload | None = None
    expires_at: Second | None = None
    error_code: ErrorCode | None = None

    @model_validator(mode="after")
    def _is_a_qr_or_a_reason(self) -> Self:
        if self.status == "success" and None in (self.transaction_id, self.qr_payload, self.expires_at):
            raise ValueError("success needs transaction_id, qr_payload and expires_at")
        if self.status == "failed" and (self.error_code is None or self.qr_payload is not None):
            raise ValueError("failed needs error_code and carries no qr_payload")
        return self


class DynamicQrDisplay(Message):
    """What the display shows about a transaction that was not asked for on the box itself, or that ended.

    With `command_id` it is an operator's wish, and acked as every command is.
    """

    message_type: Literal["dynamic_qr_display"] = "dynamic_qr_display"
    transaction_id: Identifier | None = None
    command_id: Identifier | None = None
    action: Literal["show", "clear", "paid", "expired"]
    qr_payload: QrPayload | None = None
    amount: Amount | None = None
    expires_at: Second | None = None

    @model_validator(mode="after")
    def _shows_a_qr_or_none(self) -> Self:
        if (self.action == "show") != (self.qr_payload is not None):
            raise ValueError("show needs qr_payload, and only show carries one")
        return self

    @model_validator(mode="after")
    def _is_of_a_payment_or_of_a_command(self) -> Self:
        if (self.transaction_id is None) == (self.command_id is None):
            raise ValueError("it names either its transaction_id or its command_id")
        if self.command_id is not None and (self.action not in ("show", "clear") or self.expires_at is None):
            raise ValueError("a command shows or clears, and has expires_at")
        return self


class PaymentSuccess(Message):
    """Money arrived: say so once per event_id, and not after expires_at. With original_event_id it is a replay."""

    message_type: Literal["payment_success"] = "payment_success"
    event_id: Identifier
    transaction_id: Identifier
    seq: Seq
    merchant_name: MerchantName
    amount: Amount
    currency: Currency
    paid_at: Second
    issued_at: Second
    expires_at: Second
    original_event_id: Identifier | None = None


class PaymentDigest(Message):
    """What was never heard, in one sentence: so many payments between `from` and `to`, and what they came to."""

    message_type: Literal["payment_digest"] = "payment_digest"
    event_id: Identifier
    seq: Seq
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    amount: Amount
    from_: Annotated[Second, Field(alias="from")]
    to: Second
    issued_at: Second
    expires_at: Second


class PaymentSkip(Message):
    """These will not come, both ends included: nobody needs to wait for them."""

    message_type: Literal["payment_skip"] = "payment_skip"
    from_seq: Seq
    to_seq: Seq

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.to_seq < self.from_seq:
            raise ValueError("to_seq is not before from_seq")
        return self


class Time(Message):
    """The hub's time, for the nonce that asked: an answer recorded earlier does not fit a new question."""

    message_type: Literal["time"] = "time"
    server_time: Second
    nonce: Identifier


class Command(Message):
    """Something an operator wants done, once per command_id and not after expires_at."""

    message_type: Literal["command"] = "command"
    command_id: Identifier
    command_name: CommandName
    payload: CommandPayload
    issued_at: Second
    expires_at: Second


class SpeakCode(_Wire):
    """The payload of `speak_code`: digits to say one by one, so that whoever stands at the box can repeat them."""

    code: Annotated[str, StringConstraints(pattern="^[0-9]{4,8}$")]


class RotateCredential(_Wire):
    """The payload of `rotate_credential`, which is empty: ask for a new credential over MQTT, now."""


class SetVolume(_Wire):
    """The payload of `set_volume`: in force until the next one, or the next configuration."""

    volume: Percent


class DailyTotal(_Wire):
    """The payload of `daily_total`: what came in today, to be said aloud."""

    count: Count
    amount: Annotated[int, Field(ge=0, le=MAX_AMOUNT)]


class UploadLog(_Wire):
    """The payload of `upload_log`: so many of the box's last log lines come back in the ack's `result_payload`. With
    `whole` all it has goes to the hub in pieces over HTTP instead."""

    lines: Annotated[int, Field(ge=1, le=40)] = 20
    whole: bool | None = None


class TailLog(_Wire):
    """The payload of `tail_log`: for so many seconds send each line of this level or a graver one as it is written."""

    level: LogLevel = "info"
    for_s: Annotated[int, Field(ge=10, le=900)] = 300


class PlayTest(_Wire):
    """The payload of `play_test`, which is empty: say something, so that somebody hears whether the speaker works."""


class Identify(_Wire):
    """The payload of `identify`, which is empty: this one here is meant, say so."""


class Reboot(_Wire):
    """The payload of `reboot`, which is empty. Done once the box is back."""


class FactoryReset(_Wire):
    """The payload of `factory_reset`, which is empty: forget every setting. Name, credentials and journal stay."""


class RefreshConfig(_Wire):
    """The payload of `refresh_config`, which is empty: take in the retained configuration again."""


class QuietHours(_Wire):
    """From `start` to `end` by the box's local time, which may pass midnight, it speaks no louder than `volume`. The
    same time twice is all day."""

    start: LocalTime
    end: LocalTime
    volume: Annotated[int, Field(ge=QUIETEST, le=100)]


class BoxConfig(_Wire):
    """What a configuration may hold. What it does not name is as the box left the factory."""

    volume: Percent | None = None
    language: Literal["id", "en"] | None = None
    template: Template | None = None
    quiet_hours: QuietHours | None = None
    heartbeat_s: Annotated[int, Field(ge=5, le=3_600)] | None = None
    utc_offset_min: Annotated[int, Field(ge=-720, le=840)] | None = None
    digest: bool | None = None  # whether it is told what it missed; as it left the factory it is


class ConfigPush(Message):
    """The configuration a box is to have, whole. `sha256` covers the bytes of `config` as they stand here."""

    message_type: Literal["config_push"] = "config_push"
    config_version: ConfigVersion
    config: ConfigDocument
    sha256: Sha256


class CredentialResponse(Message):
    """A new credential with its secrets sealed, or the word that one is in force, or why not."""

    message_type: Literal["credential_response"] = "credential_response"
    correlation_id: Identifier
    status: Literal["issued", "confirmed", "failed"]
    credential_id: CredentialId | None = None
    error_code: ErrorCode | None = None
    sealed: Sealed | None = None

    @model_validator(mode="after")
    def _is_a_credential_or_a_reason(self) -> Self:
        if self.status == "failed" and (self.error_code is None or self.sealed is not None):
            raise ValueError("failed needs error_code and carries nothing sealed")
        if self.status != "failed" and self.credential_id is None:
            raise ValueError("issued and confirmed need credential_id")
        if (self.status == "issued") != (self.sealed is not None):
            raise ValueError("issued needs sealed, and only issued carries it")
        return self


# --- before a box has a name ---------------------------------------------------------------------------------------


class ProvisionRequest(Message):
    """Please tell me who I am. Signed with a key made of the activation code and the nonce in the topic."""

    message_type: Literal["provision_request"] = "provision_request"
    serial_number: SerialNumber


class ProvisionResponse(Message):
    """Who the box is and where it goes on air, its secrets sealed beside it; or that code and serial do not fit."""

    message_type: Literal["provision_response"] = "provision_response"
    status: Literal["success", "failed"]
    device_id: DeviceId | None = None
    key_version: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    host: Host | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    tls: bool | None = None
    server_time: Second | None = None
    retry_after_s: Annotated[int, Field(ge=0, le=3600)] | None = None
    error_code: ErrorCode | None = None
    sealed: Sealed | None = None

    @model_validator(mode="after")
    def _is_a_name_or_a_reason(self) -> Self:
        told = (self.device_id, self.key_version, self.host, self.port, self.tls)
        if self.status == "success" and None in told:
            raise ValueError("success needs device_id, key_version, host, port and tls")
        if self.status == "failed" and (self.error_code is None or self.sealed is not None):
            raise ValueError("failed needs error_code and carries nothing sealed")
        return self


PROVISIONING: Mapping[str, type[Message]] = {"request": ProvisionRequest, "response": ProvisionResponse}
"""The messages under `provision/{nonce}/`, for a box that has no name yet."""

COMMANDS: Mapping[str, type[_Wire]] = {
    "speak_code": SpeakCode,
    "rotate_credential": RotateCredential,
    "set_volume": SetVolume,
    "play_test": PlayTest,
    "identify": Identify,
    "daily_total": DailyTotal,
    "reboot": Reboot,
    "upload_log": UploadLog,
    "factory_reset": FactoryReset,
    "refresh_config": RefreshConfig,
    "tail_log": TailLog,
}
"""The commands of this edition and what their payload holds. A box answers `rejected` to any other."""


MESSAGES: Mapping[Uplink | Downlink, type[Message]] = {
    Uplink.STATUS: Status,
    Uplink.HEARTBEAT: Heartbeat,
    Uplink.DYNAMIC_QR_REQUEST: DynamicQrRequest,
    Uplink.PAYMENT_ACK: PaymentAck,
    Uplink.PAYMENT_MISSING: PaymentMissing,
    Uplink.TIME_REQUEST: TimeRequest,
    Uplink.EVENT: Event,
    Uplink.COMMAND_ACK: CommandAck,
    Uplink.CREDENTIAL_REQUEST: CredentialRequest,
    Uplink.CONFIG_ACK: ConfigAck,
    Uplink.LOG: Log,
    Downlink.DYNAMIC_QR_RESPONSE: DynamicQrResponse,
    Downlink.DYNAMIC_QR_DISPLAY: DynamicQrDisplay,
    Downlink.PAYMENT_SUCCESS: PaymentSuccess,
    Downlink.PAYMENT_DIGEST: PaymentDigest,
    Downlink.PAYMENT_SKIP: PaymentSkip,
    Downlink.TIME: Time,
    Downlink.COMMAND: Command,
    Downlink.CREDENTIAL_RESPONSE: CredentialResponse,
    Downlink.CONFIG_PUSH: ConfigPush,
}

_SAID_BY_DEVICES: Mapping[str, type[Message]] = {
    channel.value: model for channel, model in MESSAGES.items() if isinstance(channel, Uplink)
}

M = TypeVar("M", bound=Message)
P = TypeVar("P", bound=_Wire)


# --- to bytes and back ---------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """Compact UTF-8 JSON in the order of the fields; what is None is left out."""
    return message.model_dump_json(exclude_none=True).encode()


def decode(model: type[M], payload: bytes | memoryview, *, message_type_optional: bool = False) -> M:
    """Read one message. Raises MalformedMessage on everything that is not exactly one, and nothing else.

    A signed payload is verified first (`signing.verify`), and what that returns is decoded here. Over HTTP the path
    says what a body is, so there `message_type_optional` lets it be left out.
    """
    document = _read_object(bytes(payload))
    expected = model.__pydantic_fields__["message_type"].default
    # The constructor fills message_type in; on the wire it must have been said.
    if document.get("message_type", expected if message_type_optional else None) != expected:
        raise MalformedMessage("message_type: another one was expected")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise MalformedMessage(_where_and_why(error)) from None


def decode_uplink(topic: str, payload: bytes | memoryview) -> Message:
    """Read whatever a device said on `topic`, with the model of its channel. Raises MalformedMessage.

    The broker vouches for the id in the topic; a message that claims another `device_id` is refused.
    """
    device_id, channel = parse_uplink(topic) or ("", "")
    model = _SAID_BY_DEVICES.get(channel)
    if model is None:
        raise MalformedMessage("no such uplink topic")
    message = decode(model, payload)
    if getattr(message, "device_id", None) != device_id:
        raise MalformedMessage("device_id: differs from the topic's")
    return message


def read_payload(model: type[P], payload: Mapping[str, Any]) -> P:
    """The payload of a command as its own model. Raises MalformedMessage, which names the member that is wrong."""
    try:
        return model.model_validate(dict(payload))
    except ValidationError as error:
        raise MalformedMessage(_where_and_why(error)) from None


def _read_object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_MESSAGE_BYTES:
        raise MalformedMessage(f"longer than {MAX_MESSAGE_BYTES} bytes")
    try:
        text = payload.decode()
        _refuse_depth(text)
        document = _as_written(payload) or _JSON.decode(text)
    except MalformedMessage:
        raise
    except ValueError:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise MalformedMessage("not JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise MalformedMessage("not a JSON object")
    if "\\u" in text:
        _refuse_unstorable(document)
    return document


def _as_written(payload: bytes) -> Any:
    """What a quick reader makes of JSON that it writes again byte by byte: so no key was there twice, and no number
    lost anything. None for all other JSON, and for what is none."""
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return document if orjson.dumps(document) == payload else None


def _refuse_depth(text: str) -> None:
    """Before parsing, because the parser recurses. Most messages hold so few brackets that counting them settles it."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth, quoted, escaped = 0, False, False
    for character in text:
        if quoted:
            quoted, escaped = escaped or character != '"', character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        if depth > MAX_DEPTH:
            raise MalformedMessage(f"nested deeper than {MAX_DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may pick different ones of two equal keys, so neither may be believed.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedMessage("a key appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise MalformedMessage("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedMessage("a number too large")
    return number


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _refuse_unstorable(document: dict[str, Any]) -> None:
    # Only escapes can bring these in: raw ones are not UTF-8 or not JSON. PostgreSQL stores neither.
    for text in _texts(document):
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise MalformedMessage("NUL or half a surrogate pair in a text")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _where_and_why(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'message'}: {first['msg'].removeprefix('Value error, ')}"
