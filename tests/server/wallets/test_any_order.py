"""Whatever order top-ups, payments, refunds, withdrawals, banks and takings-back come in: after every step each wallet
holds what was put in and paid to it less what left, none is negative, and both of the ledger's checks agree.

`WALLET_LIVES=500 pytest tests/server/wallets/test_any_order.py` tries longer.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from support.bank import ACCOUNT, Bank
from support.books import check_books
from support.hub import Hub, open_hub
from support.shop import execute, report, rows, take
from support.wallets import PIN, TXN, WRONG_PIN, Holder, issue_topup, open_holder

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.payments.charging import Pending
from soundbox_server.reconciliation import books
from soundbox_server.wallets.jobs import Withdrawer
from soundbox_server.wallets.sessions import Terms

LIVES = int(os.environ.get("WALLET_LIVES", "3"))
AMOUNTS = st.integers(1, 60_000)
WHO = st.integers(0, 2)
FAULTS = st.sampled_from([None, None, "lost", "silent", "slow", "fail", "refuse", "unreachable", "reversed"])


@dataclass(frozen=True)
class World:
    """One hub for all runs of a machine; each run opens organisations of its own in it."""

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
            hub = runner.run(rooms.enter_async_context(open_hub(database_url, home)))
            yield World(runner.run, database, hub)
        finally:
            runner.run(rooms.aclose())


def machine(world: World) -> type[RuleBasedStateMachine]:
    wait, database = world.run, world.database

    class AnyOrder(RuleBasedStateMachine):
        topups: Bundle[tuple[int, Pending]] = Bundle("topups")
        sessions: Bundle[tuple[int, dict[str, Any]]] = Bundle("sessions")

        @initialize(fee_percent=st.integers(0, 3))
        def open(self, fee_percent: int) -> None:
            world.hub.app.state.wallet_terms = Terms(fee_percent=fee_percent)
            self.holders: list[Holder] = [wait(open_holder(world.hub, database)) for _ in range(3)]
            for one in self.holders:
                wait(execute(database, "UPDATE merchant SET settlement_account_reference = $2 WHERE id = $1",
                             one.shop.merchant_id, ACCOUNT))  # fmt: skip
            self.held: Counter[int] = Counter()
            self.bank = Bank()
            self.paid: set[str] = set()
            self.credited: set[str] = set()
            self.under_way: dict[int, int] = {}
            wait(execute(database, "UPDATE wallet_withdrawal SET ask_at_ms = $1", 9_999_999_999_999))

        @rule(target=topups, who=WHO, amount=AMOUNTS)
        def ask_for_a_topup(self, who: int, amount: int) -> tuple[int, Pending]:
            return who, wait(issue_topup(database, self.holders[who].wallet, amount))

        @rule(topup=topups, times=st.integers(1, 2))
        def hear_that_it_was_paid(self, topup: tuple[int, Pending], times: int) -> None:
            who, pending = topup
            for _ in range(times):
                wait(take(database, report(pending), now_ms=clock.now_ms()))
            if pending.payment_id not in self.credited:
                self.held[who] += pending.amount
                self.credited.add(pending.payment_id)

        @rule(topup=topups)
        def hear_that_the_bank_took_it_back(self, topup: tuple[int, Pending]) -> None:
            """The platform bears it: what was put into a wallet may be spent. Of money that has not come yet the bank's
            word would keep it apart when it comes, for an operator to look at."""
            if topup[1].payment_id not in self.credited:
                return
            body = world.hub.said(topup[1], status="reversed")
            assert wait(world.hub.call_back(body)).status_code == 200

        @rule(target=sessions, who=WHO, amount=AMOUNTS)
        def ask_to_be_paid(self, who: int, amount: int) -> tuple[int, dict[str, Any]]:
            return who, wait(self.holders[who].asks(amount)) | {"amount": amount}

        @rule(
            session=sessions, who=WHO, pin=st.sampled_from([PIN, PIN, PIN, WRONG_PIN]), less=st.sampled_from([0, 0, 1])
        )
        def pay(self, session: tuple[int, dict[str, Any]], who: int, pin: str, less: int) -> None:
            payee, asked = session
            total, trace = asked["totalAmount"], asked["transactionTraceId"]
            answered = wait(self.holders[who].accepts(asked, pin=pin, totalAmount=max(total - less, 1)))
            fits = who != payee and trace not in self.paid and not (less and total > 1) and pin == PIN
            if answered.status_code == 200:
                assert fits
                assert self.held[who] >= total
                self.paid.add(trace)
                self.held[who] -= total
                self.held[payee] += asked["amount"]
                assert answered.json()["updatedBalance"] == self.held[who]
            elif answered.status_code != 423:
                assert not fits or self.held[who] < total

        @rule(session=sessions, share=st.integers(1, 100))
        def give_back(self, session: tuple[int, dict[str, Any]], share: int) -> None:
            payee, asked = session
            wanted = max(1, asked["totalAmount"] * share // 100)
            path = f"{TXN}/refund/{asked['transactionTraceId']}"
            answered = wait(self.holders[payee].call("POST", path, {"pin": PIN, "amount": wanted}))
            if answered.status_code == 200:
                assert asked["transactionTraceId"] in self.paid
                self.held[payee] -= wanted
                self.held[self._payer(asked)] += wanted
                assert self.held[payee] >= 0

        def _payer(self, asked: dict[str, Any]) -> int:
            trace = asked["transactionTraceId"]
            (found,) = wait(rows(database, "SELECT payer_wallet_id FROM wallet_session WHERE id = $1", trace))
            return [one.wallet for one in self.holders].index(found["payer_wallet_id"])

        @rule(who=WHO, amount=st.integers(-10, 80_000))
        def withdraw(self, who: int, amount: int) -> None:
            body = {"walletCode": self.holders[who].wallet, "amount": amount, "pin": PIN}
            answered = wait(self.holders[who].call("POST", f"{TXN}/withdraw", body))
            if answered.status_code == 202:
                assert 0 < amount <= self.held[who]
                assert who not in self.under_way
                self.held[who] -= amount
                self.under_way[who] = amount
            else:
                assert amount <= 0 or amount > self.held[who] or who in self.under_way or answered.status_code == 423

        @rule(fault=FAULTS)
        def ask_the_bank(self, fault: str | None) -> None:
            if fault is not None:
                self.bank.faults.append(fault)
            mine = [one.wallet for one in self.holders]
            for wallet in mine:
                wait(execute(database, "UPDATE wallet_withdrawal SET ask_at_ms = 1, lease_until_ms = 0 "
                             "WHERE wallet_id = $1 AND ask_at_ms IS NOT NULL", wallet))  # fmt: skip
            wait(Withdrawer(database, lambda: self.bank, is_open=lambda day: True).tick())
            self.bank.faults.clear()
            pending = {
                row["wallet_id"]
                for row in wait(rows(database, "SELECT wallet_id FROM wallet_withdrawal WHERE ask_at_ms IS NOT NULL"))
            }
            for who in [who for who in self.under_way if mine[who] not in pending]:
                amount = self.under_way.pop(who)
                (last,) = wait(
                    rows(database, "SELECT state FROM wallet_withdrawal WHERE wallet_id = $1 ORDER BY id DESC LIMIT 1",
                         mine[who])
                )  # fmt: skip
                self.held[who] += 0 if last["state"] == "succeeded" else amount

        @invariant()
        def wallets_hold_what_was_put_in_less_what_left(self) -> None:
            for who, one in enumerate(getattr(self, "holders", [])):
                assert wait(one.balance()) == self.held[who] >= 0

        @invariant()
        def the_books_are_right(self) -> None:
            wait(check_books(database))
            assert wait(database.read_at_leisure(books.check)) == []

        @invariant()
        def the_bank_paid_what_left_for_good(self) -> None:
            if not hasattr(self, "holders"):
                return
            mine = [one.wallet for one in self.holders]
            found = wait(rows(database, "SELECT wallet_id, amount FROM wallet_withdrawal WHERE state = 'succeeded'"))
            gone = sum(row["amount"] for row in found if row["wallet_id"] in mine)
            assert gone <= self.bank.paid <= gone + sum(self.under_way.values())

    return AnyOrder


def test_wallets_are_right_in_any_order(database_url: str, tmp_path: Path) -> None:
    with open_world(database_url, tmp_path) as world:
        run_machine(
            machine(world),
            settings=settings(
                max_examples=LIVES,
                stateful_step_count=15,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],  # shrinking takes minutes
            ),
        )
