"""One box of a fleet: its power, its line, its speaker and its clock, around the pure `Box`."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Protocol

from soundbox_protocol.topics import Downlink, downlink, downlink_filter
from soundbox_sim.box import Action, Box, BoxSettings, Publish, Restart, Speak, Tell
from soundbox_sim.journal import Flash
from soundbox_sim.radio import Backoff
from soundbox_sim.swarm.plan import Nature
from soundbox_sim.swarm.roster import Member
from soundbox_sim.swarm.scenarios import Link
from soundbox_sim.swarm.wire import Line, Login, LoginRefused, call

HEARTBEAT_S = 60.0
KEEPALIVE_S = 60
SPEECH_S = 2.5
NOTICE_S = 1.0
REBOOT_MS = 2_000
STEADY_S = 10.0
ASKED_AGAIN_S = 10.0
RESTART_WITHIN_S = 5.0


class Witness(Protocol):
    """Hears what becomes of a box; `number` is its place in the fleet."""

    def told(self, number: int, tell: Tell) -> None: ...

    def speaks(self, number: int, speech: Speak) -> None:
        """The box begins to say it."""

    def away(self, number: int, *, switched_off: bool) -> None:
        """No session any more."""

    def refused(self, number: int) -> None:
        """The broker did not let it in."""


class Device:
    """Runs from `switch_on` until `switch_off`, through every power cut in between. Its journal outlives them."""

    def __init__(
        self, number: int, member: Member, nature: Nature, *, host: str, port: int, random: Random, witness: Witness
    ) -> None:
        self.number, self.member = number, member
        self._nature, self._host, self._port, self._random, self._witness = nature, host, port, random, witness
        self._flash, self._login = Flash(), Login(member.device_id, member.password)
        self._backoff = Backoff()
        self._box: Box | None = None
        self._line: Line | None = None
        self._life: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._due_ms: int | None = None
        self._is_speaking = False
        self._answered = False
        # Never lost: it answers the birth, and so tells the witness that the hub knows of this session.
        self._time = downlink(member.device_id, Downlink.TIME)
        self._early: list[tuple[str, bytes]] = []  # what came before the birth
        self._clock_ms = 0

    # Power.

    @property
    def is_on(self) -> bool:
        return self._box is not None

    @property
    def is_busy(self) -> bool:
        """It speaks, or the broker does not have all of its acks yet."""
        return self._is_speaking or (self._line is not None and not self._line.all_taken)

    def switch_on(self) -> None:
        """Boot and go on air."""
        self._timers.clear()
        self._clock_ms = self._began_at_ms()
        self._box = Box(
            self.member.device_id,
            self.member.key,
            self._flash,
            account=self.member.device_id,
            now_ms=self._now_ms(),
            token=partial(secrets.token_urlsafe, 12),
            settings=BoxSettings(terminal_id=self.member.terminal_id, has_clock=self._nature.has_clock),
        )
        self._carry_out(self._box.boot(self._now_ms()))
        self._life = asyncio.create_task(self._stay_on_air(self._box))

    def cut_power(self, off_ms: int) -> None:
        """The plug is pulled, and put back after `off_ms`. One that is off already stays off as it is."""
        if self._box is None:
            return
        self._drop_dead("power cut")
        self._later("power", off_ms / 1000, self.switch_on)

    def break_line(self) -> None:
        """The connection is gone; the box is not."""
        if self._line is not None:
            self._line.break_off("line broken")

    async def switch_off(self) -> None:
        """The orderly end: the goodbye leaves before the line is closed."""
        box, line = self._box, self._line
        if box is not None and line is not None:
            line.publish(box.farewell(self._now_ms()))
            line.hang_up()
        life = self._life
        self._drop_dead("switched off")
        if life is not None:
            await asyncio.gather(life, return_exceptions=True)

    def _drop_dead(self, why: str) -> None:
        self._box, line, self._line = None, self._line, None
        self._is_speaking = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._life is not None:
            self._life.cancel()
        if line is not None and not line.ended.done():
            line.break_off(why)
        self._witness.away(self.number, switched_off=True)

    # The line.

    async def _stay_on_air(self, box: Box) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            why = await self._one_session(box)
            self._witness.away(self.number, switched_off=False)
            self._carry_out(box.lost(self._now_ms(), reason=why))
            attempt = 0 if time.monotonic() - began >= STEADY_S else attempt + 1
            await asyncio.sleep(self._backoff.pause_s(attempt, self._random))

    async def _one_session(self, box: Box) -> str:
        """From the will to the end of the line, and why it ended."""
        will = box.connect(self._now_ms())
        self._early = []
        try:
            line = await call(lambda: self._new_line(will), host=self._host, port=self._port)
        except OSError as problem:
            if isinstance(problem, LoginRefused):
                self._witness.refused(self.number)
            return str(problem) or type(problem).__name__
        self._line = line
        try:
            self._answered = False
            self._later("answer", ASKED_AGAIN_S, self._ask_again)
            self._carry_out(box.birth(self._now_ms()))
            for topic, payload in self._early:
                self.heard(topic, payload)
            self._later("heartbeat", self._heartbeat_s(box) * self._nature.phase, self._beat)
            return await line.ended
        finally:
            self._line = None

    def _new_line(self, will: Publish) -> Line:
        link = self._nature.link
        return Line(
            self._login, will, self, topic_filter=downlink_filter(self.member.device_id), keepalive_s=KEEPALIVE_S,
            delay_s=None if link.is_a_cable else partial(_delay_s, link, self._random),
        )  # fmt: skip

    def heard(self, topic: str, payload: bytes) -> None:
        """A downlink came out of the air; the modem may lose or repeat it."""
        box, link = self._box, self._nature.link
        if box is None:
            return
        if not box.online:
            self._early.append((topic, payload))
            return
        if link.drop and topic != self._time and self._random.random() < link.drop:
            return
        copies = 2 if link.duplicate and self._random.random() < link.duplicate else 1
        for _ in range(copies):
            self._carry_out(box.hear(topic, payload, self._now_ms()))

    def taken(self, ack: int) -> None:
        if self._box is not None:
            self._box.ack_taken(ack)

    # What the box wants done.

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Publish):
                if self._line is not None:  # Otherwise the next birth repeats it, if it was an ack.
                    self._line.publish(action)
            elif isinstance(action, Speak):
                self._witness.speaks(self.number, action)
                self._is_speaking = True
                said_within_s = NOTICE_S if action.event_id is None else SPEECH_S
                self._later("speech", said_within_s, partial(self._said, action.event_id))
            elif isinstance(action, Tell):
                self._answered = self._answered or action.what == "clock_set"
                self._witness.told(self.number, action)
            elif isinstance(action, Restart):
                self._later("restart", 0.1, partial(self._restart, time.monotonic() + RESTART_WITHIN_S))
            elif self._line is not None:
                self._line.subscribe()
        self._follow_clock()

    def _said(self, event_id: str | None) -> None:
        self._is_speaking = False
        if self._box is not None:
            self._carry_out(self._box.spoken(event_id, self._now_ms()))

    def _restart(self, latest: float) -> None:
        """The ack of the order leaves first, if there is a line to leave by."""
        if self._line is not None and not self._line.all_taken and time.monotonic() < latest:
            self._later("restart", 0.1, partial(self._restart, latest))
        else:
            self.cut_power(REBOOT_MS)

    def _beat(self) -> None:
        box, line = self._box, self._line
        if box is not None and line is not None:
            line.publish(box.heartbeat(self._now_ms()))
            self._later("heartbeat", self._heartbeat_s(box), self._beat)

    def _ask_again(self) -> None:
        """A broker that was killed has taken the question, and lost it before the hub was back."""
        if self._box is not None and self._line is not None and not self._answered:
            self._carry_out(self._box.ask_time(self._now_ms()))
            self._later("answer", ASKED_AGAIN_S, self._ask_again)

    def _heartbeat_s(self, box: Box) -> float:
        return float(box.heartbeat_s or HEARTBEAT_S)

    def _follow_clock(self) -> None:
        """One timer for whatever the box waits for."""
        box = self._box
        due_ms = box.due_ms() if box is not None else None
        if due_ms == self._due_ms and "tick" in self._timers:
            return
        self._due_ms = due_ms
        if due_ms is None:
            if (timer := self._timers.pop("tick", None)) is not None:
                timer.cancel()
            return
        self._later("tick", max(due_ms - self._now_ms(), 0) / 1000 + 0.001, self._tick)

    def _tick(self) -> None:
        self._timers.pop("tick", None)
        if self._box is not None:
            self._carry_out(self._box.tick(self._now_ms()))

    # Time.

    def _later(self, name: str, after_s: float, what: Callable[[], None]) -> None:
        """At most one of each name."""
        if (earlier := self._timers.get(name)) is not None:
            earlier.cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(after_s, what)

    def _began_at_ms(self) -> int:
        """What the counter starts from: the crystal of a box without a clock starts at zero at each boot."""
        counted_ms = int(time.monotonic() * 1000)
        if not self._nature.has_clock:
            return -counted_ms
        return int(time.time() * 1000) + self._nature.skew_ms - counted_ms

    def _now_ms(self) -> int:
        return self._clock_ms + int(time.monotonic() * 1000)


def _delay_s(link: Link, random: Random) -> float:
    stall_ms = random.uniform(*link.stall_ms) if random.random() < link.stall else 0.0
    return (random.uniform(*link.latency_ms) + stall_ms) / 1000
