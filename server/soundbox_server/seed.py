"""A small known world to try things in. Development only: its passwords are in this file."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from soundbox_server import clock, parts
from soundbox_server.access.passwords import in_thread
from soundbox_server.answers import TypedDict, answers
from soundbox_server.db import Database, Statements
from soundbox_server.devices import service as devices
from soundbox_server.errors import Forbidden
from soundbox_server.http import envelope
from soundbox_server.ledger import service as ledger
from soundbox_server.partners import tokens
from soundbox_server.settings import Settings

router = APIRouter(tags=["operators"])  # served in development alone

PASSWORD = "soundbox-demo-2026"  # noqa: S105 - printed on purpose, and refused in production

USERS = (
    ("per_demo_admin", "org_platform", "admin@demo.test", "Demo Admin", "platform_admin"),
    ("per_demo_operator", "org_platform", "operator@demo.test", "Demo Operator", "operator"),
    ("per_demo_finance", "org_platform", "finance@demo.test", "Demo Finance", "finance"),
    ("per_demo_support", "org_platform", "support@demo.test", "Demo Support", "support"),
    ("per_demo_owner", "org_demo", "owner@demo.test", "Demo Owner", "merchant_owner"),
    ("per_demo_staff", "org_demo", "staff@demo.test", "Demo Staff", "merchant_staff"),
    ("per_demo_partner", "org_demo_partner", "partner@demo.test", "Demo Partner", "partner"),
    ("per_demo_bank", "org_demo_bank", "bank@demo.test", "Demo Bank", "bank"),
)
ORGANISATIONS = (
    ("org_platform", "platform", "Platform"),
    ("org_demo", "merchant", "Warung Demo"),
    ("org_demo_partner", "partner", "Demo Partner"),
    ("org_demo_bank", "bank", "Demo Bank"),
)
MERCHANT_ID, OUTLET_ID = "mer_demo", "out_demo"
LICENSE_ID, LICENSE_KEY, TOKENS = "lic_demo", "DEM23-DEM23-DEM23-DEM23-DEM23", 1_000


@dataclass(frozen=True)
class Till:
    terminal_id: str
    device_id: str
    serial_number: str


def tills(count: int) -> list[Till]:
    return [Till(f"term_{n:03d}", f"sbx_{n:03d}", f"SBX-DEMO-{n:04d}") for n in range(1, count + 1)]


class IdView(TypedDict):
    id: str


class DemoMerchantView(IdView):
    brand_name: str


class DemoOrganisationView(IdView):
    kind: str


class DemoDeviceView(TypedDict):
    device_id: str
    serial_number: str
    terminal_id: str
    activation_code: str | None


class DemoUserView(TypedDict):
    email: str
    password: str
    role: str


class DemoLicenseView(TypedDict):
    license_key: str
    organisation_id: str
    merchant_id: str


class DemoView(TypedDict):
    organisations: list[DemoOrganisationView]
    merchant: DemoMerchantView
    outlet: IdView
    terminals: list[IdView]
    devices: list[DemoDeviceView]
    users: list[DemoUserView]
    licenses: list[DemoLicenseView]


@router.post("/admin/seed", responses=answers(DemoView))
async def seed(request: Request) -> Response:
    """Plant the demo world, or what is missing of it, and tell what is there. In development only."""
    state = request.app.state
    return envelope(request, await plant(state.database, state.settings, now_ms=clock.now_ms()))


async def plant(database: Database, settings: Settings, *, now_ms: int, boxes: int = 3) -> dict[str, Any]:
    """Plant the demo world, or what is missing of it, and tell what is there. Raises Forbidden in production.

    A box that was never activated gets a fresh activation code each time; an activated one has none.
    """
    if settings.environment == "production":
        raise Forbidden("The demo world is not planted in production.")
    hashed = await in_thread(parts.passwords(settings).hash, PASSWORD)
    planted = await database.write(lambda tx: _plant(tx, hashed, boxes, now_ms))
    return {
        "organisations": [{"id": organisation, "kind": kind} for organisation, kind, _ in ORGANISATIONS],
        "merchant": {"id": MERCHANT_ID, "brand_name": "Warung Demo"},
        "outlet": {"id": OUTLET_ID},
        "terminals": [{"id": till.terminal_id} for till in tills(boxes)],
        "devices": planted,
        "users": [{"email": email, "password": PASSWORD, "role": role} for _, _, email, _, role in USERS],
        "licenses": [{"license_key": LICENSE_KEY, "organisation_id": "org_demo_partner", "merchant_id": MERCHANT_ID}],
    }


async def _plant(tx: Statements, hashed: str, boxes: int, now_ms: int) -> list[dict[str, Any]]:
    kinds = {organisation: kind for organisation, kind, _ in ORGANISATIONS}
    await tx.many(
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        [(*organisation, now_ms) for organisation in ORGANISATIONS],
    )
    await tx.many(
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, 'active', 'id', $7, $8) ON CONFLICT DO NOTHING",
        [(person, org, kinds[org], email, name, role, hashed, now_ms) for person, org, email, name, role in USERS],
    )
    await _plant_merchant(tx, now_ms)
    await _plant_platform(tx, now_ms)
    await _plant_license(tx, now_ms)
    await tx.many(
        "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, is_default, created_at_ms) "
        "VALUES ($1, $2, $3, $1, 'dynamic', 'active', $4, $5) ON CONFLICT DO NOTHING",
        [(till.terminal_id, OUTLET_ID, MERCHANT_ID, n == 0, now_ms) for n, till in enumerate(tills(boxes))],
    )
    return [await _plant_device(tx, till, now_ms) for till in tills(boxes)]


async def _plant_merchant(tx: Statements, now_ms: int) -> None:
    await tx.execute(
        "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, "
        "nmid, criteria, fee_profile_id, settlement_account_reference, settlement_account_type, payout_mode, status, "
        "approved_at_ms, created_at_ms) VALUES ($1, 'org_demo', 'm_demo', 'Warung Demo', 'Warung Demo', 'JAKARTA', "
        "'10110', '5812', 'ID1029384756012', 'UMI', 'fee_basic', 'bank:0000000000', 'merchant_bank_account', "
        "'merchant_direct', 'approved', $2, $2) ON CONFLICT DO NOTHING",
        MERCHANT_ID,
        now_ms,
    )
    await tx.execute(
        "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, is_default, created_at_ms) "
        "VALUES ($1, $2, 'main', 'Warung Demo', 'Jl. Contoh 1, Jakarta', 'active', $3, $4) ON CONFLICT DO NOTHING",
        OUTLET_ID,
        MERCHANT_ID,
        True,
        now_ms,
    )


async def _plant_platform(tx: Statements, now_ms: int) -> None:
    """The platform's own merchant, whom partners pay for tokens."""
    await tx.execute(
        "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, "
        "nmid, criteria, fee_profile_id, payout_mode, status, approved_at_ms, created_at_ms) "
        "VALUES ('mer_platform', 'org_platform', 'm_platform', 'Soundbox Demo', 'Soundbox Demo', 'JAKARTA', '10110', "
        "'5734', 'ID1029384756013', 'UME', 'fee_basic', 'manual', 'approved', $1, $1) ON CONFLICT DO NOTHING",
        now_ms,
    )
    await tx.execute(
        "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, is_default, created_at_ms) "
        "VALUES ('out_platform', 'mer_platform', 'main', 'Soundbox Demo', 'Jl. Contoh 2, Jakarta', 'active', $1, $2) "
        "ON CONFLICT DO NOTHING",
        True, now_ms,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, is_default, created_at_ms) "
        "VALUES ('term_platform', 'out_platform', 'mer_platform', 'main', 'dynamic', 'active', $1, $2) "
        "ON CONFLICT DO NOTHING",
        True, now_ms,
    )  # fmt: skip


async def _plant_license(tx: Statements, now_ms: int) -> None:
    planted = await tx.fetch(
        "INSERT INTO license (id, key, organisation_id, assigned_to, merchant_id, price_per_token, state, "
        "created_at_ms) VALUES ($1, $2, 'org_demo_partner', 'per_demo_partner', $3, 100, 'active', $4) "
        "ON CONFLICT DO NOTHING RETURNING id",
        LICENSE_ID, LICENSE_KEY, MERCHANT_ID, now_ms,
    )  # fmt: skip
    if planted:
        given = ledger.Journal(kind="token", postings=(tokens.issue(LICENSE_ID, TOKENS),))
        await ledger.post(tx, [given], now_ms=now_ms)


async def _plant_device(tx: Statements, till: Till, now_ms: int) -> dict[str, Any]:
    rows = await tx.fetch("SELECT state FROM device WHERE id = $1", till.device_id)
    code = None
    if not rows:
        _, code = await devices.register(
            tx,
            serial_number=till.serial_number,
            vendor="native",
            model="sbx-1",
            device_id=till.device_id,
            now_ms=now_ms,
        )
    elif rows[0]["state"] == "registered":
        code = await devices.issue_code(tx, till.device_id, now_ms=now_ms)
    return {
        "device_id": till.device_id,
        "serial_number": till.serial_number,
        "terminal_id": till.terminal_id,
        "activation_code": code,
    }
