"""Operators put QR up at terminals and take them down, and fetch pictures of what can be paid."""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from support.hub import Hub
from support.shop import Shop, execute, row, static_payload
from support.staff import Staff, audited

from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.payments import pictures
from soundbox_server.providers.base import IssuedStaticQr, MerchantIdentity


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")


def wanted(**other: Any) -> dict[str, Any]:
    return {"provider": "acme", "partner_reference": "till-77", "qr_payload": static_payload()} | other


def scanned(picture: bytes, folder: Path) -> str:
    """What a reader of barcodes that is none of ours sees."""
    zbarimg = shutil.which("zbarimg")
    if zbarimg is None:
        assert os.environ.get("CI") != "true", "CI runs with zbarimg"
        pytest.skip("zbarimg is not installed: apt-get install zbar-tools")
    path = folder / "qr.png"
    path.write_bytes(picture)
    seen = subprocess.run([zbarimg, "--quiet", "--raw", "--nodbus", path], capture_output=True, check=True, text=True)
    return seen.stdout.removesuffix("\n")


async def test_a_providers_qr_is_put_up_and_paid_by_the_providers_word(
    hub: Hub, database: Database, shop: Shop, operator: Staff
) -> None:
    await shop.box()

    hanging = await operator.post(f"/admin/terminals/{shop.terminal_id}/static-qrs", wanted(), status=201)
    body = (
        b'{"event_id":"evt_1","partner_reference":"till-77","status":"paid","amount":15000,"currency":"IDR",'
        b'"paid_at":"2026-05-23T10:00:30Z","rrn":"614210000123"}'
    )
    answered = await hub.call_back(body, hub.signed(body, partner="acme"))

    assert (hanging["kind"], hanging["status"], hanging["nmid"]) == ("payment", "active", "ID1029384756012")
    assert answered.json()["data"]["outcome"] == "applied"
    paid = await operator.get(f"/admin/transactions/{answered.json()['data']['transaction_id']}")
    assert (paid["status"], paid["amount"], paid["qr_mode"], paid["method"], paid["initiation_mode"]) == (
        "paid", 15_000, "static", "qris_static", "callback",
    )  # fmt: skip
    assert (paid["terminal_id"], paid["attempts"][0]["provider"]) == (shop.terminal_id, "acme")
    (entry,) = await audited(database, "static_qr.put_up")
    assert (entry["actor_id"], entry["subject_id"]) == ("per_operator", hanging["id"])


async def test_a_qr_is_listed_shown_and_retired_once(database: Database, shop: Shop, operator: Staff) -> None:
    first = await shop.static_qr("sticker-1")
    second = await shop.static_qr("sticker-2")

    retired = await operator.post(f"/admin/static-qrs/{first.id}/retire")

    assert (retired["status"], retired["retired_at"] is not None) == ("retired", True)
    assert (await operator.refused("POST", f"/admin/static-qrs/{first.id}/retire", status=409))["code"] == "CONFLICT"
    path, at_the_till = "/admin/static-qrs", {"terminal_id": shop.terminal_id}
    assert [found["id"] for found in await operator.get(path, **at_the_till)] == [second.id, first.id]
    assert [found["id"] for found in await operator.get(path, status="active")] == [second.id]
    assert (await operator.get(f"{path}/{first.id}"))["status"] == "retired"
    assert [entry["subject_id"] for entry in await audited(database, "static_qr.retired")] == [first.id]


async def test_what_cannot_hang_there_leaves_nothing_behind(database: Database, shop: Shop, operator: Staff) -> None:
    path = f"/admin/terminals/{shop.terminal_id}/static-qrs"
    await operator.post(path, wanted(), status=201)

    taken = await operator.refused("POST", path, wanted(), status=409)
    unread = await operator.refused("POST", path, wanted(partner_reference="b", qr_payload="scan me"), status=422)
    stranger = await operator.refused("POST", path, wanted(partner_reference="c", provider="nobody"), status=422)
    other = static_payload(merchant_name="TOKO LAIN")
    renamed = await operator.refused("POST", path, wanted(partner_reference="d", qr_payload=other), status=422)
    await operator.refused("POST", "/admin/terminals/term_none/static-qrs", wanted(), status=404)
    await shop.set_status("suspended")
    await operator.refused("POST", path, wanted(partner_reference="e"), status=403)

    assert taken["details"] == {"field": "partner_reference"}
    assert unread["details"] == {"violations": ["CRC_MISMATCH", "TLV_MALFORMED"]}
    assert [unread["code"], stranger["code"], renamed["code"]] == ["QR_NOT_ACCEPTED"] * 3
    assert (await row(database, "SELECT count(*) AS n FROM static_qr"))["n"] == 1


async def test_a_provider_issues_a_qr_and_the_same_key_gets_the_same(hub: Hub, shop: Shop, operator: Staff) -> None:
    class Issuer:
        name = "sandbox"
        asked: list[str] = []

        async def issue_static(self, reference: str, merchant: MerchantIdentity) -> IssuedStaticQr:
            self.asked.append(reference)
            payload = static_payload(merchant_name="SARI RASA", nmid=merchant.nmid)
            return IssuedStaticQr(provider=self.name, reference=reference, qr_payload=payload)

    hub.app.state.static_issuer = issuer = Issuer()
    path = f"/admin/terminals/{shop.terminal_id}/static-qrs/issue"

    first = await operator.post(path, status=201, key="once")
    again = await operator.post(path, status=201, key="once")
    another = await operator.post(path, status=201)

    assert first == again
    assert len({*issuer.asked[:2]}) == 1
    assert another["partner_reference"] == issuer.asked[2] != first["partner_reference"]
    hub.app.state.static_issuer = None
    assert (await operator.refused("POST", path, status=409))["code"] == "CONFLICT"


# Pictures


async def test_the_picture_of_a_static_qr_reads_as_its_text(shop: Shop, operator: Staff, tmp_path: Path) -> None:
    hanging = await shop.static_qr()

    for size in (256, 512, 2048):
        png = await operator.call("GET", f"/admin/static-qrs/{hanging.id}/qr.png", params={"size": size})
        assert (png.status_code, png.headers["content-type"]) == (200, "image/png")
        width, height = (int.from_bytes(png.content[at : at + 4], "big") for at in (16, 20))
        assert size * 0.75 <= width == height <= size
        assert scanned(png.content, tmp_path) == hanging.qr_payload


async def test_an_svg_is_as_wide_as_asked_and_holds_nothing_but_lines(shop: Shop, operator: Staff) -> None:
    hanging = await shop.static_qr()

    svg = await operator.call("GET", f"/admin/static-qrs/{hanging.id}/qr.svg", params={"size": 600})

    assert (svg.status_code, svg.headers["content-type"]) == (200, "image/svg+xml")
    root = ET.fromstring(svg.content)
    assert round(float(root.attrib["width"])) == round(float(root.attrib["height"])) == 600
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {"svg", "path", "g"}
    assert "style" not in svg.text


async def test_the_picture_of_a_transaction_is_there_while_it_waits(
    database: Database, shop: Shop, operator: Staff, tmp_path: Path
) -> None:
    payment = await shop.payment(await shop.box(), now_ms=now_ms())
    path = f"/admin/transactions/{payment.payment_id}/qr.png"

    waiting = await operator.call("GET", path)
    await execute(database, "UPDATE payment SET state = 'cancelled' WHERE id = $1", payment.payment_id)
    ended = await operator.refused("GET", path, status=409)

    assert scanned(waiting.content, tmp_path) == payment.qr_payload
    assert ended["details"] == {"status": "cancelled"}
    assert (await operator.refused("GET", "/admin/transactions/txn_none/qr.svg", status=404))["code"] == (
        "TRANSACTION_NOT_FOUND"
    )


async def test_a_picture_that_is_there_already_is_not_sent_again(shop: Shop, operator: Staff) -> None:
    path = f"/admin/static-qrs/{(await shop.static_qr()).id}/qr.png"
    first = await operator.call("GET", path)

    tag = first.headers["etag"]
    again = await operator.call("GET", path, headers={"if-none-match": f'"other", W/{tag}'})
    larger = await operator.call("GET", path, params={"size": 1024}, headers={"if-none-match": tag})

    assert first.headers["cache-control"] == "private, no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (larger.status_code, larger.headers["etag"] != tag) == (200, True)


async def test_sizes_have_bounds_and_what_came_off_is_not_drawn(shop: Shop, operator: Staff) -> None:
    hanging = await shop.static_qr()
    path = f"/admin/static-qrs/{hanging.id}/qr.png"

    for size in (255, 2049):
        assert (await operator.call("GET", path, params={"size": size})).status_code == 400
    await operator.post(f"/admin/static-qrs/{hanging.id}/retire")
    await operator.refused("GET", path, status=409)
    await operator.refused("GET", "/admin/static-qrs/sqr_none/qr.png", status=404)


async def test_a_picture_is_drawn_once() -> None:
    payload = static_payload(merchant_name="DRAWN ONCE")
    before = pictures._draw.cache_info()

    first = await pictures.picture(payload, "png", size_px=300)
    second = await pictures.picture(payload, "png", size_px=300)

    after = pictures._draw.cache_info()
    assert first is second
    assert (after.misses - before.misses, after.maxsize) == (1, 1_024)
