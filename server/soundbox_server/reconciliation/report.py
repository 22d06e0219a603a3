"""The day at its end, as finance closes it."""

from collections import defaultdict
from datetime import date
from typing import Any

from soundbox_server.db import Statements
from soundbox_server.revenue.service import NOBODYS, SUMS


async def of_day(tx: Statements, day: str) -> dict[str, Any]:
    """What each provider took on this day in Jakarta, what its statements say of it, and what is still open."""
    taken = await _taken(tx, day)
    told = await _told(tx, day)
    differences = await _differences(tx, day)
    providers = [
        _provider(name, taken.get(name, {}), told.get(name, []), differences.get(name, {}))
        for name in sorted((taken.keys() | told.keys() | differences.keys()) - NOBODYS)
    ]
    return {
        "day": day,
        "status": _worst([one["status"] for one in providers]),
        "providers": providers,
        "ledger_findings": await _findings(tx, day),
    }


def _provider(name: str, taken: dict[str, int], told: list[str], counted: dict[str, int]) -> dict[str, Any]:
    still_open = counted.get("open", 0)
    return {
        "provider": name,
        **{total: taken.get(total, 0) for total in SUMS},
        "statements": told,
        **{kind: counted.get(kind, 0) for kind in ("missing", "extra", "different")},
        "open": still_open,
        "status": "no_statement" if not told else "differences" if still_open else "settled",
    }


def _worst(states: list[str]) -> str:
    return next((state for state in ("differences", "no_statement") if state in states), "settled")


async def _taken(tx: Statements, day: str) -> dict[str, dict[str, int]]:
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in SUMS)
    rows = await tx.fetch(f"SELECT provider, {sums} FROM daily_revenue WHERE day = $1 GROUP BY provider", day)
    return {row["provider"]: {name: int(row[name]) for name in SUMS} for row in rows}


async def _told(tx: Statements, day: str) -> dict[str, list[str]]:
    rows = await tx.fetch(
        "SELECT provider, id FROM provider_statement WHERE day_from <= $1 AND day_to >= $1 ORDER BY id", day
    )
    told: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        told[row["provider"]].append(row["id"])
    return told


async def _differences(tx: Statements, day: str) -> dict[str, dict[str, int]]:
    """By provider: how many of each kind, and how many of all are open."""
    rows = await tx.fetch(
        "SELECT provider, kind, state, count(*) AS n FROM reconciliation_difference WHERE day = $1 "
        "GROUP BY provider, kind, state",
        day,
    )
    counted: defaultdict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        counted[row["provider"]][row["kind"]] += int(row["n"])
        counted[row["provider"]]["open"] += int(row["n"]) if row["state"] == "open" else 0
    return counted


async def _findings(tx: Statements, day: str) -> int | None:
    night = date.fromordinal(date.fromisoformat(day).toordinal() + 1).isoformat()
    rows = await tx.fetch("SELECT findings FROM ledger_check WHERE day = $1", night)
    return rows[0]["findings"] if rows else None
