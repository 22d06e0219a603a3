"""Payments that partners ask for, as reference 003's SDK does: one token each, and never two for one transaction_id."""

import asyncio
from typing import Any

import pytest
from support.books import check_books
from support.hub import Hub
from support.partner import GENERATE, QRIS, STATUS, Partner, a_stranger, accounts, licensed
from support.shop import Shop, execute, payment_row, report, row, rows, take, told
from support.staff import audited

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.partners.jobs import AFTER_MS, settle_tokens
from soundbox_server.partners.payments import settle
from soundbox_server.payments import charging, pictures, qris
from soundbox_server.payments.charging import find_charge
from soundbox_server.payments.service import expire_unpaid
from soundbox_server.providers.base import ProviderRefused, ProviderUnknown


async def paid(hub: Hub, payment_id: str, **other: Any) -> None:
    """The customer pays, and the provider says so."""
    database: Database = hub.app.state.database
    pending = await database.read(lambda tx: find_charge(tx, payment_id))
    await take(database, report(pending, **other), now_ms=clock.now_ms())


class Gateway:
    """The provider, doing wrong what it is told to, one fault for each charge that is asked for."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, *faults: str) -> None:
        self.faults, self.asked = list(faults), 0
        self._gateway = hub.app.state.gateways.get("sandbox")
        self._create = self._gateway.create
        monkeypatch.setattr(self._gateway, "create", self.create)

    async def create(self, request: Any) -> Any:
        self.asked += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault == "refuse":
            raise ProviderRefused("It refuses.")
        made = None if fault == "silent" else await self._create(request)
        if fault in ("lost", "silent"):
            raise ProviderUnknown("The answer got lost.")
        return made


async def test_a_qris_costs_a_token_and_is_answered_as_the_sdk_reads_it(
    hub: Hub, partner: Partner, shop: Shop, database: Database
) -> None:
    program = await partner.with_api_key()

    made = await program.generate(description="Laundry Payment", webhook_url="https://api.partner.test/hook")
    picture = await hub.http.get(made["qris"]["qr_image_url"])

    assert made["success"] is True
    assert (made["transaction_id"], made["amount"], made["status"]) == ("TRX-2026-001", 50_000, "pending")
    assert (made["payment_type"], made["payment_url"], made["gateway_provider"]) == ("qris", None, "sandbox")
    assert qris.amount_idr(qris.decode(made["qris"]["qr_content"])) == 50_000
    assert picture.content == (await pictures.picture(made["qris"]["qr_content"], "png")).content
    assert await partner.balance() == 2
    stored = await row(database, "SELECT * FROM partner_payment")
    assert (stored["payment_id"], stored["license_id"]) == (made["payment_id"], partner.license_id)
    assert (stored["organisation_id"], stored["webhook_url"]) == ("org_test_partner", "https://api.partner.test/hook")
    payment = await payment_row(database, made["payment_id"])
    assert (payment["merchant_id"], payment["terminal_id"]) == (shop.merchant_id, shop.terminal_id)
    assert 29 * 60_000 < payment["expires_at_ms"] - clock.now_ms() <= 30 * 60_000
    assert len(await audited(database, "partner_payment.asked")) == 1


async def test_a_page_lives_two_hours_and_shows_what_was_bought(
    hub: Hub, partner: Partner, shop: Shop, database: Database
) -> None:
    items = [{"id": "1", "name": "Laundry 5kg", "price": 50_000, "quantity": 1}]

    made = await partner.generate(
        payment_type="CHECKOUT_PAGE", items=items, back_url="https://myapp.test/done", customer_name="Jane Doe"
    )

    assert (made["payment_type"], made["qris"]) == ("checkout_page", None)
    session = await row(database, "SELECT * FROM payment_session")
    assert made["payment_url"].endswith(f"/pay/{session['id']}")
    assert (session["payment_id"], session["back_url"]) == (made["payment_id"], "https://myapp.test/done")
    assert session["customer_name"] == "Jane Doe"
    assert '"Laundry 5kg"' in session["items"]
    shown = (await hub.http.get(f"/pay/{session['id']}")).text
    assert made["transaction_id"] in shown  # the name that the payer's shop knows
    assert "Laundry 5kg" in shown
    assert 119 * 60_000 < session["expires_at_ms"] - clock.now_ms() <= 120 * 60_000


async def test_without_a_type_it_is_a_page_and_the_minutes_that_are_asked_for_count(
    partner: Partner, database: Database
) -> None:
    asked = partner.asked(expiry_minutes=5)
    del asked["payment_type"]

    made = await partner.post(GENERATE, asked)

    assert made["payment_type"] == "checkout_page"
    left = (await payment_row(database, made["payment_id"]))["expires_at_ms"] - clock.now_ms()
    assert 4 * 60_000 < left <= 5 * 60_000


async def test_what_is_paid_is_the_merchants_and_its_box_says_it(
    hub: Hub, partner: Partner, shop: Shop, database: Database
) -> None:
    await shop.box()
    made = await partner.generate("INV/2026 05/001")

    before = await partner.get(f"{STATUS}/INV/2026 05/001")
    await paid(hub, made["payment_id"])
    after = await partner.get(f"{STATUS}/INV/2026 05/001")

    assert (before["status"], before["paid_at"]) == ("pending", None)
    assert (after["status"], after["amount"], after["transaction_id"]) == ("paid", 50_000, "INV/2026 05/001")
    assert after["paid_at"] is not None
    assert after["gateway_transaction_id"] == made["gateway_transaction_id"]
    assert len(await told(database, made["payment_id"])) == 1
    assert await accounts(database) == {
        "token_issue": -3, f"license:{partner.license_id}": 2, "token_used": 1,
    }  # fmt: skip
    await check_books(database)


async def test_the_same_transaction_is_answered_again_and_charged_once(partner: Partner, database: Database) -> None:
    first = await partner.generate()
    again = await asyncio.gather(*(partner.generate() for _ in range(10)))

    assert all(one == first for one in again)
    assert await partner.balance() == 2
    assert len(await rows(database, "SELECT id FROM payment")) == 1


async def test_of_ten_at_once_of_the_same_transaction_one_is_charged(partner: Partner, database: Database) -> None:
    answers = await asyncio.gather(*(partner.call("POST", GENERATE, json=partner.asked()) for _ in range(10)))

    made = [answer.json()["data"] for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"DUPLICATE_REQUEST"}
    assert made
    assert all(one == made[0] for one in made)
    assert (await partner.generate())["payment_id"] == made[0]["payment_id"]
    assert await partner.balance() == 2


async def test_of_fifty_at_once_on_one_token_one_is_charged(hub: Hub, shop: Shop, database: Database) -> None:
    partner = await licensed(hub, shop, tokens=1)

    answers = await asyncio.gather(
        *(partner.call("POST", GENERATE, json=partner.asked(f"TRX-{number}")) for number in range(50))
    )

    refused = [answer.json() for answer in answers if answer.status_code == 402]
    assert sorted({answer.status_code for answer in answers}) == [200, 402], [answer.text for answer in answers][:3]
    assert len(refused) == 49
    assert refused[0]["details"]["balance"] == 0
    assert len(await rows(database, "SELECT id FROM payment")) == 1
    assert await accounts(database) == {"token_issue": -1, "token_used": 1}


@pytest.mark.parametrize("other", [{"amount": 50_001}, {"payment_type": "checkout_page"}], ids=["amount", "type"])
async def test_the_same_transaction_for_something_else_is_refused(partner: Partner, other: dict[str, Any]) -> None:
    await partner.generate()

    error = await partner.refused("POST", GENERATE, partner.asked(**other), status=409)

    assert error["code"] == "CONFLICT"
    assert await partner.balance() == 2


async def test_a_transaction_is_the_partners_own_name_for_it(
    hub: Hub, partner: Partner, shop: Shop, database: Database
) -> None:
    stranger = await a_stranger(hub)
    made = await partner.generate()

    unknown = await stranger.refused("GET", f"{STATUS}/TRX-2026-001", status=404)
    theirs = await stranger.refused("POST", GENERATE, partner.asked(), status=404)
    another = await licensed(hub, shop, tokens=1, organisation_id="org_strange")
    own = await Partner(hub, headers=stranger.headers).post(GENERATE, another.asked(amount=70_000))

    assert unknown["code"] == "TRANSACTION_NOT_FOUND"
    assert theirs["code"] == "INVALID_LICENSE"
    assert own["payment_id"] != made["payment_id"]


async def test_an_answer_that_was_lost_keeps_the_token_set_aside_and_is_carried_on(
    hub: Hub, partner: Partner, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(hub, monkeypatch, "lost")

    error = await partner.refused("POST", GENERATE, partner.asked(), status=502)
    meanwhile = await accounts(database)
    await let_leases_end(database)
    made = await partner.generate()

    assert error["code"] == "GATEWAY_ERROR"
    assert meanwhile[f"reserved:{partner.license_id}"] == 1
    assert gateway.asked == 1  # the provider was asked where it stands, and not to charge again
    assert made["qris"]["qr_content"]
    assert await accounts(database) == {"token_issue": -3, f"license:{partner.license_id}": 2, "token_used": 1}


async def let_leases_end(database: Database) -> None:
    await execute(database, "UPDATE payment_attempt SET lease_until_ms = 0 WHERE state = 'unknown'")


async def test_a_refusal_gives_the_token_back_and_the_transaction_may_be_tried_anew(
    hub: Hub, partner: Partner, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gateway(hub, monkeypatch, "refuse", "refuse", "refuse")

    error = await partner.refused("POST", GENERATE, partner.asked(), status=502)
    given_back = await partner.balance()
    monkeypatch.undo()
    made = await partner.generate()

    assert (error["code"], given_back) == ("GATEWAY_ERROR", 3)
    assert await partner.balance() == 2
    assert [one["number"] for one in await rows(database, "SELECT number FROM partner_payment ORDER BY number")] == [
        1, 2,
    ]  # fmt: skip
    assert (await partner.get(f"{STATUS}/TRX-2026-001"))["payment_id"] == made["payment_id"]
    states = await rows(database, "SELECT state FROM token_use ORDER BY id")
    assert [one["state"] for one in states] == ["voided", "used"]


async def test_a_token_whose_payment_was_never_charged_goes_back_though_nobody_asks_again(
    hub: Hub, partner: Partner, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gateway(hub, monkeypatch, "silent")
    await partner.refused("POST", GENERATE, partner.asked(), status=502)
    await execute(database, "UPDATE token_use SET created_at_ms = created_at_ms - $1", AFTER_MS + 1)

    await settle_tokens(database)
    waiting = await partner.balance()
    await database.write(lambda tx: expire_unpaid(tx, now_ms=clock.now_ms() + 3_600_000))
    await settle_tokens(database)

    assert (waiting, await partner.balance()) == (2, 3)
    assert await accounts(database) == {"token_issue": -3, f"license:{partner.license_id}": 3}


async def test_a_token_whose_payment_was_paid_without_our_hearing_of_it_is_used(
    hub: Hub, partner: Partner, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gateway(hub, monkeypatch, "lost")
    await partner.refused("POST", GENERATE, partner.asked(), status=502)
    (stored,) = await rows(database, "SELECT payment_id FROM partner_payment")

    await paid(hub, stored["payment_id"])
    await database.write(lambda tx: settle(tx, stored["payment_id"], now_ms=clock.now_ms()))

    assert await accounts(database) == {"token_issue": -3, f"license:{partner.license_id}": 2, "token_used": 1}
    assert (await partner.get(f"{STATUS}/TRX-2026-001"))["status"] == "paid"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("other", "status", "code"),
    [
        ({"amount": 999}, 400, "INVALID_AMOUNT"),
        ({"amount": 10_000_001}, 400, "INVALID_AMOUNT"),
        ({"amount": 50_000.5}, 400, "VALIDATION_FAILED"),
        ({"amount": "50000"}, 400, "VALIDATION_FAILED"),
        ({"amount": 2**64}, 400, "VALIDATION_FAILED"),
        ({"payment_type": "cash"}, 422, "INVALID_PAYMENT_TYPE"),
        ({"license_key": "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE"}, 404, "INVALID_LICENSE"),
        ({"transaction_id": ""}, 400, "VALIDATION_FAILED"),
        ({"webhook_url": "ftp://partner.test"}, 400, "VALIDATION_FAILED"),
    ],
    ids=["too little", "more than QRIS", "cents", "text", "beyond 64 bits", "type", "license", "no name", "webhook"],
)
async def test_what_does_not_fit_is_refused_and_costs_nothing(
    partner: Partner, other: dict[str, Any], status: int, code: str
) -> None:
    error = await partner.refused("POST", GENERATE, partner.asked(**other), status=status)

    assert error["code"] == code
    assert await partner.balance() == 3


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_payment_type_in_any_case_is_answered_in_lower_case(partner: Partner) -> None:
    made = [await partner.generate(f"T-{word}", payment_type=word) for word in ("QRIS", "Qris", "checkout_PAGE")]

    assert [one["payment_type"] for one in made] == ["qris", "qris", "checkout_page"]


async def test_without_tokens_it_says_what_is_there_and_what_it_takes(hub: Hub, shop: Shop) -> None:
    partner = await licensed(hub, shop, tokens=0)

    named = await partner.refused("POST", GENERATE, partner.asked(), status=402)
    older = await partner.refused("POST", QRIS, {"transaction_id": "T", "amount": 5_000}, status=402)

    assert named["code"] == older["code"] == "INSUFFICIENT_TOKENS"
    assert (named["details"]["balance"], named["details"]["required"]) == (0, 1)


async def test_a_license_that_is_over_switched_off_or_nobodys_charges_for_nobody(
    hub: Hub, partner: Partner, shop: Shop, database: Database
) -> None:
    async def code(status: int, **columns: object) -> str:
        for name, value in columns.items():
            await execute(database, f"UPDATE license SET {name} = $1 WHERE id = $2", value, partner.license_id)
        error = await partner.refused("POST", GENERATE, partner.asked(), status=status)
        return str(error["code"])

    assert await code(403, expires_at_ms=1) == "LICENSE_EXPIRED"
    assert await code(403, expires_at_ms=None, trial_expires_at_ms=1, state="trial") == "LICENSE_EXPIRED"
    assert await code(403, state="inactive") == "LICENSE_EXPIRED"
    assert await code(404, state="revoked") == "INVALID_LICENSE"
    assert await code(404, state="active", merchant_id=None) == "INVALID_LICENSE"
    assert await code(404, merchant_id=shop.merchant_id, organisation_id=None) == "INVALID_LICENSE"
    assert await rows(database, "SELECT id FROM payment") == []


async def test_a_merchant_that_is_not_approved_is_not_charged_for(partner: Partner, shop: Shop) -> None:
    await shop.set_status("suspended")

    error = await partner.refused("POST", GENERATE, partner.asked(), status=403)

    assert error["code"] == "FORBIDDEN"
    assert await partner.balance() == 3


async def test_the_older_call_takes_a_license_that_has_a_token(
    hub: Hub, partner: Partner, shop: Shop, database: Database
) -> None:
    empty = await licensed(hub, shop, tokens=0)
    asked = {"transaction_id": "OLD-1", "amount": 5_000, "description": "older"}

    made = await partner.post(QRIS, asked)
    again = await partner.post(QRIS, asked)

    assert made == again
    assert made["qris"]["qr_content"]
    stored = await row(database, "SELECT license_id FROM partner_payment")
    assert stored["license_id"] == partner.license_id != empty.license_id
    assert await partner.balance() == 2


async def test_a_payment_is_made_at_the_terminal_of_its_license(hub: Hub, shop: Shop, database: Database) -> None:
    second = await shop.another_terminal()
    partner = await licensed(hub, shop, tokens=1, terminal_id=second.terminal_id)

    made = await partner.generate()

    assert (await payment_row(database, made["payment_id"]))["terminal_id"] == second.terminal_id


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_wrong_amount_is_no_payment_of_the_partners(hub: Hub, partner: Partner, database: Database) -> None:
    made = await partner.generate()

    await paid(hub, made["payment_id"], amount=49_999)

    assert (await partner.get(f"{STATUS}/TRX-2026-001"))["status"] == "pending"
    assert (await payment_row(database, made["payment_id"]))["state"] == "needs_review"


def test_every_state_of_a_payment_has_a_word_of_the_reference() -> None:
    from soundbox_server.facades import kgiton, kgiton_topup
    from soundbox_server.payments.state import PaymentState

    assert kgiton.STATUS.keys() == kgiton_topup.STATUS.keys() == {state.value for state in PaymentState}
    assert charging.LEASE_MS <= AFTER_MS


async def test_one_name_under_two_licenses_in_the_same_moment_is_one_payment(
    hub: Hub, partner: Partner, shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has seen the other when it writes: each holds the lock of its own license."""
    other = await licensed(hub, shop, tokens=1)
    await partner.generate()

    async def unseen(*_: object) -> None:
        return None

    monkeypatch.setattr("soundbox_server.partners.payments._latest", unseen)
    refused = await other.refused("POST", GENERATE, other.asked(), status=409)

    assert refused["code"] == "DUPLICATE_REQUEST"
    assert len(await rows(database, "SELECT id FROM payment")) == 1
    assert await partner.balance() == 3  # of four, one was used


async def test_a_key_made_by_a_key_may_do_no_more(hub: Hub, partner: Partner, database: Database) -> None:
    program = await partner.with_api_key()
    (whole,) = await rows(database, "SELECT scopes FROM api_key WHERE revoked_at_ms IS NULL")
    door = ("POST", "/api/user/regenerate-api-key")
    needed = next(name for name, doors in hub.app.state.scopes.items() if door in doors)
    await execute(database, "UPDATE api_key SET scopes = $1", needed)

    await program.post("/api/user/regenerate-api-key")

    (made,) = await rows(database, "SELECT scopes FROM api_key WHERE revoked_at_ms IS NULL")
    assert made["scopes"].split() == [needed]
    assert len(whole["scopes"].split()) > 1
