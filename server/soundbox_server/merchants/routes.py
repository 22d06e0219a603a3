"""Operators' doors to merchants: taking them in, looking at them, approving them, and where they are paid."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field, StringConstraints
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, FeeRuleMissing, IllegalTransition, MerchantIncomplete, NotFound
from soundbox_server.fields import Body, City, Code, Email, Id, Moment, Name, Reason, Reference, Search, unchanged
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.merchants import accounts, service
from soundbox_server.merchants.models import AccountChange, Merchant, MerchantDocument, Outlet, Terminal
from soundbox_server.merchants.state import AccountChangeState, MerchantState
from soundbox_server.merchants.views import (
    AccountChangeView,
    ChangedMerchantView,
    MerchantView,
    NewMerchantView,
    PlacesView,
    WholeMerchantView,
    account_change_view,
    document_view,
    merchant_view,
    outlet_view,
    terminal_view,
)
from soundbox_server.paging import Listing, Page, Rows, beginning, between, matching, page

router = APIRouter(tags=["operators"])

_ACCOUNT = ("settlement_account_reference", "settlement_account_type")

PostalCode = Annotated[str, StringConstraints(pattern=r"^[0-9]{5,10}$")]
Mcc = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")]
Nmid = Annotated[str, StringConstraints(pattern=r"^ID[0-9]{13}$")]
Criteria = Literal["UMI", "UKE", "UME", "UBE", "URE"]
Category = Annotated[
    Literal["education", "SPBU", "BLU", "PSO", "G2P", "P2G", "nonprofit_donation"],
    Field(description="merchants whom the rule book gives a rate of their own, whatever their criteria"),
]
PayoutMode = Literal["merchant_direct", "manual"]
LatePolicy = Annotated[
    Literal["accept", "refund"], Field(description="of money that comes after its QR has ended: kept, or given back")
]

AnnouncementPolicy = Annotated[
    Literal["terminal", "primary", "outlet"],
    Field(
        description="which boxes say a payment: all at its terminal, of these the one that has stood there longest, or "
        "all in its outlet"
    ),
]


class NewMerchant(Body):
    """Reference 001's body. What a QR needs besides may come with it or later, and is there before approval."""

    legal_name: Name
    brand_name: Name
    settlement_account_reference: Reference | None = None
    settlement_account_type: Code | None = None
    payout_mode: PayoutMode = "merchant_direct"
    late_policy: LatePolicy = "accept"
    announcement_policy: AnnouncementPolicy = "terminal"
    fee_profile_id: Id | None = None
    merchant_code: Code | None = None
    organisation_id: Id | None = None
    owner_email: Email | None = None
    city: City | None = None
    postal_code: PostalCode | None = None
    mcc: Mcc | None = None
    nmid: Nmid | None = None
    criteria: Criteria | None = None
    fee_category: Category | None = None


class MerchantChanges(Body):
    """Only what is named is changed. What a QR needs can be replaced, and not taken away."""

    legal_name: Name = Field(default_factory=unchanged)
    brand_name: Name = Field(default_factory=unchanged)
    settlement_account_reference: Reference | None = None
    settlement_account_type: Code | None = None
    payout_mode: PayoutMode = Field(default_factory=unchanged)
    late_policy: LatePolicy = Field(default_factory=unchanged)
    announcement_policy: AnnouncementPolicy = Field(default_factory=unchanged)
    fee_profile_id: Id = Field(default_factory=unchanged)
    merchant_code: Code = Field(default_factory=unchanged)
    owner_email: Email | None = None
    city: City = Field(default_factory=unchanged)
    postal_code: PostalCode = Field(default_factory=unchanged)
    mcc: Mcc = Field(default_factory=unchanged)
    nmid: Nmid = Field(default_factory=unchanged)
    criteria: Criteria = Field(default_factory=unchanged)
    fee_category: Category | None = None


class MerchantFilters(Page):
    status: MerchantState | None = None
    payout_mode: PayoutMode | None = None
    organisation_id: Id | None = None
    fee_profile_id: Id | None = None
    q: Search | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


def _select(asked: MerchantFilters) -> Rows:
    query = matching(
        select(Merchant),
        (Merchant.status, asked.status), (Merchant.payout_mode, asked.payout_mode),
        (Merchant.organisation_id, asked.organisation_id), (Merchant.fee_profile_id, asked.fee_profile_id),
    )  # fmt: skip
    if asked.q:
        named = (Merchant.merchant_code, Merchant.legal_name, Merchant.brand_name)
        query = query.where(or_(*(beginning(column, asked.q) for column in named)))
    return between(
        query, at=Merchant.created_at_ms, id_=Merchant.id, prefix="mer",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


_COLUMNS = (
    "id", "merchant_code", "legal_name", "brand_name", "owner_email", "city", "postal_code", "mcc", "nmid", "criteria",
    "fee_category", "fee_profile_id", "settlement_account_reference", "settlement_account_type", "payout_mode",
    "late_policy", "announcement_policy", "status", "status_reason", "onboarding_status", "approved_at", "created_at",
    "updated_at",
)  # fmt: skip
MERCHANTS = Listing(asked=MerchantFilters, key=(Merchant.id,), select=_select, show=merchant_view, columns=_COLUMNS)


@router.post(
    "/admin/merchants", status_code=201, responses=answers(NewMerchantView, status=201) | problems(NotFound, Conflict)
)
async def create_merchant(
    request: Request, wanted: NewMerchant, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """A pending merchant with a default outlet and terminal. It issues no QR before it is approved."""

    async def create() -> Response:
        facts = wanted.model_dump(exclude={"organisation_id"}, exclude_none=True)
        merchant = await service.create(session, facts, organisation_id=wanted.organisation_id, now_ms=clock.now_ms())
        await _audit(session, actor, "merchant.created", merchant.id, {"after": facts})
        return envelope(request, {**merchant_view(merchant), **await _places(session, merchant.id)}, status=201)

    return await once.answer(await statements(session), create)


@router.get("/admin/merchants", responses=pages(MerchantView))
async def list_merchants(request: Request, session: Reader, asked: Annotated[MerchantFilters, Query()]) -> Response:
    """Merchants, newest first."""
    return await page(request, session, MERCHANTS, asked)


@router.get("/admin/merchants/{merchant_id}", responses=answers(WholeMerchantView))
async def get_merchant(request: Request, merchant_id: Id, session: Reader) -> Response:
    """One merchant with its default outlet and terminal, its papers, and a change of account that waits."""
    merchant = await session.get(Merchant, merchant_id)
    if merchant is None:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    documents = await session.scalars(
        select(MerchantDocument).where(MerchantDocument.merchant_id == merchant_id).order_by(MerchantDocument.id)
    )
    waiting = await accounts.waiting_change(session, merchant_id)
    return envelope(
        request,
        {
            **merchant_view(merchant),
            **await _places(session, merchant_id),
            "documents": [document_view(document) for document in documents],
            "pending_account_change": account_change_view(waiting) if waiting else None,
        },
    )


async def _places(session: AsyncSession, merchant_id: str) -> PlacesView:
    outlets = await session.scalar(select(func.count()).where(Outlet.merchant_id == merchant_id))
    outlet = await session.scalar(select(Outlet).where(Outlet.merchant_id == merchant_id, Outlet.is_default))
    terminal = await session.scalar(select(Terminal).where(Terminal.merchant_id == merchant_id, Terminal.is_default))
    return {
        "outlets_count": outlets or 0,
        "default_outlet": outlet_view(outlet) if outlet else None,
        "default_terminal": terminal_view(terminal) if terminal else None,
    }


@router.patch(
    "/admin/merchants/{merchant_id}", responses=answers(ChangedMerchantView) | problems(Conflict, FeeRuleMissing)
)
async def change_merchant(
    request: Request, merchant_id: Id, wanted: MerchantChanges, session: Session, actor: Acting
) -> Response:
    """Change what is named. Where a merchant that was ever approved, or that money waits for, is paid out waits for a
    second person and a day."""
    now_ms = clock.now_ms()
    changes = wanted.model_dump(exclude_unset=True)
    merchant = await service.lock(session, merchant_id)
    guarded = merchant.approved_at_ms or await accounts.holds_money(await statements(session), merchant)
    waits = await _account_change(session, merchant, changes, actor, now_ms) if guarded else None
    changed = await service.change(session, merchant, changes, now_ms=now_ms)
    if changed:
        await _audit(
            session, actor, "merchant.changed", merchant_id,
            {"before": changed.before, "after": changed.after},
        )  # fmt: skip
    waits = waits or await accounts.waiting_change(session, merchant_id)
    return envelope(
        request, merchant_view(merchant) | {"pending_account_change": account_change_view(waits) if waits else None}
    )


async def _account_change(
    session: AsyncSession, merchant: Merchant, changes: dict[str, Any], actor: Actor, now_ms: int
) -> AccountChange | None:
    """Takes the account out of the changes and asks for it, when it differs from what stands."""
    stands = {name: getattr(merchant, name) for name in _ACCOUNT}
    wanted = stands | {name: changes.pop(name) for name in _ACCOUNT if name in changes}
    if wanted == stands:
        return None
    reference, account_type = (wanted[name] for name in _ACCOUNT)
    change = await accounts.request(
        session, merchant, reference=reference, account_type=account_type, by=_person(actor), now_ms=now_ms
    )
    await _audit(
        session, actor, "merchant.account_change_requested", merchant.id,
        {"change_id": change.id, "before": stands, "after": wanted},
    )  # fmt: skip
    return change


class Because(Body):
    reason: Reason


@router.post(
    "/admin/merchants/{merchant_id}/approve",
    responses=answers(MerchantView) | problems(IllegalTransition, MerchantIncomplete, FeeRuleMissing),
)
async def approve_merchant(
    request: Request, merchant_id: Id, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """From now on it issues QR; a suspended merchant does again. 409 MERCHANT_INCOMPLETE names what a QR lacks, 409
    FEE_RULE_MISSING says that no fee applies."""

    async def approve() -> Response:
        merchant = await service.approve(session, merchant_id, now_ms=clock.now_ms())
        await _audit(session, actor, "merchant.approved", merchant_id, {"fee_profile_id": merchant.fee_profile_id})
        return envelope(request, merchant_view(merchant))

    return await once.answer(await statements(session), approve)


@router.post("/admin/merchants/{merchant_id}/reject", responses=answers(MerchantView) | problems(IllegalTransition))
async def reject_merchant(
    request: Request, merchant_id: Id, because: Because, session: Session, actor: Acting
) -> Response:
    """It issues no QR. Money that still arrives is recorded and waits for review."""
    return await _move(
        request, session, actor, merchant_id, MerchantState.REJECTED, "merchant.rejected", because.reason
    )


@router.post("/admin/merchants/{merchant_id}/suspend", responses=answers(MerchantView) | problems(IllegalTransition))
async def suspend_merchant(
    request: Request, merchant_id: Id, because: Because, session: Session, actor: Acting
) -> Response:
    """For a while it issues no QR. Approving it again ends that."""
    return await _move(
        request, session, actor, merchant_id, MerchantState.SUSPENDED, "merchant.suspended", because.reason
    )


@router.post("/admin/merchants/{merchant_id}/resubmit", responses=answers(MerchantView) | problems(IllegalTransition))
async def resubmit_merchant(request: Request, merchant_id: Id, session: Session, actor: Acting) -> Response:
    """A rejected merchant is looked at again."""
    return await _move(request, session, actor, merchant_id, MerchantState.PENDING, "merchant.resubmitted", None)


async def _move(
    request: Request,
    session: AsyncSession,
    actor: Actor,
    merchant_id: str,
    wanted: MerchantState,
    action: str,
    reason: str | None,
) -> Response:
    merchant = await service.move(session, merchant_id, wanted, reason=reason, now_ms=clock.now_ms())
    await _audit(session, actor, action, merchant_id, {"reason": reason})
    return envelope(request, merchant_view(merchant))


class AccountChangeFilters(Page):
    status: AccountChangeState | None = None
    merchant_id: Id | None = None


def _select_changes(asked: AccountChangeFilters) -> Rows:
    query = select(AccountChange)
    if asked.status:
        query = query.where(AccountChange.state == asked.status.value)
    if asked.merchant_id:
        query = query.where(AccountChange.merchant_id == asked.merchant_id)
    return query


ACCOUNT_CHANGES = Listing(
    asked=AccountChangeFilters, key=(AccountChange.id,), select=_select_changes, show=account_change_view
)


@router.get("/admin/account-changes", responses=pages(AccountChangeView))
async def list_account_changes(
    request: Request, session: Reader, asked: Annotated[AccountChangeFilters, Query()]
) -> Response:
    """Changes of settlement accounts, newest first: what waits for a second person, and what became of the others."""
    return await page(request, session, ACCOUNT_CHANGES, asked)


@router.post(
    "/admin/merchants/{merchant_id}/account-changes/{change_id}/approve",
    responses=answers(AccountChangeView) | problems(IllegalTransition),
)
async def approve_account_change(
    request: Request, merchant_id: Id, change_id: Id, session: Session, actor: Acting
) -> Response:
    """The second person's yes: the account takes effect 24 hours from now. 403 for whoever asked for it."""
    change = await accounts.approve(session, merchant_id, change_id, by=_person(actor), now_ms=clock.now_ms())
    await _audit(session, actor, "merchant.account_change_approved", merchant_id, {"change_id": change_id})
    return envelope(request, account_change_view(change))


@router.post(
    "/admin/merchants/{merchant_id}/account-changes/{change_id}/refuse",
    responses=answers(AccountChangeView) | problems(IllegalTransition),
)
async def refuse_account_change(
    request: Request, merchant_id: Id, change_id: Id, because: Because, session: Session, actor: Acting
) -> Response:
    """Stop a change, until the moment it takes effect."""
    change = await accounts.refuse(
        session, merchant_id, change_id, by=_person(actor), reason=because.reason, now_ms=clock.now_ms()
    )
    await _audit(
        session, actor, "merchant.account_change_refused", merchant_id,
        {"change_id": change_id, "reason": because.reason},
    )  # fmt: skip
    return envelope(request, account_change_view(change))


def _person(actor: Actor) -> str:
    assert actor.id is not None  # whoever passed a door that asks for a role has an id
    return actor.id


async def _audit(
    session: AsyncSession, actor: Actor, action: str, merchant_id: str, details: Mapping[str, Any]
) -> None:
    await record(await statements(session), actor, action, ("merchant", merchant_id), details=details)
