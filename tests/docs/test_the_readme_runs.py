"""What the README shows is what happens."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import forks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def console_blocks() -> list[tuple[str, str]]:
    """(command, what is printed) for each `$` line in the console blocks."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command.split("  #")[0].strip(), output))
    return found


@pytest.mark.parametrize(
    ("command", "printed"), [block for block in console_blocks() if block[0].startswith("soundbox ")]
)
def test_a_command_prints_what_the_readme_shows(command: str, printed: str) -> None:
    program, *arguments = shlex.split(command)

    answer = run(program, *arguments)

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == printed


def test_the_readme_shows_the_qris_command_and_both_scripts() -> None:
    commands = [command for command, _ in console_blocks()]

    assert {"./scripts/run", "./scripts/test"} <= set(commands)
    assert any(command.startswith("soundbox qris decode") for command in commands)


def test_every_script_the_readme_names_is_there_and_can_be_run() -> None:
    named = set(re.findall(r"\./scripts/([a-z-]+)", README))

    assert named >= {"run", "test"}
    for name in named:
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111, f"scripts/{name} cannot be executed"


def test_every_command_the_readme_names_exists() -> None:
    named = set(re.findall(r"`(soundbox(?:-sim)? [a-z][a-z0-9-]+)[^`]*`", README))

    assert len(named) >= 10
    for command in sorted(named):
        program, subcommand = command.split()
        asked = (
            forks.run([subcommand, "--help"], os.environ)
            if program == "soundbox"
            else run(program, subcommand, "--help")
        )
        assert asked.returncode == 0, f"{command} does not exist"


def test_every_option_of_the_first_command_exists() -> None:
    options = set(re.findall(r"--[a-z-]+", README.split("## The path of one payment")[0]))
    known = run("soundbox", "up", "--help").stdout

    assert {"--fresh", "--boxes"} <= options
    assert [option for option in options if option not in known] == []


def test_every_link_into_the_repository_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", README)

    assert len(targets) >= 10
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_settings_table_is_the_one_of_the_code() -> None:
    answer = run("soundbox", "settings", "--check", str(ROOT / "README.md"))

    assert answer.returncode == 0, answer.stderr


def test_the_floor_plan_is_the_one_that_is_enforced() -> None:
    plan = re.search(r"^```text\n(cli .*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert plan is not None
    shown = [line.split("  ")[0].split() for line in plan[1].splitlines()]
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    depth = {room: number for number, layer in enumerate(contract["layers"]) for room in layer.split(" | ")}
    rooms = {path.parent.name for path in (ROOT / "server" / "soundbox_server").glob("*/__init__.py")}

    assert rooms - {"migrations", "sandbox"} <= {room for line in shown for room in line}
    deepest = [max(depth[room] for room in line) for line in shown]
    assert deepest == sorted(deepest)
