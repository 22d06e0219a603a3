"""Every operation of the description, asked by schemathesis with all its checks as each audience that there is.

A few examples each, and not the thousands of edges of every field: `python -m support.fuzz` asks those too.
"""

from pathlib import Path

import pytest
from support.fuzz.__main__ import run
from support.fuzz.audiences import AUDIENCES, joined

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("fuzz")]


async def test_every_audience_finds_the_api_as_it_is_described(tmp_path: Path) -> None:
    askers = joined(AUDIENCES)
    figures = await run(
        database="sqlite", examples=3, seed=1, home=tmp_path, audiences=askers, phases="examples,fuzzing,stateful"
    )

    asked = "+".join(figure.audience for figure in figures).split("+")
    assert sorted(asked) == sorted(audience.name for audience in AUDIENCES)
    for figure in figures:
        assert min(figure.operations, figure.cases) > 0, figure
        assert (figure.passed, figure.failures) == (True, 0), figure
