"""The papers a merchant shows: files that are what their first bytes say, looked at, given back to staff."""

import hashlib
import json
from pathlib import Path

import pytest
from support.registry import WHOLE
from support.shop import rows
from support.staff import Staff, audited

from soundbox_server.db import Database
from soundbox_server.merchants.documents import LARGEST_FILE

PDF = b"%PDF-1.7\n" + b"a paper " * 10_000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
async def papers(operator: Staff) -> str:
    """The path of a merchant's papers."""
    created = await operator.post("/admin/merchants", WHOLE, status=201)
    return f"/admin/merchants/{created['id']}/documents"


async def test_a_file_comes_back_as_it_was_and_is_not_shown_by_a_browser(
    operator: Staff, finance: Staff, database: Database, papers: str, tmp_path: Path
) -> None:
    sent = await operator.call("POST", f"{papers}/file?document_type=identity_card", content=PDF)
    shown = sent.json()["data"]
    fetched = await finance.call("GET", f"{papers}/{shown['id']}/file")

    assert sent.status_code == 201, sent.text
    assert (shown["media_type"], shown["size_bytes"], shown["sha256"]) == (
        "application/pdf", len(PDF), hashlib.sha256(PDF).hexdigest(),
    )  # fmt: skip
    assert shown["verification_status"] == "pending"
    assert fetched.content == PDF
    assert fetched.headers["content-type"] == "application/pdf"
    assert fetched.headers["x-content-type-options"] == "nosniff"
    assert fetched.headers["content-disposition"].startswith("attachment")
    (stored,) = (tmp_path / "home" / "documents").iterdir()
    assert (stored.name, stored.stat().st_mode & 0o777) == (shown["sha256"], 0o600)
    (entry,) = await audited(database, "merchant.document_fetched")
    assert entry["actor_id"] == "per_finance"


@pytest.mark.parametrize("content", [b"<html>", b"", b"GIF89a", b"%PD", b" %PDF-1.7"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_file_is_what_its_first_bytes_say(
    operator: Staff, database: Database, papers: str, content: bytes, tmp_path: Path
) -> None:
    answer = await operator.call(
        "POST", f"{papers}/file?document_type=x", content=content, headers={"content-type": "application/pdf"}
    )

    assert (answer.status_code, answer.json()["details"]) == (400, {"field": "file"})
    assert await rows(database, "SELECT id FROM merchant_document") == []
    assert not (tmp_path / "home" / "documents").exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_five_mebibytes_are_taken_and_one_byte_more_is_not(operator: Staff, papers: str) -> None:
    largest = PNG + bytes(LARGEST_FILE - len(PNG))

    fits = await operator.call("POST", f"{papers}/file?document_type=x", content=largest)
    too_long = await operator.call("POST", f"{papers}/file?document_type=x", content=largest + b"x")
    elsewhere = await operator.call("POST", papers, content=PDF)

    assert fits.status_code == 201
    assert (too_long.status_code, elsewhere.status_code) == (413, 413)


async def test_a_paper_by_its_address(operator: Staff, papers: str) -> None:
    body = {"document_type": "deed", "document_url": "https://papers.test/deed.pdf"}
    shown = await operator.post(papers, body, status=201)
    plain = await operator.refused("POST", papers, body | {"document_url": "http://papers.test/deed.pdf"}, status=400)
    no_file = await operator.refused("GET", f"{papers}/{shown['id']}/file", status=404)

    assert (shown["document_url"], shown["sha256"]) == ("https://papers.test/deed.pdf", None)
    assert [error["field"] for error in plain["errors"]] == ["document_url"]
    assert no_file["code"] == "NOT_FOUND"
    assert await operator.get(papers) == [shown]


async def test_somebody_looks_at_it_and_says_what_it_is_worth(operator: Staff, database: Database, papers: str) -> None:
    body = {"document_type": "deed", "document_url": "https://papers.test/deed.pdf"}
    path = f"{papers}/{(await operator.post(papers, body, status=201))['id']}"

    silent = await operator.refused("PATCH", path, {"verification_status": "refused"}, status=400)
    refused = await operator.patch(path, {"verification_status": "refused", "reason": "unreadable"})
    verified = await operator.patch(path, {"verification_status": "verified"})
    twice = await operator.refused("PATCH", path, {"verification_status": "verified"}, status=409)

    assert silent["details"] == {"field": "reason"}
    assert (refused["verification_status"], refused["reason"]) == ("refused", "unreadable")
    assert (verified["verification_status"], verified["reason"], verified["checked_by"]) == (
        "verified", None, "per_operator",
    )  # fmt: skip
    assert twice["code"] == "CONFLICT"
    (entry,) = await audited(database, "merchant.document_refused")
    assert json.loads(entry["details"])["reason"] == "unreadable"


async def test_another_merchants_paper_is_not_found(operator: Staff, papers: str) -> None:
    body = {"document_type": "deed", "document_url": "https://papers.test/deed.pdf"}
    document_id = (await operator.post(papers, body, status=201))["id"]
    other = await operator.post("/admin/merchants", WHOLE, status=201)

    refused = await operator.refused(
        "PATCH", f"/admin/merchants/{other['id']}/documents/{document_id}", {"verification_status": "verified"},
        status=404,
    )  # fmt: skip

    assert refused["code"] == "NOT_FOUND"
