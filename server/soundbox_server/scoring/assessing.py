"""One merchant's trade, assessed from a file: the score and the warnings that belong to it. Nothing is stored."""

from typing import Any

from soundbox_server.scoring import early_warning, paybaba_v1, soundbox_v2
from soundbox_server.scoring.early_warning import Thresholds
from soundbox_server.scoring.explanation import reasons
from soundbox_server.scoring.facts import JAKARTA, Trade, paybaba_facts, soundbox_facts
from soundbox_server.scoring.points import Score
from soundbox_server.scoring.state import Model


def assess(
    trade: Trade,
    model: Model,
    *,
    as_of_ms: int,
    timezone: str | None = None,
    thresholds: Thresholds = early_warning.DEFAULTS,
) -> dict[str, Any]:
    """What `soundbox score` says: `{model, score, risk_band, limits, components, metrics, alerts, explanation}`.

    `timezone` is whose days and months `paybaba-v1` counts; `soundbox-v2` counts Jakarta's, wherever it runs.
    """
    score, signs = _scored(trade, model, as_of_ms=as_of_ms, timezone=timezone or trade.timezone or JAKARTA)
    past = [one.score for one in sorted(trade.scores, key=lambda one: one.at) if one.at <= as_of_ms]
    # The file's history may end with a score before this one, or be one score that this one is held against.
    history = past if len(past) > 1 or score.score is None else [*past, score.score]
    warnings = early_warning.judge(early_warning.measure(signs, scores=history), thresholds)
    return shown(score) | {
        "alerts": [
            {
                "type": one.type.value,
                "severity": one.severity.value,
                "metric": one.metric,
                "value": one.value,
                "threshold": one.threshold,
                "deviation": one.deviation,
            }
            for one in warnings
        ],
        "explanation": reasons(score),
    }


def _scored(trade: Trade, model: Model, *, as_of_ms: int, timezone: str) -> tuple[Score, early_warning.Signs]:
    if model is Model.PAYBABA_V1:
        facts = paybaba_facts(trade, as_of_ms=as_of_ms, timezone=timezone)
        return paybaba_v1.score(facts), facts.signs
    ours = soundbox_facts(trade, as_of_ms=as_of_ms)
    return soundbox_v2.score(ours), ours.signs


def shown(score: Score) -> dict[str, Any]:
    """The score as JSON has it; without one, `not_enough_history` says what there is and what it takes."""
    told: dict[str, Any] = {
        "model": score.model.value,
        "score": score.score,
        "risk_band": None if score.risk_band is None else score.risk_band.value,
        "limits": None if score.limits is None else {"min": score.limits.min, "max": score.limits.max},
        "components": None if score.components is None else {
            name.value: points for name, points in score.components.items()
        },
        "metrics": dict(score.metrics),
    }  # fmt: skip
    if score.missing is not None:
        told["not_enough_history"] = {
            name: {"have": have, "need": need} for name, (have, need) in score.missing.items()
        }
    return told
