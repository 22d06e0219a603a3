"""How the broker is doing, kept in `broker-health.json` for readiness, `doctor`, the live view and metrics."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from soundbox_server.broker.mosquitto import remove_leftovers, write_atomically
from soundbox_server.clock import now_ms

FILE_NAME = "broker-health.json"
PROVISIONING_FILE_NAME = "provisioning-health.json"
LEGACY_FILE_NAME = "legacy-health.json"
STALE_AFTER_MS = 20_000


@dataclass
class Health:
    """Times are milliseconds since 1970. `pid` is None while no broker process runs."""

    engine: str
    host: str
    port: int
    supervisor_pid: int
    pid: int | None = None
    since_ms: int | None = None  # when this broker process answered its first login
    answering: bool = False  # whether the last login was accepted
    restarts: int = 0
    reloads: int = 0
    users: int | None = None
    applied_revision: int | None = None  # of the device credentials; None until the broker has taken one
    tls_port: int | None = None
    certificate_ends_ms: int | None = None  # of the one that is served
    last_error: str | None = None
    last_error_at_ms: int | None = None
    updated_at_ms: int = 0

    def is_fresh(self, *, at_ms: int) -> bool:
        """False when the supervisor has stopped writing: then nothing here is true any more."""
        return at_ms - self.updated_at_ms <= STALE_AFTER_MS


class HealthBoard:
    """The one writer of a health file: each broker of a copy has its own."""

    def __init__(self, home: Path, health: Health, *, file_name: str = FILE_NAME) -> None:
        self._path = home / file_name
        remove_leftovers(self._path)
        self.health = health

    def note(self, **changes: object) -> None:
        """Change some fields and write the file. Not durable: after a power cut nobody needs the old health."""
        self.health = dataclasses.replace(self.health, **changes, updated_at_ms=now_ms())  # type: ignore[arg-type]
        write_atomically(self._path, json.dumps(dataclasses.asdict(self.health), indent=1) + "\n", durable=False)

    def note_error(self, error: str, **changes: object) -> None:
        self.note(last_error=error, last_error_at_ms=now_ms(), **changes)


def read_health(home: Path, *, file_name: str = FILE_NAME) -> Health | None:
    """The last health written in this copy's folder; None when no broker was ever supervised here."""
    try:
        return Health(**json.loads((home / file_name).read_text()))
    except FileNotFoundError:
        return None
