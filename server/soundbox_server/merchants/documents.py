"""The papers a merchant showed. A file is stored under its own hash, so that it cannot be changed unseen and two alike
are one; its kind is read from its first bytes, whatever its sender calls it."""

import hashlib
import os
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.db import KEY_STAYS
from soundbox_server.errors import NotFound, ValidationFailed
from soundbox_server.files import sync_folder
from soundbox_server.ids import new_id
from soundbox_server.merchants.models import MerchantDocument
from soundbox_server.merchants.service import lock
from soundbox_server.merchants.state import DocumentState, require_document

LARGEST_FILE = 5 * 1024 * 1024
_MAGIC = {b"%PDF-": "application/pdf", b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
SUFFIXES = {"application/pdf": "pdf", "image/jpeg": "jpg", "image/png": "png"}


def media_type_of(content: bytes) -> str:
    """PDF, JPEG or PNG. Raises ValidationFailed for anything else."""
    for magic, media_type in _MAGIC.items():
        if content.startswith(magic):
            return media_type
    raise ValidationFailed("Only PDF, JPEG and PNG files are taken.", field="file")


def store_file(folder: Path, content: bytes) -> str:
    """Write the file once and durably; returns its SHA-256, which is its name. Blocks: run it in a thread."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / sha256
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = folder / f".{sha256}.{new_id('tmp')}"
        unfinished.touch(mode=0o600, exist_ok=False)
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(folder)
    return sha256


async def show(
    session: AsyncSession,
    merchant_id: str,
    *,
    document_type: str,
    by: str | None,
    now_ms: int,
    document_url: str | None = None,
    sha256: str | None = None,
    media_type: str | None = None,
    size_bytes: int | None = None,
) -> MerchantDocument:
    """A merchant shows a paper: an address or a stored file. Raises NotFound."""
    await lock(session, merchant_id)
    document = MerchantDocument(
        id=new_id("doc"), merchant_id=merchant_id, document_type=document_type, document_url=document_url,
        sha256=sha256, media_type=media_type, size_bytes=size_bytes, shown_by=by, created_at_ms=now_ms,
        verification_status=DocumentState.PENDING.value,
    )  # fmt: skip
    session.add(document)
    await session.flush()
    return document


async def find(session: AsyncSession, merchant_id: str, document_id: str, *, locked: bool = False) -> MerchantDocument:
    """Raises NotFound, also for another merchant's."""
    document = await session.get(MerchantDocument, document_id, with_for_update=KEY_STAYS if locked else None)
    if document is None or document.merchant_id != merchant_id:
        raise NotFound("No such document of this merchant.", document_id=document_id)
    return document


async def check(
    session: AsyncSession,
    merchant_id: str,
    document_id: str,
    wanted: DocumentState,
    *,
    reason: str | None,
    by: str | None,
    now_ms: int,
) -> MerchantDocument:
    """Verified or refused. Raises IllegalTransition, or ValidationFailed for a refusal without a reason."""
    if wanted is DocumentState.REFUSED and reason is None:
        raise ValidationFailed("Say why the document is refused.", field="reason")
    document = await find(session, merchant_id, document_id, locked=True)
    document.verification_status = require_document(document.verification_status, wanted)
    document.reason, document.checked_by, document.checked_at_ms = reason, by, now_ms
    return document
