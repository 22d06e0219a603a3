"""One box on the air: its session with the broker, its speaker and its clock, around the pure `Box`.

MQTT 3.1.1 with a persistent session; user name and client id are the device id. Whatever the box decides is on its disk
before it leaves here, so every task in this file may die at any line.
"""

import asyncio
import contextlib
import hashlib
import itertools
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import aiomqtt
import httpx

from soundbox_protocol.topics import downlink_filter
from soundbox_sim.activation import BrokerAddress
from soundbox_sim.box import Action, Box, Listen, Publish, Restart, SendLog, Speak, Tell
from soundbox_sim.faults import Faults, copies_in_ms
from soundbox_sim.naming import is_mqtt
from soundbox_sim.rotation import Keyring, RotationRefused, rotate
from soundbox_sim.tasks import end
from soundbox_sim.upload import send_log
from soundbox_sim.voice import AudioFault, Voice

INBOUND = 64  # More than that at once is dropped here and sent again by the hub.
OUTBOUND = 128
ANSWER_S = 10.0
DRAIN_S = 5.0
STEADY_S = 10.0  # A session this long was a good one: the next pause starts small again.
NOTHING_DUE_S = 3600.0
REFUSED_LOGIN = (4, 5, 134, 135)  # bad name or password, not authorised: in MQTT 3.1.1 and in MQTT 5

Air = asyncio.PriorityQueue[tuple[float, int, str, bytes]]  # Downlinks on their way: due, number, topic, payload.
_arrivals = itertools.count()

Watch = Callable[[Box, Tell], None]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: each pause is anything between nothing and a ceiling that doubles."""

    first_s: float = 1.0
    longest_s: float = 300.0

    def pause_s(self, attempt: int, random: Random) -> float:
        return random.uniform(0, min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30)))


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """How often the box shows that it lives, and whether over MQTT or, with `http_url`, over HTTP.

    `token` is for a box without a keyring, whose token never changes.
    """

    every_s: float = 30.0
    http_url: str | None = None
    token: str = ""


class Counter:
    """Milliseconds that only run forward, whatever happens to the computer's clock.

    A box with a clock starts at what it believes to be UTC, one without at zero.
    """

    def __init__(self, *, has_clock: bool = True, skew_ms: int = 0) -> None:
        self._start_ms = int(time.time() * 1000) + skew_ms if has_clock else 0
        self._started = time.monotonic()

    def __call__(self) -> int:
        return self._start_ms + int((time.monotonic() - self._started) * 1000)


class Radio:
    """Runs one box until it is told to stop.

    `power_on` reads the journal and makes the box: it is called again after each power cut. `watch` hears everything
    the box tells. `tls` is for the hub's HTTP, `broker_tls` for the broker. With a `keyring` the box can change its
    credential; without one `broker.password` is the only one it ever has. All calls into the box go through
    `_with_box`, one at a time and off the event loop, because the journal waits for the disk.
    """

    def __init__(
        self,
        power_on: Callable[[], Box],
        *,
        broker: BrokerAddress,
        voice: Voice,
        watch: Watch,
        now_ms: Callable[[], int],
        random: Random,
        faults: Faults | None = None,
        tls: ssl.SSLContext | None = None,
        broker_tls: ssl.SSLContext | None = None,
        heartbeats: Heartbeats | None = None,
        backoff: Backoff | None = None,
        keepalive_s: int = 30,
        keyring: Keyring | None = None,
    ) -> None:
        self._power_on, self._broker, self._voice, self._watch = power_on, broker, voice, watch
        self._now_ms, self._random, self._keepalive_s = now_ms, random, keepalive_s
        self._tls, self._broker_tls = tls, broker_tls
        self._faults, self._heartbeats = faults or Faults(), heartbeats or Heartbeats()
        self._backoff = backoff or Backoff()
        self._keyring, self._cut_rotation_at = keyring, self._faults.rotation_cut
        self._rotate_now, self._renewing = asyncio.Event(), False
        self._lock = asyncio.Lock()
        self._outbox: asyncio.Queue[Publish] = asyncio.Queue(OUTBOUND)
        self._utterances: asyncio.Queue[Speak] = asyncio.Queue()  # The box hands out one at a time.
        self._logs: asyncio.Queue[SendLog] = asyncio.Queue()
        self._changed, self._power_is_cut = asyncio.Event(), asyncio.Event()
        self._wire: socket.socket | None = None
        self._listen_again, self._restarting, self._configured = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.box: Box | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: then finish the sentence, say goodbye to the broker and return."""
        while not stop.is_set():
            box = await asyncio.to_thread(self._power_on)
            if self._keyring is not None:
                self._keyring.read_again()
            self._outbox, self._utterances = asyncio.Queue(OUTBOUND), asyncio.Queue()
            self._power_is_cut.clear()
            self._restarting.clear()
            self.box = box
            try:
                await self._with_box(box.boot)
                await self._on_power(box, stop)
            finally:
                async with self._lock:  # Nobody is inside the box, and nobody gets in any more.
                    self.box = None
                    box.power_off()

    def cut_power(self) -> None:
        """As if the plug were pulled: no goodbye, no mark in the journal, and the box boots again."""
        self._power_is_cut.set()
        if self._wire is not None:
            with contextlib.suppress(OSError):  # The other side hung up first.
                self._wire.shutdown(socket.SHUT_RDWR)

    def rotate_credential(self) -> None:
        """The hub wants the token and the broker password changed: in the background, and again until it is done."""
        self._rotate_now.set()

    async def ask_qr(self, amount_idr: int) -> bool:
        """The merchant typed an amount. False when there is no connection to ask over."""
        box = self.box
        if box is None or not box.online:
            return False
        await self._with_box(lambda now_ms: box.ask_qr(amount_idr, now_ms))
        return True

    async def press_replay(self) -> None:
        """Somebody wants to hear the last payment once more. Without power nothing happens."""
        if (box := self.box) is not None:
            await self._with_box(box.press_replay)

    async def press_total(self) -> None:
        """Somebody wants to hear the day's total."""
        if (box := self.box) is not None:
            await self._with_box(box.press_total)

    async def _on_power(self, box: Box, stop: asyncio.Event) -> None:
        own_life = (
            self._speak(box), self._follow_clock(box), self._beat(box), self._renew(box), self._restart_on_order(),
            self._send_logs(box),
            self._power_is_cut.wait(),
        )  # fmt: skip
        async with _running(*own_life) as parts, _running(self._stay_connected(box, stop)) as session:
            stopped = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([*parts, *session, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if stop.is_set():
                done, _ = await asyncio.wait(session, timeout=DRAIN_S + ANSWER_S)
            for part in done - {stopped}:
                part.result()  # A part that failed takes the box down; it does not limp on without a speaker.

    # Into the box and out of it.

    async def _with_box(self, call: Callable[[int], Sequence[Action]]) -> None:
        """Whoever waits here may be cancelled; the call and what follows from it stay together all the same, or the
        box would believe that it speaks while nobody heard what to say."""
        await asyncio.shield(asyncio.create_task(self._call(self.box, call)))

    async def _call(self, box: Box | None, call: Callable[[int], Sequence[Action]]) -> None:
        async with self._lock:
            if box is None or box is not self.box or self._power_is_cut.is_set():
                return
            self._carry_out(box, await asyncio.to_thread(call, self._now_ms()))

    def _carry_out(self, box: Box, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Tell):
                self._watch(box, action)
            elif isinstance(action, Speak):
                self._utter(action)
            elif isinstance(action, Listen):
                self._listen_again.set()
            elif isinstance(action, Restart):
                self._restarting.set()
            elif isinstance(action, SendLog):
                self._logs.put_nowait(action)
            else:
                self._post(box, action)
        self._changed.set()
        self._configured.set()

    def _utter(self, speech: Speak) -> None:
        if speech.event_id is not None and self._random.random() < self._faults.reboot:
            self.cut_power()
        else:
            self._utterances.put_nowait(speech)

    def _post(self, box: Box, message: Publish) -> None:
        if message.ack is not None and self._random.random() < self._faults.refuse_ack:
            self._watch(box, Tell("ack_refused", {"number": message.ack}))
        elif self._outbox.full():
            self._watch(box, Tell("uplink_dropped", {"topic": message.topic}))  # Acks are in the journal all the same.
        else:
            self._outbox.put_nowait(message)

    async def _restart_on_order(self) -> None:
        """The ack of the order leaves first, if there is a connection to leave by."""
        await self._restarting.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._outbox.join(), DRAIN_S)
        self.cut_power()
        await asyncio.Event().wait()

    async def _speak(self, box: Box) -> None:
        utterances = self._utterances
        while True:
            speech = await utterances.get()
            await self._with_box(await self._say(box, speech))
            utterances.task_done()

    async def _say(self, box: Box, speech: Speak) -> Callable[[int], Sequence[Action]]:
        try:
            wav = await self._voice.say(speech)
        except AudioFault as fault:
            return partial(box.not_spoken, speech.event_id, problem=str(fault))
        return partial(box.spoken, speech.event_id, wav=wav)

    async def _follow_clock(self, box: Box) -> None:
        while True:
            self._changed.clear()
            due_ms = box.due_ms()
            wait_s = NOTHING_DUE_S if due_ms is None else max(due_ms - self._now_ms(), 0) / 1000
            try:
                async with asyncio.timeout(wait_s):  # wait_for would forget a cancellation that meets a change
                    await self._changed.wait()
            except TimeoutError:
                await self._with_box(box.tick)

    async def _beat(self, box: Box) -> None:
        if self._heartbeats.http_url is not None:
            return await self._beat_over_http(box, self._heartbeats.http_url)
        while True:
            await self._until_next_beat(box)
            if box.online:
                await self._with_box(lambda now_ms: [box.heartbeat(now_ms)])

    async def _until_next_beat(self, box: Box) -> None:
        """Another interval takes effect while the old one runs."""
        last = time.monotonic()
        while (left_s := last + (box.heartbeat_s or self._heartbeats.every_s) - time.monotonic()) > 0:
            self._configured.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._configured.wait()

    async def _beat_over_http(self, box: Box, url: str) -> None:
        async with self._http() as client:
            while True:
                await self._until_next_beat(box)
                renewing = self._is_renewing
                try:
                    answer = await self._post_heartbeat(client, url, box.heartbeat(self._now_ms()).payload)
                    answer.raise_for_status()
                except httpx.HTTPError as problem:
                    self._watch(box, Tell("heartbeat_failed", {"reason": str(problem)}))
                else:
                    # An answer from before the end of a rotation asks for the one that has just been done.
                    if _asks_for_rotation(answer) and not (renewing or self._is_renewing):
                        self.rotate_credential()

    async def _post_heartbeat(self, client: httpx.AsyncClient, url: str, payload: bytes) -> httpx.Response:
        """With the token in force, and during a rotation with the next one when that is refused."""
        tokens = self._keyring.tokens if self._keyring is not None else (self._heartbeats.token,)
        for token in tokens:
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            answer = await client.post(url, content=payload, headers=headers)
            if answer.status_code != 401:
                break
        return answer

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=ANSWER_S, verify=self._tls or True)

    # The log.

    async def _send_logs(self, box: Box) -> None:
        while True:
            wanted = await self._logs.get()
            problem = await self._send_log(wanted)
            sha256 = hashlib.sha256(wanted.content).hexdigest()
            await self._with_box(partial(box.log_sent, wanted.command_id, sha256, len(wanted.content), problem))

    async def _send_log(self, wanted: SendLog) -> str | None:
        """None when the hub has it, or why not."""
        if self._keyring is None or is_mqtt(self._keyring.server):
            return "unsupported"
        try:
            async with self._http() as client:
                return await send_log(self._keyring, client, wanted.command_id, wanted.content)
        except httpx.HTTPError as problem:
            return f"unreachable: {type(problem).__name__}"

    # The credential.

    async def _renew(self, box: Box) -> None:
        """Carry each rotation to its end, also one that a power cut left half-way."""
        keyring = self._keyring
        if keyring is None:
            await asyncio.Event().wait()
            return
        if keyring.is_rotating:
            self.rotate_credential()
        async with self._http() as client:
            while True:
                await self._rotate_now.wait()
                self._renewing = True
                try:
                    await self._renew_once(box, keyring, client)
                finally:
                    self._renewing = False
                self._rotate_now.clear()

    @property
    def _is_renewing(self) -> bool:
        return self._renewing or (self._keyring is not None and self._keyring.is_rotating)

    async def _renew_once(self, box: Box, keyring: Keyring, client: httpx.AsyncClient) -> None:
        if is_mqtt(keyring.server):
            coming = keyring.next
            await self._with_box(partial(box.ask_credential, confirm=coming.credential_id if coming else None))
            return
        before = keyring.tokens[0]
        for attempt in itertools.count():
            if keyring.tokens[0] != before:  # the broker has let it in with the new one: nothing is left to confirm
                return
            try:
                confirmed = await rotate(keyring, client, step=self._rotation_step)
            except RotationRefused as refusal:
                self._watch(box, Tell("rotation_refused", {"reason": str(refusal)}))
                return
            except httpx.HTTPError as problem:  # Once begun it must end: until it has, the box holds two credentials.
                self._watch(box, Tell("rotation_waits", {"reason": str(problem) or type(problem).__name__}))
                await asyncio.sleep(self._backoff.pause_s(attempt, self._random))
            else:
                self._watch(box, Tell("rotation_confirmed", {"credential_id": confirmed}))
                return

    async def _rotation_step(self, name: str) -> None:
        """A rotation has come this far. Where the fault says so the power is cut, and nothing after this line runs."""
        if name == self._cut_rotation_at:
            self._cut_rotation_at = ""
            self.cut_power()
            await asyncio.Event().wait()

    # The session.

    async def _stay_connected(self, box: Box, stop: asyncio.Event) -> None:
        attempt = 0
        while not stop.is_set() and not self._power_is_cut.is_set():
            started = time.monotonic()
            try:
                await self._session(box, stop)
            except (aiomqtt.MqttError, OSError) as problem:
                reason = str(problem) or type(problem).__name__
                if self._power_is_cut.is_set():
                    return
                await self._with_box(partial(box.lost, reason=reason))
                attempt = 0 if time.monotonic() - started >= STEADY_S else attempt + 1
                pause_s = self._backoff.pause_s(attempt, self._random)
                self._watch(box, Tell("waits", {"reason": reason, "pause_s": round(pause_s, 1)}))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_s)

    async def _session(self, box: Box, stop: asyncio.Event) -> None:
        """One connection, from the will to the goodbye. Raises MqttError when it breaks."""
        async with self._lock:
            will = await asyncio.to_thread(box.connect, self._now_ms())
        async with contextlib.AsyncExitStack() as connection:
            client = await self._get_in(box, will, connection)
            self._wire = _socket_of(client)
            try:
                await client.subscribe(downlink_filter(box.device_id), qos=1)
                self._outbox = asyncio.Queue(OUTBOUND)  # What was meant for the last session; acks are in the journal.
                await self._with_box(box.birth)
                if self._keyring is not None and self._keyring.is_rotating and is_mqtt(self._keyring.server):
                    self.rotate_credential()  # a confirmation may have been lost with the last session
                await self._serve(box, client, stop)
                await self._say_goodbye(box, client)
            finally:
                self._wire = None

    async def _get_in(self, box: Box, will: Publish, connection: contextlib.AsyncExitStack) -> aiomqtt.Client:
        """During a rotation the next password is tried first, then the one in force: one of the two is right."""
        keyring = self._keyring
        if keyring is not None and (new := keyring.next_password) is not None:
            try:
                client = await connection.enter_async_context(self._client(box, will, new))
            except aiomqtt.MqttError as error:
                if not _login_was_refused(error):
                    raise
            else:
                await self._rotation_step("let-in")
                await asyncio.to_thread(keyring.settle)
                self._watch(box, Tell("credential_rotated", {}))
                return client
        password = keyring.password if keyring is not None else self._broker.password
        return await connection.enter_async_context(self._client(box, will, password))

    async def _serve(self, box: Box, client: aiomqtt.Client, stop: asyncio.Event) -> None:
        air: Air = asyncio.PriorityQueue(INBOUND)
        work = (
            self._send(box, client), self._listen(client, air), self._hear(box, air),
            self._subscribe_again(box, client), stop.wait(),
        )  # fmt: skip
        async with _running(*work) as parts:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
            with contextlib.suppress(TimeoutError):  # What cannot be finished in time waits for the next start.
                await asyncio.wait_for(self._drained(), DRAIN_S)

    async def _drained(self) -> None:
        await self._utterances.join()
        await self._outbox.join()

    async def _say_goodbye(self, box: Box, client: aiomqtt.Client) -> None:
        async with self._lock:
            goodbye = box.farewell(self._now_ms())
        await client.publish(goodbye.topic, goodbye.payload, goodbye.qos, goodbye.retain)
        self._watch(box, Tell("offline", {"reason": "switched off"}))

    async def _send(self, box: Box, client: aiomqtt.Client) -> None:
        outbox = self._outbox
        while True:
            message = await outbox.get()
            await client.publish(message.topic, message.payload, message.qos, message.retain)
            if message.ack is not None:
                await self._with_box(partial(_taken, box, message.ack))
            outbox.task_done()

    async def _subscribe_again(self, box: Box, client: aiomqtt.Client) -> None:
        while True:
            await self._listen_again.wait()
            self._listen_again.clear()
            await client.subscribe(downlink_filter(box.device_id), qos=1)

    async def _listen(self, client: aiomqtt.Client, air: Air) -> None:
        async for message in client.messages:
            if not isinstance(message.payload, bytes):
                raise TypeError("paho hands over bytes")
            for delay_ms in copies_in_ms(self._faults, self._random):
                await air.put(
                    (time.monotonic() + delay_ms / 1000, next(_arrivals), message.topic.value, message.payload)
                )

    async def _hear(self, box: Box, air: Air) -> None:
        while True:
            due, _, topic, payload = await air.get()
            if (early_s := due - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            await self._with_box(partial(box.hear, topic, payload))

    def _client(self, box: Box, will: Publish, password: str) -> aiomqtt.Client:
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            identifier=box.device_id,
            username=self._broker.username,
            password=password,
            clean_session=False,
            will=aiomqtt.Will(will.topic, will.payload, will.qos, will.retain),
            keepalive=self._keepalive_s,
            timeout=ANSWER_S,
            tls_context=self._broker_tls,
            max_queued_incoming_messages=INBOUND,
            max_queued_outgoing_messages=OUTBOUND,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )


def _taken(box: Box, number: int, _now_ms: int) -> Sequence[Action]:
    box.ack_taken(number)
    return ()


def _login_was_refused(error: aiomqtt.MqttError) -> bool:
    code = getattr(error, "rc", None)
    return getattr(code, "value", code) in REFUSED_LOGIN


def _asks_for_rotation(answer: httpx.Response) -> bool:
    try:
        said = answer.json()
    except ValueError:
        return False
    data = said.get("data") if isinstance(said, dict) else None
    return isinstance(data, dict) and data.get("rotate_credential") is True


def _socket_of(client: aiomqtt.Client) -> socket.socket | None:
    # aiomqtt always says goodbye; a power cut does not, so the test of a will needs the socket itself.
    wire = client._client.socket()
    return wire if isinstance(wire, socket.socket) else None


@contextlib.asynccontextmanager
async def _running(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Tasks that end with the block: cancelled, and waited for."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        yield tasks
    finally:
        await end(tasks)
