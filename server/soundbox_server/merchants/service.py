"""Merchants from their first word to their last: taken in, looked at, approved, changed."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.models import Organisation
from soundbox_server.db import KEY_STAYS, violated
from soundbox_server.errors import Conflict, FeeRuleMissing, MerchantIncomplete, NotFound
from soundbox_server.fees import service as fees
from soundbox_server.fees.terms import Payee
from soundbox_server.ids import new_id
from soundbox_server.merchants.models import Merchant, Outlet, Terminal
from soundbox_server.merchants.state import MerchantState, PlaceState, require_merchant

QR_NEEDS = ("city", "postal_code", "mcc", "nmid", "criteria")
_PRICED_BY = {"fee_profile_id", "fee_category", "criteria"}
_CODE_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_code(prefix: str) -> str:
    """A short name to read aloud: m_7k2q9x4t."""
    return f"{prefix}_" + "".join(secrets.choice(_CODE_ALPHABET) for _ in range(8))


def missing(merchant: Merchant) -> list[str]:
    """What must be known before this merchant can be approved."""
    return [name for name in (*QR_NEEDS, "fee_profile_id") if getattr(merchant, name) is None]


async def create(
    session: AsyncSession, facts: Mapping[str, Any], *, organisation_id: str | None, now_ms: int
) -> Merchant:
    """A pending merchant with its default outlet and terminal. `facts` are columns by name; what a QR needs may come
    later. Without an organisation it gets one of its own. Raises NotFound for an unknown organisation or fee profile,
    Conflict when its code is taken."""
    await _require_fee_profile(session, facts.get("fee_profile_id"))
    merchant = Merchant(
        id=new_id("mer"),
        organisation_id=await _organisation(session, organisation_id, name=facts["brand_name"], now_ms=now_ms),
        status=MerchantState.PENDING.value,
        created_at_ms=now_ms,
        **{"merchant_code": new_code("m"), **facts},
    )
    session.add(merchant)
    await flush(session, "merchant_code")
    outlet = Outlet(
        id=new_id("out"), merchant_id=merchant.id, outlet_code="main", name=merchant.brand_name, address="",
        status=PlaceState.ACTIVE.value, is_default=True, created_at_ms=now_ms,
    )  # fmt: skip
    session.add(outlet)
    await session.flush()
    session.add(
        Terminal(
            id=new_id("term"), outlet_id=outlet.id, merchant_id=merchant.id, terminal_code="main", qr_mode="dynamic",
            status=PlaceState.ACTIVE.value, is_default=True, created_at_ms=now_ms,
        )
    )  # fmt: skip
    await session.flush()
    return merchant


async def flush(session: AsyncSession, *unique: str) -> None:
    """Write what waits. A value of these columns that somebody else has raises Conflict with its field."""
    try:
        await session.flush()
    except IntegrityError as error:
        taken = next((column for column in unique if column in violated(error)), None)
        if taken is None:
            raise
        raise Conflict(f"This {taken} is taken.", field=taken) from None


async def _organisation(session: AsyncSession, organisation_id: str | None, *, name: str, now_ms: int) -> str:
    if organisation_id is None:
        organisation = Organisation(id=new_id("org"), kind="merchant", name=name, created_at_ms=now_ms)
        session.add(organisation)
        await session.flush()
        return organisation.id
    found = await session.get(Organisation, organisation_id)
    if found is None or found.kind not in ("merchant", "platform"):
        raise NotFound("No such organisation of merchants.", field="organisation_id")
    return found.id


async def _require_fee_profile(session: AsyncSession, fee_profile_id: str | None) -> None:
    if fee_profile_id is not None and not await fees.exists(session, fee_profile_id):
        raise NotFound("No such fee profile.", field="fee_profile_id")


async def lock(session: AsyncSession, merchant_id: str) -> Merchant:
    """The merchant under its row's lock. Raises NotFound, and Conflict for one that was erased."""
    merchant = await session.get(Merchant, merchant_id, with_for_update=KEY_STAYS)
    if merchant is None:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    if merchant.erased_at_ms is not None:
        raise Conflict("This merchant was erased.", merchant_id=merchant_id)
    return merchant


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What was changed, from what to what: for the audit log."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def __bool__(self) -> bool:
        return bool(self.after)


def apply(row: Any, changes: Mapping[str, Any], *, now_ms: int) -> Changed:
    """Set those columns of a row that differ."""
    before = {name: getattr(row, name) for name, value in changes.items() if getattr(row, name) != value}
    after = {name: changes[name] for name in before}
    for name, value in after.items():
        setattr(row, name, value)
    if after:
        row.updated_at_ms = now_ms
    return Changed(before=before, after=after)


async def change(session: AsyncSession, merchant: Merchant, changes: Mapping[str, Any], *, now_ms: int) -> Changed:
    """Facts of a locked merchant, columns by name. Raises NotFound for an unknown fee profile, Conflict when its new
    code is taken, FeeRuleMissing where an approved one would have no rate."""
    await _require_fee_profile(session, changes.get("fee_profile_id"))
    changed = apply(merchant, changes, now_ms=now_ms)
    if merchant.status == MerchantState.APPROVED and _PRICED_BY & changed.after.keys():
        await _require_fee_rule(session, merchant, now_ms=now_ms)
    await flush(session, "merchant_code")
    return changed


async def _require_fee_rule(session: AsyncSession, merchant: Merchant, *, now_ms: int) -> None:
    payee = Payee(merchant.id, merchant.fee_category, merchant.criteria)
    if not await fees.has_rule(session, merchant.fee_profile_id, payee, day=clock.jakarta_day(now_ms)):
        raise FeeRuleMissing("No fee rule applies to this merchant: give it a fee profile.", field="fee_profile_id")


async def approve(session: AsyncSession, merchant_id: str, *, now_ms: int) -> Merchant:
    """From now on it issues QR. Raises MerchantIncomplete, FeeRuleMissing or IllegalTransition."""
    merchant = await lock(session, merchant_id)
    status = require_merchant(merchant.status, MerchantState.APPROVED)
    if lacking := [name for name in missing(merchant) if name in QR_NEEDS]:
        raise MerchantIncomplete("Facts are missing that every QR of this merchant carries.", missing=lacking)
    await _require_fee_rule(session, merchant, now_ms=now_ms)
    _move(merchant, status, None, now_ms)
    merchant.approved_at_ms = merchant.approved_at_ms or now_ms
    return merchant


async def move(
    session: AsyncSession, merchant_id: str, wanted: MerchantState, *, reason: str | None, now_ms: int
) -> Merchant:
    """Rejected, suspended, or pending again. Money that still arrives is recorded and waits for review."""
    merchant = await lock(session, merchant_id)
    _move(merchant, require_merchant(merchant.status, wanted), reason, now_ms)
    return merchant


def _move(merchant: Merchant, status: str, reason: str | None, now_ms: int) -> None:
    merchant.status, merchant.status_reason, merchant.updated_at_ms = status, reason, now_ms
