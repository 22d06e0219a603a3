"""The commands that can be given, and how long each is worth doing. Another command is another line here, a model of
its payload in the protocol, and what a box does about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soundbox_protocol.messages import COMMANDS, MalformedMessage, read_payload
from soundbox_server.errors import ValidationFailed


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`life_ms`: after that no box begins with it. `result_within_ms`: from delivery to the box's word of its end."""

    name: str
    life_ms: int
    result_within_ms: int


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        # Who asked for it stands there and waits.
        Kind(name="speak_code", life_ms=300_000, result_within_ms=60_000),
        # A box that was switched off for the weekend still gets it.
        Kind(name="rotate_credential", life_ms=7 * 86_400_000, result_within_ms=300_000),
    )
}


def kind_named(name: str) -> Kind:
    """Raises ValidationFailed for a command that there is not."""
    if name not in KINDS:
        raise ValidationFailed("There is no such command.", command_name=name, known=sorted(KINDS))
    return KINDS[name]


def checked_payload(name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload as it is sent. Raises ValidationFailed for one that does not fit, and for members the box would not
    read: somebody expects something of them."""
    model = COMMANDS[name]
    if unknown := sorted(set(payload) - set(model.model_fields)):
        raise ValidationFailed("The payload holds what this command does not know.", fields=unknown)
    try:
        return read_payload(model, payload).model_dump(exclude_none=True)
    except MalformedMessage as error:
        raise ValidationFailed("The payload does not fit the command.", error=str(error)) from None
