"""What is in a settlement, for its doors and for statements."""

from typing import Annotated

from pydantic import Field
from sqlalchemy import select

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339
from soundbox_server.fields import Id
from soundbox_server.merchants.models import Outlet, Terminal
from soundbox_server.paging import Listing, Page, Rows
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.models import Payment
from soundbox_server.settlements.models import SettlementItem
from soundbox_server.settlements.state import ItemKind
from soundbox_server.statements.texts import Language


class StatementFilters(Page):
    settlement_id: Id
    language: Annotated[Language, Field(description="of the PDF; a CSV's columns have names for programs")] = "id"


class StatementItemView(TypedDict):
    id: str
    kind: Annotated[str, among(ItemKind)]
    transaction_id: str
    order_code: str | None
    method: Annotated[str, among(PaymentMethod)]
    outlet_id: str
    outlet_name: str
    terminal_code: str
    gross_amount: int
    fee_amount: int
    net_amount: int
    at: Time


def item_view(
    item: SettlementItem, payment: Payment, outlet_id: str, outlet_name: str, terminal_code: str
) -> StatementItemView:
    return {
        "id": item.journal_id,
        "kind": item.kind,
        "transaction_id": item.payment_id,
        "order_code": payment.order_code,
        "method": payment.method,
        "outlet_id": outlet_id,
        "outlet_name": outlet_name,
        "terminal_code": terminal_code,
        "gross_amount": item.gross_amount,
        "fee_amount": item.fee_amount,
        "net_amount": item.gross_amount - item.fee_amount,
        "at": rfc3339(item.at_ms),
    }


def items_of(settlement_id: str) -> Rows:
    """Each with its payment and where that was taken."""
    return (
        select(SettlementItem, Payment, Outlet.id, Outlet.name, Terminal.terminal_code)
        .join(Payment, Payment.id == SettlementItem.payment_id)
        .join(Outlet, Outlet.id == Payment.outlet_id)
        .join(Terminal, Terminal.id == Payment.terminal_id)
        .where(SettlementItem.settlement_id == settlement_id)
    )


ITEMS = Listing(
    asked=StatementFilters, key=(SettlementItem.journal_id,), select=lambda asked: items_of(asked.settlement_id),
    show=item_view, newest_first=False,
)  # fmt: skip
