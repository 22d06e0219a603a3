"""What a till may say that it did while it was offline, and how what does not fit is put right."""

from enum import StrEnum

from soundbox_server.errors import Conflict


class ItemKind(StrEnum):
    TRANSACTION = "transaction"
    PAYMENT = "payment"  # of a transaction that was a draft
    VOID = "void"  # of a transaction


class SaleState(StrEnum):
    """Of a transaction, in the order in which it can only go on: an older word of it that comes later says nothing."""

    DRAFT = "draft"
    PAID = "paid"
    VOID = "void"


class ConflictType(StrEnum):
    DUPLICATE = "duplicate"  # the same sale under another offline_id
    DATA_MISMATCH = "data_mismatch"  # the same key stands for other facts
    CONSTRAINT_VIOLATION = "constraint_violation"  # a rule of ours forbids it


class Resolution(StrEnum):
    KEEP_SERVER = "keep_server"  # what we have stays, and what the till said is given up
    KEEP_LOCAL = "keep_local"  # what the till said replaces what we have
    MERGE = "merge"  # money and time stay as we have them; the rest is the till's


S = SaleState
AFTER: dict[SaleState, frozenset[SaleState]] = {
    S.DRAFT: frozenset({S.PAID, S.VOID}),
    S.PAID: frozenset({S.VOID}),
    S.VOID: frozenset(),
}

C, R = ConflictType, Resolution
RESOLUTIONS: dict[ConflictType, frozenset[Resolution]] = {
    C.DUPLICATE: frozenset(R),
    C.DATA_MISMATCH: frozenset(R),
    C.CONSTRAINT_VIOLATION: frozenset({R.KEEP_SERVER, R.KEEP_LOCAL}),  # we have nothing to merge it with
}
# Never the till's word by itself: money that is booked stays until a person says otherwise.
SUGGESTED: dict[ConflictType, Resolution] = {
    C.DUPLICATE: R.KEEP_SERVER,
    C.DATA_MISMATCH: R.KEEP_SERVER,
    C.CONSTRAINT_VIOLATION: R.KEEP_LOCAL,  # once what it violates is put right: the cash was taken
}


def require_resolution(conflict: str, wanted: Resolution) -> str:
    """The wanted resolution, or Conflict."""
    if wanted not in RESOLUTIONS[ConflictType(conflict)]:
        raise Conflict(f"A {conflict} is not resolved by {wanted}.", conflict_type=conflict)
    return wanted.value
