"""Statements on paper and for spreadsheets: asked for by staff and by the merchant, read back as they are written."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from support.acquirer import adjustment
from support.books import check_books
from support.hub import Hub
from support.merchant import Merchant, a_stranger
from support.settled import TUESDAY, plant_settlement, settled
from support.shop import Shop, adjust, execute, open_shop, report, row, take
from support.staff import Staff, audited

from soundbox_server.clock import jakarta_ms
from soundbox_server.db import Database
from soundbox_server.exportable import EXPORTABLE
from soundbox_server.exports import jobs
from soundbox_server.exports.jobs import Exporter
from soundbox_server.portal.scope import files_of
from soundbox_server.statements.report import MOST_ON_PAPER
from soundbox_server.statements.texts import rupiah

FRIDAY = "2026-05-29"  # the days between are holidays
SPREADSHEETS_FORMULA = '=HYPERLINK("http://evil")'


@pytest.fixture
def exporter(database: Database, tmp_path: Path) -> Exporter:
    return Exporter(database, EXPORTABLE, theirs=files_of, folder=tmp_path / "home" / "exports", owner="test")


@pytest.fixture
def finance(hub: Hub) -> Staff:
    return Staff(hub, "per_finance", "finance")


async def some_takings(shop: Shop) -> None:
    """50.000 and 1.234.567 came, 20.000 of the first went back; the fee stays."""
    box = await shop.box()
    first, second = await shop.payment(box, 50_000), await shop.payment(box, 1_234_567)
    await take(shop.database, report(first), report(second))
    await adjust(shop.database, adjustment(first, "refunded", amount=20_000))


def text_of(pdf: bytes) -> list[str]:
    """The text of each page, as a reader that is none of ours finds it."""
    document = pypdfium2.PdfDocument(pdf)
    try:
        return [re.sub(r"\s+", " ", page.get_textpage().get_text_bounded()) for page in document]
    finally:
        document.close()


async def file_of(merchant: Merchant, exporter: Exporter, **wanted: Any) -> bytes:
    queued = (await merchant.post("/merchant/exports", wanted, status=202))["data"]
    await exporter.tick()
    done = (await merchant.get(f"/merchant/exports/{queued['id']}"))["data"]
    assert (done["status"], done["failure"]) == ("done", None)
    answer = await merchant.call("GET", f"/merchant/exports/{queued['id']}/file")
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("id", ("Laporan Settlement", "25 Mei 2026", "Pembayaran diterima (2 transaksi)", "Pengembalian",
                "Terbilang: satu juta dua ratus lima puluh lima ribu lima ratus tujuh puluh lima rupiah",
                "Menunggu pembayaran", "Halaman 1 dari 1")),
        ("en", ("Settlement Statement", "25 May 2026", "Payments received (2)", "Refund",
                "In words: one million two hundred fifty five thousand five hundred seventy five rupiah",
                "To be paid out", "Page 1 of 1")),
    ],
)  # fmt: skip
async def test_a_merchants_statement_on_paper(
    owner: Merchant, shop: Shop, database: Database, exporter: Exporter, language: str, words: tuple[str, ...]
) -> None:
    await some_takings(shop)
    await execute(database, "UPDATE merchant SET legal_name = 'PT Sari Rasa é Žižka' WHERE id = $1", shop.merchant_id)
    settlement_id = await settled(database, shop)

    pdf = await file_of(
        owner, exporter, kind="statements", format="pdf",
        filters={"settlement_id": settlement_id, "language": language},
    )  # fmt: skip

    (page,) = text_of(pdf)
    stored = await row(database, "SELECT net_amount FROM settlement")
    assert stored["net_amount"] == 50_000 + 1_234_567 - 350 - 8_642 - 20_000 == 1_255_575
    assert not [word for word in words if word not in page], page
    sums = ("Rp 1.284.567", "-Rp 8.992", "-Rp 20.000", "Rp 1.255.575", "Rp 49.650", "Rp 1.225.925")
    assert not [amount for amount in sums if amount not in page], page
    assert "PT Sari Rasa é Žižka" in page
    assert settlement_id in page
    assert "sandbox" not in page  # one provider needs no table of providers


async def test_every_page_has_the_columns_its_number_and_each_item_once(
    finance: Staff, shop: Shop, database: Database, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "TOGETHER", 7)
    box = await shop.box()
    payments = [await shop.payment(box, 1_000 + n) for n in range(60)]
    await take(database, *(report(payment) for payment in payments))
    settlement_id = await settled(database, shop)

    queued = await finance.post(
        "/admin/exports",
        {"kind": "statements", "format": "pdf", "filters": {"settlement_id": settlement_id}}, status=202,
    )  # fmt: skip
    await exporter.tick()
    done = await finance.get(f"/admin/exports/{queued['id']}")
    answer = await finance.call("GET", f"/admin/exports/{queued['id']}/file")

    pages = text_of(answer.content)
    assert (done["status"], done["rows"], answer.headers["content-type"]) == ("done", 60, "application/pdf")
    assert len(pages) == 3
    for number, page in enumerate(pages, start=1):
        assert f"Halaman {number} dari 3" in page
        assert "Waktu (WIB) Jenis" in page
    assert sorted(re.findall(r"txn_\w{26}", " ".join(pages))) == sorted(one.payment_id for one in payments)
    (entry,) = await audited(database, "export.fetched")
    assert entry["actor_id"] == "per_finance"


async def test_a_spreadsheets_lines_add_up_and_hold_no_formula(
    owner: Merchant, shop: Shop, database: Database, exporter: Exporter
) -> None:
    await some_takings(shop)
    await execute(database, "UPDATE outlet SET name = $1", SPREADSHEETS_FORMULA)
    settlement_id = await settled(database, shop)

    content = await file_of(owner, exporter, kind="statements", filters={"settlement_id": settlement_id})

    lines = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [line["kind"] for line in lines] == ["payment", "payment", "refund", "net"]
    assert sum(int(line["net_amount"]) for line in lines[:-1]) == int(lines[-1]["net_amount"]) == 1_255_575
    assert {line["settlement_id"] for line in lines} == {settlement_id}
    assert {line["outlet_name"] for line in lines[:3]} == {f"'{SPREADSHEETS_FORMULA}"}
    assert (lines[0]["at"], lines[0]["at_jakarta"]) == ("2026-05-23T10:00:00.000Z", "2026-05-23 17:00:00")


async def test_what_one_batch_lacks_the_next_ones_statement_begins_with(
    owner: Merchant, shop: Shop, database: Database, exporter: Exporter
) -> None:
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment))
    await settled(database, shop)
    on_tuesday = jakarta_ms(TUESDAY) + 1
    await adjust(database, adjustment(payment, "refunded", amount=20_000), now_ms=on_tuesday)
    carried = await settled(database, shop, day=TUESDAY)
    on_friday = jakarta_ms(FRIDAY) + 1
    other = await shop.payment(await shop.box(), 90_000, now_ms=on_friday)
    await take(database, report(other, paid_at_ms=on_friday), now_ms=on_friday)
    last = await settled(database, shop, day=FRIDAY)

    pages, sheets = [], []
    for settlement_id in (carried, last):
        filters = {"settlement_id": settlement_id, "language": "en"}
        pdf = await file_of(owner, exporter, kind="statements", format="pdf", filters=filters)
        pages.append(" ".join(text_of(pdf)))
        content = await file_of(owner, exporter, kind="statements", filters=filters)
        sheets.append(list(csv.DictReader(io.StringIO(content.decode(), newline=""))))

    for said in ("carried to the next period Rp 20.000", "Net amount for the merchant Rp 0", "Carried to the next"):
        assert said in pages[0]
    for said in ("Shortfall of the period before -Rp 20.000", f"Net amount for the merchant {rupiah(69_370)}"):
        assert said in pages[1]
    assert [[(line["kind"], int(line["net_amount"])) for line in lines] for lines in sheets] == [
        [("refund", -20_000), ("carried_out", 20_000), ("net", 0)],
        [("payment", 89_370), ("carried_in", -20_000), ("net", 69_370)],
    ]
    await check_books(database)


async def test_a_batch_without_items_says_so(
    owner: Merchant, shop: Shop, database: Database, exporter: Exporter
) -> None:
    settlement_id = await plant_settlement(database, shop, state="carried")
    filters = {"settlement_id": settlement_id, "language": "en"}

    (page,) = text_of(await file_of(owner, exporter, kind="statements", format="pdf", filters=filters))
    lines = (await file_of(owner, exporter, kind="statements", filters=filters)).decode().splitlines()

    assert "There are no transactions" in page
    assert [line.split(",")[5] for line in lines] == ["kind", "net"]


async def test_its_own_people_and_staff_ask_and_nobody_else(
    hub: Hub, owner: Merchant, finance: Staff, shop: Shop, database: Database, exporter: Exporter
) -> None:
    await some_takings(shop)
    settlement_id = await settled(database, shop)
    wanted = {"kind": "statements", "format": "pdf", "filters": {"settlement_id": settlement_id}}
    stranger, clerk = await a_stranger(hub), Merchant(hub, role="merchant_staff")

    foreign = await stranger.post("/merchant/exports", wanted, status=404)
    unpermitted = await clerk.post("/merchant/exports", wanted, status=403)
    nowhere = await finance.refused(
        "POST", "/admin/exports", wanted | {"filters": {"settlement_id": "stl_nowhere"}}, status=404
    )
    queued = (await owner.post("/merchant/exports", wanted, status=202))["data"]
    await exporter.tick()
    path = f"/merchant/exports/{queued['id']}"
    others = [await stranger.get(one, status=404) for one in (path, f"{path}/file")]
    staffs = await finance.refused("GET", f"/admin/exports/{queued['id']}", status=404)

    assert {said["code"] for said in (foreign, nowhere, staffs, *others)} == {"NOT_FOUND"}
    assert unpermitted["code"] == "FORBIDDEN"
    assert (await stranger.get("/merchant/exports"))["data"] == await finance.get("/admin/exports") == []
    assert [one["id"] for one in (await owner.get("/merchant/exports"))["data"]] == [queued["id"]]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"kind": "statements", "format": "jsonl"}, "format"),
        ({"kind": "transactions", "format": "pdf"}, "format"),
        ({"kind": "statements", "format": "pdf"}, "filters.settlement_id"),
        ({"kind": "statements", "filters": {"settlement_id": "stl_1", "language": "fr"}}, "filters.language"),
        ({"kind": "audit_logs"}, "kind"),
    ],
)
async def test_what_there_is_not_is_named(owner: Merchant, wanted: dict[str, Any], field: str) -> None:
    refused = await owner.post("/merchant/exports", wanted, status=400)

    assert (refused["code"], refused["details"]["field"]) == ("VALIDATION_FAILED", field)


async def test_while_items_are_still_collected_there_is_no_statement(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    settlement_id = await plant_settlement(database, shop, state="open")

    wanted = {"kind": "statements", "filters": {"settlement_id": settlement_id}}
    refused = await owner.post("/merchant/exports", wanted, status=409)

    assert refused["details"] == {"status": "open"}


async def test_what_would_fill_a_shelf_is_for_spreadsheets_alone(
    owner: Merchant, shop: Shop, database: Database, exporter: Exporter
) -> None:
    settlement_id = await plant_settlement(database, shop)
    await execute(database, "UPDATE settlement SET payments = $1, adjustments = 1", MOST_ON_PAPER)

    wanted = {"kind": "statements", "filters": {"settlement_id": settlement_id}}
    refused = await owner.post("/merchant/exports", wanted | {"format": "pdf"}, status=409)

    assert refused["details"] == {"items": MOST_ON_PAPER + 1, "most": MOST_ON_PAPER}
    assert await file_of(owner, exporter, **wanted)


async def test_a_merchants_lists_as_files_are_of_their_own_alone(
    hub: Hub, owner: Merchant, shop: Shop, database: Database, exporter: Exporter
) -> None:
    other = await open_shop(database)
    for one in (shop, other):
        await some_takings(one)
    await settled(database, shop)

    transactions = list(csv.DictReader(io.StringIO((await file_of(owner, exporter, kind="transactions")).decode())))
    settlements = list(csv.DictReader(io.StringIO((await file_of(owner, exporter, kind="settlements")).decode())))

    assert {line["merchant_id"] for line in transactions + settlements} == {shop.merchant_id}
    assert (len(transactions), len(settlements)) == (2, 1)
    assert not {"trace_id", "review_reason", "request_id"} & transactions[0].keys()
