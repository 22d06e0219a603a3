"""Mosquitto's files: the configuration as text, where they live, and writing them so that none is ever half there."""

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from soundbox_server.broker.acl import acl_text, legacy_acl_text, provisioning_acl_text
from soundbox_server.broker.users import BRIDGE_USER, LEGACY_BRIDGE_USER
from soundbox_server.files import sync_folder

PROVISIONING_CONNECTIONS = 200  # at once; a box needs its own for seconds
LEGACY_CONNECTIONS = 5_000
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

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

    @property
    def tls(self) -> Path:
        return self.folder / "tls"

    @property
    def served(self) -> Path:
        """Key and certificate chain that the TLS listeners show."""
        return self.tls / "server.pem"

    @property
    def provisioning(self) -> "BrokerFiles":
        """Those of the second broker, the one for boxes without a name."""
        return BrokerFiles(self.folder / "provisioning")

    @property
    def legacy(self) -> "BrokerFiles":
        """Those of the third broker, the one for other makers' boxes."""
        return BrokerFiles(self.folder / "legacy")


@dataclass(frozen=True)
class TlsListener:
    """Where boxes come in from anywhere. `connections` at once, then nobody more."""

    host: str
    port: int
    connections: int


def files_in(home: Path) -> BrokerFiles:
    return BrokerFiles((home / "broker").absolute())


def config_text(
    files: BrokerFiles, *, host: str, port: int, tls: TlsListener | None = None, run_as: str | None = None
) -> str:
    """The configuration, for Mosquitto 2.0 and 2.1 alike. host:port is the plain listener.

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
{_user(run_as)}

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
{_tls_listener(files, tls) if tls else ""}"""


def _tls_listener(files: BrokerFiles, tls: TlsListener) -> str:
    return f"""
# With TLS 1.2 or 1.3, for boxes anywhere. The certificate is read again at SIGHUP; connections that stand keep theirs.
listener {tls.port} {tls.host}
use_username_as_clientid true
# More are refused, so that a flood takes no file from the hub's own listener. (Before 2.0.12 it is counted wrongly.)
max_connections {tls.connections}
{_certificate(files.served)}"""


def provisioning_config_text(
    files: BrokerFiles,
    tls: TlsListener,
    *,
    hub: tuple[str, int],
    password: str,
    local_id: str,
    run_as: str | None = None,
) -> str:
    """The second broker's configuration: for boxes that have no name yet and cannot speak HTTPS.

    `files` are the first broker's, `hub` is the host and port of its plain listener, `password` the bridge's there
    and `local_id` its client id here, as hard to guess.
    It is a broker of its own because everybody knows its name and password, and client ids are free: at the first
    broker any of them could take over any session by taking its id, whatever the listener.
    """
    own = files.provisioning
    return f"""\
# Made by `soundbox broker`, which writes it anew at each start: change it there.

# --- Who may log in, and say what -------------------------------------------------------------------------------
# One user for all boxes that have no name yet. What keeps them apart is the client id, which nobody else can guess.
allow_anonymous false
password_file {own.passwords}
acl_file {own.acl}
allow_zero_length_clientid false
{_user(run_as)}

# --- Nothing is kept: whoever is cut off asks again -------------------------------------------------------------
persistence false
retain_available false
persistent_client_expiration 1h

# --- Limits: everybody may knock here, so nobody gets much --------------------------------------------------------
max_inflight_messages 4
max_queued_messages 64
max_packet_size 4096
max_keepalive 60
# Bytes. Beyond this it takes nothing more; the first broker's memory is another process's.
memory_limit 67108864

# --- Speed, and what it says: as the first broker ----------------------------------------------------------------
set_tcp_nodelay true
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
connection_messages true
sys_interval 0

# --- Where it listens ---------------------------------------------------------------------------------------------
# Client ids are not forced here: they are the nonces.
listener {tls.port} {tls.host}
max_connections {tls.connections}
{_certificate(files.served)}
# --- The way to the hub -------------------------------------------------------------------------------------------
# Requests go to the first broker and answers come back, as one client that may do nothing else there.
connection hub
address {hub[0]}:{hub[1]}
topic provision/+/request out 1
topic provision/+/response in 1
remote_username {BRIDGE_USER}
remote_password {password}
remote_clientid {BRIDGE_USER}
# A client that names itself so would take the bridge's place here: nobody else knows it.
local_clientid {local_id}
bridge_protocol_version mqttv311
cleansession true
notifications false
restart_timeout 1 5
"""


def legacy_config_text(
    files: BrokerFiles,
    *,
    host: str,
    port: int,
    connections: int,
    hub: tuple[str, int],
    password: str,
    local_id: str,
    run_as: str | None = None,
) -> str:
    """The third broker's configuration: for other makers' boxes, which cannot do TLS. Arguments as for the second.

    It is a broker of its own because what is said there can be read on the way: whoever reads a password gets at that
    box's topics, and at nothing of the first broker's.
    """
    own = files.legacy
    return f"""\
# Made by `soundbox broker`, which writes it anew at each start: change it there.

# --- Who may log in, and say what -------------------------------------------------------------------------------
# Other makers' boxes alone, each by its serial number. Both files are read again at SIGHUP.
allow_anonymous false
password_file {own.passwords}
acl_file {own.acl}
allow_zero_length_clientid false
{_user(run_as)}

# --- Nothing is kept for a box that is away: it would say it late, and could not tell ------------------------------
persistence false
persistent_client_expiration 1h
queue_qos0_messages false

# --- Limits -------------------------------------------------------------------------------------------------------
max_inflight_messages 20
max_queued_messages 64
max_packet_size 8192
max_keepalive 600
# Bytes. Beyond this it takes nothing more; the first broker's memory is another process's.
memory_limit 134217728

# --- Speed, and what it says: as the first broker ----------------------------------------------------------------
set_tcp_nodelay true
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
connection_messages true
sys_interval 0

# --- Where it listens: plain, because these boxes know nothing else -------------------------------------------------
listener {port} {host}
# Whatever id a box gives itself: its name becomes the id, and nobody can evict another.
use_username_as_clientid true
max_connections {connections}

# --- The way to the hub -------------------------------------------------------------------------------------------
# What boxes are told comes at most once: they would take a second copy for another payment.
connection hub
address {hub[0]}:{hub[1]}
topic soundbox/+/down in 0
# Nor is a heartbeat worth anything later.
topic soundbox/+/down/heartbeat out 0
remote_username {LEGACY_BRIDGE_USER}
remote_password {password}
remote_clientid {LEGACY_BRIDGE_USER}
local_clientid {local_id}
bridge_outgoing_retain false
bridge_protocol_version mqttv311
cleansession true
notifications false
restart_timeout 1 5
"""


def _certificate(served: Path) -> str:
    return f"""\
# Key and chain in one file, so that a renewal is one rename and the two always belong together.
certfile {served}
keyfile {served}
tls_version tlsv1.2
# For TLS 1.2: forward secrecy and authenticated encryption only.
ciphers {_CIPHERS}
"""


def _user(run_as: str | None) -> str:
    return f"user {run_as}" if run_as else "# user: stays whoever starts the broker"


def password_text(users: Iterable[tuple[str, str]]) -> str:
    """The password file: one `name:hash` a line. The caller has checked names and hashes."""
    return "".join(f"{name}:{hashed}\n" for name, hashed in users)


def template_files() -> dict[str, str]:
    """The files as `broker-config/` shows them, for a copy that lives in /var/lib/soundbox."""
    files = files_in(Path("/var/lib/soundbox"))
    tls = TlsListener("0.0.0.0", 8883, connections=20_000)
    provisioning = TlsListener("0.0.0.0", 8884, connections=PROVISIONING_CONNECTIONS)
    secret, local_id = "(derived-from-the-master-key)", "(derived-likewise)"
    return {
        "mosquitto.conf": config_text(files, host="127.0.0.1", port=1883, tls=tls),
        "acl": acl_text(),
        "provisioning.conf": provisioning_config_text(
            files, provisioning, hub=("127.0.0.1", 1883), password=secret, local_id=local_id
        ),
        "provisioning-acl": provisioning_acl_text(),
        "legacy.conf": legacy_config_text(
            files,
            host="0.0.0.0",
            port=1884,
            connections=LEGACY_CONNECTIONS,
            hub=("127.0.0.1", 1883),
            password=secret,
            local_id=local_id,
        ),
        "legacy-acl": legacy_acl_text(),
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
        sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """What writers of this file left who were killed half-way. Only for whoever is its one writer now."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        temporary.unlink()


def run_as() -> str | None:
    """The user to name in a configuration, or None where the starter's own stays anyway."""
    return pwd.getpwuid(0).pw_name if os.geteuid() == 0 else None


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
