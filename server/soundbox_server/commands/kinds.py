"""The commands that can be given, how they travel, and how long each is worth doing. Another command is another line
here, a model of its payload in the protocol, and what a box does about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from soundbox_protocol.messages import COMMANDS, Amount, MalformedMessage, QrPayload, read_payload
from soundbox_server.errors import ValidationFailed

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
SHOW_QR_S = 300


class _Payload(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)


class ShowQr(_Payload):
    """The payload of `show_qr`: what the display shows, and for how many seconds from now."""

    qr_payload: QrPayload
    amount: Amount | None = None
    show_for_s: Annotated[int, Field(ge=10, le=900)] = SHOW_QR_S


class ClearQr(_Payload):
    """The payload of `clear_qr`, which is empty: take away whatever is shown."""


class ReplayLast(_Payload):
    """The payload of `replay_last`, which is empty: say the last payment again."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`life_ms`: after that no box begins with it. `result_within_ms`: from delivery to the box's word of its end.

    Of those that wait for a box and share `only_the_latest`, the last one given is worth doing. One that is
    `in_bulk` can be given to many boxes at once.
    """

    name: str
    payload: type[Any]
    life_ms: int
    result_within_ms: int
    travels: Literal["command", "display", "announcement"] = "command"
    only_the_latest: str | None = None
    in_bulk: bool = False


def _command(name: str, **other: Any) -> Kind:
    return Kind(name=name, payload=COMMANDS[name], **other)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        # Who asked for these stands there and waits.
        _command("speak_code", life_ms=5 * MINUTE_MS, result_within_ms=MINUTE_MS),
        _command("play_test", life_ms=5 * MINUTE_MS, result_within_ms=MINUTE_MS, in_bulk=True),
        _command("identify", life_ms=5 * MINUTE_MS, result_within_ms=MINUTE_MS),
        _command("daily_total", life_ms=5 * MINUTE_MS, result_within_ms=MINUTE_MS, only_the_latest="total"),
        # A box that was switched off for the night still gets these.
        _command("set_volume", life_ms=DAY_MS, result_within_ms=MINUTE_MS, only_the_latest="volume", in_bulk=True),
        _command("refresh_config", life_ms=DAY_MS, result_within_ms=MINUTE_MS, only_the_latest="config", in_bulk=True),
        # A whole log takes its time over 2G.
        _command("upload_log", life_ms=HOUR_MS, result_within_ms=10 * MINUTE_MS, only_the_latest="log", in_bulk=True),
        # Who asked for it sits before the screen.
        _command("tail_log", life_ms=5 * MINUTE_MS, result_within_ms=MINUTE_MS, only_the_latest="tail"),
        # Not tomorrow, in the middle of the shop's business.
        _command("reboot", life_ms=10 * MINUTE_MS, result_within_ms=5 * MINUTE_MS, only_the_latest="reboot",
                 in_bulk=True),
        _command("factory_reset", life_ms=10 * MINUTE_MS, result_within_ms=5 * MINUTE_MS),
        # A box that was switched off for the weekend still gets it.
        _command("rotate_credential", life_ms=7 * DAY_MS, result_within_ms=5 * MINUTE_MS),
        Kind(name="show_qr", payload=ShowQr, life_ms=SHOW_QR_S * 1000, result_within_ms=MINUTE_MS, travels="display",
             only_the_latest="display"),
        Kind(name="clear_qr", payload=ClearQr, life_ms=MINUTE_MS, result_within_ms=MINUTE_MS, travels="display",
             only_the_latest="display"),
        Kind(name="replay_last", payload=ReplayLast, life_ms=0, result_within_ms=0, travels="announcement"),
    )
}  # fmt: skip
IN_BULK = tuple(sorted(name for name, kind in KINDS.items() if kind.in_bulk))


def kind_named(name: str) -> Kind:
    """Raises ValidationFailed for a command that there is not."""
    if name not in KINDS:
        raise ValidationFailed("There is no such command.", command_name=name, known=sorted(KINDS))
    return KINDS[name]


def checked_payload(name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload as it is sent. Raises ValidationFailed for one that does not fit, and for members the box would not
    read: somebody expects something of them."""
    model = KINDS[name].payload
    if unknown := sorted(set(payload) - set(model.model_fields)):
        raise ValidationFailed("The payload holds what this command does not know.", fields=unknown)
    try:
        read: dict[str, Any] = read_payload(model, payload).model_dump(exclude_none=True)
    except MalformedMessage as error:
        raise ValidationFailed("The payload does not fit the command.", error=str(error)) from None
    return read


def life_ms(kind: Kind, payload: Mapping[str, Any]) -> int:
    """How long this one is worth doing: a QR as long as it is to be shown."""
    return int(payload["show_for_s"]) * 1000 if "show_for_s" in payload else kind.life_ms
