"""The second broker: for boxes that have no name yet and cannot speak HTTPS.

Everybody knows its user and password, and client ids are free there, being the nonces of the requests. So it is a
process of its own: at the first broker a stranger could take over the session of any box, or of the hub, by naming
itself like it. A bridge carries `provision/+/request` to the hub and `provision/+/response` back.
"""

import asyncio
import dataclasses
import functools
import os
import secrets
from pathlib import Path

from soundbox_server.broker.acl import provisioning_acl_text
from soundbox_server.broker.engine import Engine, Pace, require_free_port
from soundbox_server.broker.health import PROVISIONING_FILE_NAME, Health, HealthBoard
from soundbox_server.broker.mosquitto import (
    PROVISIONING_CONNECTIONS,
    TlsListener,
    files_in,
    password_text,
    provisioning_config_text,
    remove_leftovers,
    run_as,
    write_atomically,
)
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.probe import login
from soundbox_server.broker.tls import TlsSetup, to_ourselves
from soundbox_server.broker.users import (
    BRIDGE_USER,
    PROVISION_PASSWORD,
    PROVISION_USER,
    SUPERVISOR_USER,
    hub_password,
)

# Its clients are open files, and Mosquitto counted its connections wrongly before 2.0.12: this bound holds anyway.
_OPEN_FILES = PROVISIONING_CONNECTIONS + 56


async def provisioning_engine(
    *,
    home: Path,
    mosquitto: Path,
    engine_name: str,
    tls: TlsSetup,
    hub: tuple[str, int],
    master_key: bytes,
    pace: Pace,
) -> Engine:
    """Write its files and return what runs it; raises BrokerStartError when its port is taken."""
    listener = TlsListener(tls.listener.host, tls.provision_port, PROVISIONING_CONNECTIONS)
    require_free_port(listener.host, listener.port)
    await asyncio.to_thread(_write_files, home, listener, hub, master_key)
    host = reached_at(listener.host)
    health = Health(
        engine=engine_name, host=host, port=listener.port, tls_port=listener.port, supervisor_pid=os.getpid()
    )
    ask = functools.partial(
        login,
        host,
        listener.port,
        user=SUPERVISOR_USER,
        password=hub_password(master_key, SUPERVISOR_USER),
        client_id=secrets.token_hex(16),  # a free client id could be taken by anybody who knows it
        tls=to_ourselves(),
    )
    return Engine(
        (mosquitto, "-c", files_in(home).provisioning.config),
        board=HealthBoard(home, health, file_name=PROVISIONING_FILE_NAME),
        ask=ask,
        pace=dataclasses.replace(pace, probe_while_starting=max(pace.probe_while_starting, 0.1)),
        open_files=_OPEN_FILES,
    )


def reached_at(host: str) -> str:
    """Where a process on this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _write_files(home: Path, listener: TlsListener, hub: tuple[str, int], master_key: bytes) -> None:
    files = files_in(home)
    own = files.provisioning
    for path in (own.passwords, own.acl, own.config):
        remove_leftovers(path)
    users = {PROVISION_USER: PROVISION_PASSWORD, SUPERVISOR_USER: hub_password(master_key, SUPERVISOR_USER)}
    write_atomically(own.passwords, password_text((name, hash_password(word)) for name, word in users.items()))
    write_atomically(own.acl, provisioning_acl_text())
    config = provisioning_config_text(
        files,
        listener,
        hub=hub,
        password=hub_password(master_key, BRIDGE_USER),
        local_id=hub_password(master_key, f"{BRIDGE_USER}/local"),
        run_as=run_as(),
    )
    write_atomically(own.config, config)
