"""Buying tokens: a payment to the platform, whose capture issues what it promised, once."""

import asyncio
from typing import Any

import pytest
from support.books import check_books
from support.hub import Hub
from support.partner import Partner, a_stranger, accounts
from support.shop import Shop, execute, payment_row, report, row, rows, take
from support.staff import audited

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.partners.topups import Tier, bonus
from soundbox_server.payments import qris
from soundbox_server.payments.charging import Pending, find_charge
from soundbox_server.payments.service import expire_unpaid
from soundbox_server.providers.base import Capabilities, Charge, ChargeRequest, Method
from soundbox_server.reconciliation import books

REQUEST = "/api/topup/request"
TIERS = [Tier(min_tokens=100, bonus_tokens=0), Tier(min_tokens=500, bonus_tokens=25),
         Tier(min_tokens=1_000, bonus_tokens=100)]  # fmt: skip


async def asked(partner: Partner, **other: Any) -> dict[str, Any]:
    wanted = {"license_key": partner.license_key, "token_count": 500, "payment_method": "qris"} | other
    return dict(await partner.post(REQUEST, wanted))


async def charge_of(database: Database, topup_id: str) -> Pending:
    stored = await row(database, "SELECT payment_id FROM token_topup WHERE id = $1", topup_id)
    return await database.read(lambda tx: find_charge(tx, stored["payment_id"]))


async def pay(database: Database, topup_id: str, **other: Any) -> None:
    await take(database, report(await charge_of(database, topup_id), **other), now_ms=clock.now_ms())


@pytest.mark.parametrize(
    ("wanted", "besides"), [(1, 0), (99, 0), (100, 0), (499, 0), (500, 25), (999, 25), (1_000, 100), (50_000, 100)]
)
def test_what_comes_besides_is_that_of_the_highest_tier_reached(wanted: int, besides: int) -> None:
    assert bonus(TIERS, wanted) == besides


async def test_tokens_are_there_once_they_are_paid_for_and_not_before(
    hub: Hub, partner: Partner, platform: Shop, database: Database
) -> None:
    made = await asked(partner)
    before = await partner.balance()

    await pay(database, made["transaction_id"])
    again = report(await charge_of(database, made["transaction_id"]))
    await take(database, again, again, now_ms=clock.now_ms())
    checked = (await hub.http.get(f"/api/topup/check/{made['transaction_id']}")).json()["data"]

    assert (made["tokens_requested"], made["bonus_tokens"], made["total_tokens"]) == (500, 25, 525)
    assert (made["amount_to_pay"], made["price_per_token"], made["status"]) == (50_000, 100, "pending")
    assert qris.amount_idr(qris.decode(made["qris"]["qr_string"])) == 50_000
    assert (made["payment_url"], made["virtual_account"], made["payment_method"]) == (None, None, "qris")
    assert (before, await partner.balance()) == (3, 528)
    assert (checked["status"], checked["total_tokens"], checked["amount"]) == ("success", 525, 50_000)
    assert checked["paid_at"] is not None
    payment = await payment_row(database, (await row(database, "SELECT payment_id FROM token_topup"))["payment_id"])
    assert payment["merchant_id"] == platform.merchant_id
    assert await accounts(database) == {"token_issue": -528, f"license:{partner.license_id}": 528}
    await check_books(database)
    assert await database.write(books.check) == []


async def test_of_twenty_callbacks_at_once_the_tokens_are_issued_once(
    partner: Partner, platform: Shop, database: Database
) -> None:
    made = await asked(partner)
    said = [report(await charge_of(database, made["transaction_id"])) for _ in range(20)]

    await asyncio.gather(*(take(database, one, now_ms=clock.now_ms()) for one in said))

    assert await partner.balance() == 528


async def test_another_amount_issues_nothing(partner: Partner, platform: Shop, database: Database) -> None:
    made = await asked(partner)

    await pay(database, made["transaction_id"], amount=1_000)

    assert await partner.balance() == 3
    assert (await partner.get(f"/api/topup/status/{made['transaction_id']}"))["status"] == "pending"


async def test_a_page_has_an_address_and_no_qr(partner: Partner, platform: Shop) -> None:
    page = await asked(partner, payment_method="CHECKOUT_PAGE")

    assert "/pay/pay_" in page["payment_url"]
    assert (page["qris"], page["virtual_account"], page["payment_method"]) == (None, None, "checkout_page")


async def test_a_virtual_account_has_a_number(
    hub: Hub, partner: Partner, platform: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def transfer(request: ChargeRequest) -> Charge:
        return Charge(
            provider="sandbox", reference=request.reference, provider_transaction_id="va-1",
            amount_idr=request.amount_idr, va_number="8808123456", expires_at_ms=request.expires_at_ms, body=b"{}",
            qr_payload="",
        )  # fmt: skip

    gateway = hub.app.state.gateways.get("sandbox")
    able = Capabilities(methods=frozenset({Method.VA_BCA}), cancel=True, refund=True, partial_refund=True)
    monkeypatch.setattr(type(gateway), "capabilities", property(lambda self: able))
    monkeypatch.setattr(gateway, "create", transfer)

    made = await asked(partner, payment_method="va_bca")

    assert made["virtual_account"] == {"number": "8808123456", "name": "Platform", "bank": "BCA"}
    assert (made["payment_url"], made["qris"], made["gateway_transaction_id"]) == (None, None, "va-1")
    assert (await partner.get("/api/topup/history"))[0]["gateway_va_number"] == "8808123456"
    offered = {one["id"] for one in await partner.get("/api/topup/payment-methods") if one["enabled"]}
    assert offered == {"va_bca"}


async def test_it_is_cancelled_at_the_provider_and_then_here_but_not_once_it_is_paid(
    partner: Partner, platform: Shop, database: Database
) -> None:
    first, second = await asked(partner), await asked(partner)
    await pay(database, second["transaction_id"])

    cancelled = await partner.post(f"/api/topup/cancel/{first['transaction_id']}")
    late = await partner.refused("POST", f"/api/topup/cancel/{second['transaction_id']}", status=409)

    assert cancelled["status"] == "cancelled"
    assert late["code"] == "CONFLICT"
    assert (await partner.get(f"/api/topup/status/{first['transaction_id']}"))["status"] == "cancelled"
    assert len(await audited(database, "token_topup.cancelled")) == 1


async def test_it_is_synced_with_what_the_provider_knows(hub: Hub, partner: Partner, platform: Shop) -> None:
    made = await asked(partner)
    path = f"/api/topup/sync/{made['transaction_id']}"
    waiting = (await hub.http.post(path)).json()["data"]
    charge = await charge_of(hub.app.state.database, made["transaction_id"])

    await hub.app.state.simulator.pay(charge.reference)
    synced = (await hub.http.post(path)).json()["data"]
    again = (await hub.http.post(path)).json()["data"]

    assert (waiting["status"], waiting["updated"], waiting["gateway_status"]) == ("pending", False, "open")
    assert synced["status"] == again["status"] == "success"
    assert again["updated"] is False
    assert await partner.balance() == 528


async def test_who_asks_for_the_same_sync_over_and_over_is_told_to_wait(
    hub: Hub, partner: Partner, platform: Shop
) -> None:
    made = await asked(partner)

    answers = [await hub.http.post(f"/api/topup/sync/{made['transaction_id']}") for _ in range(11)]

    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[-1].json()["details"]["retryAfter"] > 0


async def test_an_expired_one_says_so_and_its_late_money_issues_the_tokens_all_the_same(
    partner: Partner, platform: Shop, database: Database
) -> None:
    made = await asked(partner)
    await database.write(lambda tx: expire_unpaid(tx, now_ms=clock.now_ms() + 3_600_000))
    expired = await partner.get(f"/api/topup/status/{made['transaction_id']}")

    await pay(database, made["transaction_id"])

    assert expired["status"] == "expired"
    assert (await partner.get(f"/api/topup/status/{made['transaction_id']}"))["status"] == "success"
    assert await partner.balance() == 528


async def test_late_money_for_tokens_is_kept_and_cannot_be_given_back_unawares(
    hub: Hub, partner: Partner, platform: Shop, database: Database
) -> None:
    made = await asked(partner)
    pending = await charge_of(database, made["transaction_id"])
    before = await partner.balance()
    await execute(database, "UPDATE merchant SET late_policy = 'refund'")
    await execute(database, "UPDATE payment SET state = 'expired' WHERE id = $1", pending.payment_id)

    await pay(database, made["transaction_id"])
    refused = await hub.http.post(
        f"/admin/transactions/{pending.payment_id}/refund",
        json={"reason": "asked for"},
        headers=hub.as_role("finance"),
    )
    taken_back = await hub.call_back(hub.said(pending, status="reversed"))

    assert await partner.balance() == before + 525
    assert await rows(database, "SELECT id FROM refund") == []
    assert refused.status_code == 409, refused.text
    assert taken_back.status_code == 200
    (alert,) = await rows(database, "SELECT subject_id FROM alert WHERE kind = 'payment.promised_kept'")
    assert alert["subject_id"] == pending.payment_id


async def test_the_history_is_a_plain_list_the_newest_first(hub: Hub, partner: Partner, platform: Shop) -> None:
    first, second = await asked(partner), await asked(partner, payment_method="checkout_page")

    told = await partner.get("/api/topup/history")
    page = await partner.get("/api/topup/history", page=2, limit=1)
    theirs = await (await a_stranger(hub)).get("/api/topup/history")

    assert [one["id"] for one in told] == [second["transaction_id"], first["transaction_id"]]
    assert (told[0]["gateway_payment_url"], told[1]["gateway_payment_url"]) == (second["payment_url"], None)
    assert (told[0]["user_id"], told[0]["license_key"]) == ("per_test_partner", partner.license_key)
    assert [one["id"] for one in page] == [first["transaction_id"]]
    assert theirs == []


async def test_asked_twice_with_a_key_it_is_one_payment(partner: Partner, platform: Shop, database: Database) -> None:
    wanted = {"license_key": partner.license_key, "token_count": 100, "payment_method": "qris"}

    first, second = [await partner.call("POST", REQUEST, json=wanted, key="k") for _ in range(2)]

    assert first.content == second.content
    assert len(await rows(database, "SELECT id FROM token_topup")) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_methods_and_tiers_as_the_sdk_shows_them(partner: Partner) -> None:
    methods = {one["id"]: one for one in await partner.get("/api/topup/payment-methods")}
    tiers = await partner.get("/api/topup/bonus-tiers")

    assert (methods["qris"]["type"], methods["qris"]["enabled"]) == ("qris", True)
    assert (methods["va_bsi"]["type"], methods["va_bsi"]["enabled"]) == ("va", False)
    assert {one["type"] for one in methods.values()} == {"checkout", "va", "qris"}
    assert [(one["min_tokens"], one["max_tokens"], one["bonus_tokens"]) for one in tiers] == [
        (100, 499, 0), (500, 999, 25), (1_000, 4_999, 100), (5_000, 9_999, 750), (10_000, None, 2_000),
    ]  # fmt: skip
    assert tiers[1]["bonus_percentage"] == 5.0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_cannot_be_bought_is_refused(hub: Hub, partner: Partner, platform: Shop, database: Database) -> None:
    stranger = await a_stranger(hub)
    wanted = {"license_key": partner.license_key, "token_count": 500}

    method = await partner.refused("POST", REQUEST, wanted | {"payment_method": "va_bsi"}, status=422)
    await execute(database, "UPDATE license SET price_per_token = 1000")
    much = await partner.refused("POST", REQUEST, wanted | {"token_count": 20_000}, status=400)
    theirs = await stranger.refused("POST", REQUEST, wanted, status=404)
    await execute(database, "UPDATE merchant SET status = 'suspended' WHERE id = $1", platform.merchant_id)
    closed = await partner.refused("POST", REQUEST, wanted, status=503)

    assert (method["code"], much["code"]) == ("INVALID_PAYMENT_TYPE", "INVALID_AMOUNT")
    assert (theirs["code"], closed["code"]) == ("INVALID_LICENSE", "PAYMENTS_CLOSED")
    assert await rows(database, "SELECT id FROM token_topup") == []
