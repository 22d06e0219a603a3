"""What the model card says is so: weights, bands, what is looked at, and commands that exist."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from soundbox_server.scoring import paybaba_v1, soundbox_v2
from soundbox_server.scoring.points import WEIGHTS, band
from soundbox_server.scoring.state import Model, RiskBand
from soundbox_server.synthetic.world import MERCHANTS, WEEKS, population

CARD = (Path(__file__).parents[2] / "docs/model-card.md").read_text()
PERSONAL = (
    "name",
    "gender",
    "age",
    "religion",
    "ethnic",
    "language",
    "address",
    "city",
    "category",
    "customer",
    "device",
)


def test_the_weights_are_those_of_the_code() -> None:
    told = {name: int(weight) for name, weight in re.findall(r"^\| (\w+) \| (\d+) % \|", CARD, re.MULTILINE)}

    assert told == {component.value: weight for component, weight in WEIGHTS.items()}


def test_the_bands_are_those_of_the_code() -> None:
    low, medium = re.findall(r"band \((\d+) and more Low risk, (\d+) and more Medium", CARD)[0]

    assert [band(int(low)), band(int(low) - 1)] == [RiskBand.LOW, RiskBand.MEDIUM]
    assert [band(int(medium)), band(int(medium) - 1)] == [RiskBand.MEDIUM, RiskBand.HIGH]
    assert f"before {soundbox_v2.FEWEST_DAYS} days and {soundbox_v2.FEWEST_PAYMENTS} payments" in CARD


@pytest.mark.parametrize("facts", [paybaba_v1.Facts, soundbox_v2.Facts])
def test_nothing_of_a_person_is_among_the_facts(facts: type) -> None:
    looked_at = {word for field in fields(facts) for word in field.name.split("_")}

    assert len(looked_at) > 5
    assert looked_at.isdisjoint(PERSONAL)


def test_every_version_is_on_the_card() -> None:
    told = set(re.findall(r"^\| `([a-z0-9-]+)`, (\d+) \|", CARD, re.MULTILINE))

    versions = {Model.PAYBABA_V1: paybaba_v1.VERSION, Model.SOUNDBOX_V2: soundbox_v2.VERSION}
    assert told == {(model.value, str(version)) for model, version in versions.items()}


def test_the_back_tests_world_and_its_options_are_those_of_the_command() -> None:
    defaults = sum(one.default_day is not None and not one.is_twin for one in population().subjects)
    (commands,) = re.findall(r"^```\n(soundbox score backtest.*?)^```", CARD, re.DOTALL | re.MULTILINE)

    helped = subprocess.run(
        [Path(sys.executable).parent / "soundbox", "score", "backtest", "--help"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert f"{MERCHANTS} made-up shops over {WEEKS} weeks" in commands
    assert f"{defaults} of {MERCHANTS} that fall" in CARD
    assert {option for option in re.findall(r"--[a-z-]+", commands) if option not in helped.stdout} == set()
