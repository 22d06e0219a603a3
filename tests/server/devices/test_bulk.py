"""A file of boxes: all of them or none, every mistake by line and column, and the codes in three forms."""

import asyncio
import base64
import csv
import hashlib
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.hub import Hub, open_hub
from support.shop import NOW, rows

from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.devices import bulk
from soundbox_server.devices import service as devices
from soundbox_server.devices.bulk import MOST_ROWS, FileRefused, Registered, read_boxes
from soundbox_server.devices.sheet import CONTENT_SECURITY_POLICY, csv_text, html_sheet

PATH = "/admin/devices/bulk"
FILE = (
    "serial_number,vendor,model,device_id,label\n"
    "SBX-1,native,sbx-1,sbx_001,Warung Sari\n"
    'SBX-2,,,,"=1+1, kasir"\n'
    "\n"
    "SBX-3,qf,QF200,,\n"
)


def mistakes(text: str | bytes) -> list[tuple[object, object, object]]:
    with pytest.raises(FileRefused) as refused:
        read_boxes(text if isinstance(text, bytes) else text.encode())
    return [(error["line"], error["column"], error["code"]) for error in refused.value.errors]


def test_a_file_is_read_with_what_it_leaves_out() -> None:
    boxes = read_boxes(FILE.encode())

    assert [(box.line, box.serial_number, box.vendor, box.model, box.device_id, box.label) for box in boxes] == [
        (2, "SBX-1", "native", "sbx-1", "sbx_001", "Warung Sari"),
        (3, "SBX-2", "native", "sbx-1", None, "=1+1, kasir"),
        (5, "SBX-3", "qf", "QF200", None, None),
    ]


@pytest.mark.parametrize(
    "text", ["\ufeffserial_number\r\nSBX-1\r\n", "label;Serial_Number\nkasir; SBX-1 \n", "serial_number\nSBX-1"]
)
def test_a_file_is_forgiven_its_spreadsheet(text: str) -> None:
    assert [box.serial_number for box in read_boxes(text.encode())] == ["SBX-1"]


def test_every_mistake_is_named_not_only_the_first() -> None:
    found = mistakes(
        "serial_number,vendor,device_id,label\n"
        "S,native,,\n"
        ",Native,hub-1,\n"
        "SBX-1,native,sbx_001,a,b\n"
        "SBX-2,native,sbx_002,a\u202eb\n"
        '"SBX\n-3",native,,\n'
        "SBX-4,native,sbx_004,\n"
        "SBX-4,native,sbx_004,\n"
    )

    assert found == [
        (2, "serial_number", "INVALID"),
        (3, "device_id", "INVALID"),
        (3, "serial_number", "MISSING"),
        (3, "vendor", "INVALID"),
        (4, None, "WRONG_FIELD_COUNT"),
        (5, "label", "INVALID"),
        (6, "serial_number", "INVALID"),
        (9, "device_id", "DUPLICATE_IN_FILE"),
        (9, "serial_number", "DUPLICATE_IN_FILE"),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [(1, "serial_number", "COLUMN_MISSING")]),
        ("serial_number\n", [(1, None, "NO_ROWS")]),
        ("serial_number,colour\nSBX-1,red\n", [(1, "colour", "UNKNOWN_COLUMN")]),
        ("serial_number,label,label\nSBX-1,a,b\n", [(1, "label", "COLUMN_TWICE")]),
        ('serial_number\n"SBX-1"x\n', [(2, None, "NOT_CSV")]),
        (b"serial_number\nSBX-1\nSBX-\xff\n", [(3, None, "NOT_UTF8")]),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused(text: str | bytes, found: list[tuple[object, ...]]) -> None:
    assert mistakes(text) == found


def test_a_file_has_at_most_five_thousand_boxes() -> None:
    lines = [f"SBX-{number}" for number in range(MOST_ROWS + 1)]

    assert len(read_boxes("\n".join(["serial_number", *lines[:-1]]).encode())) == MOST_ROWS
    assert mistakes("\n".join(["serial_number", *lines])) == [(MOST_ROWS + 2, None, "TOO_MANY_ROWS")]


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path) as hub:
        yield hub


async def send(hub: Hub, text: str, *, accept: str = "application/json", **query: str) -> httpx.Response:
    headers = hub.operator() | {"content-type": "text/csv", "accept": accept}
    return await hub.http.post(PATH, content=text.encode(), headers=headers, params=query)


async def test_a_file_becomes_boxes_whose_codes_work(hub: Hub, database: Database) -> None:
    answer = await send(hub, FILE)

    data = answer.json()["data"]
    assert (answer.status_code, data["count"], answer.headers["cache-control"]) == (201, 3, "no-store")
    stored = await rows(database, "SELECT id, serial_number, state, label, batch_id FROM device ORDER BY serial_number")
    assert [one["id"] for one in stored] == [one["id"] for one in data["devices"]]
    assert stored[1]["label"] == "=1+1, kasir"
    assert {(one["state"], one["batch_id"]) for one in stored} == {("registered", data["batch_id"])}
    for one in data["devices"]:
        code, serial = one["activation_code"], one["serial_number"]
        assert await activates(database, code, serial), serial
    (entry,) = await rows(database, "SELECT action, subject_id, details FROM audit_entry")
    assert (entry["action"], entry["subject_id"]) == ("device.registered_in_bulk", data["batch_id"])
    assert not [one for one in data["devices"] if one["activation_code"] in entry["details"]]


async def activates(database: Database, code: str, serial: str) -> bool:
    activated = await database.write(
        lambda tx: devices.activate(
            tx, code=code, serial_number=serial, hash_password=lambda _: "$7$x", now_ms=now_ms()
        )
    )
    return activated is not None


async def test_one_known_box_keeps_the_whole_file_out(hub: Hub, database: Database) -> None:
    await send(hub, "serial_number,device_id\nSBX-3,sbx_001\n")

    for query in ({}, {"dry_run": "true"}):
        answer = await send(hub, FILE, **query)
        said = answer.json()
        assert (answer.status_code, said["code"], said["details"]) == (422, "FILE_REFUSED", {"count": 2})
        assert [(error["line"], error["column"], error["code"]) for error in said["errors"]] == [
            (2, "device_id", "ALREADY_REGISTERED"),
            (5, "serial_number", "ALREADY_REGISTERED"),
        ]
    assert len(await rows(database, "SELECT id FROM device")) == 1
    assert len(await rows(database, "SELECT id FROM audit_entry")) == 1


async def test_a_dry_run_does_nothing(hub: Hub, database: Database) -> None:
    answer = await send(hub, FILE, dry_run="true")

    assert (answer.status_code, answer.json()["data"]) == (200, {"dry_run": True, "count": 3})
    assert await rows(database, "SELECT id FROM device") == []


async def test_the_same_file_at_once_from_two_sides_is_taken_once(database: Database) -> None:
    boxes = read_boxes(FILE.encode())
    other = Database(database.url.render_as_string(hide_password=False))

    async def take(where: Database, batch_id: str) -> list[Registered]:
        return await where.write(lambda tx: bulk.register_all(tx, boxes, batch_id=batch_id, now_ms=NOW))

    try:
        answers = await asyncio.gather(
            *(take([database, other][n % 2], f"bat_{n}") for n in range(8)), return_exceptions=True
        )
    finally:
        await other.close()

    taken = [n for n, answer in enumerate(answers) if not isinstance(answer, BaseException)]
    assert len(taken) == 1
    assert all(isinstance(answer, FileRefused) for n, answer in enumerate(answers) if n not in taken)
    stored = await rows(database, "SELECT batch_id FROM device")
    assert [one["batch_id"] for one in stored] == [f"bat_{taken[0]}"] * 3
    assert len(await rows(database, "SELECT device_id FROM activation_code")) == 3


async def test_five_thousand_boxes_go_in_together(hub: Hub, database: Database) -> None:
    answer = await send(hub, "\n".join(["serial_number", *(f"SBX-{n}" for n in range(MOST_ROWS))]), accept="text/csv")

    assert answer.status_code == 201
    assert len(answer.text.splitlines()) == MOST_ROWS + 1
    (counted,) = await rows(database, "SELECT count(*) AS n FROM activation_code")
    assert counted["n"] == MOST_ROWS


async def test_the_codes_come_as_csv_without_formulas(hub: Hub) -> None:
    answer = await send(hub, FILE, accept="text/csv")

    assert answer.headers["content-type"].startswith("text/csv")
    assert re.fullmatch(r'attachment; filename="bat_\w+\.csv"', answer.headers["content-disposition"])
    read = list(csv.DictReader(io.StringIO(answer.text)))
    assert [one["label"] for one in read] == ["Warung Sari", "'=1+1, kasir", ""]
    assert all(re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{10}", one["activation_code"]) for one in read)


@pytest.mark.parametrize("label", ["=1", "+1", "-1", "@x"])
def test_no_cell_is_a_formula(label: str) -> None:
    assert csv_text([box(label=label)]).splitlines()[1].endswith(f"'{label}")


def box(*, label: str | None = None) -> Registered:
    return Registered(
        serial_number="SBX-1", device_id="sbx_001", vendor="native", model="sbx-1", label=label,
        activation_code="K7QM29XW4T", expires_at_ms=NOW,
    )  # fmt: skip


async def test_the_codes_come_as_a_sheet_to_print(hub: Hub) -> None:
    answer = await send(hub, FILE, accept="text/html,application/xhtml+xml,*/*;q=0.8")

    page = answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert page.count("<article>") == page.count("data:image/svg+xml") == 3
    assert "Nomor seri · Serial number" in page


def test_a_sheet_loads_and_runs_nothing_and_escapes_what_it_shows() -> None:
    page = html_sheet([box(label='<script>alert("x")</script>')], batch_id="bat_1")

    assert "K7QM2-9XW4T" in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"<script|javascript:|<link|@import|url\(|\bon\w+=|style=", page)
    assert set(re.findall(r'src="([^"]{0,18})', page)) == {"data:image/svg+xml"}
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in CONTENT_SECURITY_POLICY
    assert "23-05-2026 17:00 WIB" in page


async def test_a_sheet_of_too_many_cards_is_refused_before_anything_is_registered(hub: Hub, database: Database) -> None:
    many = "\n".join(["serial_number", *(f"SBX-{n}" for n in range(501))])

    assert (await send(hub, many, accept="text/html")).status_code == 422
    assert await rows(database, "SELECT id FROM device") == []


async def test_a_file_larger_than_two_mebibytes_is_refused(hub: Hub) -> None:
    answer = await send(hub, "serial_number\n" + "x" * (2 * 1024 * 1024))

    assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_what_is_no_csv_is_refused(hub: Hub) -> None:
    answer = await hub.http.post(PATH, json={"boxes": []}, headers=hub.operator())

    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
