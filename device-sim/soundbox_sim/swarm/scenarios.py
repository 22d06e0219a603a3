"""What happens to a fleet, as data. Another scenario is another line here."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How bad the way between a box and the broker is. All zero: a cable.

    `latency_ms`: each way, anything between the two, in order. `stall`: chance that bytes wait for `stall_ms` besides.
    `drop`, `duplicate`: chance that the modem loses a downlink that the broker believes delivered, or repeats it.
    """

    latency_ms: tuple[int, int] = (0, 0)
    stall: float = 0.0
    stall_ms: tuple[int, int] = (0, 0)
    drop: float = 0.0
    duplicate: float = 0.0

    @property
    def is_a_cable(self) -> bool:
        return self == Link()


CABLE = Link()
TWO_G = Link(latency_ms=(150, 900), stall=0.02, stall_ms=(1_000, 6_000), drop=0.02, duplicate=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Rates of payments and commands are a second and thousand boxes; those of faults an hour and box.

    `twisted`: share of the callbacks that are forged, repeated, or tell of money that did not come. `slow`: share of
    the boxes with `link` instead of a cable. `storms` and `broker_restarts`: when, as shares of the duration.
    """

    about: str
    payments: float = 4.0
    commands: float = 0.4
    twisted: float = 0.1
    link: Link = CABLE
    slow: float = 0.0
    power_cuts: float = 0.0
    off_s: tuple[float, float] = (2.0, 40.0)
    lost_lines: float = 0.0
    skewed: float = 0.0
    skew_s: tuple[int, int] = (-7_200, 7_200)
    clockless: float = 0.0
    storms: tuple[float, ...] = ()
    broker_restarts: tuple[float, ...] = ()


SCENARIOS: Mapping[str, Scenario] = {
    "calm": Scenario(about="Boxes are online and send heartbeats; hardly anybody pays.", payments=0.2, commands=0.1),
    "payments": Scenario(about="Customers pay all the time, and nothing is wrong.", payments=8.0),
    "2g": Scenario(about="Every link is slow, stalls and loses messages.", link=TWO_G, slow=1.0, lost_lines=2.0),
    "power-cuts": Scenario(about="Plugs are pulled, also in the middle of a sentence.", power_cuts=6.0),
    "clock-skew": Scenario(about="Clocks are wrong by up to two hours, and some boxes have none.", skewed=0.6,
                           clockless=0.2),
    "reconnect-storm": Scenario(about="All lines break in one moment, while customers go on paying.", storms=(0.4,)),
    "broker-restart": Scenario(about="The broker is restarted under everybody.", broker_restarts=(0.4,)),
    "mixed": Scenario(about="A day in the field in a few minutes: some of everything, and one storm.", slow=0.3,
                      link=TWO_G, power_cuts=0.5, lost_lines=0.5, skewed=0.1, clockless=0.1, storms=(0.5,)),
}  # fmt: skip
