"""Settings from wide to narrow: fleet, merchant, device. What a narrower layer names counts, the rest is inherited."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from soundbox_protocol.configuration import config_bytes
from soundbox_protocol.messages import QUIETEST, BoxConfig
from soundbox_server.fields import Body

OFF = "off"
Settings = Mapping[str, Any]
LocalTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class QuietHours(Body):
    """Quieter, never silent. By the box's local time, which may pass midnight; the same time twice is all day."""

    start: Annotated[LocalTime, Field(examples=["21:30"])]
    end: Annotated[LocalTime, Field(examples=["06:00"])]
    volume: Annotated[int, Field(ge=QUIETEST, le=100, examples=[25])]


class LayerChanges(Body):
    """What is named changes; null leaves it to the wider layer. `quiet_hours: off` means none, whatever the wider
    layer says."""

    volume: Annotated[int | None, Field(ge=0, le=100, examples=[70])] = None
    language: Annotated[Literal["id", "en"] | None, Field(examples=["id"])] = None
    template: Annotated[Literal["amount", "merchant"] | None, Field(examples=["merchant"])] = None
    quiet_hours: QuietHours | Literal["off"] | None = None
    heartbeat_s: Annotated[int | None, Field(ge=5, le=3_600, examples=[60])] = None
    utc_offset_min: Annotated[int | None, Field(ge=-720, le=840, examples=[420])] = None

    digest: Annotated[bool | None, Field(description="told after a birth what it missed", examples=[True])] = None

    def as_settings(self) -> dict[str, Any]:
        """What was named; None where it is to be inherited."""
        return self.model_dump(exclude_unset=True)


def changed(settings: Settings, changes: Settings) -> dict[str, Any]:
    """A layer's settings after these changes, in the order of the fields."""
    after = {**settings, **changes}
    return {name: after[name] for name in LayerChanges.model_fields if after.get(name) is not None}


def merged(layers: Sequence[Settings]) -> dict[str, Any]:
    """What a box is to be like; the layers from wide to narrow."""
    said = {name: value for layer in layers for name, value in layer.items()}
    return {name: value for name, value in said.items() if value != OFF}


def as_sent(layers: Sequence[Settings]) -> bytes:
    """The same in the bytes that travel, and that the hash covers."""
    return config_bytes(BoxConfig.model_validate(merged(layers)))
