import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import segno
from rich.console import Console

from soundbox_protocol.messages import PaymentSuccess, encode
from soundbox_protocol.signing import sign
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import Downlink, downlink
from soundbox_sim.box import Tell
from soundbox_sim.fleet import read_plans
from soundbox_sim.lcd import Lcd, plain_lines, qr_blocks, rupiah

SIM = [sys.executable, "-c", "from soundbox_sim.cli import main; main()"]
KEY = bytes(range(32))
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


class Sim:
    """One `soundbox-sim` process and the lines it prints."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[dict[str, Any]] = []
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [*SIM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def of(self, what: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["what"] == what]

    def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended early: {self.errors()}"
            assert time.monotonic() < deadline, f"waited in vain; heard {[line['what'] for line in self.lines]}"
            self._reader.join(0.02)

    def errors(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(20)
        self._reader.join(10)
        return code


@pytest.fixture
def start() -> Iterator[Callable[..., Sim]]:
    running: list[Sim] = []

    def begin(*arguments: str) -> Sim:
        running.append(Sim(*arguments))
        return running[-1]

    yield begin
    for sim in running:
        if sim.process.poll() is None:
            sim.process.kill()
        sim.wait()
        assert sim.process.stdout
        assert sim.process.stderr
        sim.process.stdout.close()
        sim.process.stderr.close()


@pytest.fixture
def server(mosquitto) -> Iterator[str]:
    """Hands out credentials for every serial number but one."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.answer(*_activated(asked, mosquitto.port))

        def answer(self, code: int, body: dict[str, Any]) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{hub.server_port}"
        hub.shutdown()
        thread.join()


def _activated(asked: dict[str, str], port: int) -> tuple[int, dict[str, Any]]:
    if asked["serial_number"] == "UNKNOWN":
        return 401, {"code": "DEVICE_UNAUTHORIZED", "message": "no such code"}
    device_id = f"dev_{asked['serial_number'].lower()}"
    broker = {"host": "127.0.0.1", "port": port, "username": device_id, "password": "p", "tls": False}
    data = {"device_id": device_id, "device_token": "t", "broker": broker, "announcement_key": KEY_TEXT}
    return 201, {"data": {**data, "key_version": 1, "server_time": "2026-05-23T10:00:00Z"}}


async def announce(port: int, device_id: str, seq: int) -> None:
    now_ms = int(time.time() * 1000)
    message = PaymentSuccess(
        event_id=f"ann_{seq}",
        transaction_id=f"txn_{seq}",
        seq=seq,
        merchant_name="Warung Sari",
        amount=50_000,
        currency="IDR",
        paid_at=to_rfc3339(now_ms),
        issued_at=to_rfc3339(now_ms),
        expires_at=to_rfc3339(now_ms + 60_000),
    )
    topic = downlink(device_id, Downlink.PAYMENT_SUCCESS)
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.publish(topic, sign(KEY, topic, encode(message)), qos=1)


def options(server: str, home: Path, serial: str = "SN1", code: str = "ABCDE12345") -> list[str]:
    box = ["--server", server, "--home", str(home), "--serial", serial, "--events-json"]
    return ["run", *box, "--activation-code", code] if code else ["run", *box]


async def test_a_box_activates_speaks_and_ends_in_good_order(server: str, mosquitto, start, tmp_path: Path) -> None:
    sim = start(*options(server, tmp_path / "box"))
    sim.until(lambda: sim.of("online"))
    await announce(mosquitto.port, "dev_sn1", 1)
    sim.until(lambda: sim.of("played"))

    assert sim.end() == 0
    announced, played = sim.of("announced")[0], sim.of("played")[0]
    facts = {"device_id": "dev_sn1", "event_id": "ann_1", "seq": 1, "amount": 50_000, "transaction_id": "txn_1"}
    assert facts.items() <= announced.items()
    assert facts.items() <= played.items()
    assert sim.lines[-1]["what"] == "offline"
    with wave.open(played["wav"]) as wav:
        assert wav.getnframes() / wav.getframerate() > 1
    left = {file.name for file in (tmp_path / "box").rglob("*") if file.is_file()}
    assert left == {"credentials.json", "journal.log", "journal.lock", "000001-ann_1.wav"}


async def test_a_second_start_continues_without_a_code(server: str, mosquitto, start, tmp_path: Path) -> None:
    first = start(*options(server, tmp_path))
    first.until(lambda: first.of("online"))
    await announce(mosquitto.port, "dev_sn1", 1)
    first.until(lambda: first.of("played"))
    assert first.end(signal.SIGINT) == 0

    second = start(*options(server, tmp_path, code=""))
    second.until(lambda: second.of("online"))
    await announce(mosquitto.port, "dev_sn1", 1)
    second.until(lambda: second.of("duplicate"))

    assert second.of("online")[0]["session_epoch"] == 2
    assert second.of("announced") == []


async def test_a_killed_box_reports_what_it_could_not_say(server: str, mosquitto, start, tmp_path: Path) -> None:
    """The power goes between journal and speaker: the fault makes the box boot, the kill ends the process."""
    first = start(*options(server, tmp_path), "--fault", "reboot=1")
    first.until(lambda: first.of("online"))
    await announce(mosquitto.port, "dev_sn1", 1)
    first.until(lambda: first.of("interrupted"))
    first.end(signal.SIGKILL)

    second = start(*options(server, tmp_path))
    second.until(lambda: second.of("online"))
    await announce(mosquitto.port, "dev_sn1", 1)
    second.until(lambda: second.of("duplicate"))

    assert second.of("announced") == []


async def test_three_boxes_live_in_one_process(server: str, mosquitto, start, tmp_path: Path) -> None:
    boxes = [
        {"serial": f"SN{n}", "activation_code": f"CODE{n}", "home": f"box-{n}", "terminal_id": f"term_{n}"}
        for n in (1, 2, 3)
    ]
    asking = [{**box, "voice": "none", "ask_qr_every": 0.2, "amounts": [7_000]} for box in boxes]
    (tmp_path / "boxes.json").write_text(json.dumps(asking))
    sim = start("run-many", "--file", str(tmp_path / "boxes.json"), "--server", server, "--events-json")
    sim.until(lambda: len(sim.of("online")) == 3 and len({line["device_id"] for line in sim.of("qr_asked")}) == 3)
    for n in (1, 2, 3):
        await announce(mosquitto.port, f"dev_sn{n}", n)
    sim.until(lambda: len(sim.of("played")) == 3)

    assert sim.end() == 0
    assert {(line["device_id"], line["seq"]) for line in sim.of("played")} == {(f"dev_sn{n}", n) for n in (1, 2, 3)}
    assert sim.of("qr_asked")[0]["amount"] == 7_000
    assert (tmp_path / "box-1" / "journal.log").exists()


async def test_a_box_that_may_not_start_leaves_the_others_alone(server: str, mosquitto, start, tmp_path: Path) -> None:
    boxes = [
        {"serial": serial, "activation_code": "CODE", "home": serial, "voice": "none"} for serial in ("UNKNOWN", "SN2")
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    sim = start("run-many", "--file", str(tmp_path / "boxes.json"), "--server", server, "--events-json")
    sim.until(lambda: sim.of("online") and sim.of("stopped"))

    assert sim.end() == 1
    assert "UNKNOWN: 401 DEVICE_UNAUTHORIZED: no such code" in sim.errors()


def test_a_box_that_waits_for_its_hub_can_be_ended(start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_hub:
        silent_hub.settimeout(30)
        sim = start(*options(f"http://127.0.0.1:{silent_hub.getsockname()[1]}", tmp_path))
        asking, _ = silent_hub.accept()
        with asking:
            code = sim.end()

    assert code == 0


async def test_a_box_whose_watcher_is_gone_ends(server: str, mosquitto, tmp_path: Path) -> None:
    command = [*SIM, *options(server, tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert any('"online"' in line for line in process.stdout)
        process.stdout.close()
        await announce(mosquitto.port, "dev_sn1", 1)
        errors = process.stderr.read()

    assert process.returncode == 1
    assert errors == "soundbox-sim: nobody reads what the boxes tell\n"


def test_the_same_home_twice_is_refused(server: str, start, tmp_path: Path) -> None:
    first = start(*options(server, tmp_path))
    first.until(lambda: first.of("online"))
    second = start(*options(server, tmp_path))

    assert second.wait() == 1
    assert "another process is this box already" in second.errors()


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (["--fault", "explode"], "is no fault"),
        (["--amounts", "15.000,x"], "no list of whole numbers"),
        (["--amounts", "0"], "greater than 0"),
        (["--ask-qr-every", "5"], "terminal_id"),
    ],
)
def test_options_that_make_no_sense_are_refused(start, tmp_path: Path, extra: list[str], problem: str) -> None:
    sim = start(*options("http://127.0.0.1:1", tmp_path), *extra)

    assert sim.wait() == 2
    assert problem in sim.errors().replace("\n│", "")


def test_say_writes_what_it_says(tmp_path: Path) -> None:
    wav = tmp_path / "a.wav"
    done = subprocess.run([*SIM, "say", "50000", "--language", "en", "--wav", str(wav)], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "Payment received, fifty thousand rupiah\n")
    assert wav.stat().st_size > 50_000


def test_say_refuses_what_nobody_can_say() -> None:
    done = subprocess.run([*SIM, "say", "1000000000000"], capture_output=True, text=True)

    assert done.returncode == 1
    assert "can be spoken" in done.stderr


def test_a_file_of_boxes_says_which_entry_is_wrong(tmp_path: Path) -> None:
    good = {"serial": "S", "home": "a"}
    for entry, problem in (
        ({"home": "b"}, "box 2: serial"),
        ({**good, "home": "b", "colour": "red"}, "box 2: colour"),
        (good, "same home"),
    ):
        with pytest.raises(ValueError, match=problem):
            read_plans(json.dumps([good, entry]), server="http://hub", folder=tmp_path)
    with pytest.raises(ValueError, match="box 1: server"):
        read_plans(json.dumps([good]), server=None, folder=tmp_path)
    with pytest.raises(ValueError):
        read_plans('[]},{"x":[]', server="http://hub", folder=tmp_path)


def test_a_qr_on_the_display_has_the_modules_of_the_code() -> None:
    payload = "00020101021226" * 15
    rows = []
    for line in qr_blocks(payload).splitlines():
        rows.append([character in "▀█" for character in line])
        rows.append([character in "▄█" for character in line])

    code = [
        [bool(module) for module in row] for row in segno.make(payload, error="m", micro=False).matrix_iter(border=2)
    ]
    assert rows[: len(code)] == code


def test_amounts_look_as_they_do_in_shops() -> None:
    assert [rupiah(amount) for amount in (0, 500, 15_000, 1_250_000, None)] == [
        "Rp0",
        "Rp500",
        "Rp15.000",
        "Rp1.250.000",
        "Rp–",
    ]


def test_the_display_shows_the_box_its_qr_and_the_day(bench, hub) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    bench.go_online()
    bench.do(bench.box.ask_qr(15_000, bench.now))
    bench.hear(hub.qr(bench.payloads("dynamic_qr_request")[0]["request_id"]))
    with Lcd(console) as lcd:
        lcd.watch("dev_a", Tell("qr_shown", {}), bench.box)
        shown = out.getvalue()
        bench.hear(hub.payment(1, transaction_id="txn_7", amount=15_000))
        for told in bench.told:
            lcd.watch("dev_a", told, bench.box)

    assert "● online" in shown
    assert "Rp15.000" in shown
    assert "█" in shown
    after = out.getvalue()[len(shown) :]
    assert "lima belas ribu rupiah" in after
    assert "#1 paid Rp15.000" in after
    assert "today 1 payments, Rp15.000" in after


def test_plain_lines_leave_out_what_is_not_known() -> None:
    out = io.StringIO()
    plain_lines(out)("dev_a", Tell("played", {"seq": 1, "wav": None}), None)

    assert out.getvalue().endswith("dev_a  played  seq=1\n")
