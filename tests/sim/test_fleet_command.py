"""`soundbox-sim fleet` and `soundbox seed --fleet`, as they are called."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from soundbox_sim.cli import app
from soundbox_sim.swarm.roster import CannotRun
from soundbox_sim.swarm.run import Standing, require_files, run_command
from soundbox_sim.swarm.watch import as_line, as_table

ROSTER: dict[str, Any] = {
    "server": "http://127.0.0.1:9", "broker_host": "127.0.0.1", "broker_port": 9, "announcement_life_s": 60,
    "acquirer": {"partner_id": "sandbox", "secret": "s"}, "operator": {"email": "a@b.test", "password": "p"},
    "devices": [
        {"device_id": "flt_00001", "terminal_id": "term_1", "password": "p", "announcement_key": "A" * 43,
         "static_reference": "flt-00001"},
    ],
}  # fmt: skip


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(ROSTER))
    return path


def fleet(*arguments: object) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["fleet", *map(str, arguments)])
    return answer.exit_code, answer.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scenario", "holiday"), "reconnect-storm"),
        (("--devices", 2), "the roster names 1 boxes, not 2"),
        (("--scenario", "broker-restart"), "say how with --restart-broker"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_starts(
    roster: Path, arguments: tuple[object, ...], said: str
) -> None:
    status, output = fleet("--roster", roster, *arguments)

    assert status in (1, 2)
    assert said in " ".join(output.replace("│", " ").split())


def test_a_roster_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text('{"server": "http://127.0.0.1:9"}')

    status, output = fleet("--roster", tmp_path / "fleet.json")

    assert status == 1
    assert "devices" in output


def test_more_boxes_than_open_files_are_refused_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))

    with pytest.raises(CannotRun, match=r"5000 boxes need 5200 open files, .* may open 4096: .*ulimit -Hn 5200"):
        require_files(5_000)


def test_a_soft_limit_that_may_be_raised_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 20_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))

    require_files(5_000)

    assert raised == [(5_200, 20_000)]


async def test_a_command_that_fails_ends_the_run() -> None:
    await run_command("true")

    with pytest.raises(CannotRun, match="ended with 3"):
        await run_command("exit 3")


def test_a_watcher_sees_the_two_figures_that_must_stay_zero() -> None:
    standing = Standing(
        phase="running", elapsed_s=12.0, boxes=10, connected=9, in_session=8, callbacks=7, paid=6, heard=5, waiting=1,
        commands=2, said_twice=0, unpaid_said=0, heard_ms={"p50": 10.0, "p95": 20.0, "p99": 30.0, "max": 31.0},
    )  # fmt: skip

    assert "9/10 connected, 8 in session" in as_line(standing)
    assert "0 said twice, 0 said unpaid" in as_line(standing)
    assert as_table(standing).row_count == 10
