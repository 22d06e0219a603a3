"""The third broker: for other makers' boxes, which cannot do TLS.

What is said there can be read on the way, and so can passwords. So it is a process of its own with users of its own:
none of our boxes and none of the hub's processes can log in there, and whoever reads a password hears and says what
that one box could. A bridge brings `soundbox/+/down` and takes heartbeats back.
"""

import asyncio
import dataclasses
import functools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from soundbox_server.broker.acl import legacy_acl_text
from soundbox_server.broker.engine import Engine, Pace, require_free_port
from soundbox_server.broker.health import LEGACY_FILE_NAME, Health, HealthBoard
from soundbox_server.broker.mosquitto import (
    LEGACY_CONNECTIONS,
    files_in,
    legacy_config_text,
    remove_leftovers,
    run_as,
    write_atomically,
)
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.probe import login
from soundbox_server.broker.provisioning import reached_at
from soundbox_server.broker.users import LEGACY_BRIDGE_USER, SUPERVISOR_USER, hub_password


@dataclass(frozen=True, kw_only=True)
class LegacySetup:
    """Where it listens, and whom it lets in: `load_users` returns (revision, [(serial number, "$7$…" hash)])."""

    host: str
    port: int
    load_users: Callable[[], Awaitable[tuple[int, list[tuple[str, str]]]]]
    connections: int = LEGACY_CONNECTIONS


async def legacy_engine(
    *,
    home: Path,
    mosquitto: Path,
    engine_name: str,
    legacy: LegacySetup,
    hub: tuple[str, int],
    master_key: bytes,
    pace: Pace,
) -> tuple[Engine, HealthBoard]:
    """Write its fixed files and return what runs it; raises BrokerStartError when its port is taken."""
    require_free_port(legacy.host, legacy.port)
    await asyncio.to_thread(_write_files, home, legacy, hub, master_key)
    host = reached_at(legacy.host)
    health = Health(engine=engine_name, host=host, port=legacy.port, supervisor_pid=os.getpid())
    board = HealthBoard(home, health, file_name=LEGACY_FILE_NAME)
    engine = Engine(
        (mosquitto, "-c", files_in(home).legacy.config),
        board=board,
        ask=functools.partial(
            login, host, legacy.port, user=SUPERVISOR_USER, password=_supervisor_password(master_key)
        ),
        pace=dataclasses.replace(pace, probe_while_starting=max(pace.probe_while_starting, 0.1)),
        open_files=legacy.connections + 56,
    )
    return engine, board


def legacy_lines(master_key: bytes) -> list[tuple[str, str]]:
    """Who else logs in there: the supervisor, by a password that opens nothing elsewhere."""
    return [(SUPERVISOR_USER, hash_password(_supervisor_password(master_key)))]


def _supervisor_password(master_key: bytes) -> str:
    return hub_password(master_key, f"{SUPERVISOR_USER}/legacy")


def _write_files(home: Path, legacy: LegacySetup, hub: tuple[str, int], master_key: bytes) -> None:
    files = files_in(home)
    own = files.legacy
    for path in (own.passwords, own.acl, own.config):
        remove_leftovers(path)
    write_atomically(own.acl, legacy_acl_text())
    config = legacy_config_text(
        files,
        host=legacy.host,
        port=legacy.port,
        connections=legacy.connections,
        hub=hub,
        password=hub_password(master_key, LEGACY_BRIDGE_USER),
        local_id=hub_password(master_key, f"{LEGACY_BRIDGE_USER}/local"),
        run_as=run_as(),
    )
    write_atomically(own.config, config)
