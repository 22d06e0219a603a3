"""The table of role × route × tenant, walked: for people, for API keys, and with another tenant's ids."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from support.hub import Hub, open_hub, person_of
from support.shop import execute, open_shop

from soundbox_server.access.auth import DEVICE, PUBLIC, SIGNED
from soundbox_server.access.service import sha256
from soundbox_server.access.state import ROLES_OF, STAFF
from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.policy import OPEN_WITHOUT_TOTP, POLICY, SCOPES

ROLES = tuple(role for roles in ROLES_OF.values() for role in sorted(roles))
KIND_OF = {role: kind for kind, roles in ROLES_OF.items() for role in roles}
NOWHERE = {
    "device_id": "sbx_nowhere", "transaction_id": "txn_nowhere", "session_id": "ses_nowhere",
    "organisation_id": "org_nowhere", "person_id": "per_nowhere", "api_key_id": "key_nowhere",
    "alert_id": "alr_nowhere", "merchant_id": "mer_nowhere", "change_id": "acc_nowhere", "document_id": "doc_nowhere",
    "outlet_id": "out_nowhere", "terminal_id": "term_nowhere", "command_id": "cmd_nowhere",
    "static_qr_id": "sqr_nowhere",
    "export_id": "exp_nowhere", "reference_id": "txn_nowhere", "conflict_id": "ofc_nowhere",
    "refund_id": "rfd_nowhere", "report_id": "evt_nowhere", "credential_id": "pcr_nowhere", "route_id": "prt_nowhere",
    "settlement_id": "stl_nowhere", "fee_profile_id": "fee_nowhere", "statement_id": "sta_nowhere",
    "difference_id": "dif_nowhere", "payout_id": "pyt_nowhere", "provider": "nobody", "partner": "nobody",
}  # fmt: skip
# Bodies that fit, for routes whose foreign id would otherwise never be looked at.
BODIES: dict[tuple[str, str], object] = {
    ("POST", "/api/v1/pos/payments/{reference_id}/simulate"): {},
    ("POST", "/api/v1/pos/offline/conflicts/{conflict_id}/resolve"): {"resolution": "keep_server"},
}
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def served(hub: Hub) -> set[tuple[str, str]]:
    paths = hub.app.openapi()["paths"]
    lean = {(method, route.path) for route in hub.app.routes for method in getattr(route, "methods", None) or ()
            if route.path.startswith(("/device/", "/integrations/"))}  # fmt: skip
    return lean | {(method.upper(), path) for path, methods in paths.items() for method in methods}


def routes(role: str = "") -> Iterator[tuple[str, str]]:
    """All of them; what ends this role's session comes last."""
    yield from sorted(POLICY, key=lambda route: (ends_session(route, role), route))


def ends_session(route: tuple[str, str], role: str) -> bool:
    allowed = POLICY[route]
    return route[1].endswith("/logout") and isinstance(allowed, frozenset) and role in allowed


async def call(
    hub: Hub, route: tuple[str, str], headers: Mapping[str, str], ids: Mapping[str, str] = NOWHERE
) -> httpx.Response:
    method, path = route
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, f"say what stands for the parameters of {path}"
    return await hub.http.request(method, path, headers=dict(headers), json=BODIES.get(route))


async def test_the_table_and_what_is_served_are_the_same(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        assert served(hub) == set(POLICY)


def test_scopes_and_what_is_open_without_a_second_factor_name_routes_of_the_table(database_url: str) -> None:
    assert set().union(*SCOPES.values()) <= set(POLICY)
    assert set(POLICY) >= OPEN_WITHOUT_TOTP


async def test_every_role_gets_in_where_the_table_says_and_nowhere_else(database_url: str, tmp_path: Path) -> None:
    asked = 0
    async with open_hub(database_url, tmp_path) as hub:
        for role in ROLES:
            for route in routes(role):
                answered, allowed = await call(hub, route, hub.as_role(role)), POLICY[route]
                asked += 1

                if allowed in (PUBLIC, SIGNED):
                    assert answered.status_code != 403, (route, role)
                elif allowed is DEVICE:
                    assert answered.status_code in (400, 401), (route, role)
                else:
                    assert isinstance(allowed, frozenset)
                    assert (answered.status_code == 403) == (role not in allowed), (route, role, answered.text)
                    assert answered.status_code != 401, (route, role, answered.text)
    assert asked == len(POLICY) * len(ROLES)


async def test_without_a_token_only_public_doors_open(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        for route, allowed in POLICY.items():
            answered = await call(hub, route, {})

            if allowed is not PUBLIC:
                assert answered.status_code in (400, 401), route


async def test_ended_sessions_and_disabled_people_get_in_nowhere(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        database = hub.app.state.database
        await execute(database, "UPDATE login_session SET ended_at_ms = 1, end_reason = 'revoked' WHERE id = $1",
                      "ses_test_operator")  # fmt: skip
        await execute(database, "UPDATE person SET state = 'disabled' WHERE id = $1", person_of("platform_admin"))
        await execute(database, "UPDATE login_session SET expires_at_ms = 1 WHERE id = $1", "ses_test_support")
        for role in ("operator", "platform_admin", "support"):
            for route in routes():
                if isinstance(POLICY[route], frozenset):
                    answered = await call(hub, route, hub.as_role(role))

                    assert answered.status_code == 401, (route, role)


# For people alone: their own account, who gets in, and what somebody answers for.
PEOPLES = re.compile(
    r"/admin/(logout|password|totp|sessions|people|api-keys|seed|providers)\b|/merchant/|/merchants/\{\w+\}/(approve|reject|suspend|"
    r"resubmit|account-changes)|/merchants/\{\w+\}/documents/\{\w+\}$|/admin/organisations$|"
    r"/admin/fees/profiles/\{\w+\}/versions|/admin/transactions/\{\w+\}/resolve|/admin/provider-reports/\{\w+\}/(assign|reject)|"
    r"/admin/reconciliation/differences/\{\w+\}/settle|"
    r"/admin/settlements/\{\w+\}/mark-paid|/admin/payouts/\{\w+\}/mark-returned"
)


def test_whatever_is_not_for_people_alone_is_in_one_scope(database_url: str) -> None:
    for route, allowed in POLICY.items():
        held_by = [name for name, opens in SCOPES.items() if route in opens]
        peoples = bool(PEOPLES.search(route[1])) and route != ("GET", "/admin/organisations")
        peoples = peoples or route == ("POST", "/admin/fees/profiles")

        assert len(held_by) == (0 if peoples or not isinstance(allowed, frozenset) else 1), (route, held_by)
        for name in held_by:
            assert (name.rpartition(":")[2] == "read") == (route[0] == "GET"), (route, name)


async def test_a_key_gets_in_where_both_its_role_and_its_scope_say(database_url: str, tmp_path: Path) -> None:
    """With a scope alone it gets in where that leads and its role may; with all the others it does not."""
    asked = let_in = 0
    async with open_hub(database_url, tmp_path) as hub:
        for role, (scope, opens) in product(ROLES, SCOPES.items()):
            alone = await plant_key(hub.app.state.database, role, scope)
            others = await plant_key(hub.app.state.database, role, *(SCOPES.keys() - {scope}), name=f"no_{scope}")
            for route in opens:
                allowed = POLICY[route]
                assert isinstance(allowed, frozenset)
                answered = await call(hub, route, {"x-api-key": alone})
                shut_out = await call(hub, route, {"x-api-key": others})
                asked += 1

                assert answered.status_code != 401, (route, role, scope)
                assert (answered.status_code == 403) == (role not in allowed), (route, role, scope, answered.text)
                assert shut_out.status_code == 403, (route, role, scope, shut_out.text)
                let_in += role in allowed
    assert asked > let_in > 0


async def test_a_key_of_every_scope_does_nothing_that_is_for_people_alone(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        for role in ROLES:
            key = await plant_key(hub.app.state.database, role, *SCOPES, name="all")
            for route in routes():
                if isinstance(POLICY[route], frozenset) and not any(route in opens for opens in SCOPES.values()):
                    answered = await call(hub, route, {"x-api-key": key})

                    assert answered.status_code == 403, (route, role, answered.text)


async def plant_key(database: Database, role: str, *scopes: str, name: str = "") -> str:
    name = name or scopes[0]
    key = f"sbk_{role}_{name}"
    await execute(
        database,
        "INSERT INTO api_key (id, organisation_id, organisation_kind, name, role, scopes, key_sha256, created_by, "
        "created_at_ms, last_used_at_ms) VALUES ($1, $2, $3, $1, $4, $5, $6, $7, 1, $8)",
        f"key_{role}_{name}", f"org_test_{KIND_OF[role]}", KIND_OF[role], role, " ".join(scopes),
        sha256(key), person_of(role), now_ms(),
    )  # fmt: skip
    return key


@dataclass(frozen=True)
class World:
    """One tenant's things, and for each role whose session there is its own."""

    ids: dict[str, str]
    sessions: dict[str, str] = field(default_factory=dict)

    def of(self, role: str) -> dict[str, str]:
        return self.ids | {"session_id": self.sessions[role]}


async def plant_world(database: Database, name: str) -> World:
    """A shop with a box and a payment, organisations of every kind, people of every role, sessions and keys."""
    shop = await open_shop(database)
    device_id = await shop.box()
    payment = await shop.payment(device_id)
    at_ms, sessions, ids = now_ms(), {}, {"device_id": device_id, "transaction_id": payment.payment_id}
    ids["reference_id"] = payment.payment_id
    ids["conflict_id"] = f"ofc_{name}"
    await execute(database, _CONFLICT, ids["conflict_id"], shop.merchant_id, shop.terminal_id)
    for kind, roles in ROLES_OF.items():
        ids["organisation_id"] = f"org_{name}_{kind}"
        await execute(
            database,
            "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, $2, $1, 1)",
            ids["organisation_id"], kind,
        )  # fmt: skip
        for role in sorted(roles):
            ids["person_id"], sessions[role] = f"per_{name}_{role}", f"ses_{name}_{role}"
            await execute(
                database,
                "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
                "password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $1, $5, 'active', 'id', 'x', 1)",
                ids["person_id"], ids["organisation_id"], kind, f"{role}@{name}.test", role,
            )  # fmt: skip
            await plant_session(database, sessions[role], ids["person_id"], at_ms)
    ids["api_key_id"] = "key_platform_admin_devices:read"
    return World(ids, sessions)


_CONFLICT = (
    "INSERT INTO offline_conflict (id, merchant_id, terminal_id, kind, offline_reference, offline_id, conflict_type, "
    "reason, local_data, local_sha256, created_at_ms) "
    "VALUES ($1, $2, $3, 'void', 'POS01-20251013-1', 'x', 'constraint_violation', 'no such transaction', '{}', 'x', 1)"
)


async def plant_session(database: Database, session_id: str, person_id: str, at_ms: int) -> None:
    await execute(
        database,
        "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms) "
        "VALUES ($1, $2, 'token', $3, $3, $4)",
        session_id, person_id, at_ms, at_ms + 3_600_000,
    )  # fmt: skip


async def test_another_tenants_things_are_not_there(database_url: str, tmp_path: Path) -> None:
    """Whoever is bound to a tenant meets 404 with every id of another that exists."""
    asked = 0
    async with open_hub(database_url, tmp_path) as hub:
        database = hub.app.state.database
        await plant_key(database, "platform_admin", "devices:read")
        theirs = await plant_world(database, "theirs")
        for route in routes():
            allowed = POLICY[route]
            if "{" not in route[1] or not isinstance(allowed, frozenset):
                continue
            for role in sorted(allowed - STAFF):
                foreign = await call(hub, route, hub.as_role(role), theirs.of(role))
                asked += 1

                assert foreign.status_code == 404, (route, role, foreign.text)
    assert asked >= 2


@pytest.mark.parametrize(("door", "roles"), [("admin", sorted(STAFF)), ("merchant", sorted(ROLES_OF["merchant"]))])
async def test_nobody_ends_another_persons_session(
    database_url: str, tmp_path: Path, door: str, roles: list[str]
) -> None:
    async with open_hub(database_url, tmp_path) as hub:
        database = hub.app.state.database
        for role in roles:
            await plant_session(database, f"ses_second_{role}", person_of(role), now_ms())
        others = {role: f"ses_second_{roles[at - 1]}" for at, role in enumerate(roles)}
        refused = [
            await hub.http.delete(f"/{door}/sessions/{others[role]}", headers=hub.as_role(role)) for role in roles
        ]
        own = [
            await hub.http.delete(f"/{door}/sessions/ses_second_{role}", headers=hub.as_role(role)) for role in roles
        ]

    assert {answered.status_code for answered in refused} == {404}
    assert {answered.status_code for answered in own} == {200}


async def test_a_route_nobody_entered_in_the_table_is_closed(database_url: str, tmp_path: Path) -> None:
    router = APIRouter()

    @router.get("/admin/forgotten")
    async def forgotten() -> str:
        return "secret"

    async with open_hub(database_url, tmp_path, changed=True) as hub:
        hub.app.include_router(router)

        answered = await hub.http.get("/admin/forgotten", headers=hub.as_role("platform_admin"))
        assert answered.status_code == 403
        assert (await hub.http.get("/admin/forgotten")).status_code == 401
