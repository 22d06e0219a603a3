"""The standard rates of QRIS in Indonesia, as the facts of `mdr.json`, turned into the versions of a fee profile.

The file holds what is known, with its sources; a later release that knows more adds a version by a migration, and
leaves the days before as they were.
"""

import json
from datetime import date, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Any

PROFILE = "fee_basic"


@lru_cache(maxsize=1)
def facts() -> Any:
    """The file as it is."""
    return json.loads((files("soundbox_server.fees") / "mdr.json").read_text())


def standard_versions() -> list[tuple[str, list[dict[str, Any]]]]:
    """Each day on which a rate changed, with all rules that hold from then on. Rules without a day hold on all."""
    rules = facts()["rules"]
    days = {rule["from"] for rule in rules if "from" in rule}
    days |= {_day_after(rule["to"]) for rule in rules if "to" in rule}
    return [(day, [_undated(rule) for rule in rules if _holds(rule, day)]) for day in sorted(days)]


def _holds(rule: dict[str, Any], day: str) -> bool:
    return bool(rule.get("from", day) <= day <= rule.get("to", day))


def _undated(rule: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rule.items() if name not in ("from", "to")}


def _day_after(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()
