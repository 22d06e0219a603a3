"""Operators' doors to QR that hang at terminals, and to the pictures of any QR that can be paid."""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import Time, TypedDict, among, answers, pages
from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import statements
from soundbox_server.errors import (
    Conflict,
    GatewayError,
    IllegalTransition,
    NotFound,
    PartnerTimeout,
    QrNotAccepted,
    TransactionNotFound,
)
from soundbox_server.fields import Body, Id, Moment
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.idempotency import Once
from soundbox_server.ids import new_id
from soundbox_server.merchants.models import Merchant
from soundbox_server.paging import Listing, Page, Rows, between, matching, page
from soundbox_server.payments import pictures, qris, static_qr
from soundbox_server.payments.models import Payment, PaymentAttempt, StaticQr
from soundbox_server.payments.pictures import Form
from soundbox_server.payments.state import OPEN, StaticQrKind, StaticQrState
from soundbox_server.payments.static_qr import Sticker
from soundbox_server.providers.base import MerchantIdentity, StaticIssuer

router = APIRouter(tags=["operators"])

ProviderReference = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,128}$")]


class NewStaticQr(Body):
    """A QR as its provider issued it."""

    provider: Annotated[Id, Field(examples=["acme"], description="who will tell of its payments")]
    partner_reference: Annotated[
        ProviderReference, Field(examples=["till-77"], description="what the provider calls it in callbacks")
    ]
    qr_payload: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,512}$")] = Field(
        examples=["00020101021126..."], description="its text: a static QRIS of this merchant's, without an amount"
    )
    provider_reference: ProviderReference | None = Field(
        None, description="the provider's own id of the QR, where its callbacks repeat it as the transaction's"
    )
    another_name: bool = Field(False, description="somebody looked: the name printed on it is this merchant's too")


class StaticQrFilters(Page):
    merchant_id: Id | None = None
    terminal_id: Id | None = None
    provider: Id | None = None
    kind: StaticQrKind | None = None
    status: StaticQrState | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None


class StaticQrView(TypedDict):
    id: str
    merchant_id: str
    terminal_id: str
    provider: str
    partner_reference: str
    provider_reference: str | None
    kind: Annotated[str, among(StaticQrKind)]
    status: Annotated[str, among(StaticQrState)]
    qr_payload: str | None
    merchant_name: str | None
    nmid: str | None
    created_at: Time
    retired_at: Time | None


def static_qr_view(found: StaticQr) -> StaticQrView:
    printed = qris.decode(found.qr_payload).qris if found.qr_payload else None
    return {
        "id": found.id,
        "merchant_id": found.merchant_id,
        "terminal_id": found.terminal_id,
        "provider": found.provider,
        "partner_reference": found.partner_reference,
        "provider_reference": found.provider_reference,
        "kind": found.kind,
        "status": found.state,
        "qr_payload": found.qr_payload,
        "merchant_name": printed.merchant_name if printed else None,
        "nmid": printed.nmid if printed else None,
        "created_at": rfc3339(found.created_at_ms),
        "retired_at": rfc3339_or_none(found.retired_at_ms),
    }


def _select(asked: StaticQrFilters) -> Rows:
    query = matching(
        select(StaticQr),
        (StaticQr.merchant_id, asked.merchant_id), (StaticQr.terminal_id, asked.terminal_id),
        (StaticQr.provider, asked.provider), (StaticQr.kind, asked.kind), (StaticQr.state, asked.status),
    )  # fmt: skip
    return between(
        query, at=StaticQr.created_at_ms, id_=StaticQr.id, prefix="sqr",
        from_ms=asked.created_from, to_ms=asked.created_to,
    )  # fmt: skip


STATIC_QRS = Listing(asked=StaticQrFilters, key=(StaticQr.id,), select=_select, show=static_qr_view)


@router.post(
    "/admin/terminals/{terminal_id}/static-qrs",
    status_code=201,
    responses=answers(StaticQrView, status=201) | problems(Conflict, QrNotAccepted),
)
async def put_up_static_qr(
    request: Request, terminal_id: Id, wanted: NewStaticQr, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """Payments by this QR are heard at the terminal from now on. A transfer's QR is taken too, and says so in `kind`:
    what comes by it is no sale, is never announced, and waits for an operator."""
    sticker = Sticker(**wanted.model_dump())
    return await _put_up(request, session, terminal_id, sticker, actor, once)


@router.post(
    "/admin/terminals/{terminal_id}/static-qrs/issue", status_code=201,
    responses=answers(StaticQrView, status=201) | problems(Conflict, QrNotAccepted, GatewayError, PartnerTimeout),
)  # fmt: skip
async def issue_static_qr(request: Request, terminal_id: Id, actor: Acting, once: AskedOnce) -> Response:
    """Let the provider issue a QR for the terminal, and put it up."""
    issuer: StaticIssuer | None = request.app.state.static_issuer
    database = request.app.state.database
    async with db.reading(database) as session:
        _, merchant = await static_qr.place_of(session, terminal_id)
    if issuer is None:
        raise Conflict("The provider issues no static QR over its API: put up one that it gave you.")
    issued = await issuer.issue_static(_reference(once), _identity(merchant))
    sticker = Sticker(
        provider=issued.provider,
        partner_reference=issued.reference,
        qr_payload=issued.qr_payload,
        provider_reference=issued.provider_reference,
        another_name=True,  # as the provider writes it
    )
    async with db.transaction(database) as session:
        return await _put_up(request, session, terminal_id, sticker, actor, once)


def _reference(once: Once) -> str:
    """A request that is repeated asks for the same QR."""
    if once.key is None:
        return new_id("stq")
    return "stq_" + hashlib.sha256(" ".join(once.row).encode()).hexdigest()[:32]


def _identity(merchant: Merchant) -> MerchantIdentity:
    return MerchantIdentity(
        merchant_id=merchant.merchant_code,
        name=merchant.brand_name,
        city=merchant.city or "",  # an approved merchant has them all
        postal_code=merchant.postal_code or "",
        mcc=merchant.mcc or "",
        criteria=merchant.criteria or "",
        nmid=merchant.nmid,
    )


async def _put_up(
    request: Request, session: AsyncSession, terminal_id: str, sticker: Sticker, actor: Actor, once: Once
) -> Response:
    async def put_up() -> Response:
        providers = request.app.state.callback_desk.partners
        found = await static_qr.put_up(session, terminal_id, sticker, providers=providers, now_ms=clock.now_ms())
        details = {
            "terminal_id": terminal_id, "provider": found.provider, "partner_reference": found.partner_reference,
            "kind": found.kind, "another_name": sticker.another_name,
        }  # fmt: skip
        await record(await statements(session), actor, "static_qr.put_up", ("static_qr", found.id), details=details)
        return envelope(request, static_qr_view(found), status=201)

    return await once.answer(await statements(session), put_up)


@router.get("/admin/static-qrs", responses=pages(StaticQrView))
async def list_static_qrs(request: Request, session: Reader, asked: Annotated[StaticQrFilters, Query()]) -> Response:
    """QR that hang or hung at terminals, newest first."""
    return await page(request, session, STATIC_QRS, asked)


@router.get("/admin/static-qrs/{static_qr_id}", responses=answers(StaticQrView))
async def get_static_qr(request: Request, static_qr_id: Id, session: Reader) -> Response:
    return envelope(request, static_qr_view(await _static_qr(session, static_qr_id)))


@router.post("/admin/static-qrs/{static_qr_id}/retire", responses=answers(StaticQrView) | problems(IllegalTransition))
async def retire_static_qr(
    request: Request, static_qr_id: Id, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """The sticker came off. Money that still comes by it is kept apart for an operator."""

    async def retire() -> Response:
        found = await static_qr.retire(session, static_qr_id, now_ms=clock.now_ms())
        await record(await statements(session), actor, "static_qr.retired", ("static_qr", static_qr_id))
        return envelope(request, static_qr_view(found))

    return await once.answer(await statements(session), retire)


# Pictures

Size = Annotated[
    int, Query(alias="size", ge=pictures.SMALLEST_PX, le=pictures.LARGEST_PX, description="pixels a side, at most")
]
IfNoneMatch = Annotated[str | None, Header(description="the ETag of the picture that is there already")]


def drawn(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What a door of pictures answers, for its description."""
    picture = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": "The picture", "content": picture},
        304: {"description": "The same picture as before"},
        **problems(Conflict),
    }


@router.get("/admin/static-qrs/{static_qr_id}/qr.png", response_class=Response, responses=drawn("image/png"))
async def static_qr_as_png(
    static_qr_id: Id, session: Reader, size: Size = pictures.USUAL_PX, if_none_match: IfNoneMatch = None
) -> Response:
    """What hangs at the terminal, to be printed."""
    return await show_picture(await _hanging_payload(session, static_qr_id), "png", size, if_none_match)


@router.get("/admin/static-qrs/{static_qr_id}/qr.svg", response_class=Response, responses=drawn("image/svg+xml"))
async def static_qr_as_svg(
    static_qr_id: Id, session: Reader, size: Size = pictures.USUAL_PX, if_none_match: IfNoneMatch = None
) -> Response:
    """What hangs at the terminal, to be printed."""
    return await show_picture(await _hanging_payload(session, static_qr_id), "svg", size, if_none_match)


@router.get("/admin/transactions/{transaction_id}/qr.png", response_class=Response, responses=drawn("image/png"))
async def transaction_qr_as_png(
    transaction_id: Id, session: Reader, size: Size = pictures.USUAL_PX, if_none_match: IfNoneMatch = None
) -> Response:
    """The QR of a transaction that waits to be paid."""
    return await show_picture(await waiting_payload(session, transaction_id), "png", size, if_none_match)


@router.get("/admin/transactions/{transaction_id}/qr.svg", response_class=Response, responses=drawn("image/svg+xml"))
async def transaction_qr_as_svg(
    transaction_id: Id, session: Reader, size: Size = pictures.USUAL_PX, if_none_match: IfNoneMatch = None
) -> Response:
    """The QR of a transaction that waits to be paid."""
    return await show_picture(await waiting_payload(session, transaction_id), "svg", size, if_none_match)


async def show_picture(payload: str, form: Form, size_px: int, known: str | None) -> Response:
    """The picture of this payload, or that it is still the `known` one."""
    drawn = await pictures.picture(payload, form, size_px=size_px)
    headers = {
        "ETag": drawn.etag,
        "Cache-Control": "private, no-cache",  # kept, but asked about: what it shows may have ended
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'",
    }
    if known is not None and drawn.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(drawn.content, media_type=drawn.media_type, headers=headers)


async def _static_qr(session: AsyncSession, static_qr_id: str) -> StaticQr:
    found = await session.get(StaticQr, static_qr_id)
    if found is None:
        raise NotFound("No such static QR.", static_qr_id=static_qr_id)
    return found


async def _hanging_payload(session: AsyncSession, static_qr_id: str) -> str:
    """Raises NotFound where only the QR's name is known, Conflict for one that should not be scanned any more."""
    found = await _static_qr(session, static_qr_id)
    if found.qr_payload is None:
        raise NotFound("The text of this QR is not known here.", static_qr_id=static_qr_id)
    if found.state != StaticQrState.ACTIVE:
        raise Conflict("This QR was retired.", status=found.state)
    return found.qr_payload


async def waiting_payload(session: AsyncSession, transaction_id: str) -> str:
    """Raises TransactionNotFound, NotFound without a QR, Conflict for one that should not be scanned any more."""
    payment = await session.get(Payment, transaction_id)
    if payment is None:
        raise TransactionNotFound("No such transaction.", transaction_id=transaction_id)
    if payment.state not in OPEN or payment.expires_at_ms <= clock.now_ms():
        raise Conflict("This transaction does not wait to be paid.", status=payment.state)
    payload = await session.scalar(
        select(PaymentAttempt.qr_payload).where(PaymentAttempt.payment_id == transaction_id)
        .order_by(PaymentAttempt.number.desc()).limit(1)
    )  # fmt: skip
    if payload is None:
        raise NotFound("This transaction has no QR.", transaction_id=transaction_id)
    return payload
