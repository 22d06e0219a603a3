"""Free ports: those of the settings where nobody listens yet, their next free neighbours otherwise."""

import socket
from collections.abc import Callable

from soundbox_server.settings import Settings
from soundbox_server.up.problems import UpRefused

NEIGHBOURS = 100
_LISTENERS = (
    ("the API", "http_host", "http_port"),
    ("the worker's health", "worker_host", "worker_port"),
    ("the sandbox acquirer", "sandbox_host", "sandbox_port"),
    ("the broker", "broker_host", "broker_port"),
)
_TLS_LISTENER = ("the broker's TLS listener", "broker_tls_host", "broker_tls_port")
TLS_PORT = 8883


def choose(settings: Settings, say: Callable[[str], None], *, tls: bool = False) -> dict[str, int]:
    """A port for each listener, by the name of its setting; with `tls` also for boxes. Says which ones had to move."""
    listeners = (*_LISTENERS, _TLS_LISTENER) if tls else _LISTENERS
    wanted_by_others = {getattr(settings, name) for _, _, name in listeners}
    chosen: dict[str, int] = {}
    for what, host_name, name in listeners:
        host, wanted = getattr(settings, host_name), getattr(settings, name) or TLS_PORT
        if wanted not in chosen.values() and is_free(host, wanted):
            chosen[name] = wanted
            continue
        port = chosen[name] = _neighbour(host, wanted, taken=wanted_by_others | set(chosen.values()))
        say(f"Port {wanted} is in use: {what} takes {port} instead (SOUNDBOX_{name.upper()} chooses another).")
    return chosen


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises UpRefused for an address that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server's own habit: leftovers do not count
        try:
            trial.bind((host, port))
            trial.listen(1)
        except socket.gaierror as problem:
            raise UpRefused(f"{host} is no address of this machine: {problem.strerror}") from problem
        except OSError:
            return False
    return True


def _neighbour(host: str, wanted: int, *, taken: set[int]) -> int:
    for port in range(wanted + 1, min(wanted + NEIGHBOURS, 65_536)):
        if port not in taken and is_free(host, port):
            return port
    raise UpRefused(f"No free port on {host} from {wanted} to {wanted + NEIGHBOURS}.")
