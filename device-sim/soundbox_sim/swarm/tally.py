"""What was paid beside what was heard, and what each difference is called."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from soundbox_sim.box import Speak, Tell
from soundbox_sim.swarm.outside import CalledBack
from soundbox_sim.swarm.plan import Happening

STORM_MAY_TAKE_S = 120.0
CALLBACK_MAY_TAKE_MS = 10_000.0
NEEDED_S = 15.0
"""A box that was in session this long, without a break, while an announcement lived has to have heard it: it comes at
once, again after 5, 10 and 20 s, and 5 s after a birth at the latest; a slow link adds its stalls."""
HONEST_REASONS = ("interrupted", "audio_fault")
"""What a box may say of a payment that it did not say aloud. That it came too late counts only where the box was away:
one that was there and found it late has a wrong clock."""
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Heard:
    """A box began to say a payment."""

    box: int
    event_id: str
    transaction_id: str
    amount_idr: int
    at: float


@dataclass(frozen=True, slots=True)
class Paid:
    payment: Happening
    called: CalledBack


@dataclass(slots=True)
class Given:
    """A command that the hub took, and what the box said of it."""

    box: int
    name: str
    at: float
    begun: int = 0
    ended: str | None = None
    hub_says: str | None = None


@dataclass(slots=True)
class Storm:
    """All lines broke at once: who is not back yet."""

    at: float
    waiting: set[int]
    boxes: int
    ended_at: float | None = None

    @property
    def took_s(self) -> float | None:
        return None if self.ended_at is None else self.ended_at - self.at


@dataclass(frozen=True, slots=True)
class Check:
    """One rule. `found` are the first few of what broke it."""

    name: str
    holds: bool
    count: int
    found: tuple[Any, ...] = ()


@dataclass(slots=True)
class Tally:
    """Watches everybody. `life_s`: how long the hub keeps an announcement alive. Times are of `time.monotonic`."""

    boxes: int
    life_s: float
    connected: set[int] = field(default_factory=set)  # the broker has let them in
    in_session: set[int] = field(default_factory=set)  # and the hub has answered them
    heard: list[Heard] = field(default_factory=list)
    callbacks: list[Paid] = field(default_factory=list)
    commands: dict[str, Given] = field(default_factory=dict)
    storms: list[Storm] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    _announced: dict[tuple[int, str], Tell] = field(default_factory=dict)
    _reasons: dict[tuple[int, str], str] = field(default_factory=dict)
    _executed: Counter[tuple[int, str]] = field(default_factory=Counter)
    _endings: dict[tuple[int, str], str] = field(default_factory=dict)
    _sessions: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)

    # What the boxes tell.

    def told(self, number: int, tell: Tell) -> None:
        self.happened[tell.what] += 1
        facts = tell.facts
        if tell.what == "clock_set":  # The hub has answered: it knows of the birth, which came before the question.
            self._is_back(number)
        elif tell.what == "online":
            self.connected.add(number)
        elif tell.what == "announced":
            self._announced[number, facts["event_id"]] = tell
        elif tell.what == "command":
            self._executed[number, facts["command_id"]] += 1
        elif tell.what == "command_ended":
            self._endings[number, facts["command_id"]] = facts["status"]
        elif tell.what in HONEST_REASONS:
            self._note_reason(number, tell)

    def _note_reason(self, number: int, tell: Tell) -> None:
        """A power cut leaves the event's id alone in the journal; the transaction was told when it was announced."""
        told = self._announced.get((number, tell.facts.get("event_id", "")), tell)
        transaction_id = told.facts.get("transaction_id")
        if transaction_id is not None:
            self._reasons[number, transaction_id] = tell.what

    def speaks(self, number: int, speech: Speak) -> None:
        if speech.seq is None or speech.event_id is None:
            return
        facts = self._announced[number, speech.event_id].facts
        said = Heard(number, speech.event_id, facts["transaction_id"], facts["amount"], time.monotonic())
        self.heard.append(said)

    def away(self, number: int, *, switched_off: bool) -> None:
        now = time.monotonic()
        self.connected.discard(number)
        if number in self.in_session:
            self.in_session.discard(number)
            self._sessions.setdefault(number, []).append((self._since.pop(number), now))
        if switched_off:  # Its power went: that is not the storm's doing.
            for storm in self.storms:
                self._leaves(storm, number, now)

    def refused(self, number: int) -> None:
        self.happened["login_refused"] += 1

    def _is_back(self, number: int) -> None:
        now = time.monotonic()
        if number not in self.in_session:
            self.in_session.add(number)
            self._since[number] = now
        for storm in self.storms:
            self._leaves(storm, number, now)

    def _leaves(self, storm: Storm, number: int, now: float) -> None:
        storm.waiting.discard(number)
        if not storm.waiting and storm.ended_at is None:
            storm.ended_at = now

    def storm_begins(self) -> None:
        self.storms.append(Storm(time.monotonic(), set(self.in_session), len(self.in_session)))

    # What the others did.

    def called_back(self, payment: Happening, called: CalledBack) -> None:
        self.callbacks.append(Paid(payment, called))

    def commanded(self, wanted: Happening, command_id: str) -> None:
        self.commands[command_id] = Given(wanted.box, wanted.name, time.monotonic())

    # What follows from it.

    def paid(self) -> dict[str, Paid]:
        """Transaction -> the payment that the hub took as paid."""
        good = (one for one in self.callbacks if one.payment.twist in ("", "repeated"))
        return {
            one.called.transaction_id: one
            for one in good
            if one.called.transaction_id is not None and one.called.outcome in ("applied", "duplicate")
        }

    def unheard(self) -> dict[str, str | None]:
        """Transaction -> the honest reason why it was not heard, or None where there is none."""
        heard = {(said.box, said.transaction_id) for said in self.heard}
        return {
            transaction_id: self._reason(transaction_id, paid)
            for transaction_id, paid in self.paid().items()
            if (paid.payment.box, transaction_id) not in heard
        }

    def _reason(self, transaction_id: str, paid: Paid) -> str | None:
        box = paid.payment.box
        if (told := self._reasons.get((box, transaction_id))) is not None:
            return told
        ends = paid.called.ended + self.life_s
        return "away" if self._longest_session_s(box, paid.called.began, ends) < NEEDED_S else None

    def _longest_session_s(self, box: int, begins: float, ends: float) -> float:
        sessions = list(self._sessions.get(box, ()))
        if box in self._since:
            sessions.append((self._since[box], time.monotonic()))
        return max((min(end, ends) - max(start, begins) for start, end in sessions), default=0.0)

    def waits_for(self) -> int:
        """Payments that may still be heard."""
        now = time.monotonic()
        paid = self.paid()
        unheard = [paid[one] for one, reason in self.unheard().items() if reason is None or reason == "away"]
        return sum(now < one.called.ended + self.life_s for one in unheard)

    def settle_commands(self) -> list[tuple[str, Given]]:
        """What the boxes did, written to each command; those of which no box told an end."""
        for command_id, given in self.commands.items():
            given.begun = self._executed[given.box, command_id]
            given.ended = self._endings.get((given.box, command_id))
        return [(command_id, given) for command_id, given in self.commands.items() if given.ended is None]

    def checks(self, *, off: int = 0) -> list[Check]:
        """The rules, each with what broke it. `off`: boxes whose power is cut at this moment."""
        paid, unheard = self.paid(), self.unheard()
        missing = self.boxes - off - len(self.in_session)
        return [
            _check("every callback is answered", [one for one in self.callbacks if not one.called.answered]),
            _check("every genuine payment is taken", self._not_taken()),
            _check("no payment is said twice", self.said_twice()),
            _check("nothing unpaid is said, and nothing at the wrong box or of another amount", self._unpaid(paid)),
            _check("what was not heard has an honest reason", [one for one, why in unheard.items() if why is None]),
            _check("no command is carried out twice", [c for c, given in self.commands.items() if given.begun > 1]),
            _check("every command is accounted for", self._lost_commands()),
            _check(f"every storm ends within {STORM_MAY_TAKE_S:.0f} s", self._endless_storms()),
            _check("callbacks are answered throughout a storm", self._slow_in_storms()),
            _check("no box is refused at the broker", range(self.happened["login_refused"])),
            _check("every box is back at the end", range(missing)),
        ]

    def _not_taken(self) -> list[Paid]:
        taken = self.paid()
        genuine = [one for one in self.callbacks if one.payment.twist in ("", "repeated") and one.called.answered]
        return [one for one in genuine if one.called.transaction_id not in taken]

    def said_twice(self) -> list[str]:
        times = Counter((said.box, said.transaction_id) for said in self.heard)
        return [transaction_id for (_, transaction_id), count in times.items() if count > 1]

    def unpaid_for_s(self, seconds: float) -> int:
        """Said so long ago that the callback's answer must be here, and still unpaid."""
        latest, paid = time.monotonic() - seconds, self.paid()
        return sum(said.at < latest and not _is_of(paid.get(said.transaction_id), said) for said in self.heard)

    def _unpaid(self, paid: dict[str, Paid]) -> list[Heard]:
        return [said for said in self.heard if not _is_of(paid.get(said.transaction_id), said)]

    def _lost_commands(self) -> list[str]:
        """No box told an end, though the box was there; or the hub does not know of them."""
        open_ones = [(command_id, given) for command_id, given in self.commands.items() if given.ended is None]
        return [command_id for command_id, given in open_ones if not self._has_excuse(given)]

    def _has_excuse(self, given: Given) -> bool:
        if given.hub_says == "cancelled":  # a later one of its kind took its place
            return True
        away = self._longest_session_s(given.box, given.at, time.monotonic()) < NEEDED_S
        return away and given.hub_says is not None

    def _endless_storms(self) -> list[Storm]:
        return [storm for storm in self.storms if storm.took_s is None or storm.took_s > STORM_MAY_TAKE_S]

    def _slow_in_storms(self) -> list[float]:
        return [took_ms for took_ms in self.in_storms_ms() if took_ms > CALLBACK_MAY_TAKE_MS]

    def in_storms_ms(self) -> list[float]:
        """How long callbacks took that were begun while boxes were coming back."""
        return [
            attempt.took_ms
            for one in self.callbacks
            for attempt in one.called.attempts
            if any(storm.at <= attempt.at <= (storm.ended_at or attempt.at) for storm in self.storms)
        ]

    def heard_ms(self) -> list[float]:
        """From the first word of the callback to the first word of the box."""
        paid = self.paid()
        pairs = ((paid.get(said.transaction_id), said) for said in self.heard)
        return [(said.at - one.called.began) * 1000 for one, said in pairs if one is not None]


def percentiles(values: Iterable[float]) -> dict[str, float] | None:
    """p50, p95, p99 and the largest; None of nothing."""
    ranked = sorted(values)
    if not ranked:
        return None
    last = len(ranked) - 1
    at = {name: round(ranked[round(last * share)], 1) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    return {**at, "max": round(ranked[-1], 1)}


def _check(name: str, broken: Sequence[Any]) -> Check:
    return Check(name, not broken, len(broken), tuple(repr(one) for one in broken[:SHOWN]))


def _is_of(paid: Paid | None, said: Heard) -> bool:
    return paid is not None and (paid.payment.box, paid.payment.amount_idr) == (said.box, said.amount_idr)
