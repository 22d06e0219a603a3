"""Merchants from the operators' doors: the contract's body, what approval takes, and every move between states."""

import json
from pathlib import Path

import pytest
from support.registry import CONTRACT, QR_FACTS, WHOLE
from support.shop import Shop, execute, open_shop, report, row, rows, take
from support.staff import Staff, audited

from soundbox_server.db import Database
from soundbox_server.errors import IllegalTransition
from soundbox_server.merchants.state import MERCHANTS, MerchantState, require_merchant

S = MerchantState


async def taken_in(operator: Staff, **more: object) -> str:
    created = await operator.post("/admin/merchants", WHOLE | more, status=201)
    return str(created["id"])


async def test_the_contracts_body_is_taken_and_answered_as_the_contract_says(operator: Staff) -> None:
    answer = await operator.call("POST", "/admin/merchants", json=CONTRACT)

    body = answer.json()
    assert answer.status_code == 201
    assert body.keys() == {"data", "request_id", "timestamp"}
    assert CONTRACT.items() <= body["data"].items()
    assert body["data"]["id"].startswith("mer_")
    assert body["data"]["merchant_code"].startswith("m_")
    assert (body["data"]["status"], body["data"]["onboarding_status"]) == ("pending", "incomplete")
    assert body["data"]["missing"] == ["city", "postal_code", "mcc", "nmid", "criteria"]


async def test_a_merchant_begins_with_an_outlet_and_a_terminal(operator: Staff, database: Database) -> None:
    merchant_id = await taken_in(operator)

    found = await operator.get(f"/admin/merchants/{merchant_id}")
    assert found["outlets_count"] == 1
    assert (found["default_outlet"]["outlet_code"], found["default_terminal"]["terminal_code"]) == ("main", "main")
    assert found["default_terminal"]["outlet_id"] == found["default_outlet"]["id"]
    assert (found["documents"], found["pending_account_change"]) == ([], None)
    organisation = await row(database, "SELECT kind, name FROM organisation WHERE id = $1", found["organisation_id"])
    assert organisation == {"kind": "merchant", "name": "Toko Indo"}
    (entry,) = await audited(database, "merchant.created")
    assert (entry["actor_id"], entry["subject_id"]) == ("per_operator", merchant_id)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("legal_name", ""), ("legal_name", "   "), ("legal_name", "x" * 101), ("brand_name", "Toko\0Indo"),
        ("brand_name", "Toko \u202eodnI"), ("legal_name", 5), ("payout_mode", "cash"), ("postal_code", "1011O"),
        ("mcc", "581"), ("nmid", "1029384756012"), ("criteria", "XXL"), ("owner_email", "nobody"),
        ("fee_profile_id", "fee basic"), ("colour", "red"), ("brand_name", "Toko\n"), ("brand_name", "   "),
        ("brand_name", "Toko\u202eodnI"), ("city", "x" * 60 + " "), ("owner_email", "ibu\u00a0ani@toko.test"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_field_that_does_not_fit_is_named(operator: Staff, field: str, value: object) -> None:
    refused = await operator.refused("POST", "/admin/merchants", WHOLE | {field: value}, status=400)

    assert refused["code"] == "VALIDATION_FAILED"
    assert [error["field"] for error in refused["errors"]] == [field]


async def test_an_unknown_fee_profile_or_organisation_is_named(operator: Staff) -> None:
    for field in ("fee_profile_id", "organisation_id"):
        refused = await operator.refused("POST", "/admin/merchants", WHOLE | {field: "none"}, status=404)
        assert (refused["code"], refused["details"]) == ("NOT_FOUND", {"field": field})


async def test_a_code_belongs_to_one_merchant(operator: Staff, database: Database) -> None:
    await taken_in(operator, merchant_code="toko_1")
    other = await taken_in(operator)

    refused = await operator.refused("POST", "/admin/merchants", WHOLE | {"merchant_code": "toko_1"}, status=409)
    renamed = await operator.refused("PATCH", f"/admin/merchants/{other}", {"merchant_code": "toko_1"}, status=409)

    assert (refused["code"], refused["details"]) == ("CONFLICT", {"field": "merchant_code"})
    assert (renamed["code"], renamed["details"]) == ("CONFLICT", {"field": "merchant_code"})
    assert len(await rows(database, "SELECT id FROM merchant")) == 2


async def test_approval_waits_for_what_a_qr_carries(operator: Staff) -> None:
    created = await operator.post("/admin/merchants", CONTRACT, status=201)

    early = await operator.refused("POST", f"/admin/merchants/{created['id']}/approve", status=409)
    await operator.patch(f"/admin/merchants/{created['id']}", QR_FACTS)
    approved = await operator.post(f"/admin/merchants/{created['id']}/approve")

    assert (early["code"], early["details"]) == ("MERCHANT_INCOMPLETE", {"missing": list(QR_FACTS)})
    assert (approved["status"], approved["missing"]) == ("approved", [])
    assert approved["approved_at"] is not None


async def test_without_a_fee_rule_nobody_is_approved(operator: Staff) -> None:
    created = await operator.post("/admin/merchants", WHOLE | {"fee_profile_id": None}, status=201)

    refused = await operator.refused("POST", f"/admin/merchants/{created['id']}/approve", status=409)

    assert refused["code"] == "FEE_RULE_MISSING"
    assert created["missing"] == ["fee_profile_id"]


async def test_the_database_itself_refuses_an_approved_merchant_without_its_facts(
    operator: Staff, database: Database
) -> None:
    merchant_id = await taken_in(operator)
    await operator.post(f"/admin/merchants/{merchant_id}/approve")

    with pytest.raises(Exception, match="merchant_whole_when_approved"):
        await execute(database, "UPDATE merchant SET nmid = NULL WHERE id = $1", merchant_id)


@pytest.mark.parametrize("current", list(MerchantState))
@pytest.mark.parametrize("wanted", list(MerchantState))
def test_the_table_of_states_is_the_law(current: MerchantState, wanted: MerchantState) -> None:
    if wanted in MERCHANTS[current]:
        assert require_merchant(current, wanted) == wanted
    else:
        with pytest.raises(IllegalTransition):
            require_merchant(current, wanted)


async def test_every_move_at_its_door_with_its_reason_and_its_entry(operator: Staff, database: Database) -> None:
    merchant_id = await taken_in(operator)
    way = [
        ("reject", {"reason": "no papers"}, "rejected", "no papers", "merchant.rejected"),
        ("resubmit", None, "pending", None, "merchant.resubmitted"),
        ("approve", None, "approved", None, "merchant.approved"),
        ("suspend", {"reason": "complaints"}, "suspended", "complaints", "merchant.suspended"),
        ("approve", None, "approved", None, "merchant.approved"),
        ("reject", {"reason": "fraud"}, "rejected", "fraud", "merchant.rejected"),
    ]

    for door, body, status, reason, action in way:
        before = len(await audited(database, action))
        moved = await operator.post(f"/admin/merchants/{merchant_id}/{door}", body)
        assert (moved["status"], moved["status_reason"]) == (status, reason)
        assert len(await audited(database, action)) == before + 1
    forbidden = await operator.refused("POST", f"/admin/merchants/{merchant_id}/approve", status=409)
    assert (forbidden["code"], forbidden["details"]) == ("CONFLICT", {"status": "rejected"})


async def test_a_rejection_says_why(operator: Staff) -> None:
    merchant_id = await taken_in(operator)

    refused = await operator.refused("POST", f"/admin/merchants/{merchant_id}/reject", {}, status=400)

    assert [error["field"] for error in refused["errors"]] == ["reason"]


async def test_only_what_is_named_is_changed_and_both_sides_are_written_down(
    operator: Staff, database: Database
) -> None:
    merchant_id = await taken_in(operator)

    changed = await operator.patch(f"/admin/merchants/{merchant_id}", {"brand_name": "Toko Baru", "city": "Jakarta"})
    again = await operator.patch(f"/admin/merchants/{merchant_id}", {"brand_name": "Toko Baru"})

    assert (changed["brand_name"], changed["legal_name"], again["brand_name"]) == (
        "Toko Baru", "Toko Indo", "Toko Baru",
    )  # fmt: skip
    (entry,) = await audited(database, "merchant.changed")
    assert json.loads(entry["details"]) == {"before": {"brand_name": "Toko Indo"}, "after": {"brand_name": "Toko Baru"}}


async def test_what_a_qr_needs_cannot_be_taken_away(operator: Staff) -> None:
    merchant_id = await taken_in(operator)

    for field in (*QR_FACTS, "fee_profile_id"):
        refused = await operator.refused("PATCH", f"/admin/merchants/{merchant_id}", {field: None}, status=400)
        assert [error["field"] for error in refused["errors"]] == [field]


async def test_money_for_a_suspended_merchant_is_recorded_and_waits(operator: Staff, database: Database) -> None:
    shop = await open_shop(database)
    payment = await shop.payment(await shop.box())
    await operator.post(f"/admin/merchants/{shop.merchant_id}/suspend", {"reason": "complaints"})

    (taken,) = await take(database, report(payment))

    assert taken.outcome == "needs_review"
    stored = await row(database, "SELECT state, review_reason FROM payment")
    assert stored == {"state": "needs_review", "review_reason": "merchant_not_approved"}
    assert await rows(database, "SELECT id FROM outbox_message WHERE kind = 'payment_success'") == []
    (alert,) = await operator.get("/admin/alerts", kind="merchant.paid_unapproved")
    assert alert["subject"] == {"kind": "merchant", "id": shop.merchant_id}


@pytest.mark.parametrize("status", ["pending", "suspended", "rejected"])
async def test_a_merchant_that_is_not_approved_issues_no_qr(operator: Staff, database: Database, status: str) -> None:
    shop = await open_shop(database)
    device_id, token = await shop.box_with_token()
    await shop.set_status(status)

    answer = await ask(operator, shop, device_id, token)

    assert (answer["status"], answer["code"]) == (403, "FORBIDDEN")
    assert await rows(database, "SELECT id FROM payment") == []


@pytest.mark.parametrize("place", ["outlets", "terminals"])
async def test_a_disabled_place_issues_no_qr_and_what_was_asked_before_is_still_paid(
    operator: Staff, database: Database, place: str
) -> None:
    shop = await open_shop(database)
    device_id, token = await shop.box_with_token()
    payment = await shop.payment(device_id)
    place_id = {"outlets": shop.outlet_id, "terminals": shop.terminal_id}[place]
    await operator.patch(f"/admin/{place}/{place_id}", {"status": "disabled"})

    answer = await ask(operator, shop, device_id, token)
    (taken,) = await take(database, report(payment))

    assert (answer["status"], answer["detail"]) == (403, "This terminal is disabled.")
    assert taken.outcome == "applied"


async def ask(operator: Staff, shop: Shop, device_id: str, token: str) -> dict[str, object]:
    asked = {
        "device_id": device_id, "terminal_id": shop.terminal_id, "amount": 5_000, "currency": "IDR",
        "request_id": "req-1",
    }  # fmt: skip
    answer = await operator.hub.http.post(
        "/device/transactions/dynamic-qr", json=asked, headers={"authorization": f"Bearer {token}"}
    )
    return dict(answer.json())


async def test_the_list_is_filtered_searched_and_paged(operator: Staff) -> None:
    names = [f"Warung {number}" for number in range(5)]
    ids = [await taken_in(operator, brand_name=name, legal_name=f"PT {name}") for name in names]
    await operator.post(f"/admin/merchants/{ids[2]}/approve")
    await operator.patch(f"/admin/merchants/{ids[3]}", {"payout_mode": "manual"})

    async def found(**filters: object) -> list[str]:
        return [merchant["id"] for merchant in await operator.get("/admin/merchants", **filters)]

    pages = [page async for page in operator.pages("/admin/merchants", limit=2)]
    assert [merchant["id"] for page in pages for merchant in page] == ids[::-1]
    assert await found(status="approved") == [ids[2]]
    assert await found(payout_mode="manual") == [ids[3]]
    assert await found(q="warung 4") == [ids[4]]
    assert await found(q="pt warung") == ids[::-1]
    assert await found(q="%") == []
    assert await found(created_from="2020-01-01T00:00:00Z", created_to="2020-01-02T00:00:00+07:00") == []
    assert await found(created_from="2020-01-01T00:00:00+07:00") == ids[::-1]


async def test_a_merchant_that_is_not_there_is_not_found(operator: Staff, tmp_path: Path) -> None:
    for method, path, body in (
        ("GET", "", None), ("PATCH", "", {}), ("POST", "/approve", None), ("POST", "/reject", {"reason": "x"}),
        ("POST", "/outlets", {"name": "x"}), ("GET", "/documents", None),
        ("POST", "/documents", {"document_type": "x", "document_url": "https://papers.test/1"}),
    ):  # fmt: skip
        refused = await operator.refused(method, f"/admin/merchants/mer_none{path}", body, status=404)
        assert refused["code"] == "NOT_FOUND"
