"""Whatever order customers, providers, operators, the clock and crashes choose: after every step the books are right,
what was paid stays paid unless it went back, nothing is sent or said twice, and nothing false is said.

`PAYMENT_LIVES=1000 pytest tests/server/payments/test_any_life.py` tries longer.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from support.acquirer import Acquirer, references
from support.books import check_books
from support.hub import Hub, open_hub
from support.shop import Shop, execute, open_shop, payment_row, row, rows
from support.staff import Staff

from soundbox_server.db import Database
from soundbox_server.ids import new_id
from soundbox_server.payments import asking, orphans, refunds
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.service import expire_unpaid
from soundbox_server.payments.state import TRANSITIONS, PaymentState

LIVES = int(os.environ.get("PAYMENT_LIVES", "5"))
FAR_AWAY_MS = 9_999_999_999_999
HOUR_MS = 3_600_000
FAULTS = st.lists(st.sampled_from(["lost", "silent", "slow", "refuse", "unreachable"]), max_size=2)


@dataclass(frozen=True)
class World:
    """One hub for all runs of a machine; each run opens a shop of its own in it."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    database: Database
    hub: Hub
    acquirer: Acquirer
    inquiry: Inquiry


@contextmanager
def open_world(database_url: str, home: Path) -> Iterator[World]:
    with asyncio.Runner() as runner:
        rooms, acquirer = AsyncExitStack(), Acquirer()
        database = Database(database_url)
        rooms.push_async_callback(database.close)
        try:
            hub = runner.run(rooms.enter_async_context(open_hub(database_url, home)))
            state = hub.app.state
            state.payment_gateways = lambda: {"sandbox": acquirer}
            inquiry = state.inquiry = Inquiry(state.database, state.payment_gateways, state.callback_desk.take)
            yield World(runner.run, database, hub, acquirer, inquiry)
        finally:
            runner.run(rooms.aclose())


def reachable(state: PaymentState) -> set[PaymentState]:
    """Wherever a payment may get from here, in any number of steps."""
    found, new = {state}, [state]
    while new:
        new = [after for one in new for after in TRANSITIONS[one] if after not in found]
        found.update(new)
    return found


def machine(world: World) -> type[RuleBasedStateMachine]:
    wait, database, acquirer = world.run, world.database, world.acquirer

    class AnyLife(RuleBasedStateMachine):
        payments: Bundle[Pending] = Bundle("payments")
        bodies: Bundle[bytes] = Bundle("bodies")

        @initialize(
            bps=st.integers(0, 300), returns_fee=st.booleans(), late_policy=st.sampled_from(["accept", "refund"])
        )
        def open(self, bps: int, returns_fee: bool, late_policy: str) -> None:
            self.shop: Shop = wait(open_shop(database, bps=bps))
            self.box: str = wait(self.shop.box())
            wait(execute(database, "UPDATE fee_profile SET refund_returns_fee = $2 WHERE id = $1",
                         self.shop.fee_profile_id, returns_fee))  # fmt: skip
            wait(execute(database, "UPDATE merchant SET late_policy = $2 WHERE id = $1",
                         self.shop.merchant_id, late_policy))  # fmt: skip
            self.finance = Staff(world.hub, "per_finance", "finance")
            self.approved = True
            self.seen: dict[str, dict[str, Any]] = {}
            self.answered: dict[bytes, str] = {}
            self.now_ms = time.time_ns() // 1_000_000

        @rule(target=payments, amount=st.integers(1, 1_000_000))
        def ask_for_a_qr(self, amount: int) -> Any:
            if not self.approved:
                return multiple()
            return wait(self.shop.payment(self.box, amount, now_ms=self.now_ms))

        @rule(
            target=bodies,
            of=payments,
            status=st.sampled_from(["paid", "paid", "paid", "failed", "expired", "pending"]),
            more=st.sampled_from([0, 0, 0, 1]),
            transfer=st.sampled_from([None, 1, 1, 2]),
        )
        def hear_of_money(self, of: Pending, status: str, more: int, transfer: int | None) -> bytes:
            rrn = transfer and f"{transfer}-{of.payment_id}"
            return self._send(world.hub.said(of, status=status, amount=of.amount + more, rrn=rrn))

        @rule(target=bodies, of=payments, kind=st.sampled_from(["reversed", "disputed", "denied"]))
        def hear_that_it_is_undone(self, of: Pending, kind: str) -> bytes:
            return self._send(world.hub.said(of, status=kind))

        @rule(target=bodies, of=payments, share=st.integers(1, 100))
        def hear_of_a_refund_that_nobody_here_wanted(self, of: Pending, share: int) -> bytes:
            """Providers do not give back what they were asked for already, but what we only wish for they may."""
            left = wait(self._left(of))
            amount = max(1, left * share // 100) if left else of.amount + 1
            return self._send(world.hub.said(of, status="refunded", amount=amount, refund_reference=new_id("theirs")))

        @rule(body=bodies)
        def hear_it_again(self, body: bytes) -> None:
            before = self.answered[body]
            self._send(body)
            assert self.answered[body] == before or before == "orphan"  # whose it was is known by now

        @rule(of=payments)
        def hear_a_forgery(self, of: Pending) -> None:
            body = world.hub.said(of)
            assert wait(world.hub.call_back(body, world.hub.signed(body, secret="guess"))).status_code == 401

        @rule(target=bodies, of=payments, amount=st.integers(1, 1_000_000))
        def hear_of_money_before_its_payment_is_known(self, of: Pending, amount: int) -> bytes:
            hide = "UPDATE payment_attempt SET reference = $2 WHERE id = $1"
            wait(execute(database, hide, of.attempt_id, new_id("hidden")))
            body = self._send(world.hub.said(of, amount=amount if amount % 3 == 0 else of.amount))
            wait(execute(database, hide, of.attempt_id, of.reference))
            return body

        @rule()
        def find_out_whose_the_orphans_are(self) -> None:
            telling = world.hub.app.state.telling
            found = wait(database.read(lambda tx: orphans.matches(tx, limit=16)))
            wait(
                database.write(
                    lambda tx: orphans.match(tx, found, telling=telling, late_report_ms=600_000, now_ms=self.now_ms)
                )
            )

        @rule(of=payments, share=st.integers(1, 100), all_of_it=st.booleans())
        def wish_for_a_refund(self, of: Pending, share: int, all_of_it: bool) -> None:
            body = {"reason": "r"} if all_of_it else {"reason": "r", "amount": max(1, of.amount * share // 100)}
            path = f"/admin/transactions/{of.payment_id}/refund"
            answer = wait(self.finance.call("POST", path, json=body))
            assert answer.status_code in (202, 400, 409), answer.text

        @rule(of=payments, action=st.sampled_from(["accept", "refund", "reject"]))
        def decide(self, of: Pending, action: str) -> None:
            path = f"/admin/transactions/{of.payment_id}/resolve"
            answer = wait(self.finance.call("POST", path, json={"action": action, "reason": "r"}))
            assert answer.status_code in (200, 409), answer.text

        @rule(faults=FAULTS)
        def the_worker_refunds(self, faults: list[str]) -> None:
            acquirer.faults.extend(faults)
            wait(self._refund_round())
            acquirer.faults.clear()

        @rule(sent=st.booleans())
        def the_worker_dies_while_it_refunds(self, sent: bool) -> None:
            self.now_ms += HOUR_MS
            for due in wait(database.write(lambda tx: refunds.claim_due(tx, now_ms=self.now_ms, limit=16))):
                if sent:
                    wait(refunds.ask_provider(acquirer, due))

        @rule()
        def slow_refunds_are_done(self) -> None:
            for reference, status in acquirer.refunds.items():
                acquirer.refunds[reference] = replace(status, state="succeeded")

        @rule(of=payments, state=st.sampled_from(["open", "paid", "failed", "expired", "cancelled", "not_found"]))
        def ask_the_provider(self, of: Pending, state: Any) -> None:
            """It never says of money that it is not there once it told of it."""
            stored = wait(payment_row(database, of.payment_id))
            came = stored["paid_at_ms"] is not None or stored["review_reason"] is not None
            if state == "paid" or came:
                report = world.hub.app.state.callback_desk.partners["sandbox"]
                body = world.hub.said(of, rrn=stored["rrn"])
                read = report.read_callback(world.hub.signed(body), body, now_ms=time.time_ns() // 1_000_000)
                acquirer.says(of, "paid", report=read)
            else:
                acquirer.says(of, state)
            for question in wait(database.read(lambda tx: asking.questions_of(tx, of.payment_id))):
                wait(world.inquiry.ask(question))

        @rule()
        def the_qrs_end(self) -> None:
            wait(database.write(lambda tx: expire_unpaid(tx, now_ms=FAR_AWAY_MS)))

        @rule(approved=st.booleans())
        def judge_the_merchant(self, approved: bool) -> None:
            wait(self.shop.set_status("approved" if approved else "suspended"))
            self.approved = approved

        @invariant()
        def the_books_are_right(self) -> None:
            if hasattr(self, "shop"):
                wait(check_books(database))
                assert max(Counter(references(acquirer.sent)).values(), default=0) <= 1

        @invariant()
        def every_payment_went_only_where_it_may(self) -> None:
            if not hasattr(self, "shop"):
                return
            now = wait(rows(database, "SELECT * FROM payment WHERE merchant_id = $1", self.shop.merchant_id))
            for payment in now:
                before = self.seen.get(payment["id"], payment)
                assert PaymentState(payment["state"]) in reachable(PaymentState(before["state"]))
                if before["paid_at_ms"] is not None:
                    kept = ("paid_at_ms", "paid_amount", "fee_amount", "fee_bps", "fee_version", "rrn")
                    assert [payment[name] for name in kept] == [before[name] for name in kept]
                    assert payment["refunded_amount"] >= before["refunded_amount"]
                self.seen[payment["id"]] = payment

        def teardown(self) -> None:
            """Once everything was answered, what the provider gave back is what we booked as given back."""
            if not hasattr(self, "shop"):
                return
            wait(self.shop.set_status("approved"))
            for _ in range(3):
                self.slow_refunds_are_done()
                wait(self._refund_round())
            ours = wait(
                rows(database, "SELECT r.reference, r.state, r.error_code FROM refund r JOIN payment p "
                     "ON p.id = r.payment_id WHERE p.merchant_id = $1 AND r.provider IS NOT NULL "
                     "AND r.origin <> 'provider'", self.shop.merchant_id)
            )  # fmt: skip
            for refund in ours:
                gave = acquirer.refunds.get(refund["reference"])
                refused = refund["error_code"] == "MORE_THAN_PAID"  # they gave more than they had told of: an alert
                assert refund["state"] in ("done", "failed")
                assert (gave is not None) == (refund["state"] == "done" or refused), refund
            wait(check_books(database))

        async def _left(self, of: Pending) -> int:
            found = await row(
                database, "SELECT coalesce(p.paid_amount, 0) - p.refunded_amount - coalesce((SELECT sum(amount) FROM "
                "refund r WHERE r.payment_id = p.id AND state IN ('submitted', 'unknown')), 0) AS left_ "
                "FROM payment p WHERE id = $1", of.payment_id,
            )  # fmt: skip
            return int(found["left_"])

        async def _refund_round(self) -> None:
            self.now_ms += HOUR_MS
            for due in await database.write(lambda tx: refunds.claim_due(tx, now_ms=self.now_ms, limit=16)):
                asked = await refunds.ask_provider(acquirer, due)
                await database.write(
                    lambda tx, asked=asked: refunds.record_answer(tx, asked, now_ms=self.now_ms)  # type: ignore[misc]
                )

        def _send(self, body: bytes) -> bytes:
            answer = wait(world.hub.call_back(body))
            assert answer.status_code == 200, (answer.text, json.loads(body))
            self.answered[body] = answer.json()["data"]["outcome"]
            return body

    return AnyLife


def test_no_life_of_a_payment_leaves_the_books_wrong(database_url: str, tmp_path: Path) -> None:
    with open_world(database_url, tmp_path / "home") as world:
        run_machine(
            machine(world),
            settings=settings(
                max_examples=LIVES, stateful_step_count=20, deadline=None, database=None,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # shrinking takes minutes
            ),
        )  # fmt: skip
