"""The bench is only worth its figures when it runs: a few payments through everything it starts."""

import tempfile
from pathlib import Path

import pytest
from support.bench import grown
from support.bench.__main__ import measured, table
from support.bench.measure import SMOKE
from support.bench.scoring import scoring
from support.bench.settling import settling


async def test_a_small_run_measures_everything_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="sbb-", dir="/tmp") as folder:  # short: sockets lie in it
        monkeypatch.setattr(tempfile, "tempdir", folder)
        await _measure()

        assert list(Path(folder).iterdir()) == []


async def _measure() -> None:
    figures = await measured(SMOKE, "sqlite")

    (one,) = figures.rounds
    assert one.product_loaded.calls == one.baseline_loaded.calls == SMOKE.payments
    assert 0 < one.product_alone.heard_p50_ms <= one.product_alone.heard_p99_ms
    assert figures.beats_http[0].recorded == figures.beats_mqtt[0].recorded == SMOKE.beats
    assert 0 < figures.creates[0].p50_ms <= figures.creates[0].p99_ms
    assert "ratio, throughput" in table(figures)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_grown_database_is_measured_beside_a_smaller_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="sbg-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        found = await grown.measured(kind, small=100, large=1_000, rounds=1, callbacks=32)

    assert found.large.bytes_on_disk > found.small.bytes_on_disk
    assert found.ratio("elapsed_us") > 0
    assert "1,000 payments" in grown.table(found)


async def test_a_small_day_is_settled_by_both() -> None:
    settled = await settling("sqlite", payments=200, rounds=1)

    assert len(settled.raw_s) == len(settled.product_s) == 1
    assert "200 payments" in settled.table()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_few_merchants_are_scored_by_both(kind: str) -> None:
    scored = await scoring(kind, payments=1_000, rounds=1, merchants=20)

    assert len(scored.raw_s) == len(scored.product_s) == len(scored.facts_s) == 1
    assert "1,000 payments of 20 merchants" in scored.table()
