"""Who else talks to the hub while the boxes do: the acquirer that calls back, and an operator who gives commands."""

import asyncio
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from soundbox_sim.swarm.plan import Happening
from soundbox_sim.swarm.roster import CannotRun, Member, Roster

CALLBACK_PATH = "/integrations/qris/callback"
PATIENCE_S = 60.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 8.0
ANSWER_S = 15.0
REPEATS = 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """One callback, as the acquirer saw it. `status` is 0 when there was no answer at all."""

    at: float
    took_ms: float
    status: int


@dataclass(frozen=True, slots=True)
class CalledBack:
    """How a callback and its repeats ended. `transaction_id` and `outcome` are the first final answer's."""

    attempts: tuple[Attempt, ...]
    transaction_id: str | None
    outcome: str | None

    @property
    def answered(self) -> bool:
        return 0 < self.attempts[-1].status < 500

    @property
    def began(self) -> float:
        """In seconds of `time.monotonic`."""
        return self.attempts[0].at

    @property
    def ended(self) -> float:
        return self.attempts[-1].at + self.attempts[-1].took_ms / 1000


class AcquirerDesk:
    """Tells the hub of payments, signed, and again until it is answered."""

    def __init__(self, roster: Roster, client: httpx.AsyncClient, *, run: str) -> None:
        self._roster, self._client, self._run = roster, client, run
        self._count = 0

    async def tell(self, payment: Happening, member: Member) -> CalledBack:
        """Raises nothing for what the hub may do: what it did is in the result."""
        self._count += 1
        name = f"{self._run}-{self._count}"
        body = self._body(payment, member, name)
        attempts = [await self._post(body, forged=payment.twist == "forged")]
        answers = [attempts[-1][1]]
        pause_s, latest = FIRST_PAUSE_S, time.monotonic() + PATIENCE_S
        while not 0 < attempts[-1][0].status < 500 and time.monotonic() < latest:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            attempts.append(await self._post(body, forged=payment.twist == "forged"))
            answers.append(attempts[-1][1])
        said = answers[-1]
        called = CalledBack(tuple(attempt for attempt, _ in attempts), said.get("transaction_id"), said.get("outcome"))
        if payment.twist == "repeated" and called.answered:
            await asyncio.gather(*(self._post(body, forged=False) for _ in range(REPEATS)))
        return called

    def _body(self, payment: Happening, member: Member, name: str) -> bytes:
        said = {
            "event_id": f"evt-{name}", "partner_reference": member.static_reference, "rrn": name,
            "status": "failed" if payment.twist == "failed" else "paid", "amount": payment.amount_idr,
            "currency": "IDR", "paid_at": datetime.now(UTC).isoformat(timespec="milliseconds"), "issuer": "Bank Demo",
        }  # fmt: skip
        return json.dumps(said).encode()

    async def _post(self, body: bytes, *, forged: bool) -> tuple[Attempt, dict[str, Any]]:
        at = str(int(time.time()))
        secret = "somebody else's" if forged else self._roster.acquirer.secret
        signature = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers = {
            "x-partner-id": self._roster.acquirer.partner_id, "x-partner-timestamp": at,
            "x-partner-signature": f"v1={signature}", "content-type": "application/json",
        }  # fmt: skip
        began = time.monotonic()
        try:
            answer = await self._client.post(CALLBACK_PATH, content=body, headers=headers)
        except httpx.TransportError:
            return Attempt(began, (time.monotonic() - began) * 1000, 0), {}
        took_ms = (time.monotonic() - began) * 1000
        return Attempt(began, took_ms, answer.status_code), _data_of(answer)


class OperatorDesk:
    """Gives commands over the admin API, and asks what became of them."""

    def __init__(self, roster: Roster, client: httpx.AsyncClient) -> None:
        self._operator, self._client = roster.operator, client
        self._headers: dict[str, str] = {}
        self._logging_in = asyncio.Lock()

    async def command(self, wanted: Happening, member: Member) -> tuple[int, str | None]:
        """The status of the answer (0: none) and the command's id, if it was taken."""
        body = {"command_name": wanted.name, "payload": _payload(wanted)}
        answer = await self._ask("POST", f"/admin/devices/{member.device_id}/commands", body)
        if answer is None:
            return 0, None
        return answer.status_code, _data_of(answer).get("command_id")

    async def state_of(self, member: Member, command_id: str) -> str | None:
        answer = await self._ask("GET", f"/admin/devices/{member.device_id}/commands/{command_id}", None)
        return None if answer is None else _data_of(answer).get("status")

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response | None:
        """None when there was no answer. Logs in again when the token is no longer good."""
        try:
            answer = await self._client.request(method, path, json=body, headers=self._headers)
            if answer.status_code == 401:
                await self._log_in(self._headers)
                answer = await self._client.request(method, path, json=body, headers=self._headers)
        except httpx.TransportError:
            return None
        return answer

    async def _log_in(self, worn_out: dict[str, str]) -> None:
        async with self._logging_in:
            if self._headers is not worn_out:  # somebody did while this one waited
                return
            asked = {"email": self._operator.email, "password": self._operator.password}
            answer = await self._client.post("/admin/login", json=asked)
            if answer.status_code != 200:
                raise CannotRun(f"the operator {self._operator.email} cannot log in: {answer.text[:200]}")
            self._headers = {"authorization": f"Bearer {_data_of(answer)['access_token']}"}


def _payload(wanted: Happening) -> dict[str, Any]:
    if wanted.name == "set_volume":
        return {"volume": wanted.volume}
    if wanted.name == "daily_total":
        return {"count": 3, "amount": 150_000}
    return {}


def _data_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        said = answer.json()
    except ValueError:
        return {}
    data = said.get("data") if isinstance(said, dict) else None
    return data if isinstance(data, dict) else {}
