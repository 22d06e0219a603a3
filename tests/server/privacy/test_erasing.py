"""A merchant is forgotten: asked for, approved by somebody else; people go at once, papers later, amounts never."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.banks import BANK, Banker, let_see
from support.books import check_books
from support.hub import Hub
from support.merchant import Merchant, a_stranger, give_to
from support.settled import settled
from support.shop import NOW, Shop, execute, open_shop, report, row, rows, take
from support.stack import until
from support.staff import Staff, audited

from soundbox_server import clock
from soundbox_server.access.service import sha256
from soundbox_server.db import Base, Database, Statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.merchants.documents import store_file
from soundbox_server.merchants.tills import till_of
from soundbox_server.payouts.service import mark_paid
from soundbox_server.privacy import erasing
from soundbox_server.privacy.jobs import finish_erasures
from soundbox_server.scoring.service import facts_of
from soundbox_server.scoring.state import Model

# Everything that is of somebody; each is planted in one or several places.
OWNER, MAIL, PHONE, HOME = "Budi Hartono-Uji", "budi.hartono@uji.test", "081299887766", "Jl. Kenanga Uji 77"
NOTE, BUYER, HOOK, AGENT = "untuk Ibu Sri Uji", "Pembeli Uji Satu", "https://hooks.uji.test/in", "PeramalUji/9.1"
LEGAL, ACCOUNT = "CV Hartono Uji Sejahtera", "bank:5566778899"
AT_ONCE = (OWNER, MAIL, PHONE, HOME, NOTE, BUYER, HOOK, AGENT)
HELD = (LEGAL, ACCOUNT)
STAYS = {
    ("merchant", LEGAL), ("payment_attempt", LEGAL), ("refund", LEGAL), ("wallet_withdrawal", LEGAL),
    ("merchant", ACCOUNT), ("payout", ACCOUNT), ("payout_event", ACCOUNT), ("payout_event", LEGAL),
    ("wallet_withdrawal", ACCOUNT),
}  # fmt: skip


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")


@pytest.fixture
def admin(hub: Hub) -> Staff:
    return Staff(hub, "per_admin", "platform_admin")


async def lived_in(hub: Hub, owner: Merchant, shop: Shop) -> dict[str, str]:
    """A shop with people, trade and papers, whose money is paid out; the API key and the paper's hash."""
    database, bank_letter = shop.database, b"%PDF-1.4 surat usaha"
    device = await shop.box()
    payment = await shop.payment(device)
    await take(database, report(payment))
    await paid_out(database, shop)
    await shop.unbind(device)
    person, key = "per_test_merchant_owner", "sbk_lived_in"
    plants: list[tuple[Any, ...]] = [
        ("UPDATE person SET name = $2, email = $3 WHERE id = $1", person, OWNER, MAIL),
        ("INSERT INTO person_profile (person_id, phone_number, address, referral_code, created_at_ms) "
         "VALUES ($1, $2, $3, 'R77', 1)", person, PHONE, HOME),
        ("UPDATE login_session SET ip = '10.9.8.7', user_agent = $2 WHERE person_id = $1", person, AGENT),
        ("UPDATE merchant SET legal_name = $2, brand_name = $3, owner_email = $4, settlement_account_reference = $5 "
         "WHERE id = $1", shop.merchant_id, LEGAL, OWNER, MAIL, ACCOUNT),
        ("UPDATE payout SET account_reference = $2 WHERE merchant_id = $1", shop.merchant_id, ACCOUNT),
        ("UPDATE organisation SET name = $1 WHERE id = 'org_test_merchant'", OWNER),
        ("UPDATE outlet SET name = $2, address = $3 WHERE id = $1", shop.outlet_id, OWNER, HOME),
        ("UPDATE payment SET description = $2, payer = $3, order_code = 'ord-1' WHERE id = $1", payment.payment_id,
         NOTE, BUYER),
        ("UPDATE payment_attempt SET qr_payload = $2 WHERE payment_id = $1", payment.payment_id, f"00020101{OWNER}"),
        ("INSERT INTO sale (merchant_id, order_code, product_name, items, created_at_ms) "
         "VALUES ($1, 'ord-1', $2, $2, 1)", shop.merchant_id, NOTE),
        ("INSERT INTO advice_wish (id, merchant_id, use, digest, input, names, state, tries, due_at_ms, created_at_ms) "
         "VALUES ('adw_1', $1, 'products', 'x', '{}', $2, 'waiting', 0, 1, 1)", shop.merchant_id, NOTE),
        ("INSERT INTO payment_session (id, trace_id, payment_id, organisation_id, customer_name, language, "
         "created_at_ms, expires_at_ms) VALUES ('pay_1', 'trc_1', $1, 'org_test_merchant', $2, 'id', 1, 2)",
         payment.payment_id, BUYER),
        ("INSERT INTO wallet_invoice (id, merchant_id, outlet_id, terminal_id, email, amount, description, otp_hash, "
         "otp_tries, state, charges, created_by, created_at_ms, expires_at_ms) "
         "VALUES ('inv-1', $1, $2, $3, $4, 1, $5, 'x', 0, 'open', 1, 'per_x', 1, 1)",
         shop.merchant_id, shop.outlet_id, shop.terminal_id, MAIL, NOTE),
        ("INSERT INTO outbox_message (id, transport, kind, recipient_id, address, body, state, attempt, created_at_ms, "
         "finished_at_ms, trace_id) VALUES ('mail_2', 'mail', 'invoice', 'inv-1', $1, $2, 'sent', 1, 1, 1, 't')",
         MAIL, BUYER.encode()),
        ("INSERT INTO webhook_endpoint (id, organisation_id, profile, url, description, events, state, last_seq, "
         "created_at_ms) VALUES ('whk_1', 'org_test_merchant', 'standard', $1, $2, '*', 'active', 1, 1)", HOOK, NOTE),
        ("INSERT INTO outbox_message (id, transport, kind, recipient_id, address, body, state, attempt, created_at_ms, "
         "finished_at_ms, trace_id) VALUES ('mail_1', 'mail', 'early_warning', $1, $2, $3, 'sent', 1, 1, 1, 't')",
         person, MAIL, OWNER.encode()),
        ("UPDATE payment_attempt SET raw_request = $2, raw_response = $2 WHERE payment_id = $1", payment.payment_id,
         LEGAL.encode()),
        ("INSERT INTO refund (id, payment_id, provider, reference, origin, amount, fee_returned, returns_fee, "
         "from_suspense, state, reason, asks, lease_until_ms, raw_response, created_at_ms, finished_at_ms) VALUES "
         "('rfn_1', $1, 'sandbox', 'r-1', 'person', 1, 0, $2, $2, 'failed', $3, 1, 1, $4, 1, 2)",
         payment.payment_id, False, NOTE, LEGAL.encode()),
        ("INSERT INTO payout_event (id, bank, event_key, body_sha256, body, outcome, payout_id, reference, request_id, "
         "received_at_ms) SELECT 'pye_1', 'bank', 'k', 'x', $2, 'applied', id, 'r', 'q', 1 FROM payout "
         "WHERE merchant_id = $1", shop.merchant_id, ACCOUNT.encode()),
        ("INSERT INTO wallet_holder (organisation_id, pin_tries, pin_locked_until_ms, created_at_ms) "
         "VALUES ('org_test_merchant', 0, 0, 1)",),
        ("INSERT INTO wallet (id, organisation_id, is_default, created_at_ms, updated_at_ms) "
         "VALUES ('wal_1', 'org_test_merchant', $1, 1, 1)", True),
        ("INSERT INTO wallet_withdrawal (id, wallet_id, merchant_id, amount, bank, reference, account_reference, "
         "state, requested_by, asks, lease_until_ms, raw_response, created_at_ms, finished_at_ms) "
         "VALUES ('wwd_1', 'wal_1', $1, 1, 'bank', 'w-1', $2, 'failed', 'per_x', 0, 0, $3, 1, 1)",
         shop.merchant_id, ACCOUNT, LEGAL.encode()),
        ("INSERT INTO payout_event (id, bank, event_key, body_sha256, body, outcome, reference, request_id, "
         "received_at_ms) VALUES ('pye_2', 'bank', 'k-2', 'x', $1, 'applied', 'w-1', 'q', 1)", LEGAL.encode()),
        ("INSERT INTO license (id, key, organisation_id, merchant_id, price_per_token, state, created_at_ms) "
         "VALUES ('lic_1', 'k', 'org_test_merchant', $1, 1, 'active', 1)", shop.merchant_id),
        ("INSERT INTO partner_payment (payment_id, organisation_id, license_id, transaction_id, number, payment_type, "
         "session_id, facts, created_at_ms) VALUES ($1, 'org_test_merchant', 'lic_1', 't', 1, 'qris', 'pay_1', $2, 1)",
         payment.payment_id, BUYER),
        ("INSERT INTO provider_credential (id, account, provider, merchant_id, names, sealed, version, created_at_ms, "
         "changed_at_ms, changed_by) VALUES ('pcr_1', 'a', 'sandbox', $1, 'x', $2, 1, 1, 1, 'per_x')",
         shop.merchant_id, OWNER),
        ("INSERT INTO early_warning (id, merchant_id, type, severity, state, metric, value_hundredths, "
         "threshold_hundredths, deviation_hundredths, detected_at_ms, seen_at_ms) "
         "VALUES ('ewr_1', $1, 'revenue_drop', 'Low', 'open', 'x', 1, 1, 1, 1, 1)", shop.merchant_id),
        ("INSERT INTO outbox_message (id, transport, kind, recipient_id, address, body, state, attempt, created_at_ms, "
         "finished_at_ms, trace_id) VALUES ('hook_1', 'webhook', 'paid', 'whk_1', $1, $2, 'sent', 1, 1, 1, 't')",
         HOOK, BUYER.encode()),
        ("INSERT INTO webhook_attempt (id, delivery_id, endpoint_id, number, at_ms, duration_ms, address, status, "
         "request_headers, response_body) VALUES ('wha_1', 'hook_1', 'whk_1', 1, 1, 1, '10.1.1.1', 200, '{}', $1)",
         BUYER),
        ("INSERT INTO api_key (id, organisation_id, organisation_kind, name, role, scopes, key_sha256, created_by, "
         "created_at_ms, last_used_at_ms) VALUES ('key_1', 'org_test_merchant', 'merchant', 'till', 'merchant_owner', "
         "'shop:read', $1, $2, 1, $3)", sha256(key), person, clock.now_ms()),
    ]  # fmt: skip
    for sql, *values in plants:
        await execute(database, sql, *values)
    paper = await asyncio.to_thread(store_file, hub.app.state.documents_folder, bank_letter)
    await execute(
        database,
        "INSERT INTO merchant_document (id, merchant_id, document_type, sha256, media_type, size_bytes, "
        "verification_status, created_at_ms) VALUES ('doc_1', $1, 'deed', $2, 'application/pdf', 1, 'verified', 1)",
        shop.merchant_id, paper,
    )  # fmt: skip
    await let_see(database, shop.merchant_id)
    wish = {"merchant_id": shop.merchant_id, "bank_id": BANK, "amount_idr": 1_000, "tenor_months": 1, "purpose": NOTE}
    made = (await owner.post("/merchant/loan-applications", wish, status=201))["data"]["id"]
    await owner.post(f"/merchant/loan-applications/{made}/submit", None)
    return {"key": key, "paper": paper}


async def paid_out(database: Database, shop: Shop) -> None:
    settlement = await settled(database, shop)
    await database.write(
        lambda tx: mark_paid(tx, settlement, reference="TRF-1", reason="by hand", by="per_1", now_ms=NOW)
    )


async def found(database: Database, *wanted: str) -> set[tuple[str, str]]:
    """In which table which of these texts stands; the whole database is read."""
    places = set()
    for name in Base.metadata.tables:
        for one in await rows(database, f'SELECT * FROM "{name}"'):
            told = " ".join(
                value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in one.values()
            )
            places |= {(name, text) for text in wanted if text in told}
    return places


async def asked_by(staff: Staff, shop: Shop) -> str:
    path = f"/admin/merchants/{shop.merchant_id}/erasures"
    return str((await staff.post(path, {"reason": "the owner wrote"}, status=201))["id"])


async def test_people_go_at_once_and_the_books_stay(
    hub: Hub, owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    lived = await lived_in(hub, owner, shop)
    before = {text for _, text in await found(database, *AT_ONCE, *HELD)}
    money = await figures(database)
    erasure = (
        await owner.post("/merchant/erasures", {"merchant_id": shop.merchant_id, "reason": "closed"}, status=201)
    )["data"]["id"]

    again = await asked_by(operator, shop)
    done = await admin.post(f"/admin/erasures/{erasure}/approve", {"merchant_id": shop.merchant_id})

    assert (before, again) == ({*AT_ONCE, *HELD}, erasure)
    assert done["status"] == "held"
    left = await found(database, *AT_ONCE, *HELD)
    assert left == STAYS
    assert await figures(database) == money
    await check_books(database)
    assert (await owner.call("GET", "/merchant/me")).status_code == 401
    assert (await hub.http.get("/merchant/me", headers={"x-api-key": lived["key"]})).status_code == 401
    assert (await Banker(hub).get("/lending/merchants"))["data"] == []
    (entry,) = await audited(database, "erasure.approved")
    assert '"people":2' in entry["details"]
    assert await rows(database, "SELECT id FROM bank_consent WHERE withdrawn_at_ms IS NULL") == []
    assert (await row(database, "SELECT state FROM loan_application"))["state"] == "withdrawn"
    assert (await row(database, "SELECT state FROM early_warning"))["state"] == "resolved"
    assert await rows(database, "SELECT id FROM provider_credential") == []
    assert (await row(database, "SELECT address FROM webhook_attempt"))["address"] is None


async def figures(database: Database) -> list[list[dict[str, Any]]]:
    """Everything that money is in."""
    return [
        await rows(database, "SELECT * FROM posting ORDER BY journal_id, position"),
        await rows(database, "SELECT * FROM journal ORDER BY id"),
        await rows(database, "SELECT id, amount, paid_amount, fee_amount, refunded_amount, state FROM payment"),
        await rows(database, "SELECT id, gross_amount, net_amount, state FROM settlement"),
        await rows(database, "SELECT id, amount, state FROM payout"),
        await rows(database, "SELECT day, gross_amount FROM daily_revenue"),
    ]


async def test_what_the_law_keeps_goes_when_it_lets_go(
    hub: Hub, owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lived = await lived_in(hub, owner, shop)
    papers: Path = hub.app.state.documents_folder
    erasure = await asked_by(operator, shop)
    await admin.post(f"/admin/erasures/{erasure}/approve", {"merchant_id": shop.merchant_id})
    (held,) = await rows(database, "SELECT hold_until_ms AS at_ms FROM merchant_erasure")

    monkeypatch.setattr(clock, "now_ms", lambda: held["at_ms"] - 1)
    await finish_erasures(database, documents=papers)
    kept = await found(database, *HELD), (papers / lived["paper"]).exists()
    monkeypatch.setattr(clock, "now_ms", lambda: held["at_ms"])
    for _ in range(2):
        await finish_erasures(database, documents=papers)

    assert kept == (STAYS, True)
    assert await found(database, *AT_ONCE, *HELD) == set()
    assert not (papers / lived["paper"]).exists()
    assert (await row(database, "SELECT state FROM merchant_erasure"))["state"] == "erased"
    assert len(await audited(database, "erasure.finished")) == 1
    await check_books(database)


async def test_it_takes_another_person_and_the_merchants_name_once_more(
    operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    erasure = await asked_by(admin, shop)
    one, colleague = f"/admin/erasures/{erasure}/approve", admin.another("per_second_admin")
    named = {"merchant_id": shop.merchant_id}

    mine = await admin.refused("POST", one, named, status=403)
    wrong = await colleague.refused("POST", one, {"merchant_id": "mer_other"}, status=409)
    await operator.refused("POST", one, named, status=403)
    answers = await asyncio.gather(*(colleague.call("POST", one, json=named) for _ in range(4)))

    assert (mine["code"], wrong["code"]) == ("FORBIDDEN", "CONFLICT")
    assert [answer.status_code for answer in answers] == [200] * 4  # approved again it is as it was
    assert len(await audited(database, "erasure.approved")) == 1
    with pytest.raises(Exception, match="merchant_erasure_by_two_people"):
        await execute(database, "UPDATE merchant_erasure SET decided_by = requested_by")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_not_while_money_is_on_its_way_or_boxes_stand_there(
    operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    one = f"/admin/erasures/{await asked_by(operator, shop)}/approve"
    named = {"merchant_id": shop.merchant_id}
    device = await shop.box()
    said = [await admin.refused("POST", one, named, status=409)]
    payment = await shop.payment(device)
    await shop.unbind(device)
    said.append(await admin.refused("POST", one, named, status=409))
    await take(database, report(payment))
    said.append(await admin.refused("POST", one, named, status=409))
    await settled(database, shop)
    said.append(await admin.refused("POST", one, named, status=409))

    assert [one["message"].split()[0] for one in said] == ["Boxes", "Payments", "Money", "Settlements"]
    assert (await row(database, "SELECT erased_at_ms FROM merchant"))["erased_at_ms"] is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_refused_it_can_be_asked_for_again_and_erased_it_is_nobodys_any_more(
    hub: Hub, operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    first = await asked_by(operator, shop)
    await operator.post(f"/admin/erasures/{first}/refuse")
    second = await asked_by(operator, shop)
    await execute(
        database,
        "INSERT INTO credit_score (id, merchant_id, model, version, scored_at_ms, score, risk_band, min_limit_idr, "
        "max_limit_idr, inputs, metrics, reasons, created_at_ms) "
        "VALUES ('crs_1', $1, 'soundbox-v2', 1, 1, 80, 'Low', 1, 2, '{}', '{}', '{}', 1)",
        shop.merchant_id,
    )  # fmt: skip
    scored = await database.write(lambda tx: facts_of(tx, Model.SOUNDBOX_V2, as_of_ms=NOW))
    await admin.post(f"/admin/erasures/{second}/approve", {"merchant_id": shop.merchant_id})

    late = await admin.refused("POST", f"/admin/erasures/{second}/refuse", status=409)
    revived = await operator.refused("POST", f"/admin/merchants/{shop.merchant_id}/approve", status=409)
    unscored = await database.write(lambda tx: facts_of(tx, Model.SOUNDBOX_V2, as_of_ms=NOW))

    assert first != second
    assert (late["details"]["status"], revived["message"]) == ("held", "This merchant was erased.")
    assert (shop.merchant_id in scored, shop.merchant_id in unscored) == (True, False)
    assert [one["status"] for one in await operator.get("/admin/erasures")] == ["held", "refused"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_file_of_all_that_is_kept_is_over_with_it_whoever_asked(
    operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    for number, (state, merchant_id) in enumerate(
        [("done", shop.merchant_id), ("queued", shop.merchant_id), ("done", "mer_of_another")]
    ):
        await execute(
            database,
            "INSERT INTO export_job (id, kind, format, with_bom, filters, state, requested_by, requested_at_ms, "
            "attempt, lease_until_ms, rows_done, sha256, expires_at_ms) VALUES ($1, 'personal_data', 'jsonl', $2, $3, "
            "$4, 'per_operator', 1, 0, 0, 0, 'x', $5)",
            f"exp_{number}", False, f'{{"merchant_id":"{merchant_id}"}}', state, clock.now_ms() + 1_000_000,
        )  # fmt: skip
    erasure = await asked_by(operator, shop)

    await admin.post(f"/admin/erasures/{erasure}/approve", {"merchant_id": shop.merchant_id})

    jobs = await rows(database, "SELECT state, expires_at_ms FROM export_job ORDER BY id")
    assert [(job["state"], job["expires_at_ms"] <= clock.now_ms()) for job in jobs] == [
        ("done", True), ("cancelled", False), ("done", False),
    ]  # fmt: skip
    assert (await row(database, "SELECT reason FROM merchant_erasure"))["reason"] == erasing.NAME


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_stranger_forgets_nobody(hub: Hub, owner: Merchant, shop: Shop, database: Database) -> None:
    stranger = await a_stranger(hub)
    wanted = {"merchant_id": shop.merchant_id, "reason": "not mine"}

    await stranger.post("/merchant/erasures", wanted, status=404)

    assert await rows(database, "SELECT id FROM merchant_erasure") == []


async def test_an_organisation_with_another_merchant_keeps_its_people(
    hub: Hub, owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    await operator.post(
        "/admin/merchants", {"brand_name": "Toko Dua", "legal_name": "Toko Dua", "organisation_id": "org_test_merchant",
                             "payout_mode": "manual"}, status=201,
    )  # fmt: skip
    erasure = await asked_by(operator, shop)

    await admin.post(f"/admin/erasures/{erasure}/approve", {"merchant_id": shop.merchant_id})

    merchants = (await owner.get("/merchant/me"))["data"]["merchants"]
    assert {one["brand_name"] for one in merchants} == {"Toko Dua", erasing.NAME}
    assert (await owner.get("/merchant/erasures"))["data"][0]["status"] == "held"
    await owner.get("/api/merchant/profile", {"merchantId": shop.merchant_id}, status=404)


async def test_the_merchant_that_stays_is_the_only_one_that_sells(
    owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    second = await open_shop(database)
    await give_to(database, second)
    await execute(
        database,
        "INSERT INTO offline_conflict (id, merchant_id, terminal_id, kind, offline_reference, offline_id, "
        "conflict_type, reason, local_data, local_sha256, created_at_ms) VALUES ('cfl_1', $1, $2, 'transaction', 'r', "
        "'o', 'data_mismatch', 'x', '{}', 'x', 1)",
        shop.merchant_id, shop.terminal_id,
    )  # fmt: skip
    with pytest.raises(Conflict):  # two of them: which one must be said
        await database.read(lambda tx: till_of(tx, "org_test_merchant"))
    erasure = await asked_by(operator, shop)

    await admin.post(f"/admin/erasures/{erasure}/approve", {"merchant_id": shop.merchant_id})

    assert (await database.read(lambda tx: till_of(tx, "org_test_merchant"))).merchant_id == second.merchant_id
    with pytest.raises(NotFound):
        await database.read(lambda tx: till_of(tx, "org_test_merchant", terminal_id=shop.terminal_id))
    assert (await owner.get("/api/v1/pos/offline/conflicts"))["data"] == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_platforms_own_merchant_and_its_staff_are_never_erased(
    operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    erasure = await asked_by(operator, shop)
    await execute(
        database,
        "UPDATE merchant SET organisation_id = (SELECT organisation_id FROM person WHERE role = 'operator') "
        "WHERE id = $1",
        shop.merchant_id,
    )

    named = {"merchant_id": shop.merchant_id}

    approved = await admin.refused("POST", f"/admin/erasures/{erasure}/approve", named, status=409)
    await operator.post(f"/admin/erasures/{erasure}/refuse")
    asked = await operator.refused(
        "POST", f"/admin/merchants/{shop.merchant_id}/erasures", {"reason": "why not"}, status=409
    )

    assert {approved["message"], asked["message"]} == {"Only a merchant of a merchant's organisation is erased."}
    assert await rows(database, "SELECT id FROM person WHERE state <> 'active'") == []


async def test_of_two_shops_erased_at_once_one_is_the_last_and_the_people_go(
    hub: Hub, owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The first one's transaction stays open until the second one waits for it, or is past it."""
    other = await open_shop(database)
    await give_to(database, other)
    erasures = [(await asked_by(operator, one), one.merchant_id) for one in (shop, other)]
    forget, begun, done = erasing._forget, list[str](), list[str]()

    async def waited_for() -> bool:
        waiting = await rows(
            database,
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        return bool(waiting)

    async def slowly(tx: Statements, merchant_id: str, *args: Any, **others: Any) -> dict[str, object]:
        begun.append(merchant_id)
        first = len(begun) == 1
        told = await forget(tx, merchant_id, *args, **others)
        if first and database.dialect == "postgresql":
            await until(lambda: _either(done, waited_for), what="the second approval")
        done.append(merchant_id)
        return told

    monkeypatch.setattr(erasing, "_forget", slowly)

    answers = await asyncio.gather(
        *(admin.call("POST", f"/admin/erasures/{id}/approve", json={"merchant_id": named}) for id, named in erasures)
    )

    assert [answer.status_code for answer in answers] == [200, 200]
    people = await rows(database, "SELECT state FROM person WHERE organisation_id = 'org_test_merchant'")
    assert {person["state"] for person in people} == {"disabled"}


async def _either(done: Sequence[str], waited_for: Callable[[], Awaitable[bool]]) -> bool:
    return bool(done) or await waited_for()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_not_while_money_goes_back_to_payers_or_out_of_a_wallet(
    hub: Hub, owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    await lived_in(hub, owner, shop)
    one = f"/admin/erasures/{await asked_by(operator, shop)}/approve"
    named, said = {"merchant_id": shop.merchant_id}, []
    for table, state in [("refund", "submitted"), ("refund", "unknown"), ("wallet_withdrawal", "created")]:
        await execute(database, f"UPDATE {table} SET state = $1, finished_at_ms = NULL", state)
        said.append((await admin.refused("POST", one, named, status=409))["message"])
        await execute(database, f"UPDATE {table} SET state = 'failed', finished_at_ms = 1")

    await admin.post(one, named)

    assert said == ["Refunds are on their way."] * 2 + ["Withdrawals are on their way."]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_another_shop_keeps_the_wallets_and_its_withdrawals(
    hub: Hub, owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await lived_in(hub, owner, shop)
    other = await open_shop(database)
    await give_to(database, other)
    await execute(database, "UPDATE wallet_withdrawal SET merchant_id = $1", other.merchant_id)
    await execute(database, "INSERT INTO journal (id, kind, booked_at_ms) VALUES ('jrn_1', 'promised', 1)")
    await execute(database, "INSERT INTO posting VALUES ('jrn_1', 0, 'bank', 'wallet:wal_1', 'IDR', 5)")
    first, last = await asked_by(operator, shop), await asked_by(operator, other)

    await admin.post(f"/admin/erasures/{first}/approve", {"merchant_id": shop.merchant_id})
    owed = await admin.refused(
        "POST", f"/admin/erasures/{last}/approve", {"merchant_id": other.merchant_id}, status=409
    )
    (held,) = await rows(database, "SELECT hold_until_ms AS at_ms FROM merchant_erasure WHERE hold_until_ms > 0")
    monkeypatch.setattr(clock, "now_ms", lambda: held["at_ms"])
    await finish_erasures(database, documents=hub.app.state.documents_folder)

    assert (owed["message"], owed["details"]["account"]) == ("Money is still owed.", "wallet:wal_1")
    assert (await row(database, "SELECT account_reference FROM wallet_withdrawal"))["account_reference"] == ACCOUNT


async def test_a_paper_of_two_shops_goes_with_the_last_of_them_also_at_once(
    hub: Hub, owner: Merchant, operator: Staff, admin: Staff, shop: Shop, database: Database
) -> None:
    lived = await lived_in(hub, owner, shop)
    shops = [shop, await open_shop(database), await open_shop(database)]
    for number, one in enumerate(shops[1:], 2):
        await execute(
            database,
            "INSERT INTO merchant_document (id, merchant_id, document_type, sha256, media_type, size_bytes, "
            "verification_status, created_at_ms) VALUES ($1, $2, 'deed', $3, 'application/pdf', 1, 'verified', 1)",
            f"doc_{number}", one.merchant_id, lived["paper"],
        )  # fmt: skip
    for one in shops[:2]:
        path = f"/admin/erasures/{await asked_by(operator, one)}/approve"
        await admin.post(path, {"merchant_id": one.merchant_id})
    then = (await rows(database, "SELECT max(hold_until_ms) AS at_ms FROM merchant_erasure"))[0]["at_ms"]

    while_shown = await database.read(lambda tx: erasing.papers_due(tx, now_ms=then))
    await execute(database, "DELETE FROM merchant_document WHERE id = 'doc_3'")

    assert while_shown == []
    assert await database.read(lambda tx: erasing.papers_due(tx, now_ms=then)) == [lived["paper"]]
