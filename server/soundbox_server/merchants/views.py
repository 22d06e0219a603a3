"""How staff see merchants, their places and their papers."""

from typing import Annotated

from pydantic import WithJsonSchema

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.fees.state import FeeCategory
from soundbox_server.merchants.models import AccountChange, Merchant, MerchantDocument, Outlet, Terminal
from soundbox_server.merchants.service import missing
from soundbox_server.merchants.state import (
    AccountChangeState,
    AnnouncementPolicy,
    DocumentState,
    MerchantState,
    PlaceState,
)


class MerchantView(TypedDict):
    id: str
    merchant_code: str
    organisation_id: str
    legal_name: str
    brand_name: str
    owner_email: str | None
    city: str | None
    postal_code: str | None
    mcc: str | None
    nmid: str | None
    criteria: str | None
    fee_category: Annotated[str, among(FeeCategory)] | None
    fee_profile_id: str | None
    settlement_account_reference: str | None
    settlement_account_type: str | None
    payout_mode: str
    late_policy: Annotated[str, WithJsonSchema({"type": "string", "enum": ["accept", "refund"]})]
    announcement_policy: Annotated[str, among(AnnouncementPolicy)]
    status: Annotated[str, among(MerchantState)]
    status_reason: str | None
    onboarding_status: str
    missing: list[str]
    approved_at: Time | None
    created_at: Time
    updated_at: Time


def merchant_view(merchant: Merchant) -> MerchantView:
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
        "fee_category": merchant.fee_category,
        "fee_profile_id": merchant.fee_profile_id,
        "settlement_account_reference": merchant.settlement_account_reference,
        "settlement_account_type": merchant.settlement_account_type,
        "payout_mode": merchant.payout_mode,
        "late_policy": merchant.late_policy,
        "announcement_policy": merchant.announcement_policy,
        "status": merchant.status,
        "status_reason": merchant.status_reason,
        "onboarding_status": "incomplete" if missing(merchant) else "complete",
        "missing": missing(merchant),
        "approved_at": rfc3339_or_none(merchant.approved_at_ms),
        "created_at": rfc3339(merchant.created_at_ms),
        "updated_at": rfc3339(merchant.updated_at_ms or merchant.created_at_ms),
    }


class AccountChangeView(TypedDict):
    id: str
    merchant_id: str
    settlement_account_reference: str | None
    settlement_account_type: str | None
    status: Annotated[str, among(AccountChangeState)]
    reason: str | None
    requested_by: str
    requested_at: Time
    decided_by: str | None
    decided_at: Time | None
    effective_at: Time | None


def account_change_view(change: AccountChange) -> AccountChangeView:
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


class DocumentView(TypedDict):
    id: str
    merchant_id: str
    document_type: str
    document_url: str | None
    sha256: str | None
    media_type: str | None
    size_bytes: int | None
    verification_status: Annotated[str, among(DocumentState)]
    reason: str | None
    shown_by: str | None
    checked_by: str | None
    created_at: Time
    checked_at: Time | None


def document_view(document: MerchantDocument) -> DocumentView:
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


class OutletView(TypedDict):
    id: str
    merchant_id: str
    outlet_code: str
    name: str
    address: str
    status: Annotated[str, among(PlaceState)]
    is_default: bool
    created_at: Time
    updated_at: Time


def outlet_view(outlet: Outlet) -> OutletView:
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


class TerminalView(TypedDict):
    id: str
    merchant_id: str
    outlet_id: str
    terminal_code: str
    qr_mode: str
    partner_reference: str | None
    status: Annotated[str, among(PlaceState)]
    is_default: bool
    created_at: Time
    updated_at: Time


def terminal_view(terminal: Terminal) -> TerminalView:
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


class PlacesView(TypedDict):
    outlets_count: int
    default_outlet: OutletView | None
    default_terminal: TerminalView | None


class NewMerchantView(MerchantView, PlacesView):
    pass


class ChangedMerchantView(MerchantView):
    pending_account_change: AccountChangeView | None


class WholeMerchantView(NewMerchantView, ChangedMerchantView):
    documents: list[DocumentView]
