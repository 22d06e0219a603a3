"""What the doors answer is what the description says: no field is missing, and none is beside it."""

from copy import deepcopy
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from support.bank import ACCOUNT
from support.hub import Hub
from support.shop import execute
from support.wallets import ORG, PIN, TXN, WALLETS, Holder, platform_shop

from soundbox_server.db import Database

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def closed(schema: Any) -> Any:
    """The same, with no member but those it names."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        inner["additionalProperties"] = False
    return inner


async def test_every_door_answers_as_it_is_described(
    hub: Hub, payer: Holder, payee: Holder, database: Database
) -> None:
    document = closed(deepcopy(hub.app.openapi()))
    await platform_shop(database)
    await execute(database, "UPDATE merchant SET settlement_account_reference = $1", ACCOUNT)

    async def ask(who: Holder, method: str, path: str, body: Any = None, *, status: int = 200, **ids: str) -> Any:
        answered = await who.call(method, path.format(**ids), body)
        assert answered.status_code == status, (path, answered.text)
        told = document["paths"][path][method.lower()]["responses"][str(status)]["content"]["application/json"]
        whole = {**told["schema"], "components": document["components"]}
        wrong = [f"{error.json_path}: {error.message}" for error in OAS31Validator(whole).iter_errors(answered.json())]
        assert not wrong, (method, path, wrong)
        return answered.json()

    await ask(payer, "GET", f"{ORG}/profile")
    for path in ("profile", "put"):
        await ask(payer, "PUT", f"{ORG}/{path}", {"category": "retail"})
    await ask(payer, "POST", WALLETS, status=201)
    assert len((await ask(payer, "GET", WALLETS))["wallets"]) == 2
    asked = await ask(
        payee, "POST", TXN + "/payment-session/{wallet_code}", {"amount": 1_000}, status=201, wallet_code=payee.wallet
    )
    trace, paying = asked["transactionTraceId"], {"fromWalletCode": payer.wallet, "totalAmount": 1_000, "pin": PIN}
    await ask(payer, "POST", TXN + "/accept-payment/{trace_id}", paying, trace_id=trace)
    await ask(payer, "POST", TXN + "/accept-payment/{trace_id}", paying, trace_id=trace, status=400)
    await ask(payee, "POST", TXN + "/refund/{trace_id}", {"pin": PIN, "amount": 400}, trace_id=trace)
    out = {"walletID": payee.wallet, "amount": 100, "pin": PIN}
    await ask(payee, "POST", f"{TXN}/withdraw", out, status=202)
    bill = {"email": "siti@example.test", "amount": 5_000}
    invoice = await ask(payee, "POST", f"{TXN}/invoices", bill, status=201)
    await ask(payee, "GET", TXN + "/invoices/{invoice_id}", invoice_id=invoice["invoiceId"])
    listed = await ask(payee, "POST", f"{TXN}/transaction")
    assert {one["kind"] for one in listed["transactions"]} == {"payment", "refund", "withdrawal"}
    new = {"organization": "Toko Indo", "email": "a@toko.test", "password": "kuda putih tujuh awan"}
    await ask(payee, "POST", f"{ORG}/register", new, status=201)
    await ask(payee, "POST", f"{ORG}/register", new, status=409)
    await ask(payee, "POST", f"{ORG}/login", {"email": new["email"], "password": new["password"]})
