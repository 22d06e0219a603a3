"""Who belongs to the fleet, and what its customers and operator need: the file that `soundbox seed --fleet` writes."""

import base64
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class CannotRun(RuntimeError):
    """The machine, the hub or the roster does not carry this fleet; the message says what to change."""


_MODEL = ConfigDict(frozen=True, extra="ignore")


class Member(BaseModel):
    """One box in service. `static_reference` is the provider's name of the QR that hangs at its terminal."""

    model_config = _MODEL
    device_id: str
    terminal_id: str
    password: str
    announcement_key: str
    static_reference: str

    @property
    def key(self) -> bytes:
        return base64.urlsafe_b64decode(self.announcement_key + "=")


class Acquirer(BaseModel):
    """Whose callbacks the fleet's customers cause."""

    model_config = _MODEL
    partner_id: str
    secret: str


class Operator(BaseModel):
    """Who gives the commands."""

    model_config = _MODEL
    email: str
    password: str


class Roster(BaseModel):
    """`server` is the hub's URL. Plain MQTT: the fleet runs beside its broker."""

    model_config = _MODEL
    server: str
    broker_host: str
    broker_port: int
    announcement_life_s: int
    acquirer: Acquirer
    operator: Operator
    devices: tuple[Member, ...] = Field(min_length=1)


def read_roster(path: Path) -> Roster:
    """Raises OSError or ValueError."""
    return Roster.model_validate_json(path.read_bytes())
