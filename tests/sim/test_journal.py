import contextlib
import os
import stat
from pathlib import Path

import pytest

from soundbox_sim import journal as log
from soundbox_sim.journal import Entry, Journal, JournalInUse


def a_days_work() -> list[log.Record]:
    """One of every record, so that a cut can fall into each."""
    first, second = Entry("ann_1", 1), Entry("ann_2", 2)
    return [
        log.new_account("dev_a/1"),
        log.new_session(1),
        log.taken_in(first, ack='{"status":"received"}', day="2026-05-23", amount_idr=50_000),
        log.ack_sent(1),
        log.settled(Entry("ann_1", 1, "played", None, 1_779_530_400_000), ack='{"status":"played"}'),
        log.taken_in(second, ack='{"status":"received","name":"Wârung 🍜"}', day="2026-05-23", amount_idr=0),
        log.answered('{"status":"duplicate"}'),
        log.settled(Entry("ann_2", 2, "failed", "interrupted"), ack='{"status":"failed"}'),
    ]


def no_fsync(_file: int) -> None:
    """The page cache survives a killed process; only a test that counts or cuts needs another one."""


def as_text(folder: Path) -> str:
    journal = Journal(folder, fsync=no_fsync)
    journal.close()
    return repr(journal.memory)


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=no_fsync)
    for record in a_days_work():
        journal.write(record)
    journal.close()

    again = Journal(tmp_path, fsync=no_fsync)
    assert again.memory == journal.memory
    assert again.memory.entries["ann_1"].played_at_ms == 1_779_530_400_000
    assert list(again.memory.unsent_acks) == [2, 3, 4, 5]
    assert (again.memory.day_count, again.memory.day_total_idr) == (1, 50_000)
    again.close()


def test_a_file_cut_at_any_byte_holds_every_record_before_the_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "whole", fsync=no_fsync)
    path = tmp_path / "whole" / "journal.log"
    states = {path.stat().st_size: repr(journal.memory)}
    for record in a_days_work():
        journal.write(record)
        states[path.stat().st_size] = repr(journal.memory)
    journal.close()
    whole = path.read_bytes()

    (tmp_path / "cut").mkdir()
    for length in range(min(states), len(whole) + 1):
        (tmp_path / "cut" / "journal.log").write_bytes(whole[:length])

        expected = states[max(size for size in states if size <= length)]
        assert as_text(tmp_path / "cut") == expected, f"cut at byte {length}"


def test_a_power_cut_at_any_step_leaves_the_state_before_or_after_it(tmp_path: Path, monkeypatch) -> None:
    """Every write, fsync and rename in turn is the last thing that happens, half of a write included."""
    steps = _count_steps(tmp_path / "dry", monkeypatch)
    assert steps > 30

    for cut_at in range(steps):
        folder = tmp_path / str(cut_at)
        reached = _work_until_the_cut(folder, cut_at, monkeypatch)
        found = as_text(folder)
        assert found in reached, f"cut at step {cut_at}"


def test_a_durable_record_costs_one_fsync_and_a_sent_ack_none(tmp_path: Path) -> None:
    synced: list[int] = []
    journal = Journal(tmp_path, fsync=synced.append)
    synced.clear()
    journal.write(log.new_session(1))
    after_durable = len(synced)
    journal.write(log.ack_sent(1), durable=False)
    journal.close()

    assert (after_durable, len(synced)) == (1, 1)


def test_a_long_log_is_compacted_and_says_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=no_fsync)
    for record in a_days_work():
        journal.write(record)
    for epoch in range(2, 4_000):
        journal.write(log.new_session(epoch))
    journal.close()

    assert (tmp_path / "journal.log").stat().st_size < log.COMPACT_BYTES + 200
    assert as_text(tmp_path) == repr(journal.memory)


def test_a_write_that_failed_leaves_no_half_line_behind(tmp_path: Path) -> None:
    full = False

    def fsync(_file: int) -> None:
        if full:
            raise OSError(28, "No space left on device")

    journal = Journal(tmp_path, fsync=fsync)
    journal.write(log.new_session(1))
    full = True
    with pytest.raises(OSError, match="No space"):
        journal.write(log.new_session(2))
    full = False
    unmoved = journal.memory.session_epoch
    journal.write(log.new_session(3))
    journal.close()

    again = Journal(tmp_path, fsync=no_fsync)
    assert unmoved == 1
    assert (again.memory.session_epoch, again.damaged_lines) == (3, 0)
    again.close()


def test_a_damaged_line_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=no_fsync)
    journal.write(log.new_session(1))
    journal.write(log.new_session(2))
    journal.write(log.taken_in(Entry("ann_1", 1), ack="{}", day="2026-05-23", amount_idr=1))
    journal.close()
    path = tmp_path / "journal.log"
    path.write_bytes(path.read_bytes().replace(b'"epoch":2', b'"epoch":7'))

    again = Journal(tmp_path, fsync=no_fsync)
    assert (again.memory.session_epoch, again.damaged_lines) == (1, 1)
    assert "ann_1" in again.memory.entries
    again.close()


def test_a_torn_last_line_is_no_damage(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=no_fsync)
    journal.close()
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b"0badc0de {")

    again = Journal(tmp_path, fsync=no_fsync)
    assert again.damaged_lines == 0
    again.close()


def test_a_record_of_a_newer_program_is_not_skipped_in_silence(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=no_fsync)
    with pytest.raises(ValueError, match="newer program"):
        journal.write({"is": "digest"})
    journal.close()

    with pytest.raises(ValueError, match="newer program"):
        Journal(tmp_path, fsync=no_fsync)


def test_two_processes_cannot_be_the_same_box(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=no_fsync)
    with pytest.raises(JournalInUse):
        Journal(tmp_path, fsync=no_fsync)
    journal.close()

    Journal(tmp_path, fsync=no_fsync).close()


def test_the_journal_is_nobody_elses_to_read(tmp_path: Path) -> None:
    Journal(tmp_path, fsync=no_fsync).close()

    assert stat.S_IMODE((tmp_path / "journal.log").stat().st_mode) == 0o600


def test_an_id_that_is_forgotten_is_below_the_floor(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=no_fsync)
    for number in range(40):  # A hub that gives every announcement the same seq.
        journal.write(log.taken_in(Entry(f"ann_{number}", 5), ack="{}", day="2026-05-23", amount_idr=1))
    journal.close()

    assert len(journal.memory.entries) == log.WINDOW
    assert journal.memory.floor == 5


class PowerCutError(BaseException):
    """Not an OSError: nothing in the program may clean up after it."""


def _count_steps(folder: Path, monkeypatch) -> int:
    steps = _Power(cut_at=None)
    _work(folder, steps, monkeypatch)
    return steps.taken


def _work_until_the_cut(folder: Path, cut_at: int, monkeypatch) -> list[str]:
    """The states that the file may hold: before and after the record that was being written."""
    power = _Power(cut_at=cut_at)
    states = [repr(log.Memory())]
    with contextlib.suppress(PowerCutError):
        _work(folder, power, monkeypatch, states)
    return states[-2:]


def _work(folder: Path, power: "_Power", monkeypatch, states: list[str] | None = None) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(log.os, "write", power.write)
        patched.setattr(Path, "replace", lambda source, target: power.rename(source, target))
        patched.setattr(log, "COMPACT_BYTES", 600)
        journal = None
        try:
            journal = Journal(folder, fsync=power.fsync)
            expected = log.Memory()
            for record in a_days_work():
                if states is not None:
                    log.remember(expected, record)
                    states.append(repr(expected))
                journal.write(record)
        finally:
            if journal is not None:
                journal.close()


_write, _rename = os.write, Path.replace


class _Power:
    def __init__(self, *, cut_at: int | None) -> None:
        self.taken, self._cut_at = 0, cut_at

    def _step(self) -> None:
        if self.taken == self._cut_at:
            raise PowerCutError
        self.taken += 1

    def write(self, file: int, data: bytes) -> int:
        half = len(data) // 2
        self._step()
        _write(file, data[:half])
        self._step()
        _write(file, data[half:])
        self._step()
        return len(data)

    def fsync(self, _file: int) -> None:
        self._step()

    def rename(self, source: Path, target: Path) -> Path:
        self._step()
        moved = _rename(source, target)
        self._step()
        return moved
