"""What every fake provider has in common: a real HTTP service on loopback, and the ways in which it goes wrong.

The fakes check signatures with cryptography, hashlib and hmac alone: none of the adapters' own code judges them.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from soundbox_server.payments import qris

NOW_MS = 1_779_530_400_000  # 2026-05-23T10:00:00Z
OUR_SECRET = "our-secret-with-the-partner"

# 5xx: before anything is done. lost, malformed and slow: after it is done.
Fault = Literal["5xx", "lost", "malformed", "slow"]


@lru_cache
def rsa_key(owner: str) -> rsa.RSAPrivateKey:
    """A key pair for this test process, one for each owner's name; short, because loading a key proves it first."""
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


def private_pem(owner: str) -> str:
    return rsa_key(owner).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(owner: str) -> str:
    return rsa_key(owner).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def rsa_signed(owner: str, text: str) -> str:
    return base64.b64encode(rsa_key(owner).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()


def rsa_verifies(owner: str, text: str, signature: str) -> bool:
    try:
        rsa_key(owner).public_key().verify(
            base64.b64decode(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def body_hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def payload(amount_idr: int) -> str:
    """A QRIS that a wallet would accept, and that pays nobody."""
    return qris.encode(
        qris.Qris(
            initiation_method="dynamic",
            acquirer_domain="ID.CO.SANDBOX.WWW",
            merchant_pan_in_qr="936009990000000001",
            acquirer_merchant_id="1",
            merchant_criteria="UMI",
            nmid=None,
            mcc="5411",
            amount=str(amount_idr),
            merchant_name="TOKO UJI",
            city="JAKARTA",
            postal_code="10110",
            additional_data={},
        )
    )


def said(status: int, body: object) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")


class Cut:
    """An answer that promises more than it sends: the connection breaks under the reader."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"999")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": False})


class Silence:
    """No answer until the caller gives up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@dataclass
class Charge:
    """A charge as the fake keeps it."""

    reference: str
    amount_idr: int
    id: str
    method: str
    status: str = "open"
    refunds: dict[str, int] = field(default_factory=dict)


@dataclass
class FakeService:
    """Charges by our reference; `faults` strike one after another, at changes only, and `requests` remembers paths."""

    charges: dict[str, Charge] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # why requests were turned away

    def app(self) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            body = await request.body()
            self.requests.append((request.method, request.url.path))
            answer = await self._answer(request, body)
            await answer(scope, receive, send)

        return serve

    async def _answer(self, request: Request, body: bytes) -> ASGIApp:
        fault = self.faults.pop(0) if self.faults and self.changes(request) else None
        if fault == "5xx":
            return Response("busy", 503)
        answer = self.handle(request, body)
        match fault:
            case "lost":
                return Cut()
            case "slow":
                return Silence()
            case "malformed":
                return Response(b'{"status": ', 200, media_type="application/json")
        return answer

    def changes(self, request: Request) -> bool:
        """Whether a request changes anything; the others are always answered well."""
        raise NotImplementedError

    def handle(self, request: Request, body: bytes) -> Response:
        raise NotImplementedError

    def refuse(self, why: str, answer: Response) -> Response:
        self.refused.append(why)
        return answer

    def new_charge(self, reference: str, amount_idr: int, *, method: str = "qris") -> Charge:
        charge = Charge(reference=reference, amount_idr=amount_idr, id=f"no{len(self.charges) + 1}", method=method)
        self.charges[reference] = charge
        return charge

    def pay(self, reference: str) -> Charge:
        self.charges[reference].status = "paid"
        return self.charges[reference]

    def by_id(self, charge_id: str) -> Charge | None:
        return next((charge for charge in self.charges.values() if charge.id == charge_id), None)


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The app behind a real socket, on this loop; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1, http="httptools")
        )
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        task = asyncio.create_task(server.serve([listening]))
        try:
            await until(lambda: _true(server.started))
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def _true(value: Any) -> bool:
    return bool(value)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.005)
