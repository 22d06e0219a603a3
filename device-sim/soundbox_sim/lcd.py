"""What a watcher sees: the boxes' displays in a terminal, plain lines, or one JSON object per line."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TextIO

import segno
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from soundbox_protocol.speech import amount_words
from soundbox_protocol.times import to_rfc3339
from soundbox_sim.box import Box, Tell

SHOWN_LINES = 4
_TOLD = (
    *("stale_skipped", "rejected", "interrupted", "bad_signature", "audio_fault", "qr_failed", "waits_for_time"),
    "command_ended",
)


def json_lines(out: TextIO) -> Callable[[str, Tell, Box | None], None]:
    """One line per event: `at` (UTC, milliseconds), `device_id`, `what`, then the facts."""

    def watch(device_id: str, told: Tell, _box: Box | None) -> None:
        line = {"at": _now(), "device_id": device_id, "what": told.what, **told.facts}
        out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        out.flush()

    return watch


def plain_lines(out: TextIO) -> Callable[[str, Tell, Box | None], None]:
    """The same for people whose output goes into a file."""

    def watch(device_id: str, told: Tell, _box: Box | None) -> None:
        facts = "  ".join(f"{name}={value}" for name, value in told.facts.items() if value is not None)
        out.write(f"{_now()}  {device_id}  {told.what}  {facts}\n")
        out.flush()

    return watch


class Lcd:
    """The displays side by side, drawn anew whenever something happens. A context manager around the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._panels: dict[str, RenderableType] = {}
        self._lines: dict[str, list[str]] = {}

    def __enter__(self) -> "Lcd":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def watch(self, device_id: str, told: Tell, box: Box | None) -> None:
        """Take in one event and draw."""
        lines = self._lines.setdefault(device_id, [])
        if line := _line(told):
            lines.append(f"{datetime.now().astimezone():%H:%M:%S}  {line}")
            del lines[:-SHOWN_LINES]
        if box is not None:
            self._panels[device_id] = _panel(device_id, box, lines)
        self._live.update(Group(*self._panels.values()), refresh=True)


def rupiah(amount_idr: int | None) -> str:
    """`Rp50.000`, as on a price tag."""
    return "Rp–" if amount_idr is None else f"Rp{amount_idr:,}".replace(",", ".")


def qr_blocks(payload: str) -> str:
    """A QR as text, two rows of modules in each line, with its quiet zone. Dark is ink: show it black on white."""
    rows = [
        [bool(module) for module in row] for row in segno.make(payload, error="m", micro=False).matrix_iter(border=2)
    ]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    ink = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return "\n".join("".join(ink[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs)


def _panel(device_id: str, box: Box, lines: list[str]) -> RenderableType:
    light, word = ("green", "online") if box.online else ("red", "offline")
    title = Text.assemble((device_id, "bold"), "  ", (f"● {word}", light))
    day = box.day_total()
    footer = f"today {day.count} payments, {rupiah(day.total_idr)}"
    return Panel(Group(_display(box), *map(Text, lines)), title=title, subtitle=footer, title_align="left", width=84)


def _display(box: Box) -> RenderableType:
    screen, language = box.screen, box.language
    if screen.shows == "qr" and screen.qr_payload is not None:
        code = Text(qr_blocks(screen.qr_payload), style="black on white")
        return Group(code, Text(rupiah(screen.amount_idr), style="bold"))
    if screen.shows == "paid" and screen.amount_idr is not None:
        words = f"{amount_words(screen.amount_idr, language)} rupiah"
        return Text(f"✔ {rupiah(screen.amount_idr)}\n{words}", style="bold green")
    return Text({"id": "Siap menerima pembayaran", "en": "Ready"}[language], style="dim")


def _line(told: Tell) -> str | None:
    amount = rupiah(told.facts.get("amount"))
    match told.what:
        case "online" | "offline":
            return told.what
        case "qr_asked":
            return f"asks for a QR over {amount}"
        case "announced":
            return f"#{told.facts['seq']} paid {amount}"
        case "played":
            return f"#{told.facts['seq']} spoken {amount}  {told.facts['wav'] or ''}".rstrip()
        case "command":
            return f"is asked to {told.facts['command_name'].replace('_', ' ')}"
        case "code_spoken" | "command_spoken":
            return f'says "{told.facts["sentence"]}"  {told.facts["wav"] or ""}'.rstrip()
        case "configured":
            return f"configuration {told.facts['config_version']} is in force"
        case what if what in _TOLD:
            return f"{what.replace('_', ' ')}  {_short(told.facts)}"
        case _:
            return None


def _short(facts: dict[str, Any]) -> str:
    return "  ".join(str(value) for value in facts.values() if value is not None)


def _now() -> str:
    now_ms = time.time_ns() // 1_000_000
    return f"{to_rfc3339(now_ms)[:-1]}.{now_ms % 1000:03d}Z"
