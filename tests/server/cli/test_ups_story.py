"""The picture that `soundbox up` draws, its ports and its folder."""

import io
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from soundbox_server.settings import Settings
from soundbox_server.up import UpRefused, home, ports
from soundbox_server.up.story import REMEMBERED, Story, rupiah, told_in_a_line
from soundbox_server.up.view import picture

DEVICE, PAYMENT = "sbx_001", "txn_1"
FACTS = {"transaction_id": PAYMENT, "amount": 50_000, "event_id": "ann_1", "seq": 1}


def event(what: str, second: float, **facts: Any) -> dict[str, Any]:
    return {"at": f"2026-05-23T10:00:{second:06.3f}Z", "device_id": DEVICE, "what": what, **facts}


def told() -> Story:
    """One payment all the way."""
    story = Story()
    story.know(DEVICE, "SBX-DEMO-0001", bound=True)
    story.hear(event("online", 0, session_epoch=1))
    story.hear(event("qr_asked", 1, request_id="r1", amount=50_000))
    story.hear(event("qr_shown", 1.2, transaction_id=PAYMENT, amount=50_000))
    story.hear(event("announced", 4.009, **FACTS))
    story.hear(event("played", 5.5, **FACTS, wav="/x.wav"))
    paid_ms = 1_779_530_404_000
    story.learn(PAYMENT, state="paid", paid_at_ms=paid_ms, announced_at_ms=paid_ms + 3)
    return story


def test_a_payment_is_told_once_with_every_hop() -> None:
    story = told()

    (payment,) = story.newly_finished()
    assert payment.latency_ms == 9
    assert story.median_latency_ms() == 9
    assert story.newly_finished() == []
    line = told_in_a_line(payment, story.boxes[DEVICE])
    assert line == (
        "txn_1  Rp50.000  SBX-DEMO-0001: QR asked, paid after 3.0 s, announced +3 ms, received +9 ms, played +1500 ms"
    )


def test_a_payment_that_nobody_asked_for_is_told_too() -> None:
    story = Story()
    story.know(DEVICE, "SBX-DEMO-0001", bound=True)
    story.hear(event("announced", 4.009, **FACTS))
    story.hear(event("played", 5.5, **FACTS, wav="/x.wav"))
    paid_ms = 1_779_530_404_000
    assert story.unfinished() == [PAYMENT]

    story.learn(PAYMENT, state="paid", paid_at_ms=paid_ms, announced_at_ms=paid_ms + 3)

    (payment,) = story.newly_finished()
    assert told_in_a_line(payment, story.boxes[DEVICE]) == (
        "txn_1  Rp50.000  SBX-DEMO-0001: paid by a static QR, announced +3 ms, received +9 ms, played +1500 ms"
    )


def test_a_payment_without_its_last_hop_is_not_finished() -> None:
    story = Story()
    story.know(DEVICE, "SBX-DEMO-0001", bound=True)
    story.hear(event("qr_shown", 1.2, transaction_id=PAYMENT, amount=50_000))
    story.hear(event("announced", 4, **FACTS))

    assert story.newly_finished() == []
    assert story.unfinished() == [PAYMENT]


def test_the_story_forgets_the_oldest_payments() -> None:
    story = Story()
    for number in range(REMEMBERED + 5):
        story.hear(event("qr_shown", 1, transaction_id=f"txn_{number}", amount=1))

    assert len(story.payments) == REMEMBERED
    assert "txn_4" not in story.payments
    assert story.latest(1)[0].transaction_id == f"txn_{REMEMBERED + 4}"


def test_boxes_are_offline_when_their_process_has_ended() -> None:
    story = told()
    assert story.boxes[DEVICE].online

    story.everybody_offline()

    assert not story.boxes[DEVICE].online


def test_a_box_that_is_not_activated_yet_is_known_by_its_serial_number() -> None:
    story = told()

    story.hear(event("waits", 6, reason="not activated") | {"device_id": "SBX-DEMO-0001"})

    assert list(story.boxes) == [DEVICE]


def test_what_went_wrong_on_a_box_is_worth_a_line() -> None:
    assert Story().hear(event("qr_failed", 1, request_id="r", error_code="PARTNER_TIMEOUT")) == (
        "sbx_001 qr failed PARTNER_TIMEOUT"
    )


def test_the_picture_shows_boxes_payments_and_latency() -> None:
    console = Console(width=140, record=True, file=io.StringIO())

    console.print(picture(told(), [], now_ms=lambda: 1_779_530_410_500))

    shown = console.export_text()
    box, payment = ("SBX-DEMO-0001", "● online", "5 s ago"), ("txn_1", "Rp50.000", "3.0 s", "+9 ms", "+1500 ms")
    for text in (*box, *payment, "within 9 ms"):
        assert text in shown


@pytest.mark.parametrize(("amount", "written"), [(None, "–"), (0, "Rp0"), (1_250_000, "Rp1.250.000")])
def test_rupiah_are_written_as_on_a_price_tag(amount: int | None, written: str) -> None:
    assert rupiah(amount) == written


def test_a_moved_port_takes_no_other_listeners_port(tmp_path: Path) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        settings = Settings(
            home=tmp_path, http_port=busy, worker_port=busy + 1, sandbox_port=busy + 2, broker_port=busy + 3
        )
        chosen = ports.choose(settings, said.append)

    assert chosen["http_port"] > busy + 3
    assert len(set(chosen.values())) == 4
    assert f"Port {busy} is in use" in said[0]


def test_two_listeners_on_one_port_are_set_apart(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    settings = Settings(home=tmp_path, http_port=port, worker_port=port, sandbox_port=port, broker_port=port)

    chosen = ports.choose(settings, lambda _: None)

    assert len(set(chosen.values())) == 4


def test_a_home_is_held_by_one(tmp_path: Path) -> None:
    with home.held(tmp_path), pytest.raises(UpRefused, match="running"), home.held(tmp_path):
        pass
    with home.held(tmp_path):
        pass


def test_beginning_anew_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    for name in ("soundbox.db", "soundbox.db-wal", "sandbox.db", "master.key", "notes.txt"):
        (tmp_path / name).touch()
    for folder in ("boxes/one", "device-logs", "documents", "exports", "mail"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mail" / "an-invitation.eml").touch()
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (tmp_path / "logs").symlink_to(outside)

    home.forget(Settings(home=tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (outside / "precious").exists()


def test_a_database_elsewhere_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "master.key").touch()

    with pytest.raises(UpRefused, match="SOUNDBOX_DATABASE_URL"):
        home.forget(Settings(home=tmp_path, database_url="postgresql://localhost/x"))
    assert (tmp_path / "master.key").exists()
