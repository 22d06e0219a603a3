"""A soundbox without its parts: bytes in, bytes out.

No socket, no speaker and no clock of its own. `now_ms` is a counter that only runs forward, as the crystal on the board
does; what it is worth in UTC the box learns from its battery-backed clock or from the hub. Everything a box must still
know after its plug was pulled is in the journal, and it is written there before the box says a word about it.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeAlias, get_args

from soundbox_protocol.configuration import TEMPLATES, pushed_config, read_config
from soundbox_protocol.messages import (
    COMMANDS,
    MAX_COUNT,
    MAX_PAYLOAD_BYTES,
    MESSAGES,
    BoxConfig,
    Capabilities,
    Command,
    CommandAck,
    ConfigAck,
    ConfigPush,
    CredentialRequest,
    CredentialResponse,
    DailyTotal,
    DynamicQrDisplay,
    DynamicQrRequest,
    DynamicQrResponse,
    Event,
    FactoryReset,
    Heartbeat,
    Identify,
    Log,
    LogLevel,
    MalformedMessage,
    PaymentAck,
    PaymentDigest,
    PaymentMissing,
    PaymentSkip,
    PaymentSuccess,
    PlayTest,
    QuietHours,
    Reboot,
    RefreshConfig,
    RotateCredential,
    SetVolume,
    SpeakCode,
    Status,
    TailLog,
    Time,
    TimeRequest,
    UploadLog,
    decode,
    encode,
    read_payload,
)
from soundbox_protocol.provisioning import credential_key, unpacked_credential
from soundbox_protocol.sealing import CannotOpen, unseal
from soundbox_protocol.signing import BadSignature, verify
from soundbox_protocol.speech import (
    code_clips,
    code_sentence,
    digest_clips,
    digest_sentence,
    here_clips,
    here_sentence,
    payment_clips,
    payment_sentence,
    sound_test_clips,
    sound_test_sentence,
    total_clips,
    total_sentence,
)
from soundbox_protocol.times import from_rfc3339, to_rfc3339
from soundbox_protocol.topics import Downlink, Uplink, parse_downlink, uplink
from soundbox_sim import journal as log
from soundbox_sim.journal import Configured, Entry, Journal, Order

Language = Literal["id", "en"]
Announcement: TypeAlias = PaymentSuccess | PaymentDigest

SKEW_MS = 30_000  # How far the hub's clock and the box's may be apart.
ORDER_WAIT_MS = 2_000  # How long an early message waits for the one before it.
QUEUE = 8  # Utterances that wait, and messages that wait for the time.
TIME_AGAIN_MS = 5_000
TIME_UNANSWERED_MS = 60_000  # a clock that runs can wait longer for an answer that got lost
TIME_EVERY_MS = 3_600_000  # and drifts by seconds a day
CLOCK_IS_GOOD_MS = 2_000  # The hub sends whole seconds: a clock nearer than this is better left alone.
QR_ANSWER_MS = 30_000
PAID_SCREEN_MS = 10_000
EVENT_EVERY_MS = 60_000  # of one kind: a forger must not turn the box into a flood of events
LOG_LINES, LOG_LINE, LOG_BYTES = 40, 80, 3_000  # In an ack: lines, how long each is, and what of them fits.
HISTORY_LINES = 2_000  # Kept, for whoever wants all of it.
TAIL_LINES, TAIL_EVERY_MS = 20, 1_000  # As many live lines in so long, and no more.
GRAVITY: dict[str, int] = {level: number for number, level in enumerate(get_args(LogLevel))}
GRAVE: dict[str, LogLevel] = {
    "bad_signature": "warning",
    "malformed_message": "warning",
    "audio_fault": "error",
    "not_spoken": "error",
    "qr_failed": "warning",
}

NETWORK_LOST = {"id": "Jaringan terputus", "en": "Network disconnected"}


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A token and a broker password that take the place of those in force once the hub hears that they are kept."""

    credential_id: str
    device_token: str
    broker_password: str


# What a box wants done.


@dataclass(frozen=True, slots=True)
class Publish:
    """Send these bytes. An `ack` number is reported back through `Box.ack_taken` once the broker has it."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    ack: int | None = None


@dataclass(frozen=True, slots=True)
class Speak:
    """Say this, then call `Box.spoken` or `Box.not_spoken` with the same id. Only one is ever under way.

    A notice (`jaringan terputus`, a button's answer) has no event_id and no seq; what a command says has its id and no
    seq. `volume` is a percentage.
    """

    event_id: str | None
    seq: int | None
    sentence: str
    clips: tuple[str, ...]
    language: Language
    volume: int = 100


@dataclass(frozen=True, slots=True)
class Tell:
    """Something happened that a watcher may like to see. Nothing in the box depends on it."""

    what: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listen:
    """Subscribe once more: the broker sends what it retains again."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Switch off and on again, once what was said has left the box."""


@dataclass(frozen=True, slots=True)
class SendLog:
    """Post these bytes to the hub in pieces, then call `Box.log_sent` with what came of it."""

    command_id: str
    content: bytes


Action: TypeAlias = Publish | Speak | Tell | Listen | Restart | SendLog
P = ParamSpec("P")


def _logged(
    call: "Callable[Concatenate[Box, P], list[Action]]",
) -> "Callable[Concatenate[Box, P], list[Action]]":
    """What the box tells is a line of its log. The last positional argument is `now_ms`."""

    @wraps(call)
    def logging(box: "Box", /, *args: P.args, **named: P.kwargs) -> list[Action]:
        actions = call(box, *args, **named)
        at_ms = next(value for value in reversed(args) if isinstance(value, int))
        told = [action for action in actions if isinstance(action, Tell)]
        box.log += [_line(action, box.utc_ms(at_ms)) for action in told]
        return [*actions, *(line for one in told for line in box.live_line(one, at_ms))]

    return logging


@dataclass(frozen=True, slots=True)
class Screen:
    """What the display shows. `until_ms` is UTC; a QR is never shown past its expiry."""

    shows: Literal["idle", "qr", "paid"] = "idle"
    transaction_id: str | None = None
    amount_idr: int | None = None
    qr_payload: str | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class BoxSettings:
    """What differs from box to box."""

    terminal_id: str | None = None
    language: Language = "id"
    has_clock: bool = True
    volume: int = 80
    firmware_version: str = "1.0.0"
    utc_offset_minutes: int = 420  # Where the shop's day ends: Jakarta.


@dataclass(frozen=True, slots=True)
class DayTotal:
    """What came in on the shop's current day, replays not counted. `day` is empty before the first payment."""

    day: str
    count: int
    total_idr: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    message: Announcement
    arrived_ms: int


@dataclass(frozen=True, slots=True)
class _Asked:
    request_id: str
    amount_idr: int
    asked_ms: int


@dataclass(slots=True)
class _Tail:
    """Somebody listens to the log: from which level on, until when, and how many lines went out lately."""

    level: LogLevel
    until_ms: int
    since_ms: int
    sent: int = 0


class Box:
    """One soundbox from boot to power cut. Not thread-safe: one caller at a time.

    `account` names the activation (device and key version): a new one makes the box count seq from one again.
    `token` gives a fresh random name of at most 30 URL-safe characters. `keep` puts a new credential on the disk beside
    the one in force before it returns; a box without it keeps the one it has.
    """

    def __init__(
        self,
        device_id: str,
        key: bytes,
        journal: Journal,
        *,
        account: str,
        now_ms: int,
        token: Callable[[], str],
        settings: BoxSettings | None = None,
        keep: Callable[[NewCredential], None] | None = None,
    ) -> None:
        self.device_id = device_id
        self.settings = settings or BoxSettings()
        self.screen = Screen()
        self.log: deque[str] = deque(maxlen=HISTORY_LINES)
        self._tail: _Tail | None = None
        self.online = False
        self._key, self._journal, self._account, self._token = key, journal, account, token
        self._booted_ms = now_ms
        self._births = 0
        self._audio_fault = False
        self._last_events_ms: dict[str, int] = {}

        self._utc_offset_ms: int | None = 0 if self.settings.has_clock else None
        self._clock_confirmed = False
        self._clock_skew_ms = 0
        self._time_nonce: str | None = None
        self._time_asked_ms = now_ms
        self._held: deque[tuple[str, bytes]] = deque()

        self._next_seq = journal.memory.highest_seq + 1
        self._will_not_come: set[int] = set()
        self._missed_up_to = 0  # gaps below have been asked for
        self._waiting: list[_Waiting] = []
        self._turned_away: dict[int, int] = {}
        self._speaking: Speak | None = None
        self._said: Announcement | None = None
        self._asides: deque[Speak] = deque()  # what commands have it say
        self._notice_due = False
        self._asked: _Asked | None = None
        self._keep = keep
        self._credential_asked: str | None = None
        self._rotation: str | None = None  # the command that wanted it
        self._config = _in_force(journal.memory.config)

    # Power and radio.

    @_logged
    def boot(self, now_ms: int) -> list[Action]:
        """Call once, before anything else. What was taken in but not marked as played stays unspoken for good."""
        if self._journal.memory.account != self._account:
            self._journal.write(log.new_account(self._account))
            self._next_seq = 1
            self._config = BoxConfig()
        actions: list[Action] = [Tell("booted", {"damaged_lines": self._journal.damaged_lines})]
        for entry in list(self._journal.memory.entries.values()):
            if entry.status == "received":
                self._settle(_failed(entry, "interrupted"), now_ms)
                actions.append(Tell("interrupted", {"event_id": entry.event_id, "seq": entry.seq}))
        for order in list(self._journal.memory.orders.values()):
            if order.status == "delivered":
                actions += self._resume(order, now_ms)
        return actions

    def _resume(self, order: Order, now_ms: int) -> list[Action]:
        """The power went while a command was under way. For some that was the command."""
        if order.name == "factory_reset":
            self._journal.write(log.reset())
            self._config = BoxConfig()
        done = order.name in ("reboot", "factory_reset")
        return self._end_command(
            Order(order.command_id, "succeeded") if done else Order(order.command_id, "failed", "interrupted"), now_ms
        )[1:]

    def connect(self, now_ms: int) -> Publish:
        """A new session begins: its number is on the disk before the broker hears of it. Returns the last will."""
        self._journal.write(log.new_session(self._journal.memory.session_epoch + 1))
        return self._status("offline", now_ms)

    @_logged
    def birth(self, now_ms: int) -> list[Action]:
        """Connected and subscribed: say so, ask what time it is, and repeat every ack the broker may not have."""
        self.online = True
        self._notice_due = False
        actions: list[Action] = [self._status("online", now_ms), Tell("online", {"session_epoch": self._epoch})]
        self._births += 1
        self._clock_confirmed = False
        actions += self._ask_time(now_ms)
        return actions + [self._ack(number) for number in self._journal.memory.unsent_acks]

    @_logged
    def lost(self, now_ms: int, *, reason: str) -> list[Action]:
        """The connection broke. Said aloud once, however often the radio fails to come back."""
        if not self.online:
            return []
        self.online = False
        self._notice_due = True
        return [Tell("offline", {"reason": reason}), *self._speak_next(now_ms)]

    def farewell(self, now_ms: int) -> Publish:
        """The orderly goodbye: the broker sends no will after a clean disconnect."""
        self.online = False
        return self._status("offline", now_ms)

    def power_off(self) -> None:
        """Nothing is saved here: a box that needed this would forget everything in a power cut."""
        self._journal.close()

    def heartbeat(self, now_ms: int) -> Publish:
        """The pulse, QoS 0: the next one makes up for a lost one."""
        message = Heartbeat(
            **self._common(now_ms),
            firmware_version=self.settings.firmware_version,
            network_strength=80,
            battery_level=100,
            state=self._state(),
            volume=self.volume(now_ms),
            queue_depth=len(self._waiting),
            clock_skew_ms=max(-MAX_COUNT, min(self._clock_skew_ms, MAX_COUNT)),  # An empty battery: decades.
            uptime_s=(now_ms - self._booted_ms) // 1000,
            config_sha256=self._configured.sha256 if self._configured else None,
        )
        return Publish(uplink(self.device_id, Uplink.HEARTBEAT), encode(message), qos=0)

    def ack_taken(self, number: int) -> None:
        """The broker has this ack. Not durable: at worst it is sent again, and the hub knows repeats."""
        self._journal.write(log.ack_sent(number), durable=False)

    def day_total(self) -> DayTotal:
        """The merchant's question at closing time; it survives a power cut."""
        memory = self._journal.memory
        return DayTotal(memory.day, memory.day_count, memory.day_total_idr)

    # What comes in.

    @_logged
    def hear(self, topic: str, payload: bytes, now_ms: int) -> list[Action]:
        """One downlink, as received: verify first, then parse."""
        return self._hear(topic, payload, now_ms)

    def _hear(self, topic: str, payload: bytes, now_ms: int) -> list[Action]:
        address = parse_downlink(topic)
        if address is None or address[0] != self.device_id:
            return [Tell("ignored", {"topic": topic})]
        try:
            body = verify(self._key, topic, payload)
        except BadSignature:
            return self._complain("bad_signature", f"{address[1]}, {len(payload)} bytes", now_ms)
        if address[1] not in set(Downlink):
            return [Tell("ignored", {"topic": topic})]
        try:
            message = decode(MESSAGES[Downlink(address[1])], body)
            if isinstance(message, ConfigPush):
                return self._configure(*pushed_config(body), now_ms)
        except MalformedMessage as problem:
            return self._complain("malformed_message", f"{address[1]}: {problem}"[:100], now_ms)
        if isinstance(message, Time):
            return self._set_clock(message, now_ms)
        if isinstance(message, PaymentSkip):
            return self._skip(message, now_ms)
        if self._cannot_judge(message, now_ms):
            return self._hold(topic, payload, now_ms)
        if isinstance(message, PaymentSuccess | PaymentDigest):
            return self._announced(message, now_ms)
        if isinstance(message, DynamicQrResponse):
            return self._qr_answer(message, now_ms)
        if isinstance(message, DynamicQrDisplay):
            return self._display(message, now_ms)
        if isinstance(message, Command):
            return self._command(message, now_ms)
        if isinstance(message, CredentialResponse):
            return self._credential(message, topic, body, now_ms)
        raise TypeError(f"{type(message).__name__} is no downlink")

    # Announcements.

    def _announced(self, message: Announcement, now_ms: int) -> list[Action]:
        known = self._journal.memory.entries.get(message.event_id)
        if known:
            return self._repeat(known, now_ms)
        if isinstance(message, PaymentSuccess) and message.currency != "IDR":
            return self._answer(message, "rejected", now_ms, reason="currency_not_spoken")
        if self._is_late(from_rfc3339(message.expires_at), now_ms):
            self._pass_over(message.seq)
            return self._answer(message, "stale_skipped", now_ms)
        if message.seq <= self._journal.memory.floor:
            return self._answer(message, "rejected", now_ms, reason="seq_below_floor")
        if not self._has_room_for(message, now_ms):
            return [Tell("turned_away", {"event_id": message.event_id, "seq": message.seq})]
        return self._take_in(message, now_ms)

    def _take_in(self, message: Announcement, now_ms: int) -> list[Action]:
        """Journal and ack are one record on the disk; only then does anything leave the box."""
        entry = Entry(message.event_id, message.seq)
        number = self._journal.memory.next_ack
        ack = self._ack_text(entry.event_id, "received", now_ms)
        self._journal.write(log.taken_in(entry, ack=ack, **self._takings(message)))
        self._turned_away.pop(message.seq, None)
        self._waiting.append(_Waiting(message, now_ms))
        # What lies below the floor would not be taken in any more, so nobody waits for it.
        self._next_seq = max(self._next_seq, self._journal.memory.floor + 1)
        self._skip_what_will_not_come()
        if isinstance(message, PaymentSuccess):
            self._show_if_paid(message, now_ms)
        gap = self._ask_missing(message.seq, now_ms)
        return [self._ack(number), Tell("announced", _facts(message)), *gap, *self._speak_next(now_ms)]

    def _takings(self, message: Announcement) -> dict[str, Any]:
        """What it adds to which day. A replay adds nothing, nor does a digest of more than one day."""
        if isinstance(message, PaymentSuccess):
            day, is_new = self._day(from_rfc3339(message.paid_at)), message.original_event_id is None
            return {"day": day, "amount_idr": message.amount if is_new else 0}
        day = self._day(from_rfc3339(message.to))
        within = day == self._day(from_rfc3339(message.from_))
        return {"day": day, "amount_idr": message.amount if within else 0, "count": message.count}

    def _show_if_paid(self, message: PaymentSuccess, now_ms: int) -> None:
        if self.screen.shows == "qr" and self.screen.transaction_id == message.transaction_id:
            self._show_paid(message.transaction_id, message.amount, now_ms)

    def _ask_missing(self, seq: int, now_ms: int) -> list[Action]:
        """The hub may still have what comes before this one. Asked once: who has no answer waits its two seconds."""
        known = {waiting.message.seq for waiting in self._waiting} | self._will_not_come | self._turned_away.keys()
        gap = [one for one in range(max(self._next_seq, self._missed_up_to + 1), seq) if one not in known]
        if not gap or not self.online:
            return []
        self._missed_up_to = gap[-1]
        message = PaymentMissing(**self._common(now_ms), from_seq=gap[0], to_seq=gap[-1])
        asked = Tell("missing", {"from_seq": gap[0], "to_seq": gap[-1]})
        return [Publish(uplink(self.device_id, Uplink.PAYMENT_MISSING), encode(message)), asked]

    def _skip(self, skip: PaymentSkip, now_ms: int) -> list[Action]:
        """Nobody waits for these any more. What comes all the same is taken in as ever."""
        last = min(skip.to_seq, self._next_seq + log.WINDOW - 1)
        self._will_not_come |= set(range(max(skip.from_seq, self._next_seq), last + 1))
        self._skip_what_will_not_come()
        told = Tell("skipped", {"from_seq": skip.from_seq, "to_seq": skip.to_seq})
        return [told, *self._speak_next(now_ms)]

    def _repeat(self, known: Entry, now_ms: int) -> list[Action]:
        """A repeat is silent. It is told how the first one ended, because the hub may have lost that ack."""
        status = "duplicate" if known.status in ("received", "played") else known.status
        text = self._ack_text(known.event_id, status, now_ms, played_at_ms=known.played_at_ms, reason=known.reason)
        return [self._owe(text), Tell("duplicate", {"event_id": known.event_id, "seq": known.seq})]

    def _answer(self, message: Announcement, status: str, now_ms: int, *, reason: str | None = None) -> list[Action]:
        ack = self._owe(self._ack_text(message.event_id, status, now_ms, reason=reason))
        return [ack, Tell(status, {**_facts(message), "reason": reason})]

    def _has_room_for(self, message: Announcement, now_ms: int) -> bool:
        """A full box says nothing, so that the hub sends again. It also takes nothing so far ahead that the floor
        would pass a message it turned away and that may still come."""
        self._turned_away = {
            seq: expires_ms for seq, expires_ms in self._turned_away.items() if not self._is_late(expires_ms, now_ms)
        }
        first_outside = min(self._turned_away, default=message.seq)
        if len(self._waiting) < QUEUE and message.seq - log.WINDOW < first_outside:
            return True
        if len(self._turned_away) < log.WINDOW or message.seq < first_outside:
            self._turned_away[message.seq] = from_rfc3339(message.expires_at)
        return False

    # The buttons.

    @_logged
    def press_replay(self, now_ms: int) -> list[Action]:
        """Somebody did not hear it: the hub knows what the last payment was, and whether it still stands."""
        if not self.online:
            return [Tell("button_useless", {"button": "replay"})]
        return [self._event("button_replay", now_ms), Tell("button_replay")]

    @_logged
    def press_total(self, now_ms: int) -> list[Action]:
        """The day's total from the box's own journal, with or without a network. A box without a clock cannot tell
        that a day has ended."""
        if len(self._asides) >= QUEUE:
            return [Tell("button_useless", {"button": "total"})]
        kept, language = self.day_total(), self.language
        is_over = self._utc_offset_ms is not None and kept.day < self._day(self._utc(now_ms))
        told = (0, 0, language) if is_over else (kept.count, kept.total_idr, language)
        self._asides.append(Speak(None, None, total_sentence(*told), tuple(total_clips(*told)), language))
        noted = [self._event("button_total", now_ms, detail=f"{told[0]} {told[1]}")] if self.online else []
        facts = {"count": told[0], "amount": told[1]}
        return [*noted, Tell("button_total", facts), *self._speak_next(now_ms)]

    def _event(self, code: str, now_ms: int, *, detail: str | None = None) -> Publish:
        message = Event(**self._common(now_ms), code=code, level="info", detail=detail)
        return Publish(uplink(self.device_id, Uplink.EVENT), encode(message))

    # The configuration. What it does not name is as the box left the factory.

    def _configure(self, push: ConfigPush, raw: bytes, now_ms: int) -> list[Action]:
        """All of it or nothing, and never back to an older one."""
        known = self._configured
        if known and push.config_version < known.version:
            return self._refuse_config(push, "config_version: older than the one in force", now_ms)
        if known and push.config_version == known.version:
            if push.sha256 != known.sha256:
                return self._refuse_config(push, "sha256: another one of this version is in force", now_ms)
            return [self._owe(self._config_ack(push, now_ms))]
        try:
            wanted = read_config(push)
        except MalformedMessage as problem:
            return self._refuse_config(push, str(problem)[:64], now_ms)
        if wanted.template not in (None, *TEMPLATES):
            return self._refuse_config(push, "template: not one of this box", now_ms)
        number = self._journal.memory.next_ack
        kept = Configured(push.config_version, push.sha256, raw.decode())
        self._journal.write(log.configured(kept, ack=self._config_ack(push, now_ms)))
        self._config = wanted
        return [self._ack(number), Tell("configured", {"config_version": kept.version, "config": kept.raw})]

    def _refuse_config(self, push: ConfigPush, error: str, now_ms: int) -> list[Action]:
        refused = Tell("config_refused", {"config_version": push.config_version, "error": error})
        return [self._owe(self._config_ack(push, now_ms, error=error)), refused]

    def _config_ack(self, push: ConfigPush, now_ms: int, *, error: str | None = None) -> str:
        message = ConfigAck(
            **self._common(now_ms),
            config_version=push.config_version,
            status="rejected" if error else "applied",
            sha256=push.sha256,
            errors=[error] if error else None,
        )
        return encode(message).decode()

    @property
    def _configured(self) -> Configured | None:
        return self._journal.memory.config

    @property
    def language(self) -> Language:
        return self._config.language or self.settings.language

    @property
    def heartbeat_s(self) -> int | None:
        """How often the hub wants to hear of the box; None: as it left the factory."""
        return self._config.heartbeat_s

    def volume(self, now_ms: int) -> int:
        """How loud it speaks now: a command's wish goes before the configuration's, and quiet hours before both."""
        wished = (self._journal.memory.volume, self._config.volume, self.settings.volume)
        volume = next(one for one in wished if one is not None)
        quiet = self._config.quiet_hours
        return min(volume, quiet.volume) if quiet and self._is_within(quiet, now_ms) else volume

    def _is_within(self, quiet: QuietHours, now_ms: int) -> bool:
        if self._utc_offset_ms is None:  # It does not know what time it is.
            return False
        now = self._local(self._utc(now_ms)).strftime("%H:%M")
        if quiet.start < quiet.end:
            return quiet.start <= now < quiet.end
        return now >= quiet.start or now < quiet.end

    # Commands.

    def _command(self, command: Command, now_ms: int) -> list[Action]:
        if known := self._journal.memory.orders.get(command.command_id):
            return [self._report(known, now_ms)]
        if self._is_late(from_rfc3339(command.expires_at), now_ms):
            return self._refuse(command, "expired", now_ms)
        if command.command_name not in COMMANDS:
            return self._refuse(command, "unsupported", now_ms)
        try:
            payload = read_payload(COMMANDS[command.command_name], command.payload)
        except MalformedMessage:
            return self._refuse(command, "malformed_payload", now_ms)
        if len(self._asides) >= QUEUE:
            return self._refuse(command, "busy", now_ms)
        issued_ms = from_rfc3339(command.issued_at)
        if isinstance(payload, SetVolume) and issued_ms < self._journal.memory.volume_ordered_ms:
            return self._refuse(command, "superseded", now_ms)  # It was overtaken on its way.
        delivered = self._report(Order(command.command_id, name=command.command_name), now_ms)
        told = Tell("command", {"command_id": command.command_id, "command_name": command.command_name})
        return [delivered, told, *self._carry_out(command.command_id, payload, issued_ms, now_ms)]

    def _carry_out(self, command_id: str, payload: Any, issued_ms: int, now_ms: int) -> list[Action]:
        """By what the payload is: every command has a model of its own."""
        if isinstance(payload, SpeakCode | PlayTest | Identify | DailyTotal):
            self._asides.append(self._aside(command_id, payload))
            return self._speak_next(now_ms)
        if isinstance(payload, SetVolume):
            self._journal.write(log.volume_set(payload.volume, ordered_ms=issued_ms))
            return self._succeed(command_id, now_ms, {"volume": payload.volume})
        if isinstance(payload, TailLog):
            self._tail = _Tail(payload.level, until_ms=now_ms + payload.for_s * 1000, since_ms=now_ms)
            return self._succeed(command_id, now_ms)
        if isinstance(payload, UploadLog) and payload.whole:
            return [SendLog(command_id, "".join(f"{line}\n" for line in self.log).encode())]
        if isinstance(payload, UploadLog):
            return self._succeed(command_id, now_ms, {"lines": self._last_lines(payload.lines)})
        if isinstance(payload, RefreshConfig):
            known = self._configured
            in_force = {"config_version": known.version, "config_sha256": known.sha256} if known else {}
            return [Listen(), *self._succeed(command_id, now_ms, in_force)]
        if isinstance(payload, Reboot | FactoryReset):
            return [Restart()]  # It is done when the box is back.
        if isinstance(payload, RotateCredential):
            if self._keep is None:
                return self._end_command(Order(command_id, "failed", "unsupported"), now_ms)
            self._rotation = command_id
            return self.ask_credential(now_ms)
        raise TypeError(f"{type(payload).__name__} is no command's payload")

    def _aside(self, command_id: str, payload: SpeakCode | PlayTest | Identify | DailyTotal) -> Speak:
        language = self.language
        if isinstance(payload, SpeakCode):
            sentence, clips = code_sentence(payload.code, language), code_clips(payload.code, language)
        elif isinstance(payload, DailyTotal):
            told = (payload.count, payload.amount, language)
            sentence, clips = total_sentence(*told), total_clips(*told)
        elif isinstance(payload, Identify):
            sentence, clips = here_sentence(language), here_clips(language)
        else:
            sentence, clips = sound_test_sentence(language), sound_test_clips(language)
        return Speak(command_id, None, sentence, tuple(clips), language)

    def _last_lines(self, most: int) -> list[str]:
        """The newest, as many as fit into an ack."""
        lines, size = list(self.log)[-min(most, LOG_LINES) :], LOG_BYTES
        while lines and len(json.dumps(lines, ensure_ascii=False).encode()) > size:
            del lines[0]
        return lines

    @_logged
    def log_sent(self, command_id: str, sha256: str, size: int, problem: str | None, now_ms: int) -> list[Action]:
        """The hub has the whole log, or not, and why."""
        if problem is not None:
            return self._end_command(Order(command_id, "failed", problem[:64]), now_ms)
        return self._succeed(command_id, now_ms, {"bytes": size, "sha256": sha256})

    def live_line(self, told: Tell, now_ms: int) -> list[Publish]:
        """What the box tells, for whoever listens to its log right now."""
        tail, level = self._tail, GRAVE.get(told.what, "info")
        if tail is None or not self.online or GRAVITY[level] < GRAVITY[tail.level]:
            return []
        if now_ms >= tail.until_ms:
            self._tail = None
            return []
        if now_ms - tail.since_ms >= TAIL_EVERY_MS:
            tail.since_ms, tail.sent = now_ms, 0
        tail.sent += 1
        if tail.sent > TAIL_LINES:
            return []
        code = told.what if re.fullmatch("[a-z][a-z0-9_]{0,31}", told.what) else None
        message = Log(**self._common(now_ms), level=level, code=code, detail=_said(told)[:LOG_LINE] or told.what)
        return [Publish(uplink(self.device_id, Uplink.LOG), encode(message), qos=0)]

    def _refuse(self, command: Command | DynamicQrDisplay, reason: str, now_ms: int) -> list[Action]:
        return self._end_command(Order(str(command.command_id), "rejected", reason), now_ms)

    def _succeed(self, command_id: str, now_ms: int, result: dict[str, Any] | None = None) -> list[Action]:
        return self._end_command(Order(command_id, "succeeded"), now_ms, result=result)

    def _end_command(self, order: Order, now_ms: int, *, result: dict[str, Any] | None = None) -> list[Action]:
        facts = {"command_id": order.command_id, "status": order.status, "reason": order.reason}
        return [self._report(order, now_ms, result=result), Tell("command_ended", facts)]

    def _report(self, order: Order, now_ms: int, *, result: dict[str, Any] | None = None) -> Publish:
        """What became of a command, in the journal before the ack leaves."""
        message = CommandAck(
            **self._common(now_ms),
            command_id=order.command_id,
            status=order.status,
            reason=order.reason,
            result_payload=result,
        )
        number = self._journal.memory.next_ack
        self._journal.write(log.ordered(order, ack=encode(message).decode()))
        return self._ack(number)

    # The credential.

    def ask_credential(self, now_ms: int, *, confirm: str | None = None) -> list[Action]:
        """Ask for a new one; with `confirm`, say that this one is kept, again if need be."""
        self._credential_asked = self._token()
        message = CredentialRequest(**self._common(now_ms), request_id=self._credential_asked, confirm=confirm)
        return [Publish(uplink(self.device_id, Uplink.CREDENTIAL_REQUEST), encode(message))]

    def _credential(self, message: CredentialResponse, topic: str, body: bytes, now_ms: int) -> list[Action]:
        if message.correlation_id != self._credential_asked or self._keep is None:
            return [Tell("ignored", {"correlation_id": message.correlation_id})]
        self._credential_asked = None
        if message.status == "issued":
            return self._keep_credential(str(message.credential_id), topic, body, now_ms)
        confirmed = message.status == "confirmed"
        facts = {"credential_id": message.credential_id, "error_code": message.error_code}
        told = Tell("rotation_confirmed" if confirmed else "rotation_refused", facts)
        return [told, *self._end_rotation("succeeded" if confirmed else "failed", message.error_code, now_ms)]

    def _keep_credential(self, credential_id: str, topic: str, body: bytes, now_ms: int) -> list[Action]:
        """On the disk before the hub hears of it: from then on it may swap the broker's password at any moment."""
        assert self._keep is not None
        try:
            token, password = unpacked_credential(unseal(credential_key(self._key), topic, body)[1])
        except (CannotOpen, ValueError) as problem:
            return self._complain("malformed_message", f"credential/response: {problem}"[:100], now_ms)
        self._keep(NewCredential(credential_id, token, password))
        stored = Tell("credential_stored", {"credential_id": credential_id})
        return [stored, *self.ask_credential(now_ms, confirm=credential_id)]

    def _end_rotation(self, status: log.CommandStatus, reason: str | None, now_ms: int) -> list[Action]:
        command_id, self._rotation = self._rotation, None
        return [] if command_id is None else self._end_command(Order(command_id, status, reason), now_ms)

    # The speaker: one at a time, in the order of the payments.

    def _speak_next(self, now_ms: int) -> list[Action]:
        actions: list[Action] = []
        while self._speaking is None:
            if self._notice_due:
                self._notice_due = False
                actions.append(self._say_notice(now_ms))
                break
            if self._asides:  # Before the payments: somebody stands there and listens.
                self._said, self._speaking = None, replace(self._asides.popleft(), volume=self.volume(now_ms))
                actions.append(self._speaking)
                break
            message = self._next_to_speak(now_ms)
            if message is None:
                break
            actions += self._say(message, now_ms)
        return actions

    def _next_to_speak(self, now_ms: int) -> Announcement | None:
        """The lowest seq, once nothing before it is missing or somebody has waited long enough for what is."""
        if not self._waiting:
            return None
        first = min(self._waiting, key=lambda waiting: waiting.message.seq)
        patience_is_over = any(now_ms - waiting.arrived_ms >= ORDER_WAIT_MS for waiting in self._waiting)
        if first.message.seq > self._next_seq and not patience_is_over and len(self._waiting) < QUEUE:
            return None
        self._waiting.remove(first)
        return first.message

    def _say(self, message: Announcement, now_ms: int) -> list[Action]:
        self._next_seq = max(self._next_seq, message.seq + 1)
        self._skip_what_will_not_come()
        if self._is_late(from_rfc3339(message.expires_at), now_ms):  # It grew old while it waited its turn.
            entry = Entry(message.event_id, message.seq, status="stale_skipped")
            return [self._settle(entry, now_ms), Tell("stale_skipped", _facts(message))]
        sentence, clips = self._worded(message)
        self._said = message
        self._speaking = Speak(
            event_id=message.event_id,
            seq=message.seq,
            sentence=sentence,
            clips=tuple(clips),
            language=self.language,
            volume=self.volume(now_ms),
        )
        return [self._speaking]

    def _worded(self, message: Announcement) -> tuple[str, list[str]]:
        language = self.language
        if isinstance(message, PaymentDigest):
            told = (message.count, message.amount, language)
            return digest_sentence(*told), digest_clips(*told)
        is_replay = message.original_event_id is not None
        name = message.merchant_name if self._config.template == "merchant" else None
        sentence = payment_sentence(message.amount, language, merchant_name=name, replay=is_replay)
        return sentence, payment_clips(message.amount, language, replay=is_replay)

    def _say_notice(self, now_ms: int) -> Speak:
        language = self.language
        self._said = None
        self._speaking = Speak(None, None, NETWORK_LOST[language], (), language, self.volume(now_ms))
        return self._speaking

    @_logged
    def spoken(self, event_id: str | None, now_ms: int, *, wav: str | None = None) -> list[Action]:
        """The speaker has finished. Marked in the journal before the ack leaves."""
        speech, message = self._finish(event_id)
        self._audio_fault = False
        if message is None:
            ended = self._aside_was_spoken(speech, wav, now_ms) if speech.event_id is not None else []
            return [*ended, *self._speak_next(now_ms)]
        played_at_ms = self._utc(now_ms)
        entry = Entry(message.event_id, message.seq, status="played", played_at_ms=played_at_ms)
        played = Tell("played", {**_facts(message), "played_at": _stamp(played_at_ms), "wav": wav})
        return [self._settle(entry, now_ms), played, *self._speak_next(now_ms)]

    @_logged
    def not_spoken(self, event_id: str | None, now_ms: int, *, problem: str) -> list[Action]:
        """The speaker failed for good. The operator hears of it; the payment is not announced twice instead."""
        speech, message = self._finish(event_id)
        self._audio_fault = True
        actions: list[Action] = []
        if message is not None:
            actions.append(self._settle(_failed(Entry(message.event_id, message.seq), "audio_fault"), now_ms))
        elif speech.event_id is not None:
            actions += self._end_command(Order(speech.event_id, "failed", "audio_fault"), now_ms)
        actions += self._complain("audio_fault", problem[:100], now_ms)
        return actions + self._speak_next(now_ms)

    def _aside_was_spoken(self, speech: Speak, wav: str | None, now_ms: int) -> list[Action]:
        what = "code_spoken" if speech.clips[0] in _CODE_CLIPS else "command_spoken"
        told = Tell(what, {"command_id": speech.event_id, "sentence": speech.sentence, "wav": wav})
        return [*self._succeed(str(speech.event_id), now_ms), told]

    def _finish(self, event_id: str | None) -> tuple[Speak, Announcement | None]:
        if self._speaking is None or self._speaking.event_id != event_id:
            raise ValueError(f"the box is not speaking {event_id}")
        speech, message = self._speaking, self._said
        self._speaking, self._said = None, None
        return speech, message

    def _pass_over(self, seq: int) -> None:
        """This one will not be spoken, so nobody needs to wait for it."""
        if self._next_seq <= seq < self._next_seq + log.WINDOW:
            self._will_not_come.add(seq)
        self._skip_what_will_not_come()

    def _skip_what_will_not_come(self) -> None:
        while self._next_seq in self._will_not_come:
            self._next_seq += 1
        self._will_not_come = {seq for seq in self._will_not_come if seq > self._next_seq}

    # The clock.

    def _utc(self, now_ms: int) -> int:
        return now_ms + (self._utc_offset_ms or 0)

    def _is_late(self, expires_ms: int, now_ms: int) -> bool:
        return self._utc(now_ms) > expires_ms + SKEW_MS

    def _cannot_judge(self, message: Any, now_ms: int) -> bool:
        """Without a clock nothing can be judged. A clock of our own that the hub has not confirmed in this session is
        believed when the message looks fresh; when it looks late, or made in the future, either may be wrong."""
        if self._utc_offset_ms is None:
            return True
        if self._clock_confirmed:
            return False
        expires_at, issued_at = getattr(message, "expires_at", None), getattr(message, "issued_at", None)
        looks_late = expires_at is not None and self._is_late(from_rfc3339(expires_at), now_ms)
        looks_early = issued_at is not None and from_rfc3339(issued_at) > self._utc(now_ms) + SKEW_MS
        return looks_late or looks_early

    def _hold(self, topic: str, payload: bytes, now_ms: int) -> list[Action]:
        """Wait for the time. More than eight are dropped: they were not acked, so the hub sends them again."""
        if (topic, payload) not in self._held and len(self._held) < QUEUE:
            self._held.append((topic, payload))
        return [Tell("waits_for_time", {"held": len(self._held)}), *self._ask_time_again(now_ms)]

    def _ask_time(self, now_ms: int) -> list[Action]:
        self._time_nonce, self._time_asked_ms = self._token(), now_ms
        message = TimeRequest(**self._common(now_ms), nonce=self._time_nonce)
        return [Publish(uplink(self.device_id, Uplink.TIME_REQUEST), encode(message))]

    def _ask_time_again(self, now_ms: int) -> list[Action]:
        due = self._time_nonce is None or now_ms - self._time_asked_ms >= TIME_AGAIN_MS
        return self._ask_time(now_ms) if due and self.online else []

    def _set_clock(self, message: Time, now_ms: int) -> list[Action]:
        """Only the answer to the last question counts: an old one, kept and replayed, would turn the clock back."""
        if message.nonce != self._time_nonce:
            return [Tell("ignored", {"nonce": message.nonce})]
        self._time_nonce = None
        server_ms = from_rfc3339(message.server_time)
        self._clock_skew_ms = 0 if self._utc_offset_ms is None else self._utc(now_ms) - server_ms
        if self._utc_offset_ms is None or abs(self._clock_skew_ms) > CLOCK_IS_GOOD_MS:
            self._utc_offset_ms = server_ms - now_ms
        self._clock_confirmed = True
        actions: list[Action] = [Tell("clock_set", {"skew_ms": self._clock_skew_ms})]
        held, self._held = self._held, deque()
        for topic, payload in held:
            actions += self._hear(topic, payload, now_ms)
        return actions

    @_logged
    def ask_time(self, now_ms: int) -> list[Action]:
        """Once more: the answer to the birth's question has not come."""
        return self._ask_time(now_ms)

    def utc_ms(self, now_ms: int) -> int:
        """What the box believes the time to be."""
        return self._utc(now_ms)

    def _local(self, utc_ms: int) -> datetime:
        minutes = self._config.utc_offset_min
        return datetime.fromtimestamp(utc_ms / 1000, UTC) + timedelta(
            minutes=self.settings.utc_offset_minutes if minutes is None else minutes
        )

    def _day(self, utc_ms: int) -> str:
        return self._local(utc_ms).date().isoformat()

    # The QR.

    def ask_qr(self, amount_idr: int, now_ms: int) -> list[Action]:
        """The merchant typed an amount. A new question replaces the one before. ValueError without a terminal."""
        if self.settings.terminal_id is None:
            raise ValueError("a box that belongs to no terminal cannot ask for a QR")
        self._asked = _Asked(self._token(), amount_idr, now_ms)
        message = DynamicQrRequest(
            **self._common(now_ms),
            request_id=self._asked.request_id,
            terminal_id=self.settings.terminal_id,
            amount=amount_idr,
            currency="IDR",
            created_at=_stamp(self._utc(now_ms)),
        )
        asked = Tell("qr_asked", {"request_id": self._asked.request_id, "amount": amount_idr})
        return [Publish(uplink(self.device_id, Uplink.DYNAMIC_QR_REQUEST), encode(message)), asked]

    def _qr_answer(self, message: DynamicQrResponse, now_ms: int) -> list[Action]:
        asked = self._asked
        if asked is None or message.correlation_id != asked.request_id:
            return [Tell("ignored", {"correlation_id": message.correlation_id})]
        self._asked = None
        if message.status != "success" or message.qr_payload is None or message.expires_at is None:
            return [Tell("qr_failed", {"request_id": asked.request_id, "error_code": message.error_code})]
        return self._show_qr(message.transaction_id, message.qr_payload, asked.amount_idr, message.expires_at, now_ms)

    def _display(self, message: DynamicQrDisplay, now_ms: int) -> list[Action]:
        if message.command_id is not None:
            return self._display_by_command(message, message.command_id, now_ms)
        if message.action == "show":
            return self._show_on_request(message, now_ms)
        if self.screen.transaction_id != message.transaction_id:
            return []  # The customer is looking at another payment by now.
        if message.action == "paid":
            amount_idr = message.amount if message.amount is not None else self.screen.amount_idr
            self._show_paid(message.transaction_id, amount_idr, now_ms)
            return [Tell("qr_paid", {"transaction_id": message.transaction_id})]
        self.screen = Screen()
        return [Tell(f"qr_{_DONE[message.action]}", {"transaction_id": message.transaction_id})]

    def _display_by_command(self, message: DynamicQrDisplay, command_id: str, now_ms: int) -> list[Action]:
        if known := self._journal.memory.orders.get(command_id):
            return [self._report(known, now_ms)]
        if self._is_late(from_rfc3339(str(message.expires_at)), now_ms):
            return self._refuse(message, "expired", now_ms)
        if message.action == "clear":
            self.screen = Screen()
            return [*self._succeed(command_id, now_ms), Tell("qr_cleared", {"command_id": command_id})]
        shown = self._show_on_request(message, now_ms)
        if self.screen.qr_payload != message.qr_payload:
            return [*self._refuse(message, "expired", now_ms), *shown]
        return [*self._succeed(command_id, now_ms), *shown]

    def _show_on_request(self, message: DynamicQrDisplay, now_ms: int) -> list[Action]:
        if message.qr_payload is None or message.expires_at is None:  # Nobody would ever take it off the display.
            return [Tell("ignored", {"transaction_id": message.transaction_id})]
        return self._show_qr(message.transaction_id, message.qr_payload, message.amount, message.expires_at, now_ms)

    def _show_qr(
        self, transaction_id: str | None, qr_payload: str, amount_idr: int | None, expires_at: str, now_ms: int
    ) -> list[Action]:
        expires_ms = from_rfc3339(expires_at)
        facts = {"transaction_id": transaction_id, "amount": amount_idr, "expires_at": expires_at}
        if self._utc(now_ms) >= expires_ms:
            return [Tell("qr_expired", facts)]
        self.screen = Screen("qr", transaction_id, amount_idr, qr_payload, expires_ms)
        return [Tell("qr_shown", {**facts, "qr_payload": qr_payload})]

    def _show_paid(self, transaction_id: str | None, amount_idr: int | None, now_ms: int) -> None:
        self.screen = Screen("paid", transaction_id, amount_idr, until_ms=self._utc(now_ms) + PAID_SCREEN_MS)

    # Time passing.

    @_logged
    def tick(self, now_ms: int) -> list[Action]:
        """Do what has become due. Calling it too often does nothing."""
        actions = self._speak_next(now_ms)
        if self.screen.until_ms is not None and self._utc(now_ms) >= self.screen.until_ms:
            if self.screen.shows == "qr":
                actions.append(Tell("qr_expired", {"transaction_id": self.screen.transaction_id}))
            self.screen = Screen()
        if self._asked is not None and now_ms - self._asked.asked_ms >= QR_ANSWER_MS:
            actions.append(Tell("qr_failed", {"request_id": self._asked.request_id, "error_code": "NO_ANSWER"}))
            self._asked = None
        if self.online and now_ms >= self._next_question_ms():
            actions += self._ask_time_again(now_ms)
        return actions

    def due_ms(self) -> int | None:
        """When `tick` will next have something to do, in the counter of `now_ms`; None: not before something comes."""
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> Iterator[int]:
        if self._speaking is None and self._waiting:
            yield min(waiting.arrived_ms for waiting in self._waiting) + ORDER_WAIT_MS
        if self.screen.until_ms is not None:
            yield self.screen.until_ms - (self._utc_offset_ms or 0)
        if self._asked is not None:
            yield self._asked.asked_ms + QR_ANSWER_MS
        if self.online:
            yield self._next_question_ms()

    def _next_question_ms(self) -> int:
        """When the time is asked for next, unless the broker's connection is lost and found before."""
        if self._waits_for_time():
            return self._time_asked_ms + TIME_AGAIN_MS
        return self._time_asked_ms + (TIME_EVERY_MS if self._time_nonce is None else TIME_UNANSWERED_MS)

    def _waits_for_time(self) -> bool:
        return self.online and (self._utc_offset_ms is None or bool(self._held))

    # Uplinks.

    @property
    def _epoch(self) -> int:
        return self._journal.memory.session_epoch

    def _common(self, now_ms: int) -> dict[str, Any]:
        return {"device_id": self.device_id, "timestamp": _stamp(self._utc(now_ms))}

    def _status(self, state: Literal["online", "offline"], now_ms: int) -> Publish:
        message = Status(
            **self._common(now_ms),
            state=state,
            session_epoch=self._epoch,
            firmware_version=self.settings.firmware_version,
            capabilities=Capabilities(
                max_payload_bytes=MAX_PAYLOAD_BYTES,
                tts=True,
                clips=True,
                command_progress=True,
                clock=self.settings.has_clock,
            ),
            last_announcement_seq=self._journal.memory.highest_seq,
            config_version=self._configured.version if self._configured else None,
            config_sha256=self._configured.sha256 if self._configured else None,
            reset_reason="reconnect" if self._births else "power_on",
        )
        return Publish(uplink(self.device_id, Uplink.STATUS), encode(message), retain=True)

    def _state(self) -> Literal["idle", "playing", "qr", "fault"]:
        if self._audio_fault:
            return "fault"
        if self._speaking is not None:
            return "playing"
        return "qr" if self.screen.shows == "qr" else "idle"

    def _complain(self, code: str, detail: str, now_ms: int) -> list[Action]:
        told = Tell(code, {"detail": detail})
        last_ms = self._last_events_ms.get(code)
        if last_ms is not None and now_ms - last_ms < EVENT_EVERY_MS:
            return [told]
        self._last_events_ms[code] = now_ms
        message = Event(**self._common(now_ms), code=code, level="warning", detail=detail)
        return [Publish(uplink(self.device_id, Uplink.EVENT), encode(message)), told]

    def _ack_text(
        self,
        event_id: str,
        status: Any,
        now_ms: int,
        *,
        played_at_ms: int | None = None,
        reason: str | None = None,
    ) -> str:
        played_at = None if played_at_ms is None else _stamp(played_at_ms)
        message = PaymentAck(
            **self._common(now_ms), event_id=event_id, status=status, played_at=played_at, reason=reason
        )
        return encode(message).decode()

    def _settle(self, entry: Entry, now_ms: int) -> Publish:
        """How it ended, and the ack that says so, as one record."""
        number = self._journal.memory.next_ack
        text = self._ack_text(
            entry.event_id, entry.status, now_ms, played_at_ms=entry.played_at_ms, reason=entry.reason
        )
        self._journal.write(log.settled(entry, ack=text))
        return self._ack(number)

    def _owe(self, text: str) -> Publish:
        number = self._journal.memory.next_ack
        self._journal.write(log.answered(text))
        return self._ack(number)

    def _ack(self, number: int) -> Publish:
        text = self._journal.memory.unsent_acks[number]
        channel = _ACKS[json.loads(text)["message_type"]]
        return Publish(uplink(self.device_id, channel), text.encode(), ack=number)


_ACKS = {"payment_ack": Uplink.PAYMENT_ACK, "command_ack": Uplink.COMMAND_ACK, "config_ack": Uplink.CONFIG_ACK}
_CODE_CLIPS = ("id/kode", "en/code")
_DONE = {"clear": "cleared", "expired": "expired"}


def _failed(entry: Entry, reason: str) -> Entry:
    return Entry(entry.event_id, entry.seq, status="failed", reason=reason)


def _facts(message: Announcement) -> dict[str, Any]:
    facts = {"event_id": message.event_id, "seq": message.seq, "amount": message.amount}
    if isinstance(message, PaymentDigest):
        return {**facts, "count": message.count}
    return {**facts, "transaction_id": message.transaction_id}


def _stamp(utc_ms: int) -> str:
    """RFC 3339 with milliseconds: whole seconds would hide how fast an announcement was."""
    return f"{to_rfc3339(utc_ms)[:-1]}.{utc_ms % 1000:03d}Z"


def _in_force(config: Configured | None) -> BoxConfig:
    return BoxConfig() if config is None else BoxConfig.model_validate_json(config.raw)


def _line(told: Tell, utc_ms: int) -> str:
    """A line of the log. What is to be heard at the box is not to be read elsewhere."""
    return f"{_stamp(utc_ms)} {told.what} {_said(told)}".rstrip()[:LOG_LINE]


def _said(told: Tell) -> str:
    facts = {} if told.what == "code_spoken" else told.facts
    return " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
