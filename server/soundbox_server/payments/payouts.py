"""What providers say of money on its way to a bank account: kept word for word, for those who will settle by it."""

from soundbox_server.db import Statements
from soundbox_server.ids import new_id
from soundbox_server.payments.service import INSERT_EVENT, Taken
from soundbox_server.payments.state import Outcome
from soundbox_server.providers.base import PayoutReport


async def keep_payout(tx: Statements, report: PayoutReport, *, request_id: str, now_ms: int) -> Taken:
    """Store it as an event that changed no payment; one that was stored before is known again."""
    await tx.execute(
        INSERT_EVENT,
        new_id("evt"), report.provider, report.event_id, report.body_sha256, report.body, Outcome.IGNORED.value,
        f"payout_{report.state}", None, report.payout_reference, request_id, now_ms, None,
    )  # fmt: skip
    return Taken(outcome=Outcome.IGNORED, payment_id=None)
