"""One login for the programs of references 000 and 003."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from support.hub import PASSWORD, Hub, open_hub
from support.shop import execute, row, rows
from support.staff import audited

from soundbox_server.db import Database
from soundbox_server.facades.accounts import EVERYBODY

NEW_PASSWORD = "paper kite over the harbour"
AUTH = "/api/auth"


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


async def send(hub: Hub, door: str, body: dict[str, Any], **more: Any) -> httpx.Response:
    return await hub.http.post(f"{AUTH}/{door}", json=body, **more)


async def told(hub: Hub, door: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = await send(hub, door, body)
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said["success"] is True
    return dict(said["data"])


def a_partner(**other: Any) -> dict[str, Any]:
    """As reference 003's SDK registers somebody."""
    return {
        "name": "Toko Laundry", "email": "Laundry@Shop.test", "password": NEW_PASSWORD, "phone_number": "081234567890",
    } | other  # fmt: skip


def a_merchant(**other: Any) -> dict[str, Any]:
    """As reference 000's client does."""
    return {
        "email": "warung@shop.test", "password": NEW_PASSWORD, "companyName": "Warung Enak", "fullName": "Siti Rahma",
        "city": "Bandung", "address": "Jl. Asia 1", "phoneNumber": "+6281234567890",
    } | other  # fmt: skip


async def test_a_login_is_read_by_both_references_clients(hub: Hub) -> None:
    data = await told(hub, "login", {"email": "merchant_owner@shop.test", "password": PASSWORD})

    assert data["accessToken"] == data["access_token"]
    assert data["refreshToken"] == data["refresh_token"]
    assert (data["user"]["userId"], data["user"]["id"]) == ("per_test_merchant_owner",) * 2
    assert data["user"]["fullName"] == data["user"]["name"]
    listed = await hub.http.get("/api/transactions", headers={"authorization": f"Bearer {data['access_token']}"})
    assert listed.status_code in (200, 404)
    again = await told(hub, "refresh", {"refreshToken": data["refreshToken"]})
    assert again["refreshToken"] != data["refreshToken"]
    reused = await send(hub, "refresh", {"refresh_token": data["refresh_token"]})
    assert (reused.status_code, reused.json()["code"]) == (401, "UNAUTHENTICATED")


async def test_a_partners_token_lives_a_day_and_ends_with_its_session(hub: Hub) -> None:
    data = await told(hub, "login", {"email": "partner@shop.test", "password": PASSWORD})
    bearer = {"authorization": f"Bearer {data['access_token']}"}
    claims = jwt.decode(data["access_token"], options={"verify_signature": False})

    before = await hub.http.get("/api/user/token-balance", headers=bearer)
    left = await hub.http.post(f"{AUTH}/logout", headers=bearer)
    after = await hub.http.get("/api/user/token-balance", headers=bearer)

    assert 86_390 < claims["exp"] - time.time() <= 86_400
    assert data["expires_in"] == 86_400
    assert (before.status_code, left.status_code, after.status_code) == (200, 200, 401)


@pytest.mark.parametrize("role", sorted(EVERYBODY))
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_whoever_logs_in_here_logs_out_here(hub: Hub, database: Database, role: str) -> None:
    data = await told(hub, "login", {"email": f"{role}@shop.test", "password": PASSWORD})
    bearer = {"authorization": f"Bearer {data['access_token']}"}

    left = await hub.http.post(f"{AUTH}/logout", headers=bearer)
    again = await hub.http.post(f"{AUTH}/logout", headers=bearer)

    assert (left.status_code, again.status_code) == (200, 401)
    assert len(await rows(database, "SELECT id FROM login_session WHERE end_reason = 'logout'")) == 1


async def test_a_partner_registers_and_logs_in(hub: Hub, database: Database) -> None:
    made = await told(hub, "register", a_partner(), 201)
    data = await told(hub, "login", {"email": "laundry@shop.test", "password": NEW_PASSWORD})

    assert (data["user"]["id"], data["user"]["role"]) == (made["userId"], "partner")
    assert (made["user"]["phone_number"], made["email"]) == ("081234567890", "laundry@shop.test")
    second = await told(
        hub, "register", a_partner(email="b@shop.test", referral_code=made["user"]["referral_code"].lower()), 201
    )
    assert second["user"]["referred_by"] == made["userId"]
    assert len(await audited(database, "person.registered")) == 2
    assert await rows(database, "SELECT id FROM merchant") == []


async def test_a_merchant_registers_and_waits_for_its_approval(hub: Hub, database: Database) -> None:
    made = await told(hub, "register", a_merchant(), 201)

    merchant = await row(database, "SELECT * FROM merchant")
    assert (merchant["status"], merchant["brand_name"], merchant["city"]) == ("pending", "Warung Enak", "Bandung")
    assert (made["companyName"], made["email"]) == ("Warung Enak", "warung@shop.test")
    login = await told(hub, "login", {"email": "warung@shop.test", "password": NEW_PASSWORD})
    create = await hub.http.post(
        "/api/transactions/create", json={"type": "QRIS", "amount": 5_000},
        headers={"authorization": f"Bearer {login['accessToken']}"},
    )  # fmt: skip
    assert (create.status_code, create.json()["code"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (a_partner(email="partner@shop.test"), 409, "email"),
        (a_partner(email="no address"), 400, "email"),
        (a_partner(password="short"), 400, "password"),
        (a_partner(referral_code="NOBODYS1"), 409, "referral_code"),
        (a_merchant(phoneNumber="12345"), 400, "phoneNumber"),
    ],
    ids=["taken", "address", "password", "referral", "phone"],
)
async def test_a_registration_that_does_not_fit_names_the_field_and_leaves_nothing(
    hub: Hub, database: Database, body: dict[str, Any], status: int, field: str
) -> None:
    before = await rows(database, "SELECT id FROM organisation ORDER BY id")

    answer = await send(hub, "register", body)

    assert answer.status_code == status, answer.text
    said = answer.json()
    assert (said["success"], said["message"], said["error"]) == (False, "Validasi gagal", "Validasi gagal")
    assert [one["field"] for one in said["errors"]] == [field]
    assert said["details"]["errors"].keys() == {field}
    assert await rows(database, "SELECT id FROM organisation ORDER BY id") == before


@pytest.mark.parametrize("door", ["forgot-password", "request-password-reset"])
async def test_a_reset_tells_nothing_and_its_token_goes_by_mail_alone(hub: Hub, database: Database, door: str) -> None:
    known = await send(hub, door, {"email": "partner@shop.test"})
    unknown = await send(hub, door, {"email": "nobody@shop.test"})

    assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    mails = await rows(database, "SELECT id FROM outbox_message WHERE kind = 'password_reset'")
    assert len(mails) == 1
    (stored,) = await rows(database, "SELECT token_sha256 FROM one_time_token")
    assert stored["token_sha256"] not in known.text


async def test_a_password_is_set_with_the_mails_token_by_either_references_names(hub: Hub, database: Database) -> None:
    for names in (("resetToken", "newPassword"), ("token", "password")):
        token = f"token-of-{names[0]}-and-long-enough-to-be-one"
        await plant_token(database, token)
        body = {names[0]: token, names[1]: NEW_PASSWORD, "confirmPassword": NEW_PASSWORD}

        await told(hub, "reset-password", body)
        reused = await send(hub, "reset-password", body)

        assert (reused.status_code, reused.json()["code"]) == (404, "LINK_EXPIRED")
    await plant_token(database, "the-third-token-of-all")
    differ = {"newPassword": NEW_PASSWORD, "confirmPassword": "another one altogether"}
    assert (await send(hub, "reset-password", differ | {"resetToken": "the-third-token-of-all"})).status_code == 400
    assert (await send(hub, "reset-password", differ | {"resetToken": "nobodys"})).status_code == 404
    await told(hub, "login", {"email": "partner@shop.test", "password": NEW_PASSWORD})


async def plant_token(database: Database, token: str) -> None:
    from soundbox_server.access.service import sha256

    await execute(
        database,
        "INSERT INTO one_time_token (token_sha256, person_id, purpose, created_at_ms, expires_at_ms) "
        "VALUES ($1, 'per_test_partner', 'password_reset', 1, 9000000000000)",
        sha256(token),
    )


async def test_wrong_passwords_are_counted_and_then_wait(hub: Hub, database: Database) -> None:
    wrong = {"email": "partner@shop.test", "password": "not the password at all"}

    answers = [await send(hub, "login", wrong) for _ in range(6)]
    stranger = await send(hub, "login", wrong | {"email": "nobody@shop.test"})

    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert (stranger.json()["message"], stranger.json()["code"]) == (
        answers[0].json()["message"], answers[0].json()["code"],
    )  # fmt: skip
    assert int(answers[-1].headers["retry-after"]) > 0
    assert answers[-1].json()["details"]["retryAfter"] > 0
    assert len(await audited(database, "api.login.failed")) == 6


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_staff_need_their_second_factor_here_as_well(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "strict", require_totp=True) as hub:
        data = await told(hub, "login", {"email": "operator@shop.test", "password": PASSWORD})
        bearer = {"authorization": f"Bearer {data['access_token']}"}
        answer = await hub.http.get("/api/admin/license-keys/lic_nowhere", headers=bearer)
        left = await hub.http.post(f"{AUTH}/logout", headers=bearer)

    assert data["must_enrol_totp"] is True
    assert (answer.status_code, answer.json()["code"]) == (401, "MFA_REQUIRED")
    assert left.status_code == 200
