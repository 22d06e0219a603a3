"""Bills by mail: the link and the one-time password together open them, and guessing does not."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.books import check_books
from support.hub import Hub
from support.shop import execute, row, rows
from support.simulator import open_hub_with_acquirer
from support.stack import until
from support.wallets import TXN, Holder, open_holder

from soundbox_server.db import Database
from soundbox_server.payments import qris
from soundbox_server.seal import unseal

BILL = {"email": "siti@example.test", "amount": 250_000, "description": "Katering 12 Mei"}


@pytest.fixture
async def acquired(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub_with_acquirer(database_url, tmp_path / "home") as hub:
        yield hub


async def mailed(hub: Hub, database: Database) -> tuple[str, str]:
    """What the mail says, and the one-time password in it."""
    letter = await row(database, "SELECT id, address, body FROM outbox_message WHERE kind = 'invoice'")
    assert letter["address"] == BILL["email"]
    said = orjson.loads(unseal(hub.app.state.sealing_ring, letter["id"], bytes(letter["body"]).decode()))
    found = re.search(r"sekali pakai: (\d{6})$", said["text"], re.MULTILINE)
    assert found is not None
    return said["text"], found[1]


def another(otp: str) -> str:
    return f"{(int(otp) + 1) % 1_000_000:06d}"


async def open_with(hub: Hub, invoice: dict[str, Any], otp: str) -> tuple[int, dict[str, Any]]:
    answered = await hub.http.post(f"{TXN}/invoices/{invoice['invoiceId']}/pay", json={"otp": otp})
    return answered.status_code, answered.json()


async def test_a_bill_is_mailed_opened_paid_and_said(acquired: Hub, database: Database) -> None:
    holder = await open_holder(acquired, database, brand_name="Dapur Sari")
    box = await holder.shop.box()
    invoice = await holder.post(f"{TXN}/invoices", BILL, status=201, key="i1")
    again = await holder.post(f"{TXN}/invoices", BILL, status=201, key="i1")
    text, otp = await mailed(acquired, database)

    wrong = await open_with(acquired, invoice, another(otp))
    status, opened = await open_with(acquired, invoice, otp)
    same = await open_with(acquired, invoice, otp)
    (attempt,) = await rows(database, "SELECT reference FROM payment_attempt")
    await acquired.app.state.simulator.pay(attempt["reference"])

    async def paid() -> bool:
        return (await holder.get(f"{TXN}/invoices/{invoice['invoiceId']}"))["status"] == "paid"

    await until(paid, what="an invoice that is paid")
    over = await open_with(acquired, invoice, otp)
    assert (again, wrong[0], wrong[1]["code"]) == (invoice, 400, "INVALID_PIN")
    assert (status, opened["merchant"], opened["amount"], same) == (200, "Dapur Sari", 250_000, (200, opened))
    assert qris.amount_idr(qris.decode(opened["qrString"])) == 250_000
    assert (over[0], over[1]["code"]) == (409, "CONFLICT")
    assert invoice["paymentLink"] in text
    assert BILL["description"] in text
    stored = await row(database, "SELECT * FROM wallet_invoice")
    assert otp not in str(stored)
    assert stored["otp_hash"].startswith("$argon2id$")
    told = await rows(database, "SELECT recipient_id FROM outbox_message WHERE kind = 'payment_success'")
    assert [one["recipient_id"] for one in told] == [box]
    assert (await check_books(database)).paid == 250_000


async def test_five_wrong_passwords_lock_a_bill_for_good(hub: Hub, payee: Holder, database: Database) -> None:
    invoice = await payee.post(f"{TXN}/invoices", BILL, status=201)
    _, otp = await mailed(hub, database)

    wrong = [await open_with(hub, invoice, another(otp)) for _ in range(5)]
    right = await open_with(hub, invoice, otp)

    assert [said["code"] for _, said in wrong] == ["INVALID_PIN"] * 5
    assert (right[0], right[1]["code"]) == (423, "LOCKED")
    assert (await payee.get(f"{TXN}/invoices/{invoice['invoiceId']}"))["status"] == "locked"
    assert await rows(database, "SELECT id FROM payment") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_bill_ends_and_is_nobody_elses_to_see(
    hub: Hub, payer: Holder, payee: Holder, database: Database
) -> None:
    invoice = await payee.post(f"{TXN}/invoices", BILL, status=201)
    _, otp = await mailed(hub, database)
    path = f"{TXN}/invoices/{invoice['invoiceId']}"
    theirs = await payer.call("GET", path)
    await execute(database, "UPDATE wallet_invoice SET expires_at_ms = 1")

    ended = await open_with(hub, invoice, otp)
    unknown = await open_with(hub, invoice | {"invoiceId": "inv-nowhere"}, otp)

    assert (theirs.status_code, unknown[0]) == (404, 404)
    assert (ended[0], ended[1]["code"]) == (400, "SESSION_EXPIRED")
    assert (await payee.get(path))["status"] == "expired"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_mails_link_leads_to_a_page_that_loads_nothing(acquired: Hub, database: Database) -> None:
    holder = await open_holder(acquired, database, brand_name="Dapur <Sari>")
    invoice = await holder.post(f"{TXN}/invoices", BILL, status=201)
    _, otp = await mailed(acquired, database)
    page = f"/pay/invoices/{invoice['invoiceId']}"
    form = {"content-type": "application/x-www-form-urlencoded"}

    asked = await acquired.http.get(page)
    wrong = await acquired.http.post(page, content=f"otp={another(otp)}", headers=form)
    shown = await acquired.http.post(page, content=f"otp={otp}", headers=form)

    assert invoice["paymentLink"].endswith(page)
    assert (asked.status_code, wrong.status_code, shown.status_code) == (200, 400, 200)
    assert 'name="otp"' in asked.text
    assert "The one-time password is wrong." in wrong.text
    assert "Rp 250.000" in shown.text
    assert "<svg" in shown.text
    assert "Dapur &lt;Sari&gt;" in shown.text
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert not re.search(r"<script|<link|src=|href=", shown.text)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_one_address_tries_so_many_passwords_a_minute(hub: Hub, payee: Holder, database: Database) -> None:
    hub.app.state.limits = replace(hub.app.state.limits, logins_per_minute=3)
    bills = [await payee.post(f"{TXN}/invoices", BILL, status=201) for _ in range(2)]

    answered = [await open_with(hub, bill, "000000") for bill in bills for _ in range(2)]

    assert [status for status, _ in answered] == [400, 400, 400, 429]


async def test_a_bill_whose_money_somebody_looks_at_is_not_paid_again(acquired: Hub, database: Database) -> None:
    holder = await open_holder(acquired, database)
    invoice = await holder.post(f"{TXN}/invoices", BILL, status=201)
    _, otp = await mailed(acquired, database)
    await open_with(acquired, invoice, otp)
    (attempt,) = await rows(database, "SELECT reference FROM payment_attempt")
    await acquired.app.state.simulator.pay(attempt["reference"], amount_idr=249_000)

    async def in_review() -> bool:
        return (await row(database, "SELECT state FROM payment WHERE source = 'api' AND amount = 250000"))[
            "state"
        ] == "needs_review"

    await until(in_review, what="a payment in review")
    status, said = await open_with(acquired, invoice, otp)

    assert (status, said["code"]) == (409, "CONFLICT")
    assert "Do not pay it again" in said["error"]
    assert len(await rows(database, "SELECT id FROM payment_attempt")) == 1
