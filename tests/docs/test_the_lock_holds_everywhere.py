"""The hashed lists that scripts/run and scripts/test install, and the lock they come from."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTS = ("requirements.lock", "requirements-dev.lock")


def pins(name: str) -> dict[str, str]:
    """package → the pinned text up to the next package."""
    text = (ROOT / "scripts" / name).read_text()
    return {
        part.split("==")[0].split("[")[0]: part for part in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE) if part
    }


@pytest.mark.parametrize("name", LISTS)
def test_every_package_has_one_version_and_hashes(name: str) -> None:
    found = pins(name)

    assert len(found) > 40
    for package, text in found.items():
        assert re.match(r"[a-z0-9._\[\],-]+==\S+", text), package
        assert "--hash=sha256:" in text, package


@pytest.mark.parametrize("name", LISTS)
def test_a_list_names_no_place_that_other_machines_lack(name: str) -> None:
    text = (ROOT / "scripts" / name).read_text()

    assert not re.search(r"://|^-| @ |^\.?/", text, re.MULTILINE)


def test_the_lock_names_one_index_and_no_place_of_one_machine() -> None:
    text = (ROOT / "uv.lock").read_text()
    indexes = set(re.findall(r'registry = "([^"]+)"', text))
    hosts = set(re.findall(r"https?://([^/\"]+)", text))

    assert len(indexes) == 1
    assert not re.search(r"http://|file://", text)
    for host in hosts:  # names anybody can resolve: no port, no address, no machine of somebody's own
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}", host), host
        assert not host.endswith((".local", ".internal", ".lan"))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_the_versions_of_the_lock(name: str) -> None:
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        locked.setdefault(package["name"], set()).add(package["version"])

    for package, text in pins(name).items():
        version = re.match(r"[^=]+==([^ ;\\]+)", text)
        assert version is not None
        assert version[1] in locked.get(package, set()), f"{package} differs: scripts/lock"


def test_the_lists_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def names(wanted: list[str]) -> set[str]:
        return {re.split(r"[\[<>=; ]", line)[0].lower() for line in wanted}

    assert (
        names(project["project"]["dependencies"]) | names(project["dependency-groups"]["build"])
        <= pins("requirements.lock").keys()
    )
    assert names(project["dependency-groups"]["dev"]) <= pins("requirements-dev.lock").keys()
    assert pins("requirements.lock").keys() <= pins("requirements-dev.lock").keys()
