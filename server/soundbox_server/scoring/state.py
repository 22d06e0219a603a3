"""The words of scoring: models, bands, and what a warning is about, how bad it is, and where it stands."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class Model(StrEnum):
    PAYBABA_V1 = "paybaba-v1"
    SOUNDBOX_V2 = "soundbox-v2"


class RiskBand(StrEnum):
    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


class Component(StrEnum):
    VOLUME = "volume"
    CONSISTENCY = "consistency"
    GROWTH = "growth"
    REFUNDS = "refunds"
    SETTLEMENT = "settlement"


class WarningType(StrEnum):
    REVENUE_DROP = "revenue_drop"
    REFUND_SPIKE = "refund_spike"
    SETTLEMENT_DELAY = "settlement_delay"
    TRANSACTION_DROP = "transaction_drop"
    SCORE_DROP = "score_drop"


class WarningSeverity(StrEnum):
    LOW = "Low"
    MEDIUM = "Medium"
    CRITICAL = "Critical"


PLATFORM = ""  # for whom a warning stands that is judged by the platform's own thresholds


class WarningState(StrEnum):
    OPEN = "open"
    RESOLVED = "resolved"


TRANSITIONS: dict[WarningState, frozenset[WarningState]] = {
    WarningState.OPEN: frozenset({WarningState.RESOLVED}),
    WarningState.RESOLVED: frozenset(),  # the same trouble again is another warning
}


def require(current: str, wanted: WarningState) -> WarningState:
    """The wanted state, or IllegalTransition."""
    if wanted not in TRANSITIONS[WarningState(current)]:
        raise IllegalTransition(f"A warning cannot go from {current} to {wanted}.", state=current)
    return wanted
