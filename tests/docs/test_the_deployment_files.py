"""compose.yaml, the systemd units, haproxy.cfg and the Dockerfile say what the code says.

What they describe is run nowhere here: no container engine, no service manager. Where a program that reads such a file
is installed, it is asked.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from soundbox_server import guard, seal
from soundbox_server.broker.mosquitto import template_files
from soundbox_server.cli import app
from soundbox_server.secret_files import is_secret
from soundbox_server.settings import Settings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "broker-config"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if name != "database"}
UNITS = sorted(CONFIG.glob("*.service"))
SYSTEMD = shutil.which("systemd-analyze")
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def are_settings(names: set[str]) -> bool:
    fields = Settings.model_fields
    secret = {f"SOUNDBOX_{name.upper()}_FILE" for name, field in fields.items() if is_secret(field)}
    return {name for name in names if name.startswith("SOUNDBOX_")} <= {
        f"SOUNDBOX_{n.upper()}" for n in fields
    } | secret


def test_compose_runs_the_database_and_our_four_commands_in_order() -> None:
    assert set(OURS) == {"migrate", "broker", "api", "worker"}
    assert all(service["command"] == [name] and name in COMMANDS for name, service in OURS.items())
    assert COMPOSE["services"]["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert OURS["broker"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    for name in ("api", "worker"):
        assert OURS[name]["depends_on"] == {"broker": {"condition": "service_healthy"}}
        assert OURS[name]["network_mode"] == "service:broker"  # the plain listener is on the loopback they share
    assert all("healthcheck" in service for name, service in COMPOSE["services"].items() if name != "migrate")


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_in_compose_is_a_setting(name: str) -> None:
    assert are_settings(set(OURS[name]["environment"]))


def test_compose_mounts_only_what_it_declares_and_no_secret_stands_in_it() -> None:
    for service in COMPOSE["services"].values():
        assert set(service["secrets"]) <= set(COMPOSE["secrets"])
        named = {volume.split(":")[0] for volume in service["volumes"]}
        assert {volume for volume in named if not volume.startswith(".")} <= set(COMPOSE["volumes"])
        for variable, value in service["environment"].items():
            if variable.endswith("_FILE"):
                assert str(value).removeprefix("/run/secrets/") in service["secrets"]
            if re.search("PASSWORD|KEY|SECRET|DATABASE_URL", variable):
                assert str(value).startswith("/"), variable  # a file's name, and not what is in it
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())


def test_compose_opens_the_boxes_listener_to_the_world_and_the_api_to_this_machine() -> None:
    opened = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]

    assert opened == ["8883:8883", "127.0.0.1:8080:8080"]


@pytest.mark.parametrize("name", ["broker", "api", "worker"])
def test_what_compose_sets_is_fit_for_production(name: str, tmp_path: Path) -> None:
    """With its variables filled in as its head says, the guard has nothing to say."""
    given = {"PROVIDER": "xendit", "PUBLIC_URL": "https://pay.example", "BROKER_PUBLIC_HOST": "broker.example"}
    environment = {
        variable.removeprefix("SOUNDBOX_"): _filled_in(str(value), given)
        for variable, value in OURS[name]["environment"].items()
        if not variable.endswith("_FILE")
    }
    secrets = {
        "master_key": seal.new_key(), "database_url": f"postgresql://soundbox:{seal.new_key()}@database/soundbox",
        "partner_secrets": f"acme={seal.new_key()}",
    }  # fmt: skip
    tmp_path.chmod(0o700)

    settings = Settings(**{name.lower(): value for name, value in environment.items()}, **secrets, home=tmp_path)

    assert settings.environment == "production"
    assert guard.problems(settings) == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_one_of_our_commands_with_settings_that_exist(unit: Path) -> None:
    text = unit.read_text()
    command = re.search(r"^ExecStart=/opt/soundbox/\.venv/bin/soundbox (\S+)$", text, re.M)
    variables = re.findall(r"(SOUNDBOX_\w+)=", "\n".join(re.findall(r"^Environment=(.*)$", text, re.M)))
    credentials = re.findall(r"^LoadCredential=(\w+):", text, re.M)

    assert command is not None
    assert command[1] in COMMANDS
    assert unit.name == f"soundbox-{command[1]}.service"
    assert are_settings(set(variables))
    assert re.findall(r"_FILE=%d/(\w+)", text) == credentials
    assert "SOUNDBOX_ENVIRONMENT=production" in text


def test_haproxy_listens_where_the_brokers_do_and_says_who_called() -> None:
    text = (CONFIG / "haproxy.cfg").read_text()
    listeners = {
        re.search(r"^listener (\d+) 0\.0\.0\.0$", template_files()[name], re.M)[1]  # type: ignore[index]
        for name in ("mosquitto.conf", "provisioning.conf")
    }

    assert set(re.findall(r"bind :(\d+) ssl", text)) == listeners | {"443"}
    assert set(re.findall(r"server shard-\d+ \S+:(\d+) ", text)) == listeners
    assert set(re.findall(r"server api-\d+ \S+:(\d+)$", text, re.M)) == {
        str(Settings.model_fields["http_port"].default)
    }
    assert text.index("del-header X-Forwarded-For") < text.index("option forwardfor")
    assert "GET /readyz" in text
    assert "balance hash var(sess.cid)" in text


def test_the_image_is_made_of_what_is_there_and_of_nothing_secret() -> None:
    lines = (CONFIG / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    let_in = {line[1:] for line in (CONFIG / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}

    assert all((ROOT / name).exists() for name in copied)
    assert set(copied) == let_in
    assert any(line.startswith("USER ") and line != "USER root" for line in lines)


if SYSTEMD:

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
    def test_systemd_finds_nothing_wrong_with_a_unit_and_little_exposed(unit: Path, tmp_path: Path) -> None:
        ours = str(Path(sys.executable).parent)
        for one in UNITS:  # they name each other, and a program that is not there would be reported
            (tmp_path / one.name).write_text(one.read_text().replace("/opt/soundbox/.venv/bin", ours))
        path = str(tmp_path / unit.name)

        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
        )
        exposed = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (verified.returncode, verified.stderr) == (0, "")
        assert exposed.returncode == 0, exposed.stdout.splitlines()[-1]


if HAPROXY:

    def test_haproxy_itself_takes_its_file(tmp_path: Path) -> None:
        made = [str(Path(sys.executable).with_name("soundbox")), "make-certs", str(tmp_path), "localhost"]
        subprocess.run(made, capture_output=True, check=True)
        (tmp_path / "soundbox.pem").write_text(
            "".join((tmp_path / name).read_text() for name in ("broker.key", "broker.crt"))
        )
        (tmp_path / "soundbox-ca.pem").write_text((tmp_path / "ca.pem").read_text())
        config = tmp_path / "haproxy.cfg"
        config.write_text((CONFIG / "haproxy.cfg").read_text().replace("/etc/haproxy/", f"{tmp_path}/"))

        checked = subprocess.run([HAPROXY, "-c", "-f", str(config)], capture_output=True, text=True, check=False)

        assert checked.returncode == 0, checked.stderr


def _filled_in(value: str, given: dict[str, str]) -> str:
    """${NAME:?why}, ${NAME:-default} and ${NAME-default}, as compose reads them."""
    return re.sub(
        r"\$\{SOUNDBOX_(\w+?)(?::?([?-])(.*?))?\}",
        lambda found: given.get(found[1], found[3] if found[2] == "-" else ""),
        value,
    )
