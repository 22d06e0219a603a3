"""Operators' doors to reconciliation: providers' statements in, differences out, and the day's report."""

import asyncio
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, BinaryIO, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field, JsonValue, StringConstraints
from sqlalchemy import func, select

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting
from soundbox_server.answers import AnyJson, Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import statements
from soundbox_server.devices.bulk import FileRefused
from soundbox_server.errors import (
    BodyTooLarge,
    IllegalTransition,
    NotFound,
    UnsupportedMediaType,
    ValidationFailed,
)
from soundbox_server.fields import Body, Id, Reason
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.paging import Listing, Page, Rows, matching, page
from soundbox_server.reconciliation import reading, report, service
from soundbox_server.reconciliation.models import Difference, LedgerCheck, ProviderStatement, StatementMapping
from soundbox_server.reconciliation.reading import Columns
from soundbox_server.reconciliation.state import DifferenceKind, DifferenceReason, DifferenceState, Settlement
from soundbox_server.revenue.models import DailyRevenue
from soundbox_server.revenue.service import SUMS

router = APIRouter(tags=["operators"])

LARGEST_FILE = reading.LARGEST_FILE
_CSV_TYPES = ("text/csv", "application/csv", "text/plain", "application/vnd.ms-excel")
_EXAMPLE = "Order ID,Type,Gross,Fee\nref_01k9x3m8z6,PAYMENT,50000,350\n"
_FILE = {
    "requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}, "example": _EXAMPLE}}}
}

_DAY = (
    r"^(20[0-9]{2}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
    r"|20([02468][048]|[13579][26])-02-29)$"
)
Day = Annotated[
    str,
    StringConstraints(pattern=_DAY),
    Field(examples=["2026-05-23"], description="a day in Jakarta"),
]
Column = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]
Words = Annotated[list[Word], Field(max_length=20)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._()-]{1,128}$")]


# Mappings

_NAMED: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"reference": {"type": "string"}}, "required": ["reference"]},
        {"properties": {"provider_reference": {"type": "string"}}, "required": ["provider_reference"]},
    ]
}


class NewMapping(Body):
    """Which columns say what, by the names in the head of the file. `reference` is the one we chose, and
    `provider_reference` the provider's own: one of them is there."""

    model_config = ConfigDict(json_schema_extra=_NAMED)

    amount: Annotated[Column, Field(examples=["Gross"])]
    reference: Annotated[Column | None, Field(examples=["Order ID"])] = None
    provider_reference: Column | None = None
    rrn: Column | None = None
    fee: Annotated[Column | None, Field(examples=["Fee"])] = None
    at: Column | None = None
    kind: Annotated[Column | None, Field(examples=["Type"], description="tells payments from refunds")] = None
    payments: Annotated[Words, Field(examples=[["PAYMENT"]])] = []
    refunds: Annotated[Words, Field(examples=[["REFUND"]])] = []
    ignored: Annotated[Words, Field(examples=[["PAYOUT"]], description="lines that say nothing to us")] = []
    delimiter: reading.Delimiter = ","
    decimal_mark: Literal[".", ","] = "."
    time_form: reading.TimeForm = "rfc3339"
    lines_before_head: Annotated[int, Field(ge=0, le=50)] = 0


class MappingView(TypedDict):
    provider: str
    columns: AnyJson
    updated_by: str
    updated_at: Time


def mapping_view(mapping: StatementMapping) -> MappingView:
    return {
        "provider": mapping.provider,
        "columns": orjson.loads(mapping.columns),
        "updated_by": mapping.updated_by,
        "updated_at": rfc3339(mapping.updated_at_ms),
    }


@router.get("/admin/reconciliation/mappings", responses=answers(list[MappingView]))
async def list_mappings(request: Request, session: Reader) -> Response:
    """How each provider's statements are read."""
    found = await session.scalars(select(StatementMapping).order_by(StatementMapping.provider))
    return envelope(request, [mapping_view(mapping) for mapping in found])


@router.put("/admin/reconciliation/mappings/{provider}", responses=answers(MappingView))
async def save_mapping(
    request: Request, provider: Id, mapping: NewMapping, session: Session, actor: Acting
) -> Response:
    """Say how this provider's statements are read from now on. Statements that are in keep what they were read by."""
    columns = Columns(**mapping.model_dump())
    if columns.reference is None and columns.provider_reference is None:
        raise ValidationFailed("Name the column of our reference, or of the provider's.", field="reference")
    await service.save_mapping(session, provider, columns, by=_name(actor), now_ms=clock.now_ms())
    details = {"columns": asdict(columns)}
    await record(await statements(session), actor, "statement_mapping.saved", ("provider", provider), details=details)
    return envelope(request, mapping_view(await session.get_one(StatementMapping, provider)))


# Statements


class StatementFilters(Page):
    provider: Id | None = None
    day: Annotated[Day | None, Field(description="statements that are about this day")] = None


def _select_statements(asked: StatementFilters) -> Rows:
    query = matching(select(ProviderStatement), (ProviderStatement.provider, asked.provider))
    if asked.day is not None:
        query = query.where(ProviderStatement.day_from <= asked.day, ProviderStatement.day_to >= asked.day)
    return query


class StatementView(TypedDict):
    id: str
    provider: str
    day_from: str
    day_to: str
    file_name: str | None
    sha256: str
    size_bytes: int
    payments: int
    paid_amount: int
    fee_amount: int | None
    refunds: int
    refunded_amount: int
    matched: int
    imported_by: str
    imported_at: Time


def statement_view(statement: ProviderStatement) -> StatementView:
    return {
        "id": statement.id,
        "provider": statement.provider,
        "day_from": statement.day_from,
        "day_to": statement.day_to,
        "file_name": statement.file_name,
        "sha256": statement.sha256,
        "size_bytes": statement.size_bytes,
        "payments": statement.payments,
        "paid_amount": statement.paid_amount,
        "fee_amount": statement.fee_amount,
        "refunds": statement.refunds,
        "refunded_amount": statement.refunded_amount,
        "matched": statement.matched,
        "imported_by": statement.imported_by,
        "imported_at": rfc3339(statement.imported_at_ms),
    }


STATEMENTS = Listing(
    asked=StatementFilters, key=(ProviderStatement.id,), select=_select_statements, show=statement_view
)


@router.get("/admin/reconciliation/statements", responses=pages(StatementView))
async def list_statements(request: Request, session: Reader, asked: Annotated[StatementFilters, Query()]) -> Response:
    """Statements that were imported, newest first."""
    return await page(request, session, STATEMENTS, asked)


class DifferenceCount(TypedDict):
    kind: Annotated[str, among(DifferenceKind)]
    reason: Annotated[str, among(DifferenceReason)]
    status: Annotated[str, among(DifferenceState)]
    count: int


class WholeStatementView(StatementView):
    differences: list[DifferenceCount]


@router.get(
    "/admin/reconciliation/statements/{statement_id}", responses=answers(WholeStatementView) | problems(NotFound)
)
async def get_statement(request: Request, statement_id: Id, session: Reader) -> Response:
    """One statement, and how many differences of each kind it has."""
    statement = await session.get(ProviderStatement, statement_id)
    if statement is None:
        raise NotFound("No such statement.", statement_id=statement_id)
    return envelope(request, await _whole(session, statement))


async def _whole(session: Any, statement: ProviderStatement) -> WholeStatementView:
    counted = await session.execute(
        select(Difference.kind, Difference.reason, Difference.state, func.count())
        .where(Difference.statement_id == statement.id)
        .group_by(Difference.kind, Difference.reason, Difference.state)
        .order_by(Difference.kind, Difference.reason, Difference.state)
    )
    found: list[DifferenceCount] = [
        {"kind": kind, "reason": reason, "status": state, "count": count} for kind, reason, state, count in counted
    ]
    return {**statement_view(statement), "differences": found}


_IMPORTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "This file is in already", **answers(WholeStatementView)[200]},
    **answers(WholeStatementView, status=201),
    **problems(NotFound, FileRefused),
}


@router.post("/admin/reconciliation/statements", status_code=201, openapi_extra=_FILE, responses=_IMPORTED)
async def import_statement(
    request: Request,
    actor: Acting,
    provider: Annotated[Id, Query(examples=["sandbox"])],
    day_from: Annotated[Day, Query()],
    day_to: Annotated[Day | None, Query(description="as day_from without it")] = None,
    file_name: Annotated[FileName | None, Query()] = None,
) -> Response:
    """Import a provider's statement as CSV, at most 16 MiB and 50,000 lines: all of it, or nothing and every mistake
    by its line. It is compared with our books at once. The same file again is answered with what it led to before."""
    _require_csv(request)
    if day_to is not None and day_to < day_from:
        raise ValidationFailed("The last day comes before the first.", field="day_to")
    database: db.Database = request.app.state.database
    async with db.reading(database) as session:
        columns = await service.columns_of(session, provider)
    with tempfile.TemporaryFile() as file:
        sha256, size_bytes = await _receive(request, file)
        await asyncio.to_thread(reading.check, file, columns)
        upload = service.Upload(
            provider=provider, day_from=day_from, day_to=day_to or day_from, file_name=file_name, sha256=sha256,
            size_bytes=size_bytes,
        )  # fmt: skip
        async with db.transaction(database) as session:
            statement, new = await service.import_statement(
                session, upload, file, columns, by=_name(actor), now_ms=clock.now_ms()
            )
            if new:
                details = {"provider": provider, "sha256": sha256, "day_from": day_from, "day_to": upload.day_to}
                subject = ("statement", statement.id)
                await record(await statements(session), actor, "statement.imported", subject, details=details)
            return envelope(request, await _whole(session, statement), status=201 if new else 200)


def _require_csv(request: Request) -> None:
    said = request.headers.get("content-type", "text/csv").partition(";")[0].strip().lower()
    if said not in _CSV_TYPES:
        raise UnsupportedMediaType("Send the file itself as text/csv.", content_type=said)


async def _receive(request: Request, file: BinaryIO) -> tuple[str, int]:
    """The body into the file as it comes; its SHA-256 and its length."""
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_FILE:
            raise BodyTooLarge(f"The body is longer than {LARGEST_FILE} bytes.")
        digest.update(part)
        await asyncio.to_thread(file.write, part)
    return digest.hexdigest(), size


# Differences


class DifferenceFilters(Page):
    status: DifferenceState | None = None
    kind: DifferenceKind | None = None
    reason: DifferenceReason | None = None
    provider: Id | None = None
    statement_id: Id | None = None
    transaction_id: Id | None = None
    day_from: Day | None = None
    day_to: Day | None = None


def _select_differences(asked: DifferenceFilters) -> Rows:
    query = matching(
        select(Difference),
        (Difference.state, asked.status), (Difference.kind, asked.kind), (Difference.reason, asked.reason),
        (Difference.provider, asked.provider), (Difference.statement_id, asked.statement_id),
        (Difference.payment_id, asked.transaction_id),
    )  # fmt: skip
    if asked.day_from is not None:
        query = query.where(Difference.day >= asked.day_from)
    if asked.day_to is not None:
        query = query.where(Difference.day <= asked.day_to)
    return query


class DifferenceView(TypedDict):
    id: str
    statement_id: str
    provider: str
    day: str
    kind: Annotated[str, among(DifferenceKind)]
    reason: Annotated[str, among(DifferenceReason)]
    line: int | None
    reference: str | None
    transaction_id: str | None
    refund_id: str | None
    our_amount: int | None
    their_amount: int | None
    status: Annotated[str, among(DifferenceState)]
    settlement: Annotated[str | None, Field(examples=["corrected_by_provider"])]
    note: str | None
    settled_by: str | None
    created_at: Time
    ended_at: Time | None


def difference_view(difference: Difference) -> DifferenceView:
    return {
        "id": difference.id,
        "statement_id": difference.statement_id,
        "provider": difference.provider,
        "day": difference.day,
        "kind": difference.kind,
        "reason": difference.reason,
        "line": difference.line,
        "reference": difference.reference,
        "transaction_id": difference.payment_id,
        "refund_id": difference.refund_id,
        "our_amount": difference.our_amount,
        "their_amount": difference.their_amount,
        "status": difference.state,
        "settlement": difference.settlement,
        "note": difference.note,
        "settled_by": difference.settled_by,
        "created_at": rfc3339(difference.created_at_ms),
        "ended_at": rfc3339_or_none(difference.ended_at_ms),
    }


_DIFFERENCE_COLUMNS = (
    "id", "day", "provider", "kind", "reason", "status", "reference", "transaction_id", "refund_id", "our_amount",
    "their_amount", "statement_id", "line", "settlement", "note", "settled_by", "created_at", "ended_at",
)  # fmt: skip
DIFFERENCES = Listing(
    asked=DifferenceFilters, key=(Difference.id,), select=_select_differences, show=difference_view,
    columns=_DIFFERENCE_COLUMNS,
)  # fmt: skip


@router.get("/admin/reconciliation/differences", responses=pages(DifferenceView))
async def list_differences(request: Request, session: Reader, asked: Annotated[DifferenceFilters, Query()]) -> Response:
    """Where statements and our books disagree, newest first. Of a missing one nothing is theirs, of an extra one
    nothing is ours; where the fee differs, the amounts are fees."""
    return await page(request, session, DIFFERENCES, asked)


class Settled(Body):
    settlement: Annotated[
        Literal["corrected_by_provider", "corrected_here", "written_off"], Field(examples=["corrected_by_provider"])
    ]
    reason: Reason


@router.post(
    "/admin/reconciliation/differences/{difference_id}/settle",
    responses=answers(DifferenceView) | problems(NotFound, IllegalTransition),
)
async def settle_difference(
    request: Request, difference_id: Id, settled: Settled, session: Session, actor: Acting
) -> Response:
    """Say how a difference was settled, and why. It moves no money: that is done at the transaction itself."""
    difference = await service.settle(
        session, difference_id, Settlement(settled.settlement), note=settled.reason, by=_name(actor),
        now_ms=clock.now_ms(),
    )  # fmt: skip
    details = {"settlement": settled.settlement, "reason": settled.reason}
    subject = ("difference", difference_id)
    await record(await statements(session), actor, "difference.settled", subject, details=details)
    return envelope(request, difference_view(difference))


# Reports


class ProviderDayView(TypedDict):
    provider: str
    payments: int
    gross_amount: int
    fee_amount: int
    refunds: int
    refunded_amount: int
    reversals: int
    reversed_amount: int
    fee_returned: int
    statements: list[str]
    missing: int
    extra: int
    different: int
    open: int
    status: Literal["no_statement", "differences", "settled"]


class DayView(TypedDict):
    day: str
    status: Literal["no_statement", "differences", "settled"]
    providers: list[ProviderDayView]
    ledger_findings: int | None


@router.get("/admin/reconciliation/report", responses=answers(DayView))
async def day_report(request: Request, session: Reader, day: Annotated[Day, Query()]) -> Response:
    """The day at its end: what each provider took, what its statements say, and what is still open. `ledger_findings`
    are those of the night after, and null until then."""
    return envelope(request, await report.of_day(await statements(session), day))


class TotalsFilters(Page):
    cursor: str | None = Field(
        None, pattern=r"^(~[A-Za-z0-9_.:-]{1,64}){3}$", description="next_cursor of the page before"
    )
    provider: Id | None = None
    merchant_id: Id | None = None
    day_from: Day | None = None
    day_to: Day | None = None


def _select_totals(asked: TotalsFilters) -> Rows:
    named = (DailyRevenue.day, DailyRevenue.provider, DailyRevenue.merchant_id)
    sums = (func.sum(getattr(DailyRevenue, name)).label(name) for name in SUMS)
    query = matching(
        select(*named, *sums), (DailyRevenue.provider, asked.provider), (DailyRevenue.merchant_id, asked.merchant_id)
    )
    if asked.day_from is not None:
        query = query.where(DailyRevenue.day >= asked.day_from)
    if asked.day_to is not None:
        query = query.where(DailyRevenue.day <= asked.day_to)
    return query.group_by(*named)


class TotalsView(TypedDict):
    day: str
    provider: str
    merchant_id: str
    payments: int
    gross_amount: int
    fee_amount: int
    refunds: int
    refunded_amount: int
    reversals: int
    reversed_amount: int
    fee_returned: int


def totals_view(day: str, provider: str, merchant_id: str, *sums: int) -> Mapping[str, object]:
    return {
        "day": day,
        "provider": provider,
        "merchant_id": merchant_id,
        **{name: int(total) for name, total in zip(SUMS, sums, strict=True)},
    }


TOTALS = Listing(
    asked=TotalsFilters, key=(DailyRevenue.day, DailyRevenue.provider, DailyRevenue.merchant_id),
    select=_select_totals, show=totals_view, columns=("day", "provider", "merchant_id", *SUMS),
)  # fmt: skip


@router.get("/admin/reconciliation/totals", responses=pages(TotalsView))
async def list_totals(request: Request, session: Reader, asked: Annotated[TotalsFilters, Query()]) -> Response:
    """What each merchant took through each provider on each day in Jakarta, newest first; `cash` stands for none."""
    return await page(request, session, TOTALS, asked)


class LedgerCheckFilters(Page):
    pass


class LedgerCheckView(TypedDict):
    day: str
    started_at: Time
    finished_at: Time | None
    findings: int | None
    first: AnyJson


def ledger_check_view(checked: LedgerCheck) -> LedgerCheckView:
    return {
        "day": checked.day,
        "started_at": rfc3339(checked.started_at_ms),
        "finished_at": rfc3339_or_none(checked.finished_at_ms),
        "findings": checked.findings,
        "first": orjson.loads(checked.report) if checked.report is not None else [],
    }


def _select_checks(asked: LedgerCheckFilters) -> Rows:
    return select(LedgerCheck)


LEDGER_CHECKS = Listing(asked=LedgerCheckFilters, key=(LedgerCheck.day,), select=_select_checks, show=ledger_check_view)


@router.get("/admin/reconciliation/ledger-checks", responses=pages(LedgerCheckView))
async def list_ledger_checks(
    request: Request, session: Reader, asked: Annotated[LedgerCheckFilters, Query()]
) -> Response:
    """The nightly comparisons of the ledger with what payments say, newest first, with the first findings of each."""
    return await page(request, session, LEDGER_CHECKS, asked)


def _name(actor: Actor) -> str:
    assert actor.id is not None  # whoever passed a door that asks for a role has an id
    return actor.id
