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
from support.settled import plant_settlement
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
    "static_qr_id": "sqr_nowhere", "batch_id": "cbt_nowhere",
    "export_id": "exp_nowhere", "reference_id": "txn_nowhere", "conflict_id": "ofc_nowhere",
    "refund_id": "rfd_nowhere", "report_id": "evt_nowhere", "credential_id": "pcr_nowhere", "route_id": "prt_nowhere",
    "settlement_id": "stl_nowhere", "fee_profile_id": "fee_nowhere", "statement_id": "sta_nowhere",
    "webhook_id": "whk_nowhere", "delivery_id": "whd_nowhere",
    "payout_id": "pyt_nowhere", "difference_id": "dif_nowhere", "provider": "nobody", "partner": "nobody",
    "log_file_id": "lgf_nowhere",
    "license_id": "lic_nowhere", "license_key": "AAAAA-AAAAA-AAAAA-AAAAA-AAAAA", "topup_id": "tpu_nowhere",
    "wallet_code": "wllt-nowhere", "trace_id": "txn-nowhere", "invoice_id": "inv-nowhere",
    "consent_id": "cst_nowhere", "application_id": "lon_nowhere", "erasure_id": "ers_nowhere",
}  # fmt: skip
# Bodies that fit, for routes whose foreign id would otherwise never be looked at.
BODIES: dict[tuple[str, str], object] = {
    ("POST", "/api/v1/pos/payments/{reference_id}/simulate"): {},
    ("POST", "/api/v1/pos/offline/conflicts/{conflict_id}/resolve"): {"resolution": "keep_server"},
    ("PATCH", "/merchant/webhooks/{webhook_id}"): {"description": "till"},
    ("POST", "/merchant/webhooks/{webhook_id}/replay"): {"since": "2026-05-23T00:00:00Z"},
    ("PATCH", "/merchant/merchants/{merchant_id}"): {"announcement_policy": "outlet"},
    ("POST", "/api/v1/wallets/{wallet_code}/topup"): {"amount": 1},
    ("POST", "/api/v1/txn/payment-session/{wallet_code}"): {"amount": 1},
    ("POST", "/api/v1/txn/accept-payment/{trace_id}"): {"fromWalletCode": "wllt-1", "totalAmount": 1, "pin": "204817"},
    ("POST", "/api/v1/txn/refund/{trace_id}"): {"pin": "204817"},
    ("POST", "/lending/loan-applications/{application_id}/approve"): {"reason": "sound", "interest_bps": 1},
    ("POST", "/lending/loan-applications/{application_id}/reject"): {"reason": "unsound"},
    ("POST", "/lending/loan-applications/{application_id}/disburse"): {
        "reference": "trf-1", "on": "2026-05-23", "amount_idr": 1,
    },
}  # fmt: skip
# Lists that are asked for in a body.
READ_BY_POST = {
    ("POST", "/api/v1/txn/transaction"), ("POST", "/api/bank/merchants/search"), ("POST", "/api/bank/batch-assessment"),
}  # fmt: skip
# Its SDK wants to be told that a key is not the caller's, and not to meet an error.
ANSWERS_STRANGERS = {("GET", "/api/license/validate-ownership/{license_key}")}
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
                if ends_session(route, role):  # banks have two doors to leave by
                    await execute(hub.app.state.database, _REOPEN, f"ses_test_{role}")

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
    r"/admin/(logout|password|totp|sessions|people|api-keys|seed|providers)\b|/api/auth/logout|/merchant/(logout|password|totp|sessions)\b|/api/v1/org/(register|login|put)$|/merchants/\{\w+\}/(approve|reject|suspend|"
    r"resubmit|account-changes)|/merchants/\{\w+\}/documents/\{\w+\}$|/admin/organisations$|"
    r"/admin/command-batches/\{\w+\}/(approve|refuse)|"
    r"/admin/fees/profiles/\{\w+\}/versions|/admin/transactions/\{\w+\}/resolve|"
    r"/admin/provider-reports/\{\w+\}/(assign|reject)|/admin/reconciliation/differences/\{\w+\}/settle|"
    r"/admin/settlements/\{\w+\}/mark-paid|/admin/payouts/\{\w+\}/mark-returned|"
    r"/admin/license-keys/\{\w+\}/tokens|/lending/(logout|password|totp|sessions)\b|"
    r"/lending/loan-applications/\{\w+\}/(approve|reject)|/merchants/\{\w+\}/erasures|"
    r"/admin/erasures/\{\w+\}/(approve|refuse)"
)
# An owner's word: what a bank sees, what is asked of it, and that a merchant be forgotten.
OWNERS_WORD = re.compile(r"/merchant/(consents|loan-applications|erasures)(/\{\w+\}/\w+)?$")


def test_whatever_is_not_for_people_alone_is_in_one_scope(database_url: str) -> None:
    for route, allowed in POLICY.items():
        held_by = [name for name, opens in SCOPES.items() if route in opens]
        peoples = bool(PEOPLES.search(route[1])) and route != ("GET", "/admin/organisations")
        peoples = peoples or route in {("POST", "/admin/fees/profiles"), ("PUT", "/api/v1/org/profile")}
        peoples = peoples or (route[0] == "POST" and bool(OWNERS_WORD.search(route[1])))

        assert len(held_by) == (0 if peoples or not isinstance(allowed, frozenset) else 1), (route, held_by)
        for name in held_by:
            reads = route[0] == "GET" or route in READ_BY_POST
            assert (name.rpartition(":")[2] == "read") == reads, (route, name)


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
                asked += 1

                assert answered.status_code != 401, (route, role, scope)
                assert (answered.status_code == 403) == (role not in allowed), (route, role, scope, answered.text)
                if role in allowed:
                    shut_out = await call(hub, route, {"x-api-key": others})
                    let_in += 1

                    assert shut_out.status_code == 403, (route, role, scope, shut_out.text)
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
    ids["merchant_id"] = shop.merchant_id
    ids["conflict_id"] = f"ofc_{name}"
    await execute(database, _CONFLICT, ids["conflict_id"], shop.merchant_id, shop.terminal_id)
    ids["settlement_id"] = await plant_settlement(database, shop)
    ids["trace_id"] = "txn-nowhere"  # one that exists is anybody's to pay
    ids["invoice_id"], ids["wallet_code"] = f"inv-{name}", f"wllt-{name}"
    await execute(database, _INVOICE, ids["invoice_id"], shop.merchant_id, shop.outlet_id, shop.terminal_id)
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
    ids["license_key"], ids["topup_id"] = "BBBBB-BBBBB-BBBBB-BBBBB-BBBBB", "tpu_theirs"
    await plant_topup(database, ids, f"org_{name}_partner")
    ids["export_id"] = f"exp_{name}"
    await execute(database, _HOLDER, f"org_{name}_merchant")
    await execute(database, _WALLET, ids["wallet_code"], f"org_{name}_merchant", True)
    await execute(database, _EXPORT, ids["export_id"], f"org_{name}_merchant")
    ids["webhook_id"], ids["delivery_id"] = f"whk_{name}", f"whd_{name}"
    await execute(database, _WEBHOOK, ids["webhook_id"], f"org_{name}_merchant")
    await execute(database, _DELIVERY, ids["delivery_id"], ids["webhook_id"], b"{}")
    ids["consent_id"], ids["application_id"] = f"cst_{name}", f"lon_{name}"
    await execute(database, _CONSENT, ids["consent_id"], shop.merchant_id, f"org_{name}_bank", at_ms)
    await execute(database, _LOAN, ids["application_id"], shop.merchant_id, f"org_{name}_bank")
    ids["api_key_id"] = "key_platform_admin_devices:read"
    return World(ids, sessions)


async def plant_topup(database: Database, ids: Mapping[str, str], organisation_id: str) -> None:
    """A partner's license, and a top-up of it by the world's payment."""
    payment_id = ids["transaction_id"]
    await execute(
        database,
        "INSERT INTO license (id, key, organisation_id, price_per_token, state, created_at_ms) "
        "VALUES ('lic_theirs', $1, $2, 100, 'active', 1)",
        ids["license_key"], organisation_id,
    )  # fmt: skip
    await execute(
        database,
        "INSERT INTO payment_session (id, trace_id, payment_id, organisation_id, language, created_at_ms, "
        "expires_at_ms) VALUES ('pay_theirs', 'trc_theirs', $1, $2, 'id', 1, 2)",
        payment_id, organisation_id,
    )  # fmt: skip
    await execute(
        database,
        "INSERT INTO token_topup (id, organisation_id, license_id, payment_id, session_id, tokens_requested, "
        "bonus_tokens, price_per_token, payment_method, created_at_ms) "
        "VALUES ($1, $2, 'lic_theirs', $3, 'pay_theirs', 1, 0, 100, 'qris', 1)",
        ids["topup_id"], organisation_id, payment_id,
    )  # fmt: skip


_CONFLICT = (
    "INSERT INTO offline_conflict (id, merchant_id, terminal_id, kind, offline_reference, offline_id, conflict_type, "
    "reason, local_data, local_sha256, created_at_ms) "
    "VALUES ($1, $2, $3, 'void', 'POS01-20251013-1', 'x', 'constraint_violation', 'no such transaction', '{}', 'x', 1)"
)
_HOLDER = (
    "INSERT INTO wallet_holder (organisation_id, pin_tries, pin_locked_until_ms, created_at_ms) VALUES ($1, 0, 0, 1)"
)
_WALLET = "INSERT INTO wallet (id, organisation_id, is_default, created_at_ms, updated_at_ms) VALUES ($1, $2, $3, 1, 1)"
_INVOICE = (
    "INSERT INTO wallet_invoice (id, merchant_id, outlet_id, terminal_id, email, amount, otp_hash, otp_tries, state, "
    "charges, created_by, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, 'a@b.test', 1, 'x', 0, 'open', 1, "
    "'per_nowhere', 1, 1)"
)
_EXPORT = (
    "INSERT INTO export_job (id, kind, format, with_bom, filters, state, requested_by, requested_at_ms, attempt, "
    "lease_until_ms, rows_done, organisation_id) "
    "VALUES ($1, 'transactions', 'csv', false, '{}', 'queued', 'per_nowhere', 1, 0, 0, 0, $2)"
)


_REOPEN = "UPDATE login_session SET ended_at_ms = NULL, end_reason = NULL WHERE id = $1"
_CONSENT = (
    "INSERT INTO bank_consent (id, merchant_id, organisation_id, scope, granted_at_ms, expires_at_ms) "
    "VALUES ($1, $2, $3, 'full', 1, $4 + 3600000)"
)
_LOAN = (
    "INSERT INTO loan_application (id, merchant_id, organisation_id, made_by_side, made_by, state, amount_idr, "
    "tenor_months, submitted_by, submitted_at_ms, created_at_ms, changed_at_ms) "
    "VALUES ($1, $2, $3, 'merchant', 'per_nowhere', 'submitted', 1, 1, 'per_nowhere', 1, 1, 1)"
)
_WEBHOOK = (
    "INSERT INTO webhook_endpoint (id, organisation_id, profile, url, events, state, last_seq, created_at_ms) "
    "VALUES ($1, $2, 'standard', 'https://shop.example/hooks', '*', 'active', 1, 1)"
)
_DELIVERY = (
    "INSERT INTO outbox_message (id, transport, kind, recipient_id, subject_id, seq, address, body, state, attempt, "
    "created_at_ms, finished_at_ms, trace_id) "
    "VALUES ($1, 'webhook', 'payment.paid', $2, 'whe_1', 1, 'https://shop.example/', $3, 'failed', 1, 1, 1, 'whe_1')"
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
            if "{" not in route[1] or not isinstance(allowed, frozenset) or route in ANSWERS_STRANGERS:
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
