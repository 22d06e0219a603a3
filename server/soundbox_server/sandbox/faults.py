"""What the acquirer does wrong on command. `PUT /v1/faults` sets all of them; those left out return to normal."""

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=600_000)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counters (`create_failures`, `lose_answers`, `drop_callbacks` and those of refunds
    and transfers) count down as they strike."""

    create_delay_ms: Milliseconds = 0
    create_failures: Count = 0  # the next so many creates answer 503 and record nothing
    lose_answers: Count = 0  # the next so many creates are recorded, but the connection closes without an answer
    callback_delay_ms: Milliseconds = 0
    drop_callbacks: Count = 0  # the next so many payments are never called back: only a query tells
    duplicate_callbacks: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0  # so many copies more, all at once
    reorder: bool = False  # callbacks wait half a second for company and then go out newest first
    wrong_amount: Annotated[int, msgspec.Meta(ge=-(10**9), le=10**9)] = 0  # added to the amount that is reported
    contradict: Literal["pending", "expired", "failed"] | None = None  # said of the payment right after "paid"
    refund_failures: Count = 0  # the next so many refunds answer 503 and record nothing
    lose_refund_answers: Count = 0  # the next so many refunds are made, but the connection closes without an answer
    refuse_refunds: bool = False
    slow_refunds: bool = False  # refunds stay pending, until one is asked about after this was switched off
    transfer_delay_ms: Milliseconds = 0
    transfer_failures: Count = 0  # the next so many transfers answer 503 and record nothing
    lose_transfer_answers: Count = 0  # the next so many are made, but the connection closes without an answer
    refuse_transfers: bool = False
    fail_transfers: bool = False  # they are taken on, and fail then
    slow_transfers: bool = False  # transfers stay pending, until one is asked about after this was switched off
    callback_signature: Literal["good", "bad", "stale", "missing"] = "good"
