"""Double entry. A posting is one positive amount that leaves one account and enters another, so a journal sums to zero.

Accounts are named by what they are: provider_receivable:<provider>, merchant_payable:<merchant>, fees:<provider>,
suspense:<provider>. A balance is what came in less what went out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from soundbox_server.db import Statements
from soundbox_server.ids import new_id


@dataclass(frozen=True)
class Posting:
    source: str
    destination: str
    amount: int
    unit: str = "IDR"


@dataclass(frozen=True, kw_only=True)
class Journal:
    kind: str  # capture | suspense
    postings: tuple[Posting, ...]
    payment_id: str | None = None
    provider_event_id: str | None = None


def capture(
    *, payment_id: str, provider_event_id: str, provider: str, merchant_id: str, gross: int, fee: int
) -> Journal:
    """Paid: the provider owes us the gross, we owe it to the merchant, and the merchant owes the fee."""
    payable = f"merchant_payable:{merchant_id}"
    paid = Posting(f"provider_receivable:{provider}", payable, gross)
    postings = (paid, Posting(payable, f"fees:{provider}", fee)) if fee else (paid,)
    return Journal(kind="capture", payment_id=payment_id, provider_event_id=provider_event_id, postings=postings)


def suspense(*, payment_id: str | None, provider_event_id: str, provider: str, amount: int) -> Journal:
    """Money came that fits no payment: it is kept apart until an operator decides."""
    posting = Posting(f"provider_receivable:{provider}", f"suspense:{provider}", amount)
    return Journal(kind="suspense", payment_id=payment_id, provider_event_id=provider_event_id, postings=(posting,))


async def post(tx: Statements, journals: Sequence[Journal], *, now_ms: int) -> None:
    """Book the journals. A second capture of a payment, or a second journal of an event, violates a unique key."""
    numbered = [(new_id("jrn"), journal) for journal in journals]
    await tx.many(
        "INSERT INTO journal (id, kind, payment_id, provider_event_id, booked_at_ms) VALUES ($1, $2, $3, $4, $5)",
        [(jid, journal.kind, journal.payment_id, journal.provider_event_id, now_ms) for jid, journal in numbered],
    )
    await tx.many(
        "INSERT INTO posting (id, journal_id, source, destination, unit, amount) VALUES ($1, $2, $3, $4, $5, $6)",
        [
            (new_id("pst"), jid, posting.source, posting.destination, posting.unit, posting.amount)
            for jid, journal in numbered
            for posting in journal.postings
        ],
    )


async def balance(tx: Statements, account: str, *, unit: str = "IDR") -> int:
    """In less out, in whole units."""
    rows = await tx.fetch(
        "SELECT coalesce(sum(CASE WHEN destination = $1 THEN amount ELSE -amount END), 0) AS balance "
        "FROM posting WHERE (source = $1 OR destination = $1) AND unit = $2",
        account,
        unit,
    )
    return int(rows[0]["balance"])
