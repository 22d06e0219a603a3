"""Whatever the network, the hub and the power do: at most once, never forged, never late, and in order."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from soundbox_protocol.messages import PaymentSkip, PaymentSuccess, Time, encode
from soundbox_protocol.signing import sign
from soundbox_protocol.speech import payment_sentence
from soundbox_protocol.times import from_rfc3339, to_rfc3339
from soundbox_protocol.topics import Downlink, downlink
from soundbox_sim.box import ORDER_WAIT_MS, SKEW_MS, Action, Box, Publish, Speak
from soundbox_sim.journal import WINDOW, Journal

DEVICE, KEY, FORGED = "dev_01k0000000000000000000000", bytes(range(32)), bytes(32)
START = 1_779_530_400_000
TOPIC = downlink(DEVICE, Downlink.PAYMENT_SUCCESS)
LIFE_MS = 60_000


class AnyOrder(RuleBasedStateMachine):
    """A hub that numbers and signs, a network that loses, repeats and reorders, a plug that is pulled."""

    on_the_way = Bundle("on_the_way")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="box-"))
        self.now = START
        self.seq = 0
        self.nonces = 0
        self.genuine: dict[str, PaymentSuccess] = {}
        self.arrived_ms: dict[str, int] = {}
        self.acked: dict[str, list[str]] = {}
        self.acks_seen: set[bytes] = set()
        self.said: list[str] = []
        self.speaking: Speak | None = None
        self.waiting: set[str] = set()
        self.boot()

    def teardown(self) -> None:
        self.box.power_off()
        shutil.rmtree(self.folder)

    def boot(self) -> None:
        self.journal = Journal(self.folder, fsync=lambda _file: None)
        self.box = Box(
            DEVICE,
            KEY,
            self.journal,
            account="one",
            now_ms=self.now,
            token=self.token,
        )
        unmarked = self.waiting | ({self.speaking.event_id} if self.speaking else set())
        self.speaking = None
        self.waiting.clear()
        self.take(self.box.boot(self.now))
        self.reconnect()
        for event_id in unmarked - {None}:
            assert self.acked[event_id][-1] == "failed", "taken in, cut off, and never reported"

    def reconnect(self) -> None:
        self.box.connect(self.now)
        self.note_repeated_acks(self.box.birth(self.now))
        time = encode(Time(server_time=to_rfc3339(self.now), nonce=f"t{self.nonces}"))
        topic = downlink(DEVICE, Downlink.TIME)
        self.take(self.box.hear(topic, sign(KEY, topic, time), self.now))

    def note_repeated_acks(self, actions: list[Action]) -> None:
        for ack in (action for action in actions if isinstance(action, Publish) and action.ack):
            if ack.payload not in self.acks_seen:
                assert b'"reason":"interrupted"' in ack.payload
                self.note_ack(ack)

    def token(self) -> str:
        self.nonces += 1
        return f"t{self.nonces}"

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Speak):
                self.hear_it_spoken(action)
            elif isinstance(action, Publish) and action.topic.endswith("/payment/ack"):
                self.note_ack(action)

    def hear_it_spoken(self, speech: Speak) -> None:
        assert self.speaking is None, "two sentences at once"
        self.speaking = speech
        if speech.event_id is None:
            return
        message = self.genuine[speech.event_id]  # A KeyError here is a forged payment.
        assert speech.sentence == payment_sentence(message.amount, "id"), "another amount than the hub's"
        assert speech.event_id not in self.said, "spoken twice"
        assert self.now <= from_rfc3339(message.expires_at) + SKEW_MS, "spoken late"
        assert "received" in self.acked.get(speech.event_id, []), "spoken before it was journaled and acked"
        earlier = {event_id for event_id in self.waiting if self.genuine[event_id].seq < message.seq}
        assert not earlier, "a lower number was waiting"
        self.said.append(speech.event_id)
        self.waiting.discard(speech.event_id)

    def note_ack(self, ack: Publish) -> None:
        self.acks_seen.add(ack.payload)
        text = ack.payload.decode()
        event_id = text.split('"event_id":"')[1].split('"')[0]
        status = text.split('"status":"')[1].split('"')[0]
        self.acked.setdefault(event_id, []).append(status)
        if status == "received":
            self.waiting.add(event_id)
        if status == "stale_skipped":
            self.waiting.discard(event_id)
        if status == "played":
            assert event_id in self.said, "reported as played and never spoken"

    @rule(target=on_the_way, gap=st.integers(0, 3), old_ms=st.sampled_from([0, 0, 0, 70_000, 95_000]))
    def a_payment_is_made(self, gap: int, old_ms: int) -> bytes:
        return self.make_payment(gap, old_ms)

    @rule(data=st.data(), gaps=st.lists(st.integers(0, 1), min_size=2, max_size=4))
    def a_burst_arrives_in_any_order(self, data: st.DataObject, gaps: list[int]) -> None:
        burst = [self.make_payment(gap, 0) for gap in gaps]
        for payload in data.draw(st.permutations(burst)):
            self.deliver(payload)

    @precondition(lambda self: self.speaking is None and not self.waiting)
    @rule(target=on_the_way)
    def a_good_hour_passes_through_the_ring(self) -> bytes:
        """More payments than the ring holds ids; the first of them stays on the way, to come again."""
        payloads = [self.make_payment(0, 0) for _ in range(WINDOW + 2)]
        for payload in payloads:
            self.deliver(payload)
            self.finish(1)
            self.time_passes(ORDER_WAIT_MS)
            self.finish(1)
        return payloads[0]

    def make_payment(self, gap: int, old_ms: int) -> bytes:
        self.seq += 1 + gap
        issued = self.now - old_ms
        message = PaymentSuccess(
            event_id=f"ann_{self.seq}",
            transaction_id=f"txn_{self.seq}",
            seq=self.seq,
            merchant_name="Warung",
            amount=self.seq,
            currency="IDR",
            paid_at=to_rfc3339(issued),
            issued_at=to_rfc3339(issued),
            expires_at=to_rfc3339(issued + LIFE_MS),
        )
        self.genuine[message.event_id] = message
        return sign(KEY, TOPIC, encode(message))

    @precondition(lambda self: self.seq > len(self.genuine))
    @rule()
    def the_hub_says_what_will_not_come(self) -> None:
        known = {message.seq for message in self.genuine.values()}
        topic = downlink(DEVICE, Downlink.PAYMENT_SKIP)
        for seq in set(range(1, self.seq)) - known:
            self.take(self.box.hear(topic, sign(KEY, topic, encode(PaymentSkip(from_seq=seq, to_seq=seq))), self.now))

    @rule(target=on_the_way, payload=on_the_way, forge=st.sampled_from(["key", "amount", "id", "cut"]))
    def somebody_forges_it(self, payload: bytes, forge: str) -> bytes:
        forged = {
            "key": sign(FORGED, TOPIC, b'{"message_type":"payment_success","event_id":"ann_f","seq":1}'),
            "cut": payload[: len(payload) // 2],
            "amount": payload.replace(b'"amount":', b'"amount":9'),
            "id": payload.replace(b"ann_", b"ann_9"),
        }[forge]
        self.deliver(forged)
        return forged

    @rule(payloads=st.lists(on_the_way, min_size=1, max_size=6))
    def they_arrive_and_may_arrive_again(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            self.deliver(payload)

    @rule(payload=consumes(on_the_way))
    def it_is_lost(self, payload: bytes) -> None:
        pass

    def deliver(self, payload: bytes) -> None:
        self.take(self.box.hear(TOPIC, payload, self.now))

    @precondition(lambda self: self.speaking is not None)
    @rule(sentences=st.integers(1, 9))
    def the_speaker_finishes(self, sentences: int) -> None:
        self.finish(sentences)

    def finish(self, sentences: int) -> None:
        while self.speaking is not None and sentences > 0:
            speech, self.speaking = self.speaking, None
            self.take(self.box.spoken(speech.event_id, self.now))
            sentences -= 1

    @rule(ms=st.sampled_from([100, 1_000, 2_000, 31_000, 61_000]))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.take(self.box.tick(self.now))

    @rule()
    def the_plug_is_pulled(self) -> None:
        self.box.power_off()
        self.boot()

    @rule(target=on_the_way)
    def the_network_is_lost_and_found(self) -> object:
        self.take(self.box.lost(self.now, reason="gone"))
        self.reconnect()
        return multiple()

    @invariant()
    def nothing_waits_while_the_speaker_rests(self) -> None:
        if self.speaking is None and self.waiting:
            due = self.box.due_ms()
            assert due is not None
            assert due <= self.now + ORDER_WAIT_MS

    @invariant()
    def the_journal_stays_small(self) -> None:
        assert len(self.journal.memory.entries) <= WINDOW + 1
        assert len(self.journal.memory.unsent_acks) <= 32


AnyOrder.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
