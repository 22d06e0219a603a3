"""Accounts and routes as operators set them: sealed, never shown, taken up at once; a merchant's own stay its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.fakes.service import private_pem, public_pem
from support.hub import Hub, open_hub
from support.shop import Shop, open_shop, row, rows
from support.staff import Staff, audited

from soundbox_server.db import Database
from soundbox_server.errors import InvalidAmount, InvalidPaymentType
from soundbox_server.providers.base import Method
from soundbox_server.providers.registry import Gateways

SECRET = "xnd_production_very-secret"
XENDIT = {"secret_key": SECRET, "webhook_token": "token-of-the-webhook"}


ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # nothing here is the database's doing


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def admin(hub: Hub) -> Staff:
    return Staff(hub, "per_admin", "platform_admin")


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


def gateways(hub: Hub) -> Gateways:
    found = hub.app.state.gateways
    assert isinstance(found, Gateways)
    return found


async def set_credentials(
    admin: Staff, provider: str = "xendit", *, merchant_id: str | None = None, **other: Any
) -> Any:
    body = {"credentials": XENDIT | other} | ({"merchant_id": merchant_id} if merchant_id else {})
    return await admin.post(f"/admin/providers/{provider}/credentials", body, status=201)


async def test_credentials_are_sealed_never_shown_and_used_at_once(database: Database, hub: Hub, admin: Staff) -> None:
    before = set(gateways(hub).accounts)
    made = await set_credentials(admin)

    listed = await admin.get("/admin/providers/credentials")
    providers = {one["provider"]: one for one in await admin.get("/admin/providers")}
    stored = await row(database, "SELECT * FROM provider_credential")

    assert set(gateways(hub).accounts) - before == {"xendit"}
    assert (made["names"], made["version"], made["account"]) == (["secret_key", "webhook_token"], 1, "xendit")
    assert listed == [made]
    assert "qris_dynamic" in providers["xendit"]["accounts"][0]["methods"]
    assert SECRET not in str(stored) + str(listed) + str(providers) + str(
        await rows(database, "SELECT details FROM audit_entry")
    )


async def test_rotated_credentials_make_a_gateway_anew_and_others_keep_theirs(hub: Hub, admin: Staff) -> None:
    made = await set_credentials(admin)
    before = dict(gateways(hub).accounts)

    rotated = await admin.post(
        f"/admin/providers/credentials/{made['id']}/rotate", {"credentials": XENDIT | {"secret_key": "another"}}
    )

    assert rotated["version"] == 2
    assert gateways(hub).get("xendit") is not before["xendit"]
    assert gateways(hub).get("sandbox") is before["sandbox"]


async def test_removed_credentials_are_used_no_more(database: Database, hub: Hub, admin: Staff) -> None:
    made = await set_credentials(admin)

    answer = await admin.call("DELETE", f"/admin/providers/credentials/{made['id']}")

    assert answer.status_code == 204
    assert "xendit" not in gateways(hub).accounts
    (removed,) = await audited(database, "provider.credential_removed")
    assert (removed["actor_id"], removed["subject_id"]) == ("per_admin", made["id"])


@ON_SQLITE
@pytest.mark.parametrize(
    ("provider", "credentials", "status"),
    [
        ("xendit", {"secret_key": SECRET}, 422),
        ("xendit", XENDIT | {"server_key": "of another provider"}, 422),
        ("paylabs", {"merchant_id": "1", "private_key": "no key", "public_key": "no key"}, 422),
        ("sandbox", {}, 422),
        ("nobody", XENDIT, 404),
    ],
)
async def test_what_makes_no_account_is_refused_without_being_quoted(
    hub: Hub, admin: Staff, provider: str, credentials: dict[str, str], status: int
) -> None:
    problem = await admin.refused(
        "POST", f"/admin/providers/{provider}/credentials", {"credentials": credentials}, status=status
    )

    assert not any(secret in str(problem) for secret in credentials.values() if len(secret) > 5)
    assert await rows(hub.app.state.database, "SELECT id FROM provider_credential") == []


async def test_an_account_has_one_set_of_credentials(admin: Staff) -> None:
    await set_credentials(admin)

    await admin.refused("POST", "/admin/providers/xendit/credentials", {"credentials": XENDIT}, status=409)


async def test_keys_that_can_be_read_make_an_account(hub: Hub, admin: Staff) -> None:
    keys = {"private_key": private_pem("hub"), "public_key": public_pem("partner"), "merchant_id": "010332"}

    await admin.post("/admin/providers/paylabs/credentials", {"credentials": keys}, status=201)

    assert "paylabs" in gateways(hub).accounts


async def test_a_merchants_own_account_comes_before_the_platforms(
    database: Database, hub: Hub, admin: Staff, shop: Shop
) -> None:
    other = await open_shop(database)
    await set_credentials(admin)
    await set_credentials(admin, merchant_id=shop.merchant_id, webhook_token="token-of-the-merchant")
    await admin.call("PUT", "/admin/providers/routes", json={"method": "ovo", "primary": "xendit"})

    own = gateways(hub).candidates(shop.merchant_id, Method.OVO, 25_000)
    platforms = gateways(hub).candidates(other.merchant_id, Method.OVO, 25_000)

    assert (own, platforms) == ([f"xendit.{shop.merchant_id}"], ["xendit"])


async def test_a_merchants_secret_says_nothing_of_other_merchants_payments(
    database: Database, hub: Hub, admin: Staff, shop: Shop
) -> None:
    await set_credentials(admin)
    await set_credentials(admin, merchant_id=shop.merchant_id, webhook_token="token-of-the-merchant")
    somebody_elses = await shop.payment(await shop.box(), provider="xendit")
    body = (
        f'{{"id": "inv-1", "external_id": "{somebody_elses.reference}", "status": "PAID", "amount": 50000, '
        '"currency": "IDR", "paid_at": "2026-05-23T10:00:30Z"}'
    )

    forged = await hub.http.post(
        "/api/v1/webhook/xendit", content=body, headers={"x-callback-token": "token-of-the-merchant"}
    )
    after_forged = await row(database, "SELECT state FROM payment")
    honest = await hub.http.post(
        "/api/v1/webhook/xendit", content=body, headers={"x-callback-token": "token-of-the-webhook"}
    )

    assert (forged.status_code, after_forged["state"]) == (200, "awaiting_payment")
    assert (honest.status_code, (await row(database, "SELECT state FROM payment"))["state"]) == (200, "paid")
    events = await rows(database, "SELECT provider, outcome FROM provider_event ORDER BY provider")
    assert [(one["provider"], one["outcome"]) for one in events] == [
        ("xendit", "applied"), (f"xendit.{shop.merchant_id}", "orphan"),
    ]  # fmt: skip


async def test_a_route_holds_for_one_merchant_or_for_all_and_can_be_taken_back(
    database: Database, hub: Hub, admin: Staff, shop: Shop
) -> None:
    other = await open_shop(database)
    await set_credentials(admin)
    answer = await admin.call(
        "PUT", "/admin/providers/routes",
        json={"method": "qris_dynamic", "primary": "xendit", "fallback": "sandbox", "merchant_id": shop.merchant_id},
    )  # fmt: skip
    route = answer.json()["data"]

    def asked(of: Shop, amount: int = 25_000, resting: tuple[str, ...] = ()) -> list[str]:
        return list(gateways(hub).candidates(of.merchant_id, Method.QRIS_DYNAMIC, amount, resting=resting))

    assert (asked(shop), asked(other)) == (["xendit", "sandbox"], ["sandbox"])
    assert asked(shop, resting=("xendit",)) == ["sandbox", "xendit"]
    assert asked(shop, 1_000) == ["sandbox"]  # too little for the first one
    assert await admin.get("/admin/providers/routes", merchant_id=shop.merchant_id) == [route]
    removed = await admin.call("DELETE", f"/admin/providers/routes/{route['id']}")
    assert (removed.status_code, asked(shop)) == (204, ["sandbox"])


async def test_what_nobody_offers_or_takes_is_refused(hub: Hub, admin: Staff, shop: Shop) -> None:
    await set_credentials(admin)
    await admin.call("PUT", "/admin/providers/routes", json={"method": "dana", "primary": "xendit"})

    with pytest.raises(InvalidPaymentType):
        gateways(hub).candidates(shop.merchant_id, Method.OVO, 25_000)
    with pytest.raises(InvalidAmount):
        gateways(hub).candidates(shop.merchant_id, Method.DANA, 1_499)


@ON_SQLITE
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"method": "ovo", "primary": "nobody"}, 404),
        ({"method": "ovo", "primary": "xendit", "fallback": "xendit"}, 409),
        ({"method": "cash", "primary": "xendit"}, 400),
        ({"method": "ovo", "primary": "xendit", "merchant_id": "mer_nowhere"}, 404),
    ],
)
async def test_a_route_to_nobody_is_refused(admin: Staff, body: dict[str, str], status: int) -> None:
    await admin.refused("PUT", "/admin/providers/routes", body, status=status)


async def test_another_process_takes_up_what_was_changed(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as one, open_hub(database_url, tmp_path) as other:
        await set_credentials(Staff(one, "per_admin", "platform_admin"))
        before = set(gateways(other).accounts)
        state = other.app.state

        await gateways(other).refresh(state.database, state.sealing_ring)

        assert set(gateways(other).accounts) - before == {"xendit"}
