"""How banks, merchants and staff see consents, looks and loan applications."""

from typing import Annotated, Any

from soundbox_server.answers import NotRequired, Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.lending.models import BankConsent, BankConsentEvent, BankLook, LoanApplication
from soundbox_server.lending.seen import Seen, seen_of
from soundbox_server.lending.state import ConsentEventKind, ConsentScope, LoanState, LookedAt, Side
from soundbox_server.scoring.state import RiskBand


class BankView(TypedDict):
    id: str
    name: str


class ConsentEventView(TypedDict):
    id: str
    kind: Annotated[str, among(ConsentEventKind)]
    scope: Annotated[str, among(ConsentScope)]
    expires_at: Time
    by: str | None
    at: Time


class ConsentView(TypedDict):
    id: str
    merchant_id: str
    bank_id: str
    bank_name: str
    scope: Annotated[str, among(ConsentScope)]
    granted_at: Time
    expires_at: Time
    withdrawn_at: Time | None
    history: NotRequired[list[ConsentEventView]]


def consent_view(consent: BankConsent, bank_name: str) -> ConsentView:
    return {
        "id": consent.id,
        "merchant_id": consent.merchant_id,
        "bank_id": consent.organisation_id,
        "bank_name": bank_name,
        "scope": consent.scope,
        "granted_at": rfc3339(consent.granted_at_ms),
        "expires_at": rfc3339(consent.expires_at_ms),
        "withdrawn_at": rfc3339_or_none(consent.withdrawn_at_ms),
    }


def consent_event_view(event: BankConsentEvent) -> ConsentEventView:
    return {
        "id": event.id,
        "kind": event.kind,
        "scope": event.scope,
        "expires_at": rfc3339(event.expires_at_ms),
        "by": event.actor_id,
        "at": rfc3339(event.at_ms),
    }


class LookView(TypedDict):
    id: str
    at: Time
    bank_id: str
    bank_name: str
    merchant_id: str
    by: str | None
    by_name: str | None
    what: Annotated[str, among(LookedAt)]
    request_id: str | None


def look_view(look: BankLook, bank_name: str, by_name: str | None) -> LookView:
    """`by_name` is a person's; a program has none."""
    return {
        "id": look.id,
        "at": rfc3339(look.at_ms),
        "bank_id": look.organisation_id,
        "bank_name": bank_name,
        "merchant_id": look.merchant_id,
        "by": look.actor_id,
        "by_name": by_name,
        "what": look.what,
        "request_id": look.request_id,
    }


class SeenMerchantView(TypedDict):
    merchant_id: str
    name: str
    city: str | None
    category: str | None
    criteria: str | None
    score: int | None
    risk_band: Annotated[str, among(RiskBand)] | None
    min_limit_idr: int | None
    max_limit_idr: int | None
    scored_at: Time | None
    revenue_30d_idr: int | None
    consent_scope: Annotated[str, among(ConsentScope)]
    consent_granted_at: Time
    consent_expires_at: Time


SEEN_COLUMNS = (
    "merchant_id", "name", "city", "category", "criteria", "score", "risk_band", "min_limit_idr", "max_limit_idr",
    "scored_at", "revenue_30d_idr", "consent_scope", "consent_granted_at", "consent_expires_at",
)  # fmt: skip


def seen_row_view(*row: Any) -> SeenMerchantView:
    return seen_view(seen_of(*row))


def seen_view(seen: Seen) -> SeenMerchantView:
    return {
        "merchant_id": seen.merchant_id,
        "name": seen.name,
        "city": seen.city,
        "category": seen.category,
        "criteria": seen.criteria,
        "score": seen.score,
        "risk_band": seen.risk_band,
        "min_limit_idr": seen.min_limit_idr,
        "max_limit_idr": seen.max_limit_idr,
        "scored_at": rfc3339_or_none(seen.scored_at_ms),
        "revenue_30d_idr": seen.revenue_idr,
        "consent_scope": seen.scope.value,
        "consent_granted_at": rfc3339(seen.granted_at_ms),
        "consent_expires_at": rfc3339(seen.expires_at_ms),
    }


class DecisionView(TypedDict):
    by: str
    at: Time
    reason: str
    approved_amount_idr: int | None


class DisbursementView(TypedDict):
    by: str
    on: str
    amount_idr: int
    reference: str


class LoanApplicationView(TypedDict):
    id: str
    merchant_id: str
    bank_id: str
    status: Annotated[str, among(LoanState)]
    made_by_side: Annotated[str, among(Side)]
    made_by: str
    amount_idr: int
    tenor_months: int
    interest_bps: int | None
    purpose: str | None
    recommended_amount_idr: int | None
    score: int | None
    risk_band: Annotated[str, among(RiskBand)] | None
    score_model: str | None
    score_version: int | None
    submitted_by: str | None
    submitted_at: Time | None
    reviewed_by: str | None
    reviewed_at: Time | None
    decision: DecisionView | None
    disbursement: DisbursementView | None
    withdrawn_at: Time | None
    created_at: Time
    changed_at: Time


def application_view(row: LoanApplication) -> LoanApplicationView:
    return {
        "id": row.id,
        "merchant_id": row.merchant_id,
        "bank_id": row.organisation_id,
        "status": row.state,
        "made_by_side": row.made_by_side,
        "made_by": row.made_by,
        "amount_idr": row.amount_idr,
        "tenor_months": row.tenor_months,
        "interest_bps": row.interest_bps,
        "purpose": row.purpose,
        "recommended_amount_idr": row.recommended_amount_idr,
        "score": row.score,
        "risk_band": row.risk_band,
        "score_model": row.score_model,
        "score_version": row.score_version,
        "submitted_by": row.submitted_by,
        "submitted_at": rfc3339_or_none(row.submitted_at_ms),
        "reviewed_by": row.reviewed_by,
        "reviewed_at": rfc3339_or_none(row.reviewed_at_ms),
        "decision": _decision(row),
        "disbursement": _disbursement(row),
        "withdrawn_at": rfc3339_or_none(row.withdrawn_at_ms),
        "created_at": rfc3339(row.created_at_ms),
        "changed_at": rfc3339(row.changed_at_ms),
    }


def _decision(row: LoanApplication) -> DecisionView | None:
    if row.decided_by is None or row.decided_at_ms is None or row.decision_reason is None:
        return None
    return {
        "by": row.decided_by,
        "at": rfc3339(row.decided_at_ms),
        "reason": row.decision_reason,
        "approved_amount_idr": row.approved_amount_idr,
    }


def _disbursement(row: LoanApplication) -> DisbursementView | None:
    if (
        row.disbursed_by is None
        or row.disbursed_on is None
        or row.disbursed_amount_idr is None
        or row.disbursement_reference is None
    ):
        return None
    return {
        "by": row.disbursed_by,
        "on": row.disbursed_on,
        "amount_idr": row.disbursed_amount_idr,
        "reference": row.disbursement_reference,
    }
