"""What a fleet shows of itself while it runs, and at its end."""

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from soundbox_sim.swarm.run import Look, Standing


@contextlib.contextmanager
def watching(console: Console) -> Iterator[Look]:
    """A table that renews itself in a terminal, otherwise a line now and then."""
    if not console.is_terminal:
        yield lambda standing: console.print(as_line(standing), highlight=False, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda standing: live.update(as_table(standing), refresh=True)


def as_line(standing: Standing) -> str:
    latency = standing.heard_ms
    heard = f" p50 {latency['p50']:.0f} p95 {latency['p95']:.0f} p99 {latency['p99']:.0f} ms" if latency else ""
    return (
        f"{standing.elapsed_s:6.0f} s  {standing.phase}: {standing.connected}/{standing.boxes} connected, "
        f"{standing.in_session} in session, "
        f"{standing.callbacks} callbacks, {standing.paid} paid, {standing.heard} heard{heard}, "
        f"{standing.waiting} waiting, {standing.commands} commands, "
        f"{standing.said_twice} said twice, {standing.unpaid_said} said unpaid"
    )


def as_table(standing: Standing) -> Table:
    latency = standing.heard_ms or {}
    table = Table(title=f"{standing.phase}, {standing.elapsed_s:.0f} s", show_header=False)
    for name, value in (
        ("connected", f"{standing.connected} of {standing.boxes}"),
        ("known to the hub", str(standing.in_session)),
        ("callbacks", str(standing.callbacks)),
        ("paid", str(standing.paid)),
        ("heard", str(standing.heard)),
        ("callback to voice, ms", "  ".join(f"{name} {value:.0f}" for name, value in latency.items())),
        ("may still be heard", str(standing.waiting)),
        ("commands", str(standing.commands)),
        ("said twice", str(standing.said_twice)),
        ("said though unpaid", str(standing.unpaid_said)),
    ):
        table.add_row(name, value)
    return table


def verdict(report: dict[str, Any]) -> str:
    """The report for people: the figures, then each rule."""
    callbacks, payments, commands = report["callbacks"], report["payments"], report["commands"]
    lines = [
        f"{report['scenario']}: {report['boxes']} boxes for {report['duration_s']:.0f} s, seed {report['seed']}, "
        f"plan {report['plan_sha256'][:12]}",
        f"all in session after {report['all_in_session_after_s']} s",
        f"callbacks: {callbacks['calls']} calls, answers {callbacks['by_status']}, ms {callbacks['ms']}",
        f"payments: {payments['paid']} paid, {payments['heard']} heard, not heard {payments['not_heard']}",
        f"callback to voice, ms: {payments['callback_to_voice_ms']}",
        f"commands: {commands['taken']} taken, {commands['ended']}, refused {commands['refused']}",
        *(f"storm of {storm['boxes']}: all back after {storm['all_back_after_s']} s" for storm in report["storms"]),
    ]
    if report["storms"]:
        lines.append(f"callbacks in storms: {callbacks['in_storms']}, ms {callbacks['in_storms_ms']}")
    simulator = report["simulator"]
    lines.append(f"simulator: {simulator['cpu_s']} s of processor, {simulator['largest_mib']} MiB")
    for check in report["checks"]:
        lines.append(f"{'  ok  ' if check['holds'] else 'BROKEN'} {check['name']}" + _broken(check))
    return "\n".join(lines)


def _broken(check: dict[str, Any]) -> str:
    return "" if check["holds"] else f": {check['count']}, such as {check['found'][0]}"
