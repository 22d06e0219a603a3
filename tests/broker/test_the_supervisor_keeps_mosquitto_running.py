import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiomqtt
import pytest

from soundbox_server.broker.engine import BrokerStartError, Pace
from soundbox_server.broker.health import STALE_AFTER_MS, read_health
from soundbox_server.broker.mosquitto import files_in
from soundbox_server.broker.probe import login


async def test_a_killed_broker_is_back_and_its_clients_with_it(broker, eventually, heard_until):
    first = broker.health.pid
    async with broker.client("dev_alpha") as alpha:
        os.kill(first, signal.SIGKILL)
        with pytest.raises(aiomqtt.MqttError):
            await anext(aiter(alpha.messages))

    await eventually(lambda: broker.health.answering and broker.health.restarts == 1)

    assert broker.health.pid not in (None, first)
    assert broker.health.last_error == "ended by SIGKILL"
    async with broker.client("dev_alpha") as alpha, broker.client("hub-shard-0") as hub:
        await hub.subscribe("devices/+/uplink/#", qos=1)
        await alpha.publish("devices/dev_alpha/uplink/event", b"here again", qos=1)
        assert await heard_until(hub, b"here again")


async def test_a_broker_that_keeps_dying_is_started_ever_more_slowly(start_mosquitto, eventually):
    pace = Pace(first_restart=0.1, longest_restart=0.4)
    async with start_mosquitto(pace=pace) as broker:
        started = time.monotonic()
        for restarts in range(1, 6):
            os.kill(broker.health.pid, signal.SIGKILL)
            await eventually(lambda wanted=restarts: broker.health.restarts == wanted and broker.health.answering)

        assert time.monotonic() - started >= 0.1 + 0.2 + 0.4 + 0.4 + 0.4


async def test_a_planned_restart_keeps_the_hubs_session_and_what_waited_in_it(start_mosquitto, registry, heard_until):
    async with start_mosquitto() as broker:
        async with broker.client("hub-shard-0", clean_session=False) as hub:
            await hub.subscribe("devices/+/uplink/#", qos=1)
        async with broker.client("dev_alpha") as alpha:
            await alpha.publish("devices/dev_alpha/uplink/event", b"said while the worker was away", qos=1)

    async with start_mosquitto() as broker, broker.client("hub-shard-0", clean_session=False) as hub:
        heard = await heard_until(hub, b"said while the worker was away")

    assert heard == [("devices/dev_alpha/uplink/event", b"said while the worker was away")]


async def test_stopping_leaves_no_process_and_a_free_port(start_mosquitto):
    async with start_mosquitto() as broker:
        pid, port = broker.health.pid, broker.port

    assert not _runs(pid)
    assert broker.health.pid is None
    assert not broker.health.answering
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(("127.0.0.1", port))


async def test_a_supervisor_killed_at_once_leaves_no_broker(tmp_path, mosquitto_program, free_port, eventually):
    home = tmp_path / "home"
    supervisor = subprocess.Popen([sys.executable, "-c", _SUPERVISOR, home, str(free_port), mosquitto_program])
    try:
        await eventually(lambda: (health := read_health(home)) is not None and health.answering)
        pid = read_health(home).pid
    finally:
        supervisor.kill()
        supervisor.wait()

    await eventually(lambda: not _runs(pid))
    with pytest.raises(OSError):
        await login("127.0.0.1", free_port, user="hub-supervisor", password="-")


async def test_ctrl_c_in_a_terminal_does_not_reach_the_broker_itself(broker):
    assert os.getpgid(broker.health.pid) == broker.health.pid
    assert os.getsid(broker.health.pid) == broker.health.pid


async def test_a_broker_that_hangs_is_reported_and_not_killed(start_mosquitto, eventually):
    async with start_mosquitto(pace=Pace(probe=0.1)) as broker:
        pid = broker.health.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await eventually(lambda: not broker.health.answering)
            assert broker.health.last_error == "the broker runs but does not answer a login"
        finally:
            os.kill(pid, signal.SIGCONT)

        await eventually(lambda: broker.health.answering)
        assert (broker.health.pid, broker.health.restarts) == (pid, 0)


async def test_a_port_in_use_is_said_plainly_before_anything_starts(start_mosquitto, free_port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()

        with pytest.raises(BrokerStartError, match=rf"port {free_port} on 127.0.0.1 .*in use"):
            async with start_mosquitto(port=free_port):
                pass


async def test_two_supervisors_do_not_share_a_home(start_mosquitto, broker):
    with pytest.raises(BrokerStartError, match=r"supervised in .* already"):
        async with start_mosquitto():
            pass


async def test_a_port_lost_to_another_program_is_waited_for(start_mosquitto, eventually):
    async with start_mosquitto(pace=Pace(first_restart=0.1, longest_restart=0.1)) as broker:
        os.kill(broker.health.pid, signal.SIGKILL)
        await eventually(lambda: broker.health.pid is None)
        with _taken(broker.port):
            await eventually(lambda: "in use" in (broker.health.last_error or ""))

        await eventually(lambda: broker.health.answering)


@pytest.mark.parametrize(("program", "said"), [("/bin/true", "does not say"), ("/nowhere/mosquitto", "No such file")])
async def test_a_program_that_is_no_mosquitto_is_named(tmp_path, registry, free_port, program, said):
    from soundbox_server.broker.supervisor import supervise

    with pytest.raises(BrokerStartError, match=said):
        await supervise(
            home=tmp_path,
            host="127.0.0.1",
            port=free_port,
            mosquitto=Path(program),
            load_users=registry.load_users,
            revision=registry.revision,
            master_key=bytes(32),
            stop=asyncio.Event(),
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "broker.example", ""])
async def test_the_plain_listener_never_leaves_this_machine(tmp_path, registry, free_port, mosquitto_program, host):
    from soundbox_server.broker.supervisor import supervise

    with pytest.raises(BrokerStartError, match="this machine only"):
        await supervise(
            home=tmp_path,
            host=host,
            port=free_port,
            mosquitto=mosquitto_program,
            load_users=registry.load_users,
            revision=registry.revision,
            master_key=bytes(32),
            stop=asyncio.Event(),
        )


async def test_only_the_owner_reads_the_brokers_files(broker):
    files = files_in(broker.home)

    modes = {path.name: path.stat().st_mode & 0o777 for path in (files.config, files.acl, files.passwords)}
    assert modes == {"mosquitto.conf": 0o600, "acl": 0o600, "passwords": 0o600}
    assert {path.stat().st_mode & 0o777 for path in (files.folder, files.data)} == {0o700}
    assert not [path.name for path in files.folder.iterdir() if path.name.startswith(".")]


async def test_a_damaged_session_file_is_set_aside_and_ends_no_second_start(start_mosquitto, is_admitted):
    async with start_mosquitto() as broker:
        files = files_in(broker.home)
    files.sessions.write_bytes(b"no session file of any version")

    async with start_mosquitto() as broker:
        assert await is_admitted(broker.client("dev_alpha"))
        assert broker.health.restarts == 1
    assert files.sessions.with_suffix(".broken").read_bytes() == b"no session file of any version"


async def test_what_a_killed_supervisor_left_half_written_is_cleared_away(start_mosquitto):
    async with start_mosquitto() as broker:
        files, home = files_in(broker.home), broker.home
    leftovers = [files.folder / ".passwords.abc123", files.folder / ".acl.abc123", home / ".broker-health.json.abc123"]
    for leftover in leftovers:
        leftover.write_text("half a li")

    async with start_mosquitto():
        assert not [leftover for leftover in leftovers if leftover.exists()]


async def test_the_broker_may_open_as_many_files_as_the_machine_permits(broker):
    limits = Path(f"/proc/{broker.health.pid}/limits").read_text().splitlines()

    soft, hard = next(line for line in limits if line.startswith("Max open files")).split()[3:5]

    assert soft == hard or int(soft) >= 262_144


async def test_the_health_file_is_whole_json_and_grows_stale(broker):
    health = broker.health

    assert json.loads((broker.home / "broker-health.json").read_text())["pid"] == health.pid
    assert health.engine.startswith("mosquitto 2.")
    assert health.is_fresh(at_ms=health.updated_at_ms + STALE_AFTER_MS)
    assert not health.is_fresh(at_ms=health.updated_at_ms + STALE_AFTER_MS + 1)


def test_a_home_without_a_broker_has_no_health(tmp_path):
    assert read_health(tmp_path) is None


_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from soundbox_server.broker.supervisor import supervise

async def load_users():
    return 1, []

async def revision():
    return 1

home, port, program = sys.argv[1:]
asyncio.run(supervise(home=Path(home), host="127.0.0.1", port=int(port), mosquitto=Path(program),
                      load_users=load_users, revision=revision, master_key=bytes(32), stop=asyncio.Event()))
"""


def _runs(pid: int) -> bool:
    """Whether the process still does anything; one that ended and is not yet collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _taken(port: int) -> socket.socket:
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", port))
    other.listen()
    return other
