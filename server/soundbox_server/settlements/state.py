"""What may follow what: for a merchant's batch, and for a run that makes the batches of a window."""

from enum import StrEnum

from soundbox_server.errors import IllegalTransition


class SettlementState(StrEnum):
    OPEN = "open"
    CALCULATED = "calculated"
    CARRIED = "carried"
    PAYING = "paying"
    PAID = "paid"
    FAILED = "failed"


class RunState(StrEnum):
    COLLECTING = "collecting"
    CALCULATING = "calculating"
    DONE = "done"


class ItemKind(StrEnum):
    """A journal that moved what a merchant is owed; the ledger calls a payment's `capture`."""

    PAYMENT = "payment"
    REFUND = "refund"
    REVERSAL = "reversal"


S = SettlementState
SETTLEMENTS: dict[SettlementState, frozenset[SettlementState]] = {
    S.OPEN: frozenset({S.CALCULATED, S.CARRIED}),  # items are still being collected
    S.CALCULATED: frozenset({S.PAYING}),  # its net is in clearing
    # More went back than came: nothing is paid out, and the next batch begins with what is missing.
    S.CARRIED: frozenset(),
    S.PAYING: frozenset({S.PAID, S.FAILED}),
    S.PAID: frozenset({S.FAILED}),  # the bank sent it back: the money is in clearing again
    S.FAILED: frozenset({S.PAYING}),
}

R = RunState
RUNS: dict[RunState, frozenset[RunState]] = {
    R.COLLECTING: frozenset({R.CALCULATING}),
    R.CALCULATING: frozenset({R.DONE}),
    R.DONE: frozenset(),
}


def require_settlement(current: str, wanted: SettlementState) -> SettlementState:
    """The wanted state, or IllegalTransition."""
    if wanted not in SETTLEMENTS[SettlementState(current)]:
        raise IllegalTransition(f"A settlement cannot go from {current} to {wanted}.", state=current)
    return wanted


def require_run(current: str, wanted: RunState) -> RunState:
    """The wanted state, or IllegalTransition."""
    if wanted not in RUNS[RunState(current)]:
        raise IllegalTransition(f"A run cannot go from {current} to {wanted}.", state=current)
    return wanted
