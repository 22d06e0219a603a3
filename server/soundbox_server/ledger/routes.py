"""The ledger, as staff read it: one entry for each posting, seen from one account."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import column, literal, or_, select, table, text, union_all

from soundbox_server.answers import Time, TypedDict, pages
from soundbox_server.clock import rfc3339
from soundbox_server.fields import Id, Moment
from soundbox_server.http import Reader
from soundbox_server.ledger.models import Journal, Posting
from soundbox_server.paging import NUMBERED_CURSOR, Listing, Page, Rows, between, page

router = APIRouter(tags=["operators"])

_OF_MERCHANTS = ("merchant_payable:", "cash_sales:", "cash_drawer:")
_ENTRY_TYPES = {  # of captures and suspense
    "merchant_payable": "payment", "fees": "fee", "suspense": "suspense", "cash_sales": "cash",
    "wallet": "payment",
}  # fmt: skip
# Whose payments they are is known a floor above; only these two columns of it are needed here.
_payment = table("payment", column("id"), column("merchant_id"))
_settlement = table("settlement", column("id"), column("merchant_id"))


class LedgerFilters(Page):
    cursor: str | None = Field(None, pattern=NUMBERED_CURSOR, description="next_cursor of the page before")
    account: Annotated[Id | None, Field(examples=["merchant_payable:mer_demo"])] = None
    merchant_id: Id | None = None
    transaction_id: Id | None = None
    kind: (
        Literal[
            "capture", "suspense", "refund", "release", "reversal", "settlement", "payout", "payout_reversal",
            "promised", "token", "withdrawal",
        ]
        | None
    ) = None  # fmt: skip
    booked_from: Moment | None = None
    booked_to: Moment | None = None


def _select(asked: LedgerFilters) -> Rows:
    """No index on accounts: each would cost every callback two pages of its commit. A merchant's postings are found
    through its payments; of the few other accounts nearly every journal, or every suspense journal, has one."""
    query: Rows = select(Posting, Journal, literal(asked.account)).join(Journal, Journal.id == Posting.journal_id)
    if asked.account:
        query = query.where(or_(Posting.source == asked.account, Posting.destination == asked.account))
    if asked.account and asked.account.startswith(_OF_MERCHANTS):
        query = query.where(_of_merchant(asked.account.partition(":")[2]))
    elif asked.account and asked.account.startswith("suspense:"):
        query = query.where(Journal.kind != "capture")
    elif asked.account and asked.account.startswith("wallet:"):
        query = query.where(Posting.journal_id.in_(_journals_of_wallet(asked.account)))
    elif asked.account and asked.account.startswith("clearing:"):
        query = query.where(Journal.kind.in_(("settlement", "payout", "payout_reversal", "withdrawal")))
    if asked.merchant_id:
        query = query.where(_of_merchant(asked.merchant_id))
    if asked.transaction_id:
        query = query.where(Journal.id.in_(_journals_of([asked.transaction_id])))
    if asked.kind:
        query = query.where(Journal.kind == asked.kind)
    return between(
        query, at=Journal.booked_at_ms, id_=Posting.journal_id, prefix="jrn",
        from_ms=asked.booked_from, to_ms=asked.booked_to,
    )  # fmt: skip


def _journals_of_wallet(account: str) -> Any:
    """By the indexes that only wallets have: the condition is written as theirs."""
    ends = ((Posting.destination, "destination"), (Posting.source, "source"))
    return union_all(
        *(
            select(Posting.journal_id).where(end == account, text(f"substr({name}, 1, 7) = 'wallet:'"))
            for end, name in ends
        )
    )


def _of_merchant(merchant_id: str) -> Any:
    """Of its payments, and of its batches, whose journals are known by their keys."""
    keys = select("settlement:" + _settlement.c.id).where(_settlement.c.merchant_id == merchant_id)
    settled = select(Journal.id).where(Journal.money_key.in_(keys))
    of_payments = _journals_of(select(_payment.c.id).where(_payment.c.merchant_id == merchant_id))
    return or_(Journal.id.in_(of_payments), Journal.id.in_(settled))


def _journals_of(payments: Any) -> Any:
    """Each by itself, so that it finds its own partial index."""
    kinds = (Journal.kind == "capture", Journal.kind == "suspense", Journal.kind.not_in(("capture", "suspense")))
    return union_all(*(select(Journal.id).where(kind, Journal.payment_id.in_(payments)) for kind in kinds))


class LedgerEntryView(TypedDict):
    id: str
    journal_id: str
    kind: str
    entry_type: str
    transaction_id: str | None
    merchant_id: str | None
    account: str
    direction: Literal["credit", "debit"]
    amount: int
    balance_effect: int
    unit: str
    source: str
    destination: str
    created_at: Time


def _entry(posting: Posting, journal: Journal, account: str | None) -> LedgerEntryView:
    """Seen from the account that was asked for, else from the merchant's, else from where the money went."""
    ends = (posting.source, posting.destination)
    of_merchant = next((end for prefix in _OF_MERCHANTS for end in ends if end.startswith(prefix)), None)
    seen_from = account or of_merchant or posting.destination
    credit = seen_from == posting.destination
    return {
        "id": f"{posting.journal_id}:{posting.position}",
        "journal_id": posting.journal_id,
        "kind": journal.kind,
        "entry_type": _entry_type(posting, journal),
        "transaction_id": journal.payment_id,
        "merchant_id": of_merchant and of_merchant.partition(":")[2],
        "account": seen_from,
        "direction": "credit" if credit else "debit",
        "amount": posting.amount,
        "balance_effect": posting.amount if credit else -posting.amount,
        "unit": posting.unit,
        "source": posting.source,
        "destination": posting.destination,
        "created_at": rfc3339(journal.booked_at_ms),
    }


def _entry_type(posting: Posting, journal: Journal) -> str:
    if journal.kind not in ("capture", "suspense"):
        return f"{journal.kind}_fee" if posting.source.startswith("fees:") else journal.kind
    return _ENTRY_TYPES.get(posting.destination.partition(":")[0], journal.kind)


_COLUMNS = (
    "id", "journal_id", "kind", "entry_type", "transaction_id", "merchant_id", "account", "direction", "amount",
    "balance_effect", "unit", "source", "destination", "created_at",
)  # fmt: skip
LEDGER_ENTRIES = Listing(
    asked=LedgerFilters, key=(Posting.journal_id, Posting.position), select=_select, show=_entry, columns=_COLUMNS
)


@router.get("/admin/ledger-entries", responses=pages(LedgerEntryView))
async def list_ledger_entries(request: Request, session: Reader, asked: Annotated[LedgerFilters, Query()]) -> Response:
    """Postings, newest first. `direction` and `balance_effect` are those of `account`."""
    return await page(request, session, LEDGER_ENTRIES, asked)
