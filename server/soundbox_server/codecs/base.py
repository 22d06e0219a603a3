"""What a codec is: how one kind of box is written to and read. Payments, QRs, commands and heartbeats are the same
records whatever the codec; it only knows topics and bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from soundbox_protocol.messages import Command, ConfigPush, DynamicQrDisplay

KeyOf = Callable[[str, int], bytes]  # device id, key version -> announcement key


class Addressee(msgspec.Struct, frozen=True, kw_only=True):
    """A box as it is written to."""

    device_id: str
    serial_number: str
    key_version: int


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A topic, and the exact bytes for it."""

    topic: str
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a heartbeat says; None is what it does not say, or says in a way nobody has seen. `sent_at` is the box's
    word as it stands there."""

    sent_at: str | None = None
    firmware_version: str | None = None
    network_strength: int | None = None  # percent
    battery_level: int | None = None  # percent
    state: str | None = None
    volume: int | None = None  # percent


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What this kind of box can do, whatever one of them says of itself.

    `commands` None: every one there is. `unsigned`: it believes whoever reaches its topic. `unconfirmed`: it answers
    nothing and knows no message again, so each is handed over once and nobody hears what became of it.
    """

    commands: frozenset[str] | None = None
    unsigned: bool = False
    unconfirmed: bool = False
    is_configured: bool = True
    tells_replays: bool = True
    activates_by_code: bool = True


class Codec(Protocol):
    name: str
    traits: Traits

    def payment(self, to: Addressee, said: Mapping[str, Any], *, key_of: KeyOf) -> Written:
        """`said` are the members of a `payment_success`, in their order."""
        ...

    def message(
        self, to: Addressee, said: Command | DynamicQrDisplay | ConfigPush, *, key_of: KeyOf, now_ms: int
    ) -> Written:
        """Raises CapabilityNotSupported for what this kind of box cannot do."""
        ...

    def heartbeat(self, payload: bytes) -> Condition:
        """Never fails: what cannot be read says nothing."""
        ...
