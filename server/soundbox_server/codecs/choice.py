"""Which codec a box gets: by its vendor and model, when it is registered."""

from soundbox_server.codecs import qf100
from soundbox_server.codecs.base import Codec as Codec
from soundbox_server.codecs.base import Traits
from soundbox_server.codecs.native import Native
from soundbox_server.codecs.qf100 import Qf100
from soundbox_server.errors import CapabilityNotSupported, ValidationFailed

NATIVE: Codec = Native()
QF100: Codec = Qf100()
CODECS: dict[str, Codec] = {codec.name: codec for codec in (NATIVE, QF100)}


def codec_of(vendor: str, model: str) -> Codec:
    """A box that nobody has another codec for speaks our own protocol."""
    if vendor != NATIVE.name and (vendor == QF100.name or model.upper() in qf100.MODELS):
        return QF100
    return NATIVE


def require_serial(codec: Codec, serial_number: str) -> None:
    """Raises ValidationFailed for a serial number that cannot be part of this codec's topics."""
    if codec is QF100 and not qf100.SERIAL_PATTERN.fullmatch(serial_number):
        raise ValidationFailed(
            "A QF100's serial number has 3 to 32 of A-Z, 0-9, dot, dash and underscore: upper case, as it says it.",
            field="serial_number",
        )


def traits_of(name: str) -> Traits:
    return CODECS[name].traits


def require_command(codec: Codec, name: str) -> None:
    """Raises CapabilityNotSupported."""
    if codec.traits.commands is not None and name not in codec.traits.commands:
        raise CapabilityNotSupported(
            "A box of this model cannot do that.", command_name=name, codec=codec.name,
            supported=sorted(codec.traits.commands),
        )  # fmt: skip


def listed(which: str) -> str:
    """The names of the codecs whose boxes have this trait, for SQL."""
    return ", ".join(f"'{codec.name}'" for codec in CODECS.values() if getattr(codec.traits, which))
