"""Organisations that register themselves, and what they start with: nothing, and no PIN."""

import time
from typing import Any

import httpx
import pytest
import time_machine
from support.hub import PASSWORD, Hub
from support.shop import row, rows
from support.staff import audited
from support.wallets import ORG, PIN, TXN, WALLETS

from soundbox_server.access.routes import WRONG_LOGIN
from soundbox_server.db import Database

NEW = {"organization": "Toko Indo", "email": "Owner@Toko.test", "password": PASSWORD, "category": "retail"}


async def post(hub: Hub, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    return await hub.http.post(path, json=body, headers=headers or {})


async def registered(hub: Hub) -> tuple[dict[str, Any], dict[str, str]]:
    """What registering is answered with, and the headers of the owner who then logged in."""
    made = await post(hub, f"{ORG}/register", NEW)
    assert made.status_code == 201, made.text
    logged_in = await post(hub, f"{ORG}/login", {"email": "owner@toko.test", "password": PASSWORD})
    assert logged_in.status_code == 200, logged_in.text
    return made.json(), {"authorization": f"Bearer {logged_in.json()['token']}"}


async def test_an_organisation_starts_with_an_empty_wallet_and_no_pin(hub: Hub, database: Database) -> None:
    made, owner = await registered(hub)

    profile = (await hub.http.get(f"{ORG}/profile", headers=owner)).json()
    listed = (await hub.http.get(WALLETS, headers=owner)).json()["wallets"]

    assert (made["balance"], made["pin"], made["merchant"], made["email"]) == (0, None, "Toko Indo", "owner@toko.test")
    assert (profile["balance"], profile["category"], profile["email"]) == (0, "retail", "owner@toko.test")
    assert profile["wallets"] == listed
    assert [(one["code"], one["isDefault"], one["balance"]) for one in listed] == [(made["walletCode"], True, 0)]
    holder = await row(database, "SELECT * FROM wallet_holder")
    assert (holder["pin_hash"], await rows(database, "SELECT * FROM posting")) == (None, [])
    merchant = await row(database, "SELECT * FROM merchant WHERE brand_name = 'Toko Indo'")
    assert (merchant["status"], merchant["organisation_id"]) == ("pending", holder["organisation_id"])
    assert len(await rows(database, "SELECT id FROM terminal WHERE is_default")) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_profile_makes_no_token_that_lives_longer(hub: Hub) -> None:
    _, owner = await registered(hub)
    with time_machine.travel(time.time() + 300, tick=False):
        read = await hub.http.get(f"{ORG}/profile", headers=owner)
        changed = await hub.http.put(f"{ORG}/profile", json={"category": "food"}, headers=owner)

    assert [f"Bearer {one.json()['token']}" for one in (read, changed)] == [owner["authorization"]] * 2


async def test_the_references_pin_opens_nothing_and_is_no_pin(hub: Hub, database: Database) -> None:
    made, owner = await registered(hub)
    session = await post(hub, f"{TXN}/payment-session/{made['walletCode']}", {"amount": 1}, owner)
    trace = session.json()["transactionTraceId"]
    body = {"fromWalletCode": made["walletCode"], "totalAmount": 1, "pin": "123456"}

    before = await post(hub, f"{TXN}/accept-payment/{trace}", body, owner)
    as_pin = [
        await hub.http.put(f"{ORG}/profile", json={"pin": pin, "password": PASSWORD}, headers=owner)
        for pin in ("123456", "654321", "000000", "12345", "1234567", "12345a")
    ]

    assert (before.status_code, before.json()["code"]) == (400, "INVALID_PIN")
    assert [one.status_code for one in as_pin] == [422] * 3 + [400] * 3
    assert (await row(database, "SELECT pin_hash FROM wallet_holder"))["pin_hash"] is None


@pytest.mark.parametrize("path", [f"{ORG}/profile", f"{ORG}/put"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_owner_sets_the_pin_with_the_password(hub: Hub, database: Database, path: str) -> None:
    _, owner = await registered(hub)

    without = await hub.http.put(path, json={"pin": PIN}, headers=owner)
    wrong = await hub.http.put(path, json={"pin": PIN, "password": "not this one"}, headers=owner)
    set_ = await hub.http.put(path, json={"pin": PIN, "password": PASSWORD}, headers=owner)

    assert (without.status_code, wrong.status_code, set_.status_code) == (401, 401, 200)
    stored = (await row(database, "SELECT pin_hash FROM wallet_holder"))["pin_hash"]
    assert stored.startswith("$argon2id$")
    assert hub.app.state.passwords.fits(PIN, stored)
    (entry,) = await audited(database, "wallet.pin_set")
    assert PIN not in str(entry)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_name_category_address_and_password_change(hub: Hub, database: Database) -> None:
    _, owner = await registered(hub)
    change = {"organization": "Toko Baru", "category": "food", "email": "baru@toko.test",
              "newPassword": "perahu kertas di pelabuhan", "password": PASSWORD}  # fmt: skip

    alone = await hub.http.put(f"{ORG}/profile", json={"email": "baru@toko.test"}, headers=owner)
    changed = (await hub.http.put(f"{ORG}/profile", json=change, headers=owner)).json()
    before = await post(hub, f"{ORG}/login", {"email": "owner@toko.test", "password": PASSWORD})
    again = await post(hub, f"{ORG}/login", {"email": "baru@toko.test", "password": change["newPassword"]})

    assert alone.status_code == 401
    assert (changed["merchant"], changed["category"], changed["email"]) == ("Toko Baru", "food", "baru@toko.test")
    assert (before.status_code, again.status_code) == (401, 200)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_who_registers_twice_or_with_what_is_guessed_is_refused(hub: Hub, database: Database) -> None:
    await registered(hub)

    twice = await post(hub, f"{ORG}/register", NEW | {"organization": "Other"})
    weak = await post(hub, f"{ORG}/register", NEW | {"email": "b@toko.test", "password": "password1234"})
    short = await post(hub, f"{ORG}/register", NEW | {"email": "b@toko.test", "password": "short"})
    nobody = await post(hub, f"{ORG}/login", {"email": "nobody@toko.test", "password": PASSWORD})
    wrong = await post(hub, f"{ORG}/login", {"email": "owner@toko.test", "password": "not this one"})

    assert (twice.status_code, weak.status_code, short.status_code) == (409, 422, 400)
    assert (
        (nobody.status_code, nobody.json()["error"]) == (wrong.status_code, wrong.json()["error"]) == (401, WRONG_LOGIN)
    )
    assert len(await rows(database, "SELECT id FROM merchant")) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_one_address_registers_so_often_a_minute(hub: Hub) -> None:
    answered = [await post(hub, f"{ORG}/register", NEW | {"password": "password1234"}) for _ in range(21)]

    assert [one.status_code for one in answered] == [422] * 20 + [429]
    assert "retry-after" in answered[-1].headers


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_another_wallet_is_empty_and_not_the_one_that_pays(hub: Hub) -> None:
    _, owner = await registered(hub)

    opened = [await hub.http.post(WALLETS, headers=owner) for _ in range(20)]

    assert [one.status_code for one in opened] == [201] * 19 + [409]
    wallet = opened[0].json()["newWallet"]
    assert (wallet["isDefault"], wallet["balance"]) == (False, 0)
