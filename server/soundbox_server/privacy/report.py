"""Everything that is kept of a merchant and its people, as JSON lines: `{"section": …, …}`, payments last.

Secrets that prove somebody are left out: they tell nothing of anybody, and whoever finds the file must not use them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.checkout.models import PaymentSession
from soundbox_server.errors import NotFound
from soundbox_server.exports.kinds import Report
from soundbox_server.exports.writing import Form, lines
from soundbox_server.fields import Id
from soundbox_server.merchants.models import Merchant
from soundbox_server.paging import Listing, Page, Rows
from soundbox_server.payments.models import Payment
from soundbox_server.pos.models import Sale

_ITS_OWN = "SELECT organisation_id FROM merchant WHERE id = :merchant_id"
_PEOPLE = f"SELECT id FROM person WHERE organisation_id IN ({_ITS_OWN})"
_WALLETS = f"SELECT id FROM wallet WHERE organisation_id IN ({_ITS_OWN})"
SECTIONS: Mapping[str, str] = {
    "merchant": "SELECT * FROM merchant WHERE id = :merchant_id",
    "organisation": f"SELECT * FROM organisation WHERE id IN ({_ITS_OWN})",
    "person": "SELECT id, email, name, role, state, language, created_at_ms FROM person "
    f"WHERE organisation_id IN ({_ITS_OWN}) ORDER BY id",
    "person_profile": f"SELECT * FROM person_profile WHERE person_id IN ({_PEOPLE}) ORDER BY person_id",
    "login_session": f"SELECT * FROM login_session WHERE person_id IN ({_PEOPLE}) ORDER BY id",
    "api_key": "SELECT id, name, role, scopes, created_by, created_at_ms, expires_at_ms, revoked_at_ms, "
    f"last_used_at_ms FROM api_key WHERE organisation_id IN ({_ITS_OWN}) ORDER BY id",
    "outlet": "SELECT * FROM outlet WHERE merchant_id = :merchant_id ORDER BY id",
    "terminal": "SELECT * FROM terminal WHERE merchant_id = :merchant_id ORDER BY id",
    "document": "SELECT * FROM merchant_document WHERE merchant_id = :merchant_id ORDER BY id",
    "account_change": "SELECT * FROM merchant_account_change WHERE merchant_id = :merchant_id ORDER BY id",
    "static_qr": "SELECT * FROM static_qr WHERE merchant_id = :merchant_id ORDER BY id",
    "device_binding": "SELECT * FROM device_binding WHERE merchant_id = :merchant_id ORDER BY id",
    "settlement": "SELECT * FROM settlement WHERE merchant_id = :merchant_id ORDER BY id",
    "payout": "SELECT id, settlement_id, number, mode, bank, rail, reference, amount, account_reference, account_type, "
    "state, note, created_at_ms, finished_at_ms FROM payout WHERE merchant_id = :merchant_id ORDER BY id",
    "refund": "SELECT r.id, r.payment_id, r.provider, r.reference, r.origin, r.amount, r.fee_returned, r.state, "
    "r.reason, r.requested_by, r.created_at_ms, r.finished_at_ms FROM refund r JOIN payment p ON p.id = r.payment_id "
    "WHERE p.merchant_id = :merchant_id ORDER BY r.id",
    "wallet": f"SELECT * FROM wallet WHERE organisation_id IN ({_ITS_OWN}) ORDER BY id",
    "wallet_entry": f"SELECT * FROM wallet_entry WHERE wallet_id IN ({_WALLETS}) ORDER BY id",
    "wallet_withdrawal": f"SELECT id, wallet_id, amount, account_reference, account_type, state, requested_by "
    f"FROM wallet_withdrawal WHERE wallet_id IN ({_WALLETS}) ORDER BY id",
    "wallet_invoice": "SELECT id, email, amount, description, state, created_by, created_at_ms, expires_at_ms "
    "FROM wallet_invoice WHERE merchant_id = :merchant_id ORDER BY id",
    "offline_item": "SELECT * FROM offline_item WHERE merchant_id = :merchant_id ORDER BY id",
    "offline_conflict": "SELECT * FROM offline_conflict WHERE merchant_id = :merchant_id ORDER BY id",
    "webhook": "SELECT id, profile, url, description, events, state, created_at_ms FROM webhook_endpoint "
    f"WHERE organisation_id IN ({_ITS_OWN}) ORDER BY id",
    "mail": "SELECT id, kind, address, state, created_at_ms FROM outbox_message WHERE transport = 'mail' "
    f"AND recipient_id IN ({_PEOPLE}) ORDER BY id",
    "credit_score": "SELECT * FROM credit_score WHERE merchant_id = :merchant_id ORDER BY id",
    # Those by a bank's own thresholds would tell what the bank thinks.
    "early_warning": "SELECT * FROM early_warning WHERE merchant_id = :merchant_id AND judged_for = '' ORDER BY id",
    "advice_wish": "SELECT * FROM advice_wish WHERE merchant_id = :merchant_id ORDER BY id",
    "advice_text": "SELECT * FROM advice_text WHERE merchant_id = :merchant_id ORDER BY id",
    "bank_consent": "SELECT * FROM bank_consent WHERE merchant_id = :merchant_id ORDER BY id",
    "bank_consent_event": "SELECT e.* FROM bank_consent_event e JOIN bank_consent k ON k.id = e.consent_id "
    "WHERE k.merchant_id = :merchant_id ORDER BY e.id",
    "bank_look": "SELECT * FROM bank_look WHERE merchant_id = :merchant_id ORDER BY id",
    "loan_application": "SELECT * FROM loan_application WHERE merchant_id = :merchant_id "
    "AND (submitted_at_ms IS NOT NULL OR made_by_side = 'merchant') ORDER BY id",
    "erasure": "SELECT * FROM merchant_erasure WHERE merchant_id = :merchant_id ORDER BY id",
    "audit": "SELECT id, at_ms, actor_kind, actor_id, ip, action, subject_kind, subject_id, outcome, details "
    f"FROM audit_entry WHERE actor_id IN ({_PEOPLE}) OR (subject_kind = 'merchant' AND subject_id = :merchant_id) "
    "ORDER BY id",
    "export": f"SELECT id, kind, format, filters, state, requested_by, requested_at_ms FROM export_job "
    f"WHERE organisation_id IN ({_ITS_OWN}) ORDER BY id",
}


class WholeMerchantFilters(Page):
    merchant_id: Id


class KeptForm:
    """What stands before the payments, and the payments."""

    def __init__(self, before: Sequence[Mapping[str, Any]]) -> None:
        self._before = before

    def beginning(self) -> bytes:
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in self._before)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        return lines("jsonl", (), rows)

    def end(self) -> bytes:
        return b""


def personal_data(*, organisation_id: str | None = None) -> Report[WholeMerchantFilters]:
    """As staff ask for it, or an organisation for one of its own merchants."""

    def payments(asked: WholeMerchantFilters) -> Rows:
        query = (
            select(Payment, Sale, PaymentSession.customer_name, PaymentSession.items)
            .join(Merchant, Merchant.id == Payment.merchant_id)
            .outerjoin(Sale, (Sale.merchant_id == Payment.merchant_id) & (Sale.order_code == Payment.order_code))
            .outerjoin(PaymentSession, PaymentSession.payment_id == Payment.id)
            .where(Payment.merchant_id == asked.merchant_id)
        )
        return query if organisation_id is None else query.where(Merchant.organisation_id == organisation_id)

    async def open_form(session: AsyncSession, asked: WholeMerchantFilters, _format: str) -> Form:
        merchant = await session.get(Merchant, asked.merchant_id)
        if merchant is None or organisation_id not in (None, merchant.organisation_id):
            raise NotFound("No such merchant.", merchant_id=asked.merchant_id)
        return KeptForm(await _sections(session, asked.merchant_id))

    listing = Listing(asked=WholeMerchantFilters, key=(Payment.id,), select=payments, show=_payment)
    return Report(listing=listing, formats=("jsonl",), open=open_form)


async def _sections(session: AsyncSession, merchant_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for section, query in SECTIONS.items():
        rows = (await session.execute(text(query), {"merchant_id": merchant_id})).mappings()
        found += [{"section": section, **row} for row in rows]
    return found


def _payment(payment: Payment, sale: Sale | None, customer_name: str | None, items: str | None) -> dict[str, Any]:
    told = {column.name: getattr(payment, column.name) for column in Payment.__table__.columns}
    return {
        "section": "payment",
        **told,
        "product_name": sale and sale.product_name,
        "sold": sale and sale.items,
        "customer_name": customer_name,
        "billed": items,
    }
