"""From where on a change is a warning: everybody's thresholds are settings, and a bank may have its own.

What a bank says is kept version by version. What it does not say is as it is for everybody.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import orjson

from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, NotFound, ValidationFailed
from soundbox_server.ids import new_id
from soundbox_server.scoring.early_warning import Thresholds
from soundbox_server.scoring.state import PLATFORM, WarningType

# The least and the most that a bank may say, in hundredths of the measure's unit: percent, points or days.
BOUNDS: Mapping[WarningType, tuple[int, int]] = {
    WarningType.REVENUE_DROP: (100, 10_000),
    WarningType.REFUND_SPIKE: (50, 10_000),
    WarningType.SETTLEMENT_DELAY: (50, 3_000),
    WarningType.TRANSACTION_DROP: (100, 10_000),
    WarningType.SCORE_DROP: (100, 10_000),
}


@dataclass(frozen=True, kw_only=True)
class Own:
    """What a bank says of itself, in hundredths. Version 0 has never said anything."""

    organisation_id: str
    version: int = 0
    changed_at_ms: int | None = None
    hundredths: Mapping[WarningType, int]


async def thresholds_of(tx: Statements, organisation_id: str, *, default: Thresholds) -> Thresholds:
    """From where on this bank calls it a warning: its own figures, and everybody's where it has none."""
    return {**default, **_fractions((await said_by(tx, organisation_id)).hundredths)}


async def said_by(tx: Statements, organisation_id: str) -> Own:
    """Raises NotFound for what is no bank."""
    if not await tx.fetch("SELECT id FROM organisation WHERE id = $1 AND kind = 'bank'", organisation_id):
        raise NotFound("No such bank.", organisation_id=organisation_id)
    rows = await tx.fetch(
        "SELECT type, hundredths FROM early_warning_threshold WHERE organisation_id = $1", organisation_id
    )
    last = await tx.fetch(
        "SELECT version, changed_at_ms FROM early_warning_threshold_change WHERE organisation_id = $1 "
        "ORDER BY version DESC LIMIT 1",
        organisation_id,
    )
    return Own(
        organisation_id=organisation_id,
        version=last[0]["version"] if last else 0,
        changed_at_ms=last[0]["changed_at_ms"] if last else None,
        hundredths={WarningType(row["type"]): row["hundredths"] for row in rows},
    )


async def own_of(tx: Statements, organisation_ids: Sequence[str], *, default: Thresholds) -> dict[str, Thresholds]:
    """By bank, of those that ever said something."""
    if not organisation_ids:
        return {}
    rows = await tx.fetch(
        "SELECT DISTINCT c.organisation_id, t.type, t.hundredths FROM early_warning_threshold_change c "
        "LEFT JOIN early_warning_threshold t ON t.organisation_id = c.organisation_id "
        f"WHERE c.organisation_id {tx.among(1)}",
        list(organisation_ids),
    )
    said: dict[str, dict[WarningType, int]] = {row["organisation_id"]: {} for row in rows}
    for row in rows:
        if row["type"] is not None:
            said[row["organisation_id"]][WarningType(row["type"])] = row["hundredths"]
    return {bank: {**default, **_fractions(theirs)} for bank, theirs in said.items()}


async def judged_for(tx: Statements, organisation_id: str) -> str:
    """Whose warnings a bank sees: its own, once it has said something, and until then the platform's."""
    rows = await tx.fetch(
        "SELECT organisation_id FROM early_warning_threshold_change WHERE organisation_id = $1 LIMIT 1", organisation_id
    )
    return organisation_id if rows else PLATFORM


def sharing(own: Mapping[str, Thresholds]) -> Iterator[tuple[Thresholds, set[str]]]:
    """Each set of thresholds once, with the banks that have it."""
    sharers: dict[tuple[Fraction, ...], set[str]] = {}
    for bank, thresholds in own.items():
        sharers.setdefault(tuple(thresholds[kind] for kind in WarningType), set()).add(bank)
    for values, banks in sharers.items():
        yield dict(zip(WarningType, values, strict=True)), banks


async def change(
    tx: Statements,
    organisation_id: str,
    wanted: Mapping[WarningType, int],
    *,
    version: int,
    actor: Actor,
    now_ms: int,
) -> Own:
    """What a bank says from now on, in hundredths, and nothing of what it said before. `version` is the one that the
    caller has seen. Raises NotFound, Conflict where somebody was quicker, ValidationFailed beyond the bounds."""
    for kind, hundredths in wanted.items():
        least, most = BOUNDS[kind]
        if not least <= hundredths <= most:
            raise ValidationFailed(f"From {least / 100:g} to {most / 100:g}.", field=kind.value)
    await tx.fetch(f"SELECT id FROM organisation WHERE id = $1 {tx.lock('organisation')}", organisation_id)
    before = await said_by(tx, organisation_id)
    if before.version != version:
        raise Conflict("Somebody changed the thresholds meanwhile.", version=before.version)
    said = {kind.value: hundredths for kind, hundredths in sorted(wanted.items())}
    await tx.execute("DELETE FROM early_warning_threshold WHERE organisation_id = $1", organisation_id)
    await tx.many(
        "INSERT INTO early_warning_threshold (organisation_id, type, hundredths) VALUES ($1, $2, $3)",
        [[organisation_id, kind, hundredths] for kind, hundredths in said.items()],
    )
    await tx.execute(
        "INSERT INTO early_warning_threshold_change (id, organisation_id, version, thresholds, changed_by, "
        "changed_at_ms) VALUES ($1, $2, $3, $4, $5, $6)",
        new_id("ewt"), organisation_id, version + 1, orjson.dumps(said).decode(), actor.id, now_ms,
    )  # fmt: skip
    details = {"version": version + 1, "hundredths": said}
    await record(tx, actor, "warning_thresholds.changed", ("organisation", organisation_id), details=details)
    return await said_by(tx, organisation_id)


async def unjudged(tx: Statements) -> list[tuple[str, int]]:
    """Banks whose thresholds, or whose merchants, are others since their warnings were judged, with their version."""
    rows = await tx.fetch(
        "SELECT organisation_id, max(version) AS version FROM early_warning_threshold_change "
        "WHERE judged_at_ms IS NULL GROUP BY organisation_id ORDER BY organisation_id LIMIT 100"
    )
    return [(row["organisation_id"], row["version"]) for row in rows]


async def judged(tx: Statements, organisation_id: str, version: int, *, now_ms: int) -> None:
    """Up to this version: what was said before it counts no more."""
    await tx.execute(
        "UPDATE early_warning_threshold_change SET judged_at_ms = $3 "
        "WHERE organisation_id = $1 AND version <= $2 AND judged_at_ms IS NULL",
        organisation_id, version, now_ms,
    )  # fmt: skip


async def judge_again(tx: Statements, organisation_id: str) -> None:
    """A bank with thresholds of its own sees a merchant that it did not see before."""
    await tx.execute(
        "UPDATE early_warning_threshold_change SET judged_at_ms = NULL WHERE organisation_id = $1 AND version = ("
        "SELECT max(c.version) FROM early_warning_threshold_change c WHERE c.organisation_id = $1)",
        organisation_id,
    )


def _fractions(hundredths: Mapping[WarningType, int]) -> dict[WarningType, Fraction]:
    return {kind: Fraction(value, 100) for kind, value in hundredths.items()}
