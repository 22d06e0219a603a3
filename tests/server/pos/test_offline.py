"""Tills that were offline: what they sold is taken over once, and what does not fit waits for somebody."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from support.books import check_books
from support.hub import Hub
from support.merchant import Merchant, a_stranger
from support.shop import Shop, execute, payment_row, row, rows
from support.staff import audited

from soundbox_server import clock
from soundbox_server.clock import rfc3339
from soundbox_server.db import Database
from soundbox_server.payments.refunds import request_refund
from soundbox_server.revenue import service as revenue

SYNC, CONFLICTS = "/api/v1/pos/offline/batch-sync", "/api/v1/pos/offline/conflicts"
DAY_MS = 86_400_000


def uuid(number: int) -> str:
    return str(UUID(int=number))


def a_sale(number: int, amount: int = 33000, **other: Any) -> dict[str, Any]:
    """A cash sale of an hour ago, as the till of reference 002 tells it."""
    return {
        "offline_id": uuid(number), "offline_reference": f"POS01-20251013-{number:04d}", "device_id": "POS01",
        "created_at_device": rfc3339(AN_HOUR_AGO_MS), "branch_code": "main", "payment_method": "CASH",
        "id_user_apps": 7, "type_transaction": 1, "subtotal": amount, "discount_total": 0, "tax_total": 0,
        "grand_total": amount, "status": "paid", "payment_status": "paid", "sync_status": "pending",
    } | other  # fmt: skip


AN_HOUR_AGO_MS = clock.now_ms() - 3_600_000
DRAFT = {"status": "draft", "payment_status": "pending_payment"}
VOID = {"status": "void", "payment_status": "void"}


def beside(number: int, item: int, **other: Any) -> dict[str, Any]:
    """A payment or a void of that sale."""
    return {
        "offline_id": uuid(item), "offline_reference": f"POS01-20251013-{number:04d}", "device_id": "POS01",
        "created_at_device": rfc3339(AN_HOUR_AGO_MS + 60_000),
    } | other  # fmt: skip


def payment(number: int, item: int, amount: int = 33000, method: str = "cash") -> dict[str, Any]:
    return beside(number, item, payment_method=method, amount=amount)


async def sync(merchant: Merchant, *transactions: dict[str, Any], key: str | None = None, **other: Any) -> Any:
    body = {"transactions": list(transactions), "device_id": "POS01", "synced_at": rfc3339(clock.now_ms())} | other
    return (await merchant.post(SYNC, body, key=key))["data"]


async def resolve(merchant: Merchant, conflict_id: str, resolution: str, *, status: int = 200) -> Any:
    return await merchant.post(f"{CONFLICTS}/{conflict_id}/resolve", {"resolution": resolution}, status=status)


async def in_cash(database: Database) -> int:
    """What is in the drawers, once the books were found to be right; the days' revenue agrees."""
    assert await database.read(lambda tx: revenue.differences(tx)) == []
    return (await check_books(database)).cash


async def test_a_batch_is_taken_over_and_a_second_time_changes_nothing(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    batch = [a_sale(1), a_sale(2, 5000), a_sale(3, 700)]

    first = await sync(owner, *batch)
    again = await sync(owner, *reversed(batch))

    assert (first["success"], first["total_items"], first["success_count"], first["failed_count"]) == (True, 3, 3, 0)
    assert first["conflicts"] == again["conflicts"] == []
    assert sorted(map(str, again["results"])) == sorted(map(str, first["results"]))
    assert [result["transaction_code"] for result in first["results"]] == [one["offline_reference"] for one in batch]
    assert await in_cash(database) == 38700
    booked = await payment_row(database, first["results"][0]["payment_id"])
    assert (booked["paid_at_ms"], booked["method"], booked["state"]) == (AN_HOUR_AGO_MS, "cash", "paid")
    assert (booked["outlet_id"], booked["terminal_id"]) == (shop.outlet_id, shop.terminal_id)
    status = (await owner.get(f"/api/v1/pos/payments/{booked['id']}"))["data"]
    assert (status["status"], status["channel_code"]) == ("paid", "CASH")
    told = await audited(database, "offline.synced")
    assert len(told) == 2
    assert '"taken":3' in told[0]["details"]


async def test_no_box_speaks_of_it(owner: Merchant, shop: Shop, database: Database) -> None:
    await shop.box()

    await sync(owner, a_sale(1))

    assert await rows(database, "SELECT id FROM outbox_message") == []


async def test_batches_that_come_at_once_book_each_sale_once(owner: Merchant, database: Database) -> None:
    batches = [[a_sale(n) for n in range(1, 6)], [a_sale(n) for n in range(5, 0, -1)], [a_sale(n) for n in (3, 6)]]

    answers = await asyncio.gather(*(sync(owner, *batch) for batch in batches))

    assert all(answer["success"] for answer in answers)
    assert await in_cash(database) == 6 * 33000


async def test_one_item_that_does_not_fit_stops_no_other(owner: Merchant, database: Database) -> None:
    answered = await sync(
        owner, a_sale(1), {"offline_id": "not a uuid"}, a_sale(2, subtotal="33000"), a_sale(3, grand_total=0.5),
        a_sale(4, created_at_device="2025-10-13T10:30:00"), {}, a_sale(5, grand_total=10**30), a_sale(6),
    )  # fmt: skip

    assert [result["success"] for result in answered["results"]] == [True, *[False] * 6, True]
    assert (answered["success"], answered["success_count"], answered["failed_count"]) == (False, 2, 6)
    assert answered["results"][1]["offline_id"] == "not a uuid"
    assert answered["results"][2]["error"].startswith("subtotal: ")
    assert answered["conflicts"] == []
    assert await in_cash(database) == 66000


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"payment_method": "qris"}, "only cash is taken offline"),
        ({"branch_code": "nowhere"}, "no such branch_code"),
        ({"type_transaction": 2}, "only sales are taken offline"),
        ({"grand_total": 32000}, "subtotal - discount_total + tax_total is not grand_total"),
        ({"subtotal": 0, "grand_total": 0}, "grand_total must be from 1 to 1000000000 rupiah"),
        ({"payment_status": "pending_payment"}, "status and payment_status contradict each other"),
        ({"created_at_device": rfc3339(AN_HOUR_AGO_MS - 30 * DAY_MS)}, "older than 30 days"),
    ],
)
async def test_what_a_rule_forbids_waits_for_somebody(
    owner: Merchant, database: Database, wrong: dict[str, Any], reason: str
) -> None:
    first = await sync(owner, a_sale(1, **wrong), a_sale(2))
    again = await sync(owner, a_sale(1, **wrong))

    (conflict,) = first["conflicts"]
    assert again["conflicts"] == [conflict]
    assert (conflict["conflict_type"], conflict["reason"]) == ("constraint_violation", reason)
    assert (conflict["offline_reference"], conflict["suggested_resolution"]) == ("POS01-20251013-0001", "keep_local")
    assert (first["results"][0]["success"], first["results"][0]["conflict_detected"]) == (False, True)
    assert await in_cash(database) == 33000
    (listed,) = (await owner.get(CONFLICTS))["data"]
    assert (listed["conflict_id"], listed["server_data"], listed["resolved_at"]) == (
        conflict["conflict_id"], None, None,
    )  # fmt: skip


async def test_what_was_put_right_meanwhile_is_taken_over_with_the_next_batch(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    await sync(owner, a_sale(1, branch_code="utara"))
    await execute(database, "UPDATE outlet SET outlet_code = 'utara' WHERE id = $1", shop.outlet_id)

    answered = await sync(owner, a_sale(1, branch_code="utara"))

    assert (answered["success"], answered["conflicts"]) == (True, [])
    (listed,) = (await owner.get(CONFLICTS))["data"]
    assert (listed["resolution_strategy"], listed["resolved_by"]) == ("keep_local", None)
    assert await in_cash(database) == 33000


async def test_the_till_of_a_branch_takes_its_sales(owner: Merchant, shop: Shop, database: Database) -> None:
    await execute(
        database,
        "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, created_at_ms) "
        "VALUES ('out_utara', $1, 'utara', 'Utara', '', 'active', 1)",
        shop.merchant_id,
    )
    for terminal in ("term_a", "term_b"):
        await execute(
            database,
            "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, is_default, "
            "created_at_ms) VALUES ($1, 'out_utara', $2, $1, 'dynamic', 'active', $3, 1)",
            terminal, shop.merchant_id, False,
        )  # fmt: skip

    synced = await sync(owner, a_sale(1, branch_code="utara"), a_sale(2, branch_code=None))

    there, here = [await payment_row(database, result["payment_id"]) for result in synced["results"]]
    assert (there["outlet_id"], there["terminal_id"]) == ("out_utara", "term_a")
    assert (here["outlet_id"], here["terminal_id"]) == (shop.outlet_id, shop.terminal_id)


async def test_a_till_whose_clock_is_ahead_sold_when_we_heard_of_it(owner: Merchant, database: Database) -> None:
    before = clock.now_ms()

    synced = await sync(owner, a_sale(1, created_at_device=rfc3339(before + 3_600_000)))

    booked = await payment_row(database, synced["results"][0]["payment_id"])
    assert before <= booked["paid_at_ms"] <= clock.now_ms()
    (step,) = await rows(database, "SELECT detail FROM payment_event WHERE kind = 'payment.paid'")
    assert step["detail"] == "till_clock_ahead"


async def test_a_draft_is_paid_by_its_payment_and_gone_with_its_void(owner: Merchant, database: Database) -> None:
    drafted = await sync(owner, a_sale(1, **DRAFT), a_sale(2, **DRAFT))
    assert await in_cash(database) == 0

    paid = await sync(owner, payments=[payment(1, 11)], voids=[beside(2, 12, reason="salah")])
    again = await sync(owner, a_sale(1, **DRAFT), payments=[payment(1, 11)], voids=[beside(2, 12, reason="salah")])

    assert [result["payment_id"] for result in drafted["results"]] == [None, None]
    assert [(result["type"], result["success"]) for result in paid["results"]] == [("payment", True), ("void", True)]
    assert again["success"]
    booked = await payment_row(database, paid["results"][0]["payment_id"])
    assert booked["paid_at_ms"] == AN_HOUR_AGO_MS + 60_000
    assert await in_cash(database) == 33000


async def test_a_whole_sale_in_one_batch_whatever_its_order(owner: Merchant, database: Database) -> None:
    synced = await sync(
        owner, a_sale(1, **DRAFT), a_sale(2), payments=[payment(1, 11), payment(2, 12)], voids=[beside(2, 13)]
    )

    assert synced["success"]
    assert await in_cash(database) == 33000
    assert await rows(database, "SELECT state FROM offline_item WHERE kind = 'transaction' ORDER BY id") == [
        {"state": "paid"}, {"state": "void"},
    ]  # fmt: skip


async def test_a_sale_that_went_on_is_told_again_and_an_older_word_says_nothing(
    owner: Merchant, database: Database
) -> None:
    for status in (DRAFT, {}, DRAFT, VOID, {}, DRAFT):
        assert (await sync(owner, a_sale(1, **status)))["success"]

    assert await in_cash(database) == 0
    assert [one["state"] for one in await rows(database, "SELECT state FROM payment")] == ["reversed"]
    (item,) = await rows(database, "SELECT state FROM offline_item")
    assert item["state"] == "void"
    journals = await rows(database, "SELECT kind FROM journal ORDER BY id")
    assert [journal["kind"] for journal in journals] == ["capture", "reversal"]


async def test_what_names_no_transaction_of_ours_waits(owner: Merchant, database: Database) -> None:
    first = await sync(owner, payments=[payment(1, 11)], voids=[beside(2, 12)])
    second = await sync(owner, a_sale(1, **DRAFT), a_sale(2), payments=[payment(1, 11)], voids=[beside(2, 12)])

    assert [conflict["reason"] for conflict in first["conflicts"]] == ["no such transaction"] * 2
    assert (second["success"], second["conflicts"]) == (True, [])
    assert await in_cash(database) == 33000


async def test_a_payment_is_of_the_whole_amount_and_in_cash(owner: Merchant, database: Database) -> None:
    synced = await sync(
        owner, a_sale(1, **DRAFT), a_sale(2, **DRAFT), a_sale(3, **VOID),
        payments=[payment(1, 11, 32999), payment(2, 12, method="ovo"), payment(3, 13)],
    )  # fmt: skip

    assert [conflict["reason"] for conflict in synced["conflicts"]] == [
        "the amount is not the transaction's grand_total", "only cash is taken offline", "the transaction is void",
    ]  # fmt: skip
    assert await in_cash(database) == 0


async def test_the_same_sale_under_another_id_is_a_duplicate(owner: Merchant, database: Database) -> None:
    first = await sync(owner, a_sale(1))

    copy = await sync(owner, a_sale(1, offline_id=uuid(99)))

    (conflict,), (result,) = copy["conflicts"], copy["results"]
    assert (conflict["conflict_type"], conflict["suggested_resolution"]) == ("duplicate", "keep_server")
    assert (result["success"], result["server_id"]) == (True, first["results"][0]["server_id"])
    assert await in_cash(database) == 33000


async def mismatch(owner: Merchant) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two tills that used one reference: what we have, and the conflict."""
    first = await sync(owner, a_sale(1))
    second = await sync(owner, a_sale(1, 20000, offline_id=uuid(2), device_id="POS02", id_user_apps=8))
    (conflict,) = second["conflicts"]
    assert (conflict["conflict_type"], second["results"][0]["success"]) == ("data_mismatch", False)
    assert conflict["reason"] == "differs in grand_total, subtotal"
    return first["results"][0], conflict


async def test_keep_server_gives_up_what_the_till_said(owner: Merchant, database: Database) -> None:
    taken, conflict = await mismatch(owner)

    resolved = (await resolve(owner, conflict["conflict_id"], "keep_server"))["data"]
    again = await sync(owner, a_sale(1, 20000, offline_id=uuid(2), device_id="POS02", id_user_apps=8))

    assert (resolved["resolution_strategy"], resolved["resolved_by"]) == ("keep_server", "per_test_merchant_owner")
    assert resolved["local_data"]["grand_total"] == 20000
    assert resolved["server_data"]["grand_total"] == 33000
    assert (again["success"], again["conflicts"]) == (True, [])
    assert again["results"][0]["payment_id"] == taken["payment_id"]
    assert await in_cash(database) == 33000
    (told,) = await audited(database, "offline_conflict.resolved")
    assert told["subject_id"] == conflict["conflict_id"]


async def test_keep_local_takes_the_cash_back_and_books_it_anew(owner: Merchant, database: Database) -> None:
    taken, conflict = await mismatch(owner)

    await resolve(owner, conflict["conflict_id"], "keep_local")
    again = await sync(owner, a_sale(1, 20000, offline_id=uuid(2), device_id="POS02", id_user_apps=8))

    assert again["success"]
    assert again["results"][0]["server_id"] == taken["server_id"]
    assert again["results"][0]["payment_id"] != taken["payment_id"]
    assert (await payment_row(database, taken["payment_id"]))["state"] == "reversed"
    assert await in_cash(database) == 20000


async def test_merge_takes_over_who_rang_it_up_and_leaves_the_money(owner: Merchant, database: Database) -> None:
    taken, conflict = await mismatch(owner)

    await resolve(owner, conflict["conflict_id"], "merge")
    again = await sync(owner, a_sale(1))

    assert again["results"] == [taken]
    item = await row(database, "SELECT facts FROM offline_item")
    assert '"device_id":"POS02"' in item["facts"]
    assert '"id_user_apps":8' in item["facts"]
    assert '"grand_total":33000' in item["facts"]
    assert await in_cash(database) == 33000


async def test_cash_that_was_refunded_before_its_void_leaves_the_drawer_once(
    owner: Merchant, hub: Hub, database: Database
) -> None:
    (sold,) = (await sync(owner, a_sale(1)))["results"]
    await refund(database, sold["payment_id"])

    voided = await sync(owner, voids=[beside(1, 11)])

    assert voided["success"]
    assert (await payment_row(database, sold["payment_id"]))["state"] == "refunded"
    assert await rows(database, "SELECT id FROM journal WHERE kind = 'reversal'") == []


async def refund(database: Database, payment_id: str) -> None:
    await database.write(
        lambda tx: request_refund(
            tx, payment_id, amount=None, reason="salah", requested_by=None, able={}, now_ms=clock.now_ms()
        )
    )


async def test_a_conflict_is_resolved_once_by_what_its_type_knows_and_by_its_own_merchant(
    owner: Merchant, hub: Hub, database: Database
) -> None:
    (forbidden,) = (await sync(owner, a_sale(7, payment_method="qris")))["conflicts"]
    _, conflict = await mismatch(owner)
    stranger = await a_stranger(hub)
    stays = forbidden["conflict_id"]

    assert (await resolve(owner, stays, "merge", status=409))["error"] == "CONFLICT"
    assert "only cash" in (await resolve(owner, stays, "keep_local", status=409))["message"]
    assert (await resolve(stranger, stays, "keep_server", status=404))["error"] == "NOT_FOUND"
    assert (await resolve(Merchant(hub, "merchant_staff"), stays, "keep_server", status=403))["code"] == 403
    assert (await stranger.get(CONFLICTS))["data"] == []
    await resolve(owner, stays, "keep_server")
    assert (await resolve(owner, stays, "keep_server", status=409))["details"] == {"resolution": "keep_server"}
    given_up = await sync(owner, a_sale(7, payment_method="qris"))
    assert (given_up["results"][0]["success"], given_up["conflicts"]) == (False, [])
    assert given_up["results"][0]["error"] == "given up: only cash is taken offline"
    listed = [
        [one["conflict_id"] for one in (await owner.get(CONFLICTS, {"status": status}))["data"]]
        for status in ("open", "resolved")
    ]
    assert listed == [[conflict["conflict_id"]], [stays]]


async def test_an_old_sale_is_taken_over_when_somebody_says_so(owner: Merchant, database: Database) -> None:
    sold_ms = AN_HOUR_AGO_MS - 40 * DAY_MS
    (conflict,) = (await sync(owner, a_sale(1, created_at_device=rfc3339(sold_ms))))["conflicts"]

    await resolve(owner, conflict["conflict_id"], "keep_local")

    (booked,) = await rows(database, "SELECT paid_at_ms FROM payment")
    assert booked["paid_at_ms"] == sold_ms
    assert await in_cash(database) == 33000


async def test_two_people_who_resolve_one_conflict_book_it_once(owner: Merchant, hub: Hub, database: Database) -> None:
    _, conflict = await mismatch(owner)

    answers = await asyncio.gather(
        *(
            owner.call("POST", f"{CONFLICTS}/{conflict['conflict_id']}/resolve", json={"resolution": "keep_local"})
            for _ in range(4)
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert await in_cash(database) == 20000


async def test_an_idempotency_key_gets_the_first_answer_byte_for_byte(owner: Merchant, database: Database) -> None:
    body = {"transactions": [a_sale(1)], "device_id": "POS01", "synced_at": rfc3339(AN_HOUR_AGO_MS)}

    first = await owner.call("POST", SYNC, json=body, key="k")
    again = await owner.call("POST", SYNC, json=body, key="k")

    assert (first.status_code, again.content, again.headers["idempotent-replayed"]) == (200, first.content, "true")
    assert await in_cash(database) == 33000


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_batch_has_limits(owner: Merchant, database: Database) -> None:
    said = {"transactions": [a_sale(n) for n in range(101)], "device_id": "POS01", "synced_at": rfc3339(1)}

    too_many = await owner.call("POST", SYNC, json=said)
    too_large = await owner.call("POST", SYNC, content=b" " * (256 * 1024 + 1))
    no_list = await owner.post(SYNC, {"device_id": "POS01", "synced_at": rfc3339(1)}, status=400)
    largest = await sync(owner, *(a_sale(n) for n in range(100)))

    assert (too_many.status_code, too_large.status_code, no_list["error"]) == (400, 413, "VALIDATION_FAILED")
    assert largest["success_count"] == 100
    assert await in_cash(database) == 100 * 33000
