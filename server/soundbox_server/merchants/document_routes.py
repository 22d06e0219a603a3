"""Operators' doors to the papers that merchants show."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import ConfigDict, Field, JsonValue, StringConstraints
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock, db
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import answers
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import statements
from soundbox_server.errors import IllegalTransition, NotFound
from soundbox_server.fields import Body, Code, Id, Reason
from soundbox_server.http import Reader, Session, envelope, problems, read_body
from soundbox_server.merchants import documents
from soundbox_server.merchants.models import Merchant, MerchantDocument
from soundbox_server.merchants.state import DocumentState
from soundbox_server.merchants.views import DocumentView, document_view

router = APIRouter(tags=["operators"])

DocumentType = Annotated[Code, Field(examples=["identity_card"])]
DocumentUrl = Annotated[str, StringConstraints(pattern=r"^https://[!-~]{3,500}$")]
_FILES = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in documents.SUFFIXES}
_SENT: dict[str, Any] = {"requestBody": {"required": True, "content": _FILES}}
_A_FILE: dict[int | str, dict[str, Any]] = {200: {"description": "The file", "content": _FILES}}


class NewDocument(Body):
    document_type: DocumentType
    document_url: Annotated[
        DocumentUrl,
        Field(description="where staff can look at it; never opened by us", examples=["https://papers.test/1"]),
    ]


@router.post("/admin/merchants/{merchant_id}/documents", status_code=201, responses=answers(DocumentView, status=201))
async def show_document(
    request: Request, merchant_id: Id, wanted: NewDocument, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """A paper that lies elsewhere, by its address."""

    async def show() -> Response:
        document = await documents.show(
            session, merchant_id, document_type=wanted.document_type, document_url=wanted.document_url, by=actor.id,
            now_ms=clock.now_ms(),
        )  # fmt: skip
        return await _shown(request, session, actor, document)

    return await once.answer(await statements(session), show)


@router.post(
    "/admin/merchants/{merchant_id}/documents/file",
    status_code=201,
    openapi_extra=_SENT,
    responses=answers(DocumentView, status=201),
)
async def upload_document(
    request: Request, merchant_id: Id, document_type: Annotated[DocumentType, Query()], actor: Acting
) -> Response:
    """A paper as a file: PDF, JPEG or PNG of at most 5 MiB, as the request's body."""
    async with db.reading(request.app.state.database) as session:  # before the disk is touched
        await _require_merchant(session, merchant_id)
    content = await read_body(request, limit=documents.LARGEST_FILE)
    media_type = documents.media_type_of(content)
    sha256 = await asyncio.to_thread(documents.store_file, request.app.state.documents_folder, content)
    async with db.transaction(request.app.state.database) as session:
        document = await documents.show(
            session, merchant_id, document_type=document_type, sha256=sha256, media_type=media_type,
            size_bytes=len(content), by=actor.id, now_ms=clock.now_ms(),
        )  # fmt: skip
        return await _shown(request, session, actor, document)


async def _shown(request: Request, session: AsyncSession, actor: Actor, document: MerchantDocument) -> Response:
    facts = {
        "document_id": document.id, "document_type": document.document_type, "document_url": document.document_url,
        "sha256": document.sha256,
    }  # fmt: skip
    subject = ("merchant", document.merchant_id)
    await record(await statements(session), actor, "merchant.document_shown", subject, details=facts)
    return envelope(request, document_view(document), status=201)


@router.get("/admin/merchants/{merchant_id}/documents", responses=answers(list[DocumentView]))
async def list_documents(request: Request, merchant_id: Id, session: Reader) -> Response:
    """A merchant's papers, oldest first."""
    await _require_merchant(session, merchant_id)
    found = await session.scalars(
        select(MerchantDocument).where(MerchantDocument.merchant_id == merchant_id).order_by(MerchantDocument.id)
    )
    return envelope(request, [document_view(document) for document in found])


async def _require_merchant(session: AsyncSession, merchant_id: str) -> None:
    if await session.get(Merchant, merchant_id) is None:
        raise NotFound("No such merchant.", merchant_id=merchant_id)


_BECAUSE: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"verification_status": {"const": "verified"}}},
        {"properties": {"reason": {"type": "string"}}, "required": ["reason"]},
    ]
}


class Verdict(Body):
    model_config = ConfigDict(json_schema_extra=_BECAUSE)

    verification_status: Annotated[Literal["verified", "refused"], Field(examples=["verified"])]
    reason: Reason | None = None


@router.patch(
    "/admin/merchants/{merchant_id}/documents/{document_id}",
    responses=answers(DocumentView) | problems(IllegalTransition),
)
async def check_document(
    request: Request, merchant_id: Id, document_id: Id, verdict: Verdict, session: Session, actor: Acting
) -> Response:
    """Somebody looked at it: verified, or refused with a reason."""
    wanted = DocumentState(verdict.verification_status)
    document = await documents.check(
        session, merchant_id, document_id, wanted, reason=verdict.reason, by=actor.id, now_ms=clock.now_ms()
    )
    details: dict[str, Any] = {"document_id": document_id, "reason": verdict.reason, "sha256": document.sha256}
    subject = ("merchant", merchant_id)
    await record(await statements(session), actor, f"merchant.document_{wanted.value}", subject, details=details)
    return envelope(request, document_view(document))


@router.get(
    "/admin/merchants/{merchant_id}/documents/{document_id}/file", response_class=FileResponse, responses=_A_FILE
)
async def get_document_file(
    request: Request, merchant_id: Id, document_id: Id, session: Session, actor: Acting
) -> Response:
    """The file itself, to be saved and not shown: it came from outside. Who fetched it is written down."""
    document = await documents.find(session, merchant_id, document_id)
    if document.sha256 is None or document.media_type is None:
        raise NotFound("This document is an address, not a file.", document_url=document.document_url)
    path = request.app.state.documents_folder / document.sha256
    if not await asyncio.to_thread(path.is_file):
        raise NotFound("The file is not on this machine.", document_id=document_id)
    subject = ("merchant", merchant_id)
    details = {"document_id": document_id}
    await record(await statements(session), actor, "merchant.document_fetched", subject, details=details)
    return FileResponse(
        path,
        media_type=document.media_type,
        filename=f"{document_id}.{documents.SUFFIXES[document.media_type]}",
        headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"},
    )
