"""How staff see merchants, their places and their papers."""

from typing import Any

from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.merchants.models import AccountChange, Merchant, MerchantDocument, Outlet, Terminal
from soundbox_server.merchants.service import missing


def merchant_view(merchant: Merchant) -> dict[str, Any]:
    return {
        "id": merchant.id,
        "merchant_code": merchant.merchant_code,
        "organisation_id": merchant.organisation_id,
        "legal_name": merchant.legal_name,
        "brand_name": merchant.brand_name,
        "owner_email": merchant.owner_email,
        "city": merchant.city,
        "postal_code": merchant.postal_code,
        "mcc": merchant.mcc,
        "nmid": merchant.nmid,
        "criteria": merchant.criteria,
        "fee_profile_id": merchant.fee_profile_id,
        "settlement_account_reference": merchant.settlement_account_reference,
        "settlement_account_type": merchant.settlement_account_type,
        "payout_mode": merchant.payout_mode,
        "late_policy": merchant.late_policy,
        "status": merchant.status,
        "status_reason": merchant.status_reason,
        "onboarding_status": "incomplete" if missing(merchant) else "complete",
        "missing": missing(merchant),
        "approved_at": rfc3339_or_none(merchant.approved_at_ms),
        "created_at": rfc3339(merchant.created_at_ms),
        "updated_at": rfc3339(merchant.updated_at_ms or merchant.created_at_ms),
    }


def account_change_view(change: AccountChange) -> dict[str, Any]:
    return {
        "id": change.id,
        "merchant_id": change.merchant_id,
        "settlement_account_reference": change.account_reference,
        "settlement_account_type": change.account_type,
        "status": change.state,
        "reason": change.reason,
        "requested_by": change.requested_by,
        "requested_at": rfc3339(change.requested_at_ms),
        "decided_by": change.decided_by,
        "decided_at": rfc3339_or_none(change.decided_at_ms),
        "effective_at": rfc3339_or_none(change.effective_at_ms),
    }


def document_view(document: MerchantDocument) -> dict[str, Any]:
    return {
        "id": document.id,
        "merchant_id": document.merchant_id,
        "document_type": document.document_type,
        "document_url": document.document_url,
        "sha256": document.sha256,
        "media_type": document.media_type,
        "size_bytes": document.size_bytes,
        "verification_status": document.verification_status,
        "reason": document.reason,
        "shown_by": document.shown_by,
        "checked_by": document.checked_by,
        "created_at": rfc3339(document.created_at_ms),
        "checked_at": rfc3339_or_none(document.checked_at_ms),
    }


def outlet_view(outlet: Outlet) -> dict[str, Any]:
    return {
        "id": outlet.id,
        "merchant_id": outlet.merchant_id,
        "outlet_code": outlet.outlet_code,
        "name": outlet.name,
        "address": outlet.address,
        "status": outlet.status,
        "is_default": outlet.is_default,
        "created_at": rfc3339(outlet.created_at_ms),
        "updated_at": rfc3339(outlet.updated_at_ms or outlet.created_at_ms),
    }


def terminal_view(terminal: Terminal) -> dict[str, Any]:
    return {
        "id": terminal.id,
        "merchant_id": terminal.merchant_id,
        "outlet_id": terminal.outlet_id,
        "terminal_code": terminal.terminal_code,
        "qr_mode": terminal.qr_mode,
        "partner_reference": terminal.partner_reference,
        "status": terminal.status,
        "is_default": terminal.is_default,
        "created_at": rfc3339(terminal.created_at_ms),
        "updated_at": rfc3339(terminal.updated_at_ms or terminal.created_at_ms),
    }
