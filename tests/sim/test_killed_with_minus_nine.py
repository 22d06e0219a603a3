"""The real thing: a process with a real journal, killed at any moment, over and over."""

import select
import subprocess
import sys
import time
from pathlib import Path

from soundbox_sim.journal import Journal

NOW = 1_779_530_400_000

# Each line that comes in is a topic and a payload; each line that goes out is one thing the box did.
BOX = f"""
import sys
from pathlib import Path
from soundbox_sim.box import Box, Publish, Speak
from soundbox_sim.journal import Journal

box = Box("dev_01k0000000000000000000000", bytes(range(32)), Journal(Path(sys.argv[1])), account="one",
          now_ms={NOW}, token=lambda: "t")

def do(actions):
    for action in actions:
        if isinstance(action, Publish) and action.ack:
            print("ack", action.payload.decode(), flush=True)
        if isinstance(action, Speak):
            print("say", action.event_id, flush=True)
            do(box.spoken(action.event_id, {NOW}))

do(box.boot({NOW}))
print("ready", flush=True)
for line in sys.stdin:
    topic, payload = line.rstrip("\\n").split(" ", 1)
    do(box.hear(topic, payload.encode(), {NOW}))
    do(box.tick({NOW} + 2000))
"""


def test_nothing_is_said_twice_and_every_ack_is_on_the_disk(tmp_path: Path, hub) -> None:
    payments = [hub.payment(seq) for seq in range(1, 13)]
    said: list[str] = []
    acked: set[str] = set()
    for kill_after_lines in (1, 3, 6, 8, 13, 17, None):
        lines = _run_box(tmp_path, payments, kill_after_lines)
        said += [line.split()[1] for line in lines if line.startswith("say ")]
        acked |= {line.split('"event_id":"')[1].split('"')[0] for line in lines if line.startswith("ack ")}

    journal = Journal(tmp_path)
    journal.close()
    assert len(said) == len(set(said))
    assert set(said) <= acked == set(journal.memory.entries)
    assert len(acked) == 12
    assert {entry.status for entry in journal.memory.entries.values()} <= {"played", "failed"}
    assert all(entry.status == "failed" or entry.event_id in said for entry in journal.memory.entries.values())


def _run_box(folder: Path, payments: list[tuple[str, bytes]], kill_after_lines: int | None) -> list[str]:
    """Feeds all payments; kills the process after so many lines of output, or lets it end by itself."""
    command = [sys.executable, "-c", BOX, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"".join(topic.encode() + b" " + payload + b"\n" for topic, payload in payments))
        process.stdin.close()
        lines = []
        deadline = time.monotonic() + 30
        while kill_after_lines is None or len(lines) < kill_after_lines:
            assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], "the box hangs"
            line = process.stdout.readline().decode()
            if not line:
                break
            lines.append(line)
        if kill_after_lines is not None:
            process.kill()
        lines += process.stdout.read().decode().splitlines()
    assert kill_after_lines is not None or process.returncode == 0
    return lines
