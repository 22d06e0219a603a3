"""Scoring merchants and keeping what was said: many at once, each score with the facts it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson

from soundbox_server.access.mails import Desk
from soundbox_server.clock import jakarta_day, jakarta_ms
from soundbox_server.db import Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.scoring import collecting, early_warning, paybaba_v1, soundbox_v2
from soundbox_server.scoring.early_warning import Measures, Signs, Thresholds
from soundbox_server.scoring.points import Limits, Score
from soundbox_server.scoring.state import Component, Model, RiskBand
from soundbox_server.scoring.warnings import ITSELF, Hearing, follow

Facts = paybaba_v1.Facts | soundbox_v2.Facts
VERSIONS: Mapping[Model, int] = {
    Model.PAYBABA_V1: paybaba_v1.VERSION,
    Model.SOUNDBOX_V2: soundbox_v2.VERSION,
}
_METRIC_OF = {
    Component.VOLUME: "transactionCount3m",
    Component.CONSISTENCY: "revenueVolatility",
    Component.GROWTH: "growthPercentageMoM",
    Component.REFUNDS: "refundRatePercentage",
    Component.SETTLEMENT: "avgSettlementDays",
}
_KEEP = """
INSERT INTO credit_score (id, merchant_id, model, version, scored_at_ms, score, risk_band, min_limit_idr, max_limit_idr,
                          inputs, metrics, reasons, created_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (merchant_id, model, scored_at_ms) DO NOTHING
"""


async def facts_of(
    tx: Statements, model: Model, *, as_of_ms: int, merchant_ids: Sequence[str] | None = None
) -> Mapping[str, Facts]:
    """By merchant, what the model looks at; of everybody with trade in its window when there is no list.

    A merchant of the list, or with a score, that had no trade is among them with empty facts: it has no score any more.
    Nobody asks for a merchant that was erased.
    """
    if model is Model.PAYBABA_V1:
        found: Mapping[str, Facts] = await collecting.paybaba_facts(tx, as_of_ms=as_of_ms, merchant_ids=merchant_ids)
    else:
        found = await collecting.soundbox_facts(tx, as_of_ms=as_of_ms, merchant_ids=merchant_ids)
    others = await _scored_last(tx, model) if merchant_ids is None else merchant_ids
    facts = {**{merchant_id: _no_facts(model) for merchant_id in others}, **found}
    erased = await tx.fetch("SELECT id FROM merchant WHERE erased_at_ms IS NOT NULL") if merchant_ids is None else ()
    for row in erased:
        facts.pop(row["id"], None)
    return facts


def _no_facts(model: Model) -> Facts:
    return paybaba_v1.Facts() if model is Model.PAYBABA_V1 else soundbox_v2.Facts()


async def _scored_last(tx: Statements, model: Model) -> list[str]:
    """Merchants whose newest word of this model is a score."""
    # One look at the end of each merchant's history, however long that is.
    rows = await tx.fetch(
        "SELECT m.id AS merchant_id FROM merchant m WHERE (SELECT c.score FROM credit_score c "
        "WHERE c.merchant_id = m.id AND c.model = $1 ORDER BY c.scored_at_ms DESC LIMIT 1) IS NOT NULL",
        model.value,
    )
    return [row["merchant_id"] for row in rows]


def score(facts: Facts) -> Score:
    """By the model whose facts these are."""
    return paybaba_v1.score(facts) if isinstance(facts, paybaba_v1.Facts) else soundbox_v2.score(facts)


async def keep(
    tx: Statements, facts: Mapping[str, Facts], *, as_of_ms: int, now_ms: int
) -> tuple[dict[str, Score], dict[str, Measures]]:
    """Score these merchants and add the scores to their history; returns both by merchant, the second to be judged.

    A moment that was scored before keeps the score it has: whoever begins a night's work again does nothing twice.
    """
    there = await tx.fetch(f"SELECT id FROM merchant WHERE id {tx.among(1)} AND erased_at_ms IS NULL", list(facts))
    scores = {row["id"]: score(facts[row["id"]]) for row in there}
    if not scores:
        return {}, {}
    model = next(iter(scores.values())).model
    before = await _scores_before(tx, list(scores), model, as_of_ms=as_of_ms)
    await tx.many(
        _KEEP, [_row(merchant_id, facts[merchant_id], one, as_of_ms, now_ms) for merchant_id, one in scores.items()]
    )
    measures = {
        merchant_id: early_warning.measure(
            facts[merchant_id].signs,
            scores=[one for one in (before.get(merchant_id), scores[merchant_id].score) if one is not None],
        )
        for merchant_id in scores
    }
    return scores, measures


async def rescore(
    tx: Statements,
    facts: Mapping[str, Facts],
    *,
    thresholds: Thresholds,
    desk: Desk,
    hearing: Hearing = ITSELF,
    as_of_ms: int,
    trace_id: str,
    now_ms: int,
) -> dict[str, Score]:
    """Score these merchants, keep the scores, and follow the warnings that they call for."""
    scores, measures = await keep(tx, facts, as_of_ms=as_of_ms, now_ms=now_ms)
    await follow(tx, measures, thresholds=thresholds, desk=desk, hearing=hearing, trace_id=trace_id, now_ms=now_ms)
    return scores


async def measured_last(tx: Statements, model: Model, merchant_ids: Sequence[str]) -> dict[str, Measures]:
    """What there was to judge of these merchants when they were last scored, by merchant."""
    rows = await tx.fetch(
        "SELECT c.merchant_id, c.scored_at_ms, c.score, c.inputs FROM credit_score c "
        f"WHERE c.merchant_id {tx.among(1)} AND c.model = $2 AND c.version = $3 AND c.scored_at_ms = ("
        "SELECT max(n.scored_at_ms) FROM credit_score n WHERE n.merchant_id = c.merchant_id AND n.model = $2)",
        list(merchant_ids), model.value, VERSIONS[model],
    )  # fmt: skip
    measures: dict[str, Measures] = {}
    for scored_at_ms in sorted({row["scored_at_ms"] for row in rows}):
        then = [row for row in rows if row["scored_at_ms"] == scored_at_ms]
        before = await _scores_before(tx, [row["merchant_id"] for row in then], model, as_of_ms=scored_at_ms)
        for row in then:
            scores = [one for one in (before.get(row["merchant_id"]), row["score"]) if one is not None]
            measures[row["merchant_id"]] = early_warning.measure(facts_from(model, row["inputs"]).signs, scores=scores)
    return measures


async def merchants_scored(tx: Statements, model: Model) -> list[str]:
    """Everybody of whom this model ever said something."""
    rows = await tx.fetch(
        "SELECT m.id FROM merchant m WHERE EXISTS ("
        "SELECT 1 FROM credit_score c WHERE c.merchant_id = m.id AND c.model = $1) ORDER BY m.id",
        model.value,
    )
    return [row["id"] for row in rows]


async def _scores_before(tx: Statements, merchant_ids: list[str], model: Model, *, as_of_ms: int) -> dict[str, int]:
    """The last score of an earlier day in Jakarta: asking again on the same day ends no warning."""
    rows = await tx.fetch(
        "SELECT m.id AS merchant_id, (SELECT c.score FROM credit_score c WHERE c.merchant_id = m.id AND c.model = $2 "
        "AND c.scored_at_ms < $3 AND c.score IS NOT NULL ORDER BY c.scored_at_ms DESC LIMIT 1) AS score "
        f"FROM merchant m WHERE m.id {tx.among(1)}",
        merchant_ids, model.value, jakarta_ms(jakarta_day(as_of_ms)),
    )  # fmt: skip
    return {row["merchant_id"]: row["score"] for row in rows if row["score"] is not None}


def _row(merchant_id: str, facts: Facts, said: Score, as_of_ms: int, now_ms: int) -> list[object]:
    return [
        new_id("crs"), merchant_id, said.model.value, VERSIONS[said.model], as_of_ms, said.score,
        None if said.risk_band is None else said.risk_band.value,
        None if said.limits is None else said.limits.min, None if said.limits is None else said.limits.max,
        orjson.dumps(facts).decode(), orjson.dumps(said.metrics).decode(), orjson.dumps(_reasons(said)).decode(),
        now_ms,
    ]  # fmt: skip


def _reasons(said: Score) -> dict[str, Any]:
    """Each component with its points and the figure behind them; or what is missing."""
    if said.components is None:
        missing = (said.missing or {}).items()
        return {"missing": {name: [have, need] for name, (have, need) in missing}}
    return {
        "components": {
            name.value: {"points": points, "value": said.metrics[_METRIC_OF[name]]}
            for name, points in said.components.items()
        }
    }


def score_of(row: Any) -> Score:
    """A stored score, as it was given. `row` has the columns of `credit_score` as attributes."""
    reasons = orjson.loads(row.reasons)
    components = reasons.get("components")
    return Score(
        model=Model(row.model),
        score=row.score,
        risk_band=None if row.risk_band is None else RiskBand(row.risk_band),
        limits=None if row.min_limit_idr is None else Limits(min=row.min_limit_idr, max=row.max_limit_idr),
        components=None if components is None else {Component(name): one["points"] for name, one in components.items()},
        metrics=orjson.loads(row.metrics),
        missing=None if components is not None else {
            name: (have, need) for name, (have, need) in reasons["missing"].items()
        },
    )  # fmt: skip


def facts_from(model: Model, inputs: str) -> Facts:
    """The facts that were stored with a score."""
    told = orjson.loads(inputs)
    signs = told.pop("signs")
    halves = {name: (signs[name][0], signs[name][1]) for name in ("first_half", "second_half")}
    whole: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    whole["signs"] = Signs(**(signs | halves))
    return paybaba_v1.Facts(**whole) if model is Model.PAYBABA_V1 else soundbox_v2.Facts(**whole)


async def compute_again(tx: Statements) -> dict[str, Any]:
    """Every stored score from its own inputs: `{scores, differences: [{id, merchant_id, stored, computed}]}`.

    Scores of earlier versions of a model are kept, and not computed by a formula that was not theirs.
    """
    count, differences, last = 0, [], ""
    while rows := await _stored_after(tx, last):
        for row in rows:
            model = Model(row["model"])
            if row["version"] != VERSIONS[model]:
                continue
            count += 1
            again = score(facts_from(model, row["inputs"]))
            computed = _told(again.score, again.limits, _reasons(again))
            limits = None if row["score"] is None else Limits(min=row["min_limit_idr"], max=row["max_limit_idr"])
            stored = _told(row["score"], limits, orjson.loads(row["reasons"]))
            if computed != stored:
                differences.append(
                    {"id": row["id"], "merchant_id": row["merchant_id"], "stored": stored, "computed": computed}
                )
        last = rows[-1]["id"]
    return {"scores": count, "differences": differences}


async def _stored_after(tx: Statements, last: str) -> Sequence[Row]:
    return await tx.fetch(
        "SELECT id, merchant_id, model, version, score, min_limit_idr, max_limit_idr, inputs, reasons "
        "FROM credit_score WHERE id > $1 ORDER BY id LIMIT 1000",
        last,
    )


def _told(said: int | None, limits: Limits | None, reasons: Mapping[str, Any]) -> dict[str, Any]:
    return {"score": said, "limits": None if limits is None else asdict(limits), "reasons": reasons}
