"""Organisations with wallets and people who spend from them, money that is put in, and the platform's own merchant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from support.hub import Hub
from support.merchant import give_to
from support.shop import Shop, execute, open_shop, report, row, rows, take

from soundbox_server import clock
from soundbox_server.access.passwords import Passwords
from soundbox_server.access.service import Principal, access_token
from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id
from soundbox_server.payments import charging
from soundbox_server.payments.charging import Order
from soundbox_server.providers.base import Charge

PIN, WRONG_PIN = "204817", "204818"
CHEAP = Passwords(memory_kib=19_456, time_cost=2, parallelism=1)
PIN_HASH = CHEAP.hash(PIN)
ORG, WALLETS, TXN = "/api/v1/org", "/api/v1/wallets", "/api/v1/txn"


@dataclass(frozen=True)
class Holder:
    """An organisation with a shop, a default wallet and a PIN, and its owner with a token in hand."""

    hub: Hub
    shop: Shop
    organisation_id: str
    wallet: str
    headers: dict[str, str]

    @property
    def database(self) -> Database:
        return self.shop.database

    async def call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        headers = self.headers | ({"idempotency-key": key} if key else {})
        return await self.hub.http.request(method, path, headers=headers, json=body)

    async def post(self, path: str, body: Any = None, *, status: int = 200, key: str | None = None) -> Any:
        answered = await self.call("POST", path, body, key=key)
        assert answered.status_code == status, answered.text
        return answered.json()

    async def get(self, path: str, *, status: int = 200) -> Any:
        answered = await self.call("GET", path)
        assert answered.status_code == status, answered.text
        return answered.json()

    async def asks(self, amount: int, **other: Any) -> dict[str, Any]:
        """A session in which this organisation is to be paid."""
        return dict(await self.post(f"{TXN}/payment-session/{self.wallet}", {"amount": amount} | other, status=201))

    async def accepts(self, session: Mapping[str, Any], *, key: str | None = None, **other: Any) -> httpx.Response:
        """Pay somebody else's session."""
        body = {"fromWalletCode": self.wallet, "totalAmount": session["totalAmount"], "pin": PIN} | other
        return await self.call("POST", f"{TXN}/accept-payment/{session['transactionTraceId']}", body, key=key)

    async def pays(self, payee: "Holder", amount: int) -> dict[str, Any]:
        """What a payment is answered with."""
        answered = await self.accepts(await payee.asks(amount))
        assert answered.status_code == 200, answered.text
        return dict(answered.json())

    async def balance(self) -> int:
        (wallet, *_) = (await self.get(WALLETS))["wallets"]
        return int(wallet["balance"])

    async def listed(self) -> list[dict[str, Any]]:
        return list((await self.post(f"{TXN}/transaction"))["transactions"])


async def open_holder(hub: Hub, database: Database, *, balance: int = 0, brand_name: str = "Warung Sari") -> Holder:
    """An approved merchant with its own organisation, an owner, a wallet that holds so much, and a PIN."""
    shop, at_ms = await open_shop(database, brand_name=brand_name), clock.now_ms()
    await execute(database, "UPDATE terminal SET is_default = $2 WHERE id = $1", shop.terminal_id, True)
    organisation_id = (await row(database, "SELECT organisation_id FROM merchant WHERE id = $1", shop.merchant_id))[
        "organisation_id"
    ]
    person_id, session_id, wallet = new_id("per"), new_id("ses"), new_id("wllt").replace("_", "-")

    async def plant(tx: Statements) -> None:
        await tx.execute(
            "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
            "password_hash, created_at_ms) VALUES ($1, $2, 'merchant', $3, 'Siti', 'merchant_owner', 'active', 'id', "
            "'nobody knows it', $4)",
            person_id, organisation_id, f"{person_id}@shop.test", at_ms,
        )  # fmt: skip
        await tx.execute(
            "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms) "
            "VALUES ($1, $2, 'token', $3, $3, $4)",
            session_id, person_id, at_ms, at_ms + 100 * 3_600_000,
        )  # fmt: skip
        await tx.execute(
            "INSERT INTO wallet_holder (organisation_id, pin_hash, pin_tries, pin_locked_until_ms, created_at_ms) "
            "VALUES ($1, $2, 0, 0, $3)",
            organisation_id, PIN_HASH, at_ms,
        )  # fmt: skip
        await tx.execute(
            "INSERT INTO wallet (id, organisation_id, is_default, created_at_ms, updated_at_ms) "
            "VALUES ($1, $2, $3, $4, $4)",
            wallet, organisation_id, True, at_ms,
        )  # fmt: skip

    await database.write(plant)
    someone = Principal(
        person_id=person_id, organisation_id=organisation_id, role="merchant_owner", session_id=session_id
    )
    token = access_token(someone, key=hub.app.state.token_key, now_s=at_ms // 1000, life_s=100 * 3600)
    if balance:
        await put_in(database, wallet, balance)
    return Holder(hub, shop, organisation_id, wallet, {"authorization": f"Bearer {token}"})


async def platform_shop(database: Database) -> Shop:
    """The platform's own merchant, made when there is none."""
    found = await rows(
        database,
        "SELECT m.id, t.id AS terminal_id, t.outlet_id, m.fee_profile_id FROM merchant m JOIN terminal t "
        "ON t.merchant_id = m.id JOIN organisation o ON o.id = m.organisation_id WHERE o.kind = 'platform'",
    )
    if found:
        return Shop(
            database=database, merchant_id=found[0]["id"], outlet_id=found[0]["outlet_id"],
            terminal_id=found[0]["terminal_id"], fee_profile_id=found[0]["fee_profile_id"], bps=70,
        )  # fmt: skip
    shop = await open_shop(database, brand_name="Platform")
    await give_to(database, shop, "org_test_platform")
    return shop


async def issue_topup(database: Database, wallet: str, amount: int, *, now_ms: int | None = None) -> charging.Pending:
    """A QRIS that puts so much into a wallet once it is paid."""
    shop, at_ms = await platform_shop(database), clock.now_ms() if now_ms is None else now_ms
    order = Order(
        merchant_id=shop.merchant_id, outlet_id=shop.outlet_id, terminal_id=shop.terminal_id, amount=amount,
        source="api", trace_id=new_id("trc"), order_code=new_id("ord"), credit_account=f"wallet:{wallet}",
    )  # fmt: skip

    async def issue(tx: Statements) -> charging.Pending:
        asked = await charging.open_charge(tx, order, provider="sandbox", life_ms=300_000, now_ms=at_ms)
        charge = Charge(
            provider="sandbox", reference=asked.reference, provider_transaction_id=new_id("ptx"), amount_idr=amount,
            qr_payload="00020101021226", expires_at_ms=asked.expires_at_ms, body=b"{}",
        )  # fmt: skip
        return await charging.record_answer(tx, charging.Answered(pending=asked, charge=charge), now_ms=at_ms)

    return await database.write(issue)


async def put_in(database: Database, wallet: str, amount: int) -> None:
    """So much more is in it, as from a customer who paid its top-up."""
    pending = await issue_topup(database, wallet, amount)
    (taken,) = await take(database, report(pending), now_ms=clock.now_ms())
    assert taken.outcome == "applied"
