"""A shop in a real database: terminals, boxes, payments that wait, and what providers say of them.

Everything goes through the services' own verbs, with a clock that the test moves.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from soundbox_server import seal
from soundbox_server.announcements.service import Telling
from soundbox_server.clock import rfc3339
from soundbox_server.db import Database, Statements, transaction
from soundbox_server.devices import service as devices
from soundbox_server.ids import new_id
from soundbox_server.payments import charging, dynamic_qr, qris
from soundbox_server.payments.adjustments import ReceivedAdjustment, take_adjustments
from soundbox_server.payments.models import StaticQr
from soundbox_server.payments.service import Received, Taken, take_reports
from soundbox_server.payments.static_qr import Sticker, put_up
from soundbox_server.providers.base import AdjustmentReport, Charge, PaymentReport
from soundbox_server.providers.hmac_scheme import read_report

NOW = 1_779_530_400_000  # 2026-05-23T10:00:00Z
MASTER = bytes(range(32))
LIFE_MS = 60_000
QR_LIFE_MS = 300_000
LATE_REPORT_MS = 600_000
PROVIDERS = ("sandbox", "acme")
DAILY = {"name": "daily", "cutoff": "23:59", "settle_after_days": 1}
TELLING = Telling(key_of=partial(seal.announcement_key, MASTER), owner="test", life_ms=LIFE_MS)


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A merchant with one outlet, one terminal and a fee profile of its own."""

    database: Database
    merchant_id: str
    outlet_id: str
    terminal_id: str
    fee_profile_id: str
    bps: int

    async def set_status(self, status: str) -> None:
        await execute(self.database, "UPDATE merchant SET status = $2 WHERE id = $1", self.merchant_id, status)

    async def another_terminal(self) -> "Shop":
        """The same merchant at a second till."""
        terminal_id = new_id("term")
        await execute(self.database, _TERMINAL, terminal_id, self.outlet_id, self.merchant_id, NOW)
        return replace(self, terminal_id=terminal_id)

    async def box(self, *, online: bool = True) -> str:
        """A box that is activated, bound to the terminal and, unless told otherwise, online. Its id."""
        device_id, _ = await self.box_with_token(online=online)
        return device_id

    async def box_with_token(self, *, online: bool = True) -> tuple[str, str]:
        """The same, with the token that it proves itself with over HTTP."""
        serial = new_id("sn")

        async def activate(tx: Statements) -> tuple[str, str]:
            device_id, code = await devices.register(
                tx, serial_number=serial, vendor="native", model="sbx-1", now_ms=NOW
            )
            activated = await devices.activate(
                tx, code=code, serial_number=serial, hash_password=lambda password: "$7$unused", now_ms=NOW
            )
            assert activated is not None
            if online:
                born = devices.Session(device_id=device_id, online=True, epoch=1, at_ms=NOW)
                await devices.take_sessions(tx, [born])
            return device_id, activated.device_token

        device_id, token = await self.database.write(activate)
        async with transaction(self.database) as session:
            await devices.bind(session, device_id=device_id, terminal_id=self.terminal_id, now_ms=NOW)
        return device_id, token

    async def unbind(self, device_id: str) -> None:
        async with transaction(self.database) as session:
            await devices.unbind(session, device_id=device_id, now_ms=NOW)

    async def static_qr(self, reference: str = "sticker-1", **other: Any) -> StaticQr:
        """A QR of the sandbox that hangs at the terminal. `other` replaces what it is put up with."""
        wanted = {"provider": "sandbox", "partner_reference": reference, "qr_payload": static_payload()} | other
        async with transaction(self.database) as session:
            return await put_up(session, self.terminal_id, Sticker(**wanted), providers=PROVIDERS, now_ms=NOW)

    async def payment(
        self, device_id: str, amount: int = 50_000, *, provider: str = "sandbox", now_ms: int = NOW
    ) -> charging.Pending:
        """A payment whose QR the box shows: awaiting payment until QR_LIFE_MS from now."""
        ask = dynamic_qr.Ask(
            device_id=device_id, terminal_id=self.terminal_id, amount=amount, currency="IDR",
            request_id=new_id("ask"), door="device", trace_id=new_id("trc"),
        )  # fmt: skip

        async def issue(tx: Statements) -> charging.Pending:
            asked = await dynamic_qr.open_payment(tx, ask, provider=provider, qr_life_ms=QR_LIFE_MS, now_ms=now_ms)
            charge = Charge(
                provider=provider, reference=asked.reference, provider_transaction_id=new_id("ptx"),
                amount_idr=amount, qr_payload="00020101021226", expires_at_ms=asked.expires_at_ms, body=b"{}",
            )  # fmt: skip
            return await charging.record_answer(tx, charging.Answered(pending=asked, charge=charge), now_ms=now_ms)

        return await self.database.write(issue)


async def flat_profile(tx: Statements, fee_profile_id: str, bps: int, *, version: int = 1) -> None:
    """A fee profile at one rate for everybody, whatever the day. A later `version` takes the place of the first."""
    version_id = new_id("fev")
    await tx.execute(
        "INSERT INTO fee_profile (id, name, version, version_id, created_at_ms) VALUES ($1, $1, $2, $3, $4) "
        "ON CONFLICT (id) DO UPDATE SET version = excluded.version, version_id = excluded.version_id",
        fee_profile_id, version, version_id, NOW,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO fee_version (fee_profile_id, version, id, effective_from, rules, windows, created_at_ms) "
        "VALUES ($1, $2, $3, '1970-01-01', $4, $5, $6)",
        fee_profile_id, version, version_id, json.dumps([{"bps": bps}]), json.dumps([DAILY]), NOW,
    )  # fmt: skip


async def open_shop(database: Database, *, bps: int = 70, brand_name: str = "Warung Sari") -> Shop:
    """An approved merchant whose payments cost so many basis points."""
    org, fees, merchant, outlet, terminal = (new_id(kind) for kind in ("org", "fee", "mer", "out", "term"))

    async def plant(tx: Statements) -> None:
        await tx.execute(
            "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, 'merchant', $2, $3)",
            org, brand_name, NOW,
        )  # fmt: skip
        await flat_profile(tx, fees, bps)
        await tx.execute(
            "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, "
            "nmid, criteria, fee_profile_id, payout_mode, status, created_at_ms) "
            "VALUES ($1, $2, $1, $3, $3, 'JAKARTA', '10110', '5812', 'ID1029384756012', 'UMI', $4, 'manual', "
            "'approved', $5)",
            merchant, org, brand_name, fees, NOW,
        )  # fmt: skip
        await tx.execute(
            "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, created_at_ms) "
            "VALUES ($1, $2, 'main', $3, 'Jl. Contoh 1', 'active', $4)",
            outlet, merchant, brand_name, NOW,
        )  # fmt: skip
        await tx.execute(_TERMINAL, terminal, outlet, merchant, NOW)

    await database.write(plant)
    return Shop(
        database=database, merchant_id=merchant, outlet_id=outlet, terminal_id=terminal, fee_profile_id=fees, bps=bps
    )


_TERMINAL = (
    "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, created_at_ms) "
    "VALUES ($1, $2, $3, $1, 'dynamic', 'active', $4)"
)


def report(
    payment: charging.Pending,
    *,
    status: str = "paid",
    event_id: str | None = None,
    paid_at_ms: int | None = NOW,
    **other: Any,
) -> PaymentReport:
    """What the payment's provider says of it, read from a body as it would come. `other` replaces the body's fields."""
    body = {
        "event_id": event_id or new_id("pev"), "partner_reference": payment.reference, "status": status,
        "amount": payment.amount, "currency": "IDR", "paid_at": rfc3339(paid_at_ms or NOW), "issuer": "Bank Contoh",
    } | other  # fmt: skip
    read = read_report(json.dumps(body).encode(), provider=payment.provider)
    return read if paid_at_ms is not None else msgspec.structs.replace(read, paid_at_ms=None)


def static_payload(**other: Any) -> str:
    """A static QRIS of the shop's. `other` replaces its fields."""
    fields: dict[str, Any] = {
        "initiation_method": "static", "acquirer_domain": "ID.CO.SANDBOX.WWW",
        "merchant_pan_in_qr": "936009990000000001", "acquirer_merchant_id": "0000000001", "merchant_criteria": "UMI",
        "nmid": "ID1029384756012", "mcc": "5812",
        "merchant_name": "WARUNG SARI, JAKARTA", "city": "JAKARTA", "postal_code": "10110",
    }  # fmt: skip
    return qris.encode_fields(fields | other)


def static_report(
    amount: int = 15_000,
    *,
    reference: str = "sticker-1",
    provider: str = "sandbox",
    status: str = "paid",
    event_id: str | None = None,
    **other: Any,
) -> PaymentReport:
    """What a provider says of a payment by a static QR, read from a body as it would come."""
    body = {
        "event_id": event_id or new_id("pev"), "partner_reference": reference, "status": status, "amount": amount,
        "currency": "IDR", "paid_at": rfc3339(NOW), "issuer": "Bank Contoh",
    } | other  # fmt: skip
    return read_report(json.dumps(body).encode(), provider=provider)


async def take(database: Database, *reports: PaymentReport, now_ms: int = NOW) -> list[Taken]:
    """These reports in one transaction, as the callback's door takes them."""
    received = [Received(report=one, request_id=new_id("req"), received_at_ms=now_ms) for one in reports]
    return await database.write(
        lambda tx: take_reports(tx, received, now_ms=now_ms, telling=TELLING, late_report_ms=LATE_REPORT_MS)
    )


async def adjust(database: Database, *reports: AdjustmentReport, now_ms: int = NOW) -> list[Taken]:
    """What became of money, in one transaction."""
    received = [ReceivedAdjustment(report=one, request_id=new_id("req"), received_at_ms=now_ms) for one in reports]
    return await database.write(lambda tx: take_adjustments(tx, received, now_ms=now_ms))


async def execute(database: Database, sql: str, *args: object) -> None:
    await database.write(lambda tx: tx.execute(sql, *args))


async def rows(database: Database, sql: str, *args: object) -> list[dict[str, Any]]:
    """The rows as dictionaries; name every column."""

    async def fetch(tx: Statements) -> list[dict[str, Any]]:
        return [_as_dict(row) for row in await tx.fetch(sql, *args)]

    return await database.write(fetch)


async def row(database: Database, sql: str, *args: object) -> dict[str, Any]:
    found = await rows(database, sql, *args)
    assert len(found) == 1, f"{len(found)} rows: {sql} {args}"
    return found[0]


async def payment_row(database: Database, payment_id: str) -> dict[str, Any]:
    return await row(database, "SELECT * FROM payment WHERE id = $1", payment_id)


async def told(database: Database, payment_id: str) -> Sequence[dict[str, Any]]:
    """The payment's announcements, oldest first."""
    return await rows(
        database,
        "SELECT * FROM outbox_message WHERE subject_id = $1 AND kind = 'payment_success' ORDER BY created_at_ms, seq",
        payment_id,
    )


def _as_dict(found: Any) -> dict[str, Any]:
    return {name: found[name] for name in found.keys()}  # noqa: SIM118 - both drivers' rows iterate over values
