"""What may follow what, read aloud: every pair of states is allowed here or forbidden."""

import pytest

from soundbox_server.errors import IllegalTransition
from soundbox_server.payments.state import (
    ATTEMPTS,
    CAPTURED,
    NEVER_CAPTURED,
    REFUNDS,
    TRANSITIONS,
    AttemptState,
    PaymentState,
    RefundState,
    before,
    require,
    require_refund,
)

PAYMENTS = """
created            -> awaiting_payment paid expired cancelled failed needs_review
awaiting_payment   -> paid expired cancelled failed needs_review
expired            -> paid needs_review
cancelled          -> paid needs_review
failed             -> paid needs_review
paid               -> partially_refunded refunded reversed disputed
partially_refunded -> partially_refunded refunded reversed disputed
disputed           -> paid partially_refunded refunded reversed
needs_review       -> paid refunded failed
refunded           ->
reversed           ->
"""
TRIES = """
new       -> submitted active unknown succeeded failed expired
submitted -> active unknown succeeded failed expired
active    -> succeeded failed expired
unknown   -> active succeeded failed expired
failed    -> succeeded
expired   -> succeeded
succeeded ->
"""
BACK = """
requested -> submitted done failed
submitted -> submitted unknown done failed
unknown   -> submitted unknown done failed
failed    -> done
done      ->
"""


def pairs(table: str) -> set[tuple[str, str]]:
    lines = [line.split("->") for line in table.strip().splitlines()]
    return {(before.strip(), after) for before, afters in lines for after in afters.split()}


@pytest.mark.parametrize("wanted", PaymentState)
@pytest.mark.parametrize("current", PaymentState)
def test_a_payment_goes_only_where_the_table_says(current: PaymentState, wanted: PaymentState) -> None:
    if (current, wanted) in pairs(PAYMENTS):
        assert require(current, wanted) is wanted
    else:
        with pytest.raises(IllegalTransition) as refused:
            require(current, wanted)
        assert refused.value.facts == {"state": current}


@pytest.mark.parametrize("wanted", RefundState)
@pytest.mark.parametrize("current", RefundState)
def test_a_refund_goes_only_where_the_table_says(current: RefundState, wanted: RefundState) -> None:
    if (current, wanted) in pairs(BACK):
        assert require_refund(current, wanted) is wanted
    else:
        with pytest.raises(IllegalTransition):
            require_refund(current, wanted)


@pytest.mark.parametrize("wanted", AttemptState)
@pytest.mark.parametrize("current", AttemptState)
def test_an_attempt_goes_only_where_the_table_says(current: AttemptState, wanted: AttemptState) -> None:
    allowed = (current, wanted) in pairs(TRIES)

    assert (wanted in ATTEMPTS[current]) is allowed
    assert (f"'{current}'" in before(wanted).split(", ")) is allowed


def test_every_state_has_its_line() -> None:
    assert set(TRANSITIONS) == set(PaymentState)
    assert set(ATTEMPTS) == set(AttemptState)
    assert set(REFUNDS) == set(RefundState)


def test_what_was_paid_never_becomes_unpaid() -> None:
    for state in CAPTURED:
        assert not TRANSITIONS[state] & NEVER_CAPTURED
