"""What can go wrong with a box on purpose.

Every switch is `name` or `name=value`. Chances are between 0 and 1, times in milliseconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any

ROTATION_STEPS = ("answered", "stored", "confirmed", "let-in")


@dataclass(frozen=True, slots=True)
class Faults:
    """Which faults this box has. All off means a healthy one."""

    drop: float = 0.0
    """Chance that a downlink is lost on the way."""
    duplicate: float = 0.0
    """Chance that a downlink arrives twice."""
    delay: int = 0
    """A downlink comes up to this many milliseconds late, so that later ones may overtake it."""
    reboot: float = 0.0
    """Chance of a power cut after the journal was written and before the sentence is spoken."""
    refuse_ack: float = 0.0
    """Chance that a payment ack is not sent."""
    clock_skew: int = 0
    """How far the box's own clock is ahead of the truth, in milliseconds."""
    no_clock: bool = False
    """The box does not know what time it is until the hub tells it."""
    rotation_cut: str = ""
    """The power is cut once, when a rotation of the credential comes to this step: answered, stored, confirmed, let-in.
    What the step brought is lost with it."""


NAMES = tuple(field.name.replace("_", "-") for field in fields(Faults))


def read_faults(switches: Iterable[str]) -> Faults:
    """`["drop=0.1", "no-clock"]` → Faults. ValueError names a switch that is none, or a value out of range."""
    faults = Faults()
    for switch in switches:
        name, _, value = switch.partition("=")
        if name not in NAMES:
            raise ValueError(f"{name!r} is no fault; there are {', '.join(NAMES)}")
        attribute = name.replace("-", "_")
        faults = replace(faults, **{attribute: _value(name, type(getattr(faults, attribute)), value)})
    return faults


def copies_in_ms(faults: Faults, random: Random) -> list[float]:
    """When the copies of one downlink reach the box: none, one or two delays."""
    if random.random() < faults.drop:
        return []
    copies = 2 if random.random() < faults.duplicate else 1
    return [random.uniform(0, faults.delay) for _ in range(copies)]


def _value(name: str, kind: type, text: str) -> Any:
    if kind is bool:
        if text not in ("", "true", "false"):
            raise ValueError(f"{name} is on or off, not {text!r}")
        return text != "false"
    if kind is int:
        return _whole(name, text)
    if kind is str:
        return _step(name, text)
    chance = float(text or "1")
    if not 0 <= chance <= 1:
        raise ValueError(f"{name} is a chance between 0 and 1, not {text}")
    return chance


def _step(name: str, text: str) -> str:
    if text not in ROTATION_STEPS:
        raise ValueError(f"{name} is one of {', '.join(ROTATION_STEPS)}, not {text!r}")
    return text


def _whole(name: str, text: str) -> int:
    number = int(text)
    if name == "delay" and number < 0:
        raise ValueError("delay cannot be negative")
    return number
