"""Whatever order providers and the clock choose: the hub against a model that shares no code with it."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from support.books import check_books
from support.hub import Hub, open_hub
from support.shop import Shop, open_shop, payment_row, rows, told

from soundbox_server.db import Database
from soundbox_server.ids import new_id
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.service import expire_unpaid

FAR_AWAY_MS = 9_999_999_999_999
TRANSFERS = st.sampled_from([None, 1, 2])  # which of a customer's transfers, where the bank says so


class Model:
    """One payment as its specification has it."""

    def __init__(self, pending: Pending) -> None:
        self.pending = pending
        self.state = "awaiting_payment"
        self.late = False
        self.rrn: str | None = None

    def hears(self, said: dict[str, Any], *, approved: bool) -> str:
        """The outcome this report must have."""
        if said["status"] == "pending":
            return "ignored"
        if said["status"] != "paid":
            if self.state != "awaiting_payment":
                return "ignored"
            self.state = said["status"]
            return "applied"
        return self._hears_of_money(said, approved=approved)

    def _hears_of_money(self, said: dict[str, Any], *, approved: bool) -> str:
        fits = said["amount"] == self.pending.amount and said["currency"] == "IDR"
        if self.state == "paid":
            twice = None not in (self.rrn, said["rrn"]) and self.rrn != said["rrn"]
            return "duplicate" if fits and not twice else "needs_review"
        if not fits or not approved or self.state == "needs_review":
            self.state = "needs_review"
            return "needs_review"
        self.late = self.state in ("expired", "failed")
        self.state, self.rrn = "paid", said["rrn"]
        return "applied"


@dataclass(frozen=True)
class World:
    """One hub for all runs of a machine; each run opens a shop of its own in it."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    database: Database
    hub: Hub


@contextmanager
def open_world(database_url: str, home: Path) -> Iterator[World]:
    with asyncio.Runner() as runner:
        rooms = AsyncExitStack()
        database = Database(database_url)
        rooms.push_async_callback(database.close)
        try:
            yield World(runner.run, database, runner.run(rooms.enter_async_context(open_hub(database_url, home))))
        finally:
            runner.run(rooms.aclose())


def machine(world: World) -> type[RuleBasedStateMachine]:
    wait = world.run

    class AnyOrder(RuleBasedStateMachine):
        payments: Bundle[Model] = Bundle("payments")
        bodies: Bundle[bytes] = Bundle("bodies")

        @initialize(bps=st.integers(0, 300), boxes=st.integers(0, 2))
        def open(self, bps: int, boxes: int) -> None:
            self.shop: Shop = wait(open_shop(world.database, bps=bps))
            self.asker: str = wait(self.shop.box())
            for _ in range(boxes):
                wait(self.shop.box())
            self.boxes = 1 + boxes
            self.models: list[Model] = []
            self.answered: dict[bytes, str] = {}
            self.approved = True

        @rule(target=payments, amount=st.integers(1, 10_000_000))
        def ask_for_a_qr(self, amount: int) -> Any:
            if not self.approved:
                return multiple()
            model = Model(wait(self.shop.payment(self.asker, amount, now_ms=time.time_ns() // 1_000_000)))
            self.models.append(model)
            return model

        @rule(
            target=bodies,
            of=payments,
            status=st.sampled_from(["paid", "paid", "paid", "failed", "expired", "pending"]),
            more=st.sampled_from([0, 0, 0, 1, 90_000]),
            currency=st.sampled_from(["IDR", "IDR", "IDR", "USD"]),
            transfer=TRANSFERS,
        )
        def call_back(self, of: Model, status: str, more: int, currency: str, transfer: int | None) -> bytes:
            rrn = transfer and f"{transfer}-{of.pending.payment_id}"
            said = {"amount": of.pending.amount + more, "currency": currency, "rrn": rrn}
            body = world.hub.said(of.pending, status=status, **said)
            self._send(body, of.hears(json.loads(body), approved=self.approved))
            return body

        @rule(body=bodies)
        def call_back_again(self, body: bytes) -> None:
            self._send(body, self.answered[body])

        @rule(of=payments, copies=st.integers(2, 6))
        def call_back_many_times_at_once(self, of: Model, copies: int) -> None:
            body = world.hub.said(of.pending, rrn=of.rrn)
            expected = of.hears(json.loads(body), approved=self.approved)

            async def all_at_once() -> list[httpx.Response]:
                return await asyncio.gather(*(world.hub.call_back(body) for _ in range(copies)))

            assert {answer.json()["data"]["outcome"] for answer in wait(all_at_once())} == {expected}
            self.answered[body] = expected

        @rule(target=bodies, amount=st.integers(1, 1_000_000))
        def call_back_for_nobody(self, amount: int) -> Any:
            if not self.models:
                return multiple()
            body = world.hub.said(self.models[0].pending, partner_reference=new_id("ref"), amount=amount)
            self._send(body, "orphan")
            return body

        @rule(of=payments)
        def forge(self, of: Model) -> None:
            body = world.hub.said(of.pending)
            answer = wait(world.hub.call_back(body, world.hub.signed(body, secret="guess")))
            assert answer.status_code == 401

        @rule()
        def let_the_qrs_end(self) -> None:
            wait(world.database.write(lambda tx: expire_unpaid(tx, now_ms=FAR_AWAY_MS)))
            for model in self.models:
                if model.state == "awaiting_payment":
                    model.state = "expired"

        @rule(approved=st.booleans())
        def judge_the_merchant(self, approved: bool) -> None:
            wait(self.shop.set_status("approved" if approved else "rejected"))
            self.approved = approved

        @invariant()
        def is_as_the_model_says(self) -> None:
            for model in getattr(self, "models", []):
                stored = wait(payment_row(world.database, model.pending.payment_id))
                assert (stored["state"], bool(stored["late"])) == (model.state, model.late)
                sent = wait(told(world.database, model.pending.payment_id))
                assert len(sent) == (self.boxes if model.state == "paid" else 0)

        def teardown(self) -> None:
            wait(check_books(world.database))
            heard = [(json.loads(body), outcome) for body, outcome in self.answered.items()]
            captured = {model.rrn for model in self.models if model.rrn}
            aside: dict[str, int] = {}  # a transfer told several times is one transfer
            for said, outcome in heard:
                is_money = said["status"] == "paid" and said["currency"] == "IDR" and said.get("rrn") not in captured
                if is_money and outcome in ("needs_review", "orphan"):
                    aside.setdefault(said.get("rrn") or said["event_id"], said["amount"])
            assert self._in_suspense({said["event_id"] for said, _ in heard}) == sum(aside.values())

        def _send(self, body: bytes, expected: str) -> None:
            answer = wait(world.hub.call_back(body))
            assert answer.status_code == 200, answer.text
            assert answer.json()["data"]["outcome"] == expected
            self.answered[body] = expected

        def _in_suspense(self, event_keys: set[str]) -> int:
            found = wait(
                rows(
                    world.database,
                    "SELECT e.event_key, p.amount FROM posting p JOIN journal j ON j.id = p.journal_id "
                    "JOIN provider_event e ON e.id = j.provider_event_id WHERE j.kind = 'suspense'",
                )
            )
            return sum(row["amount"] for row in found if row["event_key"] in event_keys)

    return AnyOrder


def test_no_order_of_events_books_or_says_anything_twice(database_url: str, tmp_path: Path) -> None:
    with open_world(database_url, tmp_path / "home") as world:
        run_machine(
            machine(world),
            settings=settings(
                max_examples=25, stateful_step_count=15, deadline=None, database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
