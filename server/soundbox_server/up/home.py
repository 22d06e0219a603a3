"""The folder of one running copy: held by one `soundbox up` at a time, and emptied only of what is ours."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soundbox_server.settings import Settings
from soundbox_server.up.problems import UpRefused

LOCK = "up.lock"
OURS = (
    *("master.key", "soundbox.db*", "sandbox.db*"),
    *("broker", "broker.lock", "broker-health.json", "locks"),
    *("boxes", "boxes.json", "logs", "device-logs", "documents", "exports", "mail"),
)


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Two copies in one home would be two supervisors of the same files. The lock ends with the process."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / LOCK).open("a")
    except OSError as problem:
        raise UpRefused(f"The home folder {home} cannot be used: {problem.strerror} (SOUNDBOX_HOME)") from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise UpRefused(
                f"soundbox up is running in {home} already. Stop that one, or give this one a folder of its own with "
                "SOUNDBOX_HOME."
            ) from busy
        yield


def forget(settings: Settings) -> None:
    """Remove what earlier runs left in the home folder, and nothing else in it."""
    if settings.environment == "production":
        raise UpRefused("--fresh forgets every payment, and is refused in production.")
    if settings.database_url != f"sqlite:///{settings.home / 'soundbox.db'}":
        raise UpRefused("--fresh forgets the database in the home folder, and SOUNDBOX_DATABASE_URL names another one.")
    _require_no_broker(settings.home)
    for pattern in OURS:
        for found in settings.home.glob(pattern):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()


def _require_no_broker(home: Path) -> None:
    """A `soundbox broker` that was started by hand would go on with users that are gone."""
    lock = home / "broker.lock"
    if not lock.exists():
        return
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise UpRefused(f"A soundbox broker is running in {home}: stop it before beginning anew.") from busy
