"""What `soundbox up` shows: a picture that stays in a terminal, or one line after the other anywhere else."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from soundbox_server.up.child import Child
from soundbox_server.up.story import HOPS, PaymentSeen, Story, rupiah

PAYMENTS_SHOWN = 8


class PlainView(AbstractContextManager["PlainView"]):
    """Lines with the time of day; everything worth a line is one."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        self._console.print(f"{_clock()}  {line}", markup=False, highlight=False, soft_wrap=True)

    tell = say
    """For what the picture would show anyway."""

    def __exit__(self, *_: object) -> None:
        return None


class LiveView(AbstractContextManager["LiveView"]):
    """The picture, drawn four times a second; lines that matter scroll past above it."""

    def __init__(self, console: Console, story: Story, children: Sequence[Child]) -> None:
        self._console = console
        self._live = Live(
            console=console, get_renderable=lambda: picture(story, children), refresh_per_second=4, transient=False
        )

    def say(self, line: str) -> None:
        self._console.print(f"{_clock()}  {line}", markup=False, highlight=False, soft_wrap=True)

    def tell(self, line: str) -> None:
        """The picture shows it."""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def picture(story: Story, children: Sequence[Child], *, now_ms: Callable[[], int] | None = None) -> RenderableType:
    """Boxes, the latest payments hop by hop, and the processes that carry them."""
    at_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms()
    parts: list[RenderableType] = []
    if story.boxes:
        parts += [_boxes(story, at_ms), _payments(story)]
    return Group(*parts, _processes(children))


def _boxes(story: Story, at_ms: int) -> Table:
    table = Table(title="Boxes", title_justify="left", expand=False)
    for heading in ("serial number", "device", "state", "last spoken", "when", "spoken"):
        table.add_column(heading, justify="right" if heading in ("last spoken", "spoken") else "left")
    for box in story.boxes.values():
        state = Text("● online", "green") if box.online else Text("○ offline", "red")
        if not box.bound:
            state.append(" (no terminal yet)", "yellow")
        ago = "" if box.last_played_ms is None else f"{max(0, at_ms - box.last_played_ms) // 1000} s ago"
        table.add_row(box.serial_number, box.device_id, state, rupiah(box.last_amount_idr), ago, str(box.played))
    return table


def _payments(story: Story) -> Table:
    table = Table(title="Payments", title_justify="left", expand=False)
    for heading in ("transaction", "amount", "QR asked", "paid after", *HOPS[2:]):
        table.add_column(heading, justify="left" if heading == "transaction" else "right")
    for payment in story.latest(PAYMENTS_SHOWN):
        table.add_row(*_payment(payment))
    table.caption = f"{story.asked} QRs asked, {story.played} payments spoken since the start"
    if (latency := story.median_latency_ms()) is not None:
        table.caption += f"; half of them on the box within {latency} ms of being paid"
    return table


def _payment(payment: PaymentSeen) -> list[RenderableType]:
    asked, paid = payment.hops.get("asked"), payment.hops.get("paid")
    after = [
        Text("…", "dim") if paid is None or hop not in payment.hops else f"+{max(0, payment.hops[hop] - paid)} ms"
        for hop in HOPS[2:]
    ]
    return [
        payment.transaction_id,
        rupiah(payment.amount_idr),
        "" if asked is None else f"{datetime.fromtimestamp(asked / 1000).astimezone():%H:%M:%S}",
        Text("…", "dim") if asked is None or paid is None else f"{(paid - asked) / 1000:.1f} s",
        *after,
    ]


def _processes(children: Sequence[Child]) -> Text:
    line = Text("Processes  ")
    for child in children:
        line.append("● " if child.running else "○ ", "green" if child.running else "red")
        line.append(child.name + (f" (restarted {child.restarts}×)" if child.restarts else "") + "  ")
    return line.append("  Ctrl-C ends them all.", "dim")


def _clock() -> str:
    return f"{datetime.now().astimezone():%H:%M:%S}"
