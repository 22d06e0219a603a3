import threading
from pathlib import Path

import pytest

from soundbox_server.broker.acl import acl_text
from soundbox_server.broker.mosquitto import (
    config_text,
    files_in,
    find_mosquitto,
    mosquitto_version,
    password_text,
    template_files,
    write_atomically,
)

SHOWN = Path(__file__).parents[2] / "broker-config"


@pytest.mark.parametrize("name", sorted(template_files()))
def test_what_broker_config_shows_is_what_is_generated(name: str):
    assert (SHOWN / name).read_text() == template_files()[name], "broker-config/README.md says how to write it anew"


@pytest.mark.parametrize("name", ["mosquitto.conf", "provisioning.conf"])
def test_every_option_of_the_configuration_is_explained(name: str):
    explained = False
    for line in template_files()[name].splitlines():
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        else:
            assert explained, line


def test_only_root_names_the_user_to_stay():
    files = files_in(Path("/home"))

    assert "\nuser " not in config_text(files, host="127.0.0.1", port=1883)
    assert "\nuser root\n" in config_text(files, host="127.0.0.1", port=1883, run_as="root")


def test_each_shard_has_a_user_and_nobody_has_more_than_is_listed():
    lines = [line for line in acl_text(shards=2).splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if line.startswith("user hub-shard")] == ["user hub-shard-0", "user hub-shard-1"]
    assert lines.count("topic read devices/+/uplink/#") == 2
    assert lines.count("topic write devices/+/downlink/#") == 2 + 32
    assert lines.count("topic read provision/+/request") == lines.count("topic write provision/+/response") == 2
    assert lines.count("topic write provision/+/request") == lines.count("topic read provision/+/response") == 1
    assert lines.count("topic read $SYS/#") == 1
    assert lines[-2:] == ["pattern write devices/%u/uplink/#", "pattern read devices/%u/downlink/#"]
    assert lines.count("topic read soundbox/+/down/heartbeat") == lines.count("topic write soundbox/+/down") == 2
    assert lines.count("topic write soundbox/+/down/heartbeat") == lines.count("topic read soundbox/+/down") == 1
    assert len(lines) == 2 * 7 + 3 + 3 + 32 * 2 + 2 + 2


def test_the_password_file_has_a_line_for_each_user():
    assert password_text([("dev_alpha", "$7$a"), ("dev_bravo", "$7$b")]) == "dev_alpha:$7$a\ndev_bravo:$7$b\n"


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path):
    path, whole = tmp_path / "passwords", {letter * 200_000 for letter in "ab"}
    write_atomically(path, "a" * 200_000)
    done, seen = threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(50):
        write_atomically(path, "ab"[turn % 2] * 200_000, durable=False)
    done.set()
    reader.join()

    assert seen <= whole
    assert seen


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "passwords"
    write_atomically(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")

    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["passwords"]


def test_a_file_is_the_owners_even_where_another_one_was(tmp_path: Path):
    path = tmp_path / "passwords"
    path.write_text("left open")
    path.chmod(0o644)

    write_atomically(path, "closed")

    assert path.stat().st_mode & 0o777 == 0o600


def test_mosquitto_is_found_along_the_path_given(tmp_path: Path):
    program = tmp_path / "mosquitto"
    assert find_mosquitto(str(tmp_path)) is None

    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    assert find_mosquitto(str(tmp_path)) == program


@pytest.mark.parametrize(
    "said", ["mosquitto version 2.0.11", "mosquitto version 2.1.2", "noise\nmosquitto version 2.0.22\n"]
)
async def test_the_version_is_read_whatever_the_exit_code(tmp_path: Path, said: str):
    program = tmp_path / "mosquitto"
    program.write_text(f"#!/bin/sh\nprintf '{said}'\nexit 3\n")
    program.chmod(0o755)

    assert await mosquitto_version(program) == tuple(map(int, said.split()[-1].split(".")))
