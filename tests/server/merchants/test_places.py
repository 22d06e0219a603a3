"""Outlets and terminals from the operators' doors."""

import asyncio
import json

import pytest
from support.registry import WHOLE
from support.shop import rows
from support.staff import Staff, audited

from soundbox_server.db import Database


@pytest.fixture
async def merchant(operator: Staff) -> str:
    return str((await operator.post("/admin/merchants", WHOLE, status=201))["id"])


@pytest.fixture
async def outlet(operator: Staff, merchant: str) -> str:
    created = await operator.post(f"/admin/merchants/{merchant}/outlets", {"name": "Pasar Baru"}, status=201)
    return str(created["id"])


async def test_an_outlet_gets_a_code_when_it_brings_none(operator: Staff, merchant: str) -> None:
    given = await operator.post(
        f"/admin/merchants/{merchant}/outlets", {"name": "Utara", "outlet_code": "north"}, status=201
    )
    made = await operator.post(f"/admin/merchants/{merchant}/outlets", {"name": "Selatan"}, status=201)

    assert given["outlet_code"] == "north"
    assert made["outlet_code"].startswith("o_")
    assert (made["status"], made["address"], made["is_default"]) == ("active", "", False)
    assert await operator.get(f"/admin/outlets/{made['id']}") == made


async def test_an_outlets_code_is_its_merchants_own(operator: Staff, merchant: str) -> None:
    other = await operator.post("/admin/merchants", WHOLE, status=201)
    body = {"name": "Utara", "outlet_code": "north"}
    await operator.post(f"/admin/merchants/{merchant}/outlets", body, status=201)

    twice = await operator.refused("POST", f"/admin/merchants/{merchant}/outlets", body, status=409)
    await operator.post(f"/admin/merchants/{other['id']}/outlets", body, status=201)

    assert (twice["code"], twice["details"]) == ("CONFLICT", {"field": "outlet_code"})


async def test_a_terminals_code_and_partner_reference_are_unique(operator: Staff, outlet: str) -> None:
    path = f"/admin/outlets/{outlet}/terminals"
    first = await operator.post(path, {"terminal_code": "till-1", "partner_reference": "static-77"}, status=201)
    second = await operator.post(path, {"qr_mode": "static"}, status=201)

    same_code = await operator.refused("POST", path, {"terminal_code": "till-1"}, status=409)
    same_reference = await operator.refused("POST", path, {"partner_reference": "static-77"}, status=409)
    renamed = await operator.refused(
        "PATCH", f"/admin/terminals/{second['id']}", {"terminal_code": "till-1"}, status=409
    )

    assert (first["qr_mode"], second["qr_mode"]) == ("dynamic", "static")
    assert second["terminal_code"].startswith("t_")
    assert same_code["details"] == renamed["details"] == {"field": "terminal_code"}
    assert same_reference["details"] == {"field": "partner_reference"}


async def test_of_ten_who_want_one_code_at_once_one_gets_it(operator: Staff, database: Database, outlet: str) -> None:
    path = f"/admin/outlets/{outlet}/terminals"

    answers = await asyncio.gather(*(operator.call("POST", path, json={"terminal_code": "till-1"}) for _ in range(10)))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    assert len(await rows(database, "SELECT id FROM terminal WHERE terminal_code = 'till-1'")) == 1


async def test_of_ten_terminals_that_take_one_reference_at_once_one_gets_it(
    operator: Staff, database: Database, outlet: str
) -> None:
    tills = [await operator.post(f"/admin/outlets/{outlet}/terminals", {}, status=201) for _ in range(10)]

    answers = await asyncio.gather(
        *(
            operator.call("PATCH", f"/admin/terminals/{till['id']}", json={"partner_reference": "static-1"})
            for till in tills
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    assert len(await rows(database, "SELECT id FROM terminal WHERE partner_reference = 'static-1'")) == 1


async def test_changes_are_written_down_with_both_sides(operator: Staff, database: Database, outlet: str) -> None:
    till = await operator.post(f"/admin/outlets/{outlet}/terminals", {"partner_reference": "static-77"}, status=201)

    await operator.patch(f"/admin/outlets/{outlet}", {"address": "Jl. Baru 2"})
    changed = await operator.patch(f"/admin/terminals/{till['id']}", {"status": "disabled", "partner_reference": None})
    again = await operator.patch(f"/admin/terminals/{till['id']}", {"status": "disabled"})

    assert (changed["status"], changed["partner_reference"]) == ("disabled", None)
    assert again == changed
    (of_outlet,) = await audited(database, "outlet.changed")
    (of_terminal,) = await audited(database, "terminal.changed")
    assert json.loads(of_outlet["details"]) == {"before": {"address": ""}, "after": {"address": "Jl. Baru 2"}}
    assert json.loads(of_terminal["details"]) == {
        "before": {"partner_reference": "static-77", "status": "active"},
        "after": {"partner_reference": None, "status": "disabled"},
    }


async def test_the_lists_are_filtered_and_paged(operator: Staff, merchant: str, outlet: str) -> None:
    path = f"/admin/outlets/{outlet}/terminals"
    tills = [(await operator.post(path, {"terminal_code": f"till-{n}"}, status=201))["id"] for n in range(3)]
    await operator.patch(f"/admin/terminals/{tills[1]}", {"status": "disabled", "qr_mode": "static"})

    pages = [page async for page in operator.pages("/admin/terminals", outlet_id=outlet, limit=2)]
    assert [till["id"] for page in pages for till in page] == tills[::-1]
    for filters in ({"status": "disabled"}, {"qr_mode": "static"}, {"q": "TILL-1"}):
        assert [till["id"] for till in await operator.get("/admin/terminals", **filters)] == [tills[1]]
    assert len(await operator.get("/admin/terminals", merchant_id=merchant)) == 4
    assert [place["id"] for place in await operator.get("/admin/outlets", q="pasar", merchant_id=merchant)] == [outlet]
    assert len(await operator.get("/admin/outlets", merchant_id=merchant, status="active")) == 2


async def test_what_is_not_there_is_not_found(operator: Staff) -> None:
    for method, path, body in (
        ("GET", "/admin/outlets/out_none", None), ("PATCH", "/admin/outlets/out_none", {}),
        ("POST", "/admin/outlets/out_none/terminals", {}), ("GET", "/admin/terminals/term_none", None),
        ("PATCH", "/admin/terminals/term_none", {}),
    ):  # fmt: skip
        assert (await operator.refused(method, path, body, status=404))["code"] == "NOT_FOUND"
