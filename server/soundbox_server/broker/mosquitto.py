"""Mosquitto's files: the configuration as text, where they live, and writing them so that none is ever half there."""

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from soundbox_server.broker.acl import acl_text

# Debian installs the broker here, and an ordinary user's PATH does not look there.
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


@dataclass(frozen=True)
class BrokerFiles:
    """Everything one supervised broker keeps, below the folder of the running copy."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "mosquitto.conf"

    @property
    def passwords(self) -> Path:
        return self.folder / "passwords"

    @property
    def acl(self) -> Path:
        return self.folder / "acl"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def sessions(self) -> Path:
        return self.data / "mosquitto.db"


def files_in(home: Path) -> BrokerFiles:
    return BrokerFiles((home / "broker").absolute())


def config_text(files: BrokerFiles, *, host: str, port: int, run_as: str | None = None) -> str:
    """The configuration, for Mosquitto 2.0 and 2.1.

    `run_as` is needed only for root: Mosquitto would otherwise become the user `mosquitto`, who can read none of these
    files at the next reload.
    """
    return f"""\
# Made by `soundbox broker`, which writes it anew at each start: change it there.

# --- Who may log in, and say what -------------------------------------------------------------------------------
# No name, no entry. Both files are read again at SIGHUP; a client whose name is gone is disconnected by that.
allow_anonymous false
password_file {files.passwords}
acl_file {files.acl}
allow_zero_length_clientid false
{f"user {run_as}" if run_as else "# user: stays whoever starts the broker"}

# --- What survives a restart ------------------------------------------------------------------------------------
# Sessions, subscriptions and queued messages are written at exit and every 30 s. A kill -9 loses what came since:
# that is why an acknowledgement of the broker counts for nothing, and only a box's own does.
persistence true
persistence_location {files.data}/
autosave_interval 30
autosave_on_changes false
# A box that has not come for this long finds a new session; the database still knows what it missed.
persistent_client_expiration 14d

# --- Limits: none of them is per user, so the hub's needs set them -----------------------------------------------
# The worker acknowledges after its commit, in groups: with the default of 20 in flight it would wait for itself.
max_inflight_messages 1000
# Beyond this a QoS 1 message is dropped without a word, and the default of 1000 is soon there while a worker restarts.
max_queued_messages 100000
max_queued_bytes 67108864
# The whole packet; boxes are promised 512 bytes of payload, and a few declare more.
max_packet_size 16384
# Seconds. A box that asks for longer is refused from 2.0.12 on: offline would be noticed too late.
max_keepalive 1800

# --- Speed --------------------------------------------------------------------------------------------------------
# Without it small packets wait for the other side's delayed acknowledgement: 40 ms on each round trip.
set_tcp_nodelay true

# --- What it says -------------------------------------------------------------------------------------------------
# To the supervisor, which puts time and structure around it. Not stdout: before 2.0.16 that is held back in a buffer.
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
connection_messages true
sys_interval 10

# --- Where it listens ---------------------------------------------------------------------------------------------
# Plain, for processes and boxes on this machine only. Whoever comes from elsewhere belongs on a listener with TLS.
listener {port} {host}
# A name is proven by its password, a client id by nothing: so the name becomes the id, and nobody can evict another.
use_username_as_clientid true
"""


def password_text(users: Iterable[tuple[str, str]]) -> str:
    """The password file: one `name:hash` a line. The caller has checked names and hashes."""
    return "".join(f"{name}:{hashed}\n" for name, hashed in users)


def template_files() -> dict[str, str]:
    """The files as `broker-config/` shows them, for a copy that lives in /var/lib/soundbox."""
    return {
        "mosquitto.conf": config_text(files_in(Path("/var/lib/soundbox")), host="127.0.0.1", port=1883),
        "acl": acl_text(),
    }


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Put `text` at `path`, readable by its owner only. A reader sees the old file or the new one, never a part.

    `durable` waits for the disk, so that a power cut cannot bring back a revoked user.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """What writers of this file left who were killed half-way. Only for whoever is its one writer now."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """A rename is durable only when the folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_mosquitto(search: str | None = None) -> Path | None:
    """The Mosquitto program, or None. Looks along `search` (colon-separated), else along PATH and the sbin folders."""
    if search is None:
        search = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SBIN))
    found = shutil.which("mosquitto", path=search)
    return Path(found) if found else None


async def mosquitto_version(program: Path) -> tuple[int, int, int]:
    """Its version, from the first line of its help (`--version` has failed in some releases). Raises ValueError."""
    process = await asyncio.create_subprocess_exec(
        program,
        "-h",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    found = re.search(rb"mosquitto version (\d+)\.(\d+)\.(\d+)", output)
    if found is None:
        raise ValueError(f"{program} does not say which version of Mosquitto it is")
    return int(found[1]), int(found[2]), int(found[3])
