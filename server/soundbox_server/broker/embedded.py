"""The broker for a machine without Mosquitto: rumqttd out of the PyPI package `iotcore`, on loopback only.

What it does, seen by test: MQTT 3.1.1, QoS 1 with redelivery of what was not acknowledged, persistent sessions and
retained messages while it runs, wills, takeover of a client id, a size limit. What it does not: names and passwords
(it takes a fixed list in clear text, and we keep only hashes), rights per topic, MQTT 5, anything after its own end. It
leaves at most 100 messages unacknowledged per client, whatever is configured, and until some are acknowledged it sends
that client nothing else: a hub that comes back to a backlog has to read it while its subscription is still unanswered.
"""

import asyncio
import functools
import importlib.metadata
import importlib.util
import logging
import os
import sys
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from soundbox_server.broker.engine import (
    BrokerStartError,
    Engine,
    Pace,
    only_supervisor,
    require_free_port,
    require_loopback,
    run_until,
)
from soundbox_server.broker.health import Health, HealthBoard
from soundbox_server.broker.mosquitto import files_in, write_atomically
from soundbox_server.broker.probe import login
from soundbox_server.broker.users import SUPERVISOR_USER

HONEST_LINE = (
    "The embedded broker (this machine only, MQTT 3.1.1) checks no passwords and no per-device topic rights, and "
    "forgets sessions and retained messages when it stops. Mosquitto checks and keeps them."
)

log: FilteringBoundLogger = structlog.get_logger()


def honest_line(*, asked_for: bool) -> str:
    """What it does not do, and why it runs all the same."""
    return HONEST_LINE if asked_for else f"Mosquitto was not found; install it. {HONEST_LINE}"


def is_available() -> bool:
    return importlib.util.find_spec("iotcore") is not None


def config_text(*, host: str, port: int) -> str:
    """rumqttd's configuration (TOML)."""
    return f"""\
# Made by `soundbox broker`, which writes it anew at each start: change it there.
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
# What a topic filter keeps for clients that are away: 5 segments of 4 MiB, then the oldest goes.
max_segment_size = 4194304
max_segment_count = 5

# There is no [v4.devices.connections.auth]: it wants every password in clear text, and ours exist only as hashes.
[v4.devices]
name = "devices"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v4.devices.connections]
connection_timeout_ms = 5000
# As much as Mosquitto is told to take. The sender of anything larger is disconnected.
max_payload_size = 16384
max_inflight_count = 100
dynamic_filters = false
"""


async def supervise(*, home: Path, host: str, port: int, stop: asyncio.Event, pace: Pace | None = None) -> None:
    """Run the embedded broker on host:port until `stop` is set. Raises BrokerStartError like the Mosquitto one."""
    require_loopback(host)
    if not is_available():
        raise BrokerStartError("neither Mosquitto nor the package iotcore is installed: there is no broker to run")
    with only_supervisor(home):
        require_free_port(host, port)
        config = files_in(home).folder / "rumqttd.toml"
        await asyncio.to_thread(write_atomically, config, config_text(host=host, port=port))
        engine_name = f"embedded rumqttd (iotcore {importlib.metadata.version('iotcore')})"
        board = HealthBoard(home, Health(engine=engine_name, host=host, port=port, supervisor_pid=os.getpid()))
        command = (sys.executable, "-m", "soundbox_server.broker.embedded", config)
        # It takes any password; a login still shows that it answers.
        ask = functools.partial(login, host, port, user=SUPERVISOR_USER, password="-")  # noqa: S106
        engine = Engine(command, board=board, ask=ask, pace=pace or Pace())
        log.warning("broker_embedded", note=HONEST_LINE)
        await run_until(stop, engine.keep_running(), engine.watch())
        log.info("broker_stopped")


def main(config: str) -> None:
    """The child process: be the broker, until it is ended from outside (rumqttd knows no other way)."""
    from iotcore import IotCoreBroker

    # rumqttd writes each packet it routes as an error of its tracing library.
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    IotCoreBroker(config_path=config).run_forever()


if __name__ == "__main__":
    main(sys.argv[1])
