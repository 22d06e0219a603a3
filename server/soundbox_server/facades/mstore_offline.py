"""Reference 002's offline sync: what tills sold while they were offline, item by item, and what does not fit.

Translation only. Cash alone is taken offline: whoever sold otherwise had no provider to be paid through.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import select

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.fields import Id, Moment, Reason
from soundbox_server.http import Reader, answer, problems, request_id
from soundbox_server.merchants.models import Merchant
from soundbox_server.merchants.tills import till_of
from soundbox_server.paging import Listing, Page, Rows, rows_of_page
from soundbox_server.pos import service
from soundbox_server.pos.models import OfflineConflict
from soundbox_server.pos.service import Item, Outcome
from soundbox_server.pos.state import SUGGESTED, ConflictType, ItemKind, Resolution, SaleState

router = APIRouter(tags=["pos"])

SYNC = "/api/v1/pos/offline/batch-sync"
LARGEST_BATCH = 256 * 1024  # bytes
MOST_ITEMS = 100  # of each kind

OfflineId = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
OfflineReference = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,40}-[0-9]{8}-[0-9]{1,10}$")]
Words = Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]
Money = Annotated[int, Field(ge=0, le=10**15)]  # what is too much to be true is said of each item
Number = Annotated[int, Field(ge=0, le=2**53)]


class _Told(BaseModel):
    """One item. What a till says beside it is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    offline_id: OfflineId
    offline_reference: OfflineReference
    created_at_device: Moment
    device_id: Words | None = None


class ToldTransaction(_Told):
    branch_code: Words | None = None
    payment_method: Words
    id_user_apps: Number | Words | None = None
    type_transaction: Number | None = None
    subtotal: Money | None = None
    discount_total: Money | None = None
    tax_total: Money | None = None
    grand_total: Money
    status: Literal["draft", "paid", "void"]
    payment_status: Literal["pending_payment", "paid", "void"]

    def item(self) -> Item:
        agrees = {"draft": "pending_payment"}.get(self.status, self.status) == self.payment_status
        return _item(
            self, ItemKind.TRANSACTION, SaleState(self.status) if agrees else None,
            facts={
                "branch_code": self.branch_code, "payment_method": self.payment_method.lower(),
                "id_user_apps": self.id_user_apps, "type_transaction": self.type_transaction,
                "subtotal": self.subtotal, "discount_total": self.discount_total, "tax_total": self.tax_total,
                "grand_total": self.grand_total,
            },
        )  # fmt: skip


class ToldPayment(_Told):
    """Of a transaction that came as a draft; `offline_reference` is the transaction's."""

    payment_method: Words
    amount: Money

    def item(self) -> Item:
        return _item(
            self, ItemKind.PAYMENT, None, facts={"payment_method": self.payment_method.lower(), "amount": self.amount}
        )


class ToldVoid(_Told):
    """Of a transaction; `offline_reference` is the transaction's."""

    reason: Words | None = None

    def item(self) -> Item:
        return _item(self, ItemKind.VOID, None, facts={"reason": self.reason})


def _item(told: _Told, kind: ItemKind, state: SaleState | None, *, facts: Mapping[str, str | int | None]) -> Item:
    return Item(
        kind=kind,
        offline_id=told.offline_id.lower(),
        offline_reference=told.offline_reference,
        created_at_device_ms=told.created_at_device,
        facts={**facts, "device_id": told.device_id},
        state=state,
    )


_KINDS: Mapping[str, tuple[ItemKind, type[ToldTransaction] | type[ToldPayment] | type[ToldVoid]]] = {
    "transactions": (ItemKind.TRANSACTION, ToldTransaction),
    "payments": (ItemKind.PAYMENT, ToldPayment),
    "voids": (ItemKind.VOID, ToldVoid),
}
_SAMPLE = {
    "offline_id": "7f9c24e8-3b2a-4c51-9d0e-5a1b6c7d8e9f", "offline_reference": "POS01-20251013-0001",
    "device_id": "POS01", "created_at_device": "2025-10-13T10:30:00Z", "branch_code": "main",
    "payment_method": "cash", "id_user_apps": 7, "type_transaction": 1, "subtotal": 33000, "discount_total": 0,
    "tax_total": 0, "grand_total": 33000, "status": "paid", "payment_status": "paid",
}  # fmt: skip


class Batch(BaseModel):
    """What a till did while it was offline. Each item is looked at by itself: one that does not fit stops no other."""

    model_config = ConfigDict(extra="ignore", strict=True)

    transactions: Annotated[list[dict[str, Any]], Field(max_length=MOST_ITEMS, examples=[[_SAMPLE]])]
    payments: Annotated[list[dict[str, Any]], Field(max_length=MOST_ITEMS)] = []
    voids: Annotated[list[dict[str, Any]], Field(max_length=MOST_ITEMS)] = []
    device_id: Annotated[Words, Field(examples=["POS01"])]
    synced_at: Annotated[Moment, Field(examples=["2025-10-13T18:00:00Z"])]
    terminal_id: Annotated[
        Id | None, Field(description="ours: the till of items that name no branch; default: the merchant's default one")
    ] = None


Kind = Literal["transaction", "payment", "void"]
ConflictWord = Literal["duplicate", "data_mismatch", "constraint_violation"]
ResolutionWord = Literal["keep_server", "keep_local", "merge"]


class SyncResult(BaseModel):
    """`server_id` is the item's; `payment_id` what `GET /api/v1/pos/payments/{reference_id}` knows."""

    offline_id: str | None
    type: Kind
    success: bool
    server_id: str | None
    transaction_code: str | None
    payment_id: str | None
    error: str | None
    conflict_detected: bool


class SyncConflict(BaseModel):
    conflict_id: str
    type: Kind
    offline_id: str
    offline_reference: str
    conflict_type: ConflictWord
    reason: str
    suggested_resolution: ResolutionWord


class SyncData(BaseModel):
    success: bool
    total_items: int
    success_count: int
    failed_count: int
    results: list[SyncResult]
    conflicts: list[SyncConflict]
    synced_at: AwareDatetime


class Synced(BaseModel):
    code: Literal[200]
    data: SyncData


@router.post(SYNC, responses={200: {"model": Synced}, **problems(NotFound, Conflict)})
async def sync_batch(request: Request, batch: Batch, caller: Caller, actor: Acting, once: AskedOnce) -> Response:
    """Take over what a till sold in cash while it was offline. `offline_reference` is the key: what comes twice is
    taken over once. What does not fit is kept as a conflict, to be resolved by somebody.

    Each item of `transactions` has offline_id (UUID), offline_reference (`DEVICE-YYYYMMDD-SEQ`), created_at_device,
    payment_method (cash), grand_total in whole rupiah, status (draft, paid, void) with its payment_status
    (pending_payment, paid, void), and may have device_id, branch_code (an outlet_code), id_user_apps, type_transaction
    (1), subtotal, discount_total and tax_total. An item of `payments` has payment_method and amount, one of `voids` may
    have a reason; both name their transaction by its offline_reference and have an offline_id of their own.
    """
    read = [(kind, _read(kind, told)) for kind in _KINDS for told in getattr(batch, kind)]
    items = [item for _, (item, _, _) in read if item is not None]
    trace_id = request_id(request)

    async def take_over(tx: Statements) -> Response:
        now_ms = clock.now_ms()
        till = await till_of(tx, caller.organisation_id, terminal_id=batch.terminal_id)
        outcomes = iter(await service.sync(tx, items, till=till, trace_id=trace_id, now_ms=now_ms))
        results = [
            _result(next(outcomes)) if item is not None else _unread(kind, offline_id, error)
            for kind, (item, offline_id, error) in read
        ]
        shown = _synced(results, now_ms=now_ms)
        details = {
            "device_id": batch.device_id, "items": len(results), "taken": shown["success_count"],
            "conflicts": len(shown["conflicts"]), "clock_skew_s": (batch.synced_at - now_ms) // 1000,
        }  # fmt: skip
        await record(tx, actor, "offline.synced", ("merchant", till.merchant_id), details=details)
        return answer({"code": 200, "data": shown})

    synced: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: take_over(tx)))
    return synced


def _read(kind: str, told: Mapping[str, Any]) -> tuple[Item | None, str | None, str | None]:
    """The item; else its offline_id, where it has one, and what is wrong with it."""
    try:
        return _KINDS[kind][1].model_validate(told).item(), None, None
    except ValidationError as wrong:
        offline_id = told.get("offline_id")
        said = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in wrong.errors()]
        return None, offline_id[:64] if isinstance(offline_id, str) else None, "; ".join(said[:5])


def _result(outcome: Outcome) -> tuple[dict[str, Any], dict[str, Any] | None]:
    item, conflict = outcome.item, outcome.conflict
    result = {
        "offline_id": item.offline_id,
        "type": item.kind.value,
        "success": outcome.success,
        "server_id": outcome.item_id,
        "transaction_code": item.offline_reference if outcome.item_id else None,
        "payment_id": outcome.payment_id,
        "error": outcome.error,
        "conflict_detected": conflict is not None,
    }
    if conflict is None:
        return result, None
    return result, {
        "conflict_id": conflict.id,
        "type": item.kind.value,
        "offline_id": item.offline_id,
        "offline_reference": item.offline_reference,
        "conflict_type": conflict.type.value,
        "reason": conflict.reason,
        "suggested_resolution": SUGGESTED[conflict.type].value,
    }


def _unread(kind: str, offline_id: str | None, error: str | None) -> tuple[dict[str, Any], None]:
    result = dict.fromkeys(("server_id", "transaction_code", "payment_id"))
    return {
        "offline_id": offline_id, "type": _KINDS[kind][0].value, "success": False, **result, "error": error,
        "conflict_detected": False,
    }, None  # fmt: skip


def _synced(results: Sequence[tuple[dict[str, Any], dict[str, Any] | None]], *, now_ms: int) -> dict[str, Any]:
    taken = sum(result["success"] for result, _ in results)
    return {
        "success": taken == len(results),
        "total_items": len(results),
        "success_count": taken,
        "failed_count": len(results) - taken,
        "results": [result for result, _ in results],
        "conflicts": [conflict for _, conflict in results if conflict is not None],
        "synced_at": rfc3339(now_ms),
    }


# Conflicts


class ConflictView(BaseModel):
    conflict_id: str
    type: Kind
    offline_id: str
    offline_reference: str
    conflict_type: ConflictWord
    reason: str
    local_data: dict[str, Any]
    server_data: dict[str, Any] | None
    suggested_resolution: ResolutionWord
    resolution_strategy: ResolutionWord | None
    resolution_reason: str | None
    resolved_by: str | None
    resolved_at: AwareDatetime | None
    created_at: AwareDatetime


class Conflicts(BaseModel):
    code: Literal[200]
    data: list[ConflictView]
    next_cursor: str | None


class OneConflict(BaseModel):
    code: Literal[200]
    data: ConflictView


class ConflictFilters(Page):
    status: Annotated[Literal["open", "resolved"] | None, Field(description="default: both")] = None
    conflict_type: ConflictWord | None = None


@router.get("/api/v1/pos/offline/conflicts", responses={200: {"model": Conflicts}})
async def list_conflicts(session: Reader, caller: Caller, asked: Annotated[ConflictFilters, Query()]) -> Response:
    """What tills said that was not taken over, newest first."""
    listing = Listing(
        asked=ConflictFilters,
        key=(OfflineConflict.id,),
        select=lambda asked: _select(asked, organisation_id=caller.organisation_id),
        show=_conflict,
    )
    rows, next_cursor = await rows_of_page(session, listing, asked)
    return answer({"code": 200, "data": rows, "next_cursor": next_cursor})


def _select(asked: ConflictFilters, *, organisation_id: str) -> Rows:
    query: Rows = select(OfflineConflict).join(Merchant, Merchant.id == OfflineConflict.merchant_id)
    query = query.where(Merchant.organisation_id == organisation_id, Merchant.erased_at_ms.is_(None))
    if asked.status is not None:
        resolved = OfflineConflict.resolved_at_ms.is_not(None)
        query = query.where(resolved if asked.status == "resolved" else ~resolved)
    if asked.conflict_type is not None:
        query = query.where(OfflineConflict.conflict_type == asked.conflict_type)
    return query


class Resolving(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    resolution: Annotated[ResolutionWord, Field(examples=["keep_server"])]
    reason: Reason | None = None


@router.post(
    "/api/v1/pos/offline/conflicts/{conflict_id}/resolve",
    responses={200: {"model": OneConflict}, **problems(NotFound, Conflict)},
)
async def resolve_conflict(
    request: Request, conflict_id: Id, wanted: Resolving, caller: Caller, actor: Acting, once: AskedOnce
) -> Response:
    """Decide about what a till said: keep_server gives it up, keep_local lets it replace what we have (cash that was
    booked is taken back, and booked anew), merge takes over only what is not about money."""
    resolution, trace_id = Resolution(wanted.resolution), request_id(request)

    async def decide(tx: Statements) -> Response:
        now_ms = clock.now_ms()
        kind = await service.resolve(
            tx, conflict_id, organisation_id=caller.organisation_id, resolution=resolution, reason=wanted.reason,
            by=actor.id, trace_id=trace_id, now_ms=now_ms,
        )  # fmt: skip
        details = {"conflict_type": kind, "resolution": resolution.value, "reason": wanted.reason}
        await record(tx, actor, "offline_conflict.resolved", ("offline_conflict", conflict_id), details=details)
        return answer({"code": 200, "data": _shown(await service.conflict(tx, conflict_id))})

    decided: Response = await request.app.state.database.write(lambda tx: once.answer(tx, lambda: decide(tx)))
    return decided


def _conflict(conflict: OfflineConflict) -> dict[str, Any]:
    return _shown(vars(conflict))


def _shown(conflict: Any) -> dict[str, Any]:
    """A conflict, of its row by names."""
    told = orjson.loads(conflict["local_data"])
    return {
        "conflict_id": conflict["id"],
        "type": conflict["kind"],
        "offline_id": conflict["offline_id"],
        "offline_reference": conflict["offline_reference"],
        "conflict_type": conflict["conflict_type"],
        "reason": conflict["reason"],
        "local_data": {
            "offline_id": told["offline_id"],
            "status": told["state"],
            "created_at_device": rfc3339(told["created_at_device_ms"]),
            **told["facts"],
        },
        "server_data": conflict["server_data"] and orjson.loads(conflict["server_data"]),
        "suggested_resolution": SUGGESTED[ConflictType(conflict["conflict_type"])].value,
        "resolution_strategy": conflict["resolution_strategy"],
        "resolution_reason": conflict["resolution_reason"],
        "resolved_by": conflict["resolved_by"],
        "resolved_at": rfc3339_or_none(conflict["resolved_at_ms"]),
        "created_at": rfc3339(conflict["created_at_ms"]),
    }
