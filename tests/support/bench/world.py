"""What the bench plants straight into the database: boxes in service, and payments that wait to be paid."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from support.stack import Stack

from soundbox_server import clock
from soundbox_server.broker.passwords import hash_password
from soundbox_server.db import Database, Statements
from soundbox_server.devices import service as devices
from soundbox_server.ids import new_id
from soundbox_server.seed import MERCHANT_ID, OUTLET_ID

AMOUNT = 50_000
QR_LIFE_MS = 3_600_000
TOGETHER = 2_000
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class PlantedBox:
    device_id: str
    terminal_id: str
    token: str
    password: str
    merchant_id: str = MERCHANT_ID
    outlet_id: str = OUTLET_ID


@dataclass(frozen=True, kw_only=True)
class PlantedPayment:
    id: str
    reference: str


async def plant_boxes(stack: Stack, database: Database, *, boxes: int) -> list[PlantedBox]:
    """The demo world with so many terminals, each with a box that is activated and bound."""
    await stack.prepare(boxes=boxes)
    now_ms = clock.now_ms()

    async def work(tx: Statements) -> list[PlantedBox]:
        return [await _put_into_service(tx, box, now_ms) for box in stack.world["devices"]]

    return await database.write(work)


async def _put_into_service(tx: Statements, box: dict[str, str], now_ms: int) -> PlantedBox:
    activated = await devices.activate(
        tx,
        code=box["activation_code"],
        serial_number=box["serial_number"],
        hash_password=hash_password,
        now_ms=now_ms,
    )
    assert activated is not None
    await tx.execute(
        "INSERT INTO device_binding (id, device_id, merchant_id, outlet_id, terminal_id, bound_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        new_id("bnd"), box["device_id"], MERCHANT_ID, OUTLET_ID, box["terminal_id"], now_ms,
    )  # fmt: skip
    await tx.execute("UPDATE device SET state = 'bound' WHERE id = $1", box["device_id"])
    return PlantedBox(
        device_id=box["device_id"],
        terminal_id=box["terminal_id"],
        token=activated.device_token,
        password=activated.broker_password,
    )


async def plant_payments(database: Database, boxes: Sequence[PlantedBox], *, count: int) -> list[PlantedPayment]:
    """So many payments awaiting payment, spread evenly over the boxes' terminals."""
    planted: list[PlantedPayment] = []
    while len(planted) < count:
        some = [
            (PlantedPayment(id=new_id("txn"), reference=new_id("ref")), boxes[n % len(boxes)])
            for n in range(len(planted), min(count, len(planted) + TOGETHER))
        ]
        await _insert(database, some)
        planted += [payment for payment, _ in some]
    return planted


async def _insert(database: Database, some: Sequence[tuple[PlantedPayment, PlantedBox]]) -> None:
    now_ms = clock.now_ms()

    async def work(tx: Statements) -> None:
        await tx.many(
            "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, device_id, request_id, source, "
            "qr_mode, amount, currency, state, late, expires_at_ms, created_at_ms, trace_id) "
            "VALUES ($1, $2, $3, $4, $5, $6, 'device', 'dynamic', $7, 'IDR', 'awaiting_payment', $8, $9, $10, $11)",
            [
                (payment.id, box.merchant_id, box.outlet_id, box.terminal_id, box.device_id, new_id("req"), AMOUNT,
                 False, now_ms + QR_LIFE_MS, now_ms, new_id("trc"))
                for payment, box in some
            ],
        )  # fmt: skip
        await tx.many(
            "INSERT INTO payment_attempt (id, payment_id, provider, reference, state, lease_until_ms, created_at_ms, "
            "answered_at_ms) VALUES ($1, $2, 'sandbox', $3, 'active', 0, $4, $4)",
            [(new_id("att"), payment.id, payment.reference, now_ms) for payment, _ in some],
        )

    await database.write(work)


def callback(payment: PlantedPayment, *, secret: bytes, path: str) -> str:
    """The partner's whole HTTP request."""
    body = orjson.dumps(
        {
            "event_id": new_id("evt"), "partner_reference": payment.reference, "transaction_id": payment.id,
            "status": "paid", "amount": AMOUNT, "currency": "IDR", "paid_at": clock.rfc3339(clock.now_ms()),
            "issuer": "Bank Contoh", "rrn": payment.id[-12:],
        }
    )  # fmt: skip
    at = str(int(time.time()))
    signature = hmac.new(secret, at.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {"x-partner-id": "sandbox", "x-partner-timestamp": at, "x-partner-signature": f"v1={signature}"}
    return request(path, body, headers)


def beat(box: PlantedBox) -> bytes:
    said = {
        "message_type": "heartbeat", "device_id": box.device_id, "timestamp": clock.rfc3339(clock.now_ms()),
        "firmware_version": "1.0.3", "network_strength": 81, "battery_level": 90, "state": "idle", "volume": 70,
    }  # fmt: skip
    return orjson.dumps(said)


def ask_for_qr(box: PlantedBox) -> str:
    """A box's whole HTTP request for a dynamic QR."""
    body = orjson.dumps(
        {
            "device_id": box.device_id, "terminal_id": box.terminal_id, "amount": AMOUNT, "currency": "IDR",
            "request_id": new_id("req"),
        }
    )  # fmt: skip
    return request("/device/transactions/dynamic-qr", body, {"authorization": f"Bearer {box.token}"})


def request(path: str, body: bytes, headers: dict[str, str]) -> str:
    head = {"host": HOST, "content-type": "application/json", "content-length": str(len(body))} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n{body.decode()}"
