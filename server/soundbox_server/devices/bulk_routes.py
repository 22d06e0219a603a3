"""The door that takes a file of boxes and hands out their activation codes."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from soundbox_protocol.times import from_rfc3339
from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import Time, TypedDict, answers
from soundbox_server.audit import service as audit
from soundbox_server.audit.service import Actor
from soundbox_server.clock import rfc3339
from soundbox_server.db import Statements
from soundbox_server.devices import bulk, sheet
from soundbox_server.devices.bulk import FileRefused, NewBox, Registered
from soundbox_server.devices.provisioning_routes import unstored
from soundbox_server.errors import UnsupportedMediaType
from soundbox_server.http import envelope, problems, read_body
from soundbox_server.idempotency import REPLAYED
from soundbox_server.ids import new_id

router = APIRouter()

LARGEST_FILE = 2 * 1024 * 1024
_CSV_TYPES = ("text/csv", "application/csv", "text/plain", "application/vnd.ms-excel")
_EXAMPLE = "serial_number,vendor,model,device_id,label\nSBX-2026-000001,native,sbx-1,sbx_001,Warung Sari\n"
_FILE = {
    "requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}, "example": _EXAMPLE}}}
}


class RegisteredView(TypedDict):
    id: str
    serial_number: str
    vendor: str
    model: str
    label: str | None
    activation_code: str
    expires_at: Time


class BatchView(TypedDict):
    batch_id: str
    count: int
    devices: list[RegisteredView]


class DryRunView(TypedDict):
    dry_run: bool
    count: int


_ANSWERS: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Registered. The codes are shown this once, in the form that Accept asks for.",
        "content": {"text/csv": {"schema": {"type": "string"}}, "text/html": {"schema": {"type": "string"}}},
        **answers(BatchView, status=201)[201],
    },
    200: {
        "description": "dry_run: nothing was registered, and nothing stands in the way.",
        **answers(DryRunView)[200],
    },
    **problems(FileRefused),
}  # fmt: skip


@router.post("/admin/devices/bulk", tags=["operators"], status_code=201, openapi_extra=_FILE, responses=_ANSWERS)
async def register_many(
    request: Request,
    actor: Acting,
    once: AskedOnce,
    dry_run: Annotated[bool, Query(description="only say what is wrong with the file")] = False,
    accept: Annotated[str, Header(description="application/json, text/csv or text/html")] = "application/json",
) -> Response:
    """Register up to 5,000 boxes from a CSV file of at most 2 MiB: all of them, or none and every mistake by its line.

    The first line names the columns: serial_number, and as wanted vendor, model, device_id, label. The activation codes
    live 24 hours and are shown only in this answer: as JSON, as CSV, or (up to 500 boxes) as a sheet of cards to print.
    With an Idempotency-Key the same file may be sent again, for the same codes in any of these forms.
    """
    _require_csv(request)
    form = _form(accept)
    boxes = await asyncio.to_thread(bulk.read_boxes, await read_body(request, limit=LARGEST_FILE))
    if form == "text/html" and len(boxes) > sheet.MOST_CARDS:
        message = f"A sheet has at most {sheet.MOST_CARDS} cards: split the file, or take CSV."
        raise FileRefused([bulk.mistake(boxes[sheet.MOST_CARDS].line, None, "TOO_MANY_CARDS", message)])
    database, now_ms = request.app.state.database, clock.now_ms()
    if dry_run:
        if found := await database.read(lambda tx: bulk.known_already(tx, boxes)):
            raise FileRefused(found)
        return envelope(request, {"dry_run": True, "count": len(boxes)})

    async def work(tx: Statements) -> Response:
        return await once.answer(tx, partial(_register, request, tx, boxes, actor, now_ms=now_ms))

    return unstored(await _written(await database.write(work), form))


async def _register(
    request: Request, tx: Statements, boxes: Sequence[NewBox], actor: Actor, *, now_ms: int
) -> Response:
    """All boxes with their codes as JSON: what is kept for whoever asks again, and the other forms are made of."""
    batch_id = new_id("bat")
    registered = await bulk.register_all(tx, boxes, batch_id=batch_id, now_ms=now_ms)
    details = {"count": len(registered), "serial_numbers": _first_and_last(boxes)}
    await audit.record(tx, actor, "device.registered_in_bulk", ("device_batch", batch_id), details=details)
    data = {"batch_id": batch_id, "count": len(registered), "devices": [_device(box) for box in registered]}
    return envelope(request, data, status=201)


def _require_csv(request: Request) -> None:
    said = request.headers.get("content-type", "text/csv").partition(";")[0].strip().lower()
    if said not in _CSV_TYPES:
        raise UnsupportedMediaType("Send the file itself as text/csv.", content_type=said)


def _form(accept: str) -> str:
    """The first of our three forms that is asked for; JSON for everybody else."""
    asked = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return next((kind for kind in asked if kind in ("application/json", "text/csv", "text/html")), "application/json")


def _first_and_last(boxes: Sequence[NewBox]) -> list[str]:
    serials = sorted(box.serial_number for box in boxes)
    return [serials[0], serials[-1]]


async def _written(response: Response, form: str) -> Response:
    """The answer in the form that was asked for. It is made after the commit: a sheet of cards takes seconds."""
    if form == "application/json":
        return response
    data = orjson.loads(response.body)["data"]
    boxes, batch_id = [_box(one) for one in data["devices"]], data["batch_id"]
    headers = {"x-content-type-options": "nosniff"}
    if REPLAYED in response.headers:
        headers[REPLAYED] = response.headers[REPLAYED]
    if form == "text/csv":
        headers["content-disposition"] = f'attachment; filename="{batch_id}.csv"'
        text = sheet.csv_text(boxes)
    else:
        headers["content-security-policy"] = sheet.CONTENT_SECURITY_POLICY
        text = await asyncio.to_thread(sheet.html_sheet, boxes, batch_id=batch_id)
    return Response(text, 201, headers, media_type=form)


def _device(box: Registered) -> RegisteredView:
    return {
        "id": box.device_id,
        "serial_number": box.serial_number,
        "vendor": box.vendor,
        "model": box.model,
        "label": box.label,
        "activation_code": box.activation_code,
        "expires_at": rfc3339(box.expires_at_ms),
    }


def _box(shown: dict[str, Any]) -> Registered:
    """What `_device` showed, read again."""
    return Registered(
        device_id=shown["id"],
        serial_number=shown["serial_number"],
        vendor=shown["vendor"],
        model=shown["model"],
        label=shown["label"],
        activation_code=shown["activation_code"],
        expires_at_ms=from_rfc3339(shown["expires_at"]),
    )
