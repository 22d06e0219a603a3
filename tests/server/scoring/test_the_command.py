"""`soundbox score`, as its user calls it."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from soundbox_server import cli

SAMPLE = {
    "as_of": "2026-03-15T12:00:00Z",
    "timezone": "UTC",
    "transactions": [
        {"at": "2026-03-15T09:00:00Z", "amount": 10000, "type": "CASH", "status": "Success",
         "settled_at": "2026-03-15T09:00:00Z"},
    ],
    "daily_revenue": [{"date": "2026-03-15", "revenue": 10000}],
    "scores": [{"at": "2026-03-14T00:00:00Z", "score": 90}],
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    returncode: object
    stdout: str
    stderr: str


def score(facts: Any, *arguments: str) -> Ended:
    """The console script in this process: starting one takes longer than scoring."""
    text = facts if isinstance(facts, str) else json.dumps(facts)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["soundbox", "score", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Ended(ended.value.code, out.getvalue(), err.getvalue())


def test_facts_become_a_score_with_its_warnings() -> None:
    ended = score(SAMPLE, "--model", "paybaba-v1", "--json")
    told = json.loads(ended.stdout)

    assert ended.returncode == 0
    assert (told["model"], told["score"], told["risk_band"]) == ("paybaba-v1", 65, "Medium")
    assert told["limits"] == {"min": 2667, "max": 4000}
    assert set(told["components"]) == {"volume", "consistency", "growth", "refunds", "settlement"}
    assert [(one["type"], one["severity"], one["value"]) for one in told["alerts"]] == [("score_drop", "Medium", 25.0)]


def test_a_file_may_be_named_and_its_times_overruled(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(SAMPLE))

    ended = score("", "--model", "paybaba-v1", "--as-of", "2026-01-01T00:00:00+07:00", "--file", str(file), "--json")

    assert json.loads(ended.stdout)["score"] is None


def test_a_short_history_is_an_answer() -> None:
    ended = score(SAMPLE)

    assert ended.returncode == 0
    assert "not enough history" in ended.stdout


def test_what_is_wrong_with_the_facts_is_said() -> None:
    wrong = [
        ("{", "the facts"),
        (SAMPLE | {"transaction": []}, "transaction: Extra inputs"),
        (SAMPLE | {"transactions": [{"at": "2026-03-15", "amount": 1.5, "type": "QRIS", "status": "Paid"}]},
         "transactions.0.amount"),
        (SAMPLE | {"timezone": "Mars/Olympus"}, "no such time zone"),
        ({"transactions": []}, "--as-of"),
    ]  # fmt: skip

    for facts, expected in wrong:
        ended = score(facts)

        assert (ended.returncode, ended.stdout) == (1, "")
        assert expected in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert score(SAMPLE, "--model", "guess").returncode == 1
